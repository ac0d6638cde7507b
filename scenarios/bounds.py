"""Hindsight bounds of campaigns with a second constraint beside the budget."""

import math

import numpy as np

from adsim.oracle import EpisodeMarket
from adsim.scores import Knapsack, fractional_knapsack
from adsim.types import FloatArray
from agents.history import bisect

_MAX_LOG_DUAL = 10.0  # of log(1 + q): credit counts 20,000 times as much as value


def constrained_bound(
    market: EpisodeMarket, budget: float, credit: FloatArray | None = None
) -> Knapsack:
    """Most net value under a budget and sum x (cost - credit) <= 0, knowing all prices.

    With the second constraint in the objective, at a price q >= 0, a fractional knapsack is left,
    whose optimum is no less than that of the linear programme, and equal to it at the best q.

    Args:
        market: all auctions (N,) of an episode.
        budget: currency >= 0.
        credit: what winning an auction allows to be spent (N,), currency; None: no constraint.

    Returns:
        An allocation that keeps both constraints where one can, and the bound as its net value.
    """
    plain = fractional_knapsack(market.value, market.cost, budget)
    if credit is None:
        return plain
    slack = credit - market.cost
    excess = np.where(np.isfinite(slack), -slack, 0.0)  # a cost that is infinite is never bought

    def solved(u: float) -> Knapsack:
        q = math.expm1(u)
        # Lagrangian: max of sum x (v - w) + q (credit - w) is a knapsack of v + q (credit - w)
        return fractional_knapsack(market.value - q * excess, market.cost, budget)

    u = bisect(lambda u: float(solved(u).allocation @ excess), 0.0, 0.0, _MAX_LOG_DUAL)
    return solved(u) if u > 0 else plain
