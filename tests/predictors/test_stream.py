from collections import Counter

import numpy as np
import pytest
from click_logs import (
    D_R,
    D_V,
    DAY_17,
    I_R,
    I_V,
    LEARNING,
    WINDOWS,
    A,
    W,
    fates_log,
    listed,
    make_log,
    random_log,
)

from adsim.clicklog import MISSING
from predictors.delivery import (
    RULES,
    Rows,
    Trajectory,
    deliver,
    final_labels,
    known_at,
    trajectory,
)
from predictors.stream import Split

# --- the worked timeline: clicks at day 17.000 ------------------------------------------------
# A pays at +600 s and refunds at +900 s; B pays at +7200 s and refunds at +48 h; C never pays.
USERS = {"A": (600, 900), "B": (7_200, 172_800), "C": (None, None)}
ES_DFM = {
    "A": [(W, "v", 1), (900, "r", 1)],
    "B": [(W, "v", 0), (7_200, "v", 1), (172_800, "r", 1)],
    "C": [(W, "v", 0)],
}
FNC = {
    "A": [(0, "v", 0), (600, "v", 1), (900, "r", 1)],
    "B": [(0, "v", 0), (7_200, "v", 1), (172_800, "r", 1)],
    "C": [(0, "v", 0)],
}
TIMELINE = {
    "tesla": {
        "A": [(W, "v", 1), (900, "r", 1)],
        "B": [(W, "v", 0), (7_200, "v", 1), (8_064, "r", 0), (172_800, "r", 1)],
        "C": [(W, "v", 0)],
    },
    "defer": {
        "A": [(600, "v", 1), (W, "v", 1), (900, "r", 1)],
        "B": [(W, "v", 0), (7_200, "v", 1), (172_800, "r", 1)],
        "C": [(W, "v", 0), (A, "v", 0)],
    },
    "ddfm": ES_DFM | {"C": [(W, "v", 0), (A, "v", 0)]},
    "bdl": {
        "A": [(A, "v", 1), (600 + A, "r", 1)],
        "B": [(A, "v", 1), (266_400, "r", 1)],
        "C": [(A, "v", 0)],
    },
    "matured": {"A": [(A, "v", 1)], "B": [(A, "v", 1)], "C": [(A, "v", 0)]},
    "oracle": {"A": [(0, "v", 1)], "B": [(0, "v", 1)], "C": [(0, "v", 0)]},
    "dfsn_feature": {"A": [(432, "v", 0)], "B": [(432, "v", 0)], "C": [(432, "v", 0)]},
    "pre_trained": {"A": [], "B": [], "C": []},
    **dict.fromkeys(("es_dfm", "defuse", "miss", "dfsn"), ES_DFM),
    **dict.fromkeys(("fnc", "fnw", "dfsn_unbias"), FNC),
}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("method", sorted(RULES))
def test_deliver_follows_the_worked_timeline(method, user):
    conversion, refund = (MISSING if t is None else DAY_17 + t for t in USERS[user])
    log = make_log([DAY_17], [conversion], [refund])
    rows = deliver(log, WINDOWS, RULES[method])
    assert listed(rows, DAY_17) == TIMELINE[method][user]


def test_segments_of_the_worked_timeline():
    # TESLA: all rows of A and the first three of B in segment 0; B's last, at 19.0 d, in 19.
    log = make_log([DAY_17, DAY_17], [DAY_17 + 600, DAY_17 + 7_200], [DAY_17 + 900, 19 * 86_400])
    rows = deliver(log, WINDOWS, RULES["tesla"])
    segments = Split().segments(rows.time)
    assert segments[rows.click == 0].tolist() == [0, 0]
    assert segments[rows.click == 1].tolist() == [0, 0, 0, 19]


# --- seven trajectories ------------------------------------------------------------------------
# Rows in any order: seconds after the click, tower, label.
TABLE = {
    "tesla": [
        [(W, "v", 0)],
        [(W, "v", 1), (I_V + W, "r", 0)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + W, "r", 0)],
        [(W, "v", 1), (I_V + I_R, "r", 1)],
        [(W, "v", 1), (I_V + W, "r", 0), (I_V + D_R, "r", 1)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + I_R, "r", 1)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + W, "r", 0), (D_V + D_R, "r", 1)],
    ],
    "oracle": [[(0, "v", 0)]] + [[(0, "v", 1)]] * 6,
    "bdl": [
        [(A, "v", 0)],
        [(A, "v", 1), (I_V + A, "r", 0)],
        [(A, "v", 1), (D_V + A, "r", 0)],
        [(A, "v", 1), (I_V + A, "r", 1)],
        [(A, "v", 1), (I_V + A, "r", 1)],
        [(A, "v", 1), (D_V + A, "r", 1)],
        [(A, "v", 1), (D_V + A, "r", 1)],
    ],
    "fnc": [
        [(0, "v", 0)],
        [(0, "v", 0), (I_V, "v", 1)],
        [(0, "v", 0), (D_V, "v", 1)],
        [(0, "v", 0), (I_V, "v", 1), (I_V + I_R, "r", 1)],
        [(0, "v", 0), (I_V, "v", 1), (I_V + D_R, "r", 1)],
        [(0, "v", 0), (D_V, "v", 1), (D_V + I_R, "r", 1)],
        [(0, "v", 0), (D_V, "v", 1), (D_V + D_R, "r", 1)],
    ],
    "es_dfm": [
        [(W, "v", 0)],
        [(W, "v", 1)],
        [(W, "v", 0), (D_V, "v", 1)],
        [(W, "v", 1), (I_V + I_R, "r", 1)],
        [(W, "v", 1), (I_V + D_R, "r", 1)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + I_R, "r", 1)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + D_R, "r", 1)],
    ],
    "defer": [
        [(W, "v", 0), (A, "v", 0)],
        [(W, "v", 1), (I_V, "v", 1)],
        [(W, "v", 0), (D_V, "v", 1)],
        [(W, "v", 1), (I_V, "v", 1), (I_V + I_R, "r", 1)],
        [(W, "v", 1), (I_V, "v", 1), (I_V + D_R, "r", 1)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + I_R, "r", 1)],
        [(W, "v", 0), (D_V, "v", 1), (D_V + D_R, "r", 1)],
    ],
    "dfsn_feature": [[(W // 2, "v", 0)]] * 7,
}
TABLE["ddfm"] = [[(W, "v", 0), (A, "v", 0)], *TABLE["es_dfm"][1:]]


def test_trajectory_names_the_seven_fates():
    np.testing.assert_array_equal(trajectory(fates_log(), WINDOWS), list(Trajectory))


@pytest.mark.parametrize("fate", list(Trajectory))
@pytest.mark.parametrize("method", sorted(TABLE))
def test_deliver_equals_the_delivery_table(method, fate):
    rows = deliver(fates_log(), WINDOWS, RULES[method])
    own = Rows(*(column[rows.click == fate] for column in rows))
    assert listed(own, 1_000) == sorted(TABLE[method][fate], key=lambda row: row[0])


def test_methods_share_the_rules_of_their_family():
    assert RULES["fnw"] == RULES["fnc"]
    assert RULES["dfsn_unbias"].emits == RULES["fnc"].emits
    for method in ("defuse", "miss", "dfsn"):
        assert RULES[method] == RULES["es_dfm"]


def test_feature_rows_of_dfsn_are_positive_within_half_the_window():
    log = make_log([0, 0], [432, 433], [MISSING, MISSING])
    rows = deliver(log, WINDOWS, RULES["dfsn_feature"])
    assert rows.pay_label.tolist() == [1, 0]
    assert rows.time.tolist() == [432, 432]


def test_deliver_flags_the_final_rows_of_ddfm_only():
    # D_CONVERSION: (W, 0) d=0, recapture d=1. NO_CONVERSION: (W, 0) d=0, (A, 0) d=1.
    rows = deliver(fates_log(), WINDOWS, RULES["ddfm"])
    for fate in (Trajectory.NO_CONVERSION, Trajectory.D_CONVERSION):
        assert rows.flag[rows.click == fate].tolist() == [False, True]
    assert not rows.flag[rows.click == Trajectory.I_CONVERSION_I_REFUND].any()
    assert not deliver(fates_log(), WINDOWS, RULES["tesla"]).flag.any()


def test_pay_label_of_refund_rows_is_one_but_in_fnc():
    for method in LEARNING:
        rows = deliver(fates_log(), WINDOWS, RULES[method])
        expected = 0 if method in {"fnc", "fnw", "dfsn_unbias"} else 1
        assert (rows.pay_label[~rows.conversion_row] == expected).all()


def test_delay_is_known_on_positive_rows_only():
    rows = deliver(fates_log(), WINDOWS, RULES["tesla"])
    own = rows.click == Trajectory.D_CONVERSION_D_REFUND
    # W: 0, conversion: 1, refund window: 0, refund: 1.
    assert rows.delay[own].tolist() == [MISSING, D_V, MISSING, D_R]


# --- boundaries and late events ----------------------------------------------------------------
def test_final_labels_count_events_strictly_before_the_window_ends():
    click = [0] * 6
    conversion = [A - 1, A, 10, 10, A, MISSING]
    refund = [MISSING, MISSING, 10 + A - 1, 10 + A, A + 5, MISSING]
    y, z, n = final_labels(make_log(click, conversion, refund), WINDOWS)
    assert y.tolist() == [1, 0, 1, 1, 0, 0]
    assert z.tolist() == [0, 0, 1, 0, 0, 0]
    assert n.tolist() == [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("delay", "fate"),
    [(W, Trajectory.I_CONVERSION), (W + 1, Trajectory.D_CONVERSION), (A, Trajectory.NO_CONVERSION)],
)
def test_an_event_at_the_end_of_the_observation_window_is_in_it(delay, fate):
    assert trajectory(make_log([5], [5 + delay], [MISSING]), WINDOWS).item() == fate
    refunded = trajectory(make_log([5], [7], [7 + delay]), WINDOWS).item()
    assert (
        refunded
        == {
            Trajectory.I_CONVERSION: Trajectory.I_CONVERSION_I_REFUND,
            Trajectory.D_CONVERSION: Trajectory.I_CONVERSION_D_REFUND,
            Trajectory.NO_CONVERSION: Trajectory.I_CONVERSION,  # a late refund is none
        }[fate]
    )


@pytest.mark.parametrize("method", sorted(RULES))
def test_late_events_are_delivered_as_if_they_never_came(method):
    late = make_log([0, 0, 0], [A, A + 9, 20], [MISSING, A + 10, 20 + A])
    never = make_log([0, 0, 0], [MISSING, MISSING, 20], [MISSING, MISSING, MISSING])
    for got, expected in zip(
        deliver(late, WINDOWS, RULES[method]), deliver(never, WINDOWS, RULES[method]), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


def test_a_conversion_at_the_end_of_its_window_is_delivered_once_as_positive():
    rows = deliver(make_log([0, 0], [W, W + 1], [MISSING] * 2), WINDOWS, RULES["es_dfm"])
    assert rows.click.tolist() == [0, 1, 1]
    assert rows.time.tolist() == [W, W, W + 1]
    assert rows.pay_label.tolist() == [1, 0, 1]


def test_late_refund_gives_tesla_one_row_not_refunded():
    rows = deliver(make_log([0], [20], [20 + A]), WINDOWS, RULES["tesla"])
    assert listed(rows) == [(W, "v", 1), (20 + W, "r", 0)]


# --- properties of large logs ------------------------------------------------------------------
@pytest.mark.parametrize("method", sorted(RULES))
def test_rows_per_click_follow_from_the_trajectory(method):
    log = random_log(20_000, p_v=0.5, p_r=0.5, late=0.1)
    y, z, _ = (label.astype(int) for label in final_labels(log, WINDOWS))
    fate = trajectory(log, WINDOWS)
    late = np.isin(fate, [2, 5, 6]).astype(int)  # delayed conversion
    late_refund = np.isin(fate, [4, 6]).astype(int)
    one = np.ones_like(y)
    conversion_rows, refund_rows = {
        "pre_trained": (0 * one, 0 * one),
        "oracle": (one, 0 * one),
        "bdl": (one, y),
        "matured": (one, 0 * one),
        "defer": (2 * one, z),
        "ddfm": (1 + late + (1 - y), z),
        "dfsn_feature": (one, 0 * one),
        "tesla": (1 + late, y * (1 + late_refund)),
        **dict.fromkeys(("fnc", "fnw", "dfsn_unbias"), (1 + y, z)),
        **dict.fromkeys(("es_dfm", "defuse", "miss", "dfsn"), (1 + late, z)),
    }[method]
    rows = deliver(log, WINDOWS, RULES[method])
    size, m = y.size, rows.conversion_row
    np.testing.assert_array_equal(np.bincount(rows.click[m], minlength=size), conversion_rows)
    np.testing.assert_array_equal(np.bincount(rows.click[~m], minlength=size), refund_rows)
    assert (np.diff(rows.time) >= 0).all()


# p_v = .066, F_v(W) = .27, p_r = .245, F_r(W) = .545, so p_dp = .04818 and y z = .01617:
# ES-DFM 1 + p_dp + yz; FNC 1 + p_v + yz; TESLA 1 + p_dp + p_v (1 + p_r (1 - F_r));
# DDFM 2 - p_v + p_dp + yz; DEFER 2 + yz. Standard error of 400 k clicks: <= .0009.
@pytest.mark.parametrize(
    ("method", "rows_per_click"),
    [
        ("oracle", 1.0),
        ("bdl", 1.066),
        ("es_dfm", 1.06435),
        ("fnc", 1.08217),
        ("tesla", 1.12154),
        ("ddfm", 1.99835),
        ("defer", 2.01617),
    ],
)
def test_expected_rows_per_click(method, rows_per_click):
    log = random_log(400_000, seed=1)
    rows = deliver(log, WINDOWS, RULES[method])
    assert rows.time.size / log.click_time.size == pytest.approx(rows_per_click, abs=0.003)


@pytest.mark.parametrize("method", sorted(RULES))
def test_permuting_the_clicks_leaves_the_rows_of_each_segment(method):
    log = random_log(5_000, seed=2, p_v=0.5, p_r=0.5, span=17_000)  # many clicks share a second
    order = np.random.default_rng(3).permutation(log.click_time.size)
    order = order[np.argsort(log.click_time[order], kind="stable")]
    assert (order != np.arange(order.size)).any()
    shuffled = log._replace(
        **{name: getattr(log, name)[order] for name in log._fields if name != "cardinalities"}
    )
    split = Split(pretrain_days=0, stream_start_day=0, stream_end_day=6, segment_days=0.25)

    def contents(clicks):
        rows = deliver(clicks, WINDOWS, RULES[method])
        identity = clicks.features[rows.click, 0]
        columns = (split.segments(rows.time), identity, *rows[1:])
        return Counter(zip(*(column.tolist() for column in columns), strict=True))

    assert contents(log) == contents(shuffled)


@pytest.mark.parametrize("method", LEARNING)
def test_rows_come_when_their_label_is_knowable(method):
    log = random_log(20_000, seed=4, p_v=0.5, p_r=0.5, late=0.1)
    rows = deliver(log, WINDOWS, RULES[method])
    assert (rows.time >= log.click_time[rows.click]).all()
    event = np.where(rows.conversion_row, log.conversion_time[rows.click], 0)
    event = np.where(rows.conversion_row, event, log.refund_time[rows.click])
    label = np.where(rows.conversion_row, rows.pay_label, 1 - rows.net_label)
    assert (event[label == 1] != MISSING).all()
    assert (rows.time[label == 1] >= event[label == 1]).all()
    np.testing.assert_array_equal(rows.delay == MISSING, label == 0)


@pytest.mark.parametrize("seconds", [0, 40_000, 300_000, 10**7])
@pytest.mark.parametrize("method", LEARNING)
def test_rows_until_a_moment_ignore_what_comes_after_it(method, seconds):
    log = random_log(3_000, seed=5, p_v=0.5, p_r=0.5, span=400_000, late=0.1)
    # Another future: events after `seconds` move or vanish, new ones appear, later clicks change.
    rng = np.random.default_rng(6)
    known = known_at(log, seconds)
    size, old = log.click_time.size, known.click_time.size
    future = seconds + 1 + rng.integers(0, 2 * A, size)
    click = log.click_time.copy()
    click[old:] = np.sort(future[old:])
    conversion = np.full(size, MISSING)
    conversion[:old] = known.conversion_time
    appears = (conversion == MISSING) & (rng.random(size) < 0.5)
    conversion[appears] = np.maximum(click, future)[appears] + 1
    refund = np.full(size, MISSING)
    refund[:old] = known.refund_time
    appears = (conversion != MISSING) & (refund == MISSING) & (rng.random(size) < 0.5)
    refund[appears] = np.maximum(conversion, future)[appears] + 1
    other = log._replace(click_time=click, conversion_time=conversion, refund_time=refund)
    for future_log in (other, known):
        pair = [deliver(each, WINDOWS, RULES[method]) for each in (log, future_log)]
        for before, after in zip(*pair, strict=True):
            upto = [int((rows.time <= seconds).sum()) for rows in pair]
            np.testing.assert_array_equal(before[: upto[0]], after[: upto[1]])


def test_known_at_holds_events_up_to_the_moment():
    log = make_log([0, 5, 6], [4, 5, MISSING], [6, 5, MISSING])
    known = known_at(log, 5)
    assert known.click_time.tolist() == [0, 5]
    assert known.conversion_time.tolist() == [4, 5]
    assert known.refund_time.tolist() == [MISSING, 5]
    assert known.features.shape == (2, 1)
    for truth in (known.p_convert, known.p_refund):  # hidden
        assert truth.shape == (2,)
        assert np.isnan(truth).all()
    assert not np.isnan(log.p_convert).any()


def test_the_oracle_knows_the_future():
    log = make_log([0], [500], [900])
    rows = deliver(log, WINDOWS, RULES["oracle"])
    assert (rows.time.item(), rows.pay_label.item(), rows.net_label.item()) == (0, 1, 0)
    assert deliver(known_at(log, 0), WINDOWS, RULES["oracle"]).pay_label.item() == 0


def test_refund_rows_may_precede_the_conversion_row():
    # Pays at +300 s and refunds at +480 s: both before the window closes at +864 s.
    rows = deliver(make_log([0], [300], [480]), WINDOWS, RULES["tesla"])
    assert listed(rows) == [(480, "r", 1), (W, "v", 1)]
