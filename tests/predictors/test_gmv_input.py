"""Unusual streams, campaigns and bad input of GMV predictors, each with its defined outcome."""

import math

import numpy as np
import pytest
import torch
from purchase_logs import DAY
from pydantic import ValidationError
from small_gmv import (
    LEARNING,
    NAMES,
    SPLIT,
    attached,
    fitted,
    gmv,
    learned,
    new_predictor,
    played,
    single_buys,
    small_log,
    some_ids,
    stream,
    without,
)
from small_predictors import differing, state
from small_worlds import SMALL_WORLD

from adsim.checks import check_predictor, collect_windows
from adsim.source import SyntheticSource
from adsim.types import EventKind
from predictors import GmvConfig, Reader, ReaderConfig, load_predictor
from predictors.gmv import GmvRows
from predictors.purchase_rows import num_purchases
from predictors.purchase_stream import PurchaseStream
from predictors.stream import Split
from scenarios.build import make_auction_env
from scenarios.schema import load

ALL = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("quirks", [False, True], ids=["paper", "published"])
ONLINE = sorted(set(LEARNING) - {"offline_single", "offline_dual"})  # train in every window


# --- few rows ----------------------------------------------------------------------------------
@ALL
@BOTH
def test_an_empty_segment_changes_nothing(name, quirks, tmp_path):
    predictor = fitted(name, follow=False, official_quirks=quirks)
    before = learned(state(predictor, tmp_path))
    window = stream().window(0, privileged=predictor.privileged)
    none = {
        n: type(part)._make(c[:0] for c in part)
        for n, part in zip(window._fields[1:], window[1:], strict=True)
    }
    nothing = window._replace(**none)
    assert predictor.partial_fit(nothing) is predictor
    assert differing(before, learned(state(predictor, tmp_path))) == set()
    assert predictor.losses == []
    assert gmv(predictor, some_ids(0)).shape == (0,)


@pytest.mark.parametrize("name", ONLINE)
def test_too_few_rows_wait_for_the_next_window(name):
    # A quarter of a batch is 8 rows: 7 in segment 0, one more in segment 1.
    plays = PurchaseStream(single_buys(*range(10, 80, 10), 11_000), SPLIT, attribution_seconds=DAY)
    predictor = fitted(name, follow=False, log=plays.log)
    before = gmv(predictor, some_ids(7))
    played(predictor, [0], plays)
    assert [len(rows.ids) for rows in predictor._held.values()] == [7]
    assert predictor.losses == []
    np.testing.assert_array_equal(gmv(predictor, some_ids(7)), before)
    played(predictor, [1], plays)
    assert predictor._held == {}
    assert (predictor.trained_rows, len(predictor.losses)) == (8, 1)
    assert (gmv(predictor, some_ids(7)) != before).any()


# --- campaigns ---------------------------------------------------------------------------------
SMALL = SMALL_WORLD | {"time.num_ticks": 16, "campaign.budget": 10_000.0}


def campaign_predictor(name):
    """Fitted to other clicks with the features of an environment's impressions."""
    log, sizes = small_log(), SyntheticSource(load("default", SMALL).world, 1).cardinalities
    features = np.random.default_rng(0).integers(0, sizes, (log.click_time.size, len(sizes)))
    log = log._replace(features=features.astype(np.int32), cardinalities=sizes)
    return new_predictor(name, sizes).fit(stream(log).history(), SPLIT)


@pytest.mark.parametrize("name", ["reader", "offline_dual", "online_single"])
def test_predictors_keep_their_contract_in_a_campaign(name):
    check_predictor(lambda: campaign_predictor(name), lambda: make_auction_env(overrides=SMALL))


def test_windows_of_an_environment_bring_rows():
    env = make_auction_env(overrides=SMALL)
    windows = [window for _, window in collect_windows(env, seed=1)]
    predictor, click, bought = campaign_predictor("reader"), {}, []
    for window in windows:
        ids, hours = window.clicks.impression_id, window.clicks.time_hours
        click |= dict(zip(ids.tolist(), hours.tolist(), strict=True))
        events = window.events
        rows = np.flatnonzero(events.kind == EventKind.PURCHASE)
        columns = (events.click_id[rows], events.order_id[rows], events.time_hours[rows])
        bought += list(zip(*(column.tolist() for column in columns), strict=True))
        predictor.partial_fit(window)
    now = windows[-1].now_hours  # what comes after the campaign is told at its end
    taken = [(i, n) for i, n, hours in bought if hours < click[i] + 24 and hours <= now]
    ends = sum(click[i] + 24 <= now for i, n in taken if n == 0)
    held = sum(len(rows.ids) for rows in predictor._held.values())
    assert predictor.trained_rows + held == len(taken) + ends > 30


# --- before and besides the stream -------------------------------------------------------------
@ALL
def test_untrained_predictors_ask_for_fit(name):
    predictor = attached(new_predictor(name))
    with pytest.raises(RuntimeError, match=rf"{name}: call fit\(history\)"):
        predictor.partial_fit(stream().window(0))
    with pytest.raises(RuntimeError, match=rf"{name}: call fit\(history\)"):
        predictor.predict(some_ids(3))


def test_the_dual_oracle_must_be_told_the_kinds_of_clicks(tmp_path):
    predictor = new_predictor("oracle_dual").fit(stream().history(), SPLIT)
    with pytest.raises(RuntimeError, match=r"oracle_dual: call attach\(log\) first"):
        predictor.predict(some_ids(3))
    assert predictor.attach(small_log()) is predictor
    size = small_log().click_time.size
    for bad in (-1, size):
        wrong = some_ids(1)._replace(impression_id=np.array([bad]))
        with pytest.raises(ValueError, match=rf"impression_id must be in \[0, {size}\)"):
            predictor.predict(wrong)
    predictor.save(tmp_path / "kept.npz")  # without the log
    with pytest.raises(RuntimeError, match=r"oracle_dual: call attach\(log\) first"):
        load_predictor(tmp_path / "kept.npz").predict(some_ids(3))


def test_other_fields_are_rejected():
    predictor = new_predictor("reader", (3, 4))
    with pytest.raises(ValueError, match=r"history must have cardinalities \(3, 4\), got \(30,"):
        predictor.fit(stream().history(), SPLIT)


def at_place(name, place, value):
    """A column of the history with another value at a place."""
    values = getattr(stream().history(), name).copy()
    values[place] = value
    return {name: values}


BAD = {
    "amount": (
        at_place("amount", 9, math.nan),
        r"amount must be finite and >= 0, got nan at purchase 9",
    ),
    "moment": (at_place("purchase_time", 0, 0), r"purchase_time must be in \[0, 86400\) s after"),
    "order": (at_place("click_time", 5, 0), r"click_time .* at click 5"),
    "id": (
        at_place("features", (7, 1), 6),
        r"features\[:, 1\] must be in \[0, 6\), got 6 at click 7",
    ),
    "offset": (at_place("offset", 0, 1), r"offset must go from 0 to \d+, got 1 to"),
}


@pytest.mark.parametrize("name", ["pre_single", "reader"])
@pytest.mark.parametrize("case", BAD)
def test_a_history_with_a_bad_entry_is_rejected(name, case):
    columns, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        new_predictor(name).fit(stream().history()._replace(**columns), SPLIT)


def test_a_history_of_longer_windows_is_rejected():
    with pytest.raises(
        ValueError, match=r"purchase_time must be in \[0, 3600\) s after the click's"
    ):
        new_predictor("online_single", attribution_seconds=3_600).fit(stream().history(), SPLIT)


@ALL
def test_a_history_without_clicks_to_train_on_is_rejected(name):
    late = without(small_log(), small_log().click_time < 3 * DAY)
    with pytest.raises(ValueError, match="history must have clicks before day 3"):
        new_predictor(name).fit(late, SPLIT)


def test_a_calibrator_needs_repurchases():
    singles = without(small_log(), num_purchases(small_log()) > 1)
    with pytest.raises(ValueError, match="history must have clicks with more than one purchase"):
        new_predictor("reader").fit(stream(singles).history(), SPLIT)
    for name in ("online_dual", "pre_single"):  # others do without
        predictor = new_predictor(name).fit(stream(singles).history(), SPLIT)
        assert np.isfinite(gmv(predictor, some_ids())).all()
    found = new_predictor("reader", calibrate=False).fit(stream(singles).history(), SPLIT)
    assert found.frozen.keys() == {"router"}


@ALL
def test_windows_must_have_closed_before_the_stream(name):
    split = Split(pretrain_days=3.5, stream_start_day=4, stream_end_day=5, segment_days=1)
    with pytest.raises(
        ValueError, match=r"stream_start_day - pretrain_days must be >= 1.0, got 0.5"
    ):
        new_predictor(name).fit(stream().history(), split)


# --- settings ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("attribution_seconds", 0),
        ("embedding_dim", 0),
        ("embedding_sd", 0.0),
        ("encoder_widths", ()),
        ("tower_widths", (16, 0)),
        ("router_widths", ()),
        ("calibrator_widths", (-1,)),
        ("head", "three"),
        ("bottom", "both"),
        ("routing", "soft"),
        ("mixing", "both"),
        ("router_temperature", 0.0),
        ("router_low", -0.1),
        ("router_high", 1.1),
        ("batch_size", 3),
        ("learning_rate", 0.0),
        ("weight_decay", -0.1),
        ("rate_decay", 0.0),
        ("rate_decay", 1.1),
        ("pretrain_learning_rate", 1.5),
        ("calibrator_learning_rate", 0.0),
        ("calibrator_learning_rate", 1.5),
        ("pretrain_epochs", 0),
        ("gra_weight", -0.1),
        ("unlearning_weight", -0.1),
        ("unlearning_weight", 1.0),
        ("unlearning_weight", 1.5),
        ("no_such_setting", 1),
    ],
)
def test_settings_out_of_range_are_rejected(field, value):
    with pytest.raises(ValidationError, match=field):
        ReaderConfig(**{field: value})


def test_the_router_s_zones_do_not_overlap():
    with pytest.raises(ValidationError, match="router_low must be <= router_high"):
        GmvConfig(router_low=0.9, router_high=0.1)
    assert GmvConfig(router_low=0.5, router_high=0.5).router_low == 0.5


def test_settings_of_reader_are_not_those_of_all():
    with pytest.raises(ValidationError, match="gra_weight"):
        GmvConfig(gra_weight=0.1)
    with pytest.raises(ValidationError, match="frozen"):
        ReaderConfig().gra_weight = 0.2
    with pytest.raises(ValidationError, match="gra_weight"):
        new_predictor("online_dual", gra_weight=0.1)


def test_reader_takes_the_settings_of_all():
    for config, expected in (
        (GmvConfig(official_quirks=True), ReaderConfig(official_quirks=True)),
        (None, ReaderConfig()),
        (ReaderConfig(calibrate=False), ReaderConfig(calibrate=False)),
    ):
        predictor = Reader((3,), config)
        assert type(predictor.config) is ReaderConfig
        assert predictor.config == expected


@pytest.mark.parametrize(
    ("quirks", "in_logs", "temperature", "loss"),
    [(False, True, 0.7, 1 + 0.1 * (3 - 0.5 * 2)), (True, False, 0.5, 2 + 0.1 * (3 - 0.5 * 2))],
    ids=["ours", "published"],
)
def test_defaults_and_what_the_published_code_has_in_their_place(
    quirks, in_logs, temperature, loss
):
    config = ReaderConfig(official_quirks=quirks)
    assert (config.mixing, config.router_temperature, config.gra_in_main) == (None, None, False)
    assert (config.mixes_logs, config.temperature) == (in_logs, temperature)
    assert (config.pretrain_learning_rate, config.calibrator_learning_rate) == (1e-3, 1e-2)
    # Errors 1 of a purchase and 3 of the end of a window, whose last purchase was taught 2 less:
    # with quirks the mean is over both, else over purchases.
    predicted, target, unlearn = torch.tensor([[5.0, 5.0], [4.0, 2.0], [0.0, 3.0]])
    end = torch.tensor([0.0, 1.0])
    batch = GmvRows(torch.zeros(2, 1), target, torch.ones(2), end, unlearn)
    assert Reader((1,), config).loss(predicted, batch).item() == pytest.approx(loss)


@pytest.mark.parametrize("quirks", [False, True], ids=["ours", "published"])
def test_given_settings_replace_the_defaults(quirks):
    given = {"mixing": "log", "router_temperature": 2.0, "calibrator_learning_rate": 0.03}
    config = GmvConfig(official_quirks=quirks, **given)
    assert (config.mixes_logs, config.temperature) == (True, 2.0)
    assert config.calibrator_learning_rate == 0.03
    assert not GmvConfig(official_quirks=quirks, mixing="currency").mixes_logs


# --- devices -----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["reader", "online_single"])
def test_networks_and_rows_are_on_the_predictor_s_device(name, monkeypatch):
    predictor = fitted(name)
    seen, step = [], predictor._step
    monkeypatch.setattr(predictor, "_step", lambda batch: seen.append(batch) or step(batch))
    played(predictor, [0])
    assert predictor.device == torch.device("cpu")
    assert {column.device.type for batch in seen for column in batch} == {"cpu"}
    with pytest.raises(RuntimeError, match="no_such_device"):
        new_predictor(name, device="no_such_device")


@pytest.mark.gpu
def test_reader_trains_on_a_cuda_device(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    found = []
    for device in ("cpu", "cuda"):
        predictor = new_predictor("reader", device=device)
        predictor.fit(stream().history(), SPLIT, follow=True)
        found.append(played(predictor, range(3))[-1])
    np.testing.assert_allclose(found[0], found[1], rtol=0.05)
    predictor.save(tmp_path / "kept.npz")
    expected = played(predictor, [3])[0]
    for device in ("cpu", "cuda"):
        loaded = load_predictor(tmp_path / "kept.npz", device)
        assert loaded.device.type == device
        np.testing.assert_allclose(played(loaded, [3])[0], expected, rtol=0.05)
