import numpy as np
import pytest

from predictors.logit_mixture import (
    LogitMixture,
    _step,
    checked_mixture,
    fit_mixture,
    posterior,
)
from scenarios.noisy_auctions import TRUE_PRIOR

ONE = LogitMixture(np.array([1.0]), np.array([[-2.0]]), np.array([[[0.5]]]))


def pair(covariance, mean=(-2.0, -1.0)):
    return LogitMixture(np.array([1.0]), np.array([mean]), np.array([covariance], float))


def test_posterior_of_one_component_is_normal_normal():
    # y = 1, s^2 = .25, m = -2, V = .5: precision 4 + 2, mean (4 - 4) / 6 = 0, variance 1/6.
    found = posterior(ONE, np.array([[1.0]]), np.array([[0.5]]))
    assert found.mean[0, 0, 0] == pytest.approx(0.0, abs=1e-10)
    assert found.covariance[0, 0, 0, 0] == pytest.approx(1 / 6, rel=1e-10)


def test_posterior_in_two_dimensions_is_normal_normal():
    prior = np.array([[0.6, 0.3], [0.3, 0.9]])
    y, s = np.array([[0.5], [-3.0]]), np.array([[0.4], [1.5]])
    found = posterior(pair(prior), y, s)
    noise = np.diag(s[:, 0] ** 2)
    covariance = np.linalg.inv(np.linalg.inv(prior) + np.linalg.inv(noise))
    mean = np.linalg.solve(prior, [-2.0, -1.0]) + np.linalg.solve(noise, y[:, 0])
    np.testing.assert_allclose(found.covariance[:, :, 0, 0], covariance, rtol=1e-9)
    np.testing.assert_allclose(found.mean[:, 0, 0], covariance @ mean, rtol=1e-9)


def test_no_noise_returns_the_prediction_exactly():
    y = np.array([[-7.0, 0.0, 30.0]])
    found = posterior(TRUE_PRIOR, y, np.zeros((1, 3)))
    assert (found.mean == y[:, None]).all()
    assert (found.covariance == 0).all()


def test_infinite_noise_returns_the_prior():
    y = np.full((1, 2), 5.0)
    s = np.array([[1e6, 1e6]])
    found = posterior(TRUE_PRIOR, y, s)
    np.testing.assert_allclose(found.weight[:, 0], TRUE_PRIOR.weight, rtol=1e-9)
    np.testing.assert_allclose(found.mean[0, :, 0], TRUE_PRIOR.mean[:, 0], rtol=1e-9)
    np.testing.assert_allclose(found.covariance[0, 0, :, 0], TRUE_PRIOR.covariance[:, 0, 0], 1e-9)


def test_point_prior_returns_its_mean():
    point = ONE._replace(covariance=np.zeros((1, 1, 1)))
    found = posterior(point, np.array([[3.0, 3.0]]), np.array([[0.1, 5.0]]))
    np.testing.assert_allclose(found.mean, -2.0, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, 0.0, atol=1e-9)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1.0, 1e6])
def test_singular_covariance_is_no_exception(noise):
    # z_2 = z_1 + 1 for sure: both predictions inform both, so the means keep the distance 1.
    found = posterior(pair([[1.0, 1.0], [1.0, 1.0]]), np.zeros((2, 1)), np.full((2, 1), noise))
    assert np.isfinite(np.concatenate([found.mean.ravel(), found.covariance.ravel()])).all()
    if noise == 1.0:
        assert found.mean[1, 0, 0] - found.mean[0, 0, 0] == pytest.approx(1.0, abs=1e-9)
    if noise == 0.0:
        assert (found.mean == 0).all()


def test_far_from_all_components_the_nearest_takes_over():
    found = posterior(TRUE_PRIOR, np.array([[600.0, -600.0]]), np.full((1, 2), 1e-3))
    np.testing.assert_allclose(found.weight.sum(axis=0), 1.0)
    np.testing.assert_allclose(found.mean[0].max(axis=0), [600.0, -600.0], rtol=1e-3)


def test_identical_components_are_one():
    rng = np.random.default_rng(0)
    y, s = rng.normal(-2, 2, (1, 50)), rng.uniform(0, 3, (1, 50))
    three = LogitMixture(
        np.array([0.2, 0.3, 0.5]), np.repeat(ONE.mean, 3, 0), np.repeat(ONE.covariance, 3, 0)
    )
    one, many = posterior(ONE, y, s), posterior(three, y, s)
    np.testing.assert_allclose((many.weight * many.mean[0]).sum(0), one.mean[0, 0], rtol=1e-12)
    np.testing.assert_allclose(many.covariance[0, 0, 2], one.covariance[0, 0, 0], rtol=1e-12)


def test_component_without_weight_stays_without():
    mixture = TRUE_PRIOR._replace(weight=np.array([0.5, 0.5, 0.0]))
    found = posterior(mixture, np.array([[-1.0, 600.0]]), np.array([[0.5, 0.5]]))
    assert (found.weight[2] == 0).all()
    assert np.isfinite(found.weight).all()


def test_component_without_mass_keeps_its_place():
    far = TRUE_PRIOR._replace(mean=np.array([[-3.0], [-2.5], [500.0]]))
    y = np.random.default_rng(6).normal(-3, 0.5, (1, 40))
    moved, raised = _step(far, y, np.full((1, 40), 0.1), 1e-4)
    assert moved.mean[2, 0] == 500.0
    assert moved.covariance[2, 0, 0] == far.covariance[2, 0, 0]
    assert moved.weight[2] == 0.0
    assert moved.weight.sum() == pytest.approx(1.0)
    assert not raised


@pytest.mark.parametrize("noise", [0.0, 0.5, 1.0])
def test_fit_recovers_two_components(noise):
    # 20,000 draws: the standard error of a mean is about .01 to .03 with noise.
    rng = np.random.default_rng(1)
    second = rng.random(20_000) < 0.3
    z = np.where(second, -1.0, -4.0) + np.where(second, 0.4, 0.6) * rng.standard_normal(20_000)
    s = noise * rng.uniform(0.5, 1.5, (1, 20_000))
    fit = fit_mixture(z + s * rng.standard_normal(s.shape), s, 2)
    order = np.argsort(fit.mean[:, 0])
    np.testing.assert_allclose(fit.weight[order], [0.7, 0.3], atol=0.03)
    np.testing.assert_allclose(fit.mean[order, 0], [-4.0, -1.0], atol=0.1)
    np.testing.assert_allclose(np.sqrt(fit.covariance[order, 0, 0]), [0.6, 0.4], atol=0.1)
    assert fit.converged
    assert not fit.at_floor


def test_fit_recovers_correlation():
    rng = np.random.default_rng(2)
    prior = np.array([[0.8, 0.4], [0.4, 0.5]])
    z = rng.multivariate_normal([-3, -2], prior, 20_000).T
    s = np.array([[0.5], [1.0]]) * np.ones_like(z)
    fit = fit_mixture(z + s * rng.standard_normal(z.shape), s, 1)
    np.testing.assert_allclose(fit.mean[0], [-3, -2], atol=0.04)
    np.testing.assert_allclose(fit.covariance[0], prior, atol=0.05)


def test_fit_is_not_stuck_under_wide_noise():
    # Noise sd 4.64 against .84: the published 300 steps from var(y) stop at an sd of 1.28.
    rng = np.random.default_rng(3)
    z = rng.normal(-2.5, 0.84, (1, 100_000))
    s = np.full(z.shape, 4.64)
    fit = fit_mixture(z + s * rng.standard_normal(z.shape), s, 1)
    assert fit.covariance[0, 0, 0] == pytest.approx(0.84**2, abs=3 * 22.2 * (2 / 1e5) ** 0.5)


def test_rows_without_information_are_left_out():
    rng = np.random.default_rng(4)
    y, s = rng.normal(-2, 1, (1, 400)), np.full((1, 400), 0.5)
    with_more = (
        np.concatenate([y, np.full((1, 9), 50.0)], 1),
        np.concatenate([s, np.full((1, 9), np.inf)], 1),
    )
    np.testing.assert_array_equal(fit_mixture(*with_more, 2).mean, fit_mixture(y, s, 2).mean)


@pytest.mark.parametrize("axes", [1, 2])
def test_overstated_noise_meets_the_floor(axes):
    y = np.random.default_rng(5).normal(-2, 1, (axes, 500))
    fit = fit_mixture(y, np.full(y.shape, 3.0), 2)
    assert fit.at_floor
    assert np.isfinite(fit.mean).all()
    assert np.linalg.eigvalsh(fit.covariance).min() >= 1e-4 * (1 - 1e-9)


def test_constant_predictions_are_fitted():
    fit = fit_mixture(np.full((2, 30), -3.0), np.zeros((2, 30)), 3)
    np.testing.assert_allclose(fit.mean, -3.0)
    assert fit.at_floor


@pytest.mark.parametrize(("count", "axes", "components"), [(0, 1, 1), (3, 1, 2), (5, 2, 2)])
def test_too_few_rows_are_refused(count, axes, components):
    with pytest.raises(ValueError, match=f"need at least {components * (axes + 1)} "):
        fit_mixture(np.zeros((axes, count)), np.ones((axes, count)), components)


@pytest.mark.parametrize(
    ("logit", "noise", "said"),
    [
        ([[0.0, np.nan]], 1.0, "logit must be in"),
        ([[0.0, np.inf]], 1.0, "logit must be in"),
        ([[0.0, 1.0]], [[1.0, -1.0]], "noise must be >= 0, got -1.0 in row 1"),
        ([[0.0, 1.0]], np.nan, "noise must be >= 0, got nan"),
        ([0.0, 1.0], 1.0, "logit must have shape"),
        ([[0.0, 1.0]], [[1.0, 1.0, 1.0]], "noise must fit"),
    ],
)
def test_wrong_rows_are_named(logit, noise, said):
    with pytest.raises(ValueError, match=said):
        fit_mixture(np.array(logit), np.array(noise), 1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"weight": np.array([0.9])}, "add up to 1"),
        ({"weight": np.array([0.5, 0.5])}, "must have shapes"),
        ({"mean": np.array([[np.nan]])}, "finite"),
        ({"mean": np.zeros((1, 3))}, "D 1 or 2"),
        ({"covariance": np.array([[[-1.0]]])}, "semidefinite"),
    ],
)
def test_wrong_mixtures_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        checked_mixture(ONE._replace(**change))
