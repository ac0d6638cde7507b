import numpy as np
import pytest
from scipy.special import expit as sigmoid

from adsim.types import Corrector, Estimate
from predictors.base import CORRECTORS
from predictors.bid_programme import Auctions, plain_bids, score_bids
from predictors.denoise_bid import DenoiseBid
from predictors.risk_bid import RiskBid, push_forward, risk_bids
from scenarios.noisy_auctions import draw


def estimate(mean, std):
    return Estimate(np.array(mean, float), np.array(std, float))


def test_it_is_a_registered_corrector():
    assert CORRECTORS["risk_bid"] is RiskBid
    assert isinstance(RiskBid(), Corrector)


def test_mean_less_risk_by_hand():
    given = estimate([0.1, 0.02, 0.99], [0.04, 0.06, 0.1])
    found = RiskBid(0.5).fit(given).correct(given)
    np.testing.assert_allclose(found.mean, [0.08, 0.0, 0.94])
    np.testing.assert_array_equal(found.std, given.std)
    np.testing.assert_allclose(RiskBid(-0.5).correct(given).mean, [0.12, 0.05, 1.0])


def test_relative_risk_by_hand():
    # norm = .3 / .6 = 1/2: .2 - .1 x .1 / .5
    given = estimate([0.2, 0.4], [0.1, 0.2])
    model = RiskBid(0.1, relative=True).fit(given)
    np.testing.assert_allclose(model.correct(given).mean, [0.18, 0.36])


def test_without_aversion_it_is_the_plain_bidder():
    drawn = draw(500, 0)
    limits = drawn.limits(cpc_share=np.inf)
    given = Estimate(drawn.ctr, 0.3 * drawn.ctr)
    found, _ = risk_bids(drawn.price, given, drawn.cvr, limits.budget, 0.0)
    np.testing.assert_array_equal(found, plain_bids(drawn.truth, limits)[0])


def test_bids_are_proportional_to_the_adjusted_value():
    drawn = draw(500, 1)
    given = Estimate(drawn.ctr, 0.5 * drawn.ctr * (1 - drawn.ctr))
    bids, duals = risk_bids(drawn.price, given, drawn.cvr, 2000.0, 0.5)
    adjusted = drawn.ctr - 0.5 * given.std
    np.testing.assert_allclose(bids, drawn.cvr * adjusted / duals.budget, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:the fitted law")
@pytest.mark.parametrize(
    ("noise", "mild", "strong"), [(0.1, 0.999, 0.999), (1.0, 0.899, 0.887), (2.154, 0.739, 0.609)]
)
def test_budget_only_table(noise, mild, strong):
    rows = []
    for seed in range(20):
        drawn = draw(1000, seed)
        limits, logit = drawn.limits(cpc_share=np.inf), drawn.noisy_logit(noise)
        a = sigmoid(logit)
        best = score_bids(plain_bids(drawn.truth, limits)[0], drawn.truth).conversions
        given = Estimate(a, noise * a * (1 - a))
        denoised = DenoiseBid(1).fit_logits(logit, noise).correct_logits(logit, noise).mean
        bids = [
            plain_bids(Auctions(drawn.price, denoised, denoised * drawn.cvr), limits)[0],
            plain_bids(Auctions(drawn.price, a, a * drawn.cvr), limits)[0],
            risk_bids(drawn.price, given, drawn.cvr, limits.budget, 0.1)[0],
            risk_bids(drawn.price, given, drawn.cvr, limits.budget, 0.5)[0],
        ]
        rows.append([score_bids(bid, drawn.truth).conversions / best for bid in bids])
    found = np.mean(rows, axis=0)
    # Both are means of 20 seeds with an sd of up to .03: their difference has one of .01.
    np.testing.assert_allclose(found[2:], [mild, strong], atol=0.03)
    if noise > 2:  # oracle > denoised > plain > RiskBid .1 > RiskBid .5
        assert (np.diff([1.0, *found]) < 0).all()


def test_push_forward():
    found = push_forward([0.0, -3.0, -3.0], [2.0, 0.0, 1.0])
    assert found.mean[0] == pytest.approx(0.5)
    np.testing.assert_allclose([found.mean[1], found.std[1]], [sigmoid(-3.0), 0.0], atol=1e-15)
    draws = sigmoid(-3 + np.random.default_rng(0).standard_normal(1_000_000))
    np.testing.assert_allclose(
        [found.mean[2], found.std[2]], [draws.mean(), draws.std()], rtol=5e-3
    )


def test_empty_batch():
    assert RiskBid().correct(estimate([], [])).mean.shape == (0,)
    assert push_forward([], []).mean.shape == (0,)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: RiskBid(np.nan), "aversion must be finite"),
        (lambda: RiskBid(relative=True).correct(estimate([0.1], [0.1])), "call fit"),
        (lambda: RiskBid(relative=True).fit(estimate([0.1], [0.0])), "must be positive"),
        (lambda: RiskBid().correct(estimate([1.1], [0.1])), "mean must be in"),
        (lambda: RiskBid().correct(estimate([0.1], [np.inf])), "std must be finite"),
        (lambda: RiskBid().correct(estimate([0.1], [0.1, 0.2])), "must both be"),
        (lambda: push_forward([0.0], [-1.0]), "variance >= 0"),
        (lambda: push_forward([np.nan], [1.0]), "must be finite"),
    ],
)
def test_wrong_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()
