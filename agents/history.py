"""What a price history says about bids that have not been made yet.

A `Landscape` pairs prices to beat with the agent's own values; constants of static agents and
starting points of adaptive ones are tuned on it so that the expected spend is the budget.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from adsim.types import Campaign, FloatArray, PriceHistory
from agents.base import TINY, impression_value, platform_value

MIN_LOG_MULTIPLIER = -14.0  # lowest multiplier on values, exp(-14) = 8e-7
_MAX_PRICES = 512  # support points of the price distribution if values are unknown
_MAX_VALUES = 64  # support points of the value distribution if values are unknown
MIN_RESCALE = 30  # impressions that make the ratio of own to platform values reliable
_BISECTIONS = 50
_ELASTICITY_SPAN = 0.2  # log of the factor on the multiplier


class Landscape(NamedTuple):
    """Auctions to be expected; (H,) each, H = 0 if nothing is known."""

    price: FloatArray  # (H,) price to beat, currency per impression
    weight: FloatArray  # (H,) share of the auctions, sums to 1
    value: FloatArray  # (H,) the agent's value, currency per impression
    pctr: FloatArray  # (H,) predicted CTR


def landscape(campaign: Campaign, obs: dict[str, Any]) -> Landscape:
    """Pairs the prices of the history with values.

    Rows of known value are used as they are, rescaled if the agent's own values (the entry
    `expected_net_value`) differ from the platform's on the impressions at hand. If no row has a
    value, prices are taken as independent of values and crossed with the values at hand.

    Args:
        campaign: gives the history and the margin.
        obs: the first observation of the campaign.
    """
    history = campaign.price_history
    real = np.asarray(obs["mask"]) > 0
    value = impression_value(obs, campaign.margin)[real]
    pctr = np.asarray(obs["pctr"], np.float64)[real]
    known = np.isfinite(history.value)
    if not known.any():
        return _crossed(history, value, pctr)
    scale = 1.0
    if "expected_net_value" in obs and real.sum() >= MIN_RESCALE:
        total = float(np.sum(platform_value(obs, campaign.margin)[real]))
        scale = max(float(np.sum(value)), 0.0) / total if total > 0 else 1.0
    weight = history.weight[known]
    return Landscape(
        history.price[known],
        weight / weight.sum(),
        history.value[known] * scale,
        history.pctr[known],
    )


def _crossed(history: PriceHistory, value: FloatArray, pctr: FloatArray) -> Landscape:
    """Every price of the history with every value at hand, as if independent."""
    if not len(history.price) or not len(value):
        empty = np.zeros(0)
        return Landscape(empty, empty, empty, empty)
    if len(value) == 1 and np.isfinite(history.ctr):
        # Reconstruction: one impression tells the value of a click, the history the average CTR.
        value, pctr = value / np.maximum(pctr, TINY) * history.ctr, np.full(1, history.ctr)
    keep = np.argsort(value)
    keep = keep[np.linspace(0, len(keep) - 1, min(len(keep), _MAX_VALUES)).astype(int)]
    price, weight = _compress(history.price, history.weight)
    rows = (len(keep), len(price))
    return Landscape(
        np.broadcast_to(price, rows).ravel(),
        np.broadcast_to(weight / len(keep), rows).ravel(),
        np.repeat(value[keep], len(price)),
        np.repeat(pctr[keep], len(price)),
    )


def _compress(price: FloatArray, weight: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At most 512 support points of a price distribution, and their shares."""
    share = weight / weight.sum()
    if len(price) <= _MAX_PRICES:
        return price, share
    order = np.argsort(price)
    middle = (np.arange(_MAX_PRICES) + 0.5) / _MAX_PRICES
    index = np.searchsorted(np.cumsum(share[order]), middle)
    index = np.minimum(index, len(price) - 1)
    return price[order][index], np.full(_MAX_PRICES, 1.0 / _MAX_PRICES)


def expected_spend(bid: FloatArray, market: Landscape, mechanism: str) -> float:
    """Mean cost of an auction of the landscape if one bids so, currency per impression.

    GSP and VCG count as second price: the history holds one price per auction.

    Args:
        bid: bids (H,), currency per impression; a bid at the price wins.
        market: the landscape of H auctions.
        mechanism: first_price pays the bid, all others the price to beat.
    """
    cost = bid if mechanism == "first_price" else market.price
    return float(np.sum(market.weight * cost, where=(bid >= market.price) & (bid > 0)))


def bisect(curve: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a non-increasing curve falls to `target`: the least such point in [low, high]."""
    if curve(low) <= target:
        return low
    for _ in range(_BISECTIONS):
        middle = 0.5 * (low + high)
        if curve(middle) > target:
            low = middle
        else:
            high = middle
    return high


def tuned_log_multiplier(
    market: Landscape, rate: float, mechanism: str, bid_of: Callable[[float], FloatArray]
) -> float:
    """Log of the factor on values that spends the budget on the landscape, at most 0.

    Args:
        market: the landscape of H auctions.
        rate: budget per expected impression, currency.
        mechanism: of the campaign.
        bid_of: bids (H,) for a factor on the values.
    """
    return -bisect(
        lambda x: expected_spend(bid_of(math.exp(-x)), market, mechanism),
        rate, 0.0, -MIN_LOG_MULTIPLIER,
    )  # fmt: skip


def spend_elasticity(
    market: Landscape,
    log_multiplier: float,
    mechanism: str,
    bid_of: Callable[[float], FloatArray],
) -> float:
    """Percent of spend that one percent of the multiplier moves, at `log_multiplier`; 1 if unknown.

    A central difference over +-20 % of the multiplier; arguments as in `tuned_log_multiplier`.
    """
    ends = [
        expected_spend(bid_of(math.exp(log_multiplier + x)), market, mechanism)
        for x in (-_ELASTICITY_SPAN, _ELASTICITY_SPAN)
    ]
    if ends[0] <= 0:
        return 1.0
    return math.log(ends[1] / ends[0]) / (2.0 * _ELASTICITY_SPAN)


def budget_rate(campaign: Campaign) -> float:
    """Budget rate rho: budget per expected impression, currency."""
    return campaign.budget / float(np.sum(campaign.expected_traffic))
