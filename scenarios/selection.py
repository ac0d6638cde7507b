"""What winning does to estimates: sums of estimates and of the truth, of requests and of wins."""

from typing import Any

import gymnasium as gym
import numpy as np

from scenarios.stack import Estimates

KINDS = ("ctr", "cvr", "net_value")
GROUPS = ("requests", "won", "explored")


class SelectionMeter(gym.Wrapper[Any, np.ndarray, Any, np.ndarray]):
    """Compares estimates with the truth, impression by impression. Privileged: for results only.

    What is won is selected by the bid, and the bid by the estimate: of equal impressions those are
    won whose value is overestimated. No noise of outcomes is in these sums.

    Args:
        env: an `EstimatesWrapper`.

    Attributes:
        sums: (group, kind, 2) estimated and true: of `GROUPS` and `KINDS`; CTR of impressions, CVR
            of their expected clicks, expected net value in currency.
    """

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        """Starts at 0."""
        self.sums = np.zeros((len(GROUPS), len(KINDS), 2))
        return self.env.reset(**options)

    def step(self, action: np.ndarray) -> Any:
        """Adds the impressions of the tick."""
        wrapper: Any = self.env
        said: Estimates = wrapper.online.said
        truth = wrapper.unwrapped.oracle().truth()  # (M,) of the tick about to be played
        real = wrapper.online.shown.mask > 0
        outcome = self.env.step(action)
        won = outcome[-1]["result"].won
        pairs = (
            (said.ctr, truth.p_click),
            (truth.p_click * said.cvr, truth.p_click * truth.p_convert),
            (said.expected_net_value, truth.net_value),
        )
        for group, rows in enumerate((real, won, won & wrapper.explored)):
            for kind, pair in enumerate(pairs):
                self.sums[group, kind] += [column[rows].sum() for column in pair]
        return outcome

    def totals(self) -> dict[str, float]:
        """The sums as `<group>_<kind>_estimated` and `<group>_<kind>_true`."""
        return {
            f"{group}_{kind}_{side}": float(self.sums[g, k, place])
            for g, group in enumerate(GROUPS)
            for k, kind in enumerate(KINDS)
            for place, side in enumerate(("estimated", "true"))
        }
