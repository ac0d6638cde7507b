"""CreditBook: rewards that pay predicted net value at the click and are put right afterwards."""

import math

import numpy as np

from adsim.config import WorldConfig
from adsim.feedback import Released
from adsim.kernels import PCTR, VALUE, Draw
from adsim.rng import ID_STRIDE
from adsim.types import FloatArray, IntArray

_SIGN = np.array([0.0, 1.0, -1.0])  # of an event in net GMV, by EventKind


def predicted(drawn: Draw, clicks: IntArray, values: FloatArray | None = None) -> FloatArray:
    """Predicted net value (C,) of clicks (C, 2: world, slot), currency.

    Args:
        drawn: the impressions that were clicked.
        clicks: places of the clicks.
        values: (E, M) of a click; the platform's pcvr x list price x margin by default.
    """
    world, slot = clicks.T
    if values is not None:
        return values[world, slot]
    value, pctr = (drawn.floats[row, world, slot] for row in (VALUE, PCTR))
    return np.divide(value, pctr, out=np.zeros_like(value), where=pctr > 0)


class CreditBook:
    """What the clicks of E campaigns were predicted to be worth, and what became of them.

    A click is credited with its predicted net value, margin x E[net GMV | click], in the tick in
    which it happens; an impression that is not clicked with nothing. When all windows of a tick's
    clicks are closed, or the campaign ends, the difference between what was observed of them and
    what was credited is booked. So the rewards of an episode sum to the net value, whatever the
    predictions.

    Whether there is a click is known in the tick of the win: crediting the win with P(click) times
    as much, to be corrected at the click, would come to the same. Clicks of one tick are settled
    together: to settle those without a purchase as soon as that is certain, days before the others,
    would book the losses before the gains.

    Args:
        config: the world.
        num_worlds: E.

    Attributes:
        open_ticks: so many ticks after a click its last event has been seen.
        earned: (E, T) credit and correction of each tick, currency.
    """

    def __init__(self, config: WorldConfig, num_worlds: int) -> None:
        open_hours = config.windows.gmv_hours + config.windows.refund_hours
        self.margin = config.campaign.margin
        self.open_ticks = math.ceil(open_hours / config.time.tick_hours)
        shape = (num_worlds, config.time.num_ticks)
        self.earned = np.zeros(shape)
        self._booked = np.zeros(shape)  # for the clicks of a tick, currency
        self._observed = np.zeros(shape)  # margin x net GMV seen of them, currency

    def reset(self, worlds: IntArray) -> None:
        """Opens new books for the given worlds."""
        for array in (self.earned, self._booked, self._observed):
            array[worlds] = 0.0

    def post(
        self, worlds: IntArray, tick: IntArray, clicked: IntArray, value: FloatArray, seen: Released
    ) -> FloatArray:
        """Books a tick.

        Args:
            worlds: (W,) worlds that played the tick.
            tick: (E,) the tick played.
            clicked: (C,) worlds of its clicks.
            value: (C,) predicted net value of these, currency.
            seen: events that became observable.

        Returns:
            (2, E) credit for the tick's clicks, and correction of earlier credits, currency.
        """
        num_worlds, num_ticks = self.earned.shape
        now, paid = tick[worlds], np.zeros((2, num_worlds))
        paid[0] = np.bincount(clicked, value, minlength=num_worlds)
        self._booked[worlds, now] = paid[0, worlds]
        origin = seen.click_id // ID_STRIDE
        amount = self.margin * _SIGN[seen.kind] * seen.amount
        np.add.at(self._observed, (seen.world, origin), amount)
        # At the end nothing more can come: the queue is drained.
        last = np.where(now == num_ticks - 1, now, now - self.open_ticks)
        closed = np.arange(num_ticks) <= last[:, None]  # (W, T)
        observed, booked = self._observed[worlds], self._booked[worlds]
        paid[1, worlds] = np.where(closed, observed - booked, 0.0).sum(axis=1)
        self._booked[worlds] = np.where(closed, observed, booked)
        self.earned[worlds, now] = paid.sum(axis=0)[worlds]
        return paid

    def get_state(self) -> dict[str, FloatArray]:
        """The books, copied."""
        books = {"earned": self.earned, "booked": self._booked, "observed": self._observed}
        return {name: array.copy() for name, array in books.items()}

    def set_state(self, state: dict[str, FloatArray]) -> None:
        """Restores what `get_state` returned."""
        self.earned, self._booked, self._observed = (
            state[name].copy() for name in ("earned", "booked", "observed")
        )
