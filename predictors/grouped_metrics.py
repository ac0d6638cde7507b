"""How well scores rank within groups, such as the users or the scenes of a log; soft labels.

Row i is positive with weight w_i and negative with weight 1 - w_i, w_i in [0, 1]. With labels 0 and
1 the metrics are those of `predictors.metrics`. With the true probabilities of a simulated log the
AUC is the expected number of pairs in order over the expected number of pairs, and the NLL an
expectation: free of the noise of the labels, which in small groups hides everything else.

Errors are `ValueError`s that name the argument and its range: lengths that differ, no rows, NaN,
weights or probabilities outside [0, 1], groups that are not integers.

Source of GAUC: DIN, G. Zhou et al., KDD 2018, arXiv:1706.06978, section 6.2.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adsim.types import FloatArray, IntArray
from predictors.metrics import MIN_LOG, require, vector


class GroupAuc(NamedTuple):
    """AUC of G groups, by increasing id."""

    ids: IntArray  # (G,) of the groups
    auc: FloatArray  # (G,) in [0, 1]; NaN where there is no pair of a positive and a negative
    rows: IntArray  # (G,) >= 1


def soft_auc(weight: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive outranks a negative, a tie counting half; O(N log N).

    Args:
        weight: (N,) of the rows as positives, in [0, 1], N >= 1.
        scores: (N,) any real numbers; higher means more likely positive.

    Returns:
        sum over i != j of w_i (1 - w_j) ([s_i > s_j] + [s_i = s_j] / 2), over the same sum without
        the scores; NaN if that is 0.

    >>> soft_auc([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])  # as predictors.metrics.auc
    0.875
    >>> soft_auc([0.75, 0.25], [2.0, 1.0])  # in order with 9 of 16, reversed with 1 of 16
    0.9
    """
    return float(auc_by_group(weight, scores, np.zeros(np.size(weight), np.int64)).auc[0])


def auc_by_group(weight: ArrayLike, scores: ArrayLike, group: ArrayLike) -> GroupAuc:
    """`soft_auc` of every group of rows, all in one O(N log N) pass.

    Args:
        weight: (N,) in [0, 1], N >= 1.
        scores: (N,) any real numbers.
        group: (N,) integer ids.
    """
    w, s = _rows(weight, "scores", scores)
    g = _groups(group, w.size)
    order = np.lexsort((s, g))
    w, s, g = w[order], s[order], g[order]
    starts = np.r_[True, g[1:] != g[:-1]]  # (N,) first row of a group
    tie = np.flatnonzero(starts | np.r_[True, s[1:] != s[:-1]])  # (T,) first row of equal scores
    first = np.flatnonzero(starts[tie])  # (G,) first tie of a group
    positives, negatives = np.add.reduceat(w, tie), np.add.reduceat(1 - w, tie)  # (T,)
    below = np.cumsum(negatives) - negatives
    below -= np.repeat(below[first], np.diff(np.append(first, tie.size)))
    group_start = tie[first]
    # A row is no pair with itself, but products of sums have it as one.
    itself = np.add.reduceat(w * (1 - w), group_start)  # (G,)
    won = np.add.reduceat(positives * (below + negatives / 2), first) - itself / 2
    pairs = np.add.reduceat(positives, first) * np.add.reduceat(negatives, first) - itself
    found = np.divide(won, pairs, out=np.full(pairs.size, np.nan), where=pairs > 0)
    rows = np.diff(np.append(group_start, w.size))
    return GroupAuc(g[group_start], np.clip(found, 0.0, 1.0), rows)


def gauc(weight: ArrayLike, scores: ArrayLike, group: ArrayLike) -> float:
    """Mean AUC of the groups, weighted by their rows; groups without a pair are left out.

    Args:
        weight: (N,) in [0, 1], N >= 1.
        scores: (N,) any real numbers.
        group: (N,) integer ids, of users for instance.

    Returns:
        In [0, 1]; NaN if no group has a pair of a positive and a negative.

    >>> gauc([1, 0, 1, 0, 0], [3, 2, 1, 1, 2], [7, 7, 8, 8, 8])  # 2 rows with 1, 3 with 1/4
    0.55
    """
    found = auc_by_group(weight, scores, group)
    known = ~np.isnan(found.auc)
    rows = found.rows[known]
    return float(np.dot(found.auc[known], rows) / rows.sum()) if rows.size else float("nan")


def soft_nll(weight: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean cross-entropy of the weights, each logarithm at least `MIN_LOG`.

    Args:
        weight: (N,) in [0, 1], N >= 1.
        probabilities: (N,) predicted probability of a positive, in [0, 1].

    Returns:
        Nats per row, in [0, 100].
    """
    w, p = _rows(weight, "probabilities", probabilities)
    require("probabilities", "in [0, 1]", p, (p >= 0) & (p <= 1))
    with np.errstate(divide="ignore"):  # log 0 = -inf is clamped
        hit, miss = np.maximum(np.log(p), MIN_LOG), np.maximum(np.log1p(-p), MIN_LOG)
    return abs(float(np.mean(w * hit + (1 - w) * miss)))  # abs: not -0.0


def _rows(weight: ArrayLike, name: str, predictions: ArrayLike) -> tuple[FloatArray, FloatArray]:
    w, p = vector("weight", weight), vector(name, predictions)
    if w.size != p.size:
        raise ValueError(f"weight and {name} must have one length, got {w.size} and {p.size}")
    require("weight", "in [0, 1]", w, (w >= 0) & (w <= 1))
    require(name, "numbers, not NaN", p, ~np.isnan(p))
    return w, p


def _groups(group: ArrayLike, count: int) -> IntArray:
    ids = np.asarray(group)
    if ids.shape != (count,) or ids.dtype.kind not in "iu":
        raise ValueError(
            f"group must be integers of shape ({count},), got {ids.dtype} of shape {ids.shape}"
        )
    return ids.astype(np.int64, copy=False)
