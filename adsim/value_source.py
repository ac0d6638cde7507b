"""ValueSource: estimates of what impressions are worth, in place of the platform's."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from adsim.outcome import TickOutcome
from adsim.types import FloatArray, IntArray


class ValueSource(Protocol):
    """Estimates of the impressions of E worlds, made once per tick.

    Attributes:
        privileged: whether it knows the truth.
        limits: upper ends of the estimates by name; lower ends are 0. Among them are `ctr`, and
            `expected_net_value` of showing an impression before its price, currency.
    """

    privileged: bool
    limits: Mapping[str, float]

    def restart(self, worlds: IntArray) -> None:
        """New campaigns in the given worlds (W,)."""
        ...

    def resume(self, tick: IntArray) -> None:
        """The worlds stand at saved ticks (E,); what was learned is not in their state."""
        ...

    def estimate(self, obs: Mapping[str, Any], tick: IntArray) -> dict[str, FloatArray]:
        """Estimates (E, M) by the names of `limits`; 0 in padding.

        Args:
            obs: observation of Auction-v0 with a leading axis E.
            tick: (E,) the tick to be played.
        """
        ...

    def note(self, outcome: TickOutcome, tick: IntArray) -> None:
        """Learns, if it does, from what ticks (E,) brought."""
        ...


def click_values(estimates: Mapping[str, FloatArray]) -> FloatArray:
    """Predicted net value (E, M) of a click, currency; 0 where none is expected."""
    value, ctr = estimates["expected_net_value"], estimates["ctr"]
    return np.divide(value, ctr, out=np.zeros_like(value), where=ctr > 0)
