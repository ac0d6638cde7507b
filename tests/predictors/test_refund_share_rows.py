"""When purchases become rows: the store of those whose refund windows are open."""

import pytest
from refund_logs import make_log, make_window

from adsim.types import EventKind
from predictors.refund_share import PendingPurchases

BOUGHT, BACK = EventKind.PURCHASE, EventKind.REFUND


def listed(store):
    """What is due: (click, first of it, second, amount, refunded)."""
    rows, _ = store.due()
    return list(zip(*(column.tolist() for column in rows), strict=True))


def test_purchase_is_a_row_when_its_refund_window_is_over():
    # Purchases at 1,500 and 1,800, refund window 100 s: due at 1,600 and 1,900.
    store = PendingPurchases(1_000, 100, 1)
    events = [(BOUGHT, 7, 0, 1_500, 20.0), (BOUGHT, 7, 1, 1_800, 30.0)]
    store.update(make_window(1_599, {7: 1_000}, events[:1]))
    assert listed(store) == []
    store.close()
    store.update(make_window(1_600, {}, []))
    assert listed(store) == [(7, True, 1_500, 20.0, False)]
    assert store.due()[1].tolist() == [[7]]
    store.close()
    store.update(make_window(1_899, {7: 1_000}, events[1:]))
    assert listed(store) == []
    store.close()
    store.update(make_window(2_500, {7: 1_000}, [(BACK, 7, 1, 1_899, 30.0)]))
    assert listed(store) == [(7, False, 1_800, 30.0, True)]
    store.close()
    assert store.key.size == 0


@pytest.mark.parametrize(("second", "refunded"), [(1_500, True), (1_599, True), (1_600, False)])
def test_refund_counts_until_its_window_is_over(second, refunded):
    store = PendingPurchases(1_000, 100, 1)
    events = [(BOUGHT, 7, 0, 1_500, 20.0), (BACK, 7, 0, second, 20.0)]
    store.update(make_window(1_700, {7: 1_000}, events))
    assert listed(store) == [(7, True, 1_500, 20.0, refunded)]


def test_strangers_and_late_purchases_are_ignored():
    store = PendingPurchases(500, 100, 1)
    events = [
        (BOUGHT, 3, 0, 1_499, 20.0),
        (BOUGHT, 3, 1, 1_500, 40.0),  # the attribution window is over
        (BACK, 3, 1, 1_510, 40.0),
        (BACK, 2, 0, 1_510, 5.0),  # of a purchase that was never seen
        (BACK, 4, 0, 1_510, 5.0),
    ]
    store.update(make_window(5_000, {2: 900, 3: 1_000, 4: 1_100}, events))
    assert listed(store) == [(3, True, 1_499, 20.0, False)]


def test_a_followed_log_brings_rows_of_pending_purchases_only():
    # Known at 2,000, refund window 500 s: over for the purchase at 1,500, open for those at 1,501
    # (returned at 1,901) and 1,510 (at 1,600). That at 2,200 has not happened yet.
    bought = [[(500, 10.0, 20)], [(401, 20.0, 400), (410, 30.0, 90)], [(300, 40.0, None)]]
    log = make_log([1_000, 1_100, 1_900], bought)
    store = PendingPurchases(1_000, 500, 1)
    store.follow(log, 2_000)
    assert listed(store) == []
    store.update(make_window(2_001, {}, []))
    assert listed(store) == [(1, True, 1_501, 20.0, True)]
    store.close()
    store.update(make_window(2_700, {}, []))
    assert listed(store) == [(1, False, 1_510, 30.0, True)]


def test_refund_of_a_followed_purchase_is_seen_when_it_happens():
    # Purchase at 1,500, refund at 1,700: not known at 1,699.
    log = make_log([1_000], [[(500, 10.0, 200)]])
    for now, known in ((1_699, False), (1_700, True)):
        store = PendingPurchases(1_000, 500, 1)
        store.follow(log, now)
        assert store.refunded.tolist() == [known]
    store.follow(log, 1_699)
    store.update(make_window(2_000, {0: 1_000}, [(BACK, 0, 0, 1_700, 10.0)]))
    assert listed(store) == [(0, True, 1_500, 10.0, True)]


def test_windows_must_go_on_in_time():
    store = PendingPurchases(1_000, 100, 1)
    store.update(make_window(2_000, {}, []))
    store.close()
    store.update(make_window(1_000, {}, []))  # nothing in it
    with pytest.raises(ValueError, match="window must end at or after second 2000, ends at 1000"):
        store.update(make_window(1_000, {1: 900}, [(BOUGHT, 1, 0, 950, 1.0)]))
