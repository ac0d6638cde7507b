"""FeedbackQueue: future events in a calendar, released when their time comes.

Events wait in one bucket per (world, tick of reveal); bucket T holds what comes after the horizon
and is drained at the last tick. The pool is a set of arrays with linked lists inside, so that
pushing costs O(1) in a compiled loop and saving is copying arrays.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.types import EventKind, FloatArray, IntArray

PURCHASE, REFUND = int(EventKind.PURCHASE), int(EventKind.REFUND)
TIME, AMOUNT = 0, 1
CLICK_ID, ORDER, KIND, ORIGIN_TICK, NEXT = 0, 1, 2, 3, 4
FREE, USED = 0, 1


class Pool(NamedTuple):
    """Storage of the queue as the compiled loops see it."""

    floats: FloatArray  # (2, capacity) TIME in hours, AMOUNT in currency
    ints: IntArray  # (5, capacity) CLICK_ID, ORDER, KIND, ORIGIN_TICK, NEXT
    head: IntArray  # (E, T + 1) first event of a bucket, -1 if empty
    waiting: IntArray  # (E, T + 1) events in a bucket
    meta: IntArray  # (2,) FREE: first free cell or -1; USED: cells ever used


class Released(NamedTuple):
    """Events of one tick over all worlds, ordered by (world, time, kind, click, order); (N,)."""

    world: IntArray
    time_hours: FloatArray
    kind: NDArray[np.int8]
    click_id: IntArray
    order_id: NDArray[np.int16]
    amount: FloatArray
    origin_tick: IntArray  # tick of the purchase (of the click, for a click)


@njit
def push(pool, world, tick, time, kind, click_id, order, amount, origin_tick):
    """Adds one event; the caller has reserved the space."""
    cell = pool.meta[FREE]
    if cell >= 0:
        pool.meta[FREE] = pool.ints[NEXT, cell]
    else:
        cell = pool.meta[USED]
        pool.meta[USED] = cell + 1
    bucket = min(tick, pool.head.shape[1] - 1)
    pool.floats[TIME, cell] = time
    pool.floats[AMOUNT, cell] = amount
    pool.ints[CLICK_ID, cell] = click_id
    pool.ints[ORDER, cell] = order
    pool.ints[KIND, cell] = kind
    pool.ints[ORIGIN_TICK, cell] = origin_tick
    pool.ints[NEXT, cell] = pool.head[world, bucket]
    pool.head[world, bucket] = cell
    pool.waiting[world, bucket] += 1


@njit(cache=True, nogil=True)
def _pop(pool, worlds, first, last, floats, ints, start):
    """Moves the buckets first[i]..last[i] of worlds[i] to the outputs and frees their cells."""
    n = start
    for i in range(worlds.size):
        world = worlds[i]
        for bucket in range(first[i], last[i] + 1):
            cell = pool.head[world, bucket]
            while cell >= 0:
                floats[0, n] = pool.floats[TIME, cell]
                floats[1, n] = pool.floats[AMOUNT, cell]
                ints[0, n] = world
                ints[1, n] = pool.ints[KIND, cell]
                ints[2, n] = pool.ints[CLICK_ID, cell]
                ints[3, n] = pool.ints[ORDER, cell]
                ints[4, n] = pool.ints[ORIGIN_TICK, cell]
                n += 1
                following = pool.ints[NEXT, cell]
                pool.ints[NEXT, cell] = pool.meta[FREE]
                pool.meta[FREE] = cell
                cell = following
            pool.head[world, bucket] = -1
            pool.waiting[world, bucket] = 0


_NONE, _NO_TIMES = np.zeros(0, np.int64), np.zeros(0)
NOTHING = Released(
    *(_NONE, _NO_TIMES, np.zeros(0, np.int8), _NONE, np.zeros(0, np.int16), _NO_TIMES, _NONE)
)


class FeedbackQueue:
    """Pending events of E worlds.

    Args:
        num_worlds: E.
        num_ticks: T; events of tick T and later wait in the last bucket.
    """

    def __init__(self, num_worlds: int, num_ticks: int) -> None:
        self.pool = Pool(
            np.zeros((2, 256)),
            np.zeros((5, 256), dtype=np.int64),
            np.full((num_worlds, num_ticks + 1), -1, dtype=np.int64),
            np.zeros((num_worlds, num_ticks + 1), dtype=np.int64),
            np.array([-1, 0]),
        )

    def __len__(self) -> int:
        """Events waiting, over all worlds."""
        return int(self.pool.waiting.sum())

    def reserve(self, extra: int) -> None:
        """Makes sure that `extra` events can be pushed."""
        capacity = self.pool.floats.shape[1]
        needed = int(self.pool.meta[USED]) + extra
        if needed > capacity:
            grow = max(needed, 2 * capacity) - capacity
            self.pool = self.pool._replace(
                floats=np.pad(self.pool.floats, ((0, 0), (0, grow))),
                ints=np.pad(self.pool.ints, ((0, 0), (0, grow))),
            )

    def clear(self, worlds: IntArray) -> None:
        """Forgets what waits in the given worlds."""
        first = np.zeros(worlds.size, dtype=np.int64)
        self._pop_into(worlds, first, first + self.pool.head.shape[1] - 1, 0)

    def _pop_into(
        self, worlds: IntArray, first: IntArray, last: IntArray, extra: int
    ) -> tuple[FloatArray, IntArray]:
        """Outputs with `extra` leading rows left empty."""
        if worlds.size == 1:
            n = int(self.pool.waiting[worlds[0], first[0] : last[0] + 1].sum())
        else:
            between = np.arange(self.pool.waiting.shape[1])
            mask = (between >= first[:, None]) & (between <= last[:, None])
            n = int((self.pool.waiting[worlds] * mask).sum())
        floats, ints = np.empty((2, extra + n)), np.empty((5, extra + n), dtype=np.int64)
        if n:
            _pop(self.pool, worlds, first, last, floats, ints, extra)
        return floats, ints

    def release(
        self,
        worlds: IntArray,
        first: IntArray,
        last: IntArray,
        clicks: IntArray,
        click_time: FloatArray,
    ) -> Released:
        """Takes the events of ticks first..last of each world, joined with the tick's clicks.

        Args:
            worlds: (W,) worlds.
            first: (W,) first bucket of each.
            last: (W,) last bucket of each, inclusive.
            clicks: (3, C) world, click_id and tick of the clicks to join.
            click_time: (C,) hours.
        """
        c = click_time.size
        floats, ints = self._pop_into(worlds, first, last, c)
        if floats.shape[1] == 0:
            return NOTHING
        floats[0, :c], floats[1, :c] = click_time, 0.0
        ints[0, :c], ints[1, :c], ints[2, :c], ints[3, :c], ints[4, :c] = (
            *(clicks[0], EventKind.CLICK, clicks[1], -1),
            clicks[2],
        )
        if floats.shape[1] > 1:
            order = np.lexsort((ints[3], ints[2], ints[1], floats[0], ints[0]))
            floats, ints = floats[:, order], ints[:, order]
        return Released(
            ints[0],
            floats[0],
            ints[1].astype(np.int8),
            ints[2],
            ints[3].astype(np.int16),
            floats[1],
            ints[4],
        )

    def get_state(self) -> dict[str, np.ndarray]:
        """The pool's arrays, copied."""
        return {name: array.copy() for name, array in self.pool._asdict().items()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.pool = Pool(**{name: state[name].copy() for name in Pool._fields})
