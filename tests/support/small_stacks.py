"""Warm-ups of the small world, with predictors that are trained in a fraction of a second."""

from functools import cache

from small_worlds import SMALL_WORLD

from scenarios.rungs import HistoryConfig
from scenarios.schema import load
from scenarios.warmup import WarmUp

SMALL = SMALL_WORLD | {"campaign.budget": 800.0}
SIZE = HistoryConfig(days=14, clicks_per_day=150, impressions_per_day=300)
NETCVR = {"embedding_dim": 2, "widths": (8,), "batch_size": 32}
GMV = {"embedding_dim": 2, "encoder_widths": (8,), "tower_widths": (4,), "batch_size": 16}
GMV |= {"router_widths": (4,), "calibrator_widths": (4,), "pretrain_epochs": 1}


@cache
def small_warm_up():
    return WarmUp(load("default", SMALL).world, SIZE)
