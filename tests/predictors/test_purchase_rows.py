import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from purchase_logs import (
    DAY,
    TIMELINE,
    WEEK,
    listed,
    make_log,
    random_log,
    rows_of,
    short_split,
)

from adsim.clicklog import MISSING
from adsim.config import WorldConfig
from adsim.purchaselog import generate_purchases
from predictors.purchase_rows import (
    OpenPurchases,
    RowKind,
    check_purchases,
    final_gmv,
    num_purchases,
    purchases_known_at,
)
from predictors.purchase_stream import READER_SPLIT, PurchaseStream
from predictors.stream import Split

PURCHASE, WINDOW_END = RowKind.PURCHASE, RowKind.WINDOW_END


def taken(stream, window=WEEK, *, follow=True):
    """Rows window by window, from a store fed by a stream."""
    store = OpenPurchases(window, stream.log.features.shape[1])
    if follow:
        store.follow(stream.history(), stream.start - 1)
    parts = []
    for k in range(stream.split.num_segments):
        store.update(stream.window(k))
        parts.append(listed(*store.due()))
        store.close()
    return parts


def expected(stream, window=WEEK):
    """The rows of the whole log in order of (time, kind, id, count), cut in segments."""
    split, rows = stream.split, rows_of(stream.log, window)
    ids = stream.impressions(slice(0, stream.log.click_time.size)).impression_id
    rows.sort(key=lambda row: (*row[:2], ids[row[2]], row[3]))
    segment = split.segments(np.array([time for time, *_ in rows]))
    return [
        [row for row, k in zip(rows, segment.tolist(), strict=True) if k == held]
        for held in range(split.num_segments)
    ]


# --- the worked timeline -----------------------------------------------------------------------
def test_rows_of_the_worked_timeline():
    # Bought after 600 s, 1.5 days and 6 days; the window ends at day 67.25. A click before the
    # stream, whose purchase is known by then, ends its window in segment 0.
    stream = PurchaseStream(make_log((50 * DAY, (0, 5.0)), TIMELINE))
    parts = taken(stream)
    rows = {k: part for k, part in enumerate(parts) if part}
    assert rows == {
        0: [(57 * DAY, WINDOW_END, 0, 1, 5.0, 0.0)],
        26: [(5_206_200, PURCHASE, 1, 1, 80.0, 600 / 604_800)],
        38: [(5_335_200, PURCHASE, 1, 2, 130.0, 129_600 / 604_800)],
        74: [(5_724_000, PURCHASE, 1, 3, 160.0, 518_400 / 604_800)],
        82: [(5_810_400, WINDOW_END, 1, 3, 160.0, 518_400 / 604_800)],
    }
    days = [57 + k * 0.125 for k in (26, 38, 74, 82)]
    assert days == [60.25, 61.75, 66.25, 67.25]
    shares = [rows[k][0][-1] for k in (26, 38, 74)]
    assert shares == pytest.approx([0.000992, 0.214286, 0.857143], abs=5e-7)


def test_the_click_is_scored_before_its_first_purchase_is_trained_on():
    stream = PurchaseStream(make_log((50 * DAY, (0, 5.0)), TIMELINE))
    scored = [k for k in range(199) if stream.test_clicks(k).stop > stream.test_clicks(k).start]
    assert scored == [25]
    assert stream.test_clicks(25) == slice(1, 2)


# --- whole logs --------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def generated():
    config = WorldConfig(
        time={"num_ticks": 20 * 24, "tick_hours": 1.0},
        traffic={"impressions_per_tick": 10.0},
        effects={"click": {"sd": 0.0}},
        conversion={"cvr": 0.5},
    )
    log = generate_purchases(config, 0)
    return log._replace(  # to tell the clicks by their feature
        features=np.arange(log.click_time.size, dtype=np.int32)[:, None],
        cardinalities=(log.click_time.size,),
    )


@pytest.mark.parametrize(("days", "segment"), [(8, 0.125), (9, 1.0)])
def test_rows_of_a_generated_log(generated, days, segment):
    split = Split(
        pretrain_days=2,
        stream_start_day=9,
        stream_end_day=9 + days,
        segment_days=segment,
        closed="left",
    )
    stream = PurchaseStream(generated, split)
    parts = taken(stream)
    assert parts == expected(stream)
    rows = [row for part in parts for row in part]
    start, stop = 9 * DAY, (9 + days) * DAY
    bought = (generated.purchase_time >= start) & (generated.purchase_time < stop)
    end = generated.click_time + WEEK
    assert sum(kind == PURCHASE for _, kind, *_ in rows) == bought.sum() > 1_000
    ended = ((end >= start) & (end < stop)).sum()
    assert sum(kind == WINDOW_END for _, kind, *_ in rows) == ended > 500


def test_a_stream_of_all_time_has_a_row_per_purchase_and_one_per_click(generated):
    # From the first purchase on, to the end of the last window.
    start = int(generated.click_time[0]) + 1
    stream = PurchaseStream(generated, short_split(start, 4_000, 600))
    rows = [row for part in taken(stream) for row in part]
    early = (generated.purchase_time < start).sum()
    assert len(rows) == generated.amount.size + generated.click_time.size - early
    finals = [(row, count, gmv) for _, kind, row, count, gmv, _ in rows if kind == WINDOW_END]
    click, count, gmv = (np.array(column) for column in zip(*finals, strict=True))
    np.testing.assert_array_equal(np.sort(click), np.arange(generated.click_time.size))
    np.testing.assert_array_equal(count, num_purchases(generated)[click])
    np.testing.assert_array_equal(gmv, final_gmv(generated)[click])  # bit for bit


@st.composite
def streams(draw):
    """Logs on few seconds, so that ties abound, with their streams and attribution windows."""
    window = draw(st.integers(1, 40))
    purchases = st.lists(
        st.tuples(st.integers(0, window - 1), st.floats(0.01, 1e6)), min_size=1, max_size=4
    )
    clicks = draw(st.lists(st.tuples(st.integers(0, 90), purchases), max_size=12))
    clicks = [(0, [(0, 1.0)]), *clicks, (90, [(0, 2.0)])]  # before and after any start
    log = make_log(
        *((click, *sorted(bought)) for click, bought in sorted(clicks, key=lambda click: click[0]))
    )
    start, segment = draw(st.integers(1, 90)), draw(st.integers(1, 30))
    closed = draw(st.sampled_from(["left", "right"]))
    split = short_split(start, segment, draw(st.integers(1, 8)), closed)
    return PurchaseStream(log, split, attribution_seconds=window), window


@settings(max_examples=200, deadline=None, derandomize=True)
@given(streams())
def test_rows_of_windows_are_those_of_the_whole_log(case):
    stream, window = case
    assert taken(stream, window) == expected(stream, window)


def test_rows_of_the_same_second():
    # At second 110 clicks 2 and 3 buy, the latter twice; the windows of clicks 0 and 1 end.
    log = make_log(
        *((10, (0, 1.0)), (10, (0, 2.0))),
        *((100, (10, 3.0)), (105, (5, 4.0), (5, 5.0)), (200, (0, 6.0))),
    )
    stream = PurchaseStream(log, short_split(50, 100, 2), attribution_seconds=100)
    assert taken(stream, 100)[0] == [
        (110, PURCHASE, 2, 1, 3.0, 0.1),
        (110, PURCHASE, 3, 1, 4.0, 0.05),
        (110, PURCHASE, 3, 2, 9.0, 0.05),
        (110, WINDOW_END, 0, 1, 1.0, 0.0),
        (110, WINDOW_END, 1, 1, 2.0, 0.0),
    ]


# --- clicks before the stream ------------------------------------------------------------------
GAP = (
    (10, (5, 1.0), (80, 0.5)),  # bought before the stream and in it
    (20, (40, 2.0)),  # only in the stream
    (30, (1, 4.0)),  # only before
    (60, (1, 8.0)),
)


def test_sums_of_clicks_before_the_stream_are_carried_over():
    stream = PurchaseStream(make_log(*GAP), short_split(50, 50, 3), attribution_seconds=100)
    assert taken(stream, 100) == [
        [
            (60, PURCHASE, 1, 1, 2.0, 0.4),
            (61, PURCHASE, 3, 1, 8.0, 0.01),
            (90, PURCHASE, 0, 2, 1.5, 0.8),
        ],
        [
            (110, WINDOW_END, 0, 2, 1.5, 0.8),
            (120, WINDOW_END, 1, 1, 2.0, 0.4),
            (130, WINDOW_END, 2, 1, 4.0, 0.01),
        ],
        [(160, WINDOW_END, 3, 1, 8.0, 0.01)],
    ]


def test_a_store_that_follows_nothing_knows_only_clicks_whose_first_purchase_it_sees():
    stream = PurchaseStream(make_log(*GAP), short_split(50, 50, 3), attribution_seconds=100)
    clicks = [[click for _, _, click, *_ in part] for part in taken(stream, 100, follow=False)]
    assert clicks == [[1, 3], [1], [3]]


def test_histories_are_left_alone():
    log = make_log(*GAP)
    copies = [np.copy(column) for column in log]
    stream = PurchaseStream(log, short_split(50, 50, 3), attribution_seconds=100)
    taken(stream, 100)
    history = stream.history()
    known = [np.copy(column) for column in history]
    store = OpenPurchases(100, 1)
    store.follow(history, 49)
    store.update(stream.window(0))
    store.close()
    for column, copy in zip((*log, *history), copies + known, strict=True):
        np.testing.assert_array_equal(column, copy)


# --- logs --------------------------------------------------------------------------------------
def test_final_figures_of_a_log():
    log = make_log(TIMELINE, (5_300_000, (3, 7.5)))
    assert final_gmv(log).tolist() == [160.0, 7.5]
    assert num_purchases(log).tolist() == [3, 1]


def test_an_empty_log_has_no_figures():
    log = make_log()
    check_purchases(log)
    assert final_gmv(log).size == num_purchases(log).size == 0
    assert purchases_known_at(log, 5).offset.tolist() == [0]


def test_known_log_holds_what_happened_by_then():
    log = make_log(
        *((0, (5, 1.0), (6, 2.0)), (2, (9, 4.0)), (3, (0, 8.0), (3, 16.0))),
        (7, (0, 32.0)),
        refunds=[(0, 1), (3, 5)],
    )
    known = purchases_known_at(log, 6)
    assert known.click_time.tolist() == [0, 3]
    assert known.features[:, 0].tolist() == [0, 2]
    assert known.cardinalities == log.cardinalities
    assert known.offset.tolist() == [0, 2, 4]
    assert known.purchase_time.tolist() == [5, 6, 3, 6]
    assert known.amount.tolist() == [1.0, 2.0, 8.0, 16.0]
    assert known.refund_time.tolist() == [6, MISSING, MISSING, MISSING]
    for truth in (known.gmv_truth, known.p_repurchase, known.net_gmv_truth):  # hidden
        assert truth.shape == (2,)
        assert np.isnan(truth).all()
    check_purchases(known)
    assert purchases_known_at(log, -1).click_time.size == 0


@pytest.mark.parametrize("second", [0, 5 * DAY, 12 * DAY, 40 * DAY])
def test_a_known_log_is_a_log_and_knows_itself(second):
    known = purchases_known_at(random_log(400, 3, refunds=0.3), second)
    check_purchases(known)
    for column, same in zip(known, purchases_known_at(known, second), strict=True):
        np.testing.assert_array_equal(column, same)


GOOD = make_log((5, (0, 1.0), (3, 2.0)), (6, (9, 4.0)), refunds=[(0, 1)])


def changed(field, place, value):
    column = getattr(GOOD, field).copy()
    column[place] = value
    return {field: column}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (changed("click_time", 1, 4), "click_time must be at or after .* got 4 at click 1"),
        (changed("click_time", 0, -1), "click_time must be >= 0, got -1 at click 0"),
        (changed("features", 1, 2), r"features\[:, 0\] must be in \[0, 2\), got 2 at click 1"),
        (changed("offset", 0, 1), "offset must go from 0 to 3, got 1 to 3"),
        (changed("offset", 2, 2), "offset must go from 0 to 3, got 0 to 2"),
        (changed("offset", 1, 3), r"number of .* in \[1, 32767\], got 0 at click 1"),
        (changed("offset", 1, 4), r"number of purchases .* got -1 at click 1"),
        (
            changed("purchase_time", 0, 4),
            r"purchase_time must be in \[0, 100\) s after the click's, got -1 at purchase 0",
        ),
        (changed("purchase_time", 2, 106), r"\[0, 100\) s after the .* got 100 at purchase 2"),
        (changed("purchase_time", 1, 4), r"got -1 at purchase 1"),
        (changed("purchase_time", 0, 9), r"purchase before it, got 8 at purchase 1"),
        (changed("amount", 1, -0.5), "amount must be finite and >= 0, got -0.5 at purchase 1"),
        (changed("amount", 2, np.nan), "amount must be .* got nan at purchase 2"),
        (changed("amount", 2, np.inf), "amount must be .* got inf at purchase 2"),
        (changed("amount", 2, 0.0), "sum of amount must be .*> 0, got 0.0 at click 1"),
        (changed("refund_time", 1, 7), "refund_time must be at or after .* got 7 at purchase 1"),
        ({"amount": np.ones(2)}, "amount must have length 3, got 2"),
        ({"refund_time": np.ones(4)}, "refund_time must have length 3, got 4"),
        ({"offset": np.array([0, 3])}, "offset must have length 3, got 2"),
        ({"features": GOOD.features[:1]}, "features must have length 2, got 1"),
        ({"gmv_truth": np.ones(3)}, "gmv_truth must have length 2, got 3"),
        ({"p_repurchase": np.ones(3)}, "p_repurchase must have length 2, got 3"),
        ({"net_gmv_truth": np.ones(1)}, "net_gmv_truth must have length 2, got 1"),
        ({"cardinalities": (2, 2)}, r"features must have shape \(C, 2\)"),
    ],
)
def test_bad_logs_are_refused(changes, message):
    check_purchases(GOOD, 100)
    with pytest.raises(ValueError, match=message):
        check_purchases(GOOD._replace(**changes), 100)


def test_purchases_may_be_free_if_the_click_pays():
    check_purchases(GOOD._replace(**changed("amount", 0, 0.0)), 100)
    check_purchases(GOOD, 10)
    with pytest.raises(ValueError, match=r"in \[0, 9\) s after the click's, got 9 at purchase 2"):
        check_purchases(GOOD, 9)


def test_more_purchases_than_events_can_number_are_refused():
    log = make_log((0, *[(0, 1.0)] * 32_768))
    with pytest.raises(ValueError, match=r"in \[1, 32767\], got 32768 at click 0"):
        check_purchases(log)


@pytest.mark.parametrize("seconds", [0, -5, 0.5, float("nan")])
def test_attribution_windows_out_of_range_are_refused(seconds):
    with pytest.raises(ValueError, match=f"attribution_seconds must be > 0 and .* got {seconds}"):
        OpenPurchases(seconds, 1)
    with pytest.raises(ValueError, match="attribution_seconds"):
        check_purchases(GOOD, seconds)


def test_the_published_stream_is_199_segments_of_3_hours():
    assert (READER_SPLIT.num_segments, READER_SPLIT.segment_seconds) == (199, 10_800)
    READER_SPLIT.check_gap(WEEK)
    with pytest.raises(ValueError, match=r"must be >= 7\.00001\d*, got 7\.0$"):
        READER_SPLIT.check_gap(WEEK + 1)
