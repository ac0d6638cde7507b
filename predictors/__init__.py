"""Predictors of what an impression is worth, by name in `PREDICTORS`."""

from predictors.base import CORRECTORS, PREDICTORS
from predictors.oracle import OraclePredictor
from predictors.rates import RunningRatePredictor

__all__ = ["CORRECTORS", "PREDICTORS", "OraclePredictor", "RunningRatePredictor"]
