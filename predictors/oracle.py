"""The oracle: exact expectations of the current tick's impressions. Privileged."""

from typing import Any, Self

import numpy as np

from adsim.types import Estimate, Impressions, Target, Window
from predictors.base import register_predictor


@register_predictor("oracle")
class OraclePredictor:
    """E[outcome | what is observable], from `env.unwrapped.oracle()`; learns nothing.

    Call `attach` with the oracle after every reset. The GMV of a click is turned into that of a
    converted click.
    """

    targets = frozenset(Target)
    privileged = True

    def __init__(self) -> None:
        self._oracle: Any = None

    def attach(self, oracle: Any) -> None:
        """Gives access to the truth of an episode."""
        self._oracle = oracle

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """Exact means of the current tick; std 0.

        Raises:
            RuntimeError: no oracle is attached.
            ValueError: the impressions are not those of the current tick.
        """
        if self._oracle is None:
            raise RuntimeError("oracle: call attach(env.unwrapped.oracle()) after reset")
        truth = self._oracle.truth()
        if truth.p_click.shape != impressions.mask.shape:
            raise ValueError(
                f"impressions must be the {truth.p_click.size} slots of the current tick, "
                f"got {impressions.mask.size}"
            )
        real = impressions.mask > 0

        def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
            return np.divide(part, whole, out=np.zeros_like(part), where=real & (whole > 0))

        means = {
            Target.CTR: truth.p_click,
            Target.CVR: truth.p_convert,
            Target.REFUND_RATE: truth.p_refund,
            Target.NET_CVR: truth.p_convert * (1 - truth.p_refund),
            Target.GMV: ratio(truth.gmv, truth.p_convert),
            Target.REFUND_VALUE_SHARE: ratio(truth.gmv - truth.net_gmv, truth.gmv),
        }
        zero = np.zeros(impressions.mask.size)
        return {target: Estimate(mean, zero.copy()) for target, mean in means.items()}

    def partial_fit(self, window: Window) -> Self:
        """The truth needs no learning."""
        return self
