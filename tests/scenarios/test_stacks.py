import numpy as np
import pytest
from scipy.special import expit
from small_stacks import SMALL, small_warm_up

from adsim.types import Estimate, Impressions, Target
from predictors.denoise_bid import DenoiseBid, log_odds
from predictors.logit_mixture import LogitMixture
from scenarios.build import make_auction_env
from scenarios.requests import sample_requests
from scenarios.rungs import STACKS
from scenarios.schema import load
from scenarios.stack import Stack
from scenarios.stacks import fitted_correctors, make_stack


class Fixed:
    """Estimates CVR as it is told."""

    targets, privileged = frozenset({Target.CVR}), False

    def __init__(self, cvr):
        self.cvr = np.asarray(cvr, np.float64)

    def predict(self, impressions):
        return {Target.CVR: Estimate(self.cvr, np.zeros_like(self.cvr))}

    def partial_fit(self, window):
        return self


def test_correction_lies_between_the_platform_and_the_predictor():
    # Truth - predicted ~ N(0, .25) and noise of variance .25: half of the way, variance .125.
    corrector = DenoiseBid(1)
    corrector.prior = LogitMixture(np.ones(1), np.zeros((1, 1)), np.full((1, 1, 1), 0.25), False)
    stack = Stack({Target.CVR: Fixed(expit(np.array([-2.0])))}, correctors={Target.CVR: corrector})
    obs = {
        "pctr": np.array([0.1]),
        "pcvr": expit(np.array([-1.0])),
        "pcvr_std": np.array([0.5]),
        "list_price": np.array([10.0]),
    }
    one = np.ones(1, np.int8)
    shown = Impressions(np.zeros(1), np.zeros(1), np.zeros((1, 2), np.int32), np.zeros(1), one)
    found = stack.estimate(obs, shown, 0.3)
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    expected = expit(-1.5 + np.sqrt(0.125) * nodes) @ (weights / weights.sum())
    assert found.cvr[0] == pytest.approx(expected, rel=1e-6)
    assert found.expected_net_value[0] == pytest.approx(0.3 * 0.1 * expected * 10.0, rel=1e-6)


def test_prior_of_the_difference_is_found():
    # Truth = predicted + N(0, .5^2), platform = truth + N(0, .3^2), 4,000 requests.
    rng = np.random.default_rng(0)
    base = rng.normal(-3.0, 1.0, 4_000)
    truth = base + 0.5 * rng.standard_normal(4_000)
    shown = truth + 0.3 * rng.standard_normal(4_000)
    corrector = DenoiseBid(1).fit_logits(shown, 0.3, base)
    assert np.sqrt(corrector.prior.covariance[0, 0, 0]) == pytest.approx(0.5, abs=0.03)
    found = corrector.correct_logits(shown, np.full(4_000, 0.3), base)
    error = np.std(log_odds(found.mean) - truth)
    # Precision adds up: 1 / sqrt(1 / .5^2 + 1 / .3^2) = .257.
    assert error == pytest.approx(0.257, abs=0.01)


def test_exact_platform_is_believed():
    requests = sample_requests(load("default", SMALL | {"platform_noise.cvr_sd": 0.0}).world, 400)
    given = Fixed(np.full(len(requests.pcvr), 0.07))
    corrector = fitted_correctors([Target.CVR], {Target.CVR: given}, requests)[Target.CVR]
    found = corrector.correct_logits(log_odds(requests.pcvr), 0.0, log_odds(given.cvr))
    np.testing.assert_allclose(found.mean, requests.pcvr, rtol=1e-9)


def test_requests_come_from_all_hours_and_are_not_the_campaigns():
    config = load("default", SMALL).world
    requests, again = sample_requests(config, 160), sample_requests(config, 160)
    assert len(requests.features) == pytest.approx(160, rel=0.2)  # arrivals are random
    np.testing.assert_array_equal(requests.pctr, again.pctr)
    assert len(sample_requests(config, 40).pctr) == pytest.approx(40, abs=config.time.num_ticks)
    assert (requests.pctr_std == config.platform_noise.ctr_sd).all()
    shown = make_auction_env(overrides=SMALL).reset(seed=0)[0]["pctr"]
    assert not np.isin(shown[shown > 0], requests.pctr).any()


@pytest.mark.parametrize("name", STACKS)
def test_every_stack_has_a_name(name):
    if name in ("platform", "oracle"):
        assert make_stack(name).privileged is (name == "oracle")
        return
    with pytest.raises(ValueError, match="need a warm-up"):
        make_stack(name)


def test_unknown_stack_is_named():
    with pytest.raises(ValueError, match=r"estimates 'best' do not exist: one of platform, fnc"):
        make_stack("best", small_warm_up())
