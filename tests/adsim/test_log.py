import numpy as np
import pytest

from adsim.log import Columns, EventLog
from adsim.types import EventBatch, EventKind

CLICK, PURCHASE, REFUND = EventKind.CLICK, EventKind.PURCHASE, EventKind.REFUND


def features_of(world, user, context, item):
    """Features (C, 4) and scenes (C,) that show what they were made of."""
    features = np.stack([np.full(user.size, world), user, context, item], axis=1)
    return features.astype(np.int32), (context % 3).astype(np.int32)


# (world, click_id, time_hours, tick, user, context, item): recorded tick by tick.
CLICKS = [
    [(0, 4, 0.2, 0, 10, 5, 1), (0, 7, 0.4, 0, 11, 6, 2), (1, 4, 0.3, 0, 12, 7, 3)],
    [(0, 20, 1.1, 1, 13, 8, 4), (1, 25, 1.6, 1, 14, 9, 5), (1, 26, 1.7, 1, 15, 9, 6)],
]
# (world, tick, time_hours, kind, click_id, order_id, amount)
EVENTS = [
    [
        (0, 0, 0.2, CLICK, 4, -1, 0.0),
        (0, 0, 0.4, CLICK, 7, -1, 0.0),
        (1, 0, 0.3, CLICK, 4, -1, 0.0),
    ],
    [
        (0, 1, 1.1, CLICK, 20, -1, 0.0),
        (0, 1, 1.5, PURCHASE, 7, 0, 30.0),
        (0, 1, 9.0, PURCHASE, 20, 0, 12.0),  # drained: beyond the horizon
        (0, 1, 9.5, REFUND, 7, 0, 30.0),
        (1, 1, 1.6, CLICK, 25, -1, 0.0),
        (1, 1, 1.7, CLICK, 26, -1, 0.0),
        (1, 1, 1.9, PURCHASE, 25, 0, 5.0),
    ],
]
CLICK_NAMES = ("world", "click_id", "time_hours", "tick", "user", "context", "item")
EVENT_NAMES = ("world", "tick", "time_hours", "kind", "click_id", "order_id", "amount")


def columns(names, rows):
    return {
        name: np.array(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


@pytest.fixture
def log():
    """Two worlds after two ticks."""
    log = EventLog(features_of)
    for clicks, events in zip(CLICKS, EVENTS, strict=True):
        log.record_clicks(**columns(CLICK_NAMES, clicks))
        log.record_events(**columns(EVENT_NAMES, events))
    return log


def batch(click_ids):
    n = len(click_ids)
    zeros = np.zeros(n, dtype=np.int64)
    return EventBatch(
        *(zeros, zeros.astype(float), zeros.astype(np.int8), np.array(click_ids, dtype=np.int64)),
        *(zeros.astype(np.int16), zeros.astype(float)),
    )


@pytest.mark.parametrize(
    ("world", "time_hours", "click_ids"),
    [
        (0, 0.0, []),
        (0, 0.4, [4]),  # strictly before
        (0, 0.41, [4, 7]),
        (0, 1.6, [4, 7, 20, 7]),
        (0, np.inf, [4, 7, 20, 7, 20, 7]),
        (1, 1.8, [4, 25, 26]),
        (2, np.inf, []),
    ],
)
def test_as_of_holds_what_happened_before(log, world, time_hours, click_ids):
    assert log.as_of(time_hours, world).click_id.tolist() == click_ids


def test_as_of_keeps_the_columns_and_their_types(log):
    seen = log.as_of(np.inf)
    assert seen.tick.tolist() == [0, 0, 1, 1, 1, 1]
    assert seen.kind.tolist() == [CLICK, CLICK, CLICK, PURCHASE, PURCHASE, REFUND]
    assert seen.order_id.tolist() == [-1, -1, -1, 0, 0, 0]
    assert seen.amount.tolist() == [0.0, 0.0, 0.0, 30.0, 12.0, 30.0]
    dtypes = [column.dtype for column in seen]
    assert dtypes == [np.int64, np.float64, np.int8, np.int64, np.int16, np.float64]


def test_clicks_have_features_and_ids_in_order(log):
    clicks = log.clicks(1)
    assert clicks.impression_id.tolist() == [4, 25, 26]
    assert clicks.time_hours.tolist() == [0.3, 1.6, 1.7]
    assert clicks.features.tolist() == [[1, 12, 7, 3], [1, 14, 9, 5], [1, 15, 9, 6]]
    assert clicks.scene.tolist() == [1, 0, 0]
    assert clicks.mask.tolist() == [1, 1, 1]


def test_clicks_of_an_empty_log_are_empty():
    clicks = EventLog(features_of).clicks()
    assert clicks.features.shape == (0, 4)
    assert clicks.impression_id.size == 0


def test_attribute_gives_the_tick_of_the_decision(log):
    assert log.attribute(log.as_of(np.inf)).tolist() == [0, 0, 1, 0, 1, 0]
    assert log.attribute(batch([26, 4, 25]), world=1).tolist() == [1, 0, 1]
    assert log.attribute(batch([])).tolist() == []


@pytest.mark.parametrize("unknown", [0, 5, 25, 99])  # 25 is a click of the other world
def test_attribute_of_an_unknown_click_raises(log, unknown):
    with pytest.raises(ValueError, match=f"events: click_id {unknown} was never observed"):
        log.attribute(batch([4, unknown, 7]))


def test_attribute_in_an_empty_log():
    log = EventLog(features_of)
    assert log.attribute(batch([])).size == 0
    with pytest.raises(ValueError, match="click_id 3 was never observed"):
        log.attribute(batch([3]))


@pytest.mark.parametrize(
    ("now", "refund_hours", "amounts"),
    [
        (1.5, 10.0, []),  # the purchase of 1.5 h is not before 1.5 h
        (2.0, 10.0, [30.0]),
        (2.0, 0.5, []),  # bought at 1.5 h: the window of half an hour has just closed
        (10.0, 5.0, [12.0]),
        (10.0, 8.6, [30.0, 12.0]),
        (100.0, 72.0, []),
    ],
)
def test_pending_purchases_have_an_open_refund_window(log, now, refund_hours, amounts):
    pending = log.pending(now, refund_hours)
    assert pending.amount.tolist() == amounts
    assert (pending.kind == PURCHASE).all()


@pytest.mark.parametrize("world", [0, 1])
def test_forget_clears_only_the_given_world(log, world):
    kept = log.as_of(np.inf, 1 - world), log.clicks(1 - world)
    log.forget(np.array([world]), 2)
    assert log.as_of(np.inf, world).tick.size == 0
    assert log.clicks(world).impression_id.size == 0
    for before, after in zip(
        kept, (log.as_of(np.inf, 1 - world), log.clicks(1 - world)), strict=True
    ):
        for ours, theirs in zip(before, after, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_log_may_be_filled_again_after_forgetting(log):
    log.forget(np.array([0, 1]), 2)
    log.record_clicks(**columns(CLICK_NAMES, CLICKS[0]))
    assert log.clicks(0).impression_id.tolist() == [4, 7]
    assert log.attribute(batch([7])).tolist() == [0]


def test_state_round_trip_is_a_copy(log):
    state, other = log.get_state(), EventLog(features_of)
    before = log.as_of(np.inf)
    log.forget(np.array([0, 1]), 2)
    log.record_events(**columns(EVENT_NAMES, EVENTS[1]))
    other.set_state(state)
    for ours, theirs in zip(other.as_of(np.inf), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert other.clicks(1).impression_id.tolist() == [4, 25, 26]
    assert other.attribute(batch([20])).tolist() == [1]


def test_set_state_replaces_what_was_there(log):
    log.set_state(EventLog(features_of).get_state())
    assert log.as_of(np.inf).tick.size == 0
    assert log.clicks().impression_id.size == 0


def test_results_are_not_changed_by_later_records(log):
    seen = log.as_of(np.inf)
    amounts = seen.amount.copy()
    log.record_events(**columns(EVENT_NAMES, EVENTS[1]))
    log.forget(np.array([0]), 2)
    assert (seen.amount == amounts).all()


def test_columns_grow_and_keep_rows():
    table = Columns(a=np.int64, b=np.float64)
    for start in range(0, 1_000, 10):
        part = np.arange(start, start + 10)
        table.append(a=part, b=part / 2)
    assert table.size == 1_000
    assert (table["a"] == np.arange(1_000)).all()
    table.keep(table["a"] % 100 == 7)
    assert table["b"].tolist() == [(100 * n + 7) / 2 for n in range(10)]
    table.append(a=np.array([5]), b=np.array([0.5]))
    assert table["a"][-1] == 5
    assert table.size == 11
