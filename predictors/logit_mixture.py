"""Gaussian mixtures of log-odds seen through noise of known size: fit and posterior.

The true log-odds z of an auction (D = 1: of a click; D = 2: of a click and of a conversion) follow
a mixture of K Gaussians, and a prediction is y = z + e with e ~ N(0, diag(noise^2)), where every
auction has its own noise. `fit_mixture` recovers the mixture from noisy predictions (extreme
deconvolution), `posterior` is the law of z given y.

Arrays have their axes in the order (D, D, K, N), rows last, so that the innermost loop is long.

Bounds: a noise above 1e6 log-odds, infinity included, counts as 1e6: the prediction then says
nothing (the error of that is below 1e-9 for priors of a sd below 30). A given covariance is widened
by 1e-12 on its diagonal, so that point masses and singular ones are no special cases.

Sources:
    J. Bovy, D. Hogg, S. Roweis, "Extreme Deconvolution", Annals of Applied Statistics 5(2B), 2011,
        arXiv:0905.2979: the EM steps of `_step`, with the identity for a projection.
    I. Zhigalskii, A. Pudovikov, A. Katrutsa, E. Samosvat, "Uncertainty Quantification of Click and
        Conversion Estimates for the Autobidding", arXiv:2603.01825 (DenoiseBid): the use of it.
    R. Paule, J. Mandel, "Consensus Values and Weighting Factors", J. Res. NBS 87(5), 1982: the
        moment estimate of `_moments`.
"""

import math
from typing import NamedTuple

import numpy as np

from adsim.types import BoolArray, FloatArray, IntArray

MAX_LOGIT = 700.0  # log-odds; the probability of -700 is the smallest that float64 divides by
MAX_NOISE = 1e6  # log-odds; more is as good as infinite
MIN_VARIANCE = 1e-12  # log-odds squared; widens every component
VARIANCE_FLOOR = 1e-4  # log-odds squared; a fitted component has at least this along every axis
MAX_ITERATIONS = 1000
TOLERANCE = 1e-5  # of the prior's sd: largest move of a parameter at which EM stops
MIN_MASS = 1e-9  # rows; a component with less keeps its place and its width
_MOMENT_ROUNDS = 50
_LOG_2PI = math.log(2 * math.pi)


class LogitMixture(NamedTuple):
    """A Gaussian mixture of log-odds, and how its fit ended.

    `converged` is False if EM stopped at `max_iterations`. With two components and noise about as
    wide as the law or wider that is common, and no fault: the likelihood is flat there. Measured
    on 12 fits of 200 rows at each noise from 1 to 10, 100,000 steps instead of 1,000 move the value
    that bids win by -.3 to +.1 % and the cost per click by +1 to +3 %, on average.
    """

    weight: FloatArray  # (K,) >= 0, sum 1
    mean: FloatArray  # (K, D) log-odds
    covariance: FloatArray  # (K, D, D) log-odds squared, positive semidefinite
    at_floor: bool = False  # a variance was held up by its floor: the noise is probably overstated
    iterations: int = 0  # of EM
    converged: bool = True


class Posterior(NamedTuple):
    """The mixture of Gaussians that the true log-odds of N auctions follow, given predictions."""

    weight: FloatArray  # (K, N) >= 0, sum over K is 1
    mean: FloatArray  # (D, K, N) log-odds
    covariance: FloatArray  # (D, D, K, N) log-odds squared


class _Moments(NamedTuple):
    mean: FloatArray  # (D,)
    covariance: FloatArray  # (D, D) eigenvalues >= the floor
    at_floor: bool  # a variance had to be raised


def checked_mixture(mixture: LogitMixture) -> LogitMixture:
    """A mixture given by a user, or an error that says what is wrong with it.

    Raises:
        ValueError: shapes that do not fit, D other than 1 or 2, numbers that are not finite,
            weights that are negative or do not add up to 1, a covariance that is not symmetric
            positive semidefinite.
    """
    weight, mean, covariance = (np.asarray(part, np.float64) for part in mixture[:3])
    if mean.ndim != 2 or mean.shape[1] not in (1, 2) or not len(mean):
        raise ValueError(f"mean must have shape (K, D) with K >= 1, D 1 or 2, got {mean.shape}")
    count, axes = mean.shape
    if weight.shape != (count,) or covariance.shape != (count, axes, axes):
        raise ValueError(
            f"weight and covariance must have shapes {(count,)} and {(count, axes, axes)}, "
            f"got {weight.shape} and {covariance.shape}"
        )
    if not all(np.isfinite(part).all() for part in (weight, mean, covariance)):
        raise ValueError("weight, mean and covariance must be finite")
    if (weight < 0).any() or abs(weight.sum() - 1) > 1e-9:
        raise ValueError(f"weight must be >= 0 and add up to 1, got {weight}")
    lowest = np.linalg.eigvalsh(covariance).min()
    symmetric = np.allclose(covariance, covariance.transpose(0, 2, 1), rtol=1e-9, atol=0)
    if not symmetric or lowest < -1e-9 * max(1.0, float(np.abs(covariance).max())):
        raise ValueError("covariance must be symmetric and positive semidefinite")
    return mixture._replace(weight=weight, mean=mean, covariance=covariance)


def checked_rows(logit: FloatArray, noise: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Predicted log-odds and their noise, both (D, N); the noise is at most `MAX_NOISE`.

    Args:
        logit: (D, N) in [-700, 700].
        noise: broadcastable to (D, N): standard deviation, log-odds, >= 0; infinity says that
            nothing is known.

    Raises:
        ValueError: shapes that do not fit, a value that is out of range or NaN.
    """
    y = np.asarray(logit, np.float64)
    if y.ndim != 2:
        raise ValueError(f"logit must have shape (D, N), got {y.shape}")
    try:
        s = np.broadcast_to(np.asarray(noise, np.float64), y.shape)
    except ValueError:
        raise ValueError(f"noise must fit logit {y.shape}, got {np.shape(noise)}") from None
    _require_all("logit", f"in [-{MAX_LOGIT:g}, {MAX_LOGIT:g}]", y, np.abs(y) <= MAX_LOGIT)
    _require_all("noise", ">= 0", s, s >= 0)
    return y, np.minimum(s, MAX_NOISE)


def _require_all(name: str, rule: str, values: FloatArray, valid: BoolArray) -> None:
    if not valid.all():
        axis, row = np.argwhere(~valid)[0]
        raise ValueError(f"{name} must be {rule}, got {values[axis, row]} in row {row}")


def posterior(mixture: LogitMixture, logit: FloatArray, noise: FloatArray) -> Posterior:
    """The law of the true log-odds, given predictions and their noise.

    Exact at noise 0 (the prediction, variance 0) and at a covariance of 0 (the component's mean).

    Args:
        mixture: K components in D dimensions.
        logit: y (D, N), see `checked_rows`.
        noise: s (D, N).
    """
    return _posterior(mixture, logit, noise)[0]


def _posterior(
    mixture: LogitMixture, logit: FloatArray, noise: FloatArray
) -> tuple[Posterior, FloatArray]:
    """The posterior, and the log-likelihood (N,) of the rows, nats."""
    axes = len(logit)
    theta = noise**2  # (D, N)
    prior = mixture.covariance.transpose(1, 2, 0)[..., None]  # (D, D, K, 1)
    prior = prior + MIN_VARIANCE * np.eye(axes)[:, :, None, None]
    inverse, log_det = _inverse(prior, theta)  # of T = V + diag(s^2)
    gap = logit[:, None] - mixture.mean.T[:, :, None]  # (D, K, N)
    solved = np.einsum("abkn,bkn->akn", inverse, gap)
    with np.errstate(divide="ignore"):  # a component without weight: -inf, hence 0
        log_weight = np.log(mixture.weight)[:, None]
    # Bovy et al. 2011, E-step: q ~ alpha N(y; m, T)
    joint = (gap * solved).sum(0) + log_det + axes * _LOG_2PI
    joint = log_weight - 0.5 * joint  # (K, N)
    top = joint.max(axis=0)  # log-sum-exp: far from all components the nearest takes over
    weight = np.exp(joint - top)
    total = weight.sum(axis=0)
    weight /= total
    # Bovy et al. 2011: b = m + V T^-1 (y - m), B = V - V T^-1 V, written with V = T - diag(s^2) as
    # b = y - diag(s^2) T^-1 (y - m), B = V T^-1 diag(s^2): no differences, exact at s = 0.
    mean = logit[:, None] - theta[:, None] * solved
    covariance = np.einsum("abkn,bckn->ackn", prior, inverse) * theta[:, None]
    return Posterior(weight, mean, covariance), top + np.log(total)


def _inverse(prior: FloatArray, theta: FloatArray) -> tuple[FloatArray, FloatArray]:
    """T^-1 (D, D, K, N) and log det T (K, N) of T = prior (D, D, K, 1) + diag(theta (D, N))."""
    first = prior[0, 0] + theta[0]
    if len(theta) == 1:
        return (1 / first)[None, None], np.log(first)
    second, cross = prior[1, 1] + theta[1], prior[0, 1]
    # det T, with the two products that a singular prior takes from each other apart
    det = (prior[0, 0] * prior[1, 1] - cross**2) + prior[1, 1] * theta[0] + theta[1] * first
    det = np.maximum(det, MIN_VARIANCE * (first + second) / 2)  # rounding only
    off = np.broadcast_to(-cross, det.shape)
    return np.array([[second, off], [off, first]]) / det, np.log(det)


def fit_mixture(
    logit: FloatArray,
    noise: FloatArray,
    components: int,
    *,
    floor: float = VARIANCE_FLOOR,
    max_iterations: int = MAX_ITERATIONS,
    tolerance: float = TOLERANCE,
) -> LogitMixture:
    """Recovers the mixture behind noisy predictions: extreme deconvolution.

    Rows whose noise is infinite on all axes are left out. No random numbers are drawn: EM starts
    from the moments of the noiseless law, split along its widest axis. Stops when no parameter
    moves by more than `tolerance`: with noise much wider than the law the likelihood stops growing
    long before the fit is done.

    Args:
        logit: (D, N) log-odds, D 1 or 2.
        noise: (D, N) log-odds, see `checked_rows`.
        components: K >= 1.
        floor: smallest variance of a component along any axis, log-odds squared, > 0.
        max_iterations: of EM, >= 1.
        tolerance: largest move of a parameter at the end, in units of the law's sd, > 0.

    Raises:
        ValueError: an argument is out of range, or there are fewer than K (D + 1) rows with finite
            noise.
    """
    if components < 1 or max_iterations < 1 or not floor > 0 or not tolerance > 0:
        raise ValueError(
            "components and max_iterations must be >= 1, floor and tolerance > 0, "
            f"got {components}, {max_iterations}, {floor}, {tolerance}"
        )
    y, s = checked_rows(logit, noise)
    if len(y) not in (1, 2):
        raise ValueError(f"logit must have 1 or 2 axes, got {len(y)}")
    known = (s < MAX_NOISE).any(axis=0)
    y, s = y[:, known], s[:, known]
    needed = components * (len(y) + 1)
    if y.shape[1] < needed:
        raise ValueError(
            f"{components} components in {len(y)} dimensions need at least {needed} "
            f"predictions with finite noise, got {y.shape[1]}"
        )
    moments = _moments(y, s, floor)
    mixture, scale = _start(y, s, moments, components, floor), moments.covariance.diagonal() ** 0.5
    for iteration in range(1, max_iterations + 1):
        moved, at_floor = _step(mixture, y, s, floor)
        done = _largest_move(mixture, moved, scale) <= tolerance
        mixture = moved._replace(
            at_floor=at_floor or moments.at_floor, iterations=iteration, converged=done
        )
        if done:
            break
    return mixture


def _step(
    mixture: LogitMixture, logit: FloatArray, noise: FloatArray, floor: float
) -> tuple[LogitMixture, bool]:
    """One step of EM; also whether the floor held up a variance."""
    found = posterior(mixture, logit, noise)
    mass = found.weight.sum(axis=1)  # (K,)
    heavy = mass > MIN_MASS
    share = found.weight / np.where(heavy, mass, 1.0)[:, None]
    # Bovy et al. 2011, M-step: alpha = mean of q, m = sum q b / sum q,
    # V = sum q [(m - b)(m - b)^T + B] / sum q
    mean = np.einsum("kn,dkn->kd", share, found.mean)
    gap = found.mean - mean.T[:, :, None]
    covariance = np.einsum("kn,akn,bkn->kab", share, gap, gap, optimize=True)
    covariance += np.einsum("kn,abkn->kab", share, found.covariance)
    covariance, raised = _floored(covariance, floor)
    # Deviation: a component without mass keeps its place (the quotient would be 0 / 0).
    mean = np.where(heavy[:, None], mean, mixture.mean)
    covariance = np.where(heavy[:, None, None], covariance, mixture.covariance)
    weight = mass / mass.sum()
    return LogitMixture(weight, mean, covariance), bool(raised[heavy].any())


def _floored(covariance: FloatArray, floor: float) -> tuple[FloatArray, BoolArray]:
    """Covariances (K, D, D) with eigenvalues of at least `floor`, and which (K,) were raised."""
    symmetric = (covariance + covariance.transpose(0, 2, 1)) / 2
    values, vectors = np.linalg.eigh(symmetric)
    low = values.min(axis=1) < floor
    if low.any():
        raised = (vectors * np.maximum(values, floor)[:, None]) @ vectors.transpose(0, 2, 1)
        symmetric = np.where(low[:, None, None], raised, symmetric)
    return symmetric, low


def _largest_move(old: LogitMixture, new: LogitMixture, scale: FloatArray) -> float:
    """Largest change of a weight, of a mean / sd or of a covariance / (sd x sd)."""
    moves = (
        np.abs(new.weight - old.weight).max(),
        np.abs((new.mean - old.mean) / scale).max(),
        np.abs((new.covariance - old.covariance) / np.outer(scale, scale)).max(),
    )
    return float(max(moves))


def _moments(logit: FloatArray, noise: FloatArray, floor: float) -> _Moments:
    """Mean and covariance of the noiseless law, each row weighted by its precision.

    Paule & Mandel 1982: with w = 1 / (V + s^2), m = sum w y / sum w and
    V = sum w^2 [(y - m)^2 - s^2] / sum w^2, iterated (the scoring steps of a Gaussian's maximum
    likelihood).
    """
    theta = noise**2
    raw = logit.var(axis=1)  # (D,)
    for _ in range(_MOMENT_ROUNDS):
        weight = 1 / (np.maximum(raw, floor)[:, None] + theta)
        mean = (weight * logit).sum(1) / weight.sum(1)
        square = ((logit - mean[:, None]) ** 2 - theta) * weight**2
        raw = square.sum(1) / (weight**2).sum(1)
    variance = np.maximum(raw, floor)
    weight = 1 / (variance[:, None] + theta)
    mean = (weight * logit).sum(1) / weight.sum(1)
    gap = logit - mean[:, None]
    covariance = np.diag(variance)
    if len(logit) == 2:  # the noise of the two is independent: nothing to take off
        both = weight[0] * weight[1]
        cross = float((both * gap[0] * gap[1]).sum() / both.sum())
        limit = 0.95 * math.sqrt(variance[0] * variance[1])
        covariance[0, 1] = covariance[1, 0] = min(max(cross, -limit), limit)
    covariance = _floored(covariance[None], floor)[0][0]
    return _Moments(mean, covariance, bool((raw <= floor).any()))


def _start(
    logit: FloatArray, noise: FloatArray, moments: _Moments, components: int, floor: float
) -> LogitMixture:
    """K equal components at the quantiles of the shrunken predictions along the widest axis."""
    values, vectors = np.linalg.eigh(moments.covariance)
    axis, widest = vectors[:, -1], float(values[-1])
    # Reconstruction: shrinking every row by its own gain keeps the skewness of the law.
    gain = widest / (widest + axis**2 @ noise**2)  # (N,)
    along = np.sqrt(gain) * (axis @ (logit - moments.mean[:, None]))
    at = np.quantile(along, (np.arange(components) + 0.5) / components)
    mean = moments.mean + np.outer(at - at.mean(), axis)
    # What the spread of the means explains is taken off, down to a quarter of the variance.
    left = max(widest - float(at.var()), widest / 4)
    covariance = moments.covariance - (widest - left) * np.outer(axis, axis)
    stack = _floored(np.repeat(covariance[None], components, axis=0), floor)[0]
    return LogitMixture(np.full(components, 1 / components), mean, stack)


def evenly_spaced(count: int, limit: int) -> IntArray:
    """Indices (min(count, limit),) of rows, evenly spaced over 0..count - 1."""
    return np.arange(min(count, limit)) * count // max(min(count, limit), 1)
