"""Scores of a finished campaign: pure functions, arrays in, floats out.

Sources:
    AuctionNet: "AuctionNet: A Novel Benchmark for Decision-Making in Large-Scale Games",
        NeurIPS 2024 Datasets and Benchmarks; github.com/alimama-tech/AuctionNet.
    BAT: "BAT: Benchmark for Auto-bidding Task", arXiv:2505.08485; metrics as the published code
        computes them (avito-tech/bat-autobidding-benchmark).
    AuctionGym: O. Jeunen, S. Murphy, B. Allison, "Learning to Bid with AuctionGym", AdKDD 2022;
        amzn/auction-gym, src/Agent.py, commit 03dd0a0.

Money is in currency units. Errors are `ValueError`s that name the argument and its range.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from adsim.types import BoolArray, FloatArray

QUICKSPEND_SHARE = 0.9  # BAT: share of the budget gone in the first half of a campaign
MIN_CLICKS = 1e-3  # BAT: (expected) clicks below which a campaign counts as without clicks
NO_CLICKS_PENALTY = 1e4  # BAT: added to the relative CPC of a campaign without clicks

_INF = math.inf
_ROUNDING = 1e-9  # relative difference of values summed in another order


class ValueParts(NamedTuple):
    """What an impression's expected net GMV is made of; (N,) each."""

    ctr: FloatArray  # (N,) probability of a click if shown (times the slot's position factor)
    cvr: FloatArray  # (N,) probability of a purchase, given a click
    refund_share: FloatArray  # (N,) refunded share of GMV, in [0, 1]
    gmv: FloatArray  # (N,) expected GMV of a converted click, currency


class AuctionOutcome(NamedTuple):
    """What the auctions of a campaign brought; (N,) each."""

    price_to_beat: FloatArray  # (N,) lowest winning bid, currency; infinity if not to be won
    won: BoolArray  # (N,)
    paid: FloatArray  # (N,) currency (expected, if charged per click); not read where lost


class RegretSplit(NamedTuple):
    """Expected net value lost, by cause, in currency; the parts sum to the total.

    With v the true value, u the estimated one, w the price to beat and p the price paid, let
    N(u) = sum over {u >= w} of (v - w): what the truthful bidder of the estimate u earns if it
    pays the price to beat. Then, in the order in which a bidder decides,

        allocation   sum (v_best - w)+ - N(v)
        estimation   N(v) - N(u), with ctr, cvr, refund share and gmv replaced one after another
        overpayment  sum over won of (p - w)
        overbid      sum over won, u < w, of (w - v)
        underbid     sum over lost, u >= w, of (v - w)

    and the sum telescopes to sum (v_best - w)+ - sum over won of (v - p). With exact estimates
    overbid is the loss on wins above their value and underbid the gain left in lost auctions, both
    >= 0. With wrong ones either may be negative: a bid that shades away an overestimate earns its
    part of the estimation regret back. The parts of the estimation depend on their order and may
    be negative where two errors cancel. A binding budget makes underbid regret unavoidable:
    compare bidders on the same budget.

    # Reconstruction: AuctionGym has clicks only and sums, over all auctions, v_best - v
    # (allocation), u - v (estimation), over wins p - second price (overbid, here `overpayment`)
    # and, over losses with w < v, w - bid (underbid). These do not add up to the loss, so all but
    # `overpayment` are restated as net value lost and extended to CVR, refunds and GMV.
    """

    allocation: float  # showing another item than the best one, >= 0
    ctr: float  # deciding by the estimated CTR
    cvr: float  # then also by the estimated CVR
    refund: float  # then also by the estimated refund share
    gmv: float  # then also by the estimated GMV
    overpayment: float  # paying more than the price to beat
    overbid: float  # winning what the own estimate says to lose
    underbid: float  # losing what the own estimate says to win

    @property
    def estimation(self) -> float:
        """Loss of bidding the estimated value instead of the true one, >= 0."""
        return self.ctr + self.cvr + self.refund + self.gmv

    @property
    def total(self) -> float:
        """Regret against the bidder that wins exactly what is worth its price, at that price."""
        return self.allocation + self.estimation + self.overpayment + self.overbid + self.underbid


class Knapsack(NamedTuple):
    """Best fractional choice of auctions in hindsight."""

    allocation: FloatArray  # (N,) x: bought share of each auction, in [0, 1]
    multiplier: float  # lambda >= 0: bidding value / (1 + lambda) wins x; 0 = budget not binding
    net_value: float  # sum x (value - price), currency
    spend: float  # sum x price, currency, <= budget


def net_value(gmv: ArrayLike, refunds: ArrayLike, spend: ArrayLike, margin: float) -> float:
    """Profit on what was not refunded, less what the ads cost.

    Args:
        gmv: GMV, scalar or any shape, currency >= 0; summed.
        refunds: Refunded GMV, likewise.
        spend: Cost of the impressions or clicks, likewise.
        margin: Profit share of net GMV, in (0, 1].
    """
    _check("margin", margin, 0, 1, open_low=True)
    net_gmv = float(_array("gmv", gmv).sum() - _array("refunds", refunds).sum())
    return margin * net_gmv - float(_array("spend", spend).sum())


def cost_per_action(spend: float, actions: float) -> float:
    """Currency per action; without actions infinity if money was spent, else 0."""
    _check("spend", spend, 0)
    _check("actions", actions, 0)
    if actions == 0:
        return _INF if spend > 0 else 0.0
    return spend / actions


def auctionnet_score(
    value: float, target_cpa: float, actual_cpa: float, exponent: float = 2
) -> float:
    """Value, cut down where it was bought above the target cost per action.

    Args:
        value: What was bought: conversions, or their expectation, >= 0.
        target_cpa: Highest cost per conversion allowed, currency > 0; infinity for none.
        actual_cpa: Cost per conversion, currency >= 0; infinity if there was none (the score is
            then 0, unless the target is infinite too). See `cost_per_action`.
        exponent: Severity, > 0; AuctionNet uses 2.
    """
    _check("value", value, 0)
    _check("target_cpa", target_cpa, 0, open_low=True, finite=False)
    _check("actual_cpa", actual_cpa, 0, finite=False)
    _check("exponent", exponent, 0, open_low=True)
    if actual_cpa <= target_cpa:
        return float(value)
    return float(value * (target_cpa / actual_cpa) ** exponent)  # AuctionNet: min(1, (C/CPA)^2)


def rmse_to_traffic(spend_per_tick: ArrayLike, budget: float, traffic_share: ArrayLike) -> float:
    """BAT's RMSE_T: distance of the spend from the budget laid out along the traffic.

    Args:
        spend_per_tick: Spend (T,) of every tick (BAT: hour) of the campaign, currency >= 0.
        budget: Budget, currency > 0.
        traffic_share: Traffic (T,) of the same ticks, >= 0, in any unit: scaled to sum to 1 over
            the campaign, as BAT does.

    Returns:
        RMSE in units of the mean budget per tick; 0 is perfect.
    """
    spend = _array("spend_per_tick", spend_per_tick, ndim=1)
    traffic = _array("traffic_share", traffic_share, shape=spend.shape)
    _check("budget", budget, 0, open_low=True)
    if not traffic.sum() > 0:
        raise ValueError("traffic_share: sums to 0, must be positive")
    target = budget * traffic / traffic.sum()  # BAT, RMSE_T: B f_h
    return float(np.sqrt(np.mean((target - spend) ** 2)) / (budget / spend.size))  # BAT, RMSE_T


def is_quickspend(spend_per_tick: ArrayLike, budget: float) -> bool:
    """Whether more than 90 % of the budget went in the first half of the campaign.

    Args:
        spend_per_tick: Spend (T,), currency >= 0. Of an odd T the middle tick is second half.
        budget: Budget, currency > 0.
    """
    spend = _array("spend_per_tick", spend_per_tick, ndim=1)
    _check("budget", budget, 0, open_low=True)
    return bool(spend[: spend.size // 2].sum() > QUICKSPEND_SHARE * budget)  # BAT, quickspend


def quickspend_share(spend_per_tick: ArrayLike, budgets: ArrayLike) -> float:
    """Share of campaigns that spent 90 % in the first half, in [0, 1].

    Args:
        spend_per_tick: Spend (num_campaigns, T), currency >= 0; at least one campaign.
        budgets: Budgets (num_campaigns,), currency > 0.
    """
    spend = _array("spend_per_tick", spend_per_tick, ndim=2)
    budget = _array("budgets", budgets, shape=spend.shape[:1])
    pairs = zip(spend, budget.tolist(), strict=True)
    return float(np.mean([is_quickspend(row, limit) for row, limit in pairs]))  # BAT, quickspend


def relative_cpc(
    spend_per_tick: ArrayLike, clicks_per_tick: ArrayLike, desired_cpc: float = 1.0
) -> float:
    """BAT's CPC_rel of one campaign: mean cost per click of its ticks over the desired one.

    A tick without clicks counts as 0, and a campaign without clicks as 10,000, both as published:
    compare it between campaigns of the same length that do click.

    Args:
        spend_per_tick: Spend (T,), currency >= 0.
        clicks_per_tick: Clicks or expected clicks (T,), >= 0.
        desired_cpc: Currency > 0, for instance budget / desired clicks. The published code fixes
            it at 1, and so leaves the result in currency.
    """
    spend = _array("spend_per_tick", spend_per_tick, ndim=1)
    clicks = _array("clicks_per_tick", clicks_per_tick, shape=spend.shape)
    _check("desired_cpc", desired_cpc, 0, open_low=True)
    cpc = np.divide(spend, clicks, out=np.zeros_like(spend), where=clicks > 0)
    # Reconstruction: the penalty is not divided by the desired CPC, which the code holds at 1.
    penalty = NO_CLICKS_PENALTY if clicks.sum() < MIN_CLICKS else 0.0
    return float(cpc.mean() / desired_cpc) + penalty  # BAT, CPC_rel


def expected_value(parts: ValueParts, margin: float) -> FloatArray:
    """Expected profit (N,) of showing each impression, before its price, currency.

    Args:
        parts: Components (N,) each.
        margin: Profit share of net GMV, in (0, 1].
    """
    ctr, cvr, refund_share, gmv = (np.asarray(part, dtype=np.float64) for part in parts)
    return margin * ctr * cvr * (1 - refund_share) * gmv


def regret_split(
    true: ValueParts,
    estimated: ValueParts,
    outcome: AuctionOutcome,
    margin: float,
    best_value: ArrayLike | None = None,
) -> RegretSplit:
    """Where expected net value was lost: item choice, estimates or bids.

    Args:
        true: Noiseless components of the item shown, (N,) each.
        estimated: What the bidder believed, (N,) each.
        outcome: All auctions, lost ones included, (N,) each.
        margin: Profit share of net GMV, in (0, 1].
        best_value: Expected profit (N,) of the best item of the catalogue, currency, at least
            that of the item shown; None if there was no choice.

    Returns:
        The parts, defined in `RegretSplit`.
    """
    _check("margin", margin, 0, 1, open_low=True)
    price, won, paid_won = _outcome(outcome)
    mixed = _parts("true", true, price.shape)
    believed = _parts("estimated", estimated, price.shape)
    value = expected_value(mixed, margin)  # (N,) v
    estimate = value  # (N,) u
    earned = [_earned(value, price, value >= price)]  # N(u) with 0..4 components estimated
    for field in ValueParts._fields:
        mixed = mixed._replace(**{field: getattr(believed, field)})
        estimate = expected_value(mixed, margin)
        earned.append(_earned(value, price, estimate >= price))
    best = value if best_value is None else _array("best_value", best_value, shape=price.shape)
    if (best < value - _ROUNDING * value).any():
        raise ValueError("best_value: below the true value of the item shown")
    return RegretSplit(
        _earned(best, price, best >= price) - earned[0],
        *(before - after for before, after in itertools.pairwise(earned)),
        overpayment=float((paid_won - price[won]).sum()),
        overbid=-_earned(value, price, won & (estimate < price)),
        underbid=_earned(value, price, ~won & (estimate >= price)),
    )


def share_of_hindsight(net_value: float, bound: float) -> float:
    """Net value as a share of the hindsight bound, <= 1 in expectation; NaN if the bound is 0.

    Args:
        net_value: Expected net value of a bidder, currency.
        bound: Net value of `fractional_knapsack` on the same auctions, currency >= 0.
    """
    _check("net_value", net_value, -_INF)
    _check("bound", bound, 0)
    return net_value / bound if bound > 0 else math.nan


def fractional_knapsack(value: ArrayLike, price: ArrayLike, budget: float) -> Knapsack:
    """Hindsight bound: maximise sum x (v - w) subject to sum x w <= budget, 0 <= x <= 1.

    Buys auctions with v > w in falling order of v / w until the budget is gone; one of them may be
    bought in part. Free auctions (w = 0 < v) are always bought. To count clicks instead of profit,
    pass as value the clicks times any number above all prices: the same x is then optimal.

    Args:
        value: Expected profit v (N,) of each impression before its price, currency, any sign.
        price: Price to beat w (N,), currency >= 0; infinity if not to be won.
        budget: Currency >= 0; infinity for none.

    Returns:
        The optimum; its multiplier is the dual of the budget, v / w - 1 of the auction at the
        margin (the lowest such dual if the budget ends exactly between two auctions).
    """
    values = _array("value", value, low=-_INF, ndim=1)
    prices = _array("price", price, finite=False, shape=values.shape)
    _check("budget", budget, 0, finite=False)
    wanted = np.flatnonzero(values > prices)
    v, w = values[wanted], prices[wanted]
    with np.errstate(over="ignore"):  # a price next to 0 ranks like a free one
        ratio = np.divide(v, w, out=np.full_like(v, _INF), where=w > 0)
    # fractional knapsack: buy in falling order of value per currency until B is spent
    order = np.argsort(-ratio, kind="stable")
    wanted, v, w, ratio = wanted[order], v[order], w[order], ratio[order]
    cost = np.cumsum(w)
    full = int(np.searchsorted(cost, budget, side="right"))
    x = np.zeros(v.size)
    x[:full] = 1
    multiplier = 0.0
    if full < v.size:
        x[full] = min(1.0, (budget - (cost[full - 1] if full else 0.0)) / w[full])
        multiplier = float(ratio[full] - 1)  # bid v / (1 + lambda) = w at the margin
    allocation = np.zeros(values.size)
    allocation[wanted] = x
    spend = min(float(x @ w), float(budget))  # the sum may round above the budget
    return Knapsack(allocation, multiplier, float(x @ (v - w)), spend)


def _outcome(outcome: AuctionOutcome) -> tuple[FloatArray, BoolArray, FloatArray]:
    """Checked prices to beat (N,), wins (N,) and payments (number of wins,)."""
    price = _array("price_to_beat", outcome.price_to_beat, finite=False, ndim=1)
    won = np.asarray(outcome.won)
    if won.dtype != np.bool_ or won.shape != price.shape:
        raise ValueError(f"won: {won.dtype} {won.shape}, must be bool {price.shape}")
    if np.isinf(price[won]).any():
        raise ValueError("price_to_beat: infinite in an auction that was won, must be finite")
    paid = np.asarray(outcome.paid, dtype=np.float64)
    if paid.shape != price.shape:
        raise ValueError(f"paid: shape {paid.shape}, must be {price.shape}")
    return price, won, _array("paid (of won auctions)", paid[won])


def _earned(value: FloatArray, price: FloatArray, bought: BoolArray) -> float:
    """Sum of value - price over the auctions bought."""
    return float((value[bought] - price[bought]).sum())


def _parts(name: str, parts: ValueParts, shape: tuple[int, ...]) -> ValueParts:
    """Checked components, float64."""
    return ValueParts(
        _array(f"{name}.ctr", parts.ctr, high=1, shape=shape),
        _array(f"{name}.cvr", parts.cvr, high=1, shape=shape),
        _array(f"{name}.refund_share", parts.refund_share, high=1, shape=shape),
        _array(f"{name}.gmv", parts.gmv, shape=shape),
    )


def _check(
    name: str,
    number: float,
    low: float,
    high: float = _INF,
    *,
    open_low: bool = False,
    finite: bool = True,
) -> None:
    """Raises unless low <= number <= high (low < number if `open_low`)."""
    above = number > low if open_low else number >= low
    if not (above and number <= high) or (finite and math.isinf(number)):
        bounds = f"{'(' if open_low else '['}{low}, {high}{')' if finite and high == _INF else ']'}"
        raise ValueError(f"{name}: {number} is out of range, must be in {bounds}")


def _array(
    name: str,
    array: ArrayLike,
    *,
    low: float = 0,
    high: float = _INF,
    finite: bool = True,
    ndim: int | None = None,
    shape: tuple[int, ...] | None = None,
) -> FloatArray:
    """A float64 array of the wanted shape with all values in [low, high]."""
    result = np.asarray(array, dtype=np.float64)
    if shape is not None and result.shape != shape:
        raise ValueError(f"{name}: shape {result.shape}, must be {shape}")
    if ndim is not None and (result.ndim != ndim or result.shape[0] == 0):
        raise ValueError(f"{name}: shape {result.shape}, must be {ndim}-dimensional, not empty")
    good = (result >= low) & (result <= high) & (~np.isinf(result) | (not finite))
    if not good.all():
        worst = np.unravel_index(int(np.argmin(good)), result.shape)
        index = ", ".join(str(int(i)) for i in worst)
        bounds = f"[{low}, {high}{')' if finite and high == _INF else ']'}"
        raise ValueError(f"{name}[{index}] is {result[worst]}, must be in {bounds}")
    return result
