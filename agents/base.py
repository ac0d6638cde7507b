"""What all bidding agents share: values, admissible bids and spend of a tick.

Inside an agent every bid and value is in currency per shown impression; `finalise` turns it into
the unit of the campaign (per click if clicks are charged).
"""

from typing import Any

import numpy as np

from adsim.types import AuctionResult, Campaign, FloatArray

TINY = 1e-12  # guards divisions by probabilities, currency and impression counts


def impression_value(obs: dict[str, Any], margin: float) -> FloatArray:
    """Expected profit of showing each impression, before its price.

    Args:
        obs: observation of Auction-v0; its entry `expected_net_value` (M,), if present, is the
            value; otherwise pctr x pcvr x list_price x margin.
        margin: profit share of net GMV, in (0, 1].

    Returns:
        Values (M,), currency per shown impression.
    """
    estimate = obs.get("expected_net_value")
    if estimate is not None:
        return np.asarray(estimate, np.float64)
    return platform_value(obs, margin)


def platform_value(obs: dict[str, Any], margin: float) -> FloatArray:
    """Value (M,) by the platform's own estimates, currency per shown impression."""
    pctr = np.asarray(obs["pctr"], np.float64)
    return pctr * obs["pcvr"] * obs["list_price"] * margin


def click_probability(obs: dict[str, Any]) -> FloatArray:
    """CTR (M,): the entry `ctr` of the observation, if present, else the platform's."""
    return np.asarray(obs.get("ctr", obs["pctr"]), np.float64)


def finalise(
    bid: FloatArray, obs: dict[str, Any], campaign: Campaign, *, integer: bool = False
) -> FloatArray:
    """Makes bids per impression admissible.

    Args:
        bid: wished bids (M,), currency per shown impression.
        obs: observation of Auction-v0 (mask, budget_left, pctr, and ctr where present).
        campaign: gives max_bid and the unit of bids.
        integer: round down to whole currency units.

    Returns:
        Bids (M,) in the campaign's unit, in [0, min(max_bid, budget_left)], 0 in padding.
    """
    if campaign.charge == "click":
        # By the CTR that the value was made with: what is bid is the value of a click, and a price
        # per click is due as often as there are clicks, whatever the platform ranks by.
        ctr = click_probability(obs)
        bid = np.where(ctr > 0, bid / np.maximum(ctr, TINY), 0.0)
    if integer:
        bid = np.floor(bid)
    limit = min(campaign.max_bid, float(obs["budget_left"][0]))
    return np.where(obs["mask"], np.minimum(np.maximum(bid, 0.0), limit), 0.0)


def tick_spend(result: AuctionResult, charge: str) -> float:
    """What the won auctions of a tick cost, currency."""
    paid = result.won if charge != "click" else result.won & result.clicked
    return float(np.sum(result.price, where=paid))


def require_in_range(field: str, value: float, low: float, high: float) -> float:
    """Returns `value` if it lies in the open interval (low, high).

    Raises:
        ValueError: naming the field, its value and the allowed range.
    """
    if not low < value < high:
        raise ValueError(f"{field} = {value!r} is outside its allowed range ({low}, {high})")
    return value


def check_campaign(campaign: Campaign) -> None:
    """Checks what agents divide by.

    Raises:
        ValueError: naming the field, its value and the allowed range.
    """
    require_in_range("campaign.budget", campaign.budget, 0.0, float("inf"))
    require_in_range("campaign.max_bid", campaign.max_bid, 0.0, float("inf"))
    if campaign.num_ticks < 1:
        raise ValueError(f"campaign.num_ticks = {campaign.num_ticks} must be at least 1")
    if not 0 < campaign.margin <= 1:
        raise ValueError(f"campaign.margin = {campaign.margin} is outside (0, 1]")
    traffic = campaign.expected_traffic
    if traffic.shape != (campaign.num_ticks,):
        raise ValueError(
            f"campaign.expected_traffic has shape {traffic.shape}, "
            f"allowed is (num_ticks,) = ({campaign.num_ticks},)"
        )
    if not (np.all(traffic >= 0) and np.sum(traffic) > 0):
        raise ValueError("campaign.expected_traffic must be >= 0 with a positive sum")


class BaseAgent:
    """State common to all agents: the campaign; learns nothing by default."""

    privileged: bool = False
    campaign: Campaign

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign; the agents of this package draw no random numbers.

        Raises:
            ValueError: if the campaign's figures are out of range.
        """
        check_campaign(campaign)
        self.campaign = campaign

    def observe(self, info: dict[str, Any]) -> None:
        """Takes note of what the tick brought: nothing."""
