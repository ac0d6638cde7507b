"""What the rise and fall of traffic does to the odds of the rows, and its correction."""

import numpy as np
import pytest
import torch
from click_logs import WINDOWS, A, W, make_log, random_log
from small_predictors import SPLIT, fitted, means, small_log, some_ids, sparse_log, state, stream

from adsim.clicklog import MISSING
from predictors import load_predictor
from predictors.delivery import RULES, Rows, Windows, deliver
from predictors.nets import weighted_bce
from predictors.open_clicks import OpenClicks
from predictors.stream import LogStream, Split, run_stream
from predictors.tesla import BLOCK_SECONDS, MAX_FACTOR, online_weights, traffic_offsets

DAY, HALF = 86_400, 21_600
P_V, F_V, P_R, F_R = 0.5, 0.27, 0.5, 0.545  # conversion, in its window, refund, in its window


def clicks_every(early, late, start=0):
    """Open clicks, one per `early` seconds for six hours, then per `late`; all convert at once."""
    click = start + np.r_[np.arange(0, HALF, early), np.arange(HALF, 2 * HALF + 1, late)]
    found = OpenClicks(WINDOWS, 1)
    found.follow(make_log(click, click, np.full(click.size, MISSING)), start + 2 * HALF)
    return found


def with_conversions(found):
    """The same if there were no clicks before, of which conversions might have come."""
    found.known_from -= A
    return found


def rows_of(*rows):
    """Training rows (seconds, "v" or "r", label, delay of the event)."""
    time, tower, label, delay = zip(*rows, strict=True)
    conversion, label = np.array(tower) == "v", np.array(label, np.int8)
    pay, net = np.where(conversion, label, 1), np.where(conversion, label, 1 - label)
    none = np.zeros(len(rows), np.bool_)
    return Rows(np.arange(len(rows)), np.array(time), pay, net, conversion, none, np.array(delay))


# --- ratios ------------------------------------------------------------------------------------
def test_ratio_of_traffic_by_hand():
    found = clicks_every(60, 30)
    then, now = np.array([3_600, 3_660, 7_230, 30_000]), np.array([30_000, 20_000, 23_400, 40_000])
    # In the hours up to `then` 60, 60, 60 and 120 clicks; up to `now` 120, 60, 29 + 61 and 120.
    ratio = found.traffic_ratio("click", then, now, 3_600)
    assert ratio.tolist() == [2.0, 1.0, 90 / 60, 1.0]


def test_ratios_of_conversions_count_conversions():
    click = np.arange(0, 2 * HALF, 60)
    paid = np.where(click % 120 == 0, click + 10, MISSING)
    paid[click >= HALF] = click[click >= HALF] + 10
    found = OpenClicks(WINDOWS, 1)
    found.follow(make_log(click, paid, np.full(click.size, MISSING)), 2 * HALF)
    then, now = np.array([12_000]), np.array([36_000])
    assert found.traffic_ratio("click", then, now, 10_800).tolist() == [1.0]
    with_conversions(found)
    assert found.traffic_ratio("conversion", then, now, 10_800).tolist() == [2.0]


def test_ratio_is_one_where_earlier_traffic_is_unknown():
    # Nobody saw the clicks of before the first one.
    found = clicks_every(60, 30, start=5_000)
    then, now = 5_000 + np.array([120, 3_599, 3_600]), np.full(3, 35_000)
    assert found.traffic_ratio("click", then, now, 3_600).tolist() == [1.0, 1.0, 2.0]
    # Of clicks older than the attribution window, only those that converted are still open.
    click = np.r_[np.arange(0, 4 * DAY, 600), np.arange(4 * DAY, 5 * DAY + 1, 300)]
    found = OpenClicks(WINDOWS, 1)
    none = np.full(click.size, MISSING)
    found.follow(make_log(click, np.where(click % 1_200, click, MISSING), none), 5 * DAY)
    then, now = 5 * DAY - A + np.array([3_599, 3_600]), np.full(2, 5 * DAY)
    assert found.traffic_ratio("click", then, now, 3_600).tolist() == [1.0, 2.0]


def test_clicks_of_a_stream_that_starts_afresh_are_known_from_the_first():
    minutes = [(60 * i, None, None) for i in range(300)]
    play = LogStream(sparse_log(*minutes, (40_000, None, None)), SPLIT)
    found, other = OpenClicks(WINDOWS, 22), OpenClicks(WINDOWS, 22)
    assert found.known_from == -1
    found.update(play.window(0))
    then = SPLIT.start_second + np.array([120, 3_599, 3_600])
    for _ in range(2):
        assert found.known_from == SPLIT.start_second
        ratio = found.traffic_ratio("click", then, np.full(3, then[0] + 19_680), 3_600)
        assert ratio.tolist() == [1.0, 1.0, 29 / 60]
        found.close()
    other.set_state(found.get_state())
    assert other.known_from == found.known_from


# --- offsets -----------------------------------------------------------------------------------
# A late event at NOW, when rows of clicks of second 30000 come, and its cause at second 18000.
LATE, NOW = 12_000 + W, 30_000 + W


def test_offsets_by_hand():
    found = clicks_every(60, 30)
    fresh, late = ("v", 1, 100), ("v", 1, LATE)
    negative = (NOW, "v", 0, MISSING)
    block = [(NOW, *fresh)] * 3 + [(NOW, *late)] * 2 + [negative] * 4
    offsets = traffic_offsets(rows_of(*block), found, WINDOWS)
    np.testing.assert_allclose(offsets, np.log((3 + 2) / (3 + 2 * 2)))
    # Traffic now is that of the clicks whose windows close now: 29 + 61 an hour, against 60.
    rows = rows_of((23_400 + W, "v", 1, 5_400 + W))
    np.testing.assert_allclose(traffic_offsets(rows, found, WINDOWS), np.log(60 / 90))
    # Another block, whose traffic is that of the cause; and one without late positives.
    same = [(NOW + BLOCK_SECONDS, "v", 1, 7_000), (NOW + BLOCK_SECONDS, "v", 0, MISSING)]
    early = [(7_000, "v", 1, 100), (7_000, "v", 0, MISSING)]
    rows = rows_of(*early, *block, *same)
    offsets = traffic_offsets(rows, found, WINDOWS)
    np.testing.assert_allclose(offsets, [0] * 2 + [np.log(5 / 7)] * 9 + [0] * 2, atol=1e-12)


def test_towers_have_their_own_offsets():
    # The causes of refunds are conversions; with the rates of the clicks, in three hours.
    found = with_conversions(clicks_every(60, 30))
    then, now = 18_000, 36_000  # 180 and 360 conversions in the three hours before
    delay = now + W - then
    refunds = [(now + W, "r", 1, delay), (now + W, "r", 0, MISSING), (now + W, "r", 1, 5)]
    pays = [(now + W, "v", 1, 100), (now + W, "v", 0, MISSING)]
    offsets = traffic_offsets(rows_of(*refunds, *pays), found, WINDOWS)
    np.testing.assert_allclose(offsets, [np.log(2 / 3)] * 3 + [0] * 2)


@pytest.mark.parametrize(("early", "late", "sign"), [(60, 6, -1), (6, 60, 1)])
def test_offsets_are_limited(early, late, sign):
    rows = rows_of((NOW, "v", 1, LATE), (NOW, "v", 0, MISSING))  # a factor of ten
    offsets = traffic_offsets(rows, clicks_every(early, late), WINDOWS)
    np.testing.assert_allclose(offsets, sign * np.log(MAX_FACTOR))


def test_late_positives_in_traffic_that_has_ceased_have_the_largest_offset():
    found = clicks_every(60, 30)
    found.times[:, found.times[0] > 25_000] = MISSING
    rows = rows_of((NOW, "v", 1, LATE))
    np.testing.assert_allclose(traffic_offsets(rows, found, WINDOWS), np.log(MAX_FACTOR))


def test_no_late_positives_no_offset():
    found = clicks_every(60, 6)
    rows = rows_of(*[(NOW, "v", 1, W), (NOW, "v", 0, MISSING), (NOW, "r", 1, W)] * 3)
    assert traffic_offsets(rows, found, WINDOWS).tolist() == [0.0] * 9
    rows = rows_of((NOW, "v", 0, MISSING))
    assert traffic_offsets(rows, found, WINDOWS).tolist() == [0.0]
    nothing = Rows(*(column[:0] for column in rows))
    assert traffic_offsets(nothing, found, WINDOWS).shape == (0,)
    assert traffic_offsets(nothing, OpenClicks(WINDOWS, 1), WINDOWS).shape == (0,)


def test_unknown_earlier_traffic_gives_no_offset():
    rows = rows_of((NOW, "v", 1, NOW - 3_599), (NOW, "v", 0, MISSING))
    assert traffic_offsets(rows, clicks_every(60, 6), WINDOWS).tolist() == [0.0, 0.0]


def played(log, first, days, *, follow=True):
    """Rows of TESLA in six-hour windows from day `first` on, and their offsets."""
    split = Split(
        pretrain_days=1, stream_start_day=first, stream_end_day=first + days, segment_days=0.25
    )
    play, found, parts = LogStream(log, split), OpenClicks(WINDOWS, 1), []
    if follow:
        found.follow(play.history(), play.start - 1)
    for k in range(split.num_segments):
        found.update(play.window(k))
        rows, _ = found.due(RULES["tesla"])
        parts.append((*rows, traffic_offsets(rows, found, WINDOWS)))
        found.close()
    *columns, offsets = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Rows(*columns), offsets


TOWERS = [  # conversion row, chance of an event, chance that it comes in its window
    (True, P_V, F_V),
    (False, P_R, F_R),
]


@pytest.mark.parametrize("seed", [0, 1])
def test_steady_traffic_gives_offsets_of_zero(seed):
    # 208 clicks an hour, and 104 conversions. Given the late positives, whose causes are spread
    # over days, the noise is that of a Poisson count now: 1 / sqrt(208) in an hour of clicks, or
    # 1 / sqrt(312) in three hours of conversions, times the share of positives that are late.
    rows, offsets = played(random_log(100_000, seed, P_V, F_V, P_R, F_R, 20 * DAY), 9, 7)
    for (conversion, _, in_window), count in zip(TOWERS, (208, 312), strict=True):
        own = rows.conversion_row == conversion
        _, first = np.unique(rows.time[own] // BLOCK_SECONDS, return_index=True)
        each, noise = offsets[own][first], (1 - in_window) / np.sqrt(count)
        assert each.size >= 84
        assert np.abs(each).max() < 4 * noise
        assert abs(each.mean()) < 3 * noise / np.sqrt(each.size)
        assert each.std() > noise / 4  # it is noise, not nothing


def test_a_stream_that_starts_afresh_waits_until_all_conversions_are_known():
    rows, offsets = played(random_log(50_000, 0, P_V, F_V, P_R, F_R, 20 * DAY), 9, 7, follow=False)
    day = rows.time / DAY - 9
    for conversion, first in ((True, 0.04), (False, 3.12)):  # an hour; three days and three hours
        own = rows.conversion_row == conversion
        assert not offsets[own & (day < first)].any()
        assert offsets[own & (day > first + 0.5)].any()


def test_offsets_level_the_odds_over_the_day():
    # Half of the day has a fourth of the traffic: late positives of the day raise the night's odds.
    log = random_log(200_000, 2, P_V, F_V, P_R, F_R, 20 * DAY)
    night = log.click_time % DAY >= DAY // 2
    kept = ~night | (np.random.default_rng(0).random(night.size) < 0.25)
    log = make_log(log.click_time[kept], log.conversion_time[kept], log.refund_time[kept])
    rows, offsets = played(log, 9, 7)
    hour = rows.time % DAY // 3_600
    for conversion, chance, in_window in TOWERS:
        steady = chance / (1 - chance * in_window)  # odds of a row in steady traffic
        label = rows.pay_label if conversion else 1 - rows.net_label
        found = []
        for low, high in ((4, 12), (16, 24)):  # not the hours in which the rate jumps
            part = (rows.conversion_row == conversion) & (hour >= low) & (hour < high)
            odds = label[part].sum() / (1 - label[part]).sum()
            found.append((odds / steady, odds / steady / np.exp(offsets[part].mean())))
        (day, level_day), (dark, level_dark) = found
        assert dark / day > (2.5 if conversion else 1.1)
        assert [level_day, level_dark] == pytest.approx([1, 1], abs=0.05)


# --- TESLA -------------------------------------------------------------------------------------
def test_losses_are_those_of_shifted_logits():
    predictor, plain = (
        fitted("tesla", traffic_offset=on, ranking="none", batch_size=64) for on in (True, False)
    )
    log = small_log()
    rows = deliver(log, Windows(), RULES["tesla"])
    due = (rows.time >= SPLIT.start_second) & (rows.time < SPLIT.start_second + DAY // 4)
    rows = Rows(*(column[due] for column in rows))
    for each in (predictor, plain):
        each.open.update(stream().window(0))
    features = log.features[rows.click]
    batch, other = (each._tensors(rows, features, "tesla") for each in (predictor, plain))
    offsets = traffic_offsets(rows, predictor.open, Windows())
    assert (offsets != 0).any()
    np.testing.assert_allclose(batch.constants[:, 1], offsets, rtol=1e-6)
    assert not other.constants[:, 1].any()
    assert torch.equal(batch.constants[:, 0], other.constants[:, 0])
    logit = torch.linspace(-3, 1, len(rows.time))
    weights = online_weights(torch.sigmoid(logit), batch.constants[:, 0])  # of what is estimated
    shifted = logit + batch.constants[:, 1]
    for loss, label, mask in (
        (predictor.pay_loss, batch.pay, batch.conversion),
        (predictor.refund_loss, batch.refund, batch.refund_mask),
    ):
        expected = weighted_bce(shifted, label, mask, *weights)
        torch.testing.assert_close(loss(logit, batch), expected)


def test_offsets_are_not_for_the_published_code():
    on, off = (fitted("tesla", traffic_offset=o, official_quirks=True) for o in (True, False))
    for each in (on, off):
        each.partial_fit(stream().window(0))
    np.testing.assert_array_equal(means(on, some_ids()), means(off, some_ids()))


def test_tesla_learns_with_offsets_and_goes_on_when_loaded(tmp_path):
    whole, plain = (fitted("tesla", traffic_offset=on) for on in (True, False))
    result, other = (run_stream(each, stream(), Windows()) for each in (whole, plain))
    for values in (result.cvr, result.refund_rate, result.net_cvr):
        assert ((values >= 0) & (values <= 1)).all()
    assert np.isfinite(whole.losses).all()
    assert (result.cvr != other.cvr).any()
    broken = fitted("tesla", traffic_offset=True)
    for k in range(SPLIT.num_segments):
        if k == 2:
            broken.save(tmp_path / "kept.npz")
            broken = load_predictor(tmp_path / "kept.npz")
        broken.partial_fit(stream().window(k))
    assert broken.losses == whole.losses
    one, two = state(broken, tmp_path), state(whole, tmp_path)
    assert all((one[name] == two[name]).all() for name in two)


def test_late_positives_after_hours_without_clicks_leave_the_networks_finite():
    # Conversions five hours after their clicks, and none but one click in the hours before.
    log = sparse_log(
        *((10 * i, 18_000, None) for i in range(1, 4)), (17_500, None, None), (40_000, None, None)
    )
    before = (log.click_time > 2 * DAY) & (log.click_time < SPLIT.start_second)
    columns = ("conversion_time", "refund_time")  # those of the days before are left out
    log = log._replace(**{c: np.where(before, MISSING, getattr(log, c)) for c in columns})
    play = LogStream(log, SPLIT)
    predictor = fitted("tesla", traffic_offset=True, batch_size=4)
    predictor.open.follow(play.history(), play.start - 1)
    window = play.window(0)
    for hour in range(6):
        now = play.start / 3_600 + hour + 1
        moment = window.events.time_hours
        part = (moment > now - 1) & (moment <= now)
        events = type(window.events)(*(column[part] for column in window.events))
        predictor.partial_fit(window._replace(now_hours=now, events=events))
        assert np.isfinite(predictor.losses).all()
    assert predictor.losses
    assert np.isfinite(means(predictor, some_ids())).all()
