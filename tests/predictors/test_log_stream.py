"""A click log played back: what is in its windows, and which logs it takes."""

import numpy as np
import pytest
from click_logs import make_log, random_log, short_split

from adsim.clicklog import MISSING
from adsim.types import EventKind
from predictors.open_clicks import HOUR_SECONDS, whole_seconds
from predictors.stream import LogStream

DAY = 86_400
CLICK, PURCHASE, REFUND = EventKind.CLICK, EventKind.PURCHASE, EventKind.REFUND


def test_windows_hold_the_clicks_and_events_of_their_segment():
    split = short_split(1, 0.5)
    start, half = split.start_second, DAY // 2
    log = make_log(
        [start - 10, start, start + half, start + half + 1, start + 2 * DAY],
        [start + half, start + half + 1, MISSING, MISSING, MISSING],
        [start + half + 2, MISSING, MISSING, MISSING, MISSING],
    )
    stream = LogStream(log, split)
    first, second = stream.window(0), stream.window(1)
    assert first.impressions.impression_id.tolist() == [1, 2]
    assert first.result.clicked.all()
    assert first.clicks.impression_id.tolist() == [0, 1, 2]
    assert first.clicks.features[:, 0].tolist() == [0, 1, 2]
    assert first.events.kind.tolist() == [CLICK, CLICK, PURCHASE]
    assert first.events.click_id.tolist() == [1, 2, 0]
    assert first.now_hours == (start + half) / HOUR_SECONDS
    assert second.impressions.impression_id.tolist() == [3]
    assert second.events.kind.tolist() == [CLICK, PURCHASE, REFUND]
    assert second.events.order_id.tolist() == [-1, 0, 0]
    assert second.clicks.impression_id.tolist() == [0, 1, 3]
    assert stream.test_clicks(0) == slice(3, 4)
    assert stream.test_clicks(1) == slice(4, 4)


def test_privileged_windows_hold_the_future_of_their_clicks_and_others_do_not():
    split, log = short_split(2, 0.5), random_log(4_000, 8, p_v=0.5, span=10 * DAY)
    stream = LogStream(log, split)
    for k in range(split.num_segments):
        now = split.start_second + (k + 1) * split.segment_seconds
        plain, told = stream.window(k), stream.window(k, privileged=True)
        assert (whole_seconds(plain.events.time_hours) <= now).all()
        assert (whole_seconds(told.events.time_hours) > now).any()
        clicks = stream.split.train_segment(log.click_time, k)
        ids = np.arange(clicks.start, clicks.stop)
        np.testing.assert_array_equal(told.impressions.impression_id, ids)
        assert np.isin(told.events.click_id, ids).all()
        paid = told.events.click_id[told.events.kind == PURCHASE]
        assert sorted(paid) == ids[log.conversion_time[ids] != MISSING].tolist()


def test_a_stream_needs_clicks_on_both_sides_of_its_start():
    split = short_split(1, 0.5)
    for times in ([], [5], [split.start_second], [split.start_second + 5]):
        log = make_log(times, [MISSING] * len(times), [MISSING] * len(times))
        with pytest.raises(ValueError, match="log must have clicks before and after second"):
            LogStream(log, split)


@pytest.mark.parametrize(
    "times", [([5, 4], [-1, -1], [-1, -1]), ([5], [4], [-1]), ([5], [6], [5]), ([5], [-1], [9])]
)
def test_a_stream_rejects_disordered_logs(times):
    with pytest.raises(ValueError, match=r"(click|conversion|refund)_time must be .* at click"):
        LogStream(make_log(*times), short_split(1, 0.5))
