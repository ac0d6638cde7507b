import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purchase_logs import DAY, WEEK, make_log, random_log, short_split

from adsim.clicklog import MISSING
from adsim.types import Estimate, EventKind, Target
from predictors.open_clicks import HOUR_SECONDS, whole_seconds
from predictors.purchase_rows import final_gmv, num_purchases, purchases_known_at
from predictors.purchase_stream import PurchaseStream, run_gmv_stream

CLICK, PURCHASE, REFUND = EventKind


def events(window):
    """(second, kind, click, order, amount) of each event."""
    seen = window.events
    columns = (seen.kind, seen.click_id, seen.order_id, seen.amount)
    columns = (whole_seconds(seen.time_hours), *columns)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def leaves(record):
    """All arrays and numbers of a window."""
    if isinstance(record, tuple):
        return [leaf for part in record for leaf in leaves(part)]
    return [np.asarray(record)]


def assert_same(window, other):
    for one, two in zip(leaves(window), leaves(other), strict=True):
        assert one.dtype == two.dtype
        assert one.tobytes() == two.tobytes()
        assert one.shape == two.shape


# Segments [50, 100) and [100, 150). Click 0 buys only in the stream, click 1 before it and in it.
LOG = make_log(
    *((10, (60, 1.0)), (20, (5, 2.0), (80, 4.0))),
    *((50, (0, 8.0)), (99, (0, 16.0), (1, 32.0)), (100, (20, 64.0)), (149, (1, 128.0))),
    refunds=[(1, 10), (3, 51)],
)
SPLIT = short_split(50, 50, 2)


def test_windows_hold_the_clicks_and_events_of_their_segment():
    stream = PurchaseStream(LOG, SPLIT)
    first, second = stream.window(0), stream.window(1)
    # Click 1 has bought before the stream: it is number 0 of what is known then.
    assert events(first) == [
        (50, CLICK, 2, -1, 0.0),
        (50, PURCHASE, 2, 0, 8.0),
        (70, PURCHASE, 1, 0, 1.0),
        (99, CLICK, 3, -1, 0.0),
        (99, PURCHASE, 3, 0, 16.0),
    ]
    assert events(second) == [
        (100, CLICK, 4, -1, 0.0),
        (100, PURCHASE, 0, 1, 4.0),
        (100, PURCHASE, 3, 1, 32.0),
        (101, REFUND, 2, 0, 8.0),
        (120, PURCHASE, 4, 0, 64.0),
        (149, CLICK, 5, -1, 0.0),
    ]
    assert first.impressions.impression_id.tolist() == [2, 3]
    assert first.result.clicked.tolist() == [True, True]
    assert first.clicks.impression_id.tolist() == [1, 2, 3]
    assert first.clicks.features[:, 0].tolist() == [0, 2, 3]
    assert whole_seconds(first.clicks.time_hours).tolist() == [10, 50, 99]
    assert second.clicks.impression_id.tolist() == [0, 2, 3, 4, 5]
    assert second.clicks.features[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert [window.now_hours for window in (first, second)] == [99 / 3_600, 149 / 3_600]
    assert second.events.tick.tolist() == [1] * 6
    assert stream.test_clicks(0) == slice(4, 6)
    assert stream.test_clicks(1) == slice(6, 6)
    assert stream.impressions(slice(4, 6)).impression_id.tolist() == [4, 5]


def test_privileged_windows_tell_all_of_clicks_with_their_first_purchase():
    first, second = (PurchaseStream(LOG, SPLIT).window(k, privileged=True) for k in range(2))
    assert events(first) == [
        (10, CLICK, 1, -1, 0.0),
        (50, CLICK, 2, -1, 0.0),
        (50, PURCHASE, 2, 0, 8.0),
        (70, PURCHASE, 1, 0, 1.0),
        (99, CLICK, 3, -1, 0.0),
        (99, PURCHASE, 3, 0, 16.0),
        (100, PURCHASE, 3, 1, 32.0),  # in the future, as is the refund
        (101, REFUND, 2, 0, 8.0),
    ]
    assert events(second) == [(100, CLICK, 4, -1, 0.0), (120, PURCHASE, 4, 0, 64.0)]
    assert first.impressions.impression_id.tolist() == [2, 3]
    assert first.clicks.features[:, 0].tolist() == [0, 2, 3]


def test_history_is_what_is_known_when_the_stream_starts():
    history = PurchaseStream(LOG, SPLIT).history()
    assert history.click_time.tolist() == [20]
    assert history.purchase_time.tolist() == [25]
    assert history.refund_time.tolist() == [35]
    for column, same in zip(history, purchases_known_at(LOG, 49), strict=True):
        np.testing.assert_array_equal(column, same)


def test_ids_are_rows_of_the_history_and_then_of_the_log():
    log = random_log(500, 1)
    stream = PurchaseStream(log, short_split(9 * DAY, DAY, 10))
    history = stream.history()
    size, before = history.click_time.size, int((log.click_time < stream.start).sum())
    assert 0 < size < before
    seen = {}
    for k in range(10):
        clicks = stream.window(k).clicks
        assert (np.diff(clicks.impression_id) > 0).all()
        seen |= dict(
            zip(clicks.impression_id.tolist(), clicks.features[:, 0].tolist(), strict=True)
        )
    for number, row in seen.items():  # the feature of a click is its row of the log
        if number < size:
            assert row == history.features[number, 0]
        elif number < before:
            assert row not in history.features
        else:
            assert row == number
    assert len(set(seen.values())) == len(seen) > 300
    every = stream.impressions(slice(0, log.click_time.size)).impression_id
    assert sorted(every.tolist()) == list(range(log.click_time.size))


def test_windows_hold_every_event_of_the_stream_once_and_in_order():
    log = random_log(600, 2, refunds=0.3)
    for column in (log.click_time, log.purchase_time, log.refund_time):  # to whole hours: ties
        column[:] = np.maximum(column // 3_600 * 3_600, MISSING)
    stream = PurchaseStream(log, short_split(9 * DAY, DAY // 8, 60), attribution_seconds=2 * WEEK)
    found = [event for k in range(60) for event in events(stream.window(k))]
    assert found == sorted(found)
    stop = stream.split.last_second(59)
    refunded = log.refund_time[log.refund_time != MISSING]
    for kind, moments in enumerate((log.click_time, log.purchase_time, refunded)):
        inside = (moments >= stream.start) & (moments <= stop)
        assert sum(event[1] == kind for event in found) == inside.sum() > 50


def test_playing_leaves_the_log_alone_and_repeats_itself():
    copies = [np.copy(column) for column in LOG]
    stream, again = PurchaseStream(LOG, SPLIT), PurchaseStream(LOG, SPLIT)
    for k in (1, 0, 1):
        for privileged in (False, True):
            window = stream.window(k, privileged=privileged)
            assert_same(window, again.window(k, privileged=privileged))
    for column, copy in zip(LOG, copies, strict=True):
        np.testing.assert_array_equal(column, copy)


def test_segments_without_events_give_empty_windows():
    log = make_log((10, (0, 1.0)), (900, (0, 1.0)))
    window = PurchaseStream(log, short_split(50, 50, 3)).window(1)
    assert window.now_hours == 149 / HOUR_SECONDS
    assert window.events.kind.size == window.clicks.impression_id.size == 0
    assert window.impressions.features.shape == (0, 1)


# --- causality ---------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 5),
    second=st.integers(9 * DAY, 19 * DAY),
    other=st.integers(0, 1_000),
)
def test_windows_that_end_before_a_change_are_the_same_bit_for_bit(seed, second, other):
    log = random_log(200, seed, refunds=0.3)
    changed = altered(log, second, other)
    split = short_split(9 * DAY, DAY // 4, 40)
    one, two = PurchaseStream(log, split), PurchaseStream(changed, split)
    for column, same in zip(one.history(), two.history(), strict=True):
        np.testing.assert_array_equal(column, same)
    for k in range(split.num_segments):
        if split.last_second(k) < second:
            assert_same(one.window(k), two.window(k))


def altered(log, second, seed):
    """Another future: clicks, purchases and refunds from a second on come anew, or never."""
    rng = np.random.default_rng(seed)
    known, clicks, refunds = log.click_time < second, [], []
    click_time = log.click_time.copy()
    click_time[~known] = np.sort(rng.integers(second, second + 5 * DAY, (~known).sum()))
    for row, click in enumerate(click_time.tolist()):
        held = np.arange(*log.offset[row : row + 2])
        held = held[log.purchase_time[held] < second] if known[row] else held[:0]
        number = sum(len(purchases) for _, *purchases in clicks)
        back = log.refund_time[held]
        for place, (moment, bought) in enumerate(zip(back, log.purchase_time[held], strict=True)):
            if moment != MISSING and moment < second:
                refunds.append((number + place, moment - bought))
            elif rng.random() < 0.3:
                refunds.append((number + place, second + rng.integers(DAY) - bought))
        low, end = max(click, second), click + WEEK
        more = rng.integers(held.size == 0, 4) if low < end else 0
        later = np.sort(rng.integers(low, end, more)) if more else held[:0]
        delays = np.concatenate([log.purchase_time[held], later]) - click
        amount = np.concatenate([log.amount[held], rng.lognormal(4, 1, later.size)])
        clicks.append((click, *zip(delays.tolist(), amount.tolist(), strict=True)))
    features = log.features.copy()
    features[~known] = rng.integers(0, log.cardinalities[0], (int((~known).sum()), 1))
    return make_log(*clicks, refunds=refunds)._replace(features=features)


def test_altered_logs_differ_from_the_change_on():
    log = random_log(200, 0, refunds=0.3)
    split = short_split(9 * DAY, DAY // 4, 40)
    one, two = (PurchaseStream(each, split) for each in (log, altered(log, 12 * DAY, 1)))
    differs = [events(one.window(k)) != events(two.window(k)) for k in range(40)]
    assert differs == [k >= 12 for k in range(40)]


# --- bad logs ----------------------------------------------------------------------------------
def test_a_stream_needs_clicks_on_both_sides_of_its_start():
    for clicks in ([], [(5, (0, 1.0))], [(50, (0, 1.0))], [(55, (0, 1.0))]):
        with pytest.raises(ValueError, match="log must have clicks before and after second 50"):
            PurchaseStream(make_log(*clicks), SPLIT)


def test_a_stream_rejects_bad_logs():
    late = make_log((5, (WEEK, 1.0)), (60, (0, 1.0)))
    with pytest.raises(ValueError, match=r"in \[0, 604800\) s after .* got 604800 at purchase 0"):
        PurchaseStream(late, SPLIT)
    PurchaseStream(late, SPLIT, attribution_seconds=WEEK + 1)


# --- a run -------------------------------------------------------------------------------------
class Notes:
    """Estimates GMV by the click's feature and the windows seen so far; notes what it is given."""

    targets = frozenset({Target.GMV})

    def __init__(self, privileged=False):
        self.privileged, self.windows, self.asked = privileged, [], []

    def predict(self, impressions):
        self.asked.append(impressions)
        mean = impressions.features[:, 0] + 100.0 * len(self.windows)
        return {Target.GMV: Estimate(mean, np.zeros(mean.size))}

    def partial_fit(self, window):
        self.windows.append(window)
        return self


@pytest.mark.parametrize("privileged", [False, True])
def test_a_run_trains_on_a_segment_and_then_scores_the_next(privileged):
    log, split = random_log(400, 3), short_split(9 * DAY, DAY // 2, 20)
    stream, predictor, done = PurchaseStream(log, split), Notes(privileged), []
    result = run_gmv_stream(predictor, stream, done.append)
    assert done == list(range(20))
    for k, window in enumerate(predictor.windows):
        assert_same(window, stream.window(k, privileged=privileged))
        assert_same(predictor.asked[k], stream.impressions(stream.test_clicks(k)))
    segment = split.segments(log.click_time)
    scored = np.flatnonzero((segment >= 1) & (segment <= 20))
    np.testing.assert_array_equal(result.click, scored)
    np.testing.assert_array_equal(result.segment, segment[scored] - 1)
    np.testing.assert_array_equal(result.gmv, scored + 100.0 * (result.segment + 1))
    np.testing.assert_array_equal(result.label, final_gmv(log)[scored])
    np.testing.assert_array_equal(result.purchases, num_purchases(log)[scored])
    assert result.seconds.shape == (20, 2)
    assert (result.seconds >= 0).all()


def test_a_run_may_score_no_click():
    log = make_log((10, (0, 1.0)), (60, (0, 1.0)))
    result = run_gmv_stream(Notes(), PurchaseStream(log, SPLIT))
    assert result.click.size == result.gmv.size == result.label.size == 0
    assert result.seconds.shape == (2, 2)
