"""Calibration of probabilities by a line on their log-odds.

Source: J. Platt, "Probabilistic Outputs for Support Vector Machines", 1999 (without his smoothed
targets: there are thousands of positives).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from adsim.types import FloatArray
from predictors.denoise_bid import log_odds
from predictors.metrics import require, vector

_STEPS = 25  # of Newton's method, which needs about six
_CLOSE = 1e-10  # change of both coefficients at which it stops


class Line(NamedTuple):
    """Log-odds z become intercept + slope z."""

    intercept: float = 0.0
    slope: float = 1.0

    def apply(self, probability: ArrayLike) -> FloatArray:
        """Calibrated probabilities, in the shape of the given ones."""
        return expit(self.intercept + self.slope * log_odds(probability))


def fit_line(labels: ArrayLike, probabilities: ArrayLike) -> Line:
    """The line under which held-out outcomes are likeliest.

    Args:
        labels: (N,) 0 or 1.
        probabilities: (N,) in [0, 1], predicted by who has not seen the labels.

    Raises:
        ValueError: lengths differ, a value is out of range, or labels are all alike.
    """
    y, z = vector("labels", labels), log_odds(vector("probabilities", probabilities))
    if y.size != z.size:
        raise ValueError(f"labels and probabilities must have one length, {y.size}, {z.size}")
    require("labels", "0 or 1", y, (y == 0) | (y == 1))
    if y.size == 0 or y.min() == y.max():
        raise ValueError("labels must have both outcomes")
    rows = np.stack([np.ones_like(z), z])
    found = np.array([0.0, 1.0])
    for _ in range(_STEPS):
        p = expit(found @ rows)
        hessian = (rows * (p * (1 - p))) @ rows.T
        step = np.linalg.lstsq(hessian, rows @ (y - p), rcond=None)[0]
        found = found + step
        if np.abs(step).max() < _CLOSE:
            break
    return Line(*found.tolist())
