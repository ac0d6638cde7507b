"""What predictors for several scenes are given: settings, logs, networks before the stream."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from small_scenes import (
    NAMES,
    SCENE,
    SETTINGS,
    SPLIT,
    build,
    clicks,
    fitted,
    means,
    new_predictor,
    shown,
    stream,
)

from adsim.checks import check_predictor
from predictors import MiDpgSettings, SceneConfig, ScenePretraining, scenes
from predictors.base import PREDICTORS
from predictors.delivery import Windows
from predictors.impression_stream import ImpressionStream
from predictors.nets import state_arrays
from predictors.scene_nets import LEAST_ROWS
from predictors.scene_pretraining import MmoeConfig, PleConfig, StarConfig
from predictors.stream import LogStream, Split
from scenarios.build import make_auction_env

ALL = pytest.mark.parametrize("name", NAMES)


# --- settings ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("shared_mlp", {"target": "gmv"}, "target"),
        ("shared_mlp", {"scene_field": -1}, "scene_field"),
        ("shared_mlp", {"scene_dim": 0}, "scene_dim"),
        ("shared_mlp", {"scene_sd": -0.1}, "scene_sd"),
        ("shared_mlp", {"bottom": (0,)}, "bottom"),
        ("shared_mlp", {"tower": (-3,)}, "tower"),
        ("shared_mlp", {"pretrain_epochs": 0}, "pretrain_epochs"),
        ("shared_mlp", {"official_quirks": True}, "no code of MI-DPG is published"),
        ("shared_mlp", {"experts": 2}, "experts"),  # of another method
        ("mmoe", {"experts": 0}, "experts"),
        ("ple", {"own": 0}, "own"),
        ("ple", {"shared": 0}, "shared"),
        ("ple", {"levels": 0}, "levels"),
        ("star", {"auxiliary": -1}, "auxiliary"),
        ("apg", {"rank": 0}, "rank"),
        ("pepnet", {"gate_width": 0}, "gate_width"),
        ("mi_dpg", {"weighting": {"rank": 0}}, "rank"),
        ("mi_dpg", {"information": {"weight": -1}}, "weight"),
        ("mi_dpg", {"information": {"estimator": "gaussian"}}, "estimator"),
    ],
)
def test_wrong_settings_are_named(name, wrong, says):
    with pytest.raises(ValidationError, match=says):
        new_predictor(name, **wrong)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mmoe", {"experts": 0}, "experts must be >= 1, got 0"),
        ("ple", {"own": 0}, "own must be >= 1, got 0"),
        ("ple", {"shared": 0}, "shared must be >= 1, got 0"),
        ("ple", {"levels": 0}, "levels must be >= 1, got 0"),
        ("star", {"auxiliary": -1}, "auxiliary must be >= 0, got -1"),
        ("apg", {"rank": 0}, "rank must be >= 1, got 0"),
        ("pepnet", {"gate_width": 0}, "gate_width must be >= 1, got 0"),
    ],
)
def test_wrong_arguments_of_networks_are_named(name, options, says):
    with pytest.raises(ValueError, match=says):
        build(name, **options)


@pytest.mark.parametrize(
    ("name", "settings", "more"),
    [
        ("mmoe", {"experts": 5}, 56 + 3 * 6),  # an expert 6-8, an input of the gates
        ("ple", {"levels": 3}, 2 * 72 + 3 * 72 + 3 * 24 + 40),  # a level and its shared gate
        ("ple", {"shared": 3}, 56 + 72 + 3 * 6 + 3 * 8 + 6),
        ("star", {"auxiliary": 0}, -(16 * 8 + 16 + 17) - 3 * 2),
        ("star", {"partitioned": False}, -(12 + 3 * 12)),
        ("pepnet", {"gate_width": 17}, 3 * 9 + 6 + 8 + 4),  # a unit of three gates
        ("mi_dpg", {"weighting": {"layer_biases": True}}, 3 * (8 + 4)),
    ],
)
def test_settings_reach_the_network(name, settings, more):
    plain, other = (new_predictor(name, **each).num_parameters for each in ({}, settings))
    assert other.total - plain.total == more


def test_ranks_reach_the_network():
    # Per layer r (inputs + outputs) and 33 r^2: layers 6-8, 8-4 and 4-1.
    one, two = (new_predictor("mi_dpg", weighting={"rank": r}).num_parameters.total for r in (1, 2))
    assert two - one == (14 + 12 + 5) + 3 * 33 * 3
    assert new_predictor("apg", rank=2).num_parameters != new_predictor("apg").num_parameters


@pytest.mark.parametrize("place", [4, 14])
def test_scene_must_be_a_field(place):
    with pytest.raises(ValueError, match=rf"scene_field must be in \[0, 4\) .* got {place}"):
        new_predictor("mi_dpg", scene_field=place)


def test_scene_must_not_be_the_only_field():
    with pytest.raises(ValueError, match="not the only field"):
        PREDICTORS["mi_dpg"]((3,), MiDpgSettings(scene_field=0))


def test_settings_are_those_published_as_defaults():
    config = MiDpgSettings()
    assert (config.scene_field, config.target) == (14, "cvr")
    assert config.windows == Windows()
    assert config.sizes.widths == (16, 8)
    assert (config.weighting.rank, config.information.weight) == (4, 0.05)
    assert issubclass(MiDpgSettings, SceneConfig)
    assert (MmoeConfig().experts, PleConfig().levels, StarConfig().auxiliary) == (4, 2, 16)


def test_splits_leave_time_for_labels():
    scenes.CVR_SPLIT.check_gap(Windows().conversion_attribution)
    assert scenes.CVR_SPLIT.start_second == scenes.CTR_SPLIT.start_second == 17 * 86_400
    assert scenes.CVR_SPLIT.num_segments == scenes.CTR_SPLIT.num_segments == 70
    assert new_predictor("mi_dpg")._usual_split() == scenes.CVR_SPLIT
    assert new_predictor("mi_dpg", "ctr")._usual_split() == scenes.CTR_SPLIT


@pytest.mark.parametrize("cls", [PREDICTORS[name] for name in NAMES])
@pytest.mark.parametrize("rate", [None, 0.5])
def test_learning_rate_is_the_methods_own_unless_given(cls, rate):
    predictor = fitted(cls.name, learning_rate=rate)
    (group,) = predictor.optimisers["main"].param_groups
    assert group["lr"] == (rate or cls.learning_rate)


# --- logs --------------------------------------------------------------------------------------
def test_logs_of_another_target_are_named():
    for target, other, says in (
        ("cvr", "ctr", "ClickLog for target 'cvr', got a ImpressionLog"),
        ("ctr", "cvr", "ImpressionLog for target 'ctr', got a ClickLog"),
    ):
        with pytest.raises(ValueError, match=f"history must be a {says}"):
            new_predictor("mi_dpg", target).fit(stream(other).history(), SPLIT)


def test_windows_must_have_closed_before_the_stream():
    predictor = new_predictor("mi_dpg", windows=Windows(2 * 86_400, 86_400, 864, 864))
    with pytest.raises(ValueError, match=r"stream_start_day - pretrain_days must be >= 2.0"):
        predictor.fit(stream().history(), SPLIT)
    late = replace(SPLIT, pretrain_days=3.0)  # of impressions all are known at once
    assert new_predictor("mi_dpg", "ctr").fit(stream("ctr").history(), late)


def test_other_fields_are_rejected():
    predictor = PREDICTORS["mi_dpg"]((3, 4), MiDpgSettings(scene_field=1))
    with pytest.raises(ValueError, match=r"cardinalities \(3, 4\), got \(6, 5, 3, 4\)"):
        predictor.fit(stream().history(), SPLIT)
    with pytest.raises(ValueError, match=r"features must have shape \(B, 4\)"):
        means(fitted("mi_dpg"), clicks().features[:, :3])


def test_clicks_of_before_the_stream_bring_rows_only_if_followed():
    counts = []
    for follow in (True, False):
        predictor = fitted("shared_mlp", follow=follow)
        for k in range(4):  # a day
            predictor.partial_fit(stream().window(k))
        counts.append(predictor.trained_rows)
    assert counts[0] > 200
    assert counts[1] < counts[0]
    assert counts[1] == 0  # no window of a click of the stream has closed


def rewritten(log, seconds):
    """The same up to a moment; then other labels and ids."""
    rng = np.random.default_rng(0)
    known = log.click_time <= seconds
    features = np.where(known[:, None], log.features, rng.permuted(log.features, axis=0))
    if log is shown():
        return log._replace(features=features, clicked=np.where(known, log.clicked, ~log.clicked))
    late = log.conversion_time > seconds
    conversion = np.where(late, -1, log.conversion_time)
    return log._replace(features=features, conversion_time=conversion)


@ALL
@pytest.mark.parametrize("target", ["cvr", "ctr"])
def test_nothing_later_than_the_window_is_used(name, target):
    found = []
    end = SPLIT.last_second(1)
    for change in (lambda log: log, lambda log: rewritten(log, end)):
        plays = stream(target)
        plays = type(plays)(change(plays.log), SPLIT)
        predictor = new_predictor(name, target).fit(plays.history(), SPLIT, follow=True)
        for k in range(2):
            predictor.partial_fit(plays.window(k))
        found.append(means(predictor, clicks().features[:100]))
    np.testing.assert_array_equal(*found)


# --- networks before the stream ----------------------------------------------------------------
def config(name, **changes):
    return PREDICTORS[name].config_class(**(SETTINGS | changes))


ALIKE = [{"learning_rate": 0.1}, {"weight_decay": 0.1}, {"windows": Windows(86_400, 1, 800, 1)}]
OTHER = [
    {"embedding_dim": 3},
    {"embedding_sd": 0.2},
    {"batch_size": 16},
    {"pretrain_learning_rate": 0.02},
    {"pretrain_epochs": 2},
    {"scene_field": 0},
    {"windows": Windows(43_200, 86_400, 864, 864)},
    {"bottom": (7,)},
    {"tower": (3,)},
    {"scene_dim": 3},
    {"scene_sd": 0.5},
    {"normalise": True},
    {"weighting": {"rank": 2}},
    {"information": {"weight": 0}},
    {"information": {"warm_up_steps": 3}},
]


@pytest.mark.parametrize("changes", [*ALIKE, *OTHER])
def test_networks_are_shared_by_settings_that_do_not_concern_them(changes):
    made = ScenePretraining(stream().history(), SPLIT)
    one = made.model("mi_dpg", config("mi_dpg"))
    two = made.model("mi_dpg", config("mi_dpg", **changes))
    assert (one is two) == (changes in ALIKE)
    arrays = state_arrays(one), state_arrays(two)
    same = [np.array_equal(arrays[0][key], arrays[1].get(key)) for key in arrays[0]]
    assert all(same) == (changes in ALIKE)


def test_methods_have_networks_of_their_own():
    made = ScenePretraining(stream().history(), SPLIT)
    nets = [made.model(name, config(name)) for name in NAMES]
    assert len(set(map(id, nets))) == len(NAMES)
    assert not any(weight.requires_grad for net in nets for weight in net.parameters())
    assert all((net.net.trained >= LEAST_ROWS).all() for net in nets)


def test_networks_are_kept_on_disk(tmp_path, monkeypatch):
    history = stream().history()
    kept = ScenePretraining(history, SPLIT, cache=tmp_path).model("mi_dpg", config("mi_dpg"))
    (file,) = tmp_path.iterdir()
    assert file.suffix == ".npz"

    def fail(*arguments):
        raise AssertionError("trained again")

    monkeypatch.setattr(ScenePretraining, "_fit", fail)
    again = ScenePretraining(history, SPLIT, cache=tmp_path).model("mi_dpg", config("mi_dpg"))
    for name, array in state_arrays(kept).items():
        np.testing.assert_array_equal(array, state_arrays(again)[name])
    with pytest.raises(AssertionError, match="trained again"):
        ScenePretraining(history, SPLIT, cache=tmp_path).model("ple", config("ple"))


def test_scenes_without_rows_are_not_taken_for_known():
    plays, log = stream(), clicks()
    rows = log.features[:, SCENE] != 1
    few = LogStream(
        log._replace(
            **{key: getattr(log, key)[rows] for key in log._fields if key != "cardinalities"}
        ),
        plays.split,
    )
    predictor = new_predictor("mi_dpg").fit(few.history(), SPLIT, follow=True)
    assert (predictor.main.net.trained > 0).tolist() == [True, False, True]
    features = log.features[:50].copy()
    found = []
    for scene in (1, 7):
        features[:, SCENE] = scene
        found.append(means(predictor, features))
    np.testing.assert_array_equal(*found)


@ALL
def test_the_first_row_of_a_new_scene_does_not_flip_its_estimates(name):
    # Of the stream, not of the history. One row of it among some 75 of the other scenes.
    log = shown()
    features = log.features.copy()
    features[:, SCENE] = 2 * (features[:, SCENE] > 0)
    plays = ImpressionStream(log._replace(features=features), SPLIT)
    window, test = plays.window(0), features[:200].copy()
    test[:, SCENE] = 1
    changed = window.impressions.features.copy()
    changed[40, SCENE] = 1
    with_one = window._replace(impressions=window.impressions._replace(features=changed))
    moves = []
    for each in (window, with_one):
        predictor = new_predictor(name, "ctr").fit(plays.history(), SPLIT, follow=True)
        before = means(predictor, test)
        moves.append(means(predictor.partial_fit(each), test) - before)
    assert predictor.main.net.trained[1] == 1
    np.testing.assert_allclose(*moves, rtol=0, atol=0.02)


# --- in a campaign -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["mi_dpg", "one_per_scene"])
def test_click_rates_are_learned_in_a_campaign(name):
    size = {"traffic.impressions_per_tick": 60, "time.num_ticks": 4, "entities.num_users": 200}

    def make_env():
        return make_auction_env("multi_scene", size)

    def make():
        from adsim.impressionlog import generate_impressions
        from scenarios.schema import load

        world = load("multi_scene", size | {"time.num_ticks": 96}).world
        log = generate_impressions(world, 0)
        split = Split(pretrain_days=1, stream_start_day=1, stream_end_day=2, segment_days=0.5)
        settings = {key: SETTINGS[key] for key in ("embedding_dim", "bottom", "tower", "scene_dim")}
        cls = PREDICTORS[name]
        predictor = cls(
            log.cardinalities, cls.config_class(target="ctr", batch_size=32, **settings)
        )
        return predictor.fit(log, split)

    check_predictor(make, make_env)
