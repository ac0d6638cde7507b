"""Scripted bidding policies of the other advertisers of a population market.

They pace with the array functions of `agents.pacing`, all worlds and advertisers at once.
"""

from collections.abc import Sequence

import numpy as np

from adsim.types import FloatArray, IntArray
from agents.base import require_in_range
from agents.pacing import PIDGains, pacing_error, pid_step

KINDS = ("value", "linear", "pid", "dual")


class ScriptedRivals:
    """Policies of A advertisers in E worlds; implements `adsim.types.Rivals`.

    A value bidder bids its value, a linear one a constant multiple; PID and dual bidders pace
    their budgets. The dual bidder is the PID controller without proportional term: the mirror
    step with h = (1 + mu) log(1 + mu) moves the log multiplier by step x error.

    Args:
        kinds: one of "value", "linear", "pid", "dual" per advertiser, (A,).
        budgets: (A,) > 0, currency.
        expected_traffic_share: (T,) share of the campaign's traffic in each tick; sums to 1.
        num_worlds: E.
        linear_multiplier: factor in (0, 1] of linear bidders, number or (A,).
        initial_multiplier: first factor in (0, 1] of pacing bidders, number or (A,).
        gain: step per tick = gain / sqrt(T) of pacing bidders, dimensionless, > 0.
        proportional: lP of PID bidders relative to the integral gain, dimensionless, >= 0.

    Raises:
        ValueError: naming the argument, its value and the allowed range.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        budgets: FloatArray,
        expected_traffic_share: FloatArray,
        num_worlds: int = 1,
        *,
        linear_multiplier: float | FloatArray = 0.5,
        initial_multiplier: float | FloatArray = 0.7,
        gain: float = 1.0,
        proportional: float = 1.0,
    ) -> None:
        unknown = sorted(set(kinds) - set(KINDS))
        if unknown:
            raise ValueError(f"kinds = {unknown} are not among {', '.join(KINDS)}")
        names = np.asarray(kinds)
        budgets = _checked("budgets", budgets, len(names))
        share = np.asarray(expected_traffic_share, np.float64)
        if share.ndim != 1 or not np.all(share >= 0) or not np.sum(share) > 0:
            raise ValueError("expected_traffic_share must be (T,), >= 0, with a positive sum")
        if num_worlds < 1:
            raise ValueError(f"num_worlds = {num_worlds} must be at least 1")
        require_in_range("gain", gain, 0.0, float("inf"))
        if not 0 <= proportional < float("inf"):
            raise ValueError(f"proportional = {proportional} is outside its range [0, inf)")
        linear = _checked("linear_multiplier", linear_multiplier, len(names), 1.0)
        initial = _checked("initial_multiplier", initial_multiplier, len(names), 1.0)
        paces = np.isin(names, ("pid", "dual"))
        step = gain * len(share) ** -0.5 * paces  # eta ~ T^{-1/2}
        self._gains = PIDGains(proportional * step * (names == "pid"), step, 0.0)
        self._num_ticks = len(share)
        rest = np.cumsum(share[::-1])[::-1]
        # (T,) traffic of a tick / traffic from it to the end
        self._share = np.divide(share, rest, out=np.zeros_like(share), where=rest > 0)
        factor = np.where(names == "linear", linear, np.where(paces, initial, 1.0))
        self._first = np.log(factor)  # (A,)
        shape = (num_worlds, len(names))
        self._log_multiplier = np.tile(self._first, (num_worlds, 1))  # (E, A)
        self._integral = self._log_multiplier.copy()  # (E, A)
        self._error = np.zeros(shape)  # (E, A) of the last tick
        self._budget_left = np.tile(budgets, (num_worlds, 1))  # (E, A) before the tick
        self._unit = self._budget_left / self._num_ticks  # (E, A) currency per mean tick

    def reset(self, worlds: IntArray, budgets: FloatArray) -> None:
        """Starts new campaigns in the worlds (n,) with budgets (n, A), currency."""
        self._log_multiplier[worlds] = self._first
        self._integral[worlds] = self._first
        self._error[worlds] = 0.0
        self._budget_left[worlds] = budgets
        self._unit[worlds] = budgets / self._num_ticks

    def multipliers(self, tick: IntArray, budget_left: FloatArray) -> FloatArray:
        """Factors (E, A) on the advertisers' value estimates, in (0, 1].

        Args:
            tick: (E,) of each world.
            budget_left: (E, A) before the tick, currency.
        """
        self._budget_left[...] = budget_left
        return np.exp(self._log_multiplier)

    def observe(self, tick: IntArray, spend: FloatArray) -> None:
        """Moves the multipliers by the spend (E, A) of the tick (E,), currency."""
        share = self._share[np.minimum(tick, len(self._share) - 1)][:, None]
        error = pacing_error(spend, self._budget_left, share, self._unit)
        self._log_multiplier, self._integral = pid_step(
            self._integral, error, self._error, self._gains
        )
        self._error = error

    def get_state(self) -> dict[str, np.ndarray]:
        """Copies of the arrays (E, A) that determine the future behaviour."""
        return {
            "log_multiplier": self._log_multiplier.copy(),
            "integral": self._integral.copy(),
            "error": self._error.copy(),
            "budget_left": self._budget_left.copy(),
            "unit": self._unit.copy(),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned.

        Raises:
            ValueError: if an array is missing or of another shape.
        """
        shape = self._error.shape
        for name in ("log_multiplier", "integral", "error", "budget_left", "unit"):
            if name not in state or np.shape(state[name]) != shape:
                raise ValueError(f"state[{name!r}] must be an array of shape {shape}")
            setattr(self, f"_{name}", np.array(state[name], np.float64))


def _checked(
    field: str, value: float | FloatArray, size: int, high: float = float("inf")
) -> FloatArray:
    """A number or (A,) array in (0, high] as an (A,) array."""
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (size,)):
        raise ValueError(f"{field} has shape {array.shape}, allowed are () and ({size},)")
    if not np.all((array > 0) & (array <= high)):
        raise ValueError(f"{field} = {value} is outside its allowed range (0, {high}]")
    return np.broadcast_to(array, (size,)).copy()
