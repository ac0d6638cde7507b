"""The hindsight bound (fractional knapsack) and the agent that bids with its multiplier.

Source: adsim's specification of the baseline bidders, sections 1.1 and 4.1, for the net
objective: maximise sum x (v - w) subject to sum x w <= B, whose optimum buys in order of v / w
and bids v / (1 + lambda).
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from adsim.types import Campaign, FloatArray
from agents.base import BaseAgent, finalise


class Knapsack(NamedTuple):
    """Solution of the fractional knapsack."""

    x: FloatArray  # (N,) bought share of each impression, in [0, 1]
    multiplier: float  # lambda >= 0: dual price of the budget, dimensionless
    total_net: float  # sum x (v - w), currency
    total_spend: float  # sum x w, currency


def fractional_knapsack(value: FloatArray, price: FloatArray, budget: float) -> Knapsack:
    """Best purchase in hindsight at exogenous prices.

    Args:
        value: expected net value (N,) of showing each impression, currency.
        price: price to beat (N,), >= 0, currency; inf or NaN where it cannot be bought.
        budget: > 0, currency.

    Returns:
        The shares and totals; the multiplier is v / w - 1 of the marginal impression, 0 if the
        budget does not bind.

    Raises:
        ValueError: if shapes differ or the budget is negative.
    """
    value = np.asarray(value, np.float64)
    price = np.asarray(price, np.float64)
    if value.shape != price.shape or value.ndim != 1:
        raise ValueError(f"value {value.shape} and price {price.shape} must be of one shape (N,)")
    if not budget >= 0:
        raise ValueError(f"budget = {budget} is outside its allowed range [0, inf)")
    index = np.flatnonzero((value > price) & (price >= 0))
    worth, cost = value[index], price[index]
    # spec 4.1: cheapest first by w / v, i.e. by falling v / w
    order = np.argsort(cost / worth, kind="stable")
    index, worth, cost = index[order], worth[order], cost[order]
    total = np.cumsum(cost)
    x = np.zeros(len(value))
    whole = int(np.searchsorted(total, budget, side="right"))  # bought in full
    x[index[:whole]] = 1.0
    multiplier = 0.0
    if whole < len(index):
        spent = float(total[whole - 1]) if whole else 0.0
        x[index[whole]] = (budget - spent) / cost[whole]
        multiplier = float(worth[whole] / cost[whole] - 1.0)
    bought = x[index]
    return Knapsack(
        x, multiplier, float(np.sum(bought * (worth - cost))), float(np.sum(bought * cost))
    )


class HindsightOracle(Protocol):
    """What the privileged agent asks of the environment."""

    def expected_net_value(self) -> FloatArray:
        """True value (M,) of the current tick's impressions, currency per shown impression."""
        ...

    def hindsight_multiplier(self) -> float:
        """Multiplier of the fractional knapsack on the whole campaign."""
        ...


class HindsightAgent(BaseAgent):
    """Bids true value / (1 + lambda*), lambda* of the hindsight knapsack; privileged."""

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
        value = np.asarray(self._oracle.expected_net_value(), np.float64)
        return finalise(value / (1.0 + self._multiplier), obs, self.campaign)
