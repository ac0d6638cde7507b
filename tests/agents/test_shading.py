import numpy as np
import pytest

from adsim.types import PriceHistory
from agents.history import Landscape
from agents.pacing import DualPacingAgent
from agents.shading import ShadingAgent, WinCurve, optimal_shading


def test_optimal_shading_closed_form():
    # g = 1, c = 1: (v - b) b / (1 + b) is best at b = sqrt(1 + v) - 1
    value = np.array([0.0, 0.5, 3.0, 8.0])
    assert optimal_shading(value, 1.0, 1.0) == pytest.approx(np.sqrt(1 + value) - 1, rel=1e-3)


@pytest.mark.parametrize("shape", [0.5, 2.0, 10.0])
def test_optimal_shading_beats_every_other_bid(shape):
    value, scale = 2.0, 0.7
    bids = np.linspace(1e-3, value, 20_001)
    surplus = (value - bids) * bids**shape / (scale**shape + bids**shape)
    best = optimal_shading(np.array([value]), scale, shape)
    assert best == pytest.approx([bids[np.argmax(surplus)]], rel=2e-3)


def logistic_prices(rng, size, scale, shape):
    """Prices whose cdf is b^g / (c^g + b^g)."""
    u = rng.random(size)
    return scale * (u / (1 - u)) ** (1 / shape)


def test_win_curve_takes_its_prior_from_the_history():
    price = logistic_prices(np.random.default_rng(0), 20_000, 3.0, 4.0)
    curve = WinCurve(1e4)
    n = len(price)
    curve.start(Landscape(price, np.full(n, 1 / n), np.ones(n), np.ones(n)), 1.0)
    assert curve.scale(np.ones(1)) == pytest.approx([3.0], rel=0.02)
    assert curve.theta[1] == pytest.approx(4.0, rel=0.05)


@pytest.mark.parametrize("reveal_all", [False, True])
def test_win_curve_learns_from_wins_and_losses(reveal_all):
    rng = np.random.default_rng(1)
    curve = WinCurve(1e6)
    curve.start(Landscape(*(np.zeros(0),) * 4), 1.0)  # prior: c = 1, g = 2
    for _ in range(40):
        bid = rng.lognormal(0.5, 0.7, 250)
        price = logistic_prices(rng, 250, 3.0, 4.0)
        won = bid >= price
        seen = np.where(won, bid, price if reveal_all else np.nan)
        curve.update(bid, np.ones(250), won, seen)
    assert curve.scale(np.ones(1)) == pytest.approx([3.0], rel=0.05)
    assert curve.theta[1] == pytest.approx(4.0, rel=0.08)


def test_win_curve_knows_that_dear_impressions_cost_more():
    rng = np.random.default_rng(2)
    value = rng.lognormal(0, 1, 20_000)
    price = value**0.6 * logistic_prices(rng, 20_000, 1.0, 3.0)
    curve = WinCurve(1e4)
    curve.start(Landscape(price, np.full(20_000, 5e-5), value, np.ones(20_000)), 1.0)
    assert curve.beta == pytest.approx(0.6, abs=0.02)
    assert curve.scale(np.array([1.0, 32.0])) == pytest.approx([1.0, 8.0], rel=0.1)


def best_static_net(value, price, budget):
    """Best net value of shading with fixed constants, by search."""
    nets = []
    for shape in (0.7, 1.0, 1.5, 2.0, 3.0):
        for scale in (0.3, 0.5, 0.7, 1.0, 1.5, 2.0):
            for dual in (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0):
                bid = optimal_shading(value / (1 + dual), scale, shape)
                won = bid >= price
                if bid[won].sum() <= budget:
                    nets.append((value - bid)[won].sum())
    return max(nets)


@pytest.mark.parametrize("share", [0.4, 5.0])
def test_shading_agent_comes_near_the_best_static_rule(market, share):
    value, price, terms = market.lognormal(0, share=share)
    terms = terms._replace(mechanism="first_price")
    agent = ShadingAgent()
    played = market.play(agent, terms, value, price, 50)
    net = (value - played.paid)[played.won].sum()
    assert net >= 0.98 * best_static_net(value, price, terms.budget)
    plain = market.play(DualPacingAgent(), terms, value, price, 50)
    assert net >= 1.02 * (value - plain.paid)[plain.won].sum()
    if share < 1:
        assert played.spent_share >= 0.97


def test_shading_agent_learns_a_market_that_differs_from_its_history(market):
    value, price, terms = market.lognormal(1, share=5.0)
    history = terms.price_history
    wrong = PriceHistory(
        3 * history.price, history.weight, history.pctr, history.value, history.ctr, history.cpc
    )
    terms = terms._replace(mechanism="first_price", price_history=wrong)
    agent = ShadingAgent()
    played = market.play(agent, terms, value, price, 50)
    net = (value - played.paid)[played.won].sum()
    assert net >= 0.96 * best_static_net(value, price, terms.budget)
    assert agent.curve.scale(np.ones(1)) == pytest.approx([1.0], rel=0.15)


def test_shading_agent_does_not_shade_in_second_price(market):
    agent = ShadingAgent()
    agent.reset(market.campaign())
    assert agent.act(market.observation([3.0])) == pytest.approx([3.0])


def test_shading_agent_bids_per_click_where_clicks_are_charged(market):
    bids = []
    for charge in ("impression", "click"):
        agent = ShadingAgent(warm_start=False)
        agent.reset(market.campaign(mechanism="first_price", charge=charge))
        bids.append(agent.act(market.observation([3.0, 1.0], pctr=0.1)))
    assert bids[1] == pytest.approx(bids[0] / 0.1)


def test_shading_agent_refuses_arguments_out_of_range():
    with pytest.raises(ValueError, match="memory = 0"):
        ShadingAgent(memory=0.0)
