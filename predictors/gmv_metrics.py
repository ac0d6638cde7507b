"""How good predicted amounts are: pure functions, arrays in, floats out.

Ranking (`pairwise_auc`), hits (`accuracy`), relative error (`alpr`, `mape`), absolute error
(`log_mae`, `mae`, `rmse`) and calibration (`pcoc`, `log_bias`) of one set of rows, such as the
clicks of a slice of the stream with their final GMV. A stream is scored in two ways: slice-wise,
`predictors.metrics.slice_mean` of one metric over its slices, or pooled, `evaluate_gmv` on the
concatenated rows.

Labels are the true amounts in currency, > 0 for a click that converted, in the order of the
predictions. Everything is computed in float64. Undefined metrics are NaN, each where its docstring
says so. Errors are `ValueError`s that name the argument and its range: lengths that differ, no
rows, values that are not finite, labels of 0 or less, predictions below 0.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, section 5.1, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837), which decides on ties, bounds and the smallest label.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike

from adsim.types import FloatArray, IntArray
from predictors.metrics import require, vector

TOLERANCE = 0.2  # relative error of a hit
MIN_LABEL = 1e-8  # currency; smaller labels are replaced where errors are relative to them


class GmvScores(NamedTuple):
    """The metrics of one set of rows."""

    auc: float  # in [0, 1]; NaN if all labels are equal or there is one row
    acc: float  # share of rows within 20 % of the label, in [0, 1]
    alpr: float  # mean |log2(prediction / label)|, >= 0; infinite if a prediction is 0
    log_mae: float  # mean |log1p(prediction) - log1p(label)|, natural, >= 0
    mae: float  # currency, >= 0
    rmse: float  # currency, >= 0
    mape: float  # mean relative error, >= 0
    pcoc: float  # predicted over true sum, >= 0
    log_bias: float  # median of ln(prediction / label); -infinity if half the predictions are 0
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - rows, not tuple.count


def pairwise_auc(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Chance that of two rows with different labels the greater is predicted greater.

    Pairs with equal labels do not count; exactly equal predictions count half. O(N log N).

    Args:
        labels: (N,) any finite numbers, N >= 1.
        predictions: (N,) any finite numbers.

    Returns:
        In [0, 1], (Kendall's tau + 1) / 2 over the pairs; NaN if there is no such pair.

    >>> pairwise_auc([1, 2, 2, 3], [1, 1, 2, 3])  # 4 of 5 pairs in order, 1 tied
    0.9
    """
    return _pairwise_auc(*_rows(labels, predictions))


def accuracy(labels: ArrayLike, predictions: ArrayLike, tolerance: float = TOLERANCE) -> float:
    """Share of predictions whose relative error is at most `tolerance`.

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.
        tolerance: Of the label, >= 0, inclusive. At the bound itself rounding decides.

    Returns:
        In [0, 1].
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance must be finite and >= 0, got {tolerance}")
    y, p = _amount_rows(labels, predictions)
    return float(np.mean(_relative_error(y, p) <= tolerance))


def alpr(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Absolute log prediction ratio: mean |log2(prediction / label)|.

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.

    Returns:
        Binary orders of magnitude, >= 0; infinite if a prediction is 0.

    >>> alpr([1, 4], [2, 1])
    1.5
    """
    return _alpr(_log_ratio(*_amount_rows(labels, predictions)))


def log_mae(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean |log1p(prediction) - log1p(label)|, the loss that READER trains with.

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.

    Returns:
        Natural logarithms, >= 0.
    """
    return _log_mae(*_amount_rows(labels, predictions))


def mae(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean absolute error, in the unit of the arguments.

    Args:
        labels: (N,) any finite numbers, N >= 1.
        predictions: (N,) any finite numbers.
    """
    y, p = _rows(labels, predictions)
    return float(np.mean(np.abs(p - y)))


def rmse(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Root of the mean squared error, in the unit of the arguments.

    Args:
        labels: (N,) any finite numbers, N >= 1.
        predictions: (N,) any finite numbers.
    """
    return _rmse(*_rows(labels, predictions))


def mape(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Mean of |prediction - label| / label.

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.

    Returns:
        >= 0; 1 for predictions of 0.
    """
    return float(np.mean(_relative_error(*_amount_rows(labels, predictions))))


def pcoc(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Predicted over true sum: 1 is calibrated on average, above 1 too high.

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.

    Returns:
        >= 0.
    """
    return _pcoc(*_amount_rows(labels, predictions))


def log_bias(labels: ArrayLike, predictions: ArrayLike) -> float:
    """Median of ln(prediction / label): 0 if as many rows are too high as too low.

    What a model that minimises `log_mae` aims at; its PCOC is below 1 where amounts are skewed.

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.

    Returns:
        Natural logarithm, > 0 if too high; -infinity if half the predictions are 0.
    """
    return _log_bias(_log_ratio(*_amount_rows(labels, predictions)))


def evaluate_gmv(labels: ArrayLike, predictions: ArrayLike) -> GmvScores:
    """All metrics of one slice, or of many if their rows are concatenated (pooled).

    Args:
        labels: (N,) currency > 0, N >= 1.
        predictions: (N,) currency >= 0.
    """
    y, p = _amount_rows(labels, predictions)
    relative, ratio = _relative_error(y, p), _log_ratio(y, p)
    return GmvScores(
        auc=_pairwise_auc(y, p),
        acc=float(np.mean(relative <= TOLERANCE)),
        alpr=_alpr(ratio),
        log_mae=_log_mae(y, p),
        mae=float(np.mean(np.abs(p - y))),
        rmse=_rmse(y, p),
        mape=float(np.mean(relative)),
        pcoc=_pcoc(y, p),
        log_bias=_log_bias(ratio),
        count=y.size,
    )


def _pairwise_auc(labels: FloatArray, predictions: FloatArray) -> float:
    order = np.argsort(labels)
    ranked = labels[order]
    start = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # (G,) first row of each label
    bounds = np.append(start, labels.size)
    equal = np.diff(bounds)
    pairs = (labels.size**2 - int(np.dot(equal, equal))) // 2
    if pairs == 0:
        return math.nan
    levels, rank = np.unique(predictions, return_inverse=True)
    # Counted in halves, hence exact.
    return _half_wins(rank[order], bounds, levels.size) / (2 * pairs)


@njit(cache=True, nogil=True)
def _half_wins(rank: IntArray, bounds: IntArray, num_ranks: int) -> int:
    """Pairs in order, twice, and pairs with equal predictions, once.

    Args:
        rank: (N,) ranks of the predictions from 0, by ascending label.
        bounds: (G + 1,) rows of one label are bounds[g]:bounds[g + 1].
        num_ranks: Distinct predictions.
    """
    below = np.zeros(num_ranks + 1, dtype=np.int64)  # Fenwick tree: rows seen, by rank + 1
    total = 0
    for g in range(bounds.size - 1):
        for i in range(bounds[g], bounds[g + 1]):
            for first in (rank[i], rank[i] + 1):  # rows of lower rank, and of no higher rank
                node = first
                while node > 0:
                    total += below[node]
                    node -= node & -node
        for i in range(bounds[g], bounds[g + 1]):
            node = rank[i] + 1
            while node <= num_ranks:
                below[node] += 1
                node += node & -node
    return int(total)


def _relative_error(labels: FloatArray, predictions: FloatArray) -> FloatArray:
    return np.abs(predictions - labels) / np.maximum(labels, MIN_LABEL)


def _log_ratio(labels: FloatArray, predictions: FloatArray) -> FloatArray:
    """ln(prediction / label) (N,), -infinity where the prediction is 0."""
    with np.errstate(divide="ignore"):
        return np.log(predictions) - np.log(labels)


def _alpr(log_ratio: FloatArray) -> float:
    return float(np.mean(np.abs(log_ratio))) / math.log(2.0)


def _log_bias(log_ratio: FloatArray) -> float:
    return float(np.median(log_ratio))


def _log_mae(labels: FloatArray, predictions: FloatArray) -> float:
    return float(np.mean(np.abs(np.log1p(predictions) - np.log1p(labels))))


def _rmse(labels: FloatArray, predictions: FloatArray) -> float:
    return math.sqrt(float(np.mean((predictions - labels) ** 2)))


def _pcoc(labels: FloatArray, predictions: FloatArray) -> float:
    return float(predictions.sum()) / float(labels.sum())


def _amount_rows(labels: ArrayLike, predictions: ArrayLike) -> tuple[FloatArray, FloatArray]:
    y, p = _rows(labels, predictions)
    require("labels", "> 0", y, y > 0)
    require("predictions", ">= 0", p, p >= 0)
    return y, p


def _rows(labels: ArrayLike, predictions: ArrayLike) -> tuple[FloatArray, FloatArray]:
    y, p = _finite("labels", labels), _finite("predictions", predictions)
    if y.size != p.size:
        raise ValueError(f"labels and predictions must have one length, got {y.size} and {p.size}")
    return y, p


def _finite(name: str, values: ArrayLike) -> FloatArray:
    array = vector(name, values)
    require(name, "finite", array, np.isfinite(array))
    return array
