"""A click log without auctions: clicks, first conversions, refunds, and the hidden truth.

The same structure, funnel and delay laws as the World's, one implementation: every impression of
the generator is a click. Times are whole seconds since the start of day 0, as in published logs.
"""

# ruff: noqa: ANN001, ANN202 - compiled functions: numba infers their types

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.config import WorldConfig
from adsim.datasets.cascade import ClickRecords
from adsim.funnel import Law, click_outcome, expectation
from adsim.kernels import CONTEXT, ITEM, TIME, USER, Z_CONVERT, Draw, responses
from adsim.rng import ID_STRIDE
from adsim.source import SyntheticSource
from adsim.structure import Tables
from adsim.types import FloatArray, IntArray

MISSING = -1  # the time of an event that never happens


class ClickLog(NamedTuple):
    """Clicks in order of time with what became of them; (C,) each."""

    click_time: IntArray  # (C,) seconds >= 0, non-decreasing
    conversion_time: IntArray  # (C,) seconds of the first purchase, MISSING if none
    refund_time: IntArray  # (C,) seconds of the first purchase's refund, MISSING if none
    features: NDArray[np.int32]  # (C, F) categorical ids
    cardinalities: tuple[int, ...]  # (F,) sizes of the fields
    p_convert: FloatArray  # (C,) truth: P(conversion in its window | click); NaN if unknown
    p_refund: FloatArray  # (C,) truth: P(refund in its window | conversion); NaN if unknown


class TickInputs(NamedTuple):
    """What compiled loops over the impressions of a tick are given first."""

    seed: np.uint64  # of the episode
    tick: int
    floats: FloatArray  # of the draws
    ints: NDArray[np.int32]
    num_impressions: int
    tables: Tables  # of the structure
    offset: FloatArray  # (T, 5) of the clock
    law: Law


@njit(cache=True, nogil=True, error_model="numpy")
def _outcomes(seed, tick, floats, ints, count, tables, offset, law, times, truth):
    """First purchase and its refund of every impression of a tick, taken as clicks.

    Fills `times` (2, n): hours from click to purchase and from purchase to refund, infinity if
    there is none; and `truth` (2, n): P(convert), P(first purchase refunded | convert).
    """
    size = law.max_purchases
    when, amount, refund_at = np.empty(size), np.empty(size), np.empty(size)
    for i in range(count):
        item = ints[ITEM, 0, i]
        r, g, q = responses(tables, offset, tick, ints[USER, 0, i], ints[CONTEXT, 0, i], item)
        z_v, time = floats[Z_CONVERT, 0, i], floats[TIME, 0, i]
        truth[0, i], truth[1, i], _, _ = expectation(law, z_v, r, g, q)
        impression = np.uint64(tick * ID_STRIDE + i)
        n = click_outcome(law, seed, impression, time, z_v, r, g, q, 1.0, when, amount, refund_at)
        times[0, i] = when[0] - time if n else np.inf
        times[1, i] = refund_at[0] - when[0] if n else np.inf


def generate(
    config: WorldConfig,
    seed: int,
    *,
    num_ticks: int | None = None,
    source: SyntheticSource | None = None,
) -> ClickLog:
    """A click log of the given world; every impression is a click.

    Args:
        config: traffic counts clicks; the market and the click law play no part.
        seed: of the episode, >= 0.
        num_ticks: stop early; the whole horizon by default.
        source: of one world of this configuration, reset here; by default a new one.
    """
    source, parts = source or SyntheticSource(config, 1), []
    ticks = config.time.num_ticks if num_ticks is None else num_ticks
    for drawn, given in drawn_ticks(source, seed, ticks):
        real = slice(given.num_impressions)
        times, truth = np.empty((2, given.num_impressions)), np.empty((2, given.num_impressions))
        _outcomes(*given, times, truth)
        features = features_of(source, drawn, real)
        parts.append((drawn.floats[TIME, 0, real], times, features, truth))
    click, times, features, truth = (
        np.concatenate(columns, axis=axis)
        for columns, axis in zip(zip(*parts, strict=True), (0, 1, 0, 1), strict=True)
    )
    return ClickLog(*_whole_seconds(click, times), features, source.cardinalities, *truth)


def drawn_ticks(
    source: SyntheticSource, seed: int, num_ticks: int
) -> Iterator[tuple[Draw, TickInputs]]:
    """The impressions of an episode of one world, tick by tick.

    Args:
        source: of one world; reset here.
        seed: of the episode, >= 0.
        num_ticks: of the episode's beginning.

    Returns:
        Per tick the draws, and what compiled loops over them are given.
    """
    zero, seeds = np.array([0]), np.array([seed], dtype=np.uint64)
    source.reset(zero, seeds)
    clock, structure, shape = source.clocks[0], source.structures[0], (1, source.num_slots)
    for tick in range(num_ticks):
        drawn = Draw(
            np.zeros((9, *shape)), np.zeros((3, *shape), dtype=np.int32), np.zeros(1, np.int64)
        )
        source.draw(zero, seeds, np.array([tick]), drawn)
        tables = structure.tables(int(clock.drift_step[tick]))
        draws = seeds[0], tick, drawn.floats, drawn.ints, int(drawn.filled[0])
        yield drawn, TickInputs(*draws, tables, clock.offset, source.law)


def features_of(source: SyntheticSource, drawn: Draw, rows: slice | IntArray) -> NDArray[np.int32]:
    """Categorical ids (N, F) of N impressions of a tick."""
    entities = drawn.ints[:, 0, rows]
    return source.entity_features(0, entities[USER], entities[CONTEXT], entities[ITEM])[0]


def from_records(records: ClickRecords, cardinalities: tuple[int, ...]) -> ClickLog:
    """A log read from a file, in order of click time; equal times keep the order of the file.

    Args:
        records: as `adsim.datasets.cascade.read` returns them.
        cardinalities: (F,) sizes of the features, as `find_cardinalities` of that module says.

    Returns:
        The log; its truth is unknown (NaN).

    Raises:
        ValueError: the features and the cardinalities differ in number.
    """
    count, num_features = records.features.shape
    if len(cardinalities) != num_features:
        raise ValueError(f"cardinalities: must be {num_features} sizes, got {len(cardinalities)}")
    order = np.argsort(records.click_time, kind="stable")
    ordered = ClickRecords._make(column[order] for column in records)
    return ClickLog(*ordered, tuple(cardinalities), *np.full((2, count), np.nan))


def _whole_seconds(
    click_hours: FloatArray, delays: FloatArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Click, conversion and refund seconds; rounding down keeps every delay below its window."""
    click = (click_hours * 3600.0).astype(np.int64)
    happened = np.isfinite(delays)
    lag = np.where(happened, delays, 0.0) * 3600.0
    seconds = lag.astype(np.int64)
    conversion = np.where(happened[0], click + seconds[0], MISSING)
    refund = np.where(happened[1], click + seconds[0] + seconds[1], MISSING)
    return click, conversion, refund
