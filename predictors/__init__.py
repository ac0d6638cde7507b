"""Predictors of what an impression is worth, and correctors of estimates.

By name in `PREDICTORS` and `CORRECTORS`.
"""

from predictors import gmv_baselines, netcvr_baselines
from predictors.base import CORRECTORS, PREDICTORS
from predictors.denoise_bid import DenoiseBid, JointDenoiseBid
from predictors.gmv import GmvPredictor
from predictors.gmv_pretraining import GmvConfig, GmvPretraining
from predictors.netcvr import NetCVRPredictor
from predictors.neural import load_predictor
from predictors.oracle import OraclePredictor
from predictors.pretraining import NetCVRConfig, Pretraining
from predictors.rates import RunningRatePredictor
from predictors.reader import Reader, ReaderConfig
from predictors.refund_share import RefundShare, RefundShareConfig, RefundSharePretraining
from predictors.risk_bid import RiskBid
from predictors.robust_bid import RobustBid
from predictors.scene_pretraining import MiDpgSettings, SceneConfig, ScenePretraining
from predictors.scenes import ScenePredictor
from predictors.tesla import Tesla, TeslaConfig

__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "DenoiseBid",
    "GmvConfig",
    "GmvPredictor",
    "GmvPretraining",
    "JointDenoiseBid",
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
    "RiskBid",
    "RobustBid",
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
