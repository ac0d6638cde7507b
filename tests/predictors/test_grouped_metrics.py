import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictors import metrics
from predictors.grouped_metrics import auc_by_group, gauc, soft_auc, soft_nll


def brute_force(weight, scores):
    """Weighted pairs of different rows in order, over all of them."""
    weight, scores = np.asarray(weight, float), np.asarray(scores, float)
    pairs = weight[:, None] * (1 - weight)
    np.fill_diagonal(pairs, 0)
    order = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    return (pairs * order).sum() / pairs.sum() if pairs.sum() > 0 else math.nan


@pytest.mark.parametrize(
    ("weight", "scores", "expected"),
    [
        ([0.75, 0.25], [2, 1], 0.9),  # 9/16 in order, 1/16 reversed
        ([0.75, 0.25], [1, 2], 0.1),
        ([0.75, 0.25], [1, 1], 0.5),
        ([0.5, 0.5, 0.5], [1, 2, 3], 0.5),
        ([1, 0.5], [2, 1], 1.0),  # the certain positive is never the lower one of a pair
        ([1, 0.5], [1, 2], 0.0),
        ([1, 0, 1, 0], [math.inf, 0, -math.inf, 0], 0.5),
    ],
)
def test_soft_auc_by_hand(weight, scores, expected):
    assert soft_auc(weight, scores) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("weight", [[0.3], [1, 1], [0, 0, 0], [0]])
def test_soft_auc_without_a_pair_is_undefined(weight):
    assert math.isnan(soft_auc(weight, np.zeros(len(weight))))


ROWS = st.lists(
    st.tuples(st.sampled_from([0, 0.1, 0.5, 0.9, 1]), st.integers(-3, 3), st.integers(0, 3)),
    min_size=1,
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(ROWS)
def test_groups_equal_brute_force(rows):
    weight, scores, group = map(np.array, zip(*rows, strict=True))
    found = auc_by_group(weight, scores, group)
    assert found.ids.tolist() == sorted(set(group.tolist()))
    expected = [brute_force(weight[group == k], scores[group == k]) for k in found.ids]
    np.testing.assert_allclose(found.auc, expected, atol=1e-12)
    assert found.rows.tolist() == [(group == k).sum() for k in found.ids]
    np.testing.assert_allclose(soft_auc(weight, scores), brute_force(weight, scores), atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=40))
def test_labels_give_the_plain_metrics_exactly(rows):
    labels, scores = map(np.array, zip(*rows, strict=True))
    np.testing.assert_equal(soft_auc(labels, scores), metrics.auc(labels, scores))
    assert soft_nll(labels, scores / 4) == pytest.approx(metrics.nll(labels, scores / 4))


def test_auc_of_truth_is_what_labels_average_to():
    rng = np.random.default_rng(0)
    truth, noise = rng.beta(1, 9, 4_000), rng.normal(size=4_000)
    scores = truth + 0.05 * noise
    drawn = [soft_auc(rng.random(truth.size) < truth, scores) for _ in range(200)]
    error = np.std(drawn) / math.sqrt(200)
    assert abs(np.mean(drawn) - soft_auc(truth, scores)) < 3 * error


def test_gauc_weighs_groups_by_their_rows():
    weight, scores = [1, 0, 1, 0, 0, 1], [3, 2, 1, 1, 2, 9]
    # User 7: 1 of 2 rows; user 8: 1/4 of 3 rows; user 9 has no negative.
    assert gauc(weight, scores, [7, 7, 8, 8, 8, 9]) == pytest.approx((2 * 1 + 3 * 0.25) / 5)
    assert math.isnan(gauc([1, 0], [1, 2], [0, 1]))


def test_group_order_does_not_matter():
    rng = np.random.default_rng(1)
    weight, scores, group = rng.random(500), rng.integers(0, 9, 500), rng.integers(-5, 40, 500)
    mixed = rng.permutation(500)
    one = auc_by_group(weight, scores, group)
    two = auc_by_group(weight[mixed], scores[mixed], group[mixed])
    assert one.ids.tolist() == two.ids.tolist()
    np.testing.assert_allclose(one.auc, two.auc, atol=1e-12)


def test_soft_nll_by_hand():
    expected = -(0.25 * math.log(0.5) + 0.75 * math.log(0.5) + math.log(0.8)) / 2
    assert soft_nll([0.25, 1], [0.5, 0.8]) == pytest.approx(expected)
    assert soft_nll([0, 1], [0, 1]) == 0
    assert soft_nll([1, 0.5], [0, 0]) == (100 + 50) / 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_auc([], []), "weight must be one-dimensional and not empty"),
        (lambda: soft_auc([1, 0], [1]), "weight and scores must have one length, got 2 and 1"),
        (lambda: soft_auc([1, 1.5], [1, 2]), r"weight must be in \[0, 1\], got 1.5 in row 1"),
        (lambda: soft_auc([1, 0], [1, math.nan]), "scores must be numbers, not NaN"),
        (lambda: gauc([1, 0], [1, 2], [0]), r"group must be integers of shape \(2,\)"),
        (lambda: gauc([1, 0], [1, 2], [0.0, 1.0]), "group must be integers"),
        (lambda: soft_nll([1, 0], [1, 2]), r"probabilities must be in \[0, 1\], got 2.0"),
        (lambda: soft_nll([math.nan], [1]), r"weight must be in \[0, 1\], got nan"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
