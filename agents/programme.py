"""SS-MDP and RLB: dynamic programmes over auctions left and integer budget left.

Source: H. Cai et al., "Real-Time Bidding by Reinforcement Learning in Display Advertising", WSDM
2017, arXiv:1701.02490; without discount and with clicks as the objective, as in the
published iPinYou table (README of han-cai/rlb-dp). The boundary V(n, 0) = 0 for every n is that of
the published implementation: without budget nothing more is counted, although a price of 0 could
still be met.
"""

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from adsim.types import Campaign, FloatArray, IntArray, PriceHistory
from agents.base import check_campaign, finalise, require_in_range

_MAX_STATES = 100_000_000  # auctions x budget of a value table (8 bytes each)


def smoothed_pmf(history: PriceHistory, max_price: int) -> FloatArray:
    """Probabilities (max_price + 1,) of integer prices: (count + 1) / (total + max_price + 1).

    Raises:
        ValueError: if a price of the history is not a whole number >= 0.
    """
    price = history.price
    if np.any((price < 0) | (price != np.floor(price))):
        raise ValueError("price_history.price must hold whole numbers >= 0 for integer budgets")
    low = price <= max_price
    count = np.bincount(
        price[low].astype(np.int64), weights=history.weight[low], minlength=max_price + 1
    )
    total = float(np.sum(history.weight))
    return np.asarray((count + 1.0) / (total + max_price + 1.0), np.float64)


def best_actions(value: FloatArray, theta: float, max_bid: int) -> IntArray:
    """Largest worthwhile integer bid for each budget.

    Args:
        value: V(n - 1, b) (B + 1,), non-decreasing in the budget b.
        theta: worth of winning now.
        max_bid: highest bid.

    Returns:
        (B + 1,) integers: largest a <= min(b, max_bid) with theta + V(n-1, b-a) - V(n-1, b) >= 0.
    """
    budget = np.arange(len(value))
    left = np.searchsorted(value, value - theta)  # budget kept, smallest that is worthwhile
    return np.minimum(budget - left, max_bid)


def value_function(pmf: FloatArray, theta: float, auctions: int, budget: int) -> FloatArray:
    """Expected clicks V (auctions + 1, budget + 1) of bidding optimally.

    Args:
        pmf: m(delta) of the price to beat, delta = 0..max_bid.
        theta: average CTR.
        auctions: N.
        budget: B, in units of price.

    Returns:
        V(n, b) for n auctions and budget b left; V(0, b) = V(n, 0) = 0. Read-only and cached.
    """
    return _value_function(pmf.tobytes(), theta, auctions, budget)


@lru_cache(maxsize=2)
def _value_function(pmf: bytes, theta: float, auctions: int, budget: int) -> FloatArray:
    """See `value_function`."""
    m = np.frombuffer(pmf)
    max_bid = len(m) - 1
    won = np.cumsum(m)  # P(price <= a)
    states = np.arange(budget + 1)
    table = np.zeros((auctions + 1, budget + 1))
    padded = np.zeros(budget + 1 + max_bid)  # V(n - 1, .) with zeros below budget 0
    after = sliding_window_view(padded, max_bid + 1)[:, ::-1]  # [b, delta] -> V(n - 1, b - delta)
    partial = np.empty(after.shape)
    for n in range(1, auctions + 1):
        value = table[n - 1]
        bid = best_actions(value, theta, max_bid)
        padded[max_bid:] = value
        np.cumsum(np.multiply(after, m, out=partial), axis=1, out=partial)
        # Cai et al. 2017: sum over won prices, else V(n - 1, b)
        table[n] = theta * won[bid] + partial[states, bid] + (1.0 - won[bid]) * value
        table[n, 0] = 0.0
    table.flags.writeable = False
    return table


class RLBAgent:
    """Bids the largest integer whose cost in future clicks the impression's CTR outweighs.

    Prices to beat, budget and bids are whole numbers of currency. Counts the auctions left since
    the reset.

    Args:
        num_auctions: auctions of an episode, > 0; by default the campaign's number of ticks, or
            its expected traffic where a tick has more than one auction.
    """

    privileged: bool = False

    def __init__(self, num_auctions: int | None = None) -> None:
        if num_auctions is not None:
            require_in_range("num_auctions", num_auctions, 0, float("inf"))
        self.num_auctions = num_auctions

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign: computes its value function unless it is the last one's.

        Raises:
            ValueError: if the history does not suit or the table would be too large.
        """
        check_campaign(campaign)
        history = campaign.price_history
        self.campaign = campaign
        self._theta_avg = require_in_range("price_history.ctr", history.ctr, 0.0, 1.0)
        auctions, budget = self._auctions(campaign), int(campaign.budget)
        self._max_bid = int(campaign.max_bid)
        if auctions * (budget + 1) > _MAX_STATES:
            raise ValueError(
                f"{auctions} auctions x budget {budget} exceed the {_MAX_STATES:.0e} states of a "
                "value table: use fewer auctions or a coarser currency"
            )
        pmf = smoothed_pmf(history, self._max_bid)
        self._value = value_function(pmf, self._theta_avg, auctions, budget)
        self._left = auctions
        self._entered = 0

    def _auctions(self, campaign: Campaign) -> int:
        """Auctions of an episode."""
        if self.num_auctions is not None:
            return self.num_auctions
        if float(np.max(campaign.expected_traffic)) <= 1.0:
            return campaign.num_ticks
        return math.ceil(float(np.sum(campaign.expected_traffic)))

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), whole currency units."""
        self._entered = int(np.count_nonzero(obs["mask"]))
        budget = min(int(obs["budget_left"][0]), self._value.shape[1] - 1)
        value = self._value[max(self._left, 1) - 1]
        highest = min(budget, self._max_bid)
        window = value[budget - highest : budget + 1]  # V(n - 1, b - a), a falling from highest
        # Cai et al. 2017: largest a with theta + V(n-1, b-a) - V(n-1, b) >= 0
        bid = highest - window.searchsorted(value[budget] - self.theta(obs))
        return finalise(bid, obs, self.campaign)

    def theta(self, obs: dict[str, Any]) -> FloatArray:
        """Worth (M,) of winning, clicks: the predicted CTR."""
        return np.asarray(obs["pctr"], np.float64)

    def observe(self, info: dict[str, Any]) -> None:
        """Counts the auctions of the tick."""
        self._left -= self._entered
        self._entered = 0


class SSMDPAgent(RLBAgent):
    """RLB with the average CTR in place of each impression's: bids by the state alone."""

    def theta(self, obs: dict[str, Any]) -> FloatArray:
        """Worth (M,) of winning, clicks: the average CTR."""
        return np.full(len(obs["pctr"]), self._theta_avg)
