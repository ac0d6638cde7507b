import math

import numpy as np
import pytest

from predictors.metrics import (
    Scores,
    SliceMean,
    auc,
    average_precision,
    ece,
    evaluate,
    nll,
    pcoc,
    relative_improvement,
    slice_mean,
)

# Four rows with one tie across the classes, used by the hand-worked cases.
LABELS = [1, 0, 1, 0]
PROBABILITIES = [0.9, 0.5, 0.5, 0.1]


def random_rows(seed, count=200, levels=None):
    """Labels drawn at their probabilities; `levels` > 0 rounds those, which makes ties."""
    rng = np.random.default_rng(seed)
    probabilities = rng.random(count)
    labels = (rng.random(count) < probabilities).astype(np.int64)
    labels[:2] = 0, 1  # both classes
    if levels:
        probabilities = np.round(probabilities * levels) / levels
    return labels, probabilities


def brute_force_auc(labels, scores):
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = (positives[:, None] > negatives).sum() + 0.5 * (positives[:, None] == negatives).sum()
    return wins / (positives.size * negatives.size)


def brute_force_average_precision(labels, scores):
    total, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        chosen = labels[scores >= threshold]
        recall = chosen.sum() / labels.sum()
        total += (recall - recall_before) * chosen.mean()
        recall_before = recall
    return total


# ------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        (LABELS, PROBABILITIES, 3.5 / 4),  # .9 beats both; .5 ties one and beats one
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 3 / 4),
        ([0, 1], [0.2, 0.8], 1.0),
        ([1, 0], [0.2, 0.8], 0.0),
        ([1, 0, 0, 1, 0], [0.3] * 5, 0.5),
        ([1, 0, 1], [math.inf, -math.inf, -2.0], 1.0),  # any real score will do
    ],
)
def test_auc_counts_pairs_with_half_for_a_tie(labels, scores, expected):
    assert auc(labels, scores) == expected


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [
        (LABELS, PROBABILITIES, 1 / 2 + 1 / 2 * 2 / 3),
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 1 / 2 + 1 / 2 * 2 / 3),
        ([1, 0, 0, 0], [0.3] * 4, 1 / 4),  # one threshold: the base rate
        ([0, 0, 1], [0.9, 0.8, 0.1], 1 / 3),
        ([1, 1], [0.2, 0.8], 1.0),
    ],
)
def test_average_precision_sums_over_distinct_thresholds(labels, scores, expected):
    assert average_precision(labels, scores) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("levels", [None, 7])
def test_ranking_metrics_equal_brute_force(seed, levels):
    labels, scores = random_rows(seed, levels=levels)
    assert auc(labels, scores) == pytest.approx(brute_force_auc(labels, scores), abs=1e-14)
    assert average_precision(labels, scores) == pytest.approx(
        brute_force_average_precision(labels, scores), abs=1e-13
    )


@pytest.mark.parametrize("metric", [auc, average_precision, ece])
def test_ties_make_the_order_of_rows_irrelevant(metric):
    labels, scores = random_rows(1, levels=4)
    order = np.random.default_rng(2).permutation(labels.size)
    by_label = np.argsort(labels)
    assert metric(labels, scores) == metric(labels[order], scores[order])
    assert metric(labels, scores) == metric(labels[by_label], scores[by_label])


@pytest.mark.parametrize("label", [0, 1])
def test_auc_of_one_class_is_undefined(label):
    assert math.isnan(auc([label] * 3, [0.1, 0.2, 0.3]))


def test_average_precision_without_positives_is_undefined():
    assert math.isnan(average_precision([0, 0], [0.1, 0.2]))


@pytest.mark.parametrize("levels", [None, 50])
def test_auc_of_a_million_rows(levels):
    labels, scores = random_rows(0, 1_000_000, levels)
    value = auc(labels, scores)
    # p uniform, y ~ p: P(p1 > p0) = integral of 2p (2p - p^2) dp = 4/3 - 1/2 = 5/6.
    assert value == pytest.approx(5 / 6, abs=2e-3)


# --------------------------------------------------------------------- likelihood, calibration


def test_nll_is_the_mean_cross_entropy():
    expected = -(math.log(0.9) + math.log(0.5) + math.log(0.5) + math.log(0.9)) / 4
    assert nll(LABELS, PROBABILITIES) == pytest.approx(expected, rel=1e-15)


def test_nll_clamps_each_logarithm_at_minus_100():
    # Certain and wrong: 100 each. log 1e-300 = -690.8 is clamped too. Certain and right: 0.
    assert nll([1, 0, 1, 1, 0], [0.0, 1.0, 1e-300, 1.0, 0.0]) == 300 / 5


def test_nll_of_a_perfect_prediction_is_plain_zero():
    value = nll([1, 0], [1.0, 0.0])
    assert value == 0
    assert math.copysign(1, value) == 1


def test_nll_keeps_small_probabilities_of_negatives():
    assert nll([0], [1e-20]) == pytest.approx(1e-20, rel=1e-12)


def test_pcoc_is_predicted_over_observed():
    assert pcoc(LABELS, PROBABILITIES) == pytest.approx(2.0 / 2)
    assert pcoc([1, 0, 0, 0], [0.25, 0.25, 0.5, 0.5]) == pytest.approx(1.5)
    assert math.isnan(pcoc([0, 0], [0.1, 0.2]))


def test_ece_weighs_the_gap_of_each_bin():
    labels = [0, 1, 0, 1, 1, 1]
    probabilities = [0.1, 0.2, 0.3, 0.6, 0.7, 0.8]
    # 2 bins of 3: |.6/3 - 1/3| and |2.1/3 - 1|, half the rows each.
    assert ece(labels, probabilities, 2) == pytest.approx((0.4 + 0.9) / 6)
    # 1 bin: |2.7 - 4| / 6; 6 bins: mean of |p - y|.
    assert ece(labels, probabilities, 1) == pytest.approx(1.3 / 6)
    assert ece(labels, probabilities, 6) == pytest.approx((0.1 + 0.8 + 0.3 + 0.4 + 0.3 + 0.2) / 6)


def test_ece_of_a_constant_prediction_is_the_gap_of_the_means():
    labels = np.arange(1000) % 4 == 0
    assert ece(labels, np.full(1000, 0.3)) == pytest.approx(0.05)
    assert ece(labels, np.full(1000, 0.25)) == pytest.approx(0.0, abs=1e-12)


def test_ece_keeps_equal_predictions_in_the_bin_of_their_middle_rank():
    labels = [0, 1, 1, 0]
    probabilities = [0.2, 0.2, 0.2, 0.9]
    # The three .2 have middle rank 1.5 of 4: first of two bins; .9 (3.5) the second.
    assert ece(labels, probabilities, 2) == pytest.approx((abs(0.6 - 2) + 0.9) / 4)


def test_ece_equals_equal_mass_brute_force():
    labels, probabilities = random_rows(3, 1000)
    bins = np.array_split(np.argsort(probabilities), 20)  # 50 rows each
    gaps = [abs(probabilities[rows].mean() - labels[rows].mean()) for rows in bins]
    assert ece(labels, probabilities) == pytest.approx(np.mean(gaps), rel=1e-12)


def test_calibrated_probabilities_score_as_calibrated():
    labels, probabilities = random_rows(4, 200_000)
    # sd of the observed rate sqrt(1/6 / 2e5) = .0009; of a bin's < .5 / sqrt(1e4) = .005.
    assert pcoc(labels, probabilities) == pytest.approx(1, abs=0.008)
    assert ece(labels, probabilities) < 0.005
    # E[-p log p - (1 - p) log(1 - p)] for uniform p is 1/2.
    assert nll(labels, probabilities) == pytest.approx(0.5, abs=0.004)


# ----------------------------------------------------------------------------- whole segments


def test_evaluate_gathers_every_metric():
    labels, probabilities = random_rows(5, 400, levels=30)
    scores = evaluate(labels, probabilities)
    assert scores == Scores(
        auc(labels, probabilities),
        average_precision(labels, probabilities),
        nll(labels, probabilities),
        pcoc(labels, probabilities),
        ece(labels, probabilities),
        400,
        labels.sum(),
    )
    assert {type(value) for value in scores} == {float, int}


def test_evaluate_without_positives_leaves_undefined_what_needs_them():
    scores = evaluate([0, 0], [0.5, 0.5])
    assert all(math.isnan(value) for value in (scores.auc, scores.pr_auc, scores.pcoc))
    assert scores.nll == pytest.approx(math.log(2))
    assert scores[4:] == (0.5, 2, 0)


@pytest.mark.parametrize("dtype", [np.bool_, np.int8, np.int64, np.uint8, np.float32])
def test_labels_of_any_numeric_type_score_alike(dtype):
    labels, probabilities = random_rows(6)
    assert evaluate(labels.astype(dtype), probabilities) == evaluate(labels, probabilities)


def test_arguments_are_left_as_they_are():
    labels, probabilities = random_rows(7)
    before = labels.copy(), probabilities.copy()
    evaluate(labels, probabilities)
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(probabilities, before[1])


def test_slice_mean_leaves_out_and_counts_undefined_segments():
    segments = [([1, 0], [0.8, 0.2]), ([0, 0], [0.5, 0.1]), ([1, 0], [0.3, 0.3])]
    assert slice_mean([auc(*segment) for segment in segments]) == SliceMean(0.75, 2, 1)


def test_slice_mean_of_undefined_segments_only_is_undefined():
    mean, count, left_out = slice_mean([math.nan, math.nan])
    assert math.isnan(mean)
    assert (count, left_out) == (0, 2)


def test_slice_wise_and_pooled_auc_differ_when_levels_shift():
    low, high = ([1, 0], [0.2, 0.1]), ([1, 0], [0.9, 0.8])
    labels, probabilities = (np.concatenate(pair) for pair in zip(low, high, strict=True))
    assert slice_mean([auc(*low), auc(*high)]).mean == 1
    assert evaluate(labels, probabilities).auc == 3 / 4  # .2 loses to .8


def test_relative_improvement_runs_from_pretrained_to_oracle():
    assert relative_improvement(0.75, 0.70, 0.80) == pytest.approx(50)
    assert relative_improvement(0.70, 0.70, 0.80) == 0
    assert relative_improvement(0.80, 0.70, 0.80) == 100
    assert relative_improvement(0.69, 0.70, 0.80) == pytest.approx(-10)
    assert math.isnan(relative_improvement(0.7, 0.8, 0.8))
    assert math.isnan(relative_improvement(math.nan, 0.7, 0.8))


# ---------------------------------------------------------------------------------- bad input

METRICS = [auc, average_precision, nll, pcoc, ece, evaluate]
PROBABILITY_METRICS = [nll, pcoc, ece, evaluate]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0.5], "one length, got 2 and 1"),
        ([], [], r"labels must be .* not empty, got shape \(0,\)"),
        ([0, 1], [], "(scores|probabilities) must be .* not empty"),
        ([[0, 1]], [[0.1, 0.2]], r"labels must be one-dimensional .* got shape \(1, 2\)"),
        ([0, 2], [0.1, 0.2], "labels must be 0 or 1, got 2.0 in row 1"),
        ([0, math.nan], [0.1, 0.2], "labels must be 0 or 1, got nan in row 1"),
        ([0, 1], [math.nan, 0.2], "(scores|probabilities) must be numbers, not NaN.* row 0"),
        (["0", "1"], [0.1, 0.2], "labels must be real numbers"),
    ],
)
def test_metric_rejects_bad_rows(metric, labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, predictions)


@pytest.mark.parametrize("metric", PROBABILITY_METRICS)
@pytest.mark.parametrize("value", [-1e-9, 1.0000001, math.inf])
def test_metric_rejects_probabilities_outside_their_range(metric, value):
    with pytest.raises(ValueError, match=r"probabilities must be in \[0, 1\], got .* in row 1"):
        metric([0, 1], [0.5, value])


def test_ece_rejects_less_than_one_bin():
    with pytest.raises(ValueError, match="bins must be >= 1, got 0"):
        ece(LABELS, PROBABILITIES, 0)


@pytest.mark.parametrize("values", [[], [[0.5]], [0.5, math.inf]])
def test_slice_mean_rejects_bad_values(values):
    with pytest.raises(ValueError, match="values must be"):
        slice_mean(values)


# ------------------------------------------------------------------------------- scikit-learn


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("levels", [None, 10])
def test_metrics_equal_scikit_learn(seed, levels):
    reference = pytest.importorskip("sklearn.metrics")
    labels, probabilities = random_rows(seed, 5000, levels)
    probabilities = np.clip(probabilities, 1e-6, 1 - 1e-6)  # log_loss clamps differently
    scores = evaluate(labels, probabilities)
    assert scores.auc == pytest.approx(reference.roc_auc_score(labels, probabilities), abs=1e-12)
    assert scores.pr_auc == pytest.approx(
        reference.average_precision_score(labels, probabilities), abs=1e-12
    )
    assert scores.nll == pytest.approx(reference.log_loss(labels, probabilities), rel=1e-12)
