"""Predictors of what an impression is worth, by name in `PREDICTORS`."""

from predictors import netcvr_baselines
from predictors.base import CORRECTORS, PREDICTORS
from predictors.netcvr import NetCVRPredictor
from predictors.neural import load_predictor
from predictors.oracle import OraclePredictor
from predictors.pretraining import NetCVRConfig, Pretraining
from predictors.rates import RunningRatePredictor
from predictors.tesla import Tesla, TeslaConfig

__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "NetCVRConfig",
    "NetCVRPredictor",
    "OraclePredictor",
    "Pretraining",
    "RunningRatePredictor",
    "Tesla",
    "TeslaConfig",
    "load_predictor",
    "netcvr_baselines",
]
