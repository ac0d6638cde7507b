import time
from collections import Counter

import numpy as np
import pytest

from adsim.clicklog import MISSING, ClickLog
from predictors.stream import (
    RULES,
    Emit,
    Rows,
    Rule,
    Split,
    Trajectory,
    Windows,
    batches,
    check_log,
    deliver,
    final_labels,
    head_labels,
    known_at,
    refund_targets,
    trajectory,
)

WINDOWS = Windows()
W, A = 864, 259_200  # the default windows, seconds
DAY_17 = 17 * 86_400
LEARNING = sorted(name for name in RULES if not RULES[name].privileged)


def make_log(click, conversion, refund):
    """A log whose only feature is the number of the click in the given order."""
    size = len(click)
    columns = (np.array(column, np.int64) for column in (click, conversion, refund))
    features = np.arange(size, dtype=np.int32)[:, None]
    return ClickLog(*columns, features, (max(size, 1),), np.full(size, 0.1), np.full(size, 0.2))


def random_log(size, seed=0, p_v=0.066, f_v=0.27, p_r=0.245, f_r=0.545, span=25 * 86_400, late=0.0):
    """Clicks with the given rates; a share `late` of the events comes after attribution."""
    rng = np.random.default_rng(seed)

    def delays(in_window):
        early = rng.integers(0, W + 1, size)
        delayed = rng.integers(W + 1, A, size)
        delay = np.where(rng.random(size) < in_window, early, delayed)
        return np.where(rng.random(size) < late, rng.integers(A, 2 * A, size), delay)

    click = np.sort(rng.integers(0, span, size))
    converts = rng.random(size) < p_v
    conversion = np.where(converts, click + delays(f_v), MISSING)
    returns = converts & (rng.random(size) < p_r)
    return make_log(click, conversion, np.where(returns, conversion + delays(f_r), MISSING))


def listed(rows, origin=0):
    """Rows as (seconds, tower, label), "v" for conversion and "r" for refund rows."""
    return [
        (int(t) - origin, "v" if m else "r", int(s if m else 1 - n))
        for t, m, s, n in zip(
            rows.time, rows.conversion_row, rows.pay_label, rows.net_label, strict=True
        )
    ]


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
I_V, D_V, I_R, D_R = 500, 10_000, 300, 50_000  # delays, seconds
FATES = {
    Trajectory.NO_CONVERSION: (None, None),
    Trajectory.I_CONVERSION: (I_V, None),
    Trajectory.D_CONVERSION: (D_V, None),
    Trajectory.I_CONVERSION_I_REFUND: (I_V, I_V + I_R),
    Trajectory.I_CONVERSION_D_REFUND: (I_V, I_V + D_R),
    Trajectory.D_CONVERSION_I_REFUND: (D_V, D_V + I_R),
    Trajectory.D_CONVERSION_D_REFUND: (D_V, D_V + D_R),
}
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


def fates_log():
    times = [[MISSING if t is None else 1_000 + t for t in fate] for fate in FATES.values()]
    conversion, refund = zip(*times, strict=True)
    return make_log([1_000] * len(FATES), conversion, refund)


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


def test_the_oracle_knows_the_future():
    log = make_log([0], [500], [900])
    rows = deliver(log, WINDOWS, RULES["oracle"])
    assert (rows.time.item(), rows.pay_label.item(), rows.net_label.item()) == (0, 1, 0)
    assert deliver(known_at(log, 0), WINDOWS, RULES["oracle"]).pay_label.item() == 0


def test_refund_rows_may_precede_the_conversion_row():
    # Pays at +300 s and refunds at +480 s: both before the window closes at +864 s.
    rows = deliver(make_log([0], [300], [480]), WINDOWS, RULES["tesla"])
    assert listed(rows) == [(480, "r", 1), (W, "v", 1)]


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


def test_train_segments_hold_every_row_of_the_stream_once():
    split = Split()
    rows = deliver(random_log(50_000, seed=10), WINDOWS, RULES["tesla"])
    segments = split.segments(rows.time)
    for k in range(split.num_segments):
        held = np.arange(rows.time.size)[split.train_segment(rows.time, k)]
        np.testing.assert_array_equal(held, np.flatnonzero(segments == k))
    edges = np.array([DAY_17, DAY_17, DAY_17 + 8_640])
    assert split.train_segment(edges, 0) == slice(0, 3)


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
        assert list(batches(held, 10)) == []
        assert times[split.test_segment(times, 69)].size == 0


def test_an_empty_log_gives_no_rows():
    for rule in RULES.values():
        assert all(column.size == 0 for column in deliver(make_log([], [], []), WINDOWS, rule))


def test_a_short_last_batch_is_kept():
    assert list(batches(slice(5, 12), 3)) == [slice(5, 8), slice(8, 11), slice(11, 12)]
    assert list(batches(slice(5, 7), 3)) == [slice(5, 7)]  # a segment smaller than a batch
    assert list(batches(slice(5, 11), 3)) == [slice(5, 8), slice(8, 11)]


def test_a_short_last_batch_is_dropped_on_request():
    assert list(batches(slice(5, 12), 3, drop_last=True)) == [slice(5, 8), slice(8, 11)]
    assert list(batches(slice(5, 7), 3, drop_last=True)) == []


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


def test_batches_reject_an_empty_size():
    with pytest.raises(ValueError, match="batch_size must be >= 1, got 0"):
        list(batches(slice(0, 5), 0))


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


def test_a_million_clicks_are_delivered_in_two_seconds():
    log = random_log(1_000_000, seed=12)
    log = log._replace(features=np.zeros((1_000_000, 22), np.int32), cardinalities=(1,) * 22)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        deliver(log, WINDOWS, RULES["defer"])
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 2
