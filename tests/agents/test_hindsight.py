import numpy as np
import pytest
from scipy.optimize import linprog

from agents.hindsight import HindsightAgent, fractional_knapsack


def test_knapsack_of_three_items_by_hand():
    # v / w = 5, 3, 2; budget 4 buys item 1 (1), item 3 (2) and 1 of 3 of item 2:
    # order by v / w: item 0 (5/1), item 2 (6/2 = 3), item 1 (6/3 = 2)
    best = fractional_knapsack(np.array([5.0, 6.0, 6.0]), np.array([1.0, 3.0, 2.0]), 4.0)
    assert best.x == pytest.approx([1.0, 1.0 / 3.0, 1.0])
    assert best.multiplier == pytest.approx(1.0)  # 6 / 3 - 1
    assert best.total_net == pytest.approx(4.0 + 1.0 + 4.0)
    assert best.total_spend == pytest.approx(4.0)


def test_knapsack_leaves_what_costs_more_than_it_is_worth():
    best = fractional_knapsack(np.array([1.0, 2.0, 5.0]), np.array([3.0, 1.0, np.inf]), 100.0)
    assert best.x.tolist() == [0.0, 1.0, 0.0]
    assert best == (pytest.approx(best.x), 0.0, 1.0, 1.0)


def test_knapsack_takes_free_items_without_budget():
    best = fractional_knapsack(np.array([1.0, 2.0]), np.array([0.0, 1.0]), 0.0)
    assert best.x.tolist() == [1.0, 0.0]
    assert best.multiplier == 1.0


def test_knapsack_equals_the_linear_programme():
    rng = np.random.default_rng(1)
    value, price = rng.lognormal(0, 1, 300), rng.lognormal(0, 1, 300)
    budget = 20.0
    lp = linprog(price - value, A_ub=price[None], b_ub=[budget], bounds=(0, 1))
    best = fractional_knapsack(value, price, budget)
    assert best.total_net == pytest.approx(-lp.fun, rel=1e-9)
    assert best.multiplier == pytest.approx(-lp.ineqlin.marginals[0], rel=1e-6)


@pytest.mark.parametrize(
    ("price", "budget", "text"),
    [(np.ones(2), 1.0, "one shape"), (np.ones(3), -1.0, "budget = -1.0")],
)
def test_knapsack_refuses_bad_input(price, budget, text):
    with pytest.raises(ValueError, match=text):
        fractional_knapsack(np.ones(3), price, budget)


class Oracle:
    def expected_net_value(self):
        return np.array([3.0, 6.0])

    def hindsight_multiplier(self):
        return 0.5


def test_hindsight_agent_bids_true_value_over_one_plus_lambda(market):
    agent = HindsightAgent()
    agent.reset(market.campaign())
    with pytest.raises(ValueError, match="attach"):
        agent.act(market.observation([1.0, 1.0]))
    agent.attach(Oracle())
    assert agent.act(market.observation([1.0, 1.0])) == pytest.approx([2.0, 4.0])
    assert HindsightAgent.privileged
