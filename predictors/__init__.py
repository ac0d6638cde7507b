"""Predictors of what an impression is worth, by name in `PREDICTORS`."""

from predictors import gmv_baselines, netcvr_baselines
from predictors.base import CORRECTORS, PREDICTORS
from predictors.gmv import GmvPredictor
from predictors.gmv_pretraining import GmvConfig, GmvPretraining
from predictors.netcvr import NetCVRPredictor
from predictors.neural import load_predictor
from predictors.oracle import OraclePredictor
from predictors.pretraining import NetCVRConfig, Pretraining
from predictors.rates import RunningRatePredictor
from predictors.reader import Reader, ReaderConfig
from predictors.refund_share import RefundShare, RefundShareConfig, RefundSharePretraining
from predictors.scene_pretraining import MiDpgSettings, SceneConfig, ScenePretraining
from predictors.scenes import ScenePredictor
from predictors.tesla import Tesla, TeslaConfig

__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "GmvConfig",
    "GmvPredictor",
    "GmvPretraining",
    "MiDpgSettings",
    "NetCVRConfig",
    "NetCVRPredictor",
    "OraclePredictor",
    "Pretraining",
    "Reader",
    "ReaderConfig",
    "RefundShare",
    "RefundShareConfig",
    "RefundSharePretraining",
    "RunningRatePredictor",
    "SceneConfig",
    "ScenePredictor",
    "ScenePretraining",
    "Tesla",
    "TeslaConfig",
    "gmv_baselines",
    "load_predictor",
    "netcvr_baselines",
]
