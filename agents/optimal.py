"""ORTB1 and ORTB2: optimal bids under a parametric win curve.

Source: W. Zhang, S. Yuan, J. Wang, "Optimal Real-Time Bidding for Display Advertising", KDD 2014,
docs/agents.md, "ORTB". Derived for cost = bid, hence concave in the value; with second-price costs
the optimum is linear. theta is the value here, so that lambda is dimensionless and lambda >= 1
bids no more than pays (net value); `net = False` lets it fall below 1 (value maximisation).
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from adsim.types import Campaign, FloatArray
from agents.base import TINY, BaseAgent, finalise, impression_value
from agents.history import Landscape, bisect, budget_rate, expected_spend, landscape

_CURVE_POINTS = 256  # bids at which the win curve is fitted
_SCALE_POINTS = 2001  # candidates for c, spaced evenly in the logarithm
_MAX_LOG_LAMBDA = 20.0


def ortb1_bid(theta: FloatArray, lam: float, c: float) -> FloatArray:
    """Bids (M,) for the win curve b / (c + b).

    Args:
        theta: value (M,) >= 0, currency.
        lam: lambda > 0, value per currency.
        c: > 0, currency.
    """
    return np.sqrt(c * theta / lam + c * c) - c  # Zhang, Yuan & Wang 2014


def ortb2_bid(theta: FloatArray, lam: float, c: float) -> FloatArray:
    """Bids (M,) for the win curve b^2 / (c^2 + b^2); arguments as in `ortb1_bid`."""
    # Zhang, Yuan & Wang 2014: root of b^3 + 3 c^2 b - 2 c^2 theta / lambda = 0
    root = np.cbrt((theta + np.sqrt(c * c * lam * lam + theta * theta)) / (c * lam))
    return c * (root - 1.0 / root)


def fitted_scale(market: Landscape, power: int) -> float:
    """Least-squares c of b^k / (c^k + b^k) on the empirical win curve.

    Args:
        market: landscape of H auctions with a positive price.
        power: k, 1 for ORTB1 and 2 for ORTB2.

    Returns:
        c > 0, currency.

    Raises:
        ValueError: if there is no positive price.
    """
    if not np.any(market.price > 0):
        raise ValueError("campaign.price_history has no price > 0: a win curve needs some")
    order = np.argsort(market.price)
    price, share = market.price[order], np.cumsum(market.weight[order])
    middle = (np.arange(_CURVE_POINTS) + 0.5) / _CURVE_POINTS
    bid = price[np.minimum(np.searchsorted(share, middle), len(price) - 1)]
    bid = bid[bid > 0]
    # a bid at the price wins: share of prices <= bid
    won = share[np.searchsorted(price, bid, side="right") - 1]
    c = np.exp(np.linspace(math.log(bid.min() / 100), math.log(bid.max() * 100), _SCALE_POINTS))
    curve = 1.0 / (1.0 + (c[:, None] / bid) ** power)
    return float(c[np.argmin(np.sum((curve - won) ** 2, axis=1))])


class _OptimalRule:
    """Constants of an ORTB bid, tuned on the price history at the first observation."""

    def __init__(
        self, formula: Callable[[FloatArray, float, float], FloatArray], power: int, net: bool
    ) -> None:
        self.formula, self.power, self.net = formula, power, net
        self.c: float | None = None
        self.lam = 1.0

    def bid(self, campaign: Campaign, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency per impression."""
        if self.c is None:
            if not np.any(obs["mask"]):  # nothing to bid on, nor to tune on
                return np.zeros(np.shape(obs["mask"]))
            self._tune(campaign, landscape(campaign, obs))
        assert self.c is not None
        theta = np.maximum(impression_value(obs, campaign.margin), 0.0)
        return self.formula(theta, self.lam, self.c)

    def _tune(self, campaign: Campaign, market: Landscape) -> None:
        """Fits c, then lambda so that the expected spend is the budget."""
        c = self.c = fitted_scale(market, self.power)
        theta = np.maximum(market.value, TINY)
        self.lam = math.exp(
            bisect(
                lambda x: expected_spend(
                    self.formula(theta, math.exp(x), c), market, campaign.mechanism
                ),
                budget_rate(campaign),
                0.0 if self.net else -_MAX_LOG_LAMBDA,
                _MAX_LOG_LAMBDA,
            )
        )


class ORTB1Agent(BaseAgent):
    """Bids sqrt(c v / lambda + c^2) - c, constants tuned on the price history.

    Args:
        net: keep lambda >= 1, which maximises net value; otherwise value.
        integer_bids: round bids down to whole currency units.
    """

    def __init__(self, *, net: bool = True, integer_bids: bool = False) -> None:
        self.net, self.integer_bids = net, integer_bids

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign."""
        super().reset(campaign, seed=seed)
        self._rule = _OptimalRule(ortb1_bid, 1, self.net)

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        bid = self._rule.bid(self.campaign, obs)
        return finalise(bid, obs, self.campaign, integer=self.integer_bids)


class ORTB2Agent(BaseAgent):
    """Bids the optimum for the win curve b^2 / (c^2 + b^2), see `ortb2_bid`.

    Args:
        net: keep lambda >= 1, which maximises net value; otherwise value.
        integer_bids: round bids down to whole currency units.
    """

    def __init__(self, *, net: bool = True, integer_bids: bool = False) -> None:
        self.net, self.integer_bids = net, integer_bids

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign."""
        super().reset(campaign, seed=seed)
        self._rule = _OptimalRule(ortb2_bid, 2, self.net)

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        bid = self._rule.bid(self.campaign, obs)
        return finalise(bid, obs, self.campaign, integer=self.integer_bids)
