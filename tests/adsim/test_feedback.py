import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from adsim.feedback import PURCHASE, REFUND, FeedbackQueue, push
from adsim.types import EventKind

NO_CLICKS = np.zeros((3, 0), dtype=np.int64)
NO_TIMES = np.zeros(0)
TICKS = 6


@njit
def compiled_push(pool, world, tick, time, kind, click, order, amount, origin):
    push(pool, world, tick, time, kind, click, order, amount, origin)


def push_all(queue, events):
    """Events are (world, tick, time, kind, click, order, amount, origin tick)."""
    queue.reserve(len(events))
    for event in events:
        compiled_push(queue.pool, *event)


def release(queue, worlds, first, last=None, clicks=NO_CLICKS, times=NO_TIMES):
    last = first if last is None else last
    seen = queue.release(*(np.array(x) for x in (worlds, first, last)), clicks, times)
    return list(zip(*(column.tolist() for column in seen), strict=True))


def expected_rows(events):
    """Released rows of events: (world, time, kind, click, order, amount, origin), in order."""
    rows = [(w, time, kind, c, o, amount, t0) for w, _, time, kind, c, o, amount, t0 in events]
    return sorted(rows, key=lambda row: row[:5])


@st.composite
def event_lists(draw):
    """Events of 3 worlds with few distinct times, so that every key has to break ties."""
    event = st.tuples(
        *(st.integers(0, 2), st.integers(0, TICKS + 3), st.sampled_from([0.0, 0.5, 1.0])),
        *(st.sampled_from([PURCHASE, REFUND]), st.integers(0, 3), st.integers(0, 7)),
        *(st.sampled_from([1.0, 2.5]), st.integers(0, TICKS)),
    )
    unique = {e[0:1] + e[2:6]: e for e in draw(st.lists(event, max_size=60))}
    return list(unique.values())


def test_events_come_out_at_their_tick():
    queue = FeedbackQueue(1, TICKS)
    push_all(queue, [(0, 2, 1.2, PURCHASE, 5, 0, 40.0, 2), (0, 4, 2.1, REFUND, 5, 0, 40.0, 2)])
    assert [len(release(queue, [0], [tick])) for tick in range(TICKS)] == [0, 0, 1, 0, 1, 0]
    assert len(queue) == 0


def test_simultaneous_events_are_ordered_by_kind_click_and_order():
    queue = FeedbackQueue(1, TICKS)
    keys = [
        (0.5, REFUND, 1, 0),
        (0.5, PURCHASE, 2, 1),
        (0.5, PURCHASE, 2, 0),
        (0.5, PURCHASE, 1, 3),
    ]
    keys += [(0.4, REFUND, 9, 9)]
    push_all(queue, [(0, 0, *key, 1.0, 0) for key in keys])
    clicks = np.array([[0], [7], [0]])
    rows = release(queue, [0], [0], clicks=clicks, times=np.array([0.5]))
    assert [row[1:5] for row in rows] == [
        (0.4, REFUND, 9, 9),
        (0.5, EventKind.CLICK, 7, -1),
        (0.5, PURCHASE, 1, 3),
        (0.5, PURCHASE, 2, 0),
        (0.5, PURCHASE, 2, 1),
        (0.5, REFUND, 1, 0),
    ]


def test_clicks_are_joined_with_amount_0_and_their_tick():
    queue = FeedbackQueue(2, TICKS)
    clicks = np.array([[0, 1, 1], [30, 31, 32], [3, 3, 3]])
    rows = release(queue, [0, 1], [3, 3], clicks=clicks, times=np.array([1.6, 1.8, 1.7]))
    assert rows == [
        (0, 1.6, 0, 30, -1, 0.0, 3),
        (1, 1.7, 0, 32, -1, 0.0, 3),
        (1, 1.8, 0, 31, -1, 0.0, 3),
    ]


def test_events_after_the_horizon_wait_in_the_last_bucket():
    queue = FeedbackQueue(1, TICKS)
    push_all(
        queue,
        [(0, TICKS + 100, 53.0, REFUND, 1, 0, 9.0, 2), (0, TICKS, 3.0, PURCHASE, 1, 0, 9.0, 2)],
    )
    assert release(queue, [0], [TICKS - 1]) == []
    assert [row[1] for row in release(queue, [0], [TICKS - 1], [TICKS])] == [3.0, 53.0]


@given(events=event_lists())
@settings(deadline=None, derandomize=True, max_examples=150)
def test_every_event_is_released_once_at_its_tick_in_order(events):
    queue = FeedbackQueue(3, TICKS)
    push_all(queue, events)
    assert len(queue) == len(events)
    for tick in range(TICKS):
        last = TICKS if tick == TICKS - 1 else tick
        due = [e for e in events if tick <= min(e[1], TICKS) <= last]
        assert release(queue, [0, 1, 2], [tick] * 3, [last] * 3) == expected_rows(due)
    assert len(queue) == 0


@given(
    events=event_lists(), others=event_lists(), ticks=st.lists(st.integers(0, TICKS), max_size=5)
)
@settings(deadline=None, derandomize=True, max_examples=100)
def test_freed_cells_are_used_again(events, others, ticks):
    queue = FeedbackQueue(3, TICKS)
    push_all(queue, events)
    for tick in ticks:
        release(queue, [0, 1, 2], [tick] * 3)
    kept = [e for e in events if min(e[1], TICKS) not in ticks]
    peak = max(len(events), len(kept) + len(others))
    push_all(queue, others)
    assert int(queue.pool.meta[1]) == peak  # cells ever used
    rows = release(queue, [0, 1, 2], [0] * 3, [TICKS] * 3)
    key = lambda row: row[:5]  # noqa: E731
    assert sorted(rows, key=key) == rows
    assert sorted(rows) == sorted(expected_rows(kept + others))


@given(events=event_lists(), world=st.integers(0, 2))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_clear_forgets_only_the_given_world(events, world):
    queue = FeedbackQueue(3, TICKS)
    push_all(queue, events)
    queue.clear(np.array([world]))
    kept = [e for e in events if e[0] != world]
    assert len(queue) == len(kept)
    assert release(queue, [0, 1, 2], [0] * 3, [TICKS] * 3) == expected_rows(kept)


def test_worlds_may_be_at_different_ticks():
    queue = FeedbackQueue(2, TICKS)
    events = [
        (w, t, float(t), PURCHASE, 10 * w + t, 0, 1.0, t) for w in (0, 1) for t in range(TICKS)
    ]
    push_all(queue, events)
    rows = release(queue, [0, 1], [4, 1], [5, 1])
    assert [row[:2] for row in rows] == [(0, 4.0), (0, 5.0), (1, 1.0)]
    assert len(queue) == 9


def test_reserve_grows_and_keeps_what_waits():
    queue = FeedbackQueue(1, TICKS)
    events = [(0, n % TICKS, n / 1e3, PURCHASE, n, 0, float(n), 0) for n in range(5_000)]
    for start in range(0, 5_000, 100):
        push_all(queue, events[start : start + 100])
    assert queue.pool.floats.shape[1] >= 5_000
    assert release(queue, [0], [0], [TICKS]) == expected_rows(events)


def test_reserve_does_not_grow_while_cells_are_free():
    # 100 ticks of 200 events each: never more than 200 wait, 256 cells are enough.
    queue = FeedbackQueue(1, 100)
    for tick in range(100):
        push_all(queue, [(0, tick, 0.0, PURCHASE, n, 0, 1.0, tick) for n in range(200)])
        assert len(release(queue, [0], [tick])) == 200
    assert queue.pool.floats.shape[1] <= 512


@given(events=event_lists(), tick=st.integers(0, TICKS))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_state_round_trip(events, tick):
    queue, copy = FeedbackQueue(3, TICKS), FeedbackQueue(3, TICKS)
    push_all(queue, events)
    release(queue, [0, 1, 2], [tick] * 3)
    state = queue.get_state()
    copy.set_state(state)
    release(queue, [0, 1, 2], [0] * 3, [TICKS] * 3)  # the state is a copy: this does not touch it
    late = [(1, 5, 9.0, REFUND, 77, 0, 3.0, 1)]
    push_all(copy, late)
    kept = [e for e in events if min(e[1], TICKS) != tick]
    assert release(copy, [0, 1, 2], [0] * 3, [TICKS] * 3) == expected_rows(kept + late)


def test_released_columns_have_the_types_of_an_event_batch():
    queue = FeedbackQueue(1, TICKS)
    push_all(queue, [(0, 0, 0.1, PURCHASE, 1, 2, 5.0, 0)])
    seen = queue.release(*(np.array([0]),) * 3, NO_CLICKS, NO_TIMES)
    assert (seen.kind.dtype, seen.order_id.dtype) == (np.int8, np.int16)
    assert (seen.time_hours.dtype, seen.click_id.dtype) == (np.float64, np.int64)
    assert seen.amount == pytest.approx([5.0])
