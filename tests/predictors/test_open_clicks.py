from itertools import pairwise

import numpy as np
import pytest
from click_logs import DAY_17, WINDOWS, A, W, make_log, random_log, short_split
from small_worlds import SMALL_WORLD

from adsim.checks import collect_windows
from adsim.clicklog import MISSING
from adsim.types import AuctionResult, EventBatch, EventKind, Impressions, Window
from predictors.delivery import RULES, Windows, deliver
from predictors.open_clicks import HOUR_SECONDS, OpenClicks, whole_seconds
from predictors.stream import LogStream, Split
from scenarios.build import make_auction_env

DAY = 86_400


def impressions(ids):
    """Impressions whose one feature is their id."""
    ids = np.array(ids, np.int64)
    zero, mask = np.zeros(ids.size, np.int32), np.ones(ids.size, np.int8)
    features = ids.astype(np.int32)[:, None]
    return Impressions(ids, np.zeros(ids.size), features, zero, mask)


def window(now, *events, order=0):
    """What was seen up to second `now`: events (second, kind, click)."""
    seconds, kinds, clicks = np.array(events, np.float64).reshape(-1, 3).T
    clicks, bare = clicks.astype(np.int64), kinds == EventKind.CLICK
    batch = EventBatch(
        tick=np.zeros(len(events), np.int64),
        time_hours=seconds / HOUR_SECONDS,
        kind=kinds.astype(np.int8),
        click_id=clicks,
        order_id=np.where(bare, -1, order).astype(np.int16),
        amount=np.zeros(len(events)),
    )
    nothing = np.zeros(0, np.bool_)
    result = AuctionResult(nothing, np.zeros(0), nothing, np.zeros(0, np.int8))
    clicks = impressions(np.unique(clicks))
    return Window(now / HOUR_SECONDS, impressions([]), result, clicks, batch)


CLICK, PURCHASE, REFUND = EventKind.CLICK, EventKind.PURCHASE, EventKind.REFUND


def taken(log, split, rule, *, follow=True, privileged=False, on_window=lambda state: None):
    """Rows (time, click, ...) window by window, from `OpenClicks` fed by a stream of the log."""
    stream = LogStream(log, split)
    state = OpenClicks(WINDOWS, log.features.shape[1])
    if follow:
        state.follow(stream.history(), stream.start - 1)
    parts = []
    for k in range(split.num_segments):
        state.update(stream.window(k, privileged=privileged))
        rows, features = state.due(rule)
        parts.append((rows, features))
        state.close()
        on_window(state)
    return parts


def expected_rows(log, split, rule):
    """The rows of the whole log, cut by the same moments."""
    rows = deliver(log, WINDOWS, rule)
    for k in range(split.num_segments):
        part = split.train_segment(rows.time, k)
        yield type(rows)(*(column[part] for column in rows)), log.features[rows.click[part]]


@pytest.mark.parametrize("name", sorted(RULES))
@pytest.mark.parametrize(("segment", "days"), [(0.01, 0.5), (0.1, 4), (1.0, 5)])
def test_rows_of_windows_are_those_of_the_whole_log(name, segment, days):
    split, rule = short_split(days, segment), RULES[name]
    for seed in range(3):
        log = random_log(
            3_000, seed, p_v=0.5, p_r=0.5, span=(8 + days) * DAY, late=0.1 * (seed > 0)
        )
        parts = taken(log, split, rule, privileged=rule.privileged)
        count = 0
        for (rows, features), (due, ids) in zip(
            parts, expected_rows(log, split, rule), strict=True
        ):
            for name_, got, want in zip(rows._fields, rows, due, strict=True):
                if name_ != "click":  # its place among the open clicks, not in the log
                    np.testing.assert_array_equal(got, want)
            np.testing.assert_array_equal(features, ids)  # the feature is the click's number
            count += rows.time.size
        assert (count > 0) == (name != "pre_trained")


def test_rows_of_few_seconds_keep_their_order():
    # Many rows of the same second: by the rule's order, then by click.
    split = short_split(1, 0.1)
    rng = np.random.default_rng(0)
    click = np.sort(7 * DAY + 100 * rng.integers(0, 40, 600))
    conversion = np.where(rng.random(600) < 0.6, click + 100 * rng.integers(0, 30, 600), MISSING)
    refund = np.where(
        (conversion != MISSING) & (rng.random(600) < 0.5),
        conversion + 100 * rng.integers(0, 30, 600),
        MISSING,
    )
    log = make_log(  # and a click before the stream
        np.r_[6 * DAY, click], np.r_[MISSING, conversion], np.r_[MISSING, refund]
    )
    for name in sorted(RULES):
        parts = taken(log, split, RULES[name], privileged=RULES[name].privileged)
        for (rows, features), (due, ids) in zip(
            parts, expected_rows(log, split, RULES[name]), strict=True
        ):
            np.testing.assert_array_equal(rows.time, due.time)
            np.testing.assert_array_equal(rows.delay, due.delay)
            np.testing.assert_array_equal(features, ids)


def test_clicks_open_at_the_start_bring_rows_only_if_followed():
    rule, split = RULES["es_dfm"], short_split(2, 1.0)
    start = split.start_second
    # Two clicks before the stream: conversions before and in it, the first with a refund in it.
    log = make_log(
        [start - 5_000, start - 2_000, start + 10],
        [start - 4_500, start + 300, MISSING],
        [start + 100, MISSING, MISSING],
    )
    followed = taken(log, split, rule)
    assert [features[:, 0].tolist() for _, features in followed] == [[0, 1, 2], []]
    assert followed[0][0].time.tolist() == [start + 100, start + 300, start + 10 + W]
    assert followed[0][0].delay.tolist() == [4_600, 2_300, MISSING]
    afresh = taken(log, split, rule, follow=False)
    assert [features[:, 0].tolist() for _, features in afresh] == [[2], []]


def test_the_first_second_of_the_stream_belongs_to_it():
    start = DAY_17
    log = make_log([start - W - 1, start - W, start + 1], [MISSING] * 3, [MISSING] * 3)
    rows, _ = taken(log, Split(), RULES["es_dfm"])[0]
    assert rows.time.tolist() == [start, start + 1 + W]


@pytest.mark.parametrize("name", ["es_dfm", "tesla", "defer", "fnc"])
def test_windows_of_an_environment_bring_the_rows_of_its_events(name):
    env = make_auction_env(overrides=SMALL_WORLD | {"campaign.budget": 2_000.0}).unwrapped
    windows = [window for _, window in collect_windows(env, seed=1)]
    state, parts = OpenClicks(WINDOWS, 22), []
    for seen in windows:
        state.update(seen)
        parts.append(state.due(RULES[name]))
        state.close()
    times, features = {}, {}
    for seen in windows:
        events = seen.events
        features |= dict(zip(seen.clicks.impression_id, seen.clicks.features, strict=True))
        for row in np.flatnonzero(events.order_id <= 0):
            moments = times.setdefault(events.click_id[row], [MISSING] * 3)
            moments[events.kind[row]] = int(whole_seconds(events.time_hours[row : row + 1])[0])
    ids = sorted(times)
    log = make_log(*np.array([times[i] for i in ids]).T)
    rows = deliver(log, WINDOWS, RULES[name])
    due = rows.time <= windows[-1].now_hours * HOUR_SECONDS
    assert (due & (rows.pay_label == 1) & rows.conversion_row).sum() > 10
    for field in rows._fields[1:]:
        got = np.concatenate([getattr(part, field) for part, _ in parts])
        np.testing.assert_array_equal(got, getattr(rows, field)[due])
    expected = np.array([features[ids[click]] for click in rows.click[due]])
    np.testing.assert_array_equal(np.concatenate([ids for _, ids in parts]), expected)


# --- what is kept ------------------------------------------------------------------------------
def test_retired_clicks_are_dropped():
    open_now = []
    log = random_log(3_000, 5, p_v=0.3, p_r=0.5, span=20 * DAY, late=0.1)
    split = short_split(10, 1.0)
    rule = RULES["pre_trained"]
    taken(log, split, rule, on_window=lambda state: open_now.append(state.click_id.copy()))
    attributed = (log.conversion_time != MISSING) & (log.conversion_time - log.click_time < A)
    for k, ids in enumerate(open_now):
        now = split.start_second + (k + 1) * split.segment_seconds
        seen = np.flatnonzero(log.click_time <= now)
        paid = attributed[seen] & (log.conversion_time[seen] <= now)
        last = np.where(paid, log.conversion_time[seen], 0) + A
        last = np.maximum(last, log.click_time[seen] + A)
        needed = seen[last > now]
        assert np.isin(needed, ids).all()
        assert ids.size <= needed.size + 60  # and some whose conversion came too late
        assert (np.diff(ids) > 0).all()


def test_late_events_bring_no_rows():
    state = OpenClicks(WINDOWS, 1)
    state.update(window(1_000, (0, CLICK, 3)))
    state.close()
    state.update(window(A - 1))
    state.close()
    assert state.click_id.tolist() == [3]
    state.update(window(A + 10, (A, PURCHASE, 3)))  # one second too late, still open
    rows, _ = state.due(RULES["es_dfm"])
    assert rows.time.size == 0
    rows, _ = state.due(RULES["ddfm"])
    assert (rows.time.tolist(), rows.pay_label.tolist()) == ([A], [0])
    state.close()
    state.update(window(A + 20, (A + 11, REFUND, 3)))
    assert state.due(RULES["tesla"])[0].time.size == 0


def test_unknown_and_retired_clicks_are_ignored():
    state = OpenClicks(WINDOWS, 1)
    state.update(window(500, (100, PURCHASE, 7)))  # no click at all so far
    assert state.click_id.size == 0
    state.close()
    state.update(window(1_000, (600, CLICK, 10), (700, CLICK, 12)))
    state.close()
    before = state.get_state()
    for stranger in (9, 11, 13):
        state.update(window(1_000, (800, PURCHASE, stranger), (900, REFUND, stranger)))
    for name, value in state.get_state().items():
        np.testing.assert_array_equal(value, before[name])
    state.update(window(A + 700))  # the last second of click 12
    assert state.due(RULES["bdl"])[0].time.tolist() == [A + 600, A + 700]
    state.close()
    assert state.click_id.size == 0
    state.update(window(A + 900, (A + 800, PURCHASE, 10)))
    for rule in RULES.values():
        assert state.due(rule)[0].time.size == 0


def test_only_first_purchases_and_their_refunds_count():
    state = OpenClicks(WINDOWS, 1)
    state.update(window(500, (100, CLICK, 0)))
    state.update(window(600, (550, PURCHASE, 0), (560, REFUND, 0), order=1))
    assert state.times[:, 0].tolist() == [100, MISSING, MISSING]
    state.update(window(700, (650, PURCHASE, 0), (660, REFUND, 0)))
    assert state.times[:, 0].tolist() == [100, 650, 660]


def test_an_event_in_the_second_in_which_the_window_before_ended_is_not_missed():
    # Windows of an environment end at a moment; in whole seconds the next begins in the same one.
    end = 100 + W
    state = OpenClicks(WINDOWS, 1)
    state.update(window(end, (100, CLICK, 0)))
    rows, _ = state.due(RULES["es_dfm"])
    assert (rows.time.tolist(), rows.pay_label.tolist()) == ([end], [0])
    state.close()
    # .4 s after the end: a purchase, delivered as late, and a click that converts at once.
    second = end + 0.4
    events = ((second, CLICK, 1), (second, PURCHASE, 0), (second, PURCHASE, 1))
    state.update(window(end + 10, *events))
    rows, features = state.due(RULES["es_dfm"])
    assert (rows.time.tolist(), rows.pay_label.tolist()) == ([end + 1], [1])
    assert (rows.delay.tolist(), features[:, 0].tolist()) == ([W + 1], [0])
    rows, _ = state.due(RULES["fnc"])
    assert rows.time.tolist() == [end + 1] * 3  # one click, two conversions
    assert rows.pay_label.tolist() == [0, 1, 1]
    state.close()
    assert state.due(RULES["fnc"])[0].time.size == 0  # and not once more
    state.update(window(end + 20, (end + 10.5, REFUND, 0)))
    rows, _ = state.due(RULES["tesla"])
    assert (rows.time.tolist(), rows.net_label.tolist()) == ([end + 11], [0])


@pytest.mark.parametrize("name", ["es_dfm", "fnc", "tesla", "ddfm"])
def test_no_event_is_missed_wherever_windows_end(name):
    rng = np.random.default_rng(0)
    clicks = np.sort(rng.uniform(0, 500, 300))  # many in one second with the end of a window
    conversions = clicks + rng.exponential(W / 2, 300)
    refunds = conversions + rng.exponential(20, 300)
    state, positive, refunded = OpenClicks(WINDOWS, 1), 0, 0
    moments = np.concatenate([clicks, conversions, refunds])
    kinds = np.repeat([CLICK, PURCHASE, REFUND], 300)
    ends = np.arange(0, 20_000, 7.0)
    for before, end in pairwise(ends):
        part = np.flatnonzero((moments >= before) & (moments < end))
        part = part[np.argsort(moments[part], kind="stable")]
        state.update(window(end, *((moments[i], kinds[i], i % 300) for i in part)))
        rows, _ = state.due(RULES[name])
        positive += int((rows.conversion_row & (rows.pay_label == 1)).sum())
        refunded += int((~rows.conversion_row & (rows.net_label == 0)).sum())
        state.close()
    assert (positive, refunded) == (300, 300)


def test_empty_windows_let_time_pass():
    state = OpenClicks(WINDOWS, 1)
    state.update(window(50))
    assert state.due(RULES["tesla"])[0].time.size == 0
    state.close()
    state.update(window(100, (60, CLICK, 0)))
    state.close()
    state.update(window(60 + W - 1))
    assert state.due(RULES["tesla"])[0].time.size == 0
    state.close()
    state.update(window(60 + W))
    assert state.due(RULES["tesla"])[0].time.tolist() == [60 + W]
    state.close()
    state.update(window(60 + W))  # no time has passed: nothing is due twice
    assert state.due(RULES["tesla"])[0].time.size == 0


def test_windows_that_go_back_in_time_are_rejected():
    state = OpenClicks(WINDOWS, 1)
    state.update(window(500, (100, CLICK, 0)))
    state.close()
    before = state.get_state()
    with pytest.raises(ValueError, match="at or after second 500, ends at 499: for another camp"):
        state.update(window(499, (400, CLICK, 1), (450, PURCHASE, 0)))
    for name, value in state.get_state().items():
        np.testing.assert_array_equal(value, before[name])


def test_windows_are_left_alone():
    state = OpenClicks(WINDOWS, 1)
    seen = window(100, (60, CLICK, 0), (70, PURCHASE, 0))
    copies = [np.copy(column) for column in (*seen.clicks, *seen.events)]
    state.update(seen)
    state.update(window(200, (150, REFUND, 0)))
    for column, copy in zip((*seen.clicks, *seen.events), copies, strict=True):
        np.testing.assert_array_equal(column, copy)


def test_state_survives_a_round_trip():
    log, split, rule = random_log(2_000, 6, p_v=0.5, span=9 * DAY), short_split(1, 0.1), "tesla"
    stream, parts = LogStream(log, split), []
    state, other = OpenClicks(WINDOWS, 1), OpenClicks(WINDOWS, 1)
    state.follow(stream.history(), stream.start - 1)
    for k in range(split.num_segments):
        if k == 5:
            arrays = state.get_state()
            assert all(isinstance(value, np.ndarray) for value in arrays.values())
            other.set_state(arrays)
        for each in (state, other)[: 1 + (k >= 5)]:
            each.update(stream.window(k))
            parts.append(each.due(RULES[rule]))
            each.close()
    for (rows, features), (again, ids) in zip(parts[5::2], parts[6::2], strict=True):
        np.testing.assert_array_equal(features, ids)
        for column, same in zip(rows, again, strict=True):
            np.testing.assert_array_equal(column, same)


def test_states_do_not_share_their_arrays():
    state, other = OpenClicks(WINDOWS, 1), OpenClicks(WINDOWS, 1)
    state.update(window(100, (60, CLICK, 0)))
    arrays = state.get_state()
    other.set_state(arrays)
    state.update(window(200, (150, PURCHASE, 0)))
    assert other.times[:, 0].tolist() == [60, MISSING, MISSING]
    assert arrays["times"][:, 0].tolist() == [60, MISSING, MISSING]


def test_whole_seconds_survive_their_way_through_hours():
    seconds = np.r_[np.arange(200_000), 10**9 + np.arange(100_000)]
    np.testing.assert_array_equal(whole_seconds(seconds / HOUR_SECONDS), seconds)
    assert whole_seconds(np.array([0.9999])).tolist() == [3_599]


def test_windows_of_other_lengths_are_respected():
    windows = Windows(1_000, 500, 100, 50)
    state = OpenClicks(windows, 1)
    state.update(window(150, (0, CLICK, 0), (120, PURCHASE, 0)))
    rows, _ = state.due(RULES["tesla"])
    assert (rows.time.tolist(), rows.pay_label.tolist()) == ([100, 120], [0, 1])
    state.close()
    state.update(window(999))
    assert state.due(RULES["tesla"])[0].time.tolist() == [170]
    state.close()
    assert state.click_id.tolist() == [0]
    state.update(window(1_000))
    state.close()
    assert state.click_id.size == 0
