"""RobustBid: bids that are best against the worst CTR and CVR within balls around predictions.

The truth lies in ||a - a_hat||_2 <= r_a and ||b - b_hat||_2 <= r_b over the auctions of a campaign
(radius sqrt(2 eps), see `ball_radius`; it grows with the square root of their number). With one
ball the robust programme is

    maximise  sum x a_hat b_hat - r ||g x||  subject to  sum x w <= B,
              sum x (w - C a_hat) + C r_a ||x|| <= 0,  0 <= x <= 1

where g = b_hat for a ball of CTRs and a_hat for one of CVRs. It is solved as a fixed point: for
fixed norms it is separable and quadratic, with two prices found as roots.

Source: A. Pudovikov et al., "Robust autobidding for noisy conversion prediction models",
arXiv:2510.08788, balls of the mean squared error only (not the absolute error or cross-entropy).
Deviations, all named at their lines: the factor C of the correction for clicks, which the published
code leaves out; no factor 2 in the joint dual; with two balls x and the prices come from a first-
order bound of the worst case (too pessimistic by at most r_a r_b), its correction from the dual.
"""

import math
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, root_scalar

from adsim.types import FloatArray
from predictors.bid_programme import (
    Auctions,
    Duals,
    Limits,
    capped_bids,
    checked_auctions,
    checked_limits,
    programme_bids,
    solve_duals,
)
from predictors.metrics import require

_ROUNDS = 300  # of the fixed point of the norms
_CLOSE = 1e-11  # relative move of the norms at which it stops
_TINY = 1e-9  # of the norm of winning everything: nothing is won
_MAX_DOUBLINGS = 60


class WorstCase(NamedTuple):
    """The worst pair of CTRs and CVRs for a purchase."""

    value: float  # sum x a b, conversions (by the dual: at most that of the perturbations)
    ctr_multiplier: float  # lambda_a; infinite if its radius is 0
    cvr_multiplier: float  # lambda_b; infinite if its radius is 0
    ctr_shift: FloatArray  # (T,) a - a_hat
    cvr_shift: FloatArray  # (T,) b - b_hat


class RobustSolution(NamedTuple):
    """The robust purchase of T auctions, and the prices of its constraints."""

    duals: Duals  # p and q; objective: the robust value of the purchase, conversions
    share: FloatArray  # (T,) won, in [0, 1]
    share_norm: float  # ||x||
    value_norms: tuple[float, ...]  # ||g x|| of each ball


class _Ball(NamedTuple):
    radius: float  # > 0
    slope: FloatArray  # (T,) g, what a unit of error costs per won impression


def ball_radius(eps: float) -> float:
    """Radius sqrt(2 eps) of 1/2 sum (a - a_hat)^2 <= eps, in probability.

    >>> ball_radius(0.02)
    0.2
    """
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and >= 0, got {eps}")
    return math.sqrt(2 * eps)


class RobustBid:
    """The robust bidder.

    Args:
        ctr_radius: r_a >= 0 of the ball of CTRs; 0 trusts them.
        cvr_radius: r_b >= 0 of the ball of CVRs; 0 trusts them.
    """

    def __init__(self, ctr_radius: float = 0.0, cvr_radius: float = 0.0) -> None:
        for name, radius in (("ctr_radius", ctr_radius), ("cvr_radius", cvr_radius)):
            if not 0 <= radius < math.inf:
                raise ValueError(f"{name} must be finite and >= 0, got {radius}")
        self.ctr_radius, self.cvr_radius = ctr_radius, cvr_radius
        self.worst: WorstCase | None = None  # with two balls, of the fitted purchase
        self._solution: RobustSolution | None = None

    @property
    def solution(self) -> RobustSolution:
        """What `fit` found.

        Raises:
            ValueError: not fitted.
        """
        if self._solution is None:
            raise ValueError("the prices are not known yet: call fit")
        return self._solution

    def fit(self, price: ArrayLike, ctr: ArrayLike, cvr: ArrayLike, limits: Limits) -> Self:
        """Solves the robust programme on T auctions.

        Args:
            price: (T,) to beat, currency per impression, > 0.
            ctr: (T,) predicted, clicks per impression.
            cvr: (T,) predicted, conversions per click.
            limits: of the campaign.

        Raises:
            ValueError: an argument is out of range.
        """
        a, b = (np.asarray(column, np.float64) for column in (ctr, cvr))
        auctions = checked_auctions(price, a, a * b)
        require("price", "> 0", auctions.price, auctions.price > 0)
        self._limits = checked_limits(limits)
        balls = tuple(
            _Ball(radius, slope)
            for radius, slope in ((self.ctr_radius, b), (self.cvr_radius, a))
            if radius > 0
        )
        self._solution = solve_robust(auctions, limits, balls, self.ctr_radius)
        self.worst = None
        if len(balls) == 2 and self._solution.share_norm > 0:
            self.worst = joint_worst_case(
                self._solution.share, a, b, self.ctr_radius, self.cvr_radius
            )
        return self

    def bids(self, ctr: ArrayLike, cvr: ArrayLike, *, max_bid: float = float("inf")) -> FloatArray:
        """Bids (M,) of a second-price auction, currency per impression, in [0, max_bid].

        An auction is priced as won in full (x = 1). All bids are 0 if the robust purchase is empty.

        Args:
            ctr: (M,) predicted.
            cvr: (M,) predicted.
            max_bid: currency, > 0.

        Raises:
            ValueError: not fitted, or max_bid is not positive.
        """
        a, b = (np.asarray(column, np.float64) for column in (ctr, cvr))
        duals, _, share_norm, norms = self.solution
        if not norms:
            return programme_bids(a, a * b, duals, self._limits, max_bid=max_bid)
        if share_norm == 0:
            return np.zeros(a.shape)
        worth = a * b - self._correction(a, b, norms)
        if duals.cpc > 0:
            # RobustBid, KKT of the programme: + u0 C a_hat - alpha C u0 x / ||x||.
            # Deviation: the published code has no factor C in the second term.
            worth = worth + duals.cpc * self._limits.cpc * (a - self.ctr_radius / share_norm)
        return capped_bids(worth, duals.budget + duals.cpc, max_bid)

    def _correction(self, a: FloatArray, b: FloatArray, norms: tuple[float, ...]) -> FloatArray:
        """What the worst case takes off the value of auctions (M,) won in full."""
        if self.worst is not None:
            click, conversion = self.worst.ctr_multiplier, self.worst.cvr_multiplier
            # RobustBid, joint dual: h' = [(2F - 3G) D + 2 (F - G)] / D^2 with
            # F = la a^2 + lb b^2, G = a b, D = 4 la lb - 1. Deviation: no factor 2.
            total, product = click * a**2 + conversion * b**2, a * b
            gap = 4 * click * conversion - 1
            return ((2 * total - 3 * product) * gap + 2 * (total - product)) / gap**2
        # RobustBid, KKT: alpha b^2 x / ||b x||, and likewise alpha a^2 x / ||a x||
        if self.ctr_radius > 0:
            return self.ctr_radius * b**2 / norms[0]
        return self.cvr_radius * a**2 / norms[0]


def solve_robust(
    auctions: Auctions, limits: Limits, balls: tuple[_Ball, ...], click_radius: float
) -> RobustSolution:
    """Maximises sum x v - sum of r ||g x|| under a budget and a robust cap on the cost per click.

    Args:
        auctions: T >= 1; prices > 0.
        limits: both may be infinite.
        balls: radius and slope of each norm; none: the plain programme (share then says what the
            bids win).
        click_radius: r_a of the cap.
    """
    if not balls:
        duals = solve_duals(auctions, limits)
        won = programme_bids(auctions.ctr, auctions.value, duals, limits) >= auctions.price
        share = won.astype(np.float64)
        return RobustSolution(duals, share, float(np.linalg.norm(share)), ())
    solver = _Solver(auctions, limits, balls, click_radius)
    q, capped = 0.0, limits.cpc < math.inf
    if capped and solver.excess(0.0) > 0:
        low, high = 0.0, float(auctions.value.sum() / auctions.price.sum())
        for _ in range(_MAX_DOUBLINGS):
            if solver.excess(high) <= 0:
                break
            low, high = high, 2 * high
        else:  # no purchase keeps to the cap in the worst case but the empty one
            return RobustSolution(
                Duals(0.0, high, 0.0), np.zeros_like(auctions.price), 0.0, (0.0,) * len(balls)
            )
        q = float(root_scalar(solver.excess, bracket=(low, high), xtol=1e-12 * high).root)
    share, p = solver.purchase(q)
    norms = tuple(float(np.linalg.norm(ball.slope * share)) for ball in balls)
    lost = sum(ball.radius * norm for ball, norm in zip(balls, norms, strict=True))
    objective = float(share @ auctions.value) - lost
    if objective <= 0:  # even the best purchase loses in the worst case
        share, objective, norms = np.zeros_like(share), 0.0, (0.0,) * len(norms)
    return RobustSolution(Duals(p, q, objective), share, float(np.linalg.norm(share)), norms)


class _Solver:
    """The purchase at a given price q of the cap; starts from the norms of the last one."""

    def __init__(
        self, auctions: Auctions, limits: Limits, balls: tuple[_Ball, ...], click_radius: float
    ) -> None:
        self._auctions, self._limits = auctions, limits
        self._radii = np.array([ball.radius for ball in balls] + [click_radius])
        self._slopes = np.stack([*(ball.slope for ball in balls), np.ones(auctions.price.size)])
        self._full = np.linalg.norm(self._slopes, axis=1)  # norms of winning everything
        self._norms, self._p = self._full.copy(), 0.0

    def excess(self, q: float) -> float:
        """Cost above the cap in the worst case, sum x (w - C a) + C r_a ||x||, currency."""
        share, _ = self.purchase(q)
        cap, radius = self._limits.cpc, float(self._radii[-1])
        slack = share @ (self._auctions.price - cap * self._auctions.ctr)
        return float(slack + cap * radius * np.linalg.norm(share))

    def purchase(self, q: float) -> tuple[FloatArray, float]:
        """The best shares (T,) at a price q of the cap, and the price p of the budget."""
        price, ctr, value = self._auctions
        cap = self._limits.cpc if q > 0 else 0.0  # 0 x infinity
        gain = value + q * (cap * ctr - price)
        force = self._radii * np.r_[np.ones(len(self._radii) - 1), q * cap]  # of each norm
        norms = np.maximum(self._norms, 1e-3 * self._full)
        share = np.zeros_like(price)
        for _ in range(_ROUNDS):
            # -r ||g x|| = max over n of -r (||g x||^2 / n + n) / 2: for given n separable in x
            curve = (force / np.maximum(norms, 1e-300)) @ self._slopes**2
            share = self._within_budget(gain, curve)
            new = np.sqrt(self._slopes**2 @ share**2)
            if new[0] <= _TINY * self._full[0]:
                return np.zeros_like(price), self._p
            moved, norms = np.abs(new - norms).max(), new
            if moved <= _CLOSE * norms.max():
                break
        self._norms = norms
        return share, self._p

    def _within_budget(self, gain: FloatArray, curve: FloatArray) -> FloatArray:
        """Maximises sum (gain - p w) x - curve x^2 / 2 with the p that keeps to the budget."""
        price, budget = self._auctions.price, self._limits.budget
        curve = np.maximum(curve, 1e-300)
        share = np.clip(gain / curve, 0.0, 1.0)
        if share @ price <= budget:
            self._p = 0.0
            return share
        low, high, p = 0.0, max(float((gain / price).max()), 0.0), self._p
        for _ in range(100):  # Newton's steps on a decreasing piecewise linear function
            share = np.clip((gain - p * price) / curve, 0.0, 1.0)
            excess = float(share @ price) - budget
            if abs(excess) <= 1e-13 * budget or high - low <= 1e-15 * high:
                break
            low, high = (p, high) if excess > 0 else (low, p)
            inside = (share > 0) & (share < 1)
            slope = float((price[inside] ** 2 / curve[inside]).sum())
            p = p + excess / slope if slope > 0 else math.inf
            p = p if low < p < high else (low + high) / 2
        self._p = p
        return share


def joint_worst_case(
    share: ArrayLike, ctr: ArrayLike, cvr: ArrayLike, ctr_radius: float, cvr_radius: float
) -> WorstCase:
    """The least sum x a b over both balls, by the dual in two multipliers.

    Negative rates are not excluded from the balls, as in the source.

    Args:
        share: x (T,) in [0, 1].
        ctr: a_hat (T,).
        cvr: b_hat (T,).
        ctr_radius: r_a >= 0.
        cvr_radius: r_b >= 0.
    """
    x, a, b = (np.asarray(column, np.float64) for column in (share, ctr, cvr))
    click_norm, conversion_norm = float(np.linalg.norm(x * b)), float(np.linalg.norm(x * a))
    nominal, still = float(x @ (a * b)), np.zeros_like(x)
    if min(ctr_radius, cvr_radius) == 0 or min(click_norm, conversion_norm) == 0:
        click = -ctr_radius * x * b / click_norm if click_norm > 0 else still
        conversion = -cvr_radius * x * a / conversion_norm if conversion_norm > 0 else still
        value = nominal - ctr_radius * click_norm - cvr_radius * conversion_norm
        return WorstCase(value, math.inf, math.inf, click, conversion)

    def multipliers(point: FloatArray) -> tuple[float, float]:
        click = math.exp(point[0])
        return click, (1 + math.exp(point[1])) / (4 * click)  # 4 la lb > 1 >= x^2

    def loss(point: FloatArray) -> float:
        la, lb = multipliers(point)
        # RobustBid, joint dual: g = sum x a b - sum x^2 (la a^2 + lb b^2 - x a b) / D
        # - la r_a^2 - lb r_b^2, D = 4 la lb - x^2. Deviation: no factor 2 on the fraction.
        taken = x**2 * (la * a**2 + lb * b**2 - x * a * b) / (4 * la * lb - x**2)
        return float(taken.sum()) + la * ctr_radius**2 + lb * cvr_radius**2 - nominal

    # To first order la = ||x b|| / (2 r_a), lb = ||x a|| / (2 r_b).
    click, conversion = click_norm / (2 * ctr_radius), conversion_norm / (2 * cvr_radius)
    start = np.log([click, max(4 * click * conversion - 1, 1e-3)])
    steps = {"xatol": 1e-9, "fatol": 1e-13 * nominal, "maxiter": 2000}
    found = minimize(loss, start, method="Nelder-Mead", options=steps)
    la, lb = multipliers(found.x)
    gap = 4 * la * lb - x**2
    # RobustBid: da = (x^2 a - 2 lb x b) / D, db = (x^2 b - 2 la x a) / D
    shift_a, shift_b = (x**2 * a - 2 * lb * x * b) / gap, (x**2 * b - 2 * la * x * a) / gap
    return WorstCase(-float(found.fun), la, lb, shift_a, shift_b)
