import numpy as np
import pytest

from adsim.types import PriceHistory
from agents.history import Landscape
from agents.optimal import ORTB1Agent, ORTB2Agent, fitted_scale, ortb1_bid, ortb2_bid

THETA, LAM, C = np.array([0.0, 0.3, 2.0, 50.0]), 1.7, 0.8


def test_ortb1_solves_its_first_order_condition():
    # b^2 + 2 c b - c theta / lambda = 0
    b = ortb1_bid(THETA, LAM, C)
    assert b * b + 2 * C * b - C * THETA / LAM == pytest.approx(np.zeros(4), abs=1e-12)
    assert ortb1_bid(np.array([3.0]), 1.0, 1.0) == pytest.approx([1.0])  # sqrt(3 + 1) - 1


def test_ortb2_solves_its_first_order_condition():
    # b^3 + 3 c^2 b - 2 c^2 theta / lambda = 0
    b = ortb2_bid(THETA, LAM, C)
    assert b**3 + 3 * C * C * b - 2 * C * C * THETA / LAM == pytest.approx(np.zeros(4), abs=1e-10)
    assert ortb2_bid(np.array([2.0]), 1.0, 1.0) == pytest.approx([1.0])  # 1 + 3 - 4 = 0


@pytest.mark.parametrize("power", [1, 2])
def test_fitted_scale_recovers_the_win_curve(power):
    u = (np.arange(20_000) + 0.5) / 20_000
    price = 5.0 * (u / (1 - u)) ** (1 / power)  # cdf b^k / (5^k + b^k)
    rows = Landscape(price, np.full(20_000, 1 / 20_000), price, price)
    assert fitted_scale(rows, power) == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("agent_class", [ORTB1Agent, ORTB2Agent])
@pytest.mark.parametrize("mechanism", ["first_price", "second_price"])
def test_ortb_agent_spends_the_budget(market, agent_class, mechanism):
    value, price, terms = market.lognormal(0, num_history=10_000, share=0.2)
    terms = terms._replace(mechanism=mechanism)
    played = market.play(agent_class(), terms, value, price, 100)
    assert 0.93 <= played.spent_share <= 1.0 + 1e-9
    assert (value - played.paid)[played.won].sum() > 0


def test_ortb_agent_may_pay_more_than_the_value_if_asked(market):
    price = np.arange(1.0, 101.0)
    history = PriceHistory(price, np.ones(100), np.full(100, 0.1), np.full(100, 0.01), 0.1, 1.0)
    terms = market.campaign(10 * 20.0, history=history)
    bids = []
    for net in (True, False):
        agent = ORTB2Agent(net=net, integer_bids=True)
        agent.reset(terms)
        bids.append(agent.act(market.observation([0.01], 1000.0))[0])
    # spending 20 an auction at second prices takes bids of about 63: sum 1..63 = 2016
    assert bids[0] == 0.0
    assert bids[1] in (62.0, 63.0)


def test_ortb_agent_needs_prices(market):
    agent = ORTB1Agent()
    agent.reset(market.campaign())
    with pytest.raises(ValueError, match=r"price_history has no price > 0"):
        agent.act(market.observation([1.0]))
