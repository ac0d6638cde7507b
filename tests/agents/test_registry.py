import subprocess
import sys

import numpy as np
import pytest

from adsim.types import Agent, PriceHistory
from agents import AGENTS


class Oracle:
    def expected_net_value(self):
        return np.array([3.0, 6.0, 1.0])

    def click_probability(self):
        return np.full(3, 0.1)

    def hindsight_multiplier(self):
        return 0.5

    def price_to_beat(self):
        return np.array([1.5, np.nan, 4.5])


def history():
    price = np.arange(1.0, 11.0)
    return PriceHistory(price, np.ones(10), np.full(10, 0.1), np.full(10, 6.0), 0.1, 55.0)


@pytest.mark.parametrize("name", sorted(AGENTS))
@pytest.mark.parametrize("mechanism", ["first_price", "second_price"])
@pytest.mark.parametrize("charge", ["impression", "click"])
def test_every_agent_plays_a_campaign_twice_alike(market, name, mechanism, charge):
    terms = market.campaign(
        60.0, [3.0] * 8, history(), max_bid=40.0, mechanism=mechanism, charge=charge
    )
    agent = AGENTS[name]()
    assert isinstance(agent, Agent)
    assert agent.privileged == (name == "hindsight")
    runs = []
    for _ in range(2):
        agent.reset(terms, seed=1)
        if agent.privileged:
            agent.attach(Oracle())
        agent.observe(market.outcome_info(np.zeros(3, bool), 0.0))
        bids = []
        for tick in range(8):
            left = 60.0 - 7.0 * tick
            obs = market.observation([2.0, 5.0, 9.0], left, mask=[1, 1, 0])
            before = {key: value.copy() for key, value in obs.items()}
            bid = agent.act(obs)
            assert all(np.array_equal(obs[key], before[key]) for key in obs)
            assert bid.shape == (3,)
            assert bid.dtype == np.float64
            assert np.all((bid >= 0) & (bid <= min(40.0, left)))
            assert bid[2] == 0.0
            agent.observe(market.outcome_info(bid >= 3.0, 3.0, clicked=[True] * 3))
            bids.append(bid)
        runs.append(bids)
    assert np.array_equal(runs[0], runs[1])


@pytest.mark.parametrize("name", sorted(set(AGENTS) - {"hindsight"}))
def test_every_agent_bids_nothing_without_impressions_or_budget(market, name):
    agent = AGENTS[name]()
    agent.reset(market.campaign(60.0, [2.0] * 4, history(), max_bid=40.0))
    for left, mask in ((60.0, [0, 0]), (0.0, [1, 1])):
        bid = agent.act(market.observation([2.0, 5.0], left, mask=mask))
        assert bid.tolist() == [0.0, 0.0]
        agent.observe(market.outcome_info([False, False], 0.0))


def test_import_is_light():
    code = (
        "import sys, agents; print([m for m in ('scipy', 'torch', 'pandas') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"
