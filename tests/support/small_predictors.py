"""NetCVR predictors so small that a test trains one in a fraction of a second, and their log."""

from functools import cache

import numpy as np
from small_worlds import SMALL_WORLD

from adsim.clicklog import generate
from adsim.types import Impressions
from predictors import PREDICTORS, NetCVRPredictor, Pretraining
from predictors.stream import LogStream, Split
from scenarios.schema import load

SPLIT = Split(pretrain_days=2, stream_start_day=8, stream_end_day=9.5, segment_days=0.25)
SIZES = {"embedding_dim": 2, "widths": (16, 8), "batch_size": 32}
NAMES = sorted(
    name for name, predictor in PREDICTORS.items() if issubclass(predictor, NetCVRPredictor)
)
LEARNING = sorted(set(NAMES) - {"pre_trained"})


@cache
def small_log():
    """About 300 clicks a day for ten days, in the small world."""
    more = {"time.num_ticks": 20, "traffic.impressions_per_tick": 150}
    return generate(load("default", SMALL_WORLD | more | {"traffic.slots_per_tick": 512}).world, 0)


@cache
def pretraining():
    """Shared by the predictors of one process: every network is trained once."""
    return Pretraining(LogStream(small_log(), SPLIT).history(), SPLIT)


def new_predictor(name, cardinalities=None, **settings):
    """An untrained one."""
    predictor = PREDICTORS[name]
    config = predictor.config_class(**(SIZES | settings))
    return predictor(cardinalities or small_log().cardinalities, config)


def fitted(name, *, follow=True, **settings):
    """A small predictor, ready for the stream of `small_log`."""
    predictor = new_predictor(name, **settings)
    shared = pretraining()
    return predictor.fit(shared.history, SPLIT, pretraining=shared, follow=follow)


def impressions(features):
    """Impressions (M,) of the given ids (M, F)."""
    size = len(features)
    ids, scene = np.arange(size), np.zeros(size, np.int32)
    return Impressions(ids, np.zeros(size), features, scene, np.ones(size, np.int8))
