"""RiskBid: bids on the mean of a CTR less a multiple of its standard deviation.

Source: H. Zhang, W. Zhang, Y. Rong, K. Ren, W. Li, J. Wang, "Managing Risk of Bidding in Display
Advertising", WSDM 2017, arXiv:1701.02433, strategy "VaR". `risk_bids` is the form in which I.
Zhigalskii et al., arXiv:2603.01825, compare with it: a programme with a budget only. Their floor of
1e-10 on the corrected CTR is 0 here, which the programme takes as well. "RMP", the strategy on the
risk of the return, is not built.
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from adsim.types import Estimate, FloatArray
from predictors.base import CORRECTORS
from predictors.bid_programme import Duals, Limits, checked_auctions, programme_bids, solve_duals
from predictors.logit_expectation import expected_probability
from predictors.logit_mixture import Posterior
from predictors.metrics import require


class RiskBid:
    """Corrects a probability by its risk: mean - aversion x std, within [0, 1].

    Args:
        aversion: alpha; > 0 averse to risk (less for uncertain ones), < 0 seeking it.
        relative: divide std by (sum of std) / (sum of means) of the fitted estimates, so that
            alpha does not depend on the scale of the noise.
    """

    privileged: bool = False

    def __init__(self, aversion: float = 0.1, *, relative: bool = False) -> None:
        if not np.isfinite(aversion):
            raise ValueError(f"aversion must be finite, got {aversion}")
        self.aversion, self.relative = aversion, relative
        self._norm: float | None = None if relative else 1.0

    def fit(self, predicted: Estimate) -> Self:
        """Learns the scale of the noise, which only `relative` uses.

        Raises:
            ValueError: `relative`, and the sum of the means or of the std is not positive.
        """
        if self.relative:
            mean, std = _checked(predicted)
            total = float(mean.sum())
            # Zhang et al. 2017: norm = (sum Std) / (sum E) over training rows
            norm = float(std.sum()) / total if total > 0 else 0.0
            if not 0 < norm < np.inf:
                raise ValueError(f"sums of mean and std must be positive and finite, norm {norm}")
            self._norm = norm
        return self

    def correct(self, estimate: Estimate) -> Estimate:
        """The risk-adjusted mean (M,), M >= 0; std is passed on.

        Raises:
            ValueError: mean outside [0, 1], std negative or infinite, or `relative` before `fit`.
        """
        if self._norm is None:
            raise ValueError("the scale of the noise is not known yet: call fit")
        mean, std = _checked(estimate)
        # Zhang et al. 2017, VaR: clip(E[y] + lambda Std[y] / norm, 0, 1), with lambda = -alpha
        return Estimate(np.clip(mean - self.aversion * std / self._norm, 0.0, 1.0), std)


def risk_bids(
    price: ArrayLike,
    ctr: Estimate,
    cvr: ArrayLike,
    budget: float,
    aversion: float,
    *,
    max_bid: float = float("inf"),
) -> tuple[FloatArray, Duals]:
    """Bids of a budget-only programme on risk-adjusted CTRs: b (a - alpha std) / p.

    Args:
        price: (T,) to beat, currency per impression.
        ctr: estimates (T,).
        cvr: (T,) in [0, 1], taken for the truth.
        budget: currency.
        aversion: alpha; 0 is the plain bidder without a cap.
        max_bid: see `programme_bids`.

    Returns:
        Bids (T,), currency per impression, and the duals.
    """
    limits = Limits(budget)
    adjusted = RiskBid(aversion).correct(ctr).mean
    auctions = checked_auctions(price, adjusted, adjusted * np.asarray(cvr, np.float64))
    duals = solve_duals(auctions, limits)
    return programme_bids(auctions.ctr, auctions.value, duals, limits, max_bid=max_bid), duals


def push_forward(logit: ArrayLike, variance: ArrayLike) -> Estimate:
    """Mean and standard deviation (M,) of sigmoid(N(logit, variance)), by quadrature.

    The law of a CTR under a Bayesian logistic regression. Deviation: no cache of Monte-Carlo draws.

    Args:
        logit: (M,) finite.
        variance: (M,) >= 0, log-odds squared, finite.

    Raises:
        ValueError: an argument is out of range.
    """
    at, spread = np.broadcast_arrays(np.asarray(logit, np.float64), np.asarray(variance))
    if at.ndim != 1 or not (np.isfinite(at) & np.isfinite(spread) & (spread >= 0)).all():
        raise ValueError("logit and variance must be finite, (M,), the variance >= 0")
    return expected_probability(
        Posterior(np.ones((1, at.size)), at[None, None], spread[None, None, None])
    )


def _checked(estimate: Estimate) -> tuple[FloatArray, FloatArray]:
    mean, std = np.asarray(estimate.mean, np.float64), np.asarray(estimate.std, np.float64)
    if mean.ndim != 1 or mean.shape != std.shape:
        raise ValueError(f"mean and std must both be (M,), got {mean.shape} and {std.shape}")
    require("mean", "in [0, 1]", mean, (mean >= 0) & (mean <= 1))
    require("std", "finite and >= 0", std, (std >= 0) & np.isfinite(std))
    return mean, std


CORRECTORS["risk_bid"] = RiskBid
