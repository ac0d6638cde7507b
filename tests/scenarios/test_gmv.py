import json
import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from command_line import adsim

from adsim.clicklog import MISSING
from adsim.datasets import trace
from adsim.datasets.trace import PurchaseRecords
from adsim.purchaselog import from_trace
from predictors import PREDICTORS
from predictors.gmv_metrics import evaluate_gmv
from predictors.purchase_stream import GmvResult
from scenarios import bench_cli, gmv, gmv_tasks, tasks
from scenarios.comparison import TUNING_SEED, Task, World
from scenarios.gmv import (
    EXTRAS,
    METHODS,
    PUBLISHED_DECAY,
    PUBLISHED_RATES,
    TRUTH,
    choose_methods,
    choose_worlds,
    configure,
    settings_of,
)
from scenarios.gmv_tasks import STUDY, pooled, score

is_finished, load_result, run_tasks = (
    partial(function, STUDY) for function in (tasks.is_finished, tasks.load_result, tasks.run_tasks)
)
TINY = ("bench", "gmv", "--clicks", "60", "--jobs", "1")
THREE = "reader,online_single,pre_single"
WORLD = World("trace", "fair", 0, 60)
SCORES = ("auc", "acc", "alpr", "log_mae", "mae", "rmse", "mape", "log_bias")
KEYS = {
    *("scenario", "setup", "method", "seeds", "segments", "test_clicks", "pcoc", "rows_per_s"),
    *SCORES,
    *(f"pooled_{name}" for name in SCORES),
    *(f"{name}_baseline" for name in ("auc", "acc", "alpr", "log_mae", "mape", "pcoc")),
    *(
        f"{first}{name}_diff{bound}"
        for first in ("", "reader_")
        for name in ("auc", "acc", "alpr", "log_mae", "mape", "pcoc")
        for bound in ("", "_low", "_high")
    ),
    *(f"{name}_diff_percent" for name in ("auc", "acc", "alpr", "log_mae", "mape")),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of results, and what the command printed."""
    out = tmp_path_factory.mktemp("gmv")
    status, text, err = adsim(*TINY, "--methods", THREE, "--out", out, "--json")
    assert status == 0
    return out, text, err


def tasks_of(world=WORLD, methods=THREE):
    return [Task(world, name) for name in choose_methods(methods)]


def gmv_result(predicted=(80.0, 150.0, 300.0, 90.0)):
    """Three clicks in segment 0, none in segment 1, one in segment 2."""
    return GmvResult(
        segment=np.array([0, 0, 0, 2]),
        click=np.arange(4),
        gmv=np.array(predicted, np.float32),
        label=np.array([100, 100, 400, 90], np.float32),
        purchases=np.array([1, 2, 1, 1]),
        seconds=np.ones((3, 2)),
    )


def test_scores_of_every_segment():
    table = score(gmv_result())
    assert table.segment.tolist() == [0, 1, 2]
    assert table.clicks.tolist() == [3, 0, 1]
    first = table.iloc[0]
    found = evaluate_gmv([100, 100, 400], [80, 150, 300])
    assert {name: first[name] for name in SCORES} == {name: getattr(found, name) for name in SCORES}
    # Both pairs of different labels in order; 80 is within 20 % of 100; |-.2|, .5 and |-.25|.
    assert (first.auc, first.acc) == (1, pytest.approx(1 / 3))
    assert first.mape == pytest.approx(0.95 / 3)
    assert (first.gmv_predicted, first.gmv_observed) == (530, 600)
    assert table.auc.isna().tolist() == [False, True, True]
    assert table.alpr.isna().tolist() == [False, True, False]
    assert table.gmv_observed.tolist() == [600, 0, 90]


def test_pooled_metrics_are_those_of_all_rows():
    found = evaluate_gmv([100, 100, 400, 90], [80, 150, 300, 90])
    assert pooled(gmv_result()) == {name: getattr(found, name) for name in SCORES}


def test_errors_of_a_diverged_run_are_infinite():
    table = score(gmv_result((80.0, math.nan, 300.0, 90.0)))
    assert table.alpr[0] == table.mape[0] == math.inf
    assert math.isnan(table.auc[0])
    assert tasks.mean_of(np.array(table.alpr)) == math.inf
    assert table.alpr[2] == 0
    assert tasks.has_diverged(table)
    assert not tasks.has_diverged(score(gmv_result()))


def test_a_learning_rate_that_diverges_has_no_means(monkeypatch, tmp_path):
    found = {1e-3: gmv_result(), 1e-2: gmv_result((80.0, 150.0, 300.0, math.nan))}
    monkeypatch.setattr(tasks, "run_tasks", lambda *_: 0)
    monkeypatch.setattr(tasks, "load_result", lambda _, task, __: (found[task.rate], {}))
    good, bad = tasks.tune(STUDY, WORLD, ["pre_single", "reader"], list(found), tmp_path, 1)
    assert good["auc"] == 1
    assert all(math.isnan(bad[name]) for name in STUDY.tuned)


def test_fair_methods_differ_in_what_their_names_say_only():
    plain = configure(Task(WORLD, "reader"))[1]
    for name in [*METHODS, *EXTRAS]:
        cls, config = configure(Task(WORLD, name))
        assert not config.official_quirks
        assert (config.head, config.rate_decay) == (plain.head, plain.rate_decay)
        assert config.routing == ("hard" if name.endswith("hard") else "hybrid")
        bottom = name.removeprefix("oracle_") if name in EXTRAS and "oracle" in name else "shared"
        assert config.bottom == bottom
        like = EXTRAS[name].like if name in EXTRAS else name
        assert config.learning_rate == PREDICTORS[METHODS[like].predictor].learning_rate
        assert cls is PREDICTORS["reader"] or "reader" not in name


EXTRA_SETTINGS = {
    "online_dual_ends": {"calibrate": False, "gra_in_main": True, "gra_weight": 0.0},
    "online_dual_gra": {"calibrate": False},
    "reader_calib": {"window_ends": False},
    "reader_gra": {"unlearning_weight": 0.0},
    "reader_currency": {
        **{"mixing": "currency", "router_temperature": 0.5},
        **{"gra_in_main": True, "target_zones": True},
    },
    "online_dual_hard": {"routing": "hard"},
    "reader_hard": {"routing": "hard"},
    "oracle_independent": {"bottom": "independent"},
    "oracle_frozen": {"bottom": "frozen"},
}


def test_extras_differ_from_their_predictors_in_these_settings_only():
    assert list(EXTRA_SETTINGS) == list(EXTRAS)
    for name, expected in EXTRA_SETTINGS.items():
        cls, config = configure(Task(WORLD, name))
        plain = cls.config_class(learning_rate=config.learning_rate).model_dump()
        changed = {key: x for key, x in config.model_dump().items() if x != plain[key]}
        assert changed == expected, name
    assert cls is PREDICTORS["oracle_dual"]
    assert configure(Task(WORLD, "online_dual_ends"))[0] is PREDICTORS["reader"]
    assert configure(Task(WORLD, "online_dual_hard"))[0] is PREDICTORS["online_dual"]


def test_published_methods_follow_the_published_code():
    world = WORLD._replace(setup="published")
    for name in [*METHODS, *EXTRAS]:
        _, config = configure(Task(world, name))
        like = EXTRAS[name].like if name in EXTRAS else name
        assert config.official_quirks
        assert (config.head, config.pretrain_epochs) == ("absolute", 3)
        assert config.embedding_sd == configure(Task(WORLD, name))[1].embedding_sd
        assert config.learning_rate == PUBLISHED_RATES.get(like)
        assert config.rate_decay == PUBLISHED_DECAY.get(like, 1)
    rates = {name: configure(Task(world, name))[1] for name in ("reader", "online_single")}
    assert {name: c.rate_decay for name, c in rates.items()} == {
        "reader": 0.95,
        "online_single": 0.99,
    }
    assert configure(Task(world, "reader", 0.5))[1].learning_rate == 0.5


def test_help_lists_all_methods():
    assert bench_cli._GMV_METHODS.split(", ") == list(METHODS)
    assert bench_cli._GMV_EXTRAS.split(", ") == list(EXTRAS)


def test_help_has_an_example():
    status, out, _ = adsim("bench", "gmv", "--help")
    assert status == 0
    assert "Example: adsim bench gmv" in out


def test_presets_and_what_replaces_their_parts():
    (quick,) = choose_worlds()
    assert quick == ("trace", "fair", 0, 5_400)
    full = choose_worlds("full")
    assert len(full) == 18
    assert {world.clicks for world in full} == {5_400}
    assert sum(world.setup == "published" for world in full) == 3
    names = [world.name for world in choose_worlds("full", setups=["published"])]
    assert names == ["trace-published-0", "trace-published-1", "trace-published-2"]
    names = [world.name for world in choose_worlds("full", ["trace_many"], seeds=[4])]
    assert names == ["trace_many-fair-4"]
    names = [world.name for world in choose_worlds("full", ["trace_many"], ["published"], [4])]
    assert names == ["trace_many-published-4"]
    assert {world.setup for world in choose_worlds("full", ["mine.toml"])} == {"fair", "published"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "fast"), "preset 'fast' does not exist: one of quick, full"),
        (("--setup", "unfair"), "setup 'unfair' does not exist: one of fair, published"),
        (("--methods", "reader,best"), "method 'best' does not exist: one of pre_single, offline"),
        (("--methods", TRUTH), "method 'truth' does not exist"),
        (("--scenario", "nothing"), "scenario 'nothing' does not exist"),
        (("--scenario", "default"), "must last 82 days, lasts 7"),
        (("--clicks", "0"), "--clicks: must be >= 1 a day, got 0"),
        (("--seeds", "999-1001"), f"must be in [0, {TUNING_SEED})"),
        (("--jobs", "0"), "--jobs: must be >= 1, got 0"),
        (("--data", "nowhere.txt"), "nowhere.txt does not exist"),
        (("--tune", "2"), "--tune: expected numbers in (0, 1]"),
        (("--methods", ""), "method '' does not exist: one of pre_single, offline"),
        (
            ("--methods", "pre_single,pre_dual", "--tune", "1e-3"),
            "--tune: no learning rate in --methods pre_single,pre_dual",
        ),
        (("--data", "."), "--data: must be a file, . is a folder"),
    ],
)
def test_user_errors_exit_with_2(arguments, message, tmp_path):
    status, _, err = adsim("bench", "gmv", "--out", tmp_path, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_json_has_all_keys_and_no_nan(finished):
    _, text, err = finished
    rows = json.loads(text, parse_constant=lambda word: pytest.fail(word))["rows"]
    assert [row["method"] for row in rows] == ["pre_single", "online_single", "reader", TRUTH]
    assert all(set(row) >= KEYS for row in rows)
    assert {row["auc_baseline"] for row in rows} <= {"pre_single", "online_single"}
    assert rows[0]["rows_per_s"] is None
    assert rows[3]["rows_per_s"] is None
    assert all(0.3 < row["auc"] < 0.9 for row in rows)
    assert rows[3]["auc"] == max(row["auc"] for row in rows)
    assert "bare step" not in err  # too few clicks for a training step per segment


def test_folder_holds_tables_figure_and_results(finished):
    out, text, _ = finished
    written = json.loads((out / "table.json").read_text())
    assert written["rows"] == json.loads(text)["rows"]
    run = written["runs"][2]
    assert run["method"] == "reader"
    assert len(run["calibration"]["median"]) == 10
    assert run["pooled"]["alpr"] == pytest.approx(written["rows"][2]["pooled_alpr"])
    table = pd.read_parquet(out / "segments.parquet")
    assert len(table) == 4 * 199
    assert (out / "trace-fair.png").stat().st_size > 5_000
    result, about = load_result(tasks_of()[-1], out)
    assert about["settings"]["config"]["unlearning_weight"] == 0.5
    assert about["trained_rows"] > 1_000
    assert [result.gmv.dtype, result.label.dtype, result.click.dtype] == ["f4", "f4", "i4"]
    assert result.segment.size == table.clicks.sum() / 4


def test_second_run_takes_everything_from_the_folder(finished, monkeypatch):
    out, text, _ = finished
    monkeypatch.setattr(tasks, "run_task", lambda *_: pytest.fail("run again"))
    status, again, err = adsim(*TINY, "--methods", THREE, "--out", out, "--json")
    assert status == 0
    assert json.loads(again)["rows"] == json.loads(text)["rows"]
    assert f"4 of 4 taken from {out}" in err
    status, table, _ = adsim(*TINY, "--methods", THREE, "--out", out)
    assert status == 0
    for word in ("ALPR diff.", "median bias", "best single tower", "the days of each seed"):
        assert word in " ".join(table.split())


def test_preset_runs_extras_where_it_plans_them(monkeypatch, tmp_path):
    seen = []

    def planned(study, title, todo, out, jobs):
        seen.extend(todo)
        raise ValueError("enough")

    monkeypatch.setattr("scenarios.bench.run_tasks", planned)
    assert adsim("bench", "gmv", "--preset", "full", "--out", tmp_path)[0] == 2
    of = {
        name: [task.method for task in seen if task.world.name == name]
        for name in ("trace-fair-0", "trace-published-0")
    }
    assert of["trace-fair-0"] == [*METHODS, *EXTRAS, TRUTH]
    assert of["trace-published-0"] == [*METHODS, TRUTH]


def test_changed_settings_are_run_again(finished, monkeypatch):
    out, _, _ = finished
    assert all(is_finished(task, out) for task in tasks_of())
    todo = []
    monkeypatch.setattr(tasks, "run_task", lambda _, task, *__: todo.append(task.method))
    monkeypatch.setattr(PREDICTORS["online_single"], "learning_rate", 0.5)
    assert run_tasks("", tasks_of(), out, 1) == 1
    assert todo == ["online_single"]


def test_settings_tell_seeds_set_ups_and_traffic_apart():
    worlds = [
        WORLD,
        WORLD._replace(seed=1),
        WORLD._replace(setup="published"),
        WORLD._replace(clicks=99),
    ]
    texts = {json.dumps(settings_of(Task(w, "reader"))) for w in worlds}
    assert len(texts) == len(worlds)
    structures = [settings_of(Task(w, TRUTH))["world"]["structure_seed"] for w in worlds[:2]]
    assert structures == [0, 1]


def test_every_method_goes_through_a_stream(tmp_path):
    names = [name for name in [*METHODS, *EXTRAS] if name not in THREE]
    world = WORLD._replace(clicks=40)
    todo = [Task(world, name) for name in names]
    run_tasks("", todo, tmp_path, 1)
    for task in todo:
        result, about = load_result(task, tmp_path)
        assert np.isfinite(result.gmv).all()
        assert (about["trained_rows"] == 0) == (task.method == "pre_dual")


def test_overhead_compares_the_stream_with_the_bare_step(tmp_path):
    task = Task(WORLD._replace(clicks=200), "reader")
    stream, bare = gmv_tasks.measure_overhead(task, tmp_path)
    assert stream > 100
    assert bare > 100


def test_records_become_a_log_in_order_of_time():
    records = PurchaseRecords(
        click_time=np.array([50, 10, 10]),
        features=np.arange(66, dtype=np.int32).reshape(3, 22),
        offset=np.array([0, 1, 3, 5]),
        purchase_time=np.array([60, 11, 12, 13, 14]),
        amount=np.array([1.0, 2.0, 3.0, 4.0, 5.0]),
    )
    log = from_trace(records, tuple([99] * 22))
    assert log.click_time.tolist() == [10, 10, 50]
    assert log.offset.tolist() == [0, 2, 4, 5]
    assert log.purchase_time.tolist() == [11, 12, 13, 14, 60]
    assert log.amount.tolist() == [2, 3, 4, 5, 1]
    assert log.features[:, 0].tolist() == [22, 44, 0]
    assert log.refund_time.tolist() == [MISSING] * 5
    assert np.isnan(log.gmv_truth).all()
    with pytest.raises(ValueError, match="cardinalities: must be 22 sizes, got 2"):
        from_trace(records, (1, 2))


def test_a_log_file_is_compared_and_learning_rates_are_tuned(finished, tmp_path):
    stream, _ = gmv_tasks.prepare(WORLD, finished[0])
    log, file = stream.log, tmp_path / "clicks.txt.gz"
    columns = (log.click_time, log.features, log.offset, log.purchase_time, log.amount)
    trace.write(file, PurchaseRecords(*columns), log.cardinalities)
    options = ("--jobs", 1, "--out", tmp_path, "--json")
    status, text, _ = adsim(
        *("bench", "gmv", "--data", file, "--methods", "online_single", *options)
    )
    assert status == 0
    (row,) = json.loads(text)["rows"]  # no truth is known
    assert (row["scenario"], row["seeds"]) == ("clicks", 1)
    assert pd.read_parquet(tmp_path / "segments.parquet").is_file.all()
    generated = load_result(Task(WORLD, "online_single"), finished[0])[0]
    read = load_result(Task(World(str(file), "fair", 0, 0), "online_single"), tmp_path)[0]
    np.testing.assert_array_equal(read.gmv, generated.gmv)
    status, text, _ = adsim(
        *("bench", "gmv", "--data", file, "--methods", "pre_single,online_single", *options),
        *("--tune", "1e-3,1e-2"),
    )
    assert status == 0
    grid = json.loads(text)["rows"]
    assert [(row["method"], row["learning_rate"]) for row in grid] == [
        ("online_single", 1e-3),
        ("online_single", 1e-2),
    ]
    assert grid[0]["alpr"] != grid[1]["alpr"]
    assert (tmp_path / f"data-clicks-fair-{TUNING_SEED}" / "online_single@0.001.json").is_file()


def test_extras_are_like_methods():
    assert {method.like for method in EXTRAS.values()} <= METHODS.keys()
    assert tuple(n for n in METHODS if "single" in n and "oracle" not in n) == gmv.SINGLE_TOWER
