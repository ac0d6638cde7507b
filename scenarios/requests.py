"""Bid requests of the time before a campaign, as the platform shows them.

Correctors learn from them. They are drawn as the campaign's own, from a stream of their own, with
hidden effects as they stand when the campaign starts and without shocks: nothing of the campaign's
future is in them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.clicklog import drawn_ticks, features_of
from adsim.config import WorldConfig
from adsim.kernels import PCTR, PCTR_STD, PCVR, PCVR_STD
from adsim.rng import derive
from adsim.source import SyntheticSource
from adsim.types import FloatArray

REQUESTS_STREAM = 104  # of rng: apart from every stream of a world
NUM_REQUESTS = 4_000


class Requests(NamedTuple):
    """Requests of all hours of a campaign alike, (N,) each."""

    features: NDArray[np.int32]  # (N, F) categorical ids
    pctr: FloatArray  # the platform's CTR
    pctr_std: FloatArray  # of the noise on its log-odds
    pcvr: FloatArray  # the platform's CVR
    pcvr_std: FloatArray  # of the noise on its log-odds


def sample_requests(config: WorldConfig, number: int = NUM_REQUESTS) -> Requests:
    """Requests of a world; all of the period if it has fewer."""
    source = SyntheticSource(config, 1)
    seed = derive(config.structure_seed, REQUESTS_STREAM)
    with source.rehearsal(0, seed):
        total = float(source.clocks[0].expected_traffic.sum())
        features, shown = [], []
        for drawn, given in drawn_ticks(source, seed, config.time.num_ticks):
            # Every tick gives its share.
            count = given.num_impressions
            kept = np.unique(np.linspace(0, count - 1, round(number * count / total), dtype=int))
            features.append(features_of(source, drawn, kept))
            shown.append(drawn.floats[[PCTR, PCTR_STD, PCVR, PCVR_STD], 0][:, kept])
    return Requests(np.concatenate(features), *np.concatenate(shown, axis=1))
