"""NetCVR predictors so small that a test trains one in a fraction of a second, and their log."""

from functools import cache

import numpy as np
from small_worlds import SMALL_WORLD

from adsim.clicklog import MISSING, ClickLog, generate
from adsim.types import Impressions, Target
from predictors import PREDICTORS, NetCVRPredictor, Pretraining
from predictors.stream import LogStream, Split
from scenarios.schema import load

SPLIT = Split(pretrain_days=2, stream_start_day=8, stream_end_day=9.5, segment_days=0.25)
SIZES = {"embedding_dim": 2, "widths": (16, 8), "batch_size": 32}
NAMES = sorted(
    name for name, predictor in PREDICTORS.items() if issubclass(predictor, NetCVRPredictor)
)
LEARNING = sorted(set(NAMES) - {"pre_trained"})
TARGETS = (Target.CVR, Target.REFUND_RATE, Target.NET_CVR)


@cache
def small_log():
    """About 300 clicks a day for ten days, in the small world."""
    more = {"time.num_ticks": 20, "traffic.impressions_per_tick": 150}
    return generate(load("default", SMALL_WORLD | more | {"traffic.slots_per_tick": 512}).world, 0)


def stream():
    return LogStream(small_log(), SPLIT)


def sparse_log(*clicks):
    """The history of `small_log`, then these clicks of the stream.

    Args:
        clicks: (seconds after the start, delay of the conversion, of the refund), None for none.
    """
    before = stream().history()
    moments = []
    for second, delay, refund_delay in clicks:
        click = SPLIT.start_second + second
        conversion = MISSING if delay is None else click + delay
        refund = MISSING if refund_delay is None else conversion + refund_delay
        moments.append((click, conversion, refund))
    columns = np.array(moments).T
    times = [np.r_[old, new] for old, new in zip(before[:3], columns, strict=True)]
    features = np.r_[before.features, before.features[: len(clicks)]]
    unknown = np.full(len(features), np.nan)
    return ClickLog(*times, features, before.cardinalities, unknown, unknown)


@cache
def pretraining():
    """Shared by the predictors of one process: every network is trained once."""
    return Pretraining(stream().history(), SPLIT)


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


def some_ids(count=200):
    """The first clicks of `small_log` as impressions."""
    return impressions(small_log().features[:count])


def means(predictor, held):
    """Estimates (3, M) of `TARGETS`."""
    estimates = predictor.predict(held)
    return np.stack([estimates[target].mean for target in TARGETS])


def state(predictor, folder):
    """All arrays that `save` writes."""
    file = folder / "state.npz"
    predictor.save(file)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def differing(one, two):
    """Names of the arrays that are not the same to the bit."""
    assert one.keys() == two.keys()
    return {name for name in one if one[name].tobytes() != two[name].tobytes()}
