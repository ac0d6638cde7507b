import numpy as np
import pytest
from purchase_logs import short_split

from adsim.impressionlog import ImpressionLog
from adsim.types import EventKind, Target
from predictors import RunningRatePredictor
from predictors.impression_stream import ImpressionStream, check_impressions
from predictors.open_clicks import whole_seconds
from predictors.stream import gather, rounds

# Segments [50, 100) and [100, 150).
SPLIT = short_split(50, 50, 2)
TIMES = [10, 40, 50, 60, 60, 99, 100, 149, 150]
CLICKED = [True, False, False, True, False, True, False, True, False]


def make_log(time=TIMES, clicked=CLICKED):
    """A log whose first feature is the number of the impression."""
    size = len(time)
    features = np.stack([np.arange(size), np.arange(size) % 3], 1).astype(np.int32)
    truth = np.linspace(0.1, 0.5, size)
    return ImpressionLog(np.array(time), np.array(clicked), features, (max(size, 1), 3), truth)


def test_history_is_what_was_shown_before_the_stream():
    history = ImpressionStream(make_log(), SPLIT).history()
    assert isinstance(history, ImpressionLog)
    assert history.time.tolist() == [10, 40]
    assert history.clicked.tolist() == [True, False]
    assert history.features[:, 0].tolist() == [0, 1]
    assert history.cardinalities == (9, 3)
    assert np.isnan(history.p_click).all()  # the truth is hidden


def test_windows_hold_the_impressions_of_their_segment_and_their_clicks():
    stream = ImpressionStream(make_log(), SPLIT)
    first, second = stream.window(0), stream.window(1)
    assert first.impressions.impression_id.tolist() == [2, 3, 4, 5]
    assert first.impressions.features[:, 0].tolist() == [2, 3, 4, 5]
    assert whole_seconds(first.impressions.time_hours).tolist() == [50, 60, 60, 99]
    assert first.result.clicked.tolist() == [False, True, False, True]
    assert first.result.won.all()
    assert np.isinf(first.result.price).all()  # unknown
    assert first.events.click_id.tolist() == [3, 5]
    assert (first.events.kind == EventKind.CLICK).all()
    assert first.events.order_id.tolist() == [-1, -1]
    assert first.clicks.impression_id.tolist() == [3, 5]
    assert first.clicks.features[:, 0].tolist() == [3, 5]
    assert second.result.clicked.tolist() == [False, True]
    assert second.events.click_id.tolist() == [7]
    assert [window.now_hours for window in (first, second)] == [99 / 3_600, 149 / 3_600]
    assert stream.test_clicks(0) == slice(6, 8)
    assert stream.test_clicks(1) == slice(8, 9)


def test_privileged_predictors_are_told_nothing_else():
    stream = ImpressionStream(make_log(), SPLIT)
    one, two = stream.window(0), stream.window(0, privileged=True)
    for part, other in zip(one[1:], two[1:], strict=True):
        for column, same in zip(part, other, strict=True):
            np.testing.assert_array_equal(column, same)


def test_segments_without_impressions_or_clicks_are_empty():
    stream = ImpressionStream(make_log([10, 110, 120], [True, False, False]), SPLIT)
    first, second = stream.window(0), stream.window(1)
    assert first.impressions.impression_id.size == first.result.clicked.size == 0
    assert first.events.kind.size == first.clicks.impression_id.size == 0
    assert second.impressions.impression_id.tolist() == [1, 2]
    assert second.events.kind.size == 0


def test_windows_do_not_share_memory_with_the_log():
    log = make_log()
    stream = ImpressionStream(log, SPLIT)
    stream.window(0).result.clicked[:] = True
    assert log.clicked.tolist() == CLICKED
    assert stream.window(0).result.clicked.tolist() == [False, True, False, True]


def test_running_rates_learn_the_click_rate():
    stream = ImpressionStream(make_log(), SPLIT)
    predictor = RunningRatePredictor()
    result = gather(rounds(predictor, stream, (Target.CTR,), lambda k: None))
    assert result.click.tolist() == [6, 7, 8]
    assert np.isfinite(result.means[0]).all()


def test_streams_need_impressions_on_both_sides_of_their_start():
    for times in ([10, 20], [60, 70]):
        with pytest.raises(ValueError, match="before and after second 50"):
            ImpressionStream(make_log(times, [True, False]), SPLIT)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"time": np.array([10, 60, 50])},
            "after the previous impression's, got 50 at impression 2",
        ),
        ({"time": np.array([-1, 60, 70])}, r"time must be >= 0, got -1 at impression 0"),
        ({"clicked": np.array([True])}, r"clicked must have 3 impressions, got 1"),
        ({"clicked": np.array([0, 2, 1])}, r"clicked must be bool, got int64"),
        (
            {"p_click": np.array([np.nan, 1.0, 1.5])},
            r"p_click must be in \[0, 1\], got 1.5 at impression 2",
        ),
        ({"p_click": np.ones(4)}, r"p_click must have 3 impressions, got 4"),
        ({"features": np.zeros((2, 2), np.int32)}, r"features must have 3 impressions, got 2"),
        ({"features": np.zeros((3, 3), np.int32)}, r"features must have shape \(I, 2\)"),
        ({"cardinalities": (2, 3)}, r"features\[:, 0\] must be in \[0, 2\), got 2 at impression 2"),
        (
            {"features": np.array([[0, 0], [0, -1], [0, 0]], np.int32)},
            r"features\[:, 1\] must be in \[0, 3\), got -1 at impression 1",
        ),
    ],
)
def test_wrong_logs_are_named(changes, says):
    log = make_log([10, 60, 70], [True, False, True])
    check_impressions(log)
    with pytest.raises(ValueError, match=says):
        ImpressionStream(log._replace(**changes), SPLIT)
