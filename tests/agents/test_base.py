import numpy as np
import pytest

from adsim.types import AuctionResult
from agents.base import BaseAgent, finalise, impression_value, tick_spend


def test_impression_value_multiplies_the_platform_estimates(market):
    obs = {"pctr": np.array([0.1]), "pcvr": np.array([0.05]), "list_price": np.array([40.0])}
    # 0.1 x 0.05 x 40 x 0.25 = 0.05
    assert impression_value(obs, 0.25) == pytest.approx([0.05])


def test_impression_value_prefers_the_learned_estimate(market):
    obs = market.observation([1.0, 2.0]) | {"expected_net_value": np.array([3.0, -1.0])}
    assert impression_value(obs, 0.5).tolist() == [3.0, -1.0]


def test_finalise_clips_to_max_bid_and_budget_and_blanks_padding(market):
    obs = market.observation([1.0] * 4, budget_left=3.0, mask=[1, 1, 1, 0])
    terms = market.campaign(max_bid=2.5)
    assert finalise(np.array([-1.0, 2.0, 9.0, 1.0]), obs, terms).tolist() == [0.0, 2.0, 2.5, 0.0]
    terms = market.campaign(max_bid=5.0)
    assert finalise(np.array([-1.0, 2.0, 9.0, 1.0]), obs, terms).tolist() == [0.0, 2.0, 3.0, 0.0]


def test_finalise_turns_bids_per_impression_into_bids_per_click(market):
    obs = market.observation([1.0, 1.0], pctr=np.array([0.5, 0.1]))
    obs["pctr"] = np.array([0.5, 0.0])
    bid = finalise(np.array([1.0, 1.0]), obs, market.campaign(charge="click"))
    assert bid.tolist() == [2.0, 0.0]


def test_bids_per_click_are_worth_the_same_whatever_the_estimate_of_the_ctr(market):
    obs = market.observation([1.0], pctr=0.5) | {"ctr": np.array([0.25])}
    # an impression worth .25 x 4 has clicks worth 4, although the platform takes its CTR for .5
    bid = finalise(np.array([0.25 * 4.0]), obs, market.campaign(charge="click"))
    assert bid.tolist() == [4.0]


def test_finalise_rounds_down(market):
    obs = market.observation([1.0, 1.0])
    bid = finalise(np.array([1.99, 2.0]), obs, market.campaign(), integer=True)
    assert bid.tolist() == [1.0, 2.0]


def test_tick_spend_counts_what_was_charged():
    result = AuctionResult(
        np.array([True, True, False]),
        np.array([1.0, 2.0, np.nan]),
        np.array([False, True, False]),
        np.array([0, 0, -1], np.int8),
    )
    assert tick_spend(result, "impression") == 3.0
    assert tick_spend(result, "click") == 2.0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"budget": -1.0}, "campaign.budget"),
        ({"budget": float("nan")}, "campaign.budget"),
        ({"max_bid": 0.0}, "campaign.max_bid"),
        ({"margin": 1.5}, "campaign.margin"),
        ({"traffic": [0.0, 0.0]}, "campaign.expected_traffic"),
    ],
)
def test_reset_names_the_field_that_is_out_of_range(market, change, field):
    with pytest.raises(ValueError, match=field):
        BaseAgent().reset(market.campaign(**change))


def test_reset_refuses_traffic_of_another_length(market):
    with pytest.raises(ValueError, match=r"expected_traffic has shape \(10,\)"):
        BaseAgent().reset(market.campaign()._replace(num_ticks=7))
