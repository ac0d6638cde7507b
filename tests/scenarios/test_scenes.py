import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from command_line import adsim

from adsim.clicklog import generate
from predictors import PREDICTORS
from predictors.scene_peers import SCENE_NETS
from predictors.scenes import CTR_SPLIT, CVR_SPLIT
from scenarios import bench_cli, scenes_tasks, tasks
from scenarios.comparison import TUNING_SEED, Task, World, scenario_of
from scenarios.scenes import (
    EXTRAS,
    FIRST,
    METHODS,
    PEERS,
    SETUPS,
    choose_methods,
    choose_worlds,
    configure,
    overrides,
    settings_of,
    split_of,
)
from scenarios.scenes_report import METRICS
from scenarios.scenes_tasks import BEST, OBSERVED, SCORES, STUDY

is_finished, load_result, run_tasks = (
    partial(function, STUDY) for function in (tasks.is_finished, tasks.load_result, tasks.run_tasks)
)
TINY = ("bench", "scenes", "--clicks", "120", "--jobs", "1")
THREE = "mi_dpg,scene_input,shared_mlp"
WORLD = World("multi_scene", "different", 0, 120)
KEYS = {
    *("scenario", "setup", "method", "seeds", "segments", "test_clicks", "pcoc", "cold_pcoc"),
    *("macro_log_pcoc", "rows_per_s", "clusters"),
    *("parameters", "parameters_without_ids", "parameters_per_scene"),
    *(*SCORES, *OBSERVED, *BEST),
    *(f"{metric.name}_baseline" for metric in METRICS),
    *(
        f"{first}{metric.name}_diff{bound}"
        for first in ("", "mi_dpg_")
        for metric in METRICS
        for bound in ("", "_low", "_high")
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of results of one world, and what the command printed."""
    out = tmp_path_factory.mktemp("scenes")
    status, text, err = adsim(
        *TINY, "--setup", "different", "--methods", THREE, "--out", out, "--json"
    )
    assert status == 0
    return out, text, err


def tasks_of(world=WORLD, methods=THREE):
    return [Task(world, name) for name in choose_methods(methods)]


def test_every_network_is_a_method():
    assert {method.predictor for method in METHODS.values()} == SCENE_NETS.keys()
    assert list(METHODS)[-1] == FIRST
    assert [*PEERS, FIRST] == list(METHODS)
    of = {name: method.like for name, method in EXTRAS.items()}
    twice = {name for name in EXTRAS if name.endswith("_twice")}
    assert {like for name, like in of.items() if name not in twice} == {FIRST}
    assert {of[name] for name in twice} == {FIRST, "scene_input", "shared_bottom", "star"}


WIDE = {"bottom": (40,), "tower": (20,)}
OWN_SETTINGS = {
    "scene_input_wide": WIDE,
    "star_plain": {"partitioned": False},
    "mi_dpg_twice": {"pretrain_epochs": 2},
    "scene_input_wide_twice": WIDE | {"pretrain_epochs": 2},
    "shared_bottom_twice": {"pretrain_epochs": 2},
    "star_plain_twice": {"partitioned": False, "pretrain_epochs": 2},
    "mi_dpg_no_mi": {"information.weight": 0.0},
    "mi_dpg_r2": {"weighting.rank": 2},
    "mi_dpg_r8": {"weighting.rank": 8},
    "mi_dpg_sigmoid": {"weighting.gate": "sigmoid"},
    "mi_dpg_diagonal": {"weighting.core": "diagonal"},
    "mi_dpg_infonce": {"information.estimator": "infonce"},
}


def flat(config):
    """Settings with dotted names of nested ones."""
    values = {}
    for name, value in config.model_dump().items():
        parts = (
            {f"{name}.{key}": part for key, part in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
        values |= parts
    return values


@pytest.mark.parametrize("name", [*METHODS, *EXTRAS])
def test_methods_differ_in_what_their_names_say_only(name):
    cls, config = configure(Task(WORLD, name))
    method = {**METHODS, **EXTRAS}[name]
    assert cls is PREDICTORS[method.predictor]
    plain = flat(cls.config_class(learning_rate=cls.learning_rate))
    changed = {key: x for key, x in flat(config).items() if x != plain[key]}
    assert changed == OWN_SETTINGS.get(name, {})
    assert config.learning_rate == PREDICTORS[method.like or name].learning_rate
    assert configure(Task(WORLD, name, 0.5))[1].learning_rate == 0.5


def test_mi_dpg_has_fewer_parameters_than_the_wide_network_with_scene_input():
    cardinalities = (50, 30) * 7 + (16,) + (20,) * 7
    count = {}
    for name in ("scene_input_wide", "mi_dpg"):
        cls, config = configure(Task(WORLD, name))
        count[name] = cls(cardinalities, config).num_parameters
    assert count["mi_dpg"].total < count["scene_input_wide"].total
    assert count["mi_dpg"].per_scene == 8 + 1


@pytest.mark.parametrize("setup", SETUPS)
def test_set_ups_change_target_and_heterogeneity(setup):
    world = WORLD._replace(setup=setup)
    config = scenario_of(world, 25, overrides).world
    target, heterogeneity = SETUPS[setup]
    assert config.effects.scene_heterogeneity == heterogeneity
    assert config.time.horizon_hours == 25 * 24
    assert config.traffic.impressions_per_tick * 24 == pytest.approx(120)
    assert split_of(world) == (CTR_SPLIT if target == "ctr" else CVR_SPLIT)
    assert configure(Task(world, "mi_dpg"))[1].target == target
    plain = scenario_of(world._replace(setup="ctr_different"), 25, overrides).world
    assert config.effects.conversion == plain.effects.conversion
    assert (config.click == plain.click) == (target == "ctr")
    assert (config.click.ctr == 0.999) == (target == "cvr")


def test_click_logs_have_the_mean_rate_of_their_scenario():
    # With the click law of the scenario the mean is over what would be clicked: another one.
    laws, rates = [], []
    for setup in ("different", "ctr_different"):
        laws.append(scenario_of(WORLD._replace(clicks=2_000, setup=setup), 25, overrides).world)
        rates.append(generate(laws[-1], 0, num_ticks=24 * 20).p_convert.mean())
    assert laws[0].conversion == laws[1].conversion
    assert rates[0] == pytest.approx(laws[0].conversion.cvr, rel=0.02)
    assert rates[1] > 1.1 * rates[0]


def test_platform_noise_plays_no_part_in_a_click_log():
    scenario = scenario_of(WORLD, 25, overrides).world
    loud = scenario.platform_noise.model_copy(update={"ctr_sd": 0.3, "cvr_sd": 0.3})
    configs = (scenario, scenario.model_copy(update={"platform_noise": loud}))
    one, two = (generate(config, 0, num_ticks=48) for config in configs)
    assert all(np.array_equal(*columns) for columns in zip(one, two, strict=True))


def test_the_scene_is_found_among_other_fields(tmp_path):
    file = tmp_path / "few.toml"
    file.write_text("[world.entities]\nuser_cardinalities = [9, 4]\nitem_cardinalities = [5]\n")
    task = Task(World(str(file), "half", 0, 120), "mi_dpg")
    assert configure(task)[1].scene_field == 5  # user, 2 fields, item, 1 field
    assert configure(Task(WORLD, "mi_dpg"))[1].scene_field == 14


def test_help_lists_all_methods():
    assert bench_cli._SCENES_METHODS.split(", ") == list(METHODS)
    assert bench_cli._SCENES_EXTRAS.split(", ") == list(EXTRAS)
    status, out, _ = adsim("bench", "scenes", "--help")
    assert status == 0
    assert "Example: adsim bench scenes" in out


def test_presets_and_what_replaces_their_parts():
    assert {world.setup for world in choose_worlds()} == {"different", "alike"}
    full = choose_worlds("full")
    count = {setup: sum(world.setup == setup for world in full) for setup in SETUPS}
    assert count == {"different": 5, "half": 3, "alike": 3, "ctr_different": 3, "ctr_alike": 0}
    names = [world.name for world in choose_worlds("full", setups=["half"], seeds=[4])]
    assert names == ["multi_scene-half-4"]
    assert len(choose_worlds("quick", ["mine.toml"])) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--setup", "fair"), "setup 'fair' does not exist: one of different, half, alike, ctr_"),
        (("--methods", "best"), "method 'best' does not exist: one of shared_mlp, scene_input"),
        (("--scenario", "nothing"), "scenario 'nothing' does not exist"),
        (("--clicks", "0"), "--clicks: must be >= 1 a day, got 0"),
        (("--seeds", "1000"), f"must be in [0, {TUNING_SEED})"),
        (("--jobs", "0"), "--jobs: must be >= 1, got 0"),
        (("--tune", "2"), "--tune: expected numbers in (0, 1]"),
    ],
)
def test_user_errors_exit_with_2(arguments, message, tmp_path):
    status, _, err = adsim("bench", "scenes", "--out", tmp_path, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_conversions_of_another_window_are_refused(tmp_path):
    file = tmp_path / "short.toml"
    file.write_text("[world.windows]\nconversion_hours = 96.0\n")
    status, _, err = adsim("bench", "scenes", "--scenario", file, "--out", tmp_path / "out")
    assert status == 2
    assert "scenario short: world.windows.conversion_hours must be 72, got 96" in err


def test_json_has_all_keys_and_no_nan(finished):
    _, text, _ = finished
    rows = json.loads(text, parse_constant=lambda word: pytest.fail(word))["rows"]
    assert [row["method"] for row in rows] == ["shared_mlp", "scene_input", "mi_dpg"]
    assert all(set(row) >= KEYS for row in rows)
    assert {row["macro_auc_baseline"] for row in rows} <= {"shared_mlp", "scene_input"}
    assert [row["parameters_per_scene"] for row in rows] == [0, 9, 9]
    assert all(row["macro_auc_truth"] > row["macro_auc"] for row in rows)
    assert rows[2]["mi_dpg_macro_auc_diff"] == 0
    difference = rows[2]["macro_auc"] - rows[1]["macro_auc"]
    assert rows[1]["mi_dpg_macro_auc_diff"] == pytest.approx(difference)


def test_folder_holds_tables_figures_and_results(finished):
    out, text, _ = finished
    written = json.loads((out / "table.json").read_text())
    assert written["rows"] == json.loads(text)["rows"]
    assert len(written["runs"][2]["scene_auc"]) == 16
    table = pd.read_parquet(out / "segments.parquet")
    assert len(table) == 3 * 7
    for name in ("multi_scene-cvr.png", "multi_scene-cvr-scenes.png"):
        assert (out / name).stat().st_size > 5_000
    result, about = load_result(tasks_of()[-1], out)
    assert about["settings"]["config"]["weighting"]["rank"] == 4
    assert about["trained_rows"] > 500
    assert [result.predicted.dtype, result.truth.dtype, result.scene.dtype] == ["f4", "f4", "i4"]
    assert result.segment.size == table.clicks.sum() / 3
    assert result.known.sum() == pytest.approx(17 * 120, rel=0.1)


def test_second_run_takes_everything_from_the_folder(finished, monkeypatch):
    out, text, _ = finished
    monkeypatch.setattr(tasks, "run_task", lambda *_: pytest.fail("run again"))
    again = (*TINY, "--setup", "different", "--methods", THREE, "--out", out)
    status, found, err = adsim(*again, "--json")
    assert status == 0
    assert json.loads(found)["rows"] == json.loads(text)["rows"]
    assert f"3 of 3 taken from {out}" in err
    status, table, _ = adsim(*again)
    assert status == 0
    for word in ("macro AUC", "Best peer", "7 days of 1 seed", "the days of each seed"):
        assert word in " ".join(table.split())


def test_changed_settings_are_run_again(finished, monkeypatch):
    out, _, _ = finished
    assert all(is_finished(task, out) for task in tasks_of())
    todo = []
    monkeypatch.setattr(tasks, "run_task", lambda _, task, *__: todo.append(task.method))
    monkeypatch.setattr(PREDICTORS["scene_input"], "learning_rate", 0.5)
    assert run_tasks("", tasks_of(), out, 1) == 1
    assert todo == ["scene_input"]


def test_settings_tell_seeds_set_ups_and_traffic_apart():
    worlds = [WORLD._replace(setup=setup) for setup in SETUPS]
    worlds += [WORLD._replace(seed=1), WORLD._replace(clicks=99)]
    texts = {json.dumps(settings_of(Task(world, "mi_dpg"))) for world in worlds}
    assert len(texts) == len(worlds)


def test_preset_runs_extras_where_it_plans_them(monkeypatch, tmp_path):
    seen = []

    def planned(study, title, todo, out, jobs):
        seen.extend(todo)
        raise ValueError("enough")

    monkeypatch.setattr("scenarios.bench.run_tasks", planned)
    assert adsim("bench", "scenes", "--preset", "full", "--out", tmp_path)[0] == 2
    of = {
        setup: [task.method for task in seen if task.world.name == f"multi_scene-{setup}-0"]
        for setup in SETUPS
    }
    assert of.pop("different") == [*METHODS, *EXTRAS]
    assert of.pop("ctr_alike") == []
    assert all(methods == list(METHODS) for methods in of.values())


def test_every_method_goes_through_a_stream(tmp_path):
    names = [name for name in [*METHODS, *EXTRAS] if name not in THREE]
    todo = [Task(WORLD._replace(clicks=40), name) for name in names]
    todo += tasks_of(WORLD._replace(clicks=40, setup="ctr_different"))
    run_tasks("", todo, tmp_path, 1)
    for task in todo:
        result, about = load_result(task, tmp_path)
        assert np.isfinite(result.predicted).all()
        assert about["trained_rows"] > 100


def test_clicks_of_impressions_are_predicted(tmp_path):
    world = WORLD._replace(setup="ctr_alike", clicks=400)
    (task,) = tasks_of(world, "scene_input")
    run_tasks("", [task], tmp_path, 1)
    result, about = load_result(task, tmp_path)
    stream, _ = scenes_tasks.prepare(world, tmp_path)
    assert result.label.tolist() == stream.log.clicked[result.click].tolist()
    assert result.truth == pytest.approx(stream.log.p_click[result.click])
    # All impressions of the stream, but for those that wait for a batch.
    shown = np.count_nonzero(CTR_SPLIT.segments(stream.log.time) < 70)
    shown -= result.known.sum()
    assert shown - 64 < about["trained_rows"] <= shown
    assert not math.isnan(scenes_tasks.score(result).auc.iloc[0])


def test_learning_rates_are_tuned_in_a_world_of_their_own(tmp_path):
    status, text, _ = adsim(
        *(*TINY, "--setup", "half", "--methods", "scene_input", "--out", tmp_path, "--json"),
        *("--tune", "1e-3,1e-1"),
    )
    assert status == 0
    rows = json.loads(text)["rows"]
    assert [row["learning_rate"] for row in rows] == [1e-3, 1e-1]
    assert rows[0]["macro_auc"] != rows[1]["macro_auc"]
    assert (tmp_path / f"multi_scene-half-{TUNING_SEED}" / "scene_input@0.001.json").is_file()


def test_overhead_compares_the_stream_with_the_bare_step(tmp_path):
    task = Task(WORLD._replace(clicks=1_000), "mi_dpg")
    stream, bare = scenes_tasks.measure_overhead(task, tmp_path)
    assert stream > 100
    assert bare > 100
