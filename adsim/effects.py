"""Building blocks of the hidden effects: frequencies, alias tables, sums, calibration."""

# ruff: noqa: ANN001, ANN201 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.special import expit

from adsim.config import WorldConfig
from adsim.types import FloatArray

Float32Array = NDArray[np.float32]
Int32Array = NDArray[np.int32]


class Alias(NamedTuple):
    """Walker's alias table of a discrete distribution."""

    accept: NDArray[np.uint32]  # (n,) keep the drawn index if the low 32 bits are below this
    other: Int32Array  # (n,) else take this one


@njit(cache=True, nogil=True)
def sum_rows(values, rows):
    """(n, 5) sums of the value rows (V, 5) that each entity's fields (n, fields) point to."""
    out = np.zeros((rows.shape[0], values.shape[1]))
    for i in range(rows.shape[0]):
        for f in range(rows.shape[1]):
            for head in range(values.shape[1]):
                out[i, head] += values[rows[i, f], head]
    return out


def zipf_weights(n: int, exponent: float) -> FloatArray:
    """Probabilities proportional to rank ** -exponent, (n,)."""
    weights = np.arange(1, n + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def alias_table(weights: FloatArray) -> Alias:
    """Walker's table for drawing an index with the given relative weights (n,).

    Source: Vose, "A linear algorithm for generating random numbers with a given
    distribution" (1991).
    """
    n = weights.size
    scaled = weights * (n / weights.sum())
    accept, other = np.ones(n), np.arange(n, dtype=np.int32)
    small, large = list(np.flatnonzero(scaled < 1.0)), list(np.flatnonzero(scaled >= 1.0))
    while small and large:
        low, high = small.pop(), large.pop()
        accept[low], other[low] = scaled[low], high
        scaled[high] -= 1.0 - scaled[low]
        (small if scaled[high] < 1.0 else large).append(high)
    return Alias(np.minimum(accept * 2.0**32, 2.0**32 - 1).astype(np.uint32), other)


def draw_ids(
    rng: np.random.Generator,
    n: int,
    first: Int32Array,
    cardinalities: tuple[int, ...],
    exponent: float,
) -> Int32Array:
    """Field ids (n, 1 + len(cardinalities)) of n entities; `first` (n,) is the leading column."""
    columns = [first]
    columns += [
        rng.choice(size, n, p=zipf_weights(size, exponent)).astype(np.int32)
        for size in cardinalities
    ]
    return np.ascontiguousarray(np.stack(columns, axis=1), dtype=np.int32)


def intent_integral(z: FloatArray, loading: float) -> FloatArray:
    """E[sigmoid(z + loading e)] over e ~ N(0, 1), elementwise (Gauss-Hermite, 41 nodes)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(41)
    return expit(np.asarray(z)[..., None] + loading * nodes) @ (weights / weights.sum())


CURVE_AT = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # CVR at the middle of TESLA's bins


def curve_logits(config: WorldConfig) -> FloatArray:
    """Refund logits at CURVE_AT relative to the first (5,) (TESLA, fig. 3)."""
    curve = np.clip(np.array(config.refund.curve), 1e-6, 1 - 1e-6)
    logits = config.refund.curve_strength * np.log(curve / (1 - curve))
    return logits - logits[0]


def refund_curve(config: WorldConfig, p_convert: FloatArray) -> FloatArray:
    """Refund logit relative to its value at CVR .1, as a function of CVR."""
    return np.interp(p_convert, CURVE_AT, curve_logits(config))


def solve_bias(z: FloatArray, rate: float, weights: FloatArray | None = None) -> float:
    """Offset b with weighted mean of sigmoid(z + b) equal to `rate`, by bisection."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        if np.average(expit(z + middle), weights=weights) < rate:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def stretch(x: FloatArray, tail: float) -> FloatArray:
    """Values with longer tails than x, alike near 0; x itself if `tail` is 1.

    Source: the sinh-arcsinh transformation without skewness (Jones and Pewsey, 2009), over `tail`.
    """
    return x if tail == 1.0 else np.sinh(tail * np.arcsinh(x)) / tail
