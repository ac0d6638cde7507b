import numpy as np
import pytest
from scipy.optimize import linprog

from adsim.types import PriceHistory, Targets
from agents.constrained import (
    CPAPacingAgent,
    CPCPacingAgent,
    RoasPacingAgent,
    constrained_bid,
    tuned_duals,
)
from agents.history import Landscape


def clicks_market(seed, num=10_000, num_history=2000, share=0.5):
    """Values of about 40 a click, CTR of about 5 %, log-normal prices around 1."""
    rng = np.random.default_rng(seed)
    size = num + num_history
    pctr = np.clip(np.exp(-3 + 0.5 * rng.standard_normal(size)), 0, 0.5)
    value = pctr * 40 * np.exp(0.7 * rng.standard_normal(size))
    price = np.exp(0.8 * rng.standard_normal(size))
    clicks = rng.random(size) < pctr
    history = PriceHistory(price[num:], np.ones(num_history), pctr[num:], value[num:], 0.05, 20.0)
    value, price = value[:num], price[:num]
    budget = share * float(price[value > price].sum())
    return pctr[:num], value, price, clicks[:num], budget, history


def best_net(value, price, credit, budget):
    """Net value of the linear programme with both constraints."""
    lp = linprog(price - value, A_ub=[price, price - credit], b_ub=[budget, 0], bounds=(0, 1))
    return -lp.fun


def test_constrained_bid_by_hand():
    # (2 + 0.5 x 4) / (1 + 0.5 + 0.5) = 2
    assert constrained_bid(np.array([2.0]), np.array([4.0]), 0.5, 0.5) == pytest.approx([2.0])


def test_constrained_bid_buys_what_the_linear_programme_buys():
    pctr, value, price, _, budget, _ = clicks_market(0, num=400)
    credit = 8.0 * pctr
    lp = linprog(price - value, A_ub=[price, price - credit], b_ub=[budget, 0], bounds=(0, 1))
    dual, q = -lp.ineqlin.marginals
    whole = (lp.x < 1e-6) | (lp.x > 1 - 1e-6)  # all but the marginal impressions
    bought = constrained_bid(value, credit, dual, q) > price
    assert np.array_equal(bought[whole], lp.x[whole] > 0.5)
    assert (~whole).sum() <= 2


@pytest.mark.parametrize("share", [0.1, 5.0])
def test_tuned_duals_meet_both_constraints(share):
    pctr, value, price, _, budget, _ = clicks_market(1, num=2000, share=share)
    credit, weight = 12.0 * pctr, np.full(2000, 1 / 2000)
    rate = budget / 2000
    dual, q = tuned_duals(Landscape(price, weight, value, pctr), credit, rate, "second_price")
    won = constrained_bid(value, credit, dual, q) >= price
    assert price[won].sum() <= budget * (1 + 1e-9)
    assert price[won].sum() <= credit[won].sum() * (1 + 1e-9)
    best = best_net(value, price, credit, budget)
    assert (value - price)[won].sum() >= 0.98 * best


@pytest.mark.parametrize("size", [1, 100])
def test_cpc_agent_keeps_the_cap(market, size):
    cap = 10.0
    net, best, cost, clicked = 0.0, 0.0, 0.0, 0
    for seed in range(3):
        pctr, value, price, clicks, budget, history = clicks_market(seed)
        terms = market.campaign(budget, history=history, targets=Targets(cpc=cap))
        played = market.play(CPCPacingAgent(), terms, value, price, size, pctr, clicks)
        net += (value - price)[played.won].sum()
        best += best_net(value, price, cap * pctr, budget)
        cost += played.paid.sum()
        clicked += clicks[played.won].sum()
    assert cost / clicked <= 1.03 * cap  # value bidding pays about 20 a click
    assert net >= 0.95 * best


@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("share", [0.5, 5.0])
def test_roas_agent_keeps_the_floor(market, size, share):
    floor, margin = 8.0, 0.5
    for seed in range(2):
        pctr, value, price, clicks, budget, history = clicks_market(seed, share=share)
        terms = market.campaign(
            budget, history=history, margin=margin, targets=Targets(net_roas=floor)
        )
        # the observation's value is scaled by the margin: pass GMV
        played = market.play(RoasPacingAgent(), terms, value / margin, price, size, pctr, clicks)
        gmv = (value / margin)[played.won].sum()
        assert gmv / played.paid.sum() >= 0.97 * floor
        seen = (value / margin / pctr)[played.won & clicks].sum()  # of the clicks there were
        assert seen / played.paid.sum() >= 0.97 * floor
        best = best_net(value, price, value / margin / floor, budget)
        assert (value - price)[played.won].sum() >= 0.97 * best


@pytest.mark.parametrize("agent_class", [CPCPacingAgent, CPAPacingAgent, RoasPacingAgent])
def test_without_target_only_the_budget_is_paced(market, agent_class):
    value, price, terms = market.lognormal(0)
    agent = agent_class()
    played = market.play(agent, terms, value, price, 50)
    assert agent.q == 0.0
    assert 0.97 <= played.spent_share <= 1.0 + 1e-9


@pytest.mark.parametrize("size", [1, 100])
def test_cpa_agent_keeps_the_cap(market, size):
    cap, net, best, cost, kept = 100.0, 0.0, 0.0, 0.0, 0.0
    for seed in range(2):
        pctr, value, price, clicks, budget, history = clicks_market(seed)
        terms = market.campaign(budget, history=history, targets=Targets(net_cpa=cap))
        played = market.play(CPAPacingAgent(), terms, value, price, size, pctr, clicks)
        # as in `observation`: a click converts with probability value / pctr / 50
        net += (value - price)[played.won].sum()
        best += best_net(value, price, cap * value / 50.0, budget)
        cost += played.paid.sum()
        kept += (value / 50.0 / pctr)[played.won & clicks].sum()
    assert cost / kept <= 1.03 * cap
    assert net >= 0.95 * best


def test_cpc_agent_moves_q_by_cost_beyond_credit(market):
    agent = CPCPacingAgent(mirror="euclidean", warm_start=False)
    agent.reset(market.campaign(40.0, traffic=[1.0] * 4, targets=Targets(cpc=4.0)))
    agent.act(market.observation([20.0], 40.0, pctr=0.5))
    agent.observe(market.outcome_info([True], 4.0, clicked=[True]))
    # cost 4, credit 4 x .5 = 2: excess 2 over the turnover (4 + 2) / 2 = 3, eta = 1 / 2
    assert agent.q == pytest.approx(0.5 * 2 / 3)
    agent.act(market.observation([20.0], 36.0, pctr=0.5))
    # 1 click where .5 was predicted: (20 + 1) / (20 + .5) x .5 clicks x 4
    assert agent._credit == pytest.approx([2 * 21 / 20.5])


def test_constrained_agents_bid_on_the_estimates_of_the_observation(market):
    estimates = {"ctr": np.array([0.2]), "cvr": np.array([0.1]), "refund_rate": np.array([0.25])}
    obs = market.observation([3.0], pctr=0.5) | estimates | {"expected_net_value": np.array([2.0])}
    targets = Targets(cpc=4.0, net_cpa=80.0, net_roas=8.0)
    # 4 x .2; 80 x .2 x .1 x .75; net GMV 2 / .5 over 8
    for agent_class, credit in (
        (CPCPacingAgent, 0.8),
        (CPAPacingAgent, 1.2),
        (RoasPacingAgent, 0.5),
    ):
        agent = agent_class(warm_start=False)
        agent.reset(market.campaign(targets=targets, margin=0.5))
        agent.q = 1.0
        # (2 + credit) / (1 + 1)
        assert agent.act(obs) == pytest.approx([1 + credit / 2])
        assert agent._credit == pytest.approx([credit])


def test_constrained_agents_refuse_arguments_out_of_range():
    with pytest.raises(ValueError, match="gain = -1"):
        CPCPacingAgent(gain=-1.0)
    with pytest.raises(ValueError, match="mirror = 'x'"):
        RoasPacingAgent(mirror="x")
