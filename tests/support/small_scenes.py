"""Small networks for several scenes, and rows for them."""

import numpy as np
import torch

from predictors.mi_dpg import (
    MiDpgConfig,
)
from predictors.nets import Fields
from predictors.scene_nets import SceneSizes
from predictors.scene_peers import SCENE_NETS
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


def random_scenes(net, seed=0):
    """Draws the parameters that start equal in all scenes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name.split(".")[0] in {"bias", "biases", "weights", "layer_biases", "gates"}:
                weight.normal_(0, 0.5, generator=generator)
    return net
