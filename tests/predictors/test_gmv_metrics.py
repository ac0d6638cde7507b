import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors.gmv_metrics import (
    GmvScores,
    accuracy,
    alpr,
    evaluate_gmv,
    log_bias,
    log_mae,
    mae,
    mape,
    pairwise_auc,
    pcoc,
    rmse,
)
from predictors.metrics import slice_mean

LABELS, PREDICTIONS = [100.0, 50.0, 200.0, 80.0], [110.0, 25.0, 200.0, 160.0]


def random_rows(seed, count=200, levels=None):
    """Lognormal amounts and noisy predictions; `levels` > 0 rounds both, which makes ties."""
    rng = np.random.default_rng(seed)
    log_label = rng.normal(4.7, 1.2, count)
    rows = np.exp(log_label), np.exp(log_label + rng.normal(0.1, 0.8, count))
    return tuple(np.ceil(row / levels) * levels for row in rows) if levels else rows


def brute_force_auc(labels, predictions):
    labels, predictions = np.asarray(labels, float), np.asarray(predictions, float)
    greater = labels[:, None] > labels
    wins = predictions[:, None] > predictions
    ties = predictions[:, None] == predictions
    return (wins[greater].sum() + 0.5 * ties[greater].sum()) / greater.sum()


# ------------------------------------------------------------------------------------- ranking


@pytest.mark.parametrize(
    ("labels", "predictions", "expected"),
    [
        ([1, 2, 2, 3], [1, 1, 2, 3], 0.9),  # the tied pair of 5 counts half
        ([1, 1, 2, 3], [1, 2, 2, 3], 0.9),
        ([3, 1, 2], [30.0, 10.0, 20.0], 1.0),
        ([3, 1, 2], [1, 3, 2], 0.0),
        ([1, 2, 3, 4], [7, 7, 7, 7], 0.5),
        ([-1.5, 0.0], [-2.0, -1.0], 1.0),  # any finite numbers
        ([1, 1 + 1e-15], [2, 1], 0.0),  # labels are compared exactly
        ([1, 2], [1, 1 + 1e-15], 1.0),  # and predictions too
        ([0.0, -0.0, 1], [-0.0, 0.0, 0.0], 0.5),
    ],
)
def test_auc_counts_pairs_of_different_labels(labels, predictions, expected):
    assert pairwise_auc(labels, predictions) == expected


@pytest.mark.parametrize(("labels", "predictions"), [([5.0], [4.0]), ([5, 5, 5], [1, 2, 3])])
def test_auc_without_different_labels_is_undefined(labels, predictions):
    assert math.isnan(pairwise_auc(labels, predictions))
    scores = evaluate_gmv(labels, predictions)
    assert math.isnan(scores.auc)
    assert not any(math.isnan(value) for value in scores[1:])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 4), st.integers(-4, 3)), min_size=2, max_size=40))
def test_auc_equals_brute_force_on_random_ties(rows):
    labels, predictions = zip(*rows, strict=True)
    if len(set(labels)) == 1:
        assert math.isnan(pairwise_auc(labels, predictions))
    else:
        expected = brute_force_auc(labels, predictions)
        assert pairwise_auc(labels, predictions) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("levels", [None, 1.0, 40.0])
def test_auc_equals_brute_force_on_amounts(levels):
    labels, predictions = random_rows(1, 700, levels)
    expected = brute_force_auc(labels, predictions)
    assert pairwise_auc(labels, predictions) == pytest.approx(expected, abs=1e-14)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=2, max_size=30).filter(lambda x: len(set(x)) > 1),
    st.randoms(use_true_random=False),
)
def test_auc_is_invariant_to_monotone_maps_and_flips_with_the_sign(labels, random):
    labels = np.array(labels)
    predictions = np.array([random.randint(-5, 5) for _ in labels])
    value = pairwise_auc(labels, predictions)
    assert pairwise_auc(labels, np.exp(predictions)) == value
    assert pairwise_auc(labels**3, predictions) == value
    assert pairwise_auc(labels, -predictions) == pytest.approx(1 - value, abs=1e-15)
    order = random.sample(range(labels.size), labels.size)
    assert pairwise_auc(labels[order], predictions[order]) == value


def test_auc_of_binary_labels_is_the_usual_one():
    from predictors.metrics import auc

    labels, predictions = random_rows(2, levels=25.0)
    positive = labels > 100
    assert pairwise_auc(positive, predictions) == auc(positive, predictions)


@pytest.mark.parametrize("levels", [None, 0.5])
def test_auc_of_a_million_rows(levels):
    labels, predictions = random_rows(3, 1_000_000, levels)
    # Normal logarithms of correlation r: 1/2 + arcsin(r) / pi.
    expected = 0.5 + math.asin(1.2 / math.hypot(1.2, 0.8)) / math.pi
    assert pairwise_auc(labels, predictions) == pytest.approx(expected, abs=2e-3)


# --------------------------------------------------------------------------------------- errors


def test_accuracy_counts_relative_errors_up_to_the_bound():
    assert accuracy([1, 1, 1], [1.2, 0.8, 1.21]) == 2 / 3
    assert accuracy([100, 100, 100], [75, 125, 126], 0.25) == 2 / 3
    assert accuracy([3, 4], [3, 5], 0) == 1 / 2


def test_alpr_is_the_mean_binary_order_of_magnitude():
    assert alpr([1, 4], [2, 1]) == 1.5
    assert alpr([3.0], [3.0]) == 0
    assert alpr([1, 1], [8, 1 / 2]) == pytest.approx(2, rel=1e-15)


amounts = st.floats(1e-3, 1e6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(amounts, amounts), min_size=1, max_size=20))
def test_alpr_and_log_mae_are_symmetric_and_the_bias_is_antisymmetric(rows):
    labels, predictions = zip(*rows, strict=True)
    for metric in (alpr, log_mae, mae, rmse):
        assert metric(labels, predictions) == metric(predictions, labels)
    assert log_bias(labels, predictions) == pytest.approx(-log_bias(predictions, labels), abs=1e-15)
    ratios = [abs(math.log(p / y)) for y, p in rows]
    assert alpr(labels, predictions) * math.log(2) == pytest.approx(np.mean(ratios), abs=1e-13)


def test_metrics_by_hand():
    log1p = [math.log(111 / 101), math.log(51 / 26), 0, math.log(161 / 81)]
    assert log_mae(LABELS, PREDICTIONS) == pytest.approx(sum(log1p) / 4, rel=1e-14)
    assert mae(LABELS, PREDICTIONS) == (10 + 25 + 0 + 80) / 4
    assert rmse(LABELS, PREDICTIONS) == math.sqrt((10**2 + 25**2 + 80**2) / 4)
    assert mape(LABELS, PREDICTIONS) == pytest.approx((0.1 + 0.5 + 0 + 1) / 4, rel=1e-15)
    assert pcoc(LABELS, PREDICTIONS) == 495 / 430
    # ln of 1.1, .5, 1, 2: the middle two are 1 and 1.1.
    assert log_bias(LABELS, PREDICTIONS) == pytest.approx(math.log(1.1) / 2, rel=1e-13)
    assert log_bias(LABELS[:3], PREDICTIONS[:3]) == 0


def test_metrics_of_partial_labels():
    # Each click buys 3 times for 100; the best constant for labels of 100, 200, 300 is 200.
    final, prediction = [300.0] * 3, [200.0] * 3
    assert pcoc(final, prediction) == pytest.approx(2 / 3)
    assert alpr(final, prediction) == pytest.approx(math.log2(1.5))
    assert log_bias(final, prediction) == pytest.approx(math.log(2 / 3))


def test_predictions_of_zero():
    scores = evaluate_gmv([1.0, 2.0, 4.0], [0.0, 0.0, 4.0])
    assert scores.alpr == math.inf
    assert scores.log_bias == -math.inf
    assert scores.log_mae == pytest.approx((math.log(2) + math.log(3)) / 3)
    assert (scores.acc, scores.mape, scores.pcoc) == (1 / 3, 2 / 3, 4 / 7)
    assert log_bias([1.0, 1.0, 1.0], [0.0, 1.0, 3.0]) == 0


def test_tiny_labels_are_replaced_where_errors_are_relative():
    assert mape([1e-10], [1e-8]) == pytest.approx(0.99)
    assert accuracy([1e-10], [1e-9]) == 1
    assert alpr([1e-10], [1e-9]) == pytest.approx(math.log2(10))


# ------------------------------------------------------------------------------- whole slices


def test_evaluate_gathers_every_metric():
    labels, predictions = random_rows(5, 400, levels=10.0)
    scores = evaluate_gmv(labels, predictions)
    metrics = (pairwise_auc, accuracy, alpr, log_mae, mae, rmse, mape, pcoc, log_bias)
    assert scores == GmvScores(*(metric(labels, predictions) for metric in metrics), 400)
    assert {type(value) for value in scores} == {float, int}


def test_evaluate_recovers_the_law_of_the_errors():
    labels, predictions = random_rows(6, 200_000)
    scores = evaluate_gmv(labels, predictions)
    # Errors of mean .1 and sd .8 in logarithms; sd of their median .8 sqrt(pi / 2 / 2e5) = .0022.
    assert scores.log_bias == pytest.approx(0.1, abs=0.009)
    assert scores.pcoc == pytest.approx(math.exp(0.1 + 0.8**2 / 2), abs=0.04)
    mean_size = 0.8 * math.sqrt(2 / math.pi) * math.exp(-(0.1**2) / (2 * 0.8**2)) + 0.1 * math.erf(
        0.1 / (0.8 * math.sqrt(2))
    )
    assert scores.alpr == pytest.approx(mean_size / math.log(2), abs=0.006)


def test_slice_wise_and_pooled_scores_differ_when_levels_shift():
    cheap, dear = ([1.0, 2.0], [3.0, 4.0]), ([8.0, 9.0], [1.0, 2.0])
    mean, count, left_out = slice_mean([evaluate_gmv(*rows).auc for rows in (cheap, dear)])
    assert (mean, count, left_out) == (1, 2, 0)
    pooled = evaluate_gmv(*(np.concatenate(pair) for pair in zip(cheap, dear, strict=True)))
    assert pooled.auc == 2 / 6


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, np.float32])
def test_numbers_of_any_type_score_alike(dtype):
    labels, predictions = [1, 100, 7, 50], [2, 90, 9, 50]
    expected = evaluate_gmv(labels, predictions)
    assert evaluate_gmv(np.array(labels, dtype), np.array(predictions, dtype)) == expected


def test_arguments_are_left_as_they_are():
    labels, predictions = random_rows(7)
    before = labels.copy(), predictions.copy()
    evaluate_gmv(labels, predictions)
    np.testing.assert_array_equal(labels, before[0])
    np.testing.assert_array_equal(predictions, before[1])


# ---------------------------------------------------------------------------------- bad input

AMOUNT_METRICS = [accuracy, alpr, log_mae, mape, pcoc, log_bias, evaluate_gmv]
METRICS = [pairwise_auc, mae, rmse, *AMOUNT_METRICS]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([1, 2], [1.5], "labels and predictions must have one length, got 2 and 1"),
        ([], [], r"labels must be .* not empty, got shape \(0,\)"),
        ([1, 2], [], "predictions must be .* not empty"),
        ([[1, 2]], [[1, 2]], r"labels must be one-dimensional .* got shape \(1, 2\)"),
        ([1, math.inf], [1, 2], "labels must be finite, got inf in row 1"),
        ([1, 2], [math.nan, 2], "predictions must be finite, got nan in row 0"),
        (["1", "2"], [1, 2], "labels must be real numbers"),
    ],
)
def test_metric_rejects_bad_rows(metric, labels, predictions, message):
    with pytest.raises(ValueError, match=message):
        metric(labels, predictions)


@pytest.mark.parametrize("metric", AMOUNT_METRICS)
def test_metric_rejects_amounts_outside_their_range(metric):
    with pytest.raises(ValueError, match=r"labels must be > 0, got 0\.0 in row 1"):
        metric([1, 0], [1, 2])
    with pytest.raises(ValueError, match=r"predictions must be >= 0, got -1e-09 in row 1"):
        metric([1, 2], [1, -1e-9])


@pytest.mark.parametrize("tolerance", [-0.1, math.inf, math.nan])
def test_accuracy_rejects_a_bad_tolerance(tolerance):
    with pytest.raises(ValueError, match="tolerance must be finite and >= 0, got"):
        accuracy([1], [1], tolerance)
