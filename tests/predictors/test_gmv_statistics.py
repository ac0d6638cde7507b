"""What the GMV predictors tend to in worlds whose truth is known by construction."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from purchase_logs import DAY
from small_gmv import NAMES, World, say, scores, table_log

from predictors import GmvConfig, GmvPretraining
from predictors.gmv_nets import Calibrator
from predictors.nets import Fields
from predictors.purchase_stream import run_gmv_stream
from predictors.stream import Split

SETTINGS = {
    "attribution_seconds": DAY,
    "embedding_dim": 4,
    "encoder_widths": (16,),
    "tower_widths": (8,),
    "router_widths": (16,),
    "calibrator_widths": (8,),
    "batch_size": 32,
    "learning_rate": 0.01,
    "pretrain_learning_rate": 0.01,
}
# Windows of a day; three days, then 24 segments of three hours.
SPLIT = Split(
    pretrain_days=3, stream_start_day=4, stream_end_day=7, segment_days=0.125, closed="left"
)
SETTLED = 12  # segments after which estimates have settled
NAN = math.nan


def clicks(days, per_day, cardinalities, rng):
    """Times (C,) and features (C, F) of clicks, drawn evenly."""
    size = int(days * per_day)
    time = np.sort(rng.integers(0, int(days * DAY), size))
    return time, rng.integers(0, cardinalities, (size, len(cardinalities)))


def delays(count, purchases, rng):
    """Moments (C, K) of purchases in their windows, in order."""
    return np.sort(rng.integers(0, DAY, (count, purchases)), axis=1)


def last_scores(result):
    """Metrics of the clicks after the estimates have settled."""
    return scores(result, result.segment >= SETTLED)


# --- delay alone -------------------------------------------------------------------------------
class Exact(Calibrator):
    """Says what is to come after each of three equal purchases, and some error on top."""

    def __init__(self, *deltas):
        super().__init__(Fields((1,)), (1, 0.1), (1,))
        self.deltas = torch.tensor(deltas)

    def forward(self, ids, elapsed, count):
        return self.deltas[count.long() - 1]


@cache
def pure_delay():
    """Every click buys three times for 100; features say nothing."""
    rng = np.random.default_rng(1)
    time, features = clicks(7.2, 400, (4,), rng)
    delay = delays(time.size, 3, rng)
    return World(
        table_log(time, features, (4,), delay, np.full(delay.shape, 100.0)), SPLIT, **SETTINGS
    )


@pytest.mark.parametrize(
    ("name", "pcoc", "alpr"),
    [
        ("online_single", 2 / 3, math.log2(1.5)),
        ("online_dual", 2 / 3, math.log2(1.5)),
        ("oracle_single", 1, 0),
        ("oracle_dual", 1, 0),
        ("offline_single", 1, 0),
    ],
)
def test_partial_labels_pull_estimates_to_their_median(name, pcoc, alpr):
    # Labels are 100, 200 and 300 in equal shares: the median is 200, the truth 300.
    found = last_scores(run_sure(pure_delay(), name))
    assert found.pcoc == pytest.approx(pcoc, rel=0.03)
    assert found.alpr == pytest.approx(alpr, abs=0.05)


def test_exact_calibration_removes_the_bias():
    deltas = (math.log(301 / 101), math.log(301 / 201), 0.0)
    found = last_scores(run_sure(pure_delay(), "reader", deltas))
    assert found.pcoc == pytest.approx(1, rel=0.03)
    assert found.alpr < 0.05


def run_sure(world, name, deltas=(), **settings):
    """A run whose router is sure of repurchases, and whose calibrator says these deltas."""
    predictor = world.predictor(name, **settings)
    if "router" in predictor.frozen:
        say(predictor.frozen["router"].output, 20.0)
    if deltas:
        predictor.frozen["calibrator"] = Exact(*deltas)
    return run_gmv_stream(predictor, world.stream)


# --- calibration -------------------------------------------------------------------------------
def calibrator_of(delta):
    """A calibrator trained on clicks that buy for 100 and, later, what makes these deltas (C,)."""
    rng = np.random.default_rng(0)
    time = np.sort(rng.integers(0, 4 * DAY, delta.size))
    amount = np.column_stack([np.full(delta.size, 100.0), 101 * np.expm1(delta)])
    features = rng.integers(0, 3, (delta.size, 1))
    log = table_log(time, features, (3,), delays(delta.size, 2, rng), amount)
    # Number and time of purchases weigh at the last layer only, which takes steps.
    settings = SETTINGS | {"calibrator_learning_rate": 0.05}
    return GmvPretraining(log, SPLIT).calibrator(GmvConfig(**settings))


def said(net, count):
    """Mean of what a calibrator says after so many purchases, over moments of the window."""
    moments = torch.linspace(0.05, 0.95, 30)
    ids = Fields((3,)).encode(np.arange(30)[:, None] % 3)
    with torch.no_grad():
        return net(ids, moments, torch.full((30,), float(count))).mean().item()


def test_calibrator_of_two_equal_purchases():
    net = calibrator_of(np.full(8_000, math.log(201 / 101)))
    assert said(net, 1) == pytest.approx(math.log(201 / 101), abs=0.02)
    assert 0 < said(net, 2) < 0.08  # never quite 0: the last purchase is inflated


@pytest.mark.parametrize(("often", "seldom", "mean"), [(0.3, 2.0, 0.725), (1.5, 0.3, 1.2)])
def test_calibrator_tends_to_the_median(often, seldom, mean):
    delta = np.where(np.random.default_rng(2).random(8_000) < 0.75, often, seldom)
    assert delta.mean() == pytest.approx(mean, abs=0.03)
    found = said(calibrator_of(delta), 1)
    assert found == pytest.approx(often, abs=0.05)  # not the mean, which is far away


@cache
def noisy_pairs():
    """Every click buys twice for the same amount, which is lognormal."""
    rng = np.random.default_rng(3)
    time, features = clicks(7.2, 400, (4,), rng)
    amount = 100 * rng.lognormal(0, 0.3, (time.size, 1)).repeat(2, axis=1)
    return World(
        table_log(time, features, (4,), delays(time.size, 2, rng), amount), SPLIT, **SETTINGS
    )


def test_the_last_purchase_is_inflated_without_unlearning():
    world = noisy_pairs()
    predictor, ratio = world.predictor("reader"), []
    for k in range(4):
        predictor.open.update(world.stream.window(k))
        ends = predictor._new_rows("ends")
        predictor.open.close()
        ratio.append(torch.exp(ends.unlearn - ends.target))
    ratio = torch.cat(ratio)
    assert (ratio >= 1).all()
    assert 1.02 < ratio.mean() < 1.6


def test_alignment_and_unlearning_reduce_the_bias_of_an_inflated_calibrator():
    deltas = (math.log(2) + 0.5, 0.5)
    bias = [
        abs(math.log(last_scores(run_sure(noisy_pairs(), "reader", deltas, **settings)).pcoc))
        for settings in (
            {"window_ends": False},
            {"gra_weight": 0.5, "unlearning_weight": 0.0},
            {"gra_weight": 0.5, "unlearning_weight": 0.5},
        )
    ]
    assert bias[0] == pytest.approx(0.5 - 0.3**2 / 2, abs=0.06)
    assert bias[0] - 0.1 > bias[1]
    assert bias[1] - 0.02 > bias[2]


# --- drift -------------------------------------------------------------------------------------
@cache
def immediate(step):
    """Clicks that buy once, at once; prices double at day 6 if `step`."""
    rng = np.random.default_rng(4)
    split = Split(
        pretrain_days=3, stream_start_day=4, stream_end_day=9, segment_days=0.125, closed="left"
    )
    time, features = clicks(9.2, 1_200, (5, 3), rng)
    amount = 30 * 1.5 ** features[:, 0] * rng.lognormal(0, 0.2, time.size)
    if step:
        amount = np.where(time >= 6 * DAY, 2 * amount, amount)
    delay = np.zeros((time.size, 1))
    return World(table_log(time, features, (5, 3), delay, amount[:, None]), split, **SETTINGS)


def course(name, step):
    """ALPR of each segment that is scored, (40,): of clicks from 4.125 days on."""
    result = immediate(step).run(name)
    return np.array([scores(result, result.segment == k).alpr for k in range(40)])


def test_without_drift_late_labels_cost_nothing():
    level = 0.2 * math.sqrt(2 / math.pi) / math.log(2)  # of the noise alone
    found = {
        name: course(name, False)[20:].mean()
        for name in ("offline_single", "online_single", "oracle_single")
    }
    for alpr in found.values():
        assert alpr == pytest.approx(level, abs=0.03)
    assert found["offline_single"] == pytest.approx(found["oracle_single"], abs=0.015)
    # As many steps on the same labels: no gap without drift.
    assert found["online_single"] == pytest.approx(found["offline_single"], abs=0.015)


def test_a_step_in_prices_is_followed_online_and_after_the_lag_offline():
    # Round k scores clicks from day 4.125 + k / 8 on: the step at day 6 is at round 15.
    online, offline, pre = (course(f"{each}_single", True) for each in ("online", "offline", "pre"))
    for alpr in (online, offline, pre):
        assert alpr[8:15].mean() < 0.35
        assert alpr[15] == pytest.approx(1.0, abs=0.15)
    assert online[18:].mean() < 0.35  # within six hours
    # Windows of the new prices close on day 7; the lot of that day is ready at day 8.
    assert offline[15:31].mean() == pytest.approx(1.0, abs=0.1)
    assert offline[33:].mean() < 0.45
    assert pre[15:].mean() == pytest.approx(1.0, abs=0.1)


# --- towers and router -------------------------------------------------------------------------
LEVELS = np.array([0.1, 0.3, 0.5, 0.7, 0.9])  # P(several purchases) by the second feature


@cache
def two_kinds(ratio):
    """Clicks that buy once or twice; who buys twice spends `ratio` times as much."""
    rng = np.random.default_rng(5)
    time, features = clicks(7.2, 2_400, (5, 5), rng)
    several = rng.random(time.size) < LEVELS[features[:, 1]]
    total = 40 * 1.6 ** features[:, 0] * rng.lognormal(0, 0.3, time.size)
    total = np.where(several, ratio * total, total)
    first = np.where(several, 0.4 * total, total)
    amount = np.column_stack([first, np.where(several, total - first, NAN)])
    return World(
        table_log(time, features, (5, 5), delays(time.size, 2, rng), amount), SPLIT, **SETTINGS
    )


def test_the_kind_of_click_helps_only_where_kinds_differ():
    gains = []
    for ratio in (1.0, 3.0):
        single, dual = (
            last_scores(two_kinds(ratio).run(name)) for name in ("oracle_single", "oracle_dual")
        )
        gains.append((single.alpr - dual.alpr, dual.auc - single.auc))
    assert gains[0] == pytest.approx((0, 0), abs=0.02)
    assert gains[1][0] > 0.1
    assert gains[1][1] > 0.02


def test_the_router_is_calibrated_at_temperature_one():
    world = two_kinds(3.0)
    grid = np.stack(np.meshgrid(np.arange(5), np.arange(5)), -1).reshape(-1, 2)
    found = {}
    for temperature in (1.0, 0.5):
        predictor = world.predictor("online_dual", router_temperature=temperature)
        ids = predictor.fields.encode(grid)
        found[temperature] = predictor.repurchase_probability(ids).double().numpy()
    truth = LEVELS[grid[:, 1]]
    assert np.abs(found[1.0] - truth).mean() < 0.03
    assert np.abs(found[1.0] - truth).max() < 0.1
    logit = np.log(found[1.0] / (1 - found[1.0]))
    np.testing.assert_allclose(found[0.5], 1 / (1 + np.exp(-2 * logit)), rtol=1e-4)
    slope = np.polyfit(2 * logit, np.log(truth / (1 - truth)), 1)[0]
    assert slope == pytest.approx(0.5, abs=0.06)  # over-confident: logits are twice too large


@pytest.mark.parametrize("name", sorted(NAMES))
def test_what_can_be_known_bounds_every_method(name):
    world = two_kinds(3.0)
    result = world.run(name)
    found, bound = scores(result), best(world, result)
    if name == "oracle_dual":  # knows the kind of click
        assert found.auc > bound.auc
        assert found.alpr < bound.alpr
    else:
        assert found.auc < bound.auc + 0.01
        assert found.alpr > bound.alpr - 0.01


def best(world, result):
    """Metrics of the conditional medians given the features, on the clicks of a result."""
    rng, draws = np.random.default_rng(6), 20_000
    noise = rng.lognormal(0, 0.3, draws)
    medians = [np.median(np.where(rng.random(draws) < p, 3.0, 1.0) * noise) for p in LEVELS]
    features = world.log.features[result.click]
    truth = 40 * 1.6 ** features[:, 0] * np.array(medians)[features[:, 1]]
    return scores(result._replace(gmv=truth))
