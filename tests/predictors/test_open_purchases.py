import numpy as np
import pytest
from purchase_logs import DAY, WEEK, listed, make_log, random_log, short_split
from small_worlds import SMALL_WORLD

from adsim.checks import collect_windows
from adsim.types import AuctionResult, EventBatch, EventKind, Impressions, Window
from predictors.open_clicks import HOUR_SECONDS, whole_seconds
from predictors.purchase_rows import OpenPurchases, RowKind, final_gmv, num_purchases
from predictors.purchase_stream import PurchaseStream
from scenarios.build import make_auction_env

PURCHASE, WINDOW_END = RowKind.PURCHASE, RowKind.WINDOW_END


CLICK, PURCHASE_EVENT, REFUND = EventKind


def window(now, *events):
    """What was seen up to `now`: events (second, kind, click[, order[, amount]]), clicks at 0."""
    full = [(*event, *(0, 1.0)[len(event) - 3 :]) for event in events]
    seconds, kinds, clicks, order, amount = np.array(full, np.float64).reshape(-1, 5).T
    batch = EventBatch(
        tick=np.zeros(len(full), np.int64),
        time_hours=seconds / HOUR_SECONDS,
        kind=kinds.astype(np.int8),
        click_id=clicks.astype(np.int64),
        order_id=order.astype(np.int16),
        amount=amount,
    )
    nothing = np.zeros(0, np.bool_)
    result = AuctionResult(nothing, np.zeros(0), nothing, np.zeros(0, np.int8))
    ids = np.unique(batch.click_id)
    return Window(now / HOUR_SECONDS, impressions(ids[:0]), result, impressions(ids), batch)


def impressions(ids):
    """Impressions of second 0, whose one feature is their id."""
    zero, mask = np.zeros(ids.size, np.int32), np.ones(ids.size, np.int8)
    features = ids.astype(np.int32)[:, None]
    return Impressions(ids, np.zeros(ids.size), features, zero, mask)


def test_following_forgets_what_was_before():
    store = OpenPurchases(100, 1)
    store.update(window(9, (5, PURCHASE_EVENT, 0)))
    store.follow(make_log((10, (5, 1.0)), (12, (0, 2.0), (1, 3.0))), 49)
    store.update(window(110))
    assert listed(*store.due()) == [(110, WINDOW_END, 0, 1, 1.0, 0.05)]


def test_empty_windows_let_time_pass():
    store = OpenPurchases(100, 1)
    store.update(window(5))
    assert listed(*store.due()) == []
    store.close()
    store.update(window(10, (7, PURCHASE_EVENT, 3)))
    store.close()
    store.update(window(99))
    assert listed(*store.due()) == []
    store.close()
    store.update(window(100))
    assert listed(*store.due()) == [(100, WINDOW_END, 3, 1, 1.0, 0.07)] == listed(*store.due())
    store.close()
    assert store.click_id.size == 0
    store.update(window(100))
    assert listed(*store.due()) == []


def test_purchases_outside_the_window_are_ignored():
    store = OpenPurchases(100, 1)
    store.update(window(99, (10, PURCHASE_EVENT, 3), (99, PURCHASE_EVENT, 3, 1, 2.0)))
    store.close()
    late = [(100, PURCHASE_EVENT, 3, 2, 4.0), (100, PURCHASE_EVENT, 7), (105, PURCHASE_EVENT, 7, 1)]
    store.update(window(120, *late))
    assert listed(*store.due()) == [(100, WINDOW_END, 3, 2, 3.0, 0.99)]
    store.close()
    store.update(window(300, (130, PURCHASE_EVENT, 3, 3)))
    assert listed(*store.due()) == []


def test_refunds_and_purchases_of_strangers_are_ignored():
    store = OpenPurchases(100, 1)
    store.update(window(20, (10, PURCHASE_EVENT, 3)))
    before = store.get_state()
    events = [(12, REFUND, 3), (13, PURCHASE_EVENT, 2, 1), (14, PURCHASE_EVENT, 9, 1)]
    store.update(window(20, (0, CLICK, 1, -1, 0.0), *events))
    for name, value in store.get_state().items():
        np.testing.assert_array_equal(value, before[name])


def test_a_purchase_in_the_second_that_the_last_window_ended_in_is_not_lost():
    # Ticks of an environment end with whole seconds: 50.3 s is of the next tick, and second 50.
    store = OpenPurchases(100, 1)
    store.update(window(50, (10, PURCHASE_EVENT, 3)))
    store.close()
    store.update(window(60, (50.3, PURCHASE_EVENT, 3, 1)))
    assert listed(*store.due()) == [(50, PURCHASE, 3, 2, 2.0, 0.5)]


def test_windows_that_go_back_in_time_are_rejected():
    store = OpenPurchases(100, 1)
    store.update(window(50, (10, PURCHASE_EVENT, 3)))
    store.close()
    before = store.get_state()
    with pytest.raises(ValueError, match="at or after second 50, ends at 49: for another camp"):
        store.update(window(49, (40, PURCHASE_EVENT, 4)))
    store.update(window(40))  # without events it does nothing
    for name, value in store.get_state().items():
        np.testing.assert_array_equal(value, before[name])


def test_windows_are_left_alone():
    seen = window(50, (10, PURCHASE_EVENT, 3), (20, PURCHASE_EVENT, 3, 1), (30, PURCHASE_EVENT, 5))
    copies = [np.copy(column) for column in (*seen.clicks, *seen.events)]
    store = OpenPurchases(100, 1)
    store.update(seen)
    store.due()
    store.close()
    store.update(window(200, (60, PURCHASE_EVENT, 3, 2)))
    store.close()
    for column, copy in zip((*seen.clicks, *seen.events), copies, strict=True):
        np.testing.assert_array_equal(column, copy)


def test_windows_of_an_environment_bring_the_rows_of_its_events():
    longer = {"campaign.budget": 2_000.0, "time.num_ticks": 20}  # 10 days: windows end, too
    env = make_auction_env(overrides=SMALL_WORLD | longer).unwrapped
    store, rows, bought = OpenPurchases(WEEK, 22), [], {}
    for _, seen in collect_windows(env, seed=1):
        store.update(seen)
        due, features = store.due()
        ids = store.click_id[due.click]
        places = np.searchsorted(seen.clicks.impression_id, ids[due.kind == PURCHASE])
        np.testing.assert_array_equal(features[due.kind == PURCHASE], seen.clicks.features[places])
        rows += zip(
            *(x.tolist() for x in (due.time, due.kind, ids, due.count, due.gmv)), strict=True
        )
        store.close()
        for row in np.flatnonzero(seen.events.kind == EventKind.PURCHASE):
            click, hours = seen.events.click_id[row], seen.events.time_hours[row : row + 1]
            place = np.searchsorted(seen.clicks.impression_id, click)
            since = seen.clicks.time_hours[place : place + 1]
            item = (int(whole_seconds(hours)[0]), float(seen.events.amount[row]))
            bought.setdefault(int(click), [int(whole_seconds(since)[0])]).append(item)
    wanted, now = [], store.now
    for click, (second, *purchases) in bought.items():
        total = 0.0
        for count, (moment, amount) in enumerate(purchases, start=1):
            assert moment < second + WEEK
            if moment <= now:
                total += amount
                wanted.append((moment, PURCHASE, click, count, total))
        if second + WEEK <= now:
            wanted.append((second + WEEK, WINDOW_END, click, count, total))
    assert sorted(rows) == sorted(wanted)
    several = [kind for _, kind, _, count, _ in rows if count > 1]
    assert several.count(PURCHASE) > 10
    assert several.count(WINDOW_END) >= 5


# --- privileged windows ------------------------------------------------------------------------
def test_privileged_windows_tell_final_sums_and_rows_keep_their_time():
    log = random_log(300, 1)
    stream = PurchaseStream(log, short_split(9 * DAY, DAY // 4, 36))
    store = OpenPurchases(WEEK, 1)
    store.follow(stream.history(), stream.start - 1)
    first, final, number = log.purchase_time[log.offset[:-1]], final_gmv(log), num_purchases(log)
    seen = []
    for k in range(36):
        store.update(stream.window(k, privileged=True))
        rows, features = store.due()
        assert (rows.time <= store.now).all()
        new = (rows.kind == PURCHASE) & (rows.count == 1)
        click = features[new, 0]
        totals = store.totals()
        np.testing.assert_array_equal(totals.gmv[rows.click[new]], final[click])
        np.testing.assert_array_equal(totals.number[rows.click[new]], number[click])
        np.testing.assert_array_equal(rows.time[new], first[click])
        seen += click.tolist()
        store.close()
    told = (first >= stream.start) & (first <= stream.split.last_second(35))
    assert sorted(seen) == np.flatnonzero(told).tolist()


# --- state -------------------------------------------------------------------------------------
@pytest.mark.parametrize("privileged", [False, True])
def test_state_survives_a_round_trip_in_mid_stream(privileged):
    stream = PurchaseStream(random_log(300, 2), short_split(9 * DAY, DAY // 4, 36))
    store, other = OpenPurchases(WEEK, 1), OpenPurchases(WEEK, 1)
    store.follow(stream.history(), stream.start - 1)
    count = 0
    for k in range(36):
        seen = stream.window(k, privileged=privileged)
        if k == 10:
            arrays = store.get_state()
            assert all(isinstance(value, np.ndarray) for value in arrays.values())
            other.set_state(arrays)
        for each in (store, other)[: 1 + (k >= 10)]:
            each.update(seen)
        if k == 20:  # between a window and its rows
            other = OpenPurchases(WEEK, 1)
            other.set_state(store.get_state())
        if k >= 10:
            (rows, features), (again, ids) = store.due(), other.due()
            count += rows.time.size
            np.testing.assert_array_equal(features, ids)
            for column, same in zip(rows, again, strict=True):
                assert column.dtype == same.dtype
                np.testing.assert_array_equal(column, same)
            other.close()
        store.close()
    assert count > 300


def test_states_do_not_share_their_arrays():
    store, other = OpenPurchases(100, 1), OpenPurchases(100, 1)
    store.update(window(20, (10, PURCHASE_EVENT, 3)))
    arrays = store.get_state()
    other.set_state(arrays)
    store.close()
    store.update(window(40, (30, PURCHASE_EVENT, 3, 1)))
    store.close()
    for state in (arrays, other.get_state()):
        assert (state["sum_number"].tolist(), state["ahead_time"].tolist()) == ([0], [10])


def test_types_of_rows():
    store = OpenPurchases(100, 1)
    for seen in (window(5), window(20, (10, PURCHASE_EVENT, 3))):
        store.update(seen)
        rows, features = store.due()
        types = [column.dtype for column in rows]
        assert types == [np.int64, np.int64, np.int8, np.int64, np.float64, np.float64]
        assert features.dtype == np.int32
