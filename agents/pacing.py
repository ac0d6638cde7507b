"""Budget pacing: PID, adaptive pacing and dual mirror descent.

Sources:

    adaptive  S. Balseiro, Y. Gur, "Learning in Repeated Auctions with Budgets: Regret Minimization
              and Equilibrium", Management Science 65(9), 2019, Section 3
    dual      S. Balseiro, H. Lu, V. Mirrokni, "The Best of Many Worlds: Dual Mirror Descent for
              Online Allocation Problems", Operations Research 71(1), 2023, arXiv:2011.10124
    PID       W. Zhang, Y. Rong, J. Wang, T. Zhu, X. Wang, "Feedback Control of Real-Time Display
              Advertising", WSDM 2016, arXiv:1603.01055

Formulas and deviations: docs/agents.md, "Budget pacing".

The functions work on arrays of campaigns, so that one controlled campaign and 47 rivals are paced
by the same code. Agents maximise net value: bid v / (1 + lambda), lambda >= 0.

Deviation, common to all: the duals move once per tick by the spend of the whole tick; the rate
rho is what is left of the budget per impression still expected (re-solved every tick), so that an
error made early is made up for and the budget is spent at the end.
"""

import math
from typing import Any, NamedTuple

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
from agents.history import (
    MIN_LOG_MULTIPLIER,
    Landscape,
    budget_rate,
    landscape,
    spend_elasticity,
    tuned_log_multiplier,
)

MAX_STEP = 0.5  # largest move of a log multiplier in one tick
MAX_LEAD = 1.5  # largest log ratio of the re-solved rate to the campaign's that is acted upon
LEAD = 0.5  # share of that ratio that is turned into bids at once
MIN_ENTROPY_DUAL = 1e-3  # keeps a multiplicative dual able to grow
MIRRORS = ("shifted_entropy", "entropy", "euclidean")


class PIDGains(NamedTuple):
    """Gains per unit of relative spend error, dimensionless; numbers or (..., A) arrays."""

    proportional: float | FloatArray
    integral: float | FloatArray
    derivative: float | FloatArray


def pacing_error(
    spend: float | FloatArray,
    budget_left: float | FloatArray,
    share: float | FloatArray,
    unit: float | FloatArray,
) -> FloatArray:
    """How far a tick's spend lies below its target, in units of the mean tick's budget.

    Args:
        spend: spend of the tick (..., A), currency.
        budget_left: budget before the tick (..., A), currency.
        share: traffic of the tick / traffic expected from the tick to the end, in [0, 1].
        unit: budget / number of ticks (..., A), currency.
    """
    # Balseiro, Lu & Mirrokni 2023: g = rho - b(x), with rho re-solved
    return np.asarray((budget_left * share - spend) / unit)


def mirror_step(
    dual: float | FloatArray,
    gradient: float | FloatArray,
    step: float | FloatArray,
    mirror: str = "shifted_entropy",
) -> FloatArray:
    """One step of dual mirror descent: argmin over mu >= 0 of g mu + V_h(mu, mu_t) / eta.

    Args:
        dual: mu_t >= 0 (..., A).
        gradient: g (..., A); positive = the constraint is slack.
        step: eta > 0 (..., A).
        mirror: "euclidean" (h = mu^2 / 2), "entropy" (h = mu log mu; needs mu > 0) or
            "shifted_entropy" (h = (1 + mu) log(1 + mu)).
    """
    move = np.minimum(np.maximum(-step * gradient, -MAX_STEP), MAX_STEP)
    if mirror == "euclidean":
        return np.maximum(dual + move, 0.0)  # Balseiro, Lu & Mirrokni 2023
    if mirror == "entropy":
        return dual * np.exp(move)  # Balseiro, Lu & Mirrokni 2023
    # Reconstruction: h' = log(1 + mu) + 1, so that the bid v / (1 + mu) moves multiplicatively
    return np.maximum((1.0 + dual) * np.exp(move) - 1.0, 0.0)


def require_mirror(mirror: str) -> str:
    """Returns the name of a mirror map.

    Raises:
        ValueError: if there is none of this name.
    """
    if mirror not in MIRRORS:
        raise ValueError(f"mirror = {mirror!r} is not one of {', '.join(MIRRORS)}")
    return mirror


def adaptive_step(
    mu: float | FloatArray,
    error: float | FloatArray,
    step: float | FloatArray,
    bound: float | FloatArray,
) -> FloatArray:
    """One step of adaptive pacing on the multiplier mu (..., A), projected to [0, bound]."""
    # Balseiro & Gur 2019, Section 3: mu <- P_[0, mubar](mu - eps (rho - z))
    return np.minimum(np.maximum(mu - step * error, 0.0), bound)


def pid_step(
    integral: float | FloatArray,
    error: float | FloatArray,
    previous_error: float | FloatArray,
    gains: PIDGains,
) -> tuple[FloatArray, FloatArray]:
    """One step of a PID controller of the log multiplier phi <= 0 (bid = v exp(phi)).

    Args:
        integral: integral term (..., A), already multiplied by its gain.
        error: of this tick (..., A), see `pacing_error`.
        previous_error: of the tick before (..., A).
        gains: see `PIDGains`.

    Returns:
        (phi, new integral term), both (..., A) in [MIN_LOG_MULTIPLIER, 0].
    """
    # Zhang et al. 2016: phi = lP e + lI sum e dt + lD de / dt, with dt = 1 tick
    move = np.minimum(np.maximum(gains.integral * error, -MAX_STEP), MAX_STEP)
    # Deviation: the integral is kept within the range of phi (anti-windup), phi <= 0 (net value)
    integral = np.minimum(np.maximum(integral + move, MIN_LOG_MULTIPLIER), 0.0)
    swing = gains.proportional * error + gains.derivative * (error - previous_error)
    phi = integral + np.minimum(np.maximum(swing, -MAX_STEP), MAX_STEP)
    return np.minimum(np.maximum(phi, MIN_LOG_MULTIPLIER), 0.0), integral


class SpendMeter:
    """Compares the spend of each tick of one campaign with its target."""

    def __init__(self, campaign: Campaign) -> None:
        self._charge = campaign.charge
        self._expected = campaign.expected_traffic
        self._remaining = np.cumsum(self._expected[::-1])[::-1]  # (T,) from tick t to the end
        self._rate = budget_rate(campaign)
        self._tick = 0
        self._budget_left: float | None = None
        self._count = 0
        self.unit = campaign.budget / campaign.num_ticks  # currency per mean tick
        self.share = 0.0  # of the last tick in the remaining traffic

    def before(self, obs: dict[str, Any]) -> float:
        """Notes what a tick starts with.

        Returns:
            Log of the re-solved rate (budget left per impression still expected) over the
            campaign's rate, within +-MAX_LEAD.
        """
        self._budget_left = float(obs["budget_left"][0])
        self._count = int(np.count_nonzero(obs["mask"]))
        rest = float(self._remaining[min(self._tick, len(self._remaining) - 1)])
        rate = self._budget_left / max(rest, TINY) / self._rate
        return min(max(math.log(max(rate, TINY)), -MAX_LEAD), MAX_LEAD)

    def after(self, info: dict[str, Any]) -> float | None:
        """Relative error of the tick's spend, see `pacing_error`; None if no bid preceded."""
        if self._budget_left is None:
            return None
        spend = tick_spend(info["result"], self._charge)
        tick = min(self._tick, len(self._remaining) - 1)
        # The tick's true count replaces its expectation: a busy tick may spend more.
        rest = float(self._remaining[tick]) - float(self._expected[tick]) + self._count
        self.share = self._count / max(rest, TINY)
        error = float(pacing_error(spend, self._budget_left, self.share, self.unit))
        self._tick += 1
        self._budget_left = None
        return error


class NoiseScale:
    """Size of the tick-to-tick noise of the gradients of one campaign.

    Mirror descent wants eta = D / (G sqrt(T)) with G the size of the gradients (Balseiro, Lu &
    Mirrokni 2023); ticks of one auction have G of 3 to 10 mean ticks, large ones < 1.
    """

    def __init__(self) -> None:
        self._squares = 1.0
        self._count = 1
        self._previous: float | None = None

    def normalise(self, gradient: float) -> float:
        """The gradient divided by G, never enlarged."""
        if self._previous is not None:
            # Reconstruction: differences of successive gradients do not count a steady error.
            self._squares += 0.5 * (gradient - self._previous) ** 2
            self._count += 1
        self._previous = gradient
        return gradient / math.sqrt(max(1.0, self._squares / self._count))


class PacedAgent:
    """Bids v x exp(log_multiplier); a subclass moves the multiplier once per tick.

    Args:
        gain: step per tick = gain / sqrt(number of ticks), dimensionless, > 0.
        warm_start: tune the first multiplier on the price history (else start at 1).
    """

    privileged: bool = False

    def __init__(self, gain: float = 1.0, *, warm_start: bool = True) -> None:
        self.gain = require_in_range("gain", gain, 0.0, float("inf"))
        self.warm_start = warm_start

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign; no random numbers are drawn.

        Raises:
            ValueError: if the campaign's figures are out of range.
        """
        check_campaign(campaign)
        self.campaign = campaign
        self.step = self.gain * campaign.num_ticks**-0.5  # eta ~ T^{-1/2}
        self.log_multiplier: float | None = None  # unknown before the first observation
        self._meter = SpendMeter(campaign)
        self._noise = NoiseScale()
        self._reaction = 1.0  # percent of spend per percent of bid

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,), currency."""
        if self.log_multiplier is None:
            self.log_multiplier = self._tune(obs)
            self.start(self.log_multiplier)
        # Reconstruction: feed-forward of the re-solved rate, so that the end-game spends the
        # budget; the mirror step alone is too slow for the last few ticks.
        lead = LEAD * self._meter.before(obs) / self._reaction
        value = impression_value(obs, self.campaign.margin)
        paced = value * math.exp(min(self.log_multiplier + lead, 0.0))
        return finalise(self.bid(paced, value), obs, self.campaign)

    def observe(self, info: dict[str, Any]) -> None:
        """Moves the multiplier by the spend of the tick."""
        error = self._meter.after(info)
        if error is not None:
            self.log_multiplier = self.update(self._noise.normalise(error))

    def _tune(self, obs: dict[str, Any]) -> float:
        """Log multiplier <= 0 that spends the budget on the history; 0 if not informative."""
        market, mechanism = landscape(self.campaign, obs), self.campaign.mechanism
        self.prepare(market)
        if not self.warm_start:
            return 0.0

        def bids(factor: float) -> FloatArray:
            return self.bid(factor * market.value, market.value)

        tuned = tuned_log_multiplier(market, budget_rate(self.campaign), mechanism, bids)
        # Reconstruction: steps in units of log spend; a market that reacts twice as strongly to
        # the bid gets half the step.
        self._reaction = max(1.0, spend_elasticity(market, tuned, mechanism, bids))
        self.step /= self._reaction
        return tuned

    def prepare(self, market: Landscape) -> None:
        """Hook before the first bid: learns from the price history (here: nothing)."""
        return

    def bid(self, paced: FloatArray, value: FloatArray) -> FloatArray:
        """Hook: bids (M,) for values (M,), given value x multiplier (here: the latter)."""
        return paced

    def start(self, log_multiplier: float) -> None:
        """Sets the controller's state; `log_multiplier` <= 0."""
        raise NotImplementedError

    def update(self, error: float) -> float:
        """New log multiplier <= 0 after a tick of relative spend error `error`."""
        raise NotImplementedError


class DualPacingAgent(PacedAgent):
    """Dual mirror descent for the budget: bids v / (1 + lambda).

    Args:
        gain: see `PacedAgent`.
        mirror: see `mirror_step`.
        warm_start: see `PacedAgent`.
    """

    def __init__(
        self, gain: float = 1.0, mirror: str = "shifted_entropy", *, warm_start: bool = True
    ) -> None:
        super().__init__(gain, warm_start=warm_start)
        self.mirror = require_mirror(mirror)

    def start(self, log_multiplier: float) -> None:
        """Sets lambda."""
        self.dual = math.expm1(-log_multiplier)
        if self.mirror == "entropy":
            self.dual = max(self.dual, MIN_ENTROPY_DUAL)

    def update(self, error: float) -> float:
        """Moves lambda against the error of the spend."""
        self.dual = float(mirror_step(self.dual, error, self.step, self.mirror))
        if self.mirror == "entropy":
            self.dual = max(self.dual, MIN_ENTROPY_DUAL)
        return -math.log1p(self.dual)


class AdaptivePacingAgent(PacedAgent):
    """Adaptive pacing of Balseiro and Gur: bids v / (1 + mu), additive steps of mu.

    The step is scaled to the multiplier 1 + mu that the price history suggests, or mean value /
    rho where it is silent (the scale of the bound mubar = vbar / rho - 1).
    """

    def start(self, log_multiplier: float) -> None:
        """Sets mu, its bound and the scale of its steps."""
        history = self.campaign.price_history
        known = history.value[np.isfinite(history.value)]
        rate = budget_rate(self.campaign)
        self.mu = math.expm1(-log_multiplier)
        mean = float(known.mean()) / rate if len(known) else 1.0
        self._scale = 1.0 + self.mu if log_multiplier < 0 else min(max(mean, 1.0), 10.0)
        # Balseiro & Gur 2019, Section 3: mubar >= vbar / rho - 1
        highest = float(known.max()) if len(known) else self.campaign.max_bid
        self._bound = max(highest / rate - 1.0, 2.0 * self.mu, 1.0)

    def update(self, error: float) -> float:
        """Moves mu against the error of the spend."""
        self.mu = float(adaptive_step(self.mu, error, self.step * self._scale, self._bound))
        return -math.log1p(self.mu)


class PIDPacingAgent(PacedAgent):
    """PID control of the spend: bids v exp(phi), phi <= 0.

    Args:
        gain: common factor of the three gains, see `PacedAgent`.
        proportional: lP relative to the integral gain, dimensionless, >= 0.
        derivative: lD relative to the integral gain, ticks, >= 0.
        warm_start: see `PacedAgent`.
    """

    def __init__(
        self,
        gain: float = 1.0,
        proportional: float = 1.0,
        derivative: float = 0.0,
        *,
        warm_start: bool = True,
    ) -> None:
        super().__init__(gain, warm_start=warm_start)
        for field, value in (("proportional", proportional), ("derivative", derivative)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{field} = {value!r} is outside its allowed range [0, inf)")
        self.proportional = proportional
        self.derivative = derivative

    def start(self, log_multiplier: float) -> None:
        """Opens with the tuned bid; scales the gains with 1 / sqrt(T)."""
        self._integral = log_multiplier
        self._previous_error = 0.0
        step = self.step
        self._gains = PIDGains(self.proportional * step, step, self.derivative * step)

    def update(self, error: float) -> float:
        """Moves phi by the error of the spend."""
        phi, integral = pid_step(self._integral, error, self._previous_error, self._gains)
        self._integral, self._previous_error = float(integral), error
        return float(phi)
