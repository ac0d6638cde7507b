"""Delay laws of conversions, refunds and repurchases.

A law is a published cumulative curve F given by knots: F is linear in the delay up to the first
knot and linear in the log of the delay between knots. An impression's own delay has the cdf

    F(t) ** (1 / exponent),

so that its quantile is F^-1(u ** exponent): an exponent above 1 makes delays shorter and, for
curves like the published ones, tighter (TESLA, section on user groups: clicks of high CVR convert
sooner and purchases of high refund rate are refunded sooner, both with less spread).
Reconstruction: the papers publish the curve and group means only; the power family is ours.
"""

# ruff: noqa: ANN001, ANN201 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit

from adsim.types import FloatArray


class DelayLaw(NamedTuple):
    """Knots of a cumulative curve."""

    times: FloatArray  # (J,) increasing, > 0; hours, or shares of a window
    shares: FloatArray  # (J,) increasing, last = 1


def make_law(knots: tuple[tuple[float, float], ...]) -> DelayLaw:
    """A law from (time, cumulative share) pairs (validated by the configuration)."""
    times, shares = np.array(knots, dtype=np.float64).T
    return DelayLaw(np.ascontiguousarray(times), np.ascontiguousarray(shares))


def cdf(law: DelayLaw, delay: FloatArray, exponent: FloatArray | float = 1.0) -> FloatArray:
    """P(delay <= t), elementwise."""
    delay = np.asarray(delay, dtype=np.float64)
    first = law.shares[0] * np.clip(delay, 0, law.times[0]) / law.times[0]
    with np.errstate(divide="ignore"):
        rest = np.interp(np.log(np.maximum(delay, 0.0)), np.log(law.times), law.shares)
    return np.where(delay <= law.times[0], first, rest) ** (1.0 / np.asarray(exponent))


def survival(law: DelayLaw, delay: FloatArray, exponent: FloatArray | float = 1.0) -> FloatArray:
    """P(delay > t), elementwise."""
    return 1.0 - cdf(law, delay, exponent)


def inverse_cdf(law: DelayLaw, u: FloatArray, exponent: FloatArray | float = 1.0) -> FloatArray:
    """The delay whose cdf is u in (0, 1), elementwise; the array twin of `quantile`."""
    level = np.asarray(u, dtype=np.float64) ** np.asarray(exponent)
    rest = np.exp(np.interp(level, law.shares, np.log(law.times)))
    return np.where(level <= law.shares[0], law.times[0] * level / law.shares[0], rest)


@njit
def quantile(times, shares, level):
    """F^-1(level) for one level in (0, 1)."""
    if level <= shares[0]:
        return times[0] * level / shares[0]
    j = 1
    while shares[j] < level:
        j += 1
    weight = (level - shares[j - 1]) / (shares[j] - shares[j - 1])
    return times[j - 1] * (times[j] / times[j - 1]) ** weight
