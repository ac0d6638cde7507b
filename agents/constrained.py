"""Dual pacing under a second constraint: an average CPC cap or a return-on-spend floor.

Sources: X. Yang et al., "Bid Optimization by Multivariable Control in Display Advertising", KDD
2019, arXiv:1905.10928 (the linear programme with a budget and a CPC cap, and its bid); the updates
of S. Balseiro, H. Lu, V. Mirrokni, Operations Research 71(1), 2023; the return-on-spend multiplier
after Z. Feng, S. Padmanabhan, D. Wang, "Online Bidding Algorithms for Return-on-Spend Constrained
Advertisers", WWW 2023, arXiv:2208.13713. Formulas: docs/agents.md, "Constrained pacing".

Both constraints have the form sum x (w - credit) <= 0 with price w and a credit in currency:
C per click for a CPC cap C, net GMV / R for a net return R. For the net objective sum x (v - w),
with lambda the dual of the budget and q that of the constraint, one buys where

    w < bid = (v + q credit) / (1 + lambda + q).

Reconstruction: the papers maximise value (no 1 in the denominator); the objective v - w puts it
there. As in `agents.pacing` duals move once per tick, towards re-solved targets:
an excess of cost over credit so far is made up for by the rest of the campaign.
"""

import math
from typing import Any

import numpy as np

from adsim.types import AuctionResult, Campaign, FloatArray
from agents.base import (
    TINY,
    check_campaign,
    finalise,
    impression_value,
    require_in_range,
    tick_spend,
)
from agents.history import Landscape, bisect, budget_rate, expected_spend, landscape
from agents.pacing import NoiseScale, SpendMeter, mirror_step, require_mirror

_MAX_LOG_DUAL = 7.0  # log(1 + dual): bids fall to 1/1000 of the value
_FLOOR = 1e-3  # smallest dual of the multiplicative update


def constrained_bid(
    value: FloatArray, credit: FloatArray | float, dual: float, q: float
) -> FloatArray:
    """Optimal bids (M,) for the two duals, currency per impression.

    Args:
        value: v (M,), currency per impression.
        credit: what a win allows to be spent (M,), currency per impression.
        dual: lambda >= 0, of the budget.
        q: dual >= 0 of the constraint.
    """
    # Yang et al. 2019: bid = ctr (cvr + q C) / (p + q), with p = 1 + lambda (net objective)
    return (value + q * credit) / (1.0 + dual + q)


def tuned_duals(
    market: Landscape, credit: FloatArray, rate: float, mechanism: str
) -> tuple[float, float]:
    """Duals (lambda, q) that meet both constraints on the landscape.

    Args:
        market: landscape of H auctions.
        credit: (H,) currency per impression.
        rate: budget per impression, currency.
        mechanism: of the campaign.
    """

    def budget_dual(q: float) -> float:
        """Least lambda that keeps the budget at a given q."""
        return math.expm1(
            bisect(
                lambda u: expected_spend(
                    constrained_bid(market.value, credit, math.expm1(u), q), market, mechanism
                ),
                rate,
                0.0,
                _MAX_LOG_DUAL,
            )
        )

    def excess(u: float) -> float:
        """Mean cost minus credit of an auction at q = e^u - 1, currency."""
        q = math.expm1(u)
        bid = constrained_bid(market.value, credit, budget_dual(q), q)
        won = (bid >= market.price) & (bid > 0)
        return expected_spend(bid, market, mechanism) - float(
            np.sum(market.weight * credit, where=won)
        )

    if not len(market.price):
        return 0.0, 0.0
    q = math.expm1(bisect(excess, 0.0, 0.0, _MAX_LOG_DUAL))
    return budget_dual(q), q


class ConstrainedPacingAgent:
    """Two duals, moved once per tick; a subclass says what a win allows to be spent.

    Args:
        gain: step per tick = gain / sqrt(number of ticks), dimensionless, > 0.
        mirror: mirror map of q, see `agents.pacing.mirror_step`.
        warm_start: tune the first duals on the price history.
    """

    privileged: bool = False

    def __init__(
        self, gain: float = 1.0, mirror: str = "shifted_entropy", *, warm_start: bool = True
    ) -> None:
        self.gain = require_in_range("gain", gain, 0.0, float("inf"))
        self.mirror = require_mirror(mirror)
        self.warm_start = warm_start

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign; no random numbers are drawn."""
        check_campaign(campaign)
        self.campaign = campaign
        self.dual, self.q = 0.0, 0.0
        self.step = self.gain * campaign.num_ticks**-0.5  # eta ~ T^{-1/2}
        self._meter = SpendMeter(campaign)
        self._noise = (NoiseScale(), NoiseScale())
        self._excess = 0.0  # cost minus credit so far, currency
        self._credit = np.zeros(0)  # (M,) of the tick at hand
        self._turnover = 0.0  # mean of cost and credit, summed over ticks, currency
        self._ticks = 0
        self._started = False

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        value = impression_value(obs, self.campaign.margin)
        pctr = np.asarray(obs["pctr"], np.float64)
        if not self._started:
            self._start(obs)
        self._meter.before(obs)
        self._credit = self.credit(value, pctr)
        return finalise(constrained_bid(value, self._credit, self.dual, self.q), obs, self.campaign)

    def observe(self, info: dict[str, Any]) -> None:
        """Moves both duals by the spend and the credit of the tick."""
        error = self._meter.after(info)
        if error is None:
            return
        result = info["result"]
        # Balseiro, Lu & Mirrokni 2023: lambda against the budget's slack
        slack = self._noise[0].normalise(error)
        self.dual = float(mirror_step(self.dual, slack, self.step))
        if not self.constrained():
            return
        cost, earned = tick_spend(result, self.campaign.charge), self.earned(result, self._credit)
        excess = cost - earned
        self._turnover += 0.5 * (cost + earned)
        self._ticks += 1
        # Reconstruction: the constraint may bind far below the budget, so that its gradient is
        # measured in the mean tick's turnover where that is less than the mean tick's budget.
        unit = min(self._meter.unit, max(self._turnover / self._ticks, TINY))
        # Balseiro, Lu & Mirrokni 2023: q <- [q + eta_q (z - C a x)]_+, the excess so far re-solved
        slack = -(excess + self._excess * min(self._meter.share, 1.0)) / unit
        self._excess += excess
        self.q = float(mirror_step(self.q, self._noise[1].normalise(slack), self.step, self.mirror))
        self._keep_above_floor()

    def _start(self, obs: dict[str, Any]) -> None:
        """Tunes the duals on the price history, if there is one."""
        self._started = True
        if self.warm_start:
            market = landscape(self.campaign, obs)
            credit = np.nan_to_num(self.credit(market.value, market.pctr))
            rate = budget_rate(self.campaign)
            self.dual, self.q = tuned_duals(market, credit, rate, self.campaign.mechanism)
        if not self.constrained():
            self.q = 0.0
        self._keep_above_floor()

    def _keep_above_floor(self) -> None:
        """A multiplicative dual cannot leave 0."""
        if self.mirror == "entropy" and self.constrained():
            self.q = max(self.q, _FLOOR)

    def constrained(self) -> bool:
        """Whether the campaign has the target of this agent."""
        raise NotImplementedError

    def credit(self, value: FloatArray, pctr: FloatArray) -> FloatArray:
        """Expected allowance (M,) of a win, currency per impression; 0 without constraint."""
        raise NotImplementedError

    def earned(self, result: AuctionResult, credit: FloatArray) -> float:
        """Allowance that a tick brought, currency."""
        raise NotImplementedError


class CPCPacingAgent(ConstrainedPacingAgent):
    """Keeps the average cost per click below `campaign.targets.cpc`; counts realised clicks."""

    def constrained(self) -> bool:
        """Whether there is a finite CPC cap."""
        return math.isfinite(self.campaign.targets.cpc)

    def credit(self, value: FloatArray, pctr: FloatArray) -> FloatArray:
        """C a (M,): cap times predicted CTR, currency per impression."""
        return self.campaign.targets.cpc * pctr if self.constrained() else np.zeros_like(value)

    def earned(self, result: AuctionResult, credit: FloatArray) -> float:
        """Cap times the clicks of the tick, currency."""
        return self.campaign.targets.cpc * float(np.count_nonzero(result.won & result.clicked))


class RoasPacingAgent(ConstrainedPacingAgent):
    """Keeps the net return on spend above `campaign.targets.net_roas`, by predicted values.

    Purchases are seen too late to steer by, so that predicted net GMV counts (as in Feng et al.,
    where the value is known). Its dual moves multiplicatively.
    """

    def __init__(
        self, gain: float = 1.0, mirror: str = "entropy", *, warm_start: bool = True
    ) -> None:
        super().__init__(gain, mirror, warm_start=warm_start)

    def constrained(self) -> bool:
        """Whether there is a positive floor."""
        return self.campaign.targets.net_roas > 0

    def credit(self, value: FloatArray, pctr: FloatArray) -> FloatArray:
        """Net GMV / R (M,), currency per impression."""
        if not self.constrained():
            return np.zeros_like(value)
        return value / (self.campaign.margin * self.campaign.targets.net_roas)

    def earned(self, result: AuctionResult, credit: FloatArray) -> float:
        """Predicted net GMV of the won impressions / R, currency."""
        # Feng et al. 2023: lam <- lam exp(-a (v x - z))
        return float(np.sum(credit, where=result.won))
