"""DenoiseBid: the posterior mean of CTR and CVR, given noisy predictions of them.

The log-odds of the truth follow a mixture of Gaussians, a prediction is the truth plus Gaussian
noise of a known standard deviation on the log-odds. `fit` recovers the mixture from predictions,
`correct` replaces a prediction by the posterior expectation of the probability. Bidding on these by
`predictors.bid_programme` maximises posterior-expected conversions.

Fit on predictions exchangeable with those to be corrected, such as all bid requests of a day; never
on won auctions only, whose predictions are too high by selection. Calibrate first: the noise here
has mean 0 on the log-odds.

How good the noise scale is matters: overstating it is worse than understating it. If unsure, take
10 to 20 % off. A `RuntimeWarning` says that the fitted law has collapsed to a point, which it does
if the noise is overstated.

Source: I. Zhigalskii, A. Pudovikov, A. Katrutsa, E. Samosvat, "Uncertainty Quantification of Click
and Conversion Estimates for the Autobidding", UAI 2026, arXiv:2603.01825. Deviations from the
published code: quadrature also for the CTR (`probit` gives its closed form), log-sum-exp weights,
the gain form of the posterior, a start of EM at the moments, and evenly spaced rows for the fit
instead of random ones.
"""

import warnings
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from adsim.types import Estimate, FloatArray
from predictors.base import CORRECTORS
from predictors.logit_expectation import (
    JOINT_NODES,
    NODES,
    JointEstimate,
    expected_probability,
    expected_product,
)
from predictors.logit_mixture import (
    LogitMixture,
    Posterior,
    checked_mixture,
    checked_rows,
    evenly_spaced,
    fit_mixture,
    posterior,
)
from predictors.metrics import require, vector

EDGE = 1e-12  # probabilities of 0 and 1 count as this far from them
MAX_POINTS = 2000  # rows of a fit; 100 to 200 per component do
_MIN_SHARE = 1e-3  # smallest share of signal in the variance that `residual_noise` finds


class LogitNoise(NamedTuple):
    """Predicted log-odds and the standard deviation of their noise."""

    logit: FloatArray  # (M,)
    noise: FloatArray  # (M,) >= 0; infinite if nothing is known


def log_odds(probability: ArrayLike) -> FloatArray:
    """ln(p / (1 - p)); 0 and 1 are moved by 1e-12.

    Raises:
        ValueError: a probability is outside [0, 1] or NaN.

    >>> log_odds([0.5, 0.75]).round(3).tolist()  # 0 and ln 3
    [0.0, 1.099]
    """
    p = np.asarray(probability, np.float64)
    wrong = ~((p >= 0) & (p <= 1))
    if wrong.any():
        raise ValueError(f"probability must be in [0, 1], got {p[wrong][0]}")
    p = np.clip(p, EDGE, 1 - EDGE)
    return np.log(p) - np.log1p(-p)


def logit_noise(estimate: Estimate, unknown_noise: float = 0.0) -> LogitNoise:
    """The log-odds of estimated probabilities, and the noise that their std says.

    Delta method: noise = std / (p (1 - p)), as the authors' std = s p (1 - p). Good for noise up to
    about 1; where the noise itself is known, as that of the platform's pCTR, use it directly.

    Args:
        estimate: mean (M,) in [0, 1]; std (M,) >= 0, infinite if nothing is known.
        unknown_noise: log-odds, of rows whose std is 0, which stands for unknown.

    Raises:
        ValueError: an argument is out of range or NaN, or lengths differ.
    """
    mean, std = np.asarray(estimate.mean, np.float64), np.asarray(estimate.std, np.float64)
    if mean.ndim != 1 or mean.shape != std.shape:
        raise ValueError(f"mean and std must both be (M,), got {mean.shape} and {std.shape}")
    if not unknown_noise >= 0:
        raise ValueError(f"unknown_noise must be >= 0, got {unknown_noise}")
    require("mean", "in [0, 1]", mean, (mean >= 0) & (mean <= 1))
    require("std", ">= 0", std, std >= 0)
    p = np.clip(mean, EDGE, 1 - EDGE)
    return LogitNoise(log_odds(mean), np.where(std > 0, std / (p * (1 - p)), unknown_noise))


class _Denoiser:
    """The prior, and what both correctors do with it."""

    privileged: bool = False

    def __init__(self, components: int, nodes: int, unknown_noise: float, max_points: int) -> None:
        for name, count in (("components", components), ("nodes", nodes)):
            if count < 1:
                raise ValueError(f"{name} must be >= 1, got {count}")
        if not unknown_noise >= 0 or max_points < 1:
            raise ValueError(
                "unknown_noise must be >= 0 and max_points >= 1, "
                f"got {unknown_noise} and {max_points}"
            )
        self.components, self.nodes = components, nodes
        self.unknown_noise, self.max_points = unknown_noise, max_points
        self._prior: LogitMixture | None = None

    @property
    def prior(self) -> LogitMixture:
        """The law of the noiseless log-odds.

        Raises:
            ValueError: neither fitted nor set.
        """
        if self._prior is None:
            raise ValueError("the prior is not known yet: call fit, or set prior")
        return self._prior

    @prior.setter
    def prior(self, mixture: LogitMixture) -> None:
        self._prior = checked_mixture(mixture)

    def _learn(self, logit: FloatArray, noise: FloatArray) -> None:
        y, s = checked_rows(logit, noise)
        rows = evenly_spaced(y.shape[1], self.max_points)
        self._prior = fit_mixture(y[:, rows], s[:, rows], self.components)
        if self._prior.at_floor:
            warnings.warn(
                "the fitted law of the log-odds has a variance at its floor: the noise is probably "
                "overstated, and corrected values are all alike",
                RuntimeWarning,
                stacklevel=3,
            )

    def _posterior(self, logit: FloatArray, noise: FloatArray, axes: int) -> Posterior:
        y, s = checked_rows(logit, noise)
        if self.prior.mean.shape[1] != axes:
            raise ValueError(f"prior must have {axes} axes, got {self.prior.mean.shape[1]}")
        return posterior(self.prior, y, s)


class DenoiseBid(_Denoiser):
    """Corrects one probability, a CTR or a CVR.

    With one component and equal noise it keeps the order of the predictions; with unequal noise it
    does not, and that is the better part of what it does.

    Args:
        components: K of the mixture, >= 1.
        nodes: of the quadrature, >= 1.
        probit: use the authors' closed form instead, see `expected_probability`.
        unknown_noise: log-odds, >= 0; that of estimates whose std is 0. With 0 they come back
            unchanged.
        max_points: most rows that a fit uses, evenly spaced over those given.
    """

    def __init__(
        self,
        components: int = 2,
        *,
        nodes: int = NODES,
        probit: bool = False,
        unknown_noise: float = 0.0,
        max_points: int = MAX_POINTS,
    ) -> None:
        super().__init__(components, nodes, unknown_noise, max_points)
        self.probit = probit

    def fit(self, predicted: Estimate) -> Self:
        """Learns the law of the true probabilities; see `logit_noise` for the meaning of std.

        Raises:
            ValueError: see `logit_noise` and `fit_mixture` (too few rows among others).
        """
        return self.fit_logits(*logit_noise(predicted, self.unknown_noise))

    def fit_logits(
        self, logit: FloatArray, noise: FloatArray | float, base: FloatArray | float = 0.0
    ) -> Self:
        """The same from log-odds (M,) and their noise (M,) or scalar, log-odds.

        Args:
            logit: predicted.
            noise: of the prediction, >= 0.
            base: log-odds (M,) of a second estimate of the same probability. The prior is that of
                the truth's difference from it (ours): the second estimate says where the truth is
                likely to be, impression by impression, and the fit how far off it is.
        """
        self._learn((np.asarray(logit) - base)[None], np.asarray(noise, np.float64))
        return self

    def correct(self, estimate: Estimate) -> Estimate:
        """Posterior mean and standard deviation (M,) of the probability, M >= 0."""
        return self.correct_logits(*logit_noise(estimate, self.unknown_noise))

    def correct_logits(
        self, logit: FloatArray, noise: FloatArray | float, base: FloatArray | float = 0.0
    ) -> Estimate:
        """The same from log-odds (M,), as `fit_logits`; `base` if the prior was fitted with one."""
        difference = (np.asarray(logit) - base)[None]
        found = self._posterior(difference, np.asarray(noise, np.float64), 1)
        # The truth given the prediction is the base plus the posterior difference.
        found = found._replace(mean=found.mean + base)
        return expected_probability(found, nodes=self.nodes, probit=self.probit)


class JointDenoiseBid(_Denoiser):
    """Corrects CTR, CVR and their product together: the prior knows their correlation.

    Args:
        components: K of the mixture, >= 1.
        nodes: of the quadrature of CTR and of CVR, >= 1.
        joint_nodes: per axis, of the quadrature of the product, >= 1.
        unknown_noise: see `DenoiseBid`.
        max_points: see `DenoiseBid`.
    """

    def __init__(
        self,
        components: int = 2,
        *,
        nodes: int = NODES,
        joint_nodes: int = JOINT_NODES,
        unknown_noise: float = 0.0,
        max_points: int = MAX_POINTS,
    ) -> None:
        super().__init__(components, nodes, unknown_noise, max_points)
        self.joint_nodes = joint_nodes

    def fit(self, ctr: Estimate, cvr: Estimate) -> Self:
        """Learns the law of the true pairs from estimates of M impressions each."""
        return self.fit_logits(*self._pairs(ctr, cvr))

    def fit_logits(self, logit: FloatArray, noise: FloatArray) -> Self:
        """The same from log-odds (2, M), CTR first, and their noise, broadcastable to it."""
        self._learn(logit, noise)
        return self

    def correct(self, ctr: Estimate, cvr: Estimate) -> JointEstimate:
        """Posterior means and standard deviations of M impressions, M >= 0."""
        return self.correct_logits(*self._pairs(ctr, cvr))

    def correct_logits(self, logit: FloatArray, noise: FloatArray) -> JointEstimate:
        """The same from log-odds (2, M), CTR first, and their noise, broadcastable to it."""
        found = self._posterior(logit, noise, 2)
        return JointEstimate(
            expected_probability(found, 0, nodes=self.nodes),
            expected_probability(found, 1, nodes=self.nodes),
            expected_product(found, nodes=self.joint_nodes),
        )

    def _pairs(self, ctr: Estimate, cvr: Estimate) -> tuple[FloatArray, FloatArray]:
        click = logit_noise(ctr, self.unknown_noise)
        conversion = logit_noise(cvr, self.unknown_noise)
        if click.logit.shape != conversion.logit.shape:
            raise ValueError(
                f"ctr and cvr must have one length, got {click.logit.size} "
                f"and {conversion.logit.size}"
            )
        logit = np.stack([click.logit, conversion.logit])
        return logit, np.stack([click.noise, conversion.noise])


def ensemble_noise(members: ArrayLike) -> LogitNoise:
    """Mean and spread of the log-odds that the members of an ensemble predict.

    As the authors do with the virtual ensembles of a boosted model. It is the noise of the model's
    parameters only: a bias that all members share does not show.

    Args:
        members: probabilities (number of members, M) in [0, 1], at least 2 members.

    Raises:
        ValueError: fewer than two members, or a probability out of range.
    """
    logit = log_odds(members)
    if logit.ndim != 2 or len(logit) < 2:
        raise ValueError(f"members must have shape (>= 2, M), got {logit.shape}")
    return LogitNoise(logit.mean(axis=0), logit.std(axis=0, ddof=1))


def residual_noise(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The noise (one number, log-odds) that outcomes show the predictions to have.

    Reconstruction: not in the paper. Noise makes predictions overconfident; with log-odds of
    variance v, of which a share c is signal, the truth given y is N(m + c (y - m), c (1 - c) v)
    (one Gaussian component). Returned is sqrt((1 - c) v) for the c under which the outcomes are
    likeliest. Means calibrated predictions except for the noise.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) predicted, in [0, 1].

    Raises:
        ValueError: lengths differ, no rows, or a value is out of range.
    """
    y, logit = vector("labels", labels), log_odds(vector("probabilities", probabilities))
    if y.size != logit.size:
        raise ValueError(f"labels and probabilities must have one length, {y.size}, {logit.size}")
    require("labels", "0 or 1", y, (y == 0) | (y == 1))
    middle, variance = float(logit.mean()), float(logit.var())

    def loss(share: float) -> float:
        at = middle + share * (logit - middle)
        spread = np.full((1, 1, 1, y.size), share * (1 - share) * variance)
        found = Posterior(np.ones((1, y.size)), at[None, None], spread)
        p = np.clip(expected_probability(found).mean, EDGE, 1 - EDGE)
        return -float(np.log(np.where(y == 1, p, 1 - p)).mean())

    found = minimize_scalar(loss, bounds=(_MIN_SHARE, 1.0), method="bounded")
    share = float(found.x) if found.fun < loss(1.0) else 1.0
    return float(np.sqrt((1 - share) * variance))


def count_posterior(
    alpha: float, beta: float, clicks: ArrayLike, impressions: ArrayLike
) -> Estimate:
    """Posterior of a rate seen as counts: the Beta-binomial companion of the Gaussian model.

    Args:
        alpha: of the Beta prior, > 0.
        beta: of the Beta prior, > 0.
        clicks: (M,) in [0, impressions].
        impressions: (M,) >= 0; 0 gives the prior.

    Raises:
        ValueError: an argument is out of range.
    """
    won, shown = np.asarray(clicks, np.float64), np.asarray(impressions, np.float64)
    if not (alpha > 0 and beta > 0):
        raise ValueError(f"alpha and beta must be > 0, got {alpha} and {beta}")
    if not ((won >= 0) & (won <= shown)).all():
        raise ValueError("clicks must be in [0, impressions]")
    # Conjugacy: Beta(alpha + c, beta + n - c)
    total = alpha + beta + shown
    mean = (alpha + won) / total
    return Estimate(mean, np.sqrt(mean * (1 - mean) / (total + 1)))


CORRECTORS["denoise_bid"] = DenoiseBid
