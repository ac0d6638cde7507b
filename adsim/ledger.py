"""Accounts of E campaigns per tick, and the closing statement."""

from typing import NamedTuple

import numpy as np

from adsim.feedback import Released
from adsim.types import EventKind, FloatArray, IntArray

# Columns of the series; money in currency, the rest counts. The second to ninth are the kernels'
# totals of a tick, in their order.
COLUMNS = (
    "impressions",
    *("wins", "spend", "clicks", "expected_gmv", "expected_net_gmv", "accrued_net_gmv"),
    *("expected_clicks", "expected_conversions"),
    *("purchases", "gmv", "refunds", "refunded", "matured_net_gmv"),
)
_BACK = np.array([1, 2, 3])
_SIGN = np.array([0.0, 1.0, -1.0])  # of an event in net GMV, by EventKind
COLUMN = {name: index for index, name in enumerate(COLUMNS)}


class NetValueStatement(NamedTuple):
    """Closing statement of a campaign, every event included."""

    impressions: int
    wins: int
    clicks: int
    purchases: int
    refunds: int
    gmv: float  # currency
    refunded: float  # currency
    net_gmv: float  # gmv - refunded
    margin: float
    spend: float  # currency
    budget: float  # currency
    net_value: float  # margin x net_gmv - spend; equal to the sum of rewards
    expected_gmv: float  # sum over won impressions of E[GMV | x, t]
    expected_net_value: float  # margin x sum of E[net GMV | x, t] - spend


class Ledger:
    """What E campaigns have spent and seen so far.

    Attributes:
        series: (E, T, len(COLUMNS)) per tick.
        net_value: (E,) sum of the rewards so far, in the order in which they were paid.
    """

    def __init__(
        self, num_worlds: int, num_ticks: int, margin: float, budget: float, refund_ticks: int
    ) -> None:
        self.margin, self.budget, self.refund_ticks = margin, budget, refund_ticks
        self.series = np.zeros((num_worlds, num_ticks, len(COLUMNS)))
        self.net_value = np.zeros(num_worlds)
        self.seen_gmv, self.seen_refunded = np.zeros(num_worlds), np.zeros(num_worlds)
        self.matured_net_gmv = np.zeros(num_worlds)
        self.net_by_tick = np.zeros((num_worlds, num_ticks + 1))  # net GMV seen by purchase tick

    def reset(self, worlds: IntArray) -> None:
        """Opens new books for the given worlds."""
        for array in self._arrays().values():
            array[worlds] = 0.0

    def _arrays(self) -> dict[str, FloatArray]:
        names = (
            "series",
            "net_value",
            "seen_gmv",
            "seen_refunded",
            "matured_net_gmv",
            "net_by_tick",
        )
        return {name: getattr(self, name) for name in names}

    def post(
        self, worlds: IntArray, tick: IntArray, count: IntArray, totals: FloatArray, seen: Released
    ) -> FloatArray:
        """Books a tick.

        Args:
            worlds: (W,) worlds that played the tick.
            tick: (E,) the tick played.
            count: (E,) impressions.
            totals: (E, NUM_TOTALS) of the kernels.
            seen: events that became observable.

        Returns:
            (4, E) number and amount of purchases, number and amount of refunds seen.
        """
        num_worlds, num_ticks = self.series.shape[:2]
        counted = np.zeros((4, num_worlds))
        if seen.world.size > 0 and seen.kind.max() > EventKind.CLICK:
            for row, kind in ((0, EventKind.PURCHASE), (2, EventKind.REFUND)):
                where = seen.kind == kind
                world = seen.world[where]
                counted[row] = np.bincount(world, minlength=num_worlds)
                counted[row + 1] = np.bincount(world, seen.amount[where], minlength=num_worlds)
            origin = np.minimum(seen.origin_tick, num_ticks)
            np.add.at(self.net_by_tick, (seen.world, origin), _SIGN[seen.kind] * seen.amount)
            self.seen_gmv += counted[1]
            self.seen_refunded += counted[3]
        now = tick[worlds]
        closed = now - self.refund_ticks  # negative: the first column, masked
        matured = self.net_by_tick[worlds, np.maximum(closed, 0)] * (closed >= 0)
        last = now == num_ticks - 1
        if last.any():  # the queue is drained: nothing can change any more
            matured = np.where(last, self.pending_net_gmv()[worlds], matured)
        self.matured_net_gmv[worlds] += matured
        rows = np.empty((worlds.size, len(COLUMNS)))
        rows[:, 0] = count[worlds]
        rows[:, 1:9] = totals[worlds]
        rows[:, 9:13] = counted.T[worlds]
        rows[:, 13] = matured
        self.series[worlds, now] = rows
        return counted

    def recent(self, tick: IntArray) -> FloatArray:
        """(E, 3, len(COLUMNS)): the last played tick, the one before, and the one before that."""
        back = tick[:, None] - _BACK
        rows = self.series[np.arange(tick.size)[:, None], np.maximum(back, 0)]
        rows[back < 0] = 0.0
        return rows

    def get_state(self) -> dict[str, FloatArray]:
        """The books, copied."""
        return {name: array.copy() for name, array in self._arrays().items()}

    def set_state(self, state: dict[str, FloatArray]) -> None:
        """Restores what `get_state` returned."""
        for name, array in self._arrays().items():
            array[...] = state[name]

    def total(self, column: str, world: int = 0) -> float:
        """Sum of a column so far."""
        return float(self.series[world, :, COLUMN[column]].sum())

    def pending_net_gmv(self) -> FloatArray:
        """Net GMV seen whose refund window is still open (E,), currency."""
        return self.seen_gmv - self.seen_refunded - self.matured_net_gmv

    def statement(self, world: int = 0) -> NetValueStatement:
        """The closing statement of a finished world."""
        totals = dict(zip(COLUMNS, self.series[world].sum(axis=0).tolist(), strict=True))
        return NetValueStatement(
            *(
                int(totals[name])
                for name in ("impressions", "wins", "clicks", "purchases", "refunds")
            ),
            gmv=totals["gmv"],
            refunded=totals["refunded"],
            net_gmv=totals["gmv"] - totals["refunded"],
            margin=self.margin,
            spend=totals["spend"],
            budget=self.budget,
            net_value=float(self.net_value[world]),
            expected_gmv=totals["expected_gmv"],
            expected_net_value=self.margin * totals["expected_net_gmv"] - totals["spend"],
        )
