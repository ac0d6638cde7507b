"""Means with bootstrap intervals over seeds: the one function behind the intervals of all tables.

Worlds are shared (common random numbers), so that two players are compared by the differences on
the seeds that both played: `paired`.

Seeds are resampled with replacement, and the interval reaches as far to both sides as the middle
share of the resampled means does from the mean (symmetric percentile interval). Percentile
intervals of few values are too narrow. Hesterberg (2015, What Teachers Should Know About the
Bootstrap, The American Statistician 69, section 4.3.3 and table 3) widens them by asking for the
quantiles Phi(-+ sqrt(n / (n - 1)) t(n - 1)) ("expanded percentile"). Measured coverage of nominal
95 % for n = 5, 10, 20: normal values .94, .95, .95, exponential ones .87, .90, .91, as Student t
intervals have (.95, .95, .95 and .88, .90, .91). Resampled means of fewer than five values cannot
leave their range, which is too narrow (coverage .81 with three): below, intervals are Student t.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from adsim.rng import uniforms
from adsim.types import FloatArray, IntArray

CONFIDENCE = 0.95
RESAMPLES = 4_000
FEWEST = 5  # values that are resampled
BOOTSTRAP_STREAM = 104  # of rng: apart from every stream of a world
_BLOCK = 1 << 20  # resampled values at a time
_COLUMNS = 8  # at a time: their resampled means stay in the cache

Campaign = tuple[int, int]
"""Structure and seed."""


class Interval(NamedTuple):
    """A mean with its 95 % confidence interval; infinite if there is only one value."""

    mean: float
    low: float
    high: float


class Band(NamedTuple):
    """Intervals of several quantities."""

    mean: FloatArray
    low: FloatArray
    high: FloatArray


UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def interval(values: FloatArray) -> Interval:
    """Mean of independent values (n,) with its 95 % interval.

    The draws are the same for all values of one length: repeated, it gives the same interval.

    Returns:
        Unknown without values, infinite with one.
    """
    mean, low, high = _columns(np.asarray(values, dtype=np.float64).reshape(-1, 1))
    return Interval(float(mean[0]), float(low[0]), float(high[0]))


def _columns(values: FloatArray) -> Band:
    """Intervals of the means of the columns of independent rows (n, quantities)."""
    size = len(values)
    if not size:
        unknown = np.full(values.shape[1], np.nan)
        return Band(unknown, unknown, unknown)
    mean = values.mean(axis=0)
    if size < 2:
        half = np.full(mean.shape, np.inf)
    elif size < FEWEST:
        half = _t_quantile(size) * values.std(axis=0, ddof=1) / size**0.5
    else:
        half = _expanded_half_widths(values - mean)
    return Band(mean, mean - half, mean + half)


def _t_quantile(size: int) -> float:
    """Half width of the Student t interval of so many values, in standard errors."""
    return float(special.stdtrit(size - 1, 0.5 + CONFIDENCE / 2))


def _expanded_half_widths(deviations: FloatArray) -> FloatArray:
    """Of symmetric expanded percentile intervals, of deviations (n, quantities) from the means."""
    size = len(deviations)
    # Hesterberg (2015), section 4.3.3: alpha' / 2 = Phi(-sqrt(n / (n - 1)) t(1 - alpha / 2, n - 1))
    far = (size / (size - 1)) ** 0.5 * _t_quantile(size)
    share = 1 - 2 * special.ndtr(-far)
    halves = []
    for first in range(0, deviations.shape[1], _COLUMNS):
        some = deviations[:, first : first + _COLUMNS].T
        means = np.empty((len(some), RESAMPLES))
        rows = max(_BLOCK // size, 1)
        for start in range(0, RESAMPLES, rows):
            count = min(rows, RESAMPLES - start)
            means[:, start : start + count] = some @ _shares(size, start, count).T
        # A column with a value that is not finite has no interval, and numpy says so by NaN.
        halves.append(np.quantile(np.abs(means, out=means), share, axis=1))
    return np.concatenate(halves)


@lru_cache(maxsize=8)
def _shares(size: int, start: int, count: int) -> FloatArray:
    """Share of each of `size` values in `count` resamples, from resample `start` on."""
    per_row = -(-size // 4)
    ids = np.arange(start * per_row, (start + count) * per_row)
    draws = uniforms(size, BOOTSTRAP_STREAM, ids).reshape(count, -1)[:, :size]
    picks = (draws * size).astype(np.int64) + size * np.arange(count)[:, None]
    return np.bincount(picks.ravel(), minlength=count * size).reshape(count, size) / size


def bands(values: FloatArray, structure: IntArray) -> Band:
    """Intervals of many quantities of the same campaigns at once, each as `clustered`.

    Args:
        values: (campaigns, quantities)
        structure: (campaigns,)
    """
    kinds, place = np.unique(structure, return_inverse=True)
    if kinds.size > 1:
        member = (place == np.arange(kinds.size)[:, None]).astype(np.float64)
        values = member @ values / member.sum(axis=1, keepdims=True)
    return _columns(values)


def clustered(values: Mapping[Campaign, float]) -> Interval:
    """Interval of values by (structure, seed).

    Seeds of one structure share its users, items and hidden effects: with several structures their
    means are the independent observations. With one, the interval is conditional on it.
    """
    groups: dict[int, list[float]] = {}
    for (structure, _), value in values.items():
        groups.setdefault(structure, []).append(value)
    if len(groups) > 1:
        return interval(np.array([np.mean(group) for group in groups.values()], np.float64))
    return interval(np.array(list(values.values())))


def paired(first: pd.DataFrame, second: pd.DataFrame, column: str) -> Interval:
    """Interval of the difference first - second over the campaigns that both played.

    Args:
        first: one row per campaign of a player; see `by_campaign`.
        second: likewise, of whom it is compared with.
        column: what is compared.
    """
    one, two = by_campaign(first, column), by_campaign(second, column)
    return clustered({key: one[key] - two[key] for key in sorted(one.keys() & two.keys())})


def by_campaign(rows: pd.DataFrame, column: str) -> dict[Campaign, float]:
    """Values by (structure, seed) of rows with these columns; without `structure` it is 0."""
    structure = rows["structure"].tolist() if "structure" in rows else [0] * len(rows)
    keys = zip(structure, rows["seed"].tolist(), strict=True)
    return dict(zip(keys, np.asarray(rows[column], np.float64).tolist(), strict=True))


def cluster_interval(values: FloatArray, clusters: IntArray) -> Interval:
    """Mean with an interval whose independent observations are clusters of values.

    Args:
        values: (N,); NaN are left out.
        clusters: (N,) the cluster of each value.

    Returns:
        That of G values mean + G d / N, where d is a cluster's sum of deviations from the mean:
        with clusters of one size these are their means. Infinite with one cluster.
    """
    known = ~np.isnan(values)
    values, clusters = values[known], clusters[known]
    if not values.size:
        return UNKNOWN
    mean = float(values.mean())
    _, place = np.unique(clusters, return_inverse=True)
    totals = np.bincount(place, values - mean)
    return interval(np.asarray(mean + totals * (totals.size / values.size), np.float64))
