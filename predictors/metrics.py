"""How good predicted probabilities are: pure functions, arrays in, floats out.

Ranking (`auc`, `average_precision`), likelihood (`nll`) and calibration (`pcoc`, `ece`) of one set
of rows. A stream is scored in two ways: slice-wise, `slice_mean` of one metric over its segments,
or pooled, `evaluate` on the concatenated rows.

Labels are 0 or 1 (any numeric or boolean type), in the order of the predictions. Undefined metrics
are NaN, each where its docstring says so. Errors are `ValueError`s that name the argument and its
range: lengths that differ, no rows, NaN, labels other than 0 and 1, probabilities outside [0, 1].

Sources:
    TESLA: the metrics and their mean over segments, arXiv:2601.19965.
    Hanley, McNeil, "The meaning and use of the area under a ROC curve", Radiology 143, 1982.
    Nixon et al., "Measuring Calibration in Deep Learning", arXiv:1904.01685: equal-mass bins.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adsim.types import BoolArray, FloatArray, IntArray

ECE_BINS = 20  # bins of the calibration error, 5 % of the rows each
MIN_LOG = -100.0  # lowest logarithm of a probability in `nll`, as torch's binary_cross_entropy

_NAN = math.nan


class Scores(NamedTuple):
    """The metrics of one set of rows."""

    auc: float  # in [0, 1]; NaN if all labels are equal
    pr_auc: float  # average precision, in (0, 1]; NaN without positives
    nll: float  # nats per row, in [0, 100]
    pcoc: float  # predicted over observed positives, >= 0; NaN without positives
    ece: float  # probability, in [0, 1]
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - rows, not tuple.count
    positives: int  # rows with label 1


class SliceMean(NamedTuple):
    """An unweighted mean over the segments on which a metric is defined."""

    mean: float  # NaN if count is 0
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - segments in the mean
    left_out: int  # segments on which the metric is undefined


class _Ranking(NamedTuple):
    """Rows gathered by distinct score, ascending; (G,) each."""

    score: FloatArray  # (G,)
    size: IntArray  # (G,) rows with this score, >= 1
    positives: IntArray  # (G,) of them with label 1


def auc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Chance that a positive outranks a negative, a tie counting half; O(N log N).

    Args:
        labels: (N,) 0 or 1, N >= 1.
        scores: (N,) any real numbers, infinities included; higher means more likely positive.

    Returns:
        Area under the ROC curve, in [0, 1]; NaN if all labels are equal.

    >>> auc([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])  # 3 pairs won, 1 tied
    0.875
    """
    y, s = _rows("scores", labels, scores)
    return _auc(_rank(y, s))


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the recall gained at each threshold (PR-AUC without interpolation).

    Args:
        labels: (N,) 0 or 1, N >= 1.
        scores: (N,) any real numbers, infinities included; higher means more likely positive.

    Returns:
        sum over distinct scores, highest first, of (R_k - R_{k-1}) precision_k, in (0, 1]; NaN
        without positives. Equals scikit-learn's `average_precision_score` where that is defined.

    >>> average_precision([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])  # 1/2 x 1 + 1/2 x 2/3
    0.8333333333333333
    """
    y, s = _rows("scores", labels, scores)
    return _average_precision(_rank(y, s))


def nll(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean binary cross-entropy, each logarithm at least -100.

    Args:
        labels: (N,) 0 or 1, N >= 1.
        probabilities: (N,) predicted probability of label 1, in [0, 1].

    Returns:
        Nats per row, in [0, 100]; finite also for a certain prediction that is wrong.
    """
    return _nll(*_probability_rows(labels, probabilities))


def pcoc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Predicted over observed positives: 1 is calibrated on average, above 1 too high.

    Args:
        labels: (N,) 0 or 1, N >= 1.
        probabilities: (N,) predicted probability of label 1, in [0, 1].

    Returns:
        mean(probabilities) / mean(labels), >= 0; NaN without positives. TESLA's code adds 1e-6 to
        the denominator, which lowers the ratio by 1.5e-5 of itself at a rate of .066.
    """
    return _pcoc(*_probability_rows(labels, probabilities))


def ece(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> float:
    """Expected calibration error over bins of equal mass.

    Equal predictions share a bin, that of their middle rank, so the result does not depend on the
    order of the rows, and a constant prediction has one bin. Bins may therefore differ in size and
    some be empty; without ties they differ by at most one row.

    Args:
        labels: (N,) 0 or 1, N >= 1.
        probabilities: (N,) predicted probability of label 1, in [0, 1].
        bins: At least 1. With as many bins as rows the error is the mean of |p - y|.

    Returns:
        sum over bins of (rows in bin / N) |mean p - mean y|, a probability in [0, 1].
    """
    if bins < 1:
        raise ValueError(f"bins must be >= 1, got {bins}")
    return _ece(_rank(*_probability_rows(labels, probabilities)), bins)


def evaluate(labels: ArrayLike, probabilities: ArrayLike) -> Scores:
    """All metrics of one segment, or of many if their rows are concatenated (pooled).

    Args:
        labels: (N,) 0 or 1, N >= 1.
        probabilities: (N,) predicted probability of label 1, in [0, 1].
    """
    y, p = _probability_rows(labels, probabilities)
    ranking = _rank(y, p)
    return Scores(
        auc=_auc(ranking),
        pr_auc=_average_precision(ranking),
        nll=_nll(y, p),
        pcoc=_pcoc(y, p),
        ece=_ece(ranking, ECE_BINS),
        count=y.size,
        positives=int(np.count_nonzero(y)),
    )


def relative_improvement(model: float, pretrained: float, oracle: float) -> float:
    """Share of the way from the pre-trained model to the oracle, in percent (TESLA: RI-M).

    Args:
        model: The metric, such as AUC, averaged over segments.
        pretrained: The same of the model frozen before the stream, over the same segments.
        oracle: The same of the model that sees final labels at once, likewise.

    Returns:
        0 for the pre-trained model, 100 for the oracle, below 0 or above 100 outside them; NaN if
        the two coincide or a metric is undefined (NaN).
    """
    gap = oracle - pretrained
    return 100.0 * (model - pretrained) / gap if gap != 0 else _NAN


def slice_mean(values: ArrayLike) -> SliceMean:
    """Unweighted mean of a metric over segments, without those on which it is undefined.

    Args:
        values: (number of segments,) finite, or NaN where undefined; at least one segment.
    """
    segments = vector("values", values)
    defined = segments[~np.isnan(segments)]
    if np.isinf(defined).any():
        raise ValueError("values must be finite or NaN, got an infinite one")
    mean = float(defined.mean()) if defined.size else _NAN
    return SliceMean(mean, defined.size, segments.size - defined.size)


def _rank(labels: BoolArray, scores: FloatArray) -> _Ranking:
    order = np.argsort(scores)
    ranked = scores[order]  # (N,) ascending
    start = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])  # (G,) first row of each score
    bounds = np.append(start, scores.size)  # (G + 1,)
    seen = np.r_[0, np.cumsum(labels[order])]  # (N + 1,) positives before each row
    return _Ranking(ranked[start], np.diff(bounds), np.diff(seen[bounds]))


def _auc(ranking: _Ranking) -> float:
    negatives = ranking.size - ranking.positives
    pairs = int(ranking.positives.sum()) * int(negatives.sum())
    if pairs == 0:
        return _NAN
    below = np.cumsum(negatives) - negatives
    # Mann-Whitney: a positive beats the negatives below it and half of those beside it. Counted
    # in halves, hence exact.
    return int(np.dot(ranking.positives, 2 * below + negatives)) / (2 * pairs)


def _average_precision(ranking: _Ranking) -> float:
    gained = ranking.positives[::-1]  # highest score first
    hits = np.cumsum(gained)
    if hits[-1] == 0:
        return _NAN
    precision = hits / np.cumsum(ranking.size[::-1])
    return float(np.dot(gained, precision) / hits[-1])


def _nll(labels: BoolArray, probabilities: FloatArray) -> float:
    with np.errstate(divide="ignore"):  # log 0 = -inf is clamped
        hit = np.log(probabilities[labels])
        miss = np.log1p(-probabilities[~labels])
    total = np.maximum(hit, MIN_LOG).sum() + np.maximum(miss, MIN_LOG).sum()
    return abs(float(total)) / labels.size  # abs: not -0.0 for a perfect prediction


def _pcoc(labels: BoolArray, probabilities: FloatArray) -> float:
    positives = int(np.count_nonzero(labels))
    return float(probabilities.sum()) / positives if positives else _NAN


def _ece(ranking: _Ranking, bins: int) -> float:
    end = np.cumsum(ranking.size)
    count = int(end[-1])
    # Middle rank of a score's rows over N, times bins, rounded down; in integers, hence exact.
    bin_of = (2 * end - ranking.size) * bins // (2 * count)
    excess = ranking.score * ranking.size - ranking.positives  # sum of p - y per score
    return float(np.abs(np.bincount(bin_of, weights=excess)).sum()) / count


def _probability_rows(labels: ArrayLike, probabilities: ArrayLike) -> tuple[BoolArray, FloatArray]:
    y, p = _rows("probabilities", labels, probabilities)
    require("probabilities", "in [0, 1]", p, (p >= 0) & (p <= 1))
    return y, p


def _rows(name: str, labels: ArrayLike, predictions: ArrayLike) -> tuple[BoolArray, FloatArray]:
    y, p = vector("labels", labels), vector(name, predictions)
    if y.size != p.size:
        raise ValueError(f"labels and {name} must have one length, got {y.size} and {p.size}")
    require("labels", "0 or 1", y, (y == 0) | (y == 1))
    require(name, "numbers, not NaN", p, ~np.isnan(p))
    return y == 1, p


def vector(name: str, values: ArrayLike) -> FloatArray:
    """Numbers as float64 (N,).

    Raises:
        ValueError: not one-dimensional, empty, or not real numbers; names the argument.
    """
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be one-dimensional and not empty, got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name} must be real numbers, got dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def require(name: str, rule: str, values: FloatArray, valid: BoolArray) -> None:
    """Raises ValueError with the argument, the rule, and the first value that is not valid."""
    if not valid.all():
        row = int(np.argmin(valid))
        raise ValueError(f"{name} must be {rule}, got {values[row]} in row {row}")
