import numpy as np
import pytest
from click_logs import (
    DAY_17,
    WINDOWS,
    A,
    W,
    fates_log,
    make_log,
    random_log,
)

from adsim.clicklog import MISSING
from predictors.delivery import (
    RULES,
    Emit,
    Rule,
    Trajectory,
    Windows,
    check_log,
    deliver,
    final_labels,
    head_labels,
    refund_targets,
    trajectory,
)
from predictors.stream import Split, batches


# --- degenerate cases --------------------------------------------------------------------------
def conversion_columns(rows):
    return [column[rows.conversion_row] for column in rows]


def test_without_refunds_conversion_rows_of_tesla_equal_those_of_es_dfm():
    log = random_log(20_000, seed=7, p_v=0.3, p_r=0.0)
    tesla, es_dfm = (deliver(log, WINDOWS, RULES[method]) for method in ("tesla", "es_dfm"))
    for got, expected in zip(conversion_columns(tesla), es_dfm, strict=True):
        np.testing.assert_array_equal(got, expected)
    assert (tesla.net_label[~tesla.conversion_row] == 1).all()


@pytest.mark.parametrize("method", ["es_dfm", "tesla"])
def test_without_delays_rows_are_the_oracles_a_window_later(method):
    click = np.sort(np.random.default_rng(8).integers(0, 10**6, 2_000))
    conversion = np.where(np.arange(2_000) % 3 == 0, click, MISSING)
    log = make_log(click, conversion, np.where(np.arange(2_000) % 6 == 0, conversion, MISSING))
    oracle = deliver(log, WINDOWS, RULES["oracle"])
    rows = deliver(log, WINDOWS, RULES[method])
    clicks, times, labels = conversion_columns(rows)[:3]
    np.testing.assert_array_equal(clicks, oracle.click)
    np.testing.assert_array_equal(times, oracle.time + W)
    np.testing.assert_array_equal(labels, oracle.pay_label)


@pytest.mark.parametrize("method", ["es_dfm", "tesla"])
def test_observation_as_long_as_attribution_gives_bdl_labels(method):
    windows = Windows(conversion_observation=A, refund_observation=A)
    log = random_log(20_000, seed=9, p_v=0.3, late=0.1)
    bdl, rows = (deliver(log, windows, RULES[name]) for name in ("bdl", method))
    for got, expected in zip(conversion_columns(rows), conversion_columns(bdl), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert not np.isin(trajectory(log, windows), [2, 4, 5, 6]).any()


# --- what the towers read ----------------------------------------------------------------------
# Rows of D_CONVERSION_D_REFUND, in order of time; None: not read.
@pytest.mark.parametrize(
    ("method", "read"),
    [
        ("tesla", [None, None, 0, 1]),
        ("bdl", [None, 1]),
        ("fnc", [None, 0, 1]),
        ("es_dfm", [None, 0, 1]),
        ("ddfm", [None, 0, 1]),
        ("defer", [None, 0, 1]),
        ("oracle", [1]),
        ("dfsn_feature", [None]),
        ("dfsn_unbias", [None, None, None]),
    ],
)
def test_refund_tower_reads_its_rows(method, read):
    rows = deliver(fates_log(), WINDOWS, RULES[method])
    label, mask = refund_targets(rows, RULES[method])
    own = rows.click == Trajectory.D_CONVERSION_D_REFUND
    got = [int(z) if m else None for z, m in zip(label[own], mask[own], strict=True)]
    assert got == read


def test_refund_tower_of_defer_reads_payments_in_window_twice():
    rows = deliver(fates_log(), WINDOWS, RULES["defer"])
    label, mask = refund_targets(rows, RULES["defer"])
    zeros = np.bincount(rows.click[mask & (label == 0)], minlength=7)
    assert zeros.tolist() == [0, 2, 1, 2, 2, 1, 1]


def test_heads_of_miss_see_their_own_windows():
    # Windows 432, 576 and 864 s; the recaptured row of the last click counts for all heads.
    log = make_log([0] * 5, [432, 576, 577, 865, MISSING], [500, *[MISSING] * 4])
    rows = deliver(log, WINDOWS, RULES["miss"])
    at = rows.click + 10 * (rows.time > W) + 20 * ~rows.conversion_row
    heads = dict(zip(at.tolist(), head_labels(rows, WINDOWS).tolist(), strict=True))
    assert heads == {
        0: [1, 1, 1],
        1: [0, 1, 1],
        2: [0, 0, 1],
        3: [0, 0, 0],
        13: [1, 1, 1],
        4: [0, 0, 0],
        20: [0, 0, 0],
    }


# --- split, segments, batches ------------------------------------------------------------------
def test_published_split_has_seventy_segments():
    split = Split()
    assert (split.num_segments, split.segment_seconds) == (70, 8_640)
    split.check_gap(WINDOWS)
    assert Split(segment_days=0.01).num_segments == 700


def test_segments_give_a_boundary_to_the_earlier_one():
    split, start, end = Split(), DAY_17, 24 * 86_400
    times = np.array([start - 1, start, start + 1, start + 8_640, start + 8_641, end, end + 1])
    np.testing.assert_array_equal(split.segments(times), [-1, 0, 0, 0, 1, 69, 70])


def test_segments_closed_on_the_left_give_a_boundary_to_the_later_one():
    split, start, end = Split(closed="left"), DAY_17, 24 * 86_400
    times = np.array([start - 1, start, start + 8_639, start + 8_640, end - 1, end])
    np.testing.assert_array_equal(split.segments(times), [-1, 0, 0, 1, 69, 70])
    assert (split.num_segments, split.last_second(0)) == (70, start + 8_639)
    assert Split().last_second(0) == start + 8_640
    assert split.train_segment(times, 0) == slice(1, 3)
    assert split.test_segment(times, 0) == slice(3, 4)
    assert split.test_segment(times, 69) == slice(5, 6)  # the segment after the last one


@pytest.mark.parametrize("closed", ["right", "left"])
def test_train_segments_hold_every_row_of_the_stream_once(closed):
    split = Split(closed=closed)
    rows = deliver(random_log(50_000, seed=10), WINDOWS, RULES["tesla"])
    segments = split.segments(rows.time)
    for k in range(split.num_segments):
        held = np.arange(rows.time.size)[split.train_segment(rows.time, k)]
        np.testing.assert_array_equal(held, np.flatnonzero(segments == k))
    edges = np.array([DAY_17, DAY_17, DAY_17 + 8_640])
    assert split.train_segment(edges, 0) == slice(0, 3 if closed == "right" else 2)


def test_test_clicks_come_after_the_rows_trained_on():
    split, log = Split(), random_log(50_000, seed=11)
    rows = deliver(log, WINDOWS, RULES["es_dfm"])
    assert split.pretrain(log.click_time).stop == (log.click_time < 10 * 86_400).sum()
    for k in (0, 1, 69):
        test = log.click_time[split.test_segment(log.click_time, k)]
        low, high = DAY_17 + (k + 1) * 8_640, DAY_17 + (k + 2) * 8_640
        assert test.size == ((log.click_time > low) & (log.click_time <= high)).sum() > 0
        assert test.min() > rows.time[split.train_segment(rows.time, k)].max()


def test_an_empty_segment_has_no_rows_and_no_batches():
    split = Split()
    for times in (np.array([], np.int64), np.array([DAY_17 + 1, DAY_17 + 20_000])):
        held = split.train_segment(times, 1)
        assert held.start == held.stop
        assert list(batches(held.stop - held.start, 10)) == []
        assert times[split.test_segment(times, 69)].size == 0


def test_an_empty_log_gives_no_rows():
    for rule in RULES.values():
        assert all(column.size == 0 for column in deliver(make_log([], [], []), WINDOWS, rule))


def test_batches_are_of_nearly_equal_size():
    assert list(batches(7, 3)) == [slice(0, 3), slice(3, 7)]
    assert list(batches(8, 3)) == [slice(0, 2), slice(2, 5), slice(5, 8)]
    assert list(batches(2, 3)) == [slice(0, 2)]  # a segment smaller than a batch
    assert list(batches(1, 256)) == [slice(0, 1)]
    assert list(batches(6, 3)) == [slice(0, 3), slice(3, 6)]


def test_a_short_last_batch_is_dropped_on_request():
    assert list(batches(7, 3, drop_last=True)) == [slice(0, 3), slice(3, 6)]
    assert list(batches(2, 3, drop_last=True)) == []


# --- bad input ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("times", "message"),
    [
        (([0, 5, 4], [MISSING] * 3, [MISSING] * 3), "click_time .* got 4 at click 2"),
        (([-3], [MISSING], [MISSING]), "click_time must be >= 0, got -3 at click 0"),
        (([1, 5], [MISSING, 4], [MISSING] * 2), "conversion_time .* got 4 at click 1"),
        (([1, 5], [MISSING, -2], [MISSING] * 2), "conversion_time .* got -2 at click 1"),
        (([5], [9], [8]), "refund_time .* got 8 at click 0"),
        (([5], [MISSING], [8]), "refund_time .* conversion, or -1, got 8 at click 0"),
        (([5, 6], [MISSING], [MISSING] * 2), "conversion_time must have 2 clicks, got 1"),
    ],
)
def test_deliver_rejects_disordered_times(times, message):
    with pytest.raises(ValueError, match=message):
        deliver(make_log(*times), WINDOWS, RULES["tesla"])


@pytest.mark.parametrize("bad", [-1, 3])
def test_check_log_rejects_ids_outside_their_cardinality(bad):
    log = make_log([0, 1, 2], [MISSING] * 3, [MISSING] * 3)
    log.features[1, 0] = bad
    with pytest.raises(ValueError, match=rf"features\[:, 0\] .*\[0, 3\), got {bad} at click 1"):
        check_log(log)
    with pytest.raises(ValueError, match=r"features must have shape \(C, 2\)"):
        check_log(log._replace(cardinalities=(3, 3)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conversion_attribution", 0),
        ("refund_attribution", -1),
        ("conversion_observation", -1),
        ("refund_observation", A + 1),
        ("conversion_observation", 0.5),
        ("refund_attribution", float("nan")),
    ],
)
def test_windows_out_of_range_are_rejected(field, value):
    with pytest.raises(ValueError, match=rf"{field} must be .* got {value}"):
        final_labels(fates_log(), WINDOWS._replace(**{field: value}))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"pretrain_days": -1.0}, "pretrain_days"),
        ({"pretrain_days": 18.0}, "pretrain_days"),
        ({"segment_days": 0.0}, "segment_days"),
        ({"segment_days": 0.3}, "segment_days"),
        ({"segment_days": 1e-7}, "segment_days"),
        ({"segment_days": float("nan")}, "segment_days"),
        ({"stream_end_day": 17.0}, "segment_days"),
        ({"stream_end_day": float("inf")}, "stream_end_day"),
        ({"closed": "both"}, "closed must be 'right' or 'left', got 'both'"),
    ],
)
def test_split_rejects_values_out_of_range(changes, field):
    with pytest.raises(ValueError, match=field):
        Split(**changes)


def test_split_rejects_unknown_segments_and_a_short_gap():
    for k in (-1, 70):
        with pytest.raises(ValueError, match=rf"segment must be in \[0, 70\), got {k}"):
            Split().train_segment(np.array([1]), k)
        with pytest.raises(ValueError, match="segment must be in"):
            Split().test_segment(np.array([1]), k)
    with pytest.raises(ValueError, match=r"must be >= 6.0, got 5.0"):
        Split(pretrain_days=12).check_gap(WINDOWS)


def test_gaps_are_compared_in_seconds():
    assert 8.2 - 2.2 < 6  # in floating point
    split = Split(pretrain_days=2.2, stream_start_day=8.2, stream_end_day=9.2)
    split.check_gap(WINDOWS)
    longer = WINDOWS._replace(refund_attribution=WINDOWS.refund_attribution + 1)
    with pytest.raises(ValueError, match=r"must be >= 6\.00001\d*, got 6\.0$"):
        split.check_gap(longer)


def test_gaps_may_be_given_in_seconds():
    Split().check_gap(7 * 86_400)
    with pytest.raises(ValueError, match=r"must be >= 8.0, got 7.0"):
        Split().check_gap(8 * 86_400)


def test_batches_reject_an_empty_size():
    with pytest.raises(ValueError, match=r"batch_size must be >= 1 .* got 0"):
        list(batches(5, 0))


def test_a_rule_can_be_written_by_hand():
    rule = Rule((Emit("click", "converters", "all"),), "nothing")
    rows = deliver(fates_log(), WINDOWS, rule)
    assert rows.click.tolist() == [1, 2, 3, 4, 5, 6]


def test_deliver_leaves_its_log_alone():
    log = fates_log()
    copies = [np.copy(column) for column in log]
    deliver(log, WINDOWS, RULES["tesla"])
    for column, copy in zip(log, copies, strict=True):
        np.testing.assert_array_equal(column, copy)
