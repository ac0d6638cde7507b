import numpy as np
import pytest

from agents.hindsight import HindsightAgent


class Oracle:
    def expected_net_value(self):
        return np.array([3.0, 6.0])

    def click_probability(self):
        return np.full(2, 0.1)

    def hindsight_multiplier(self):
        return 0.5

    def price_to_beat(self):
        return np.array([1.5, 4.5])


def test_hindsight_agent_bids_true_value_over_one_plus_lambda(market):
    agent = HindsightAgent()
    agent.reset(market.campaign())
    with pytest.raises(ValueError, match="attach"):
        agent.act(market.observation([1.0, 1.0]))
    agent.attach(Oracle())
    assert agent.act(market.observation([1.0, 1.0])) == pytest.approx([2.0, 4.0])
    assert HindsightAgent.privileged


def test_hindsight_agent_pays_the_price_to_beat_in_first_price(market):
    agent = HindsightAgent()
    agent.reset(market.campaign()._replace(mechanism="first_price"))
    agent.attach(Oracle())
    # true value / 1.5 = 2, 4: buys at 1.5, leaves 4.5
    assert agent.act(market.observation([1.0, 1.0])) == pytest.approx([1.5, 0.0])


@pytest.mark.parametrize("mechanism", ["first_price", "second_price"])
def test_hindsight_agent_bids_per_click_the_same_beside_estimates(market, mechanism):
    bids = []
    for more in ({}, {"ctr": np.array([0.3, 0.05])}):
        agent = HindsightAgent()
        agent.reset(market.campaign(charge="click", mechanism=mechanism))
        agent.attach(Oracle())
        bids.append(agent.act(market.observation([1.0, 1.0], pctr=0.2) | more))
    # 2 an impression with P(click) .1 is 20 a click; 1.5 / .2 buys it in first price
    assert bids[0] == pytest.approx(bids[1])
    assert bids[0][0] == pytest.approx(7.5 if mechanism == "first_price" else 20.0)
