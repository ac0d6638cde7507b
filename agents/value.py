"""Agents with a constant rule: truthful, constant-linear and MCPC.

Source: MCPC and the linear rule of the iPinYou benchmark as in W. Zhang, S. Yuan, J. Wang,
"Optimal Real-Time Bidding for Display Advertising", KDD 2014; docs/agents.md, "Constant rules".
"""

import math
from typing import Any

import numpy as np

from adsim.types import Campaign, FloatArray
from agents.base import BaseAgent, click_probability, finalise, impression_value, require_in_range
from agents.history import budget_rate, landscape, tuned_log_multiplier


class ValueAgent(BaseAgent):
    """Bids the value estimate: optimal in second price if exact and the budget never binds."""

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        return finalise(impression_value(obs, self.campaign.margin), obs, self.campaign)


class LinearAgent(BaseAgent):
    """Bids a constant multiple of the value.

    Args:
        multiplier: factor on the value, > 0; by default tuned on the price history so that the
            expected spend of the campaign is its budget, at most 1 (net value is maximised).
        base_bid: if given, the bid is base_bid x pctr / average CTR instead (currency per
            impression); the value plays no role.
        integer_bids: round bids down to whole currency units.
    """

    def __init__(
        self,
        multiplier: float | None = None,
        base_bid: float | None = None,
        *,
        integer_bids: bool = False,
    ) -> None:
        if multiplier is not None and base_bid is not None:
            raise ValueError(
                f"multiplier = {multiplier} and base_bid = {base_bid}: at most one may be given"
            )
        for field, value in (("multiplier", multiplier), ("base_bid", base_bid)):
            if value is not None:
                require_in_range(field, value, 0.0, float("inf"))
        self.multiplier = multiplier
        self.base_bid = base_bid
        self.integer_bids = integer_bids
        self._factor: float | None = multiplier

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign; the multiplier is tuned at the first observation."""
        super().reset(campaign, seed=seed)
        self._factor = self.multiplier
        if self.base_bid is not None:
            ctr = require_in_range("price_history.ctr", campaign.price_history.ctr, 0.0, 1.0)
            self._factor = self.base_bid / ctr  # bid = base_bid x pctr / average CTR

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        if self._factor is None:
            if not np.any(obs["mask"]):  # nothing to bid on, nor to tune on
                return np.zeros(np.shape(obs["mask"]))
            self._factor = self._tuned(obs)
        if self.base_bid is not None:
            weight = np.asarray(obs["pctr"], np.float64)
        else:
            weight = impression_value(obs, self.campaign.margin)
        return finalise(self._factor * weight, obs, self.campaign, integer=self.integer_bids)

    def _tuned(self, obs: dict[str, Any]) -> float:
        """Factor, at most 1, that spends the budget on the history; 1 without history."""
        market = landscape(self.campaign, obs)
        rate, mechanism = budget_rate(self.campaign), self.campaign.mechanism
        return math.exp(tuned_log_multiplier(market, rate, mechanism, lambda x: x * market.value))


class MCPCAgent(BaseAgent):
    """Bids CTR x the average cost per click of the history ("maximum cost per click").

    Args:
        integer_bids: round bids down to whole currency units.
    """

    def __init__(self, *, integer_bids: bool = False) -> None:
        self.integer_bids = integer_bids

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign.

        Raises:
            ValueError: if the history has no average cost per click.
        """
        super().reset(campaign, seed=seed)
        require_in_range("price_history.cpc", campaign.price_history.cpc, 0.0, float("inf"))

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        bid = click_probability(obs) * self.campaign.price_history.cpc
        return finalise(bid, obs, self.campaign, integer=self.integer_bids)
