"""The offline bidding programme: most conversions under a budget and a cap on the cost per click.

In second-price auctions t with prices to beat w, CTR a and value v (conversions per impression),

    maximise  sum x v   subject to  sum x w <= B,  sum x (w - C a) <= 0,  0 <= x <= 1

whose dual is convex and piecewise linear in two variables, p of the budget and q of the cap:

    minimise  p B + sum max(0, v - p w - q (w - C a))  over p, q >= 0

For a given q the best p is that of a knapsack, exactly; what is left is convex in q alone. The
optimal bid is (v + q C a) / (p + q) per impression, and a win pays w. Not for first-price auctions,
where these duals are wrong.

A duality gap of rounding only; O(T log T) per value of q, of which about 20 are tried. Without a
dual (nothing binds) bids are infinite unless capped. The auction at the margin counts as won in
full by its bid: spend exceeds B, and cost per click C, by up to one price.

Source: I. Zhigalskii et al., arXiv:2603.01825 (DenoiseBid), the programme and the bid, which is
that of X. Yang et al., "Bid Optimization by Multivariable Control in Display Advertising", KDD
2019, arXiv:1905.10928. The elimination of p is ours (the paper hands the programme to a solver).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adsim.types import FloatArray
from predictors.metrics import require, vector

MAX_ROUNDS = 200  # values of q tried
_CLOSE = 1e-13  # of the dual's terms: a gap that is rounding


class Auctions(NamedTuple):
    """What is known of T auctions, such as those of a day gone by."""

    price: FloatArray  # (T,) to beat, currency per impression, >= 0
    ctr: FloatArray  # (T,) clicks per impression, >= 0
    value: FloatArray  # (T,) conversions per impression, >= 0


class Limits(NamedTuple):
    """Constraints of a campaign; infinity means none."""

    budget: float = float("inf")  # B, currency, >= 0
    cpc: float = float("inf")  # C, highest average cost per click, currency, >= 0


class Duals(NamedTuple):
    """Prices of the constraints, in conversions per currency unit."""

    budget: float  # p >= 0
    cpc: float  # q >= 0
    objective: float  # of the dual, and of the primal: conversions


class Outcome(NamedTuple):
    """What bids bring, if the truth is as given."""

    conversions: float
    clicks: float
    spend: float  # currency

    @property
    def cpc(self) -> float:
        """Average cost per click, currency; 0 without clicks."""
        return self.spend / self.clicks if self.clicks > 0 else 0.0


class _Knapsack(NamedTuple):
    """The best purchase at one price q of the cap."""

    p: float
    objective: float  # of the dual at (p, q)
    slope: float  # of it in q: C clicks - spend of the purchase
    share: FloatArray  # (T,) won, in [0, 1]


def checked_auctions(price: ArrayLike, ctr: ArrayLike, value: ArrayLike) -> Auctions:
    """Arrays of one length, as `Auctions`.

    Raises:
        ValueError: empty, of different lengths, or a value is negative or not finite.
    """
    columns = {"price": price, "ctr": ctr, "value": value}
    auctions = Auctions(*(vector(name, column) for name, column in columns.items()))
    for name, column in zip(columns, auctions, strict=True):
        if column.size != auctions.price.size:
            raise ValueError(f"{name} must have length {auctions.price.size}, got {column.size}")
        require(name, "finite and >= 0", column, np.isfinite(column) & (column >= 0))
    return auctions


def checked_limits(limits: Limits) -> Limits:
    """The limits.

    Raises:
        ValueError: one is negative or NaN.
    """
    for name, limit in zip(("budget", "cpc"), limits, strict=True):
        if not limit >= 0:
            raise ValueError(f"{name} must be >= 0, got {limit}")
    return limits


def solve_duals(auctions: Auctions, limits: Limits) -> Duals:
    """The optimal prices of budget and cap.

    Args:
        auctions: T >= 1, see `checked_auctions`.
        limits: both may be infinite.

    Raises:
        ValueError: an argument is out of range.
    """
    q, best = _solve(checked_auctions(*auctions), checked_limits(limits))
    return Duals(best.p, q, best.objective)


def _solve(auctions: Auctions, limits: Limits) -> tuple[float, _Knapsack]:
    low, left = 0.0, _knapsack(auctions, limits, 0.0)
    if left.slope >= 0 or limits.cpc == np.inf:
        return low, left  # the cap does not bind
    high = float(auctions.value.sum() / max(auctions.price.sum(), np.finfo(float).tiny))
    high = high if high > 0 else 1.0
    right = _knapsack(auctions, limits, high)
    for _ in range(MAX_ROUNDS):
        if right.slope >= 0:
            break
        low, left, high = high, right, 4 * high
        right = _knapsack(auctions, limits, high)
    scale = max(abs(left.objective), abs(right.objective))
    for count in range(MAX_ROUNDS):
        width = high - low
        # Both tangents lie below the convex function: where they meet is a lower bound, and the
        # minimum if the function comes down to it.
        step = (right.objective - left.objective - right.slope * width) / (left.slope - right.slope)
        middle = low + min(max(step, 0.0), width) if count % 3 < 2 else low + width / 2
        found = _knapsack(auctions, limits, middle)
        bound = left.objective + left.slope * (middle - low)
        if found.slope == 0 or (count % 3 < 2 and found.objective - bound <= _CLOSE * scale):
            return middle, found
        if not low < middle < high:
            break
        if found.slope < 0:
            low, left = middle, found
        else:
            high, right = middle, found
    return (low, left) if left.objective < right.objective else (high, right)


def _knapsack(auctions: Auctions, limits: Limits, q: float) -> _Knapsack:
    """Minimises the dual over p at a given q: fractional knapsack by value per price."""
    price, ctr, value = auctions
    credit = limits.cpc * ctr - price if limits.cpc < np.inf else np.zeros_like(price)
    gain = value + q * credit
    ratio = np.full_like(gain, -np.inf)
    np.divide(gain, price, out=ratio, where=(gain > 0) & (price > 0))
    ratio[(gain > 0) & (price == 0)] = np.inf
    order = np.argsort(-ratio, kind="stable")
    order = order[: np.count_nonzero(gain > 0)]
    spent = np.cumsum(price[order])
    at = int(np.searchsorted(spent, limits.budget, side="right"))  # the first not affordable
    share = np.zeros_like(gain)
    share[order[:at]] = 1.0
    p = 0.0
    if at < len(order):
        marginal = order[at]
        p = float(ratio[marginal])
        before = float(spent[at - 1]) if at else 0.0
        share[marginal] = (limits.budget - before) / price[marginal]
    surplus = gain[order[:at]] - p * price[order[:at]]
    paid = p * limits.budget if p > 0 else 0.0
    return _Knapsack(p, paid + float(surplus.sum()), float((share * credit).sum()), share)


def programme_bids(
    ctr: ArrayLike,
    value: ArrayLike,
    duals: Duals,
    limits: Limits,
    *,
    max_bid: float = float("inf"),
) -> FloatArray:
    """Optimal bids (M,) of a second-price auction, currency per impression, in [0, max_bid].

    Args:
        ctr: (M,) clicks per impression; the posterior mean if denoised.
        value: (M,) conversions per impression; CTR x CVR, or the posterior mean of the product.
        duals: see `solve_duals`.
        limits: those the duals were solved for.
        max_bid: currency, > 0; the bid where no constraint binds.

    Raises:
        ValueError: max_bid is not positive.
    """
    worth = np.asarray(value, np.float64)
    if duals.cpc > 0:
        # DenoiseBid, optimal bid: (Val + q C A) / (p + q), of complementary slackness
        worth = worth + duals.cpc * limits.cpc * np.asarray(ctr, np.float64)
    return capped_bids(worth, duals.budget + duals.cpc, max_bid)


def capped_bids(worth: FloatArray, price: float, max_bid: float) -> FloatArray:
    """The quotient in [0, max_bid]; at a price of 0 max_bid for what is worth anything."""
    if not max_bid > 0:
        raise ValueError(f"max_bid must be > 0, got {max_bid}")
    if price <= 0:
        return np.where(worth > 0, max_bid, 0.0)
    return np.clip(worth / price, 0.0, max_bid)


def plain_bids(
    auctions: Auctions, limits: Limits, *, max_bid: float = float("inf")
) -> tuple[FloatArray, Duals]:
    """The bidder that takes predictions for the truth: its bids (T,), and the duals."""
    duals = solve_duals(auctions, limits)
    return programme_bids(auctions.ctr, auctions.value, duals, limits, max_bid=max_bid), duals


def score_bids(bids: FloatArray, truth: Auctions) -> Outcome:
    """What bids (T,) win of the auctions, prices paid; a bid that equals the price wins.

    No budget stops the bidding: the duals alone hold the spend down.
    """
    won = np.asarray(bids) >= truth.price
    conversions, clicks, spend = (
        float(column[won].sum()) for column in (truth.value, truth.ctr, truth.price)
    )
    return Outcome(conversions, clicks, spend)
