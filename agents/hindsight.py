"""The agent that bids with the multiplier of the hindsight bound. Privileged.

Maximising sum x (v - w) subject to sum x w <= B at known prices w buys in order of v / w, which
is the bid v / (1 + lambda) with the dual price lambda of the budget (`adsim.scores`).
"""

from typing import Any, Protocol

import numpy as np

from adsim.types import Campaign, FloatArray
from agents.base import TINY, BaseAgent, click_probability, finalise

_JUST_ABOVE = 1.0 + 1e-12  # a bid that is rounded down must still win


class HindsightOracle(Protocol):
    """What the privileged agent asks of the environment."""

    def expected_net_value(self) -> FloatArray:
        """True value (M,) of the current tick's impressions, currency per shown impression."""
        ...

    def price_to_beat(self) -> FloatArray:
        """Lowest winning price (M,) of the current tick's auctions, currency; NaN if unknown."""
        ...

    def click_probability(self) -> FloatArray:
        """True P(click) (M,) of the current tick's impressions if shown."""
        ...

    def hindsight_multiplier(self) -> float:
        """Multiplier of the fractional knapsack on the whole campaign."""
        ...


class HindsightAgent(BaseAgent):
    """Bids true value / (1 + lambda*), lambda* of the hindsight knapsack; privileged.

    In first-price auctions it bids the price to beat wherever that bid would win.
    """

    privileged = True

    def __init__(self) -> None:
        self._oracle: HindsightOracle | None = None
        self._multiplier = 0.0

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign; `attach` must follow."""
        super().reset(campaign, seed=seed)
        self._oracle = None

    def attach(self, oracle: HindsightOracle) -> None:
        """Takes the oracle of the environment; to be called after every reset."""
        self._oracle = oracle
        self._multiplier = oracle.hindsight_multiplier()

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency.

        Raises:
            ValueError: if no oracle was attached since the reset.
        """
        if self._oracle is None:
            raise ValueError("oracle = None: call attach(oracle) after reset, before act")
        bid = np.asarray(self._oracle.expected_net_value(), np.float64) / (1.0 + self._multiplier)
        if self.campaign.charge == "click":
            # A price to beat w costs w x P(click) / pctr on average: bid for that.
            p_click = np.maximum(np.asarray(self._oracle.click_probability(), np.float64), TINY)
            bid = bid * np.asarray(obs["pctr"], np.float64) / p_click
        if self.campaign.mechanism == "first_price":
            # The bound buys at the price to beat; where that is unknown the bid stays unshaded.
            price = np.asarray(self._oracle.price_to_beat(), np.float64)
            bid = np.where(bid >= price, price * _JUST_ABOVE, np.where(np.isnan(price), bid, 0.0))
        if self.campaign.charge == "click":  # what `finalise` divides by, in place of pctr
            pctr = np.maximum(np.asarray(obs["pctr"], np.float64), TINY)
            bid = bid * click_probability(obs) / pctr
        return finalise(bid, obs, self.campaign)
