"""Small networks and predictors for several scenes, and rows for them."""

from functools import cache

import numpy as np
import torch
from small_predictors import impressions

from adsim.clicklog import MISSING, ClickLog
from adsim.impressionlog import ImpressionLog
from predictors import PREDICTORS, ScenePretraining
from predictors.delivery import Windows
from predictors.impression_stream import ImpressionStream
from predictors.mi_dpg import MiDpgConfig
from predictors.nets import Fields
from predictors.scene_nets import LEAST_ROWS, SceneSizes
from predictors.scene_peers import SCENE_NETS
from predictors.stream import LogStream, Split
from predictors.training import seeded

FIELDS = Fields((5, 4, 3, 2))
SIZES = SceneSizes(8, 1.0, (16,), (8,), 8, 1.0)  # 32 columns, layers 32-16-8-1
NAMES = list(SCENE_NETS)
BY_EMBEDDING = ["mi_dpg", "scene_input", "apg", "pepnet"]
S = 3


def build(name, scenes=S, *, outputs=1, sizes=SIZES, seed=0, **options):
    make = SCENE_NETS[name]
    return seeded(seed, lambda: make(FIELDS, sizes, scenes, outputs, **options))


def mi_dpg(scenes=S, *, outputs=1, sizes=SIZES, seed=0, **settings):
    settings = {"head_sd": 0.3, **settings}  # weightings far from neutral
    return build(
        "mi_dpg", scenes, outputs=outputs, sizes=sizes, seed=seed, config=MiDpgConfig(**settings)
    )


def some(count, scenes=S, seed=0):
    """Ids (count, 4) and scenes (count,), every scene among them."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, count) for size in FIELDS.cardinalities], 1)
    return FIELDS.encode(ids), torch.from_numpy(rng.permutation(np.arange(count) % scenes))


def trained_on(net, *rows):
    """Says that scenes have been trained on so many rows; by default on enough, all."""
    net.trained.copy_(torch.tensor(rows or [LEAST_ROWS] * net.num_scenes))
    return net


def random_scenes(net, seed=0):
    """Draws the parameters that start equal in all scenes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.split(".")[0] in {"bias", "biases", "weights", "layer_biases", "gates"}:
                weight.normal_(0, 0.5, generator=generator)
    return net


# --- predictors --------------------------------------------------------------------------------
DAY = 86_400
CARDINALITIES, SCENE = (6, 5, S, 4), 2
# Windows of a day; six segments of six hours.
WINDOWS = Windows(DAY, DAY, 864, 864)
SPLIT = Split(pretrain_days=2, stream_start_day=3, stream_end_day=4.5, segment_days=0.25)
SETTINGS = {
    "scene_field": SCENE,
    "windows": WINDOWS,
    "embedding_dim": 2,
    "bottom": (8,),
    "tower": (4,),
    "scene_dim": 2,
    "batch_size": 32,
}
TARGETS = ("cvr", "ctr")


def random_rows(count, days, seed=0):
    """Sorted seconds (count,), features and labels whose law differs between the scenes."""
    rng = np.random.default_rng(seed)
    second = np.sort(rng.integers(0, int(days * DAY), count))
    features = rng.integers(0, CARDINALITIES, (count, len(CARDINALITIES))).astype(np.int32)
    logit = -1 + 0.4 * features[:, 0] * (features[:, SCENE] - 1)
    return second, features, rng.random(count) < 1 / (1 + np.exp(-logit))


@cache
def clicks():
    """300 clicks a day, until the last segment is scored; conversions within a day."""
    second, features, label = random_rows(1_425, 4.75)
    delay = np.random.default_rng(1).integers(0, DAY, label.size)
    return ClickLog(
        click_time=second,
        conversion_time=np.where(label, second + delay, MISSING),
        refund_time=np.full(label.size, MISSING),
        features=features,
        cardinalities=CARDINALITIES,
        p_convert=np.full(label.size, np.nan),
        p_refund=np.full(label.size, np.nan),
    )


@cache
def shown():
    """300 impressions a day, until the last segment is scored."""
    second, features, label = random_rows(1_425, 4.75)
    return ImpressionLog(second, label, features, CARDINALITIES, np.full(label.size, np.nan))


def stream(target="cvr"):
    return LogStream(clicks(), SPLIT) if target == "cvr" else ImpressionStream(shown(), SPLIT)


@cache
def pretraining(target):
    """Shared by the predictors of one process: every network is trained once."""
    return ScenePretraining(stream(target).history(), SPLIT)


def new_predictor(name, target="cvr", *, seed=0, **settings):
    """An untrained one."""
    cls = PREDICTORS[name]
    config = cls.config_class(**(SETTINGS | {"target": target} | settings))
    return cls(CARDINALITIES, config, seed=seed)


def fitted(name, target="cvr", *, follow=True, **settings):
    """A small predictor, ready for the stream."""
    shared = pretraining(target)
    predictor = new_predictor(name, target, **settings)
    return predictor.fit(shared.history, SPLIT, pretraining=shared, follow=follow)


def means(predictor, features):
    """Estimates (M,) for ids (M, F)."""
    (estimate,) = predictor.predict(impressions(features)).values()
    return estimate.mean


def played(predictor, windows, plays=None):
    """Trains on windows; estimates for the first rows of the log after each."""
    plays, found = plays or stream(predictor.config.target), []
    for k in windows:
        predictor.partial_fit(plays.window(k))
        found.append(means(predictor, clicks().features[:100]))
    return found
