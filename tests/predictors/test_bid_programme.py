import numpy as np
import pytest
from scipy.optimize import linprog

from predictors.bid_programme import (
    Auctions,
    Duals,
    Limits,
    plain_bids,
    programme_bids,
    score_bids,
    solve_duals,
)
from scenarios.noisy_auctions import draw

INF = float("inf")


def highs(auctions, limits):
    """The primal by HiGHS: value and shares."""
    scale = auctions.price.mean()
    rows = np.array([auctions.price, auctions.price - limits.cpc * auctions.ctr]) / scale
    limit = [limits.budget / scale, 0]
    found = linprog(-auctions.value, A_ub=rows, b_ub=limit, bounds=(0, 1), method="highs-ds")
    return -found.fun, found.x


def test_by_hand():
    # Budget 3: the ratios are 2, 1, .5; buys the first and half of the second: 2 + 1 = 3, p = 1.
    auctions = Auctions(np.array([1.0, 4.0, 2.0]), np.ones(3), np.array([2.0, 4.0, 1.0]))
    duals = solve_duals(auctions, Limits(3.0))
    assert duals == Duals(1.0, 0.0, 4.0)
    np.testing.assert_allclose(
        programme_bids(np.ones(3), auctions.value, duals, Limits(3.0)), auctions.value
    )


@pytest.mark.parametrize("count", [1, 3, 20, 300])
@pytest.mark.parametrize("budget", [0.02, 0.1, 0.2, 0.8])
@pytest.mark.parametrize("cpc", [0.05, 0.12, 0.2, 0.7, 1.0])
def test_duals_equal_highs(count, budget, cpc):
    drawn = draw(count, count)
    limits = drawn.limits(budget, cpc)
    value, share = highs(drawn.truth, limits)
    duals = solve_duals(drawn.truth, limits)
    assert duals.objective == pytest.approx(value, rel=1e-8, abs=1e-12)
    fractional = (share > 1e-7) & (share < 1 - 1e-7)
    assert fractional.sum() <= 2
    price = drawn.price
    gain = drawn.truth.value - duals.budget * price - duals.cpc * (price - limits.cpc * drawn.ctr)
    at_dual = duals.budget * limits.budget + np.maximum(gain, 0).sum()
    assert at_dual == pytest.approx(value, rel=1e-8, abs=1e-12)
    bids = programme_bids(drawn.ctr, drawn.truth.value, duals, limits)
    clear = ~fractional & (np.abs(bids - price) > 1e-6 * price)
    np.testing.assert_array_equal((bids >= price)[clear], (share > 0.5)[clear])


def test_both_constraints_can_bind():
    drawn = draw(1000, 5)
    cheap = solve_duals(drawn.truth, Limits(INF, drawn.limits().cpc))
    spend = score_bids(
        programme_bids(drawn.ctr, drawn.truth.value, cheap, drawn.limits()), drawn.truth
    ).spend
    limits = Limits(0.8 * spend, drawn.limits().cpc)
    duals = solve_duals(drawn.truth, limits)
    assert duals.objective == pytest.approx(highs(drawn.truth, limits)[0], rel=1e-8)
    assert duals.budget > 0


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_budget_only_bids_do_not_depend_on_the_scale(factor):
    drawn = draw(500, 1)
    limits, truth = drawn.limits(cpc_share=INF), drawn.truth
    bids, duals = plain_bids(truth, limits)
    scaled = Auctions(truth.price, factor * truth.ctr, factor * truth.value)
    again, other = plain_bids(scaled, limits)
    assert other.budget == pytest.approx(factor * duals.budget, rel=1e-12)
    np.testing.assert_allclose(again, bids, rtol=1e-12)


def test_bids_meet_the_limits_up_to_the_marginal_auction():
    drawn = draw(2000, 2)
    for cpc in (0.2, INF):
        limits = drawn.limits(cpc_share=cpc)
        found = score_bids(plain_bids(drawn.truth, limits)[0], drawn.truth)
        assert found.spend <= limits.budget + drawn.price.max()
        assert found.cpc <= limits.cpc * 1.01


def test_nothing_binds():
    drawn = draw(50, 3)
    bids, duals = plain_bids(drawn.truth, Limits(), max_bid=9.0)
    assert (duals.budget, duals.cpc) == (0.0, 0.0)
    assert duals.objective == pytest.approx(drawn.truth.value.sum())
    assert (bids == 9.0).all()
    assert programme_bids([0.1], [0.0], duals, Limits()).tolist() == [0.0]  # worth nothing


def test_no_budget_buys_nothing():
    drawn = draw(50, 4)
    duals = solve_duals(drawn.truth, Limits(0.0))
    assert duals.objective == 0.0
    assert duals.budget == pytest.approx((drawn.truth.value / drawn.price).max())
    assert solve_duals(drawn.truth, Limits(INF, 0.0)).objective == pytest.approx(0.0, abs=1e-9)


def test_free_auctions_are_bought():
    auctions = Auctions(np.array([0.0, 1.0]), np.array([0.1, 0.1]), np.array([0.5, 0.5]))
    assert solve_duals(auctions, Limits(0.0)).objective == pytest.approx(0.5)


def test_worthless_auctions():
    auctions = Auctions(np.ones(3), np.zeros(3), np.zeros(3))
    for limits in (Limits(1.0), Limits(1.0, 2.0), Limits(0.0, 0.0)):
        assert solve_duals(auctions, limits).objective == 0.0


@pytest.mark.parametrize(
    ("auctions", "limits", "said"),
    [
        ((np.ones(2), np.ones(2), np.ones(3)), Limits(), "value must have length 2, got 3"),
        ((np.array([]),) * 3, Limits(), "price must be one-dimensional and not empty"),
        ((np.array([-1.0]), np.ones(1), np.ones(1)), Limits(), "price must be finite and >= 0"),
        ((np.ones(1), np.array([np.nan]), np.ones(1)), Limits(), "ctr must be finite and >= 0"),
        ((np.ones(1),) * 3, Limits(-1.0), "budget must be >= 0, got -1.0"),
        ((np.ones(1),) * 3, Limits(1.0, np.nan), "cpc must be >= 0, got nan"),
    ],
)
def test_wrong_input_is_named(auctions, limits, said):
    with pytest.raises(ValueError, match=said):
        solve_duals(Auctions(*auctions), limits)
    with pytest.raises(ValueError, match="max_bid must be > 0"):
        programme_bids([0.1], [0.1], Duals(1, 0, 0), Limits(1), max_bid=0)
