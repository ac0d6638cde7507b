"""Dual pacing under a second constraint: a cap on CPC or net CPA, or a return-on-spend floor.

Sources: X. Yang et al., "Bid Optimization by Multivariable Control in Display Advertising", KDD
2019, arXiv:1905.10928 (the linear programme with a budget and a CPC cap, and its bid); the updates
of S. Balseiro, H. Lu, V. Mirrokni, Operations Research 71(1), 2023; the return-on-spend multiplier
after Z. Feng, S. Padmanabhan, D. Wang, "Online Bidding Algorithms for Return-on-Spend Constrained
Advertisers", WWW 2023, arXiv:2208.13713. Formulas: docs/agents.md, "Constrained pacing".

All constraints have the form sum x (w - credit) <= 0 with price w and a credit in currency:
C per click for a CPC cap C, C per kept conversion for a cap on net CPA, net GMV / R for a net
return R. For the net objective sum x (v - w), with lambda the dual of the budget and q that of the
constraint, one buys where

    w < bid = (v + q credit) / (1 + lambda + q).

Reconstruction: the papers maximise value (no 1 in the denominator); the objective v - w puts it
there. As in `agents.pacing` duals move once per tick, towards re-solved targets:
an excess of cost over credit so far is made up for by the rest of the campaign. Credit is expected
net outcomes, corrected as feedback matures (`agents.outcomes`).
"""

import math
from typing import Any

import numpy as np

from adsim.types import Campaign, FloatArray
from agents.base import (
    TINY,
    check_campaign,
    finalise,
    impression_value,
    require_in_range,
    tick_spend,
)
from agents.history import Landscape, bisect, budget_rate, expected_spend, landscape
from agents.outcomes import OutcomeBook, Predictions, Prospects, history_prospects, predictions
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
        self._book = OutcomeBook(campaign)
        self._shown: Predictions | None = None  # of the tick at hand
        self._credit = np.zeros(0)  # (M,) likewise
        self._cost = 0.0  # of the ticks so far, currency
        self._turnover = 0.0  # mean of cost and credit, summed over ticks, currency
        self._ticks = 0
        self._started = False

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        value = impression_value(obs, self.campaign.margin)
        if not self._started:
            self._start(obs)
        self._meter.before(obs)
        self._credit = np.zeros_like(value)
        if self.constrained():
            self._shown, factors = predictions(obs, self.campaign.margin), self._book.ratios()
            self._credit = self.credit(self._shown.prospects.scaled(factors))
            value = value * float(factors.net_gmv)
        return finalise(constrained_bid(value, self._credit, self.dual, self.q), obs, self.campaign)

    def observe(self, info: dict[str, Any]) -> None:
        """Moves both duals by the spend and the credit of the tick."""
        error = self._meter.after(info)
        if error is None:
            return
        # Balseiro, Lu & Mirrokni 2023: lambda against the budget's slack
        slack = self._noise[0].normalise(error)
        self.dual = float(mirror_step(self.dual, slack, self.step))
        if self._shown is None:
            return
        result = info["result"]
        cost = tick_spend(result, self.campaign.charge)
        earned = float(np.sum(self._credit, where=result.won))
        before = self._cost - float(np.sum(self.credit(self._book.outcomes())))
        self._book.update(self._shown, result, info["feedback"])
        self._cost += cost
        self._turnover += 0.5 * (cost + earned)
        self._ticks += 1
        # Reconstruction: the constraint may bind far below the budget, so that its gradient is
        # measured in the mean tick's turnover where that is less than the mean tick's budget.
        unit = min(self._meter.unit, max(self._turnover / self._ticks, TINY))
        # Balseiro, Lu & Mirrokni 2023: q <- [q + eta_q (z - C a x)]_+, the excess so far re-solved
        slack = -(cost - earned + before * min(self._meter.share, 1.0)) / unit
        self.q = float(mirror_step(self.q, self._noise[1].normalise(slack), self.step, self.mirror))
        self._keep_above_floor()

    def _start(self, obs: dict[str, Any]) -> None:
        """Tunes the duals on the price history, if there is one."""
        self._started = True
        if self.warm_start:
            market, margin = landscape(self.campaign, obs), self.campaign.margin
            credit = np.zeros_like(market.value)
            if self.constrained():
                credit = self.credit(history_prospects(market, obs, margin))
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

    def credit(self, prospects: Prospects) -> FloatArray:
        """Allowance of expected outcomes, currency, in their shape; only if constrained."""
        raise NotImplementedError


class CPCPacingAgent(ConstrainedPacingAgent):
    """Keeps the average cost per click below `campaign.targets.cpc`."""

    def constrained(self) -> bool:
        """Whether there is a finite CPC cap."""
        return math.isfinite(self.campaign.targets.cpc)

    def credit(self, prospects: Prospects) -> FloatArray:
        """C per click."""
        return self.campaign.targets.cpc * prospects.clicks


class CPAPacingAgent(ConstrainedPacingAgent):
    """Keeps the cost per kept conversion below `campaign.targets.net_cpa`."""

    def constrained(self) -> bool:
        """Whether there is a finite cap on net CPA."""
        return math.isfinite(self.campaign.targets.net_cpa)

    def credit(self, prospects: Prospects) -> FloatArray:
        """C per kept conversion."""
        return self.campaign.targets.net_cpa * prospects.kept


class RoasPacingAgent(ConstrainedPacingAgent):
    """Keeps the net return on spend above `campaign.targets.net_roas`.

    Its dual moves multiplicatively (Feng et al.: lam <- lam exp(-a (v x - z))).
    """

    def __init__(
        self, gain: float = 1.0, mirror: str = "entropy", *, warm_start: bool = True
    ) -> None:
        super().__init__(gain, mirror, warm_start=warm_start)

    def constrained(self) -> bool:
        """Whether there is a positive floor."""
        return self.campaign.targets.net_roas > 0

    def credit(self, prospects: Prospects) -> FloatArray:
        """Net GMV / R."""
        return prospects.net_gmv / self.campaign.targets.net_roas
