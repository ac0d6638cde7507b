import numpy as np
import pytest

from predictors.logit_expectation import expected_probability, expected_product
from predictors.logit_mixture import Posterior


def normal(mean, variance):
    mean, variance = np.atleast_1d(mean).astype(float), np.atleast_1d(variance).astype(float)
    return Posterior(np.ones((1, mean.size)), mean[None, None], variance[None, None, None])


def pair(mean, covariance):
    return Posterior(
        np.ones((1, 1)), np.reshape(mean, (2, 1, 1)), np.reshape(covariance, (2, 2, 1, 1))
    )


def by_sum(mean, sd):
    """E[sigmoid(N(mean, sd^2))] by a fine trapezoid."""
    z = np.linspace(-12, 12, 200_001)
    density = np.exp(-(z**2) / 2)
    return float((density / (1 + np.exp(-(mean + sd * z)))).sum() / density.sum())


@pytest.mark.parametrize("variance", [0.0, 0.1, 1.0, 4.0, 100.0])
def test_symmetry(variance):
    found = expected_probability(normal([0.0, 1.7, -1.7], [variance] * 3)).mean
    assert found[0] == pytest.approx(0.5, abs=1e-14)
    assert found[1] + found[2] == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("mean", [-6.0, -4.0, -1.0, 0.5])
@pytest.mark.parametrize("variance", [0.1, 1.0, 4.0])
def test_quadrature_equals_a_fine_sum(mean, variance):
    found = expected_probability(normal(mean, variance)).mean[0]
    assert found == pytest.approx(by_sum(mean, variance**0.5), rel=1e-5)


@pytest.mark.parametrize(
    ("mean", "variance", "excess"),
    [
        *((-4, 0.1, 0.028), (-6, 0.1, 0.067), (-4, 0.5, 0.11), (-6, 0.5, 0.30)),
        *((-4, 1, 0.16), (-6, 1, 0.52), (-4, 2, 0.17), (-6, 2, 0.72)),
    ],
)
def test_closed_form_is_too_high_for_rare_events(mean, variance, excess):
    at = normal(mean, variance)
    ratio = expected_probability(at, probit=True).mean / expected_probability(at).mean
    assert ratio[0] - 1 == pytest.approx(excess, abs=0.006)


def test_std_of_a_certain_value_is_zero():
    found = expected_probability(normal([-5.0, 0.0, 700.0], [0.0] * 3))
    np.testing.assert_allclose(found.std, 0.0, atol=1e-15)
    np.testing.assert_allclose(found.mean, [1 / (1 + np.exp(5.0)), 0.5, 1.0], rtol=1e-14)


def test_mixture_mean_and_std_by_hand():
    # Two sure values .2 and .6 at weights 1/4 and 3/4: mean .5, variance .25 x .75 x .16 = .03.
    weight = np.array([[0.25], [0.75]])
    at = np.log([[0.25], [1.5]])[None]
    found = expected_probability(Posterior(weight, at, np.zeros((1, 1, 2, 1))))
    assert found.mean[0] == pytest.approx(0.5, rel=1e-14)
    assert found.std[0] == pytest.approx(0.03**0.5, rel=1e-12)


# Variance 4: the stated errors at mean (-3, -2), correlation .5.
@pytest.mark.parametrize(("variance", "error"), [(1.0, 5e-4), (2.0, 2.5e-3), (4.0, 1.2e-2)])
def test_product_of_five_nodes_is_close(variance, error):
    at = pair([-3.0, -2.0], variance * np.array([[1.0, 0.5], [0.5, 1.0]]))
    exact = expected_product(at, nodes=60).mean[0]
    assert abs(expected_product(at).mean[0] / exact - 1) <= error


def test_product_without_correlation_is_that_of_the_means():
    at = pair([-2.0, -1.0], np.diag([0.5, 0.8]))
    ctr, cvr = expected_probability(at, 0), expected_probability(at, 1)
    product = expected_product(at, nodes=24)
    assert product.mean[0] == pytest.approx(ctr.mean[0] * cvr.mean[0], rel=1e-9)
    squares = [part.mean[0] ** 2 + part.std[0] ** 2 for part in (ctr, cvr)]
    assert product.std[0] ** 2 == pytest.approx(
        squares[0] * squares[1] - product.mean[0] ** 2, rel=1e-6
    )


def test_product_of_equal_values_is_the_square():
    at = pair([-1.0, -1.0], np.ones((2, 2)))  # singular: both are one value
    both, one = expected_product(at, nodes=24), expected_probability(at, 0)
    assert both.mean[0] == pytest.approx(one.mean[0] ** 2 + one.std[0] ** 2, rel=1e-7)


def test_many_rows_equal_one_by_one():
    rng = np.random.default_rng(0)
    mean, variance = rng.normal(-3, 1, 9000), rng.uniform(0, 2, 9000)  # more than a block
    found = expected_probability(normal(mean, variance))
    some = expected_probability(normal(mean[::1000], variance[::1000]))
    np.testing.assert_allclose(found.mean[::1000], some.mean, rtol=1e-13)
    np.testing.assert_allclose(found.std[::1000], some.std, rtol=1e-11)


def test_no_rows_give_none():
    empty = Posterior(np.ones((2, 0)), np.ones((2, 2, 0)), np.ones((2, 2, 2, 0)))
    assert expected_probability(empty).mean.shape == (0,)
    assert expected_product(empty).std.shape == (0,)


def test_no_nodes_are_refused():
    with pytest.raises(ValueError, match="nodes must be >= 1, got 0"):
        expected_probability(normal(0.0, 1.0), nodes=0)
