import numpy as np
import pytest
from scipy.optimize import linprog

from adsim.oracle import EpisodeMarket
from adsim.scores import fractional_knapsack
from scenarios.bounds import constrained_bound


def market_of(value, cost):
    value, cost = np.array(value, np.float64), np.array(cost, np.float64)
    return EpisodeMarket(value, cost, np.zeros(value.size), np.zeros(value.size))


def test_bound_by_hand():
    # Worth 6, 4, 3 at 2 each; allowed are 4, 1, 1. The first leaves 2 of allowance, each of the
    # others uses up 1: all three are bought, for 13 - 6.
    market = market_of([6, 4, 3], [2, 2, 2])
    best = constrained_bound(market, 10.0, np.array([4.0, 1.0, 1.0]))
    assert (best.net_value, best.spend) == pytest.approx((7, 6))
    # Allowed 3, 1, 1: the first leaves 1, which pays for the second.
    best = constrained_bound(market, 10.0, np.array([3.0, 1.0, 1.0]))
    assert best.net_value == pytest.approx(4 + 2)
    assert best.allocation[:2] == pytest.approx([1, 1])
    # and with a budget of 2 for the first alone
    best = constrained_bound(market, 2.0, np.array([3.0, 1.0, 1.0]))
    assert (best.net_value, best.spend) == pytest.approx((4, 2))


@pytest.mark.parametrize("budget", [5.0, 1e6])
@pytest.mark.parametrize("tightness", [0.3, 0.6, 5.0])
def test_bound_is_that_of_the_linear_programme(budget, tightness):
    rng = np.random.default_rng(3)
    value, cost, credit = np.exp(rng.standard_normal((3, 200)))
    credit *= tightness
    best = constrained_bound(market_of(value, cost), budget, credit)
    lp = linprog(cost - value, A_ub=[cost, cost - credit], b_ub=[budget, 0], bounds=(0, 1))
    assert best.net_value == pytest.approx(-lp.fun, rel=1e-6)
    assert best.spend <= budget * (1 + 1e-9)
    assert best.allocation @ (cost - credit) <= 1e-9


def test_without_constraint_it_is_the_knapsack():
    market = market_of([6, 4, 3], [2, 2, 2])
    assert constrained_bound(market, 3.0).net_value == 4 + 1
    assert constrained_bound(market, 3.0).spend == fractional_knapsack([6, 4], [2, 2], 3.0).spend


def test_what_costs_the_infinite_is_not_bought():
    best = constrained_bound(market_of([6, 4], [np.inf, 2]), 9.0, np.array([9.0, 1.0]))
    assert best.net_value == pytest.approx(0, abs=1e-3)  # 2 > 1: nothing pays for the second
