"""Predictors that have learned from the time before a campaign."""

import numpy as np
import pytest
from small_stacks import GMV, NETCVR, SIZE, SMALL, small_warm_up
from threads import one_thread

from adsim.checks import find_difference
from adsim.types import Impressions, Target
from scenarios.build import make_auction_env
from scenarios.estimates import EstimatesWrapper
from scenarios.rungs import HistoryConfig
from scenarios.schema import load
from scenarios.stack import Stack
from scenarios.warmup import WarmUp, as_impressions


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


def test_history_is_known_before_the_campaign():
    # 14 days are 3.5 campaigns of 4 days: 4 of them, 16 days.
    clicks, purchases = small_warm_up().history
    start = 16 * 86_400
    for times in (*clicks[:3], purchases.purchase_time, purchases.refund_time):
        assert times.max() < start
    assert np.isnan(clicks.p_convert).all()
    assert np.isnan(purchases.gmv_truth).all()
    assert clicks.click_time.size == pytest.approx(16 * 150, rel=0.1)
    assert purchases.click_time.size == np.count_nonzero(clicks.conversion_time >= 0)


def test_history_holds_impressions_as_often_as_they_are_clicked():
    # Shares of the 20 items among clicks; those among all impressions are further off.
    world = load("default", SMALL | {"drift.share": 0.0, "effects.click.sd": 1.5}).world
    warm = WarmUp(world, HistoryConfig(days=12, clicks_per_day=2_000, impressions_per_day=20_000))
    item = 1 + len(world.entities.user_cardinalities)
    log, shown = warm.history.clicks, warm.impressions
    shares = [
        np.bincount(features[:, item], minlength=20) / len(features)
        for features in (log.features, shown.features[shown.clicked], shown.features)
    ]
    error = [np.abs(shares[0] - other).sum() for other in shares[1:]]
    assert error[0] < 0.05
    assert error[1] > 2 * error[0]


def test_warm_up_is_kept_and_found_again(tmp_path):
    config = load("default", SMALL).world
    spent = config.campaign.model_copy(update={"budget": 5.0})
    ids = small_warm_up().history.clicks.features[:50]
    shown = Impressions(np.arange(50), np.zeros(50), ids, np.zeros(50, np.int32), np.ones(50))
    one = WarmUp(config, SIZE, cache=tmp_path)
    said = one.predictor("fnc", **NETCVR).predict(shown)
    factor = one.gmv_factor("reader", **GMV)
    files = sorted(tmp_path.iterdir())
    assert [file.name.split("-")[0] for file in files] == ["fnc", "gmv_factor", "reader"]
    other = WarmUp(config.model_copy(update={"campaign": spent}), SIZE, cache=tmp_path)
    assert find_difference(other.predictor("fnc", **NETCVR).predict(shown), said) is None
    assert other.gmv_factor("reader", **GMV) == factor
    assert "history" not in vars(other)  # nothing was drawn
    longer = SIZE.model_copy(update={"days": 17})
    for change in ((config, longer), (config.model_copy(update={"structure_seed": 1}), SIZE)):
        WarmUp(*change, cache=tmp_path).predictor("fnc", **NETCVR)
    assert len(list(tmp_path.iterdir())) == 5


def test_gmv_factor_makes_sums_agree():
    # Amounts are medians in networks; list prices leave out repurchases: both factors are > 1.
    assert small_warm_up().gmv_factor() > 1.3
    assert small_warm_up().gmv_factor("reader", **GMV) > 1


def test_click_predictor_learns_from_impressions():
    predictor = small_warm_up().predictor(
        "scene_input", target="ctr", embedding_dim=2, bottom=(4,), tower=(4,)
    )
    stack = Stack({Target.CTR: predictor})
    wrapper = EstimatesWrapper(make_auction_env(overrides=SMALL), stack)
    (obs, _), over = wrapper.reset(seed=0), False
    while not over:
        obs, _, over, _, _ = wrapper.step(3 * obs["expected_net_value"])
    assert 0.5 < wrapper.calibration()["ctr"].pcoc < 2
    assert wrapper.stack.predictors[0].trained_rows > 0


@pytest.mark.parametrize(
    ("overrides", "name", "text"),
    [
        ({"randomize_structure": True}, "fnc", "structure that is known"),
        ({}, "oracle", "'oracle' has no warm-up: one of apg, bdl, "),
        ({}, "trained_oracle", "has no warm-up"),
        ({"windows.gmv_hours": 400.0}, "reader", "days must be > 16.6667"),
    ],
)
def test_impossible_warm_ups_are_refused(overrides, name, text):
    with pytest.raises(ValueError, match=text):
        WarmUp(load("default", SMALL | overrides).world, SIZE).predictor(name)


def test_cvr_is_calibrated_on_clicks_it_was_not_trained_on(tmp_path):
    warm_up = WarmUp(load("default", SMALL).world, SIZE, cache=tmp_path)
    line = warm_up.cvr_line("tesla", **NETCVR)
    log, tesla = warm_up.history.clicks, warm_up.predictor("tesla", **NETCVR)
    split = warm_up._split(type(tesla), tesla.config)
    since, final = log.click_time / 86_400, split.stream_start_day - 3  # conversions take 3 days
    assert split.pretrain_days == final - 3  # and refunds 3 days more
    rows = (since >= split.pretrain_days) & (since < final)
    assert rows.sum() > 100
    label = log.conversion_time[rows] >= 0
    clicks = as_impressions(log.features[rows])
    said = line.apply(tesla.predict(clicks)[Target.CVR].mean)
    assert said.sum() == pytest.approx(label.sum(), rel=1e-6)  # what calibration does
    again = WarmUp(load("default", SMALL).world, SIZE, cache=tmp_path)
    assert again.cvr_line("tesla", **NETCVR) == line
    assert "history" not in vars(again)  # taken from the cache
