"""Running rates: the same estimate for every impression, learned from what has been seen.

The rates count feedback as it arrives, so that clicks whose purchases are still to come pull the
conversion rate down: the bias that delayed-feedback methods remove. It is the floor they must beat.
"""

from typing import Self

import numpy as np

from adsim.types import Estimate, EventKind, Impressions, Target, Window
from predictors.base import register_predictor


@register_predictor("running_rate")
class RunningRatePredictor:
    """Seen clicks, conversions, refunds and GMV over their seen opportunities.

    Args:
        strength: pseudo-opportunities of the priors below.
        ctr, cvr, refund_rate: prior rates.
        gmv: prior GMV of a converted click, currency.
    """

    targets = frozenset({Target.CTR, Target.CVR, Target.REFUND_RATE, Target.NET_CVR, Target.GMV})
    privileged = False

    def __init__(
        self,
        strength: float = 100.0,
        *,
        ctr: float = 0.02,
        cvr: float = 0.05,
        refund_rate: float = 0.2,
        gmv: float = 100.0,
    ) -> None:
        if not strength > 0:
            raise ValueError(f"strength must be > 0, got {strength}")
        for name, rate in (("ctr", ctr), ("cvr", cvr), ("refund_rate", refund_rate)):
            if not 0 <= rate <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {rate}")
        if not gmv >= 0:
            raise ValueError(f"gmv must be >= 0, got {gmv}")
        # Opportunities and successes per rate: shown -> clicked -> converted -> refunded; GMV.
        self._tried = np.full(4, strength)
        self._hit = strength * np.array([ctr, cvr, refund_rate, gmv])

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """The current rates, for every slot; the standard deviation is unknown (0)."""
        ctr, cvr, refund_rate, gmv = self._hit / self._tried
        rates = {
            Target.CTR: ctr,
            Target.CVR: cvr,
            Target.REFUND_RATE: refund_rate,
            Target.NET_CVR: cvr * (1 - refund_rate),
            Target.GMV: gmv,
        }
        m = impressions.mask.size
        return {target: Estimate(np.full(m, rate), np.zeros(m)) for target, rate in rates.items()}

    def partial_fit(self, window: Window) -> Self:
        """Adds the window's counts."""
        kind, order, amount = window.events.kind, window.events.order_id, window.events.amount
        bought, refunded = kind == EventKind.PURCHASE, kind == EventKind.REFUND
        first = order == 0
        clicks = float(np.count_nonzero(window.result.clicked & window.result.won))
        converted = float(np.count_nonzero(bought & first))
        shown = float(np.count_nonzero(window.result.won))
        self._tried = self._tried + np.array([shown, clicks, converted, converted])
        self._hit = self._hit + np.array(
            [
                clicks,
                converted,
                float(np.count_nonzero(refunded & first)),
                float(amount[bought].sum()),
            ]
        )
        return self
