"""A log of impressions without auctions: all are shown; their clicks, and the hidden truth.

The same structure, click law and random numbers as the World's, one implementation: of the
impressions of an episode, those that a campaign shows are clicked in the log if and only if they
are clicked in the campaign. Times are whole seconds since the start of day 0, as in published logs.
"""

# ruff: noqa: ANN001, ANN202 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.clicklog import drawn_ticks, features_of
from adsim.config import WorldConfig
from adsim.kernels import P_CLICK, TIME, is_clicked
from adsim.rng import ID_STRIDE
from adsim.source import SyntheticSource
from adsim.types import BoolArray, FloatArray, IntArray


class ImpressionLog(NamedTuple):
    """Shown impressions in order of time, and which of them were clicked; (I,) each."""

    time: IntArray  # (I,) seconds >= 0, non-decreasing
    clicked: BoolArray  # (I,)
    features: NDArray[np.int32]  # (I, F) categorical ids
    cardinalities: tuple[int, ...]  # (F,) sizes of the fields
    p_click: FloatArray  # (I,) truth: P(click | shown); NaN if unknown

    @property
    def click_time(self) -> IntArray:
        """Seconds (I,) at which a click would happen: that of the impression."""
        return self.time


@njit(cache=True, nogil=True)
def _clicks(seed, tick, p_click, clicked):
    """Fills `clicked` (n,): whether the impressions of a tick, all shown, are clicked."""
    first = np.uint64(tick * ID_STRIDE)
    for i in range(p_click.size):
        clicked[i] = is_clicked(seed, first + np.uint64(i), p_click[i])


def generate_impressions(
    config: WorldConfig,
    seed: int,
    *,
    num_ticks: int | None = None,
    source: SyntheticSource | None = None,
) -> ImpressionLog:
    """A log of the impressions of the given world; every one is shown.

    Args:
        config: the world; the market plays no part.
        seed: of the episode, >= 0.
        num_ticks: stop early; the whole horizon by default.
        source: of one world of this configuration, reset here; by default a new one.

    Raises:
        ValueError: num_ticks is not in 1 .. `config.time.num_ticks`.
    """
    horizon = config.time.num_ticks
    ticks = horizon if num_ticks is None else num_ticks
    if not 1 <= ticks <= horizon:
        raise ValueError(f"num_ticks: must be in 1 .. {horizon}, got {num_ticks}")
    source, parts = source or SyntheticSource(config, 1), []
    for drawn, given in drawn_ticks(source, seed, ticks):
        real = slice(given.num_impressions)
        hours, p_click = drawn.floats[TIME, 0, real], drawn.floats[P_CLICK, 0, real]
        clicked = np.empty(given.num_impressions, dtype=bool)
        _clicks(given.seed, given.tick, p_click, clicked)
        parts.append((hours, clicked, features_of(source, drawn, real), p_click))
    hours, clicked, features, p_click = (np.concatenate(part) for part in zip(*parts, strict=True))
    time = (hours * 3600.0).astype(np.int64)
    return ImpressionLog(time, clicked, features, source.cardinalities, p_click)
