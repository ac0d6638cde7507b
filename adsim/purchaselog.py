"""A log of converted clicks without auctions: all their purchases, refunds, and the hidden truth.

The same structure, funnel and delay laws as the World's, one implementation: every impression of
the generator is a click, and those that convert are kept. Times are whole seconds since the start
of day 0, as in published logs.
"""

# ruff: noqa: ANN001, ANN202 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.clicklog import MISSING, drawn_ticks, features_of
from adsim.config import WorldConfig
from adsim.datasets.trace import PurchaseRecords
from adsim.datasets.trace_chunks import to_offset
from adsim.funnel import click_outcome, expectation, several_rate
from adsim.kernels import CONTEXT, ITEM, TIME, USER, Z_CONVERT, Draw, responses
from adsim.rng import ID_STRIDE
from adsim.source import SyntheticSource
from adsim.types import FloatArray, IntArray


class PurchaseLog(NamedTuple):
    """Converted clicks (C,) in order of time, and their purchases (P,) in order of click and time.

    The purchases of click c are those from offset[c] up to offset[c + 1], at least one.
    """

    click_time: IntArray  # (C,) seconds >= 0, non-decreasing
    features: NDArray[np.int32]  # (C, F) categorical ids
    cardinalities: tuple[int, ...]  # (F,) sizes of the fields
    offset: IntArray  # (C + 1,) from 0 to P
    purchase_time: IntArray  # (P,) seconds, before the end of the attribution window
    amount: FloatArray  # (P,) currency
    refund_time: IntArray  # (P,) seconds, MISSING if the purchase is kept
    gmv_truth: FloatArray  # (C,) truth: E[GMV in the window | conversion]; NaN if unknown
    p_repurchase: FloatArray  # (C,) truth: P(more than one purchase | conversion); NaN if unknown
    net_gmv_truth: FloatArray  # (C,) truth: E[GMV - refunds | conversion]; NaN if unknown


class _Outcomes(NamedTuple):
    """What became of the n impressions of a tick; purchases beyond `number` are not filled."""

    number: IntArray  # (n,) purchases
    when: FloatArray  # (n, K) hours from click to purchase
    amount: FloatArray  # (n, K) currency
    back: FloatArray  # (n, K) hours from purchase to refund, infinity if it is kept
    truth: FloatArray  # (3, n) `gmv_truth`, `p_repurchase` and `net_gmv_truth`


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(seed, tick, floats, ints, count, tables, offset, law, out):
    """Outcomes of every impression of a tick, taken as clicks."""
    for i in range(count):
        item = ints[ITEM, 0, i]
        r, g, q = responses(tables, offset, tick, ints[USER, 0, i], ints[CONTEXT, 0, i], item)
        z_v, time, price = floats[Z_CONVERT, 0, i], floats[TIME, 0, i], tables.list_price[item]
        p_convert, _, gmv, net_gmv = expectation(law, z_v, r, g, q)
        out.truth[0, i] = gmv * price / p_convert
        out.truth[1, i] = several_rate(law, z_v, q)
        out.truth[2, i] = net_gmv * price / p_convert
        impression = np.uint64(tick * ID_STRIDE + i)
        when, back = out.when[i], out.back[i]
        n = click_outcome(
            law, seed, impression, time, z_v, r, g, q, price, when, out.amount[i], back
        )
        out.number[i] = n
        for k in range(n):
            back[k] -= when[k]
            when[k] -= time


def generate_purchases(
    config: WorldConfig,
    seed: int,
    *,
    num_ticks: int | None = None,
    source: SyntheticSource | None = None,
) -> PurchaseLog:
    """A log of the converted clicks of the given world; every impression is a click.

    Args:
        config: traffic counts clicks; the market and the click law play no part.
        seed: of the episode, >= 0.
        num_ticks: stop early; the whole horizon by default. Purchases and refunds of the clicks
            before the end are all in the log, whenever they happen.
        source: of one world of this configuration, reset here; by default a new one.
    """
    source, size, parts = source or SyntheticSource(config, 1), config.purchase.max_purchases, []
    ticks = config.time.num_ticks if num_ticks is None else num_ticks
    for drawn, given in drawn_ticks(source, seed, ticks):
        n = given.num_impressions
        out = _Outcomes(
            *(np.zeros(n, np.int64), np.empty((n, size)), np.empty((n, size))),
            *(np.empty((n, size)), np.empty((3, n))),
        )
        _fill(*given, out)
        parts.append(_converted(drawn, out, source))
    click, features, number, when, amount, back, truth = (
        np.concatenate(columns, axis=axis)
        for columns, axis in zip(zip(*parts, strict=True), (0, 0, 0, 0, 0, 0, 1), strict=True)
    )
    offset = np.concatenate([[0], np.cumsum(number)])
    click = (click * 3600.0).astype(np.int64)
    bought, refunded = _whole_seconds(np.repeat(click, number), when, back, config)
    return PurchaseLog(
        *(click, features, source.cardinalities, offset, bought, amount, refunded), *truth
    )


def from_trace(records: PurchaseRecords, cardinalities: tuple[int, ...]) -> PurchaseLog:
    """A log read from a file, in order of click time; equal times keep the order of the file.

    Args:
        records: as `adsim.datasets.trace.read` returns them.
        cardinalities: (F,) sizes of the features, as `find_cardinalities` of that module says.

    Returns:
        The log, without refunds; its truth is unknown (NaN).

    Raises:
        ValueError: the features and the cardinalities differ in number.
    """
    count, num_features = records.features.shape
    if len(cardinalities) != num_features:
        raise ValueError(f"cardinalities: must be {num_features} sizes, got {len(cardinalities)}")
    order = np.argsort(records.click_time, kind="stable")
    number = np.diff(records.offset)[order]
    offset = to_offset(number)
    bought = np.arange(offset[-1]) + np.repeat(records.offset[order] - offset[:-1], number)
    return PurchaseLog(
        records.click_time[order],
        records.features[order],
        tuple(cardinalities),
        offset,
        records.purchase_time[bought],
        records.amount[bought],
        np.full(bought.size, MISSING),
        *np.full((3, count), np.nan),
    )


def _converted(drawn: Draw, out: _Outcomes, source: SyntheticSource) -> tuple[np.ndarray, ...]:
    """Columns of a tick's converted clicks: moment, features, number, purchases, truth."""
    kept = np.flatnonzero(out.number)
    features = features_of(source, drawn, kept)
    number = out.number[kept]
    real = np.arange(out.when.shape[1]) < number[:, None]
    purchases = (column[kept][real] for column in (out.when, out.amount, out.back))
    return (drawn.floats[TIME, 0, kept], features, number, *purchases, out.truth[:, kept])


def _whole_seconds(
    click: IntArray, when: FloatArray, back: FloatArray, config: WorldConfig
) -> tuple[IntArray, IntArray]:
    """Purchase and refund seconds, delays rounded down and strictly below their windows."""
    windows = config.windows
    delay = np.minimum((when * 3600.0).astype(np.int64), _last_second(windows.gmv_hours))
    happened = np.isfinite(back)
    lag = (np.where(happened, back, 0.0) * 3600.0).astype(np.int64)
    lag = np.minimum(np.maximum(lag, 0), _last_second(windows.refund_hours))
    bought = click + delay
    return bought, np.where(happened, bought + lag, MISSING)


def _last_second(hours: float) -> int:
    """The last whole second before the end of a window."""
    return int(np.ceil(hours * 3600.0)) - 1
