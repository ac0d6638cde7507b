import json

import numpy as np
import pytest
from command_line import adsim

from adsim.clicklog import MISSING
from adsim.purchaselog import PurchaseLog, generate_purchases
from adsim.structure import Structure
from predictors.gmv_metrics import pairwise_auc
from scenarios import load
from scenarios import trace_facts as facts
from scenarios.describe_trace import (
    CLASSES,
    LEVELS,
    PANELS,
    SHOWN,
    cumulative,
    describe,
    expected_hourly,
    has_truth,
    recurring_share,
    save_figures,
    summary,
)

HOUR, DAY = 3_600, 86_400
SHORT = ("--clicks", "10000", "--set", "time.num_ticks=240")
SCENARIOS = ("trace", "trace_many", "trace_still")


def make_log(click, purchases, truth=None, p_repurchase=None):
    """A log without features: click times, and per click (hours after it, amount) pairs."""
    flat = [
        (c + int(h * HOUR), a)
        for c, bought in zip(click, purchases, strict=True)
        for h, a in bought
    ]
    times, amounts = zip(*flat, strict=True)
    size, unknown = len(click), np.full(len(click), np.nan)
    return PurchaseLog(
        *(np.array(click, np.int64), np.zeros((size, 0), np.int32), ()),
        np.cumsum([0, *(len(bought) for bought in purchases)]),
        *(np.array(times), np.array(amounts, float), np.full(len(flat), MISSING)),
        unknown if truth is None else np.array(truth, float),
        unknown if p_repurchase is None else np.array(p_repurchase, float),
        unknown,
    )


# Four clicks: at 00:00 (GMV 80), 00:30 (20 + 60 = 80), 13:00 (30, one of its two too late) and at
# 13:00 of the next day (80).
FOUR = make_log(
    [0, HOUR // 2, 13 * HOUR, DAY + 13 * HOUR],
    [[(0.5, 80)], [(1.5, 20), (25.0, 60)], [(3.0, 30), (168.0, 500)], [(167.9, 80)]],
)


def by_figure(rows):
    """{figure: {at: row}}."""
    figures = {}
    for row in rows:
        figures.setdefault(row.figure, {})[row.at] = row
    return figures


def simulated(figures, name):
    return np.array([row.simulated for row in figures[name].values()])


def deviation(figures, name):
    return np.array([row.deviation for row in figures[name].values()])


def test_clicks_are_summed_within_the_window():
    clicks = summary(FOUR)
    assert clicks.gmv.tolist() == [80, 80, 30, 80]
    assert clicks.several.tolist() == [False, True, False, False]
    assert clicks.hour.tolist() == [0, 0, 13, 13]
    assert clicks.share.tolist() == [1.0, 0.25, 0.75, 1.0, 1.0]


def test_cumulative_share_is_the_mean_over_clicks():
    curve = cumulative(summary(FOUR))
    assert curve.shape == (168,)
    # Hour 0: all of the first; 1: a quarter of the second; 3: the third; 25: the rest of the
    # second; 167: the fourth.
    shares = [curve[k] for k in (0, 1, 2, 3, 24, 25, 166, 167)]
    expected = [1, 1.25, 1.25, 2.25, 2.25, 3, 3, 4]
    assert shares == pytest.approx(np.array(expected) / 4)


def test_rows_of_a_log_without_a_truth():
    figures = by_figure(describe(FOUR))
    assert not has_truth(FOUR)
    assert set(figures) == {name for panel in PANELS for name, _ in panel.columns} - {"AUC"}
    share = figures["share"]
    assert share["more than one purchase"].simulated == 0.25
    assert share["more than one purchase"].deviation == pytest.approx(0.25 - 0.5355)
    # Of the single purchases 80, 30 and 80 two have a price that occurs again.
    assert share["single: price occurs again"].simulated == pytest.approx(2 / 3)
    assert np.isnan(share["single: price occurs again"].published)
    assert simulated(figures, "mean GMV") == pytest.approx([190 / 3, 80])
    hourly = figures["mean GMV by hour"]
    assert (hourly["00"].simulated, hourly["13"].simulated) == (80, 55)
    assert np.isnan(hourly["12"].simulated)
    assert hourly["13"].published == 403.8
    seen = figures["GMV seen"]
    assert (seen["0"].simulated, seen["24"].simulated) == (25.0, 56.25)
    assert (seen["0"].published, seen["24"].published) == (40.9, 62.9)
    median = figures[f"log GMV, {CLASSES[0]}"]["50 %"]
    assert (median.published, median.simulated) == (4.75, pytest.approx(np.log(80)))


def test_the_truth_replaces_outcomes_of_the_hours():
    log = FOUR._replace(
        gmv_truth=np.array([10.0, 30.0, 1.0, 3.0]), p_repurchase=np.array([0.4, 0.6, 0.7, 0.1])
    )
    figures = by_figure(describe(log))
    hourly = figures["mean GMV by hour"]
    assert (hourly["00"].simulated, hourly["13"].simulated) == (20, 2)
    # The second click has several in its window; of the three others the third outranks it.
    assert figures["AUC"]["more than one purchase"].simulated == pytest.approx(2 / 3)
    given = by_figure(describe(log, np.arange(24.0)))
    assert simulated(given, "mean GMV by hour").tolist() == list(range(24))


def test_recurring_share():
    assert recurring_share(np.array([1.0, 2.0, 1.0, 3.0])) == 0.5
    assert recurring_share(np.array([1.0, 2.0])) == 0.0


@pytest.mark.parametrize("purchases", [[(1, 5)], [(1, 5), (2, 5)]])
def test_a_log_of_one_class_is_refused(purchases):
    with pytest.raises(ValueError, match=r"has (1 and 0|0 and 1)"):
        describe(make_log([0], [purchases]))


def test_facts_are_consistent():
    k, seen = zip(*facts.CUMULATIVE, strict=True)
    assert list(k) == sorted(set(k))
    assert list(seen) == sorted(seen)
    assert (k[-1], seen[-1]) == (facts.WINDOW_HOURS - 1, 100.0)
    assert set(SHOWN) < set(k)
    for quantiles in (facts.SINGLE_LOG_GMV, facts.REPURCHASE_LOG_GMV):
        assert len(quantiles) == len(facts.LEVELS) == len(LEVELS)
        assert list(quantiles) == sorted(quantiles)


def test_expected_hours_are_the_means_of_the_truth():
    # Pooled over a log whose clicks are alike in all hours but for luck: within 5 standard errors.
    world = load("trace", {"traffic.profile": "flat"}).world
    log = generate_purchases(world, 1)
    expected = expected_hourly(world, 1, log)
    hour = log.click_time // HOUR % 24
    for h in (0, 5, 9, 23):
        truth = log.gmv_truth[hour == h]
        error = truth.std() / np.sqrt(truth.size)
        assert truth.mean() == pytest.approx(expected[h], abs=5 * error)
    assert expected.mean() == pytest.approx(log.gmv_truth.mean(), rel=0.01)


# The calibration of the three scenarios.


@pytest.fixture(scope="module", params=SCENARIOS)
def calibrated(request):
    """Figures of a scenario, with another seed than the one it was calibrated with."""
    world = load(request.param).world
    log = generate_purchases(world, 1)
    return request.param, world, log, by_figure(describe(log, expected_hourly(world, 1, log)))


def test_calibrated_sizes(calibrated):
    name, _, log, _ = calibrated
    days = log.click_time // DAY
    assert (days.min(), days.max()) == (0, 81)
    per_day = np.bincount(days)
    assert 4_800 < per_day.min() < per_day.max() < 6_200
    number = np.diff(log.offset)
    mean = number[number > 1].mean()
    assert mean == pytest.approx(4.48 if name == "trace_many" else 2.25, abs=0.03)


def test_calibrated_repurchase_share(calibrated):
    *_, figures = calibrated
    row = figures["share"]["more than one purchase"]
    assert abs(row.deviation) < 0.005
    # The published model of it has an AUC above .80: the truth ranks better.
    assert 0.84 < figures["AUC"]["more than one purchase"].simulated < 0.88


def test_calibrated_hours(calibrated):
    *_, figures = calibrated
    name = "mean GMV by hour"
    relative = simulated(figures, name) / np.array(facts.HOURLY_GMV) - 1
    assert np.abs(relative).max() < 0.02


def test_calibrated_cumulative_share(calibrated):
    _, _, log, figures = calibrated
    assert np.abs(deviation(figures, "GMV seen")).max() < 1.0
    curve = 100.0 * cumulative(summary(log))
    assert max(abs(curve[k] - seen) for k, seen in facts.CUMULATIVE) < 1.5


@pytest.mark.parametrize("kind", CLASSES)
def test_calibrated_quantiles(calibrated, kind):
    *_, figures = calibrated
    off = np.abs(deviation(figures, f"log GMV, {kind}"))
    assert off[1:-1].max() < 0.1  # 5 % to 95 %
    assert off.max() < 0.3


def test_calibrated_single_purchases_at_the_list_price(calibrated):
    _, world, _, figures = calibrated
    measured = figures["share"]["single: price occurs again"].simulated
    assert measured == pytest.approx(world.purchase.exact_share, abs=0.01)


def test_calibrated_first_purchases_are_small_or_like_the_others(calibrated):
    name, _, log, _ = calibrated
    twice = np.flatnonzero(np.diff(log.offset) > 1)
    first = log.amount[log.offset[twice]]
    later = log.amount[log.offset[twice] + 1]
    gap = {"trace": 1.17, "trace_still": 1.14, "trace_many": 0.0}[name]
    assert np.log(later / first).mean() == pytest.approx(gap, abs=0.02)


def test_calibrated_truth_ranks_gmv(calibrated):
    name, _, log, _ = calibrated
    measured = pairwise_auc(summary(log).gmv, log.gmv_truth)
    expected = {"trace": 0.841, "trace_still": 0.843, "trace_many": 0.789}[name]
    assert measured == pytest.approx(expected, abs=0.005)


def test_clicks_on_cheap_items_buy_again_more_often_but_in_the_contrast(calibrated):
    # Buying again raises GMV, and so does a dear item: opposed, the two cancel.
    name, world, log, _ = calibrated
    structure = Structure(world, world.structure_seed)
    user_fields, item = structure.user_ids.shape[1], structure.item_ids[:, 0]
    log_price = np.full(item.max() + 1, np.nan)  # by item id
    log_price[item] = np.log(structure.list_price)
    price = log_price[log.features[:, user_fields]]
    with_price = np.corrcoef(price, log.p_repurchase)[0, 1]
    with_gmv = np.corrcoef(np.log(log.gmv_truth), log.p_repurchase)[0, 1]
    if name == "trace_many":
        assert abs(with_price) < 0.1
        assert 0.15 < with_gmv < 0.3
    else:
        assert -0.35 < with_price < -0.2
        assert abs(with_gmv) < 0.1


@pytest.mark.parametrize(
    ("name", "amounts"), [("trace", 0.8), ("trace_many", 0.8), ("trace_still", 0.0)]
)
def test_only_amounts_drift_if_anything_does(name, amounts):
    world = load(name).world
    assert world.drift.share == 0.0
    assert (world.effects.amount.drift_share or 0.0) == amounts
    others = (world.effects.conversion, world.effects.refund, world.effects.repurchase)
    assert {head.drift_share for head in others} == {None}


# The command.


def test_command_prints_a_table_per_panel():
    status, out, _ = adsim("data", "describe", "trace", *SHORT)
    assert status == 0
    text = " ".join(out.split())
    for panel in PANELS:
        assert " ".join(panel.title.split(",")[0].split()[:3]) in text
    assert "against the published TRACE" in text


def test_command_emits_rows_as_json():
    arguments = ("data", "describe", "trace_many", *SHORT, "--seed", 3, "--json")
    status, out, _ = adsim(*arguments)
    assert status == 0
    emitted = json.loads(out)
    assert emitted["scenario"] == "trace_many"
    assert emitted["clicks"] == pytest.approx(10_000, rel=0.05)
    rows = emitted["rows"]
    assert len(rows) == 2 + 2 + 24 + len(SHOWN) + 2 * 9 + 1
    assert {tuple(row) for row in rows} == {("figure", "at", "published", "simulated", "deviation")}
    assert json.loads(adsim(*arguments)[1]) == emitted


def test_figures_are_written_once_and_the_same(tmp_path):
    world = load("trace", {"time.num_ticks": 48}).world
    log, hourly = generate_purchases(world, 0), np.array(facts.HOURLY_GMV)
    paths = save_figures(log, hourly, tmp_path / "new")
    assert [path.name for path in paths] == [
        "hourly_gmv.png",
        "cumulative_share.png",
        "log_gmv.png",
    ]
    first = [path.read_bytes() for path in paths]
    assert all(content.startswith(b"\x89PNG") for content in first)
    again = save_figures(log, hourly, tmp_path / "new")
    assert [path.read_bytes() for path in again] == first


def test_command_writes_figures(tmp_path):
    status, out, _ = adsim("data", "describe", "trace", *SHORT, "--out", tmp_path)
    assert status == 0
    assert "log_gmv.png" in out.replace("\n", "")
    assert len(list(tmp_path.glob("*.png"))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("trace_none",), "does not exist"),
        (("trace", "--clicks", "0"), "--clicks: must be >= 1, got 0"),
        (("trace", "--seed", "-1"), "--seed: must be >= 0, got -1"),
        (("trace", *SHORT, "--set", "purchase.max_purchases=1"), "with one purchase"),
        (("cascade", "--out", "x"), "--out: only scenarios whose name starts with `trace`"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_line(arguments, message):
    status, _, err = adsim("data", "describe", *arguments)
    assert status == 2
    assert message in err
