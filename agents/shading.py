"""First-price shading on an estimated win curve, with dual pacing of the budget.

The win curve is log-logistic, P(win | b) = b^g / (c^g + b^g) (the family of ORTB: g = 1 and 2 are
its two curves), scaled by a power of the impression's value where values and prices go together:
c = c_0 v^beta. The bid maximises (v / (1 + lambda) - b) P(win | b).

Reconstruction: the surplus objective is standard for first-price auctions; the online fit (a
Bayesian logistic regression by Newton steps with forgetting, prior from the price history) is this
project's choice. Lost auctions whose price is revealed enter with the density of that price, all
others as won or lost at the own bid, so that it also learns where only the winner's price is seen.
"""

import math
from typing import Any

import numpy as np

from adsim.types import BoolArray, FloatArray
from agents.base import TINY, click_probability, impression_value, require_in_range
from agents.history import Landscape
from agents.pacing import PacedAgent, mirror_step

_MIN_SHAPE, _MAX_SHAPE = 0.3, 50.0  # range of g
_PRIOR_SHAPE = 2.0  # g without history, as in ORTB2
_PRIOR_WEIGHT = 300.0  # auctions that the price history counts for, at most
_MIN_ROWS = 50  # rows of the history needed to relate prices to values
_NEWTON_STEPS = 3
_LOG_GRID = np.linspace(math.log(1e-4), math.log(1e4), 1024)  # log of bid / c


def optimal_shading(value: FloatArray, scale: FloatArray | float, shape: float) -> FloatArray:
    """Bids (M,) that maximise (value - b) b^g / (c^g + b^g).

    Args:
        value: worth of a win (M,), already divided by 1 + lambda, currency.
        scale: c (M,) > 0, currency: the bid that wins every second auction.
        shape: g > 0.
    """
    # First-order condition: value = b + b (1 + (b / c)^g) / g, increasing in b; inverted on a grid
    log_value = _LOG_GRID + np.log1p((1.0 + np.exp(shape * _LOG_GRID)) / shape)
    target = np.log(np.maximum(value, TINY) / scale)
    bid = scale * np.exp(np.interp(target, log_value, _LOG_GRID))
    return np.where(value > 0, np.minimum(bid, value), 0.0)


class WinCurve:
    """Posterior of z(b) = alpha + g log(b v^-beta), P(win | b) = sigmoid(z(b)).

    Args:
        memory: auctions after which evidence has lost all but 1/e of its weight, > 0.
    """

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self.beta = 0.0  # power of the value that prices grow with
        self.theta = np.array([0.0, _PRIOR_SHAPE])  # (2,) alpha, g
        self.precision = np.diag([1.0, 1.0])  # (2, 2) of the Gaussian posterior

    def start(self, market: Landscape, fallback: float) -> None:
        """Fits the prior to the prices of the history.

        Args:
            market: landscape of H auctions.
            fallback: median price if there is no history, currency.
        """
        price = np.maximum(market.price, 1e-3 * float(np.sum(market.weight * market.price)) + TINY)
        if len(price) < 2:
            self.theta = np.array([-_PRIOR_SHAPE * math.log(max(fallback, TINY)), _PRIOR_SHAPE])
            return
        self.beta = _value_power(market, price)
        y = np.log(price) - self.beta * np.log(np.maximum(market.value, TINY))
        mean = float(np.sum(market.weight * y))
        spread = math.sqrt(float(np.sum(market.weight * (y - mean) ** 2)))
        # a logistic variable of slope g has standard deviation pi / (g sqrt(3))
        shape = min(max(math.pi / math.sqrt(3.0) / max(spread, 1e-3), _MIN_SHAPE), _MAX_SHAPE)
        self.theta = np.array([-shape * mean, shape])
        weight = market.weight * min(len(price), _PRIOR_WEIGHT)
        nothing = np.zeros(0)
        self.precision = np.diag([1e-3, 1e-3])
        self._newton(nothing, np.zeros(0, bool), nothing, y, weight)

    def scale(self, value: FloatArray) -> FloatArray:
        """Median price to beat c (M,) of impressions of given values (M,), currency."""
        return math.exp(-self.theta[0] / self.theta[1]) * np.maximum(value, TINY) ** self.beta

    def update(self, bid: FloatArray, value: FloatArray, won: BoolArray, price: FloatArray) -> None:
        """Learns from n auctions entered with a positive bid.

        Args:
            bid: (n,) > 0, currency.
            value: (n,) > 0, currency.
            won: (n,) boolean.
            price: (n,) price to beat of lost auctions where revealed, else NaN; currency.
        """
        if not len(bid):
            return
        decay = math.exp(-len(bid) / self.memory)
        self.precision = decay * self.precision + 1e-6 * np.eye(2)
        offset = self.beta * np.log(np.maximum(value, TINY))
        seen = ~won & np.isfinite(price) & (price > 0)
        censored = ~seen
        self._newton(
            (np.log(bid) - offset)[censored],
            won[censored],
            np.ones(int(censored.sum())),
            (np.log(np.where(seen, price, 1.0)) - offset)[seen],
            np.ones(int(seen.sum())),
        )

    def _newton(
        self,
        bid: FloatArray,
        won: BoolArray,
        bid_weight: FloatArray,
        price: FloatArray,
        price_weight: FloatArray,
    ) -> None:
        """Newton steps on the log posterior; bid and price are logs, relative to v^beta."""
        prior, precision = self.theta.copy(), self.precision
        information = precision
        for _ in range(_NEWTON_STEPS):
            alpha, shape = self.theta
            chance = 1.0 / (1.0 + np.exp(-np.clip(alpha + shape * bid, -30, 30)))  # P(win)
            below = 1.0 / (1.0 + np.exp(-np.clip(alpha + shape * price, -30, 30)))  # its cdf
            # d log sigmoid(z) = 1 - sigmoid(z); density of a logistic: log g + log s + log(1 - s)
            first = np.concatenate([bid_weight * (won - chance), price_weight * (1 - 2 * below)])
            second = np.concatenate(
                [bid_weight * chance * (1 - chance), 2 * price_weight * below * (1 - below)]
            )
            rows = np.stack([np.ones(len(first)), np.concatenate([bid, price])])  # (2, n)
            total = float(price_weight.sum())
            gradient = rows @ first - precision @ (self.theta - prior)
            gradient[1] += total / shape
            information = precision + (rows * second) @ rows.T
            information[1, 1] += total / shape**2
            self.theta = self.theta + np.linalg.solve(information, gradient)
            self.theta[1] = min(max(self.theta[1], _MIN_SHAPE), _MAX_SHAPE)
        self.precision = information


def _value_power(market: Landscape, price: FloatArray) -> float:
    """Slope of log price on log value over the history; 0 if it cannot be told."""
    known = market.value > 0
    if known.sum() < _MIN_ROWS:
        return 0.0
    weight = market.weight[known] / market.weight[known].sum()
    x, y = np.log(market.value[known]), np.log(price[known])
    x = x - np.sum(weight * x)
    variance = float(np.sum(weight * x * x))
    return float(np.sum(weight * x * y)) / variance if variance > 1e-12 else 0.0


class ShadingAgent(PacedAgent):
    """Shades bids in first-price auctions and paces the budget; elsewhere it only paces.

    Args:
        gain: see `agents.pacing.PacedAgent`.
        memory: auctions that the win curve remembers, > 0.
        warm_start: see `agents.pacing.PacedAgent`.
    """

    def __init__(
        self, gain: float = 1.0, memory: float = 50_000.0, *, warm_start: bool = True
    ) -> None:
        super().__init__(gain, warm_start=warm_start)
        self.memory = require_in_range("memory", memory, 0.0, float("inf"))
        self.curve = WinCurve(self.memory)
        self._last: tuple[FloatArray, FloatArray, FloatArray] | None = None

    def prepare(self, market: Landscape) -> None:
        """Starts the win curve from the price history."""
        self.curve = WinCurve(self.memory)
        self.curve.start(market, self._fallback)

    def bid(self, paced: FloatArray, value: FloatArray) -> FloatArray:
        """Shaded bids (M,), currency per impression."""
        if self.campaign.mechanism != "first_price":
            return paced
        return optimal_shading(paced, self.curve.scale(value), float(self.curve.theta[1]))

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        value = impression_value(obs, self.campaign.margin)
        real = np.asarray(obs["mask"]) > 0
        if self.log_multiplier is None:
            # Reconstruction: without any history half the mean value is a guess of the price
            self._fallback = 0.5 * float(np.mean(value[real])) if real.any() else 1.0
        bid = super().act(obs)
        # bids per click: back to currency per impression
        unit = click_probability(obs) if self.campaign.charge == "click" else np.ones_like(bid)
        self._last = bid * unit, value, unit
        return bid

    def observe(self, info: dict[str, Any]) -> None:
        """Learns the win curve, then paces."""
        if self._last is not None and self.campaign.mechanism == "first_price":
            bid, value, unit = self._last
            result = info["result"]
            entered = (bid > 0) & (value > 0)
            self.curve.update(
                bid[entered],
                value[entered],
                result.won[entered],
                result.price[entered] * unit[entered],
            )
        self._last = None
        super().observe(info)

    def start(self, log_multiplier: float) -> None:
        """Sets lambda."""
        self.dual = math.expm1(-log_multiplier)

    def update(self, error: float) -> float:
        """Moves lambda against the error of the spend."""
        self.dual = float(mirror_step(self.dual, error, self.step))
        return -math.log1p(self.dual)
