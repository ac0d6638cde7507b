import gzip
import itertools
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from adsim.types import PriceHistory
from agents.programme import RLBAgent, SSMDPAgent, best_actions, smoothed_pmf, value_function
from agents.value import LinearAgent, MCPCAgent

IPINYOU = Path(__file__).parents[3] / "shared" / "data" / "ipinyou"


def exhaustive_value(pmf, theta, n, b):
    """Best expected clicks over all maps (auctions left, budget left) -> bid; V(n, 0) = 0."""

    @cache
    def value(policy, n, b):
        if n == 0 or b == 0:
            return 0.0
        bid = dict(policy)[n, b]
        return sum(
            m * (theta + value(policy, n - 1, b - d) if d <= bid else value(policy, n - 1, b))
            for d, m in enumerate(pmf)
        )

    states = [(i, j) for i in range(1, n + 1) for j in range(1, b + 1)]
    bids = itertools.product(*(range(min(j, len(pmf) - 1) + 1) for _, j in states))
    return max(value(tuple(zip(states, bid, strict=True)), n, b) for bid in bids)


@pytest.mark.parametrize("pmf", [(0.2, 0.5, 0.3), (0.1, 0.1, 0.8)])
def test_value_function_equals_the_best_of_all_policies(pmf):
    table = value_function(np.array(pmf), 0.1, 3, 2)
    for n in range(4):
        for b in range(3):
            assert table[n, b] == pytest.approx(exhaustive_value(pmf, 0.1, n, b), abs=1e-12)


def test_value_function_by_hand():
    # prices 0 or 1 with probability 1/2, theta 1
    table = value_function(np.array([0.5, 0.5]), 1.0, 2, 1)
    # V(1, 1): bid 1 wins surely. V(2, 1): bid 1: 0.5 (1 + V(1, 1)) + 0.5 (1 + V(1, 0)) = 1.5
    assert table.tolist() == [[0.0, 0.0], [0.0, 1.0], [0.0, 1.5]]


def test_value_function_grows_with_auctions_and_budget_and_is_bounded():
    pmf = np.random.default_rng(0).dirichlet(np.ones(21))
    table = value_function(pmf, 0.01, 60, 100)
    assert np.all(np.diff(table, axis=0) >= -1e-15)
    assert np.all(np.diff(table, axis=1) >= -1e-15)
    assert np.all(table <= 0.01 * np.arange(61)[:, None] + 1e-12)


def test_best_actions_by_hand():
    # losing 0.3 of future value for 1, 0.5 for 2, ...; theta = 0.4 pays for 1 from budget 2 on
    value = np.array([0.0, 0.5, 0.8, 1.0])
    assert best_actions(value, 0.4, 300).tolist() == [0, 0, 1, 1]
    assert best_actions(value, 2.0, 2).tolist() == [0, 1, 2, 2]


def test_smoothed_pmf_adds_one_to_every_price():
    nan = np.full(2, np.nan)
    history = PriceHistory(np.array([0.0, 2.0]), np.array([3.0, 4.0]), nan, nan, 0.1, 1.0)
    # (3 + 1, 0 + 1, 4 + 1) / (7 + 3)
    assert smoothed_pmf(history, 2) == pytest.approx([0.4, 0.1, 0.5])
    with pytest.raises(ValueError, match=r"price_history\.price"):
        smoothed_pmf(history._replace(price=np.array([0.5, 2.0])), 2)


def replay_terms(market, ctr=0.1, counts=(0, 10, 10), budget=3.0, ticks=4):
    nan = np.full(len(counts), np.nan)
    keep = np.asarray(counts) > 0
    history = PriceHistory(
        np.arange(float(len(counts)))[keep],
        np.asarray(counts, np.float64)[keep],
        nan[keep],
        nan[keep],
        ctr,
        1.0,
    )
    return market.campaign(
        budget, traffic=[1.0] * ticks, history=history, max_bid=float(len(counts) - 1)
    )


def test_rlb_bids_what_future_clicks_are_worth(market):
    agent = RLBAgent()
    terms = replay_terms(market)
    agent.reset(terms)
    table = value_function(smoothed_pmf(terms.price_history, 2), 0.1, 4, 3)
    left, budget = 4, 3
    for theta in (0.01, 0.05, 0.2, 0.03):
        worth = [theta + table[left - 1, budget - a] - table[left - 1, budget] for a in range(3)]
        expected = max(a for a in range(3) if worth[a] >= 0)
        assert agent.act(market.observation([1.0], budget, pctr=theta)).tolist() == [expected]
        agent.observe({})
        left -= 1


def test_ss_mdp_does_not_look_at_the_impression(market):
    agent = SSMDPAgent()
    agent.reset(replay_terms(market))
    bids = agent.act(market.observation([1.0, 1.0], 3.0, pctr=np.array([0.001, 0.9])))
    assert bids[0] == bids[1]


def test_rlb_refuses_tables_that_do_not_fit(market):
    with pytest.raises(ValueError, match="use fewer auctions or a coarser currency"):
        RLBAgent().reset(replay_terms(market, budget=1e8, ticks=10))
    with pytest.raises(ValueError, match="num_auctions"):
        RLBAgent(num_auctions=0)


@pytest.fixture(scope="module")
def log():
    if not (IPINYOU / "2997.test.theta.txt.gz").exists():
        pytest.skip(f"no iPinYou log in {IPINYOU}")
    info = json.loads((IPINYOU / "2997.info.json").read_text())
    with gzip.open(IPINYOU / "2997.test.theta.txt.gz") as lines:
        return info, np.loadtxt(lines)


def replay(agent, terms, log, make_obs):
    """Episodes of 1000 auctions; returns (won, clicks, cost)."""
    won = clicks = cost = 0
    for start in range(0, len(log), 1000):
        agent.reset(terms)
        left = int(terms.budget)
        for click, price, theta in log[start : start + 1000]:
            bid = agent.act(make_obs(theta, left))[0]
            agent.observe({})
            if bid >= price:
                won, clicks, cost = won + 1, clicks + int(click), cost + int(price)
                left -= int(price)
    return won, clicks, cost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (MCPCAgent(integer_bids=True), (14_752, 48, 307_751)),
        (LinearAgent(base_bid=10.0, integer_bids=True), (32_208, 71, 203_610)),
        (SSMDPAgent(), (40_395, 80, 306_637)),
        (RLBAgent(), (39_680, 78, 304_375)),
    ],
)
def test_ipinyou_rows_equal_the_published_table(market, log, agent, expected):
    # README of han-cai/rlb-dp, campaign 2997, N = 1000, c0 = 1/32
    info, auctions = log
    counts = info["price_counter_train"]
    budget = int(info["cost_train"] / info["imp_train"] / 32 * 1000)
    assert budget == 1969
    terms = replay_terms(market, info["clk_train"] / info["imp_train"], counts, budget, 1000)
    cpc = info["cost_train"] / info["clk_train"]
    terms = terms._replace(price_history=terms.price_history._replace(cpc=cpc))
    one, mask = np.ones(1), np.ones(1, np.int8)

    def observation(theta, left):
        return {
            "pctr": np.array([theta]),
            "pcvr": one,
            "list_price": one,
            "mask": mask,
            "budget_left": np.array([left]),
        }

    assert replay(agent, terms, auctions, observation) == expected
