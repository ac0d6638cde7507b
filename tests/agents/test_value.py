import numpy as np
import pytest

from adsim.types import PriceHistory
from agents.value import LinearAgent, MCPCAgent, ValueAgent


def history(value=(4.0, 4.0, 4.0, 2.0)):
    return PriceHistory(
        np.array([1.0, 2.0, 3.0, 4.0]), np.ones(4), np.full(4, 0.1), np.array(value), 0.02, 150.0
    )


def test_value_agent_bids_the_value(market):
    agent = ValueAgent()
    agent.reset(market.campaign(margin=0.5))
    assert agent.act(market.observation([2.0, 4.0])) == pytest.approx([1.0, 2.0])


def test_linear_agent_spends_the_budget_on_the_history(market):
    agent = LinearAgent()
    # 10 impressions, budget 7.5: the multiplier is 3/4 (worked in test_history)
    agent.reset(market.campaign(7.5, history=history()))
    assert agent.act(market.observation([4.0])) == pytest.approx([3.0])


def test_linear_agent_without_history_bids_the_value(market):
    agent = LinearAgent()
    agent.reset(market.campaign())
    assert agent.act(market.observation([4.0])) == pytest.approx([4.0])


def test_linear_agent_takes_a_given_multiplier(market):
    agent = LinearAgent(multiplier=0.25)
    agent.reset(market.campaign())
    assert agent.act(market.observation([4.0])) == pytest.approx([1.0])


def test_linear_agent_with_base_bid_scales_with_the_ctr(market):
    agent = LinearAgent(base_bid=10.0, integer_bids=True)
    agent.reset(market.campaign(history=history(np.full(4, np.nan))))
    # 10 x 0.05 / 0.02 = 25; 10 x 0.0039 / 0.02 = 1.95
    assert agent.act(market.observation([1.0, 1.0], pctr=np.array([0.05, 0.0039]))).tolist() == [
        25.0,
        1.0,
    ]


def test_mcpc_agent_bids_the_average_cost_per_click(market):
    agent = MCPCAgent(integer_bids=True)
    agent.reset(market.campaign(history=history()))
    assert agent.act(market.observation([1.0], pctr=0.013)).tolist() == [1.0]  # 1.95


def test_mcpc_agent_bids_the_same_on_every_click(market):
    agent = MCPCAgent()
    agent.reset(market.campaign(1e4, history=history(), charge="click"))
    obs = market.observation([1.0, 1.0], 1e4, pctr=np.array([0.1, 0.2]))
    assert agent.act(obs) == pytest.approx([150.0, 150.0])


@pytest.mark.parametrize("kwargs", [{"multiplier": 0.0}, {"base_bid": -1.0}])
def test_linear_agent_refuses_arguments_out_of_range(kwargs):
    with pytest.raises(ValueError, match=f"{next(iter(kwargs))} = .* allowed range"):
        LinearAgent(**kwargs)


def test_linear_agent_refuses_two_rules():
    with pytest.raises(ValueError, match="at most one"):
        LinearAgent(multiplier=1.0, base_bid=1.0)


def test_mcpc_agent_needs_a_history(market):
    with pytest.raises(ValueError, match=r"price_history\.cpc"):
        MCPCAgent().reset(market.campaign())
