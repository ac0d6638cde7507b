"""Unusual streams and bad input, each with its defined outcome."""

import math

import numpy as np
import pytest
from click_logs import A
from pydantic import ValidationError
from small_predictors import (
    LEARNING,
    NAMES,
    SIZES,
    SPLIT,
    differing,
    fitted,
    means,
    new_predictor,
    pretraining,
    small_log,
    some_ids,
    sparse_log,
    state,
    stream,
)

from adsim.clicklog import MISSING
from predictors import PREDICTORS, NetCVRConfig, Tesla, TeslaConfig
from predictors.delivery import RULES, Windows, deliver
from predictors.metrics import auc, evaluate, slice_mean
from predictors.stream import LogStream, Split, run_stream

BOTH = pytest.mark.parametrize("quirks", [False, True], ids=["papers", "published"])
LEAST = SIZES["batch_size"] // 4  # rows of a window that are trained on
QUIET = 40_000  # seconds after the start at which a sparse stream ends: its segments have 21600
ONLINE = sorted(set(LEARNING) - {"bdl"})  # train in every window


def plays(*clicks):
    """A stream of few clicks; the last one is there for the sake of its end."""
    return LogStream(sparse_log(*clicks, (QUIET, None, None)), SPLIT)


def clicks(start, count):
    """Without conversions, ten seconds apart."""
    return [(start + 10 * i, None, None) for i in range(count)]


def window(log_stream, k, predictor):
    return log_stream.window(k, privileged=predictor.privileged)


# --- few rows ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
@BOTH
def test_an_empty_segment_changes_nothing(name, quirks, tmp_path):
    predictor = fitted(name, follow=False, official_quirks=quirks)
    before = learned(state(predictor, tmp_path))
    empty = window(plays(), 0, predictor)
    assert empty.events.kind.size == empty.impressions.mask.size == 0
    predictor.partial_fit(empty)
    assert differing(before, learned(state(predictor, tmp_path))) == set()
    assert predictor.losses == []


def learned(arrays):
    """Weights, moments and generator."""
    parts = ("nets/", "frozen/", "adam_", "draws/")
    return {name: array for name, array in arrays.items() if name.startswith(parts)}


@pytest.mark.parametrize("name", ONLINE)
@BOTH
def test_a_segment_smaller_than_a_batch_is_one_batch(name, quirks):
    predictor = fitted(name, follow=False, official_quirks=quirks)
    predictor.partial_fit(window(plays(*clicks(10, LEAST)), 0, predictor))
    assert len(predictor.losses) == 1
    assert predictor.trained_rows == LEAST
    assert np.isfinite(predictor.losses).all()
    assert np.isfinite(means(predictor, some_ids())).all()


@pytest.mark.parametrize("name", ONLINE)
@BOTH
def test_too_few_rows_wait_for_the_next_window(name, quirks, monkeypatch):
    predictor = fitted(name, follow=False, official_quirks=quirks)
    rules = {predictor.rule} | ({"dfsn_feature", "dfsn_unbias"} if name == "dfsn" else set())
    before, seen = means(predictor, some_ids()), []
    step = predictor._step
    monkeypatch.setattr(predictor, "_step", lambda batch: seen.append(batch.ids) or step(batch))
    few = plays(*clicks(10, LEAST - 1))  # in window 0; one more, the last of the stream, in 1
    predictor.partial_fit(window(few, 0, predictor))
    assert {rule: len(rows.pay) for rule, rows in predictor._held.items()} == dict.fromkeys(
        rules, LEAST - 1
    )
    assert predictor.losses == seen == []
    np.testing.assert_array_equal(means(predictor, some_ids()), before)
    predictor.partial_fit(window(few, 1, predictor))
    assert predictor._held == {}
    assert predictor.trained_rows == LEAST
    assert len(predictor.losses) == 1
    assert (means(predictor, some_ids()) != before).any()
    (ids,) = seen  # one batch, the held rows first
    expected = predictor.fields.encode(few.log.features[few.log.click_time >= few.start])
    np.testing.assert_array_equal(ids, expected)


@pytest.mark.parametrize(("size", "least"), [(4, 2), (7, 2), (8, 2), (12, 3), (32, 8), (100, 25)])
def test_a_quarter_of_a_batch_is_enough(size, least):
    for count in (least - 1, least):
        predictor = fitted("es_dfm", follow=False, batch_size=size)
        predictor.partial_fit(plays(*clicks(10, count)).window(0))
        assert predictor.trained_rows == count * (count == least)
        assert len(predictor.losses) == (count == least)
        assert ("es_dfm" in predictor._held) == (count < least)


@BOTH
def test_the_smallest_batches_can_be_learned_from(quirks):
    predictor = fitted("es_dfm", batch_size=4, official_quirks=quirks)
    result = run_stream(predictor, stream(), Windows())
    assert np.isfinite(predictor.losses).all()
    assert len(predictor.losses) > 50
    assert np.isfinite(result.net_cvr).all()


def test_too_few_rows_wait_as_long_as_it_takes(tmp_path):
    predictor = fitted("es_dfm", follow=False)
    predictor.partial_fit(plays(*clicks(10, 3)).window(0))
    held = {name: value for name, value in state(predictor, tmp_path).items() if "held" in name}
    assert held
    empty = LogStream(sparse_log(*clicks(10, 3), (500_000, None, None)), SPLIT)
    for k in (1, 2, 3):
        predictor.partial_fit(empty.window(k))
    after = state(predictor, tmp_path)
    assert all((after[name] == value).all() for name, value in held.items())
    assert predictor.losses == []


def test_bdl_keeps_too_few_rows_of_a_day_for_the_next():
    predictor = fitted("bdl", follow=False)
    log = sparse_log(*clicks(10, LEAST - 2), *clicks(4 * 21_600 + 100, 2))
    split = Split(pretrain_days=2, stream_start_day=8, stream_end_day=14, segment_days=0.25)
    log_stream, trained = LogStream(log, split), []
    for k in range(21):
        predictor.partial_fit(log_stream.window(k))
        trained.append(predictor.trained_rows)
    # Rows come three days after their clicks: on day 3 (too few: kept) and on day 4, trained on
    # when that day is over.
    assert trained == [0] * 20 + [LEAST]


def test_bdl_trains_once_after_days_without_a_window():
    predictor, trained = fitted("bdl"), []
    nothing = plays().window(0)  # the rows are those of clicks of before the stream
    days = (0.25, 2.25, 2.5, 2.75, 3.0, 3.25)
    for day in days:
        now = 24 * (SPLIT.stream_start_day + day)
        predictor.partial_fit(nothing._replace(now_hours=now))
        trained.append(predictor.trained_rows)
    rows = deliver(stream().history(), Windows(), RULES["bdl"])
    since = (rows.time - SPLIT.start_second) / 86_400
    first, second = (((since >= 0) & (since <= day)).sum() for day in (2.25, 3.0))
    # Day 0 is over at the second window; the running day then is day 2.
    assert trained == [0, 0, first, first, first, second]
    assert 0 < first < second


# --- fit ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_fitting_again_forgets_all_that_was_learned(name, tmp_path):
    fresh, used = fitted(name), fitted(name)
    for k in range(3):
        used.partial_fit(window(stream(), k, used))
    shared = pretraining()
    assert used.fit(shared.history, SPLIT, pretraining=shared, follow=True) is used
    for k in range(2):
        assert differing(state(used, tmp_path), state(fresh, tmp_path)) == set()
        for predictor in (fresh, used):
            predictor.partial_fit(window(stream(), k, predictor))
    assert used.losses == fresh.losses


def test_fitting_again_forgets_the_clicks_of_another_campaign(tmp_path):
    fresh, used = (fitted("dfsn", follow=False, official_quirks=True) for _ in range(2))
    used.partial_fit(plays(*clicks(10, LEAST - 1)).window(0))
    assert len(used._held) == 3
    assert used.open.known_from > 0
    with pytest.raises(ValueError, match="window must end at or after second 712800"):
        used.partial_fit(stream().window(0)._replace(now_hours=1.0))
    shared = pretraining()
    used.fit(shared.history, SPLIT, pretraining=shared)
    assert differing(state(used, tmp_path), state(fresh, tmp_path)) == set()
    used.partial_fit(stream().window(0)._replace(now_hours=1.0))


# --- labels of one class -----------------------------------------------------------------------
@pytest.mark.parametrize("name", ONLINE)
@pytest.mark.parametrize("delays", [(None, None), (20, None), (20, 30)])
@BOTH
def test_a_segment_of_one_class_can_be_learned_from(name, delays, quirks):
    predictor = fitted(name, follow=False, official_quirks=quirks)
    log_stream = plays(*[(10 * i, *delays) for i in range(1, 20)])
    predictor.partial_fit(window(log_stream, 0, predictor))
    assert np.isfinite(predictor.losses).all()
    assert len(predictor.losses) >= 1
    found = means(predictor, some_ids())
    assert ((found >= 0) & (found <= 1)).all()


def test_metrics_leave_out_segments_of_one_class():
    # Segment 1 (scored after window 0) has no conversion; segment 2 has both labels.
    both = [(43_300 + i, 50 if i % 2 else None, None) for i in range(10)]
    log_stream = LogStream(sparse_log(*clicks(21_700, 10), *both), SPLIT)
    result = run_stream(fitted("es_dfm"), log_stream, Windows())
    assert sorted(set(result.segment.tolist())) == [0, 1]
    scores = []
    for k in range(SPLIT.num_segments):
        rows = result.segment == k
        scores.append(evaluate(result.y[rows], result.cvr[rows]).auc if rows.any() else math.nan)
    assert [math.isnan(score) for score in scores] == [True, False, True, True, True, True]
    second = result.segment == 1
    mean, count, left_out = slice_mean(scores)
    assert (mean, count, left_out) == (auc(result.y[second], result.cvr[second]), 1, 5)


# --- histories ---------------------------------------------------------------------------------
def bad_history(**columns):
    return stream().history()._replace(**columns)


def column(name, **changes):
    """A column of the history with other values at some clicks."""
    values = getattr(stream().history(), name).copy()
    for click, value in changes.items():
        values[int(click[1:])] = value
    return values


@pytest.mark.parametrize("name", ["es_dfm", "tesla"])
def test_a_history_with_a_bad_entry_is_rejected(name):
    history = stream().history()
    features = history.features.copy()
    features[7, 2] = history.cardinalities[2]
    click = history.click_time
    for changes, message in (
        ({"features": features}, r"features\[:, 2\] must be in \[0, 512\), got 512 at click 7"),
        ({"click_time": column("click_time", c5=click[-1])}, r"click_time .* at click 6"),
        (
            {"conversion_time": column("conversion_time", c9=click[9] - 1)},
            r"conversion_time must be at or after the click.* at click 9",
        ),
        (
            {
                "conversion_time": column("conversion_time", c9=click[9] + 10),
                "refund_time": column("refund_time", c9=click[9] + 5),
            },
            r"refund_time must be at or after a conversion.* at click 9",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            new_predictor(name).fit(bad_history(**changes), SPLIT)


@pytest.mark.parametrize("name", NAMES)
def test_a_history_without_clicks_to_train_on_is_rejected(name):
    history = stream().history()
    late = history._replace(
        **{
            field: getattr(history, field)[history.click_time > 3 * 86_400]
            for field in history._fields
            if field != "cardinalities"
        }
    )
    with pytest.raises(ValueError, match="history must have clicks before day 2"):
        new_predictor(name).fit(late, SPLIT)


@pytest.mark.parametrize("name", NAMES)
@BOTH
def test_a_history_without_conversions(name, quirks):
    history = stream().history()
    none = np.full(history.click_time.size, MISSING)
    predictor = new_predictor(name, official_quirks=quirks)
    cold = history._replace(conversion_time=none, refund_time=none)
    if name == "tesla":  # learns how late events are
        with pytest.raises(ValueError, match="history must have events to learn the delay model"):
            predictor.fit(cold, SPLIT)
        return
    predictor.fit(cold, SPLIT)
    predictor.partial_fit(window(stream(), 0, predictor))
    found = means(predictor, some_ids())
    assert ((found >= 0) & (found <= 1)).all()


def test_labels_must_be_final_before_the_stream():
    split = Split(pretrain_days=4, stream_start_day=8, stream_end_day=9, segment_days=1)
    with pytest.raises(ValueError, match=r"stream_start_day - pretrain_days must be >= 6.0"):
        new_predictor("es_dfm").fit(stream().history(), split)


# --- settings ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("embedding_dim", 0),
        ("embedding_sd", 0.0),
        ("widths", (16, 0)),
        ("tables", "both"),
        ("head", "three"),
        ("batch_size", 3),
        ("learning_rate", 0.0),
        ("weight_decay", -0.1),
        ("pretrain_learning_rate", 1.5),
        ("pretrain_attribution", 0),
        ("ranking", "best"),
        ("no_such_setting", 1),
    ],
)
def test_settings_out_of_range_are_rejected(field, value):
    with pytest.raises(ValidationError, match=field):
        TeslaConfig(**{field: value})


def test_settings_of_tesla_are_not_those_of_all():
    with pytest.raises(ValidationError, match="ranking"):
        NetCVRConfig(ranking="dar")
    with pytest.raises(ValidationError, match="frozen"):
        TeslaConfig().ranking = "none"
    with pytest.raises(ValidationError, match="ranking"):
        new_predictor("es_dfm", ranking="dar")


def test_tesla_takes_the_settings_of_all():
    windows = Windows(A, A, 600, 300)
    plain = NetCVRConfig(**SIZES, windows=windows, official_quirks=True)
    for config, expected in (
        (plain, TeslaConfig(**SIZES, windows=windows, official_quirks=True)),
        (None, TeslaConfig()),
        (TeslaConfig(ranking="rn"), TeslaConfig(ranking="rn")),
    ):
        predictor = Tesla(small_log().cardinalities, config)
        assert type(predictor.config) is TeslaConfig
        assert predictor.config == expected
        assert isinstance(predictor.config.windows, Windows)
    predictor = Tesla(small_log().cardinalities, plain)
    predictor.fit(stream().history(), SPLIT).partial_fit(stream().window(0))
    assert predictor.losses


@pytest.mark.parametrize("name", ONLINE)
def test_own_learning_rate_and_decay_reach_the_optimiser(name):
    plain = fitted(name).optimisers["main"].param_groups[0]
    assert plain["lr"] == PREDICTORS[name].learning_rate == (1e-3 if name == "defer" else 3e-3)
    assert plain["weight_decay"] == 0
    other = fitted(name, learning_rate=0.5, weight_decay=0.2)
    for optimiser in other.optimisers.values():
        assert (optimiser.defaults["lr"], optimiser.defaults["weight_decay"]) == (0.5, 0.2)


def test_other_windows_are_respected():
    windows = Windows(A // 3, A // 3, 600, 300)
    predictor = fitted("tesla", windows=windows)
    run_stream(predictor, stream(), windows)
    rows = deliver(small_log(), windows, RULES["tesla"])
    end = SPLIT.start_second + SPLIT.num_segments * SPLIT.segment_seconds
    due = (rows.time >= SPLIT.start_second) & (rows.time <= end)
    assert predictor.trained_rows == due.sum()
