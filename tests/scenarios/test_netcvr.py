import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from cascade_logs import make_records
from command_line import adsim

from adsim.datasets import cascade
from predictors.metrics import evaluate
from predictors.stream import StreamResult
from scenarios import bench_cli, netcvr, netcvr_tasks, tasks
from scenarios.comparison import TUNING_SEED, Task, World
from scenarios.netcvr import (
    BASELINES,
    EXTRAS,
    METHODS,
    PUBLISHED_RATES,
    choose_methods,
    choose_worlds,
    configure,
    settings_of,
)
from scenarios.netcvr_tasks import STUDY, score

is_finished, load_result, run_tasks = (
    partial(function, STUDY) for function in (tasks.is_finished, tasks.load_result, tasks.run_tasks)
)
TINY = ("bench", "netcvr", "--clicks", "250", "--jobs", "1")
FOUR = "tesla,es_dfm,pre_trained,oracle"
KEYS = {
    *("scenario", "setup", "method", "seeds", "segments", "strongest_baseline", "rows_per_s"),
    *(f"{of}_{m}" for of in ("cvr", "netcvr") for m in ("auc", "nll", "prauc", "pcoc")),
    *(f"{of}_ri_{m}" for of in ("cvr", "netcvr") for m in ("auc", "prauc")),
    "rfr_pcoc",
    *(
        f"{name}_diff{bound}"
        for name in ("netcvr_auc", "netcvr_ri_auc", "netcvr_ri_prauc", "netcvr_nll", "refund_pcoc")
        for bound in ("", "_low", "_high")
    ),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder of results, and what the command printed."""
    out = tmp_path_factory.mktemp("netcvr")
    status, text, err = adsim(*TINY, "--methods", FOUR, "--out", out, "--json")
    assert status == 0
    return out, text, err


def tasks_of(world=None, methods=FOUR):
    world = world or World("cascade_high_refund", "fair", 0, 250)
    return [Task(world, name) for name in choose_methods(methods)]


def stream_result():
    """Segments with both classes, without clicks, and of one class."""
    return StreamResult(
        segment=np.array([0, 0, 0, 0, 2, 2]),
        click=np.arange(6),
        cvr=np.array([0.9, 0.6, 0.4, 0.2, 0.1, 0.3]),
        net_cvr=np.array([0.8, 0.1, 0.3, 0.2, 0.1, 0.3]),
        refund_rate=np.array([0.1, 0.8, 0.25, 0.0, 0.0, 0.0]),
        y=np.array([1, 1, 0, 0, 0, 0], np.int8),
        z=np.array([0, 1, 0, 0, 0, 0], np.int8),
        seconds=np.ones((3, 2)),
    )


def test_scores_of_every_segment():
    table = score(stream_result())
    assert table.segment.tolist() == [0, 1, 2]
    assert table.clicks.tolist() == [4, 0, 2]
    first = table.iloc[0]
    found = evaluate([1, 0, 0, 0], [0.8, 0.1, 0.3, 0.2])
    assert first.netcvr_auc == found.auc == 1.0
    assert (first.netcvr_prauc, first.netcvr_nll) == (found.pr_auc, found.nll)
    assert first.cvr_pcoc == pytest.approx(2.1 / 2)
    assert (first.refund_predicted, first.refund_observed) == (pytest.approx(0.9), 1)
    assert table.netcvr_auc.isna().tolist() == [False, True, True]
    assert table.cvr_nll.isna().tolist() == [False, True, False]


def test_fair_methods_have_the_tables_of_tesla():
    for name in [*METHODS, *EXTRAS]:
        _, config = configure(Task(World("cascade", "fair", 0, 1), name))
        narrow = name in ("tesla_separate", "tesla_narrow", "es_dfm_narrow")
        tables = "separate" if narrow else "shared" if name == "tesla_shared" else "hybrid"
        assert config.tables == tables
        assert config.train_refund_embeddings is not name.endswith("frozen")
        assert not config.official_quirks
        assert config.head == ("direct" if name.endswith("direct") else "cascade")
        assert config.learning_rate is None  # each has its own


def test_published_methods_follow_the_published_code():
    for name in [*METHODS, *EXTRAS]:
        _, config = configure(Task(World("cascade", "published", 0, 1), name))
        assert config.official_quirks
        assert config.learning_rate == PUBLISHED_RATES.get(name, config.learning_rate)
        if name in BASELINES:
            assert (config.tables, config.train_refund_embeddings) == ("separate", False)
            assert config.pretrain_attribution == 86_400
            day = 86_400 if name in ("es_dfm", "defuse", "ddfm") else None
            assert config.delay_attribution == day
            assert config.weight_decay == (1e-3 if name == "defer" else 0)
    _, oracle = configure(Task(World("cascade", "published", 0, 1), "oracle"))
    assert (oracle.head, oracle.tables) == ("direct", "separate")
    _, variant = configure(Task(World("cascade", "published", 0, 1), "tesla_ln"))
    assert (variant.ranking, variant.learning_rate) == ("ln", PUBLISHED_RATES["tesla"])


def test_help_lists_all_methods():
    assert bench_cli._METHODS.split(", ") == list(METHODS)
    assert bench_cli._EXTRAS.split(", ") == list(EXTRAS)


def test_methods_are_chosen_by_name_and_group():
    assert choose_methods() == list(METHODS)
    assert choose_methods("tesla, oracle,tesla") == ["oracle", "tesla"]
    assert choose_methods("extras,tesla") == ["tesla", *EXTRAS]


def test_presets_and_what_replaces_their_parts():
    (quick,) = choose_worlds()
    assert quick == ("cascade_high_refund", "fair", 0, 14_000)
    full = choose_worlds("full")
    assert len(full) == 12
    assert {world.clicks for world in full} == {20_000}
    assert sum(world.setup == "published" for world in full) == 5
    part = choose_worlds("full", ["cascade"], ["published"], clicks=100)
    assert [world.name for world in part] == ["cascade-published-0", "cascade-published-1"]
    assert [world.seed for world in choose_worlds(seeds=[3, 5])] == [3, 5]
    assert {world.scenario for world in choose_worlds("full", ["drift"])} == {"drift"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "fast"), "preset 'fast' does not exist: one of quick, full"),
        (("--setup", "unfair"), "setup 'unfair' does not exist: one of fair, published"),
        (("--methods", "tesla,best"), "method 'best' does not exist: one of pre_trained, oracle"),
        (("--scenario", "nothing"), "scenario 'nothing' does not exist"),
        (("--scenario", "default"), "must last 28 days, lasts 7"),
        (("--clicks", "0"), "--clicks: must be >= 1 a day, got 0"),
        (("--seeds", "999-1001"), f"must be in [0, {TUNING_SEED})"),
        (("--seeds", "x"), "--seeds: expected numbers"),
        (("--jobs", "0"), "--jobs: must be >= 1, got 0"),
        (("--data", "nowhere.txt"), "nowhere.txt does not exist"),
        (("--tune", "fast"), "--tune: expected numbers in (0, 1]"),
        (("--scenario", "cascade", "--data", "."), "without --scenario or --clicks"),
        (("--methods", ""), "method '' does not exist: one of pre_trained, oracle"),
        (
            ("--methods", "pre_trained", "--tune", "1e-3"),
            "--tune: no learning rate in --methods pre",
        ),
    ],
)
def test_user_errors_exit_with_2(arguments, message, tmp_path):
    status, _, err = adsim("bench", "netcvr", "--out", tmp_path, *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_unknown_benchmark_is_an_error_that_lists_the_known_ones():
    status, _, err = adsim("bench", "nothing")
    assert status == 2
    assert "benchmark 'nothing' does not exist: one of speed, netcvr" in err


@pytest.mark.parametrize("name", ["speed", "netcvr"])
def test_benchmarks_have_help_with_an_example(name):
    status, out, _ = adsim("bench", name, "--help")
    assert status == 0
    assert f"Example: adsim bench {name}" in out


def test_a_log_that_is_too_short_is_refused(tmp_path):
    file = tmp_path / "log.txt"
    cascade.write(file, make_records(50), tuple(range(1, 23)))
    status, _, err = adsim(
        *("bench", "netcvr", "--data", file, "--methods", "tesla", "--jobs", 1),
        *("--out", tmp_path / "out"),
    )
    assert status == 2
    assert "begin before day 10 and go on after day 24, they span days 0.00 to 0.01" in err
    assert "tesla in" not in err  # before the first task


def test_json_has_all_keys_and_no_nan(finished):
    _, text, err = finished
    rows = json.loads(text, parse_constant=lambda word: pytest.fail(word))["rows"]
    assert [row["method"] for row in rows] == ["pre_trained", "oracle", "es_dfm", "tesla"]
    assert all(set(row) >= KEYS for row in rows)
    assert {row["strongest_baseline"] for row in rows} == {"es_dfm"}
    assert rows[0]["rows_per_s"] is None
    assert all(0.3 < row["netcvr_auc"] < 0.9 for row in rows)
    assert (rows[0]["netcvr_ri_auc"], rows[1]["netcvr_ri_auc"]) == (0, pytest.approx(100))
    assert "bare step" not in err  # too few clicks for a training step per segment


def test_folder_holds_tables_figure_and_results(finished):
    out, text, _ = finished
    written = json.loads((out / "table.json").read_text())
    assert written["rows"] == json.loads(text)["rows"]
    assert len(pd.read_parquet(out / "table.parquet")) == 4
    table = pd.read_parquet(out / "segments.parquet")
    assert len(table) == 4 * 70
    assert (out / "cascade_high_refund-fair.png").stat().st_size > 5_000
    result, about = load_result(tasks_of()[-1], out)
    assert about["settings"]["config"]["ranking"] == "dar"
    assert about["trained_rows"] > 1_000
    assert result.segment.size == table.clicks.sum() / 4


def test_second_run_takes_everything_from_the_folder(finished, monkeypatch):
    out, text, _ = finished
    monkeypatch.setattr(tasks, "run_task", lambda *_: pytest.fail("run again"))
    status, again, err = adsim(*TINY, "--methods", FOUR, "--out", out, "--json")
    assert status == 0
    assert json.loads(again)["rows"] == json.loads(text)["rows"]
    assert f"4 of 4 taken from {out}" in err
    status, table, _ = adsim(*TINY, "--methods", FOUR, "--out", out)
    assert status == 0
    for word in ("RI-AUC", "strongest", "es_dfm", "the days of each seed"):
        assert word in table


def test_changed_settings_are_run_again(finished, monkeypatch):
    out, _, _ = finished
    todo = []
    monkeypatch.setattr(tasks, "run_task", lambda _, task, *__: todo.append(task.method))
    changed = netcvr.METHODS["es_dfm"]._replace(always={"learning_rate": 0.5})
    monkeypatch.setitem(netcvr.METHODS, "es_dfm", changed)
    assert run_tasks("", tasks_of(), out, 1) == 1
    assert todo == ["es_dfm"]
    other = World("cascade_high_refund", "fair", 0, 251)
    assert not any(is_finished(task, out) for task in tasks_of(other))
    file = tasks_of()[0].file(out, ".json")
    kept = file.read_text()
    file.write_text("{")
    assert not is_finished(tasks_of()[0], out)
    file.write_text(kept)
    assert is_finished(tasks_of()[0], out)


def test_settings_tell_seeds_set_ups_and_traffic_apart():
    world = World("cascade", "fair", 0, 100)
    worlds = [
        world,
        world._replace(seed=1),
        world._replace(setup="published"),
        world._replace(clicks=99),
    ]
    texts = {json.dumps(settings_of(Task(w, "tesla"))) for w in worlds}
    assert len(texts) == len(worlds)
    structures = [settings_of(Task(w, "tesla"))["world"]["structure_seed"] for w in worlds[:2]]
    assert structures == [0, 1]


def test_interrupt_and_failure_keep_finished_results(finished, monkeypatch, capsys):
    out, _, _ = finished
    some = tasks_of(methods="pre_trained,tesla_rn,tesla_hn")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tasks, "run_task", stop)
    with pytest.raises(KeyboardInterrupt):
        run_tasks("", some, out, 1)
    assert "stopped: 1 of 3 results are in" in capsys.readouterr().err.replace("\n", " ")
    kinds = ((ValueError, ValueError), (FileNotFoundError, ValueError))
    for kind, seen in (*kinds, (ZeroDivisionError, RuntimeError)):

        def fail(*_, kind=kind):
            raise kind("no luck")

        monkeypatch.setattr(tasks, "run_task", fail)
        with pytest.raises(seen, match=r"tesla_rn in cascade_high_refund-fair-0: .*no luck"):
            run_tasks("", some, out, 1)
    assert is_finished(some[0], out)


@pytest.mark.slow
def test_processes_find_what_one_finds_and_tell_their_errors(finished, tmp_path):
    out, _, _ = finished
    some = [*tasks_of(), Task(tasks_of()[0].world, "tesla", 2.0)]
    with pytest.raises(ValueError, match=r"^tesla@2 in cascade_high_refund-fair-0: 1 val"):
        run_tasks("", some, tmp_path, 2)
    file = tmp_path / "short.txt"
    cascade.write(file, make_records(50), tuple(range(1, 23)))
    short = [Task(World(str(file), "fair", 0, 0), name) for name in ("bdl", "tesla")]
    with pytest.raises(ValueError, match=r"^[^ ]*short.txt: its clicks must begin before day 10"):
        run_tasks("", short, tmp_path, 2)
    same = [task for task in some if is_finished(task, tmp_path)]
    assert len(same) >= 2
    for task in same:
        one, two = load_result(task, out)[0], load_result(task, tmp_path)[0]
        np.testing.assert_array_equal(one.net_cvr, two.net_cvr)
    folder = tmp_path / some[0].world.name / "networks"
    assert len(list(folder.glob("*/main_*.npz"))) == 1


def test_a_log_file_is_compared_and_learning_rates_are_tuned(tmp_path):
    stream, _ = netcvr_tasks.prepare(World("cascade_high_refund", "fair", 0, 250), tmp_path)
    file = tmp_path / "clicks.txt.gz"
    cascade.write(file, cascade.ClickRecords(*stream.log[:4]), stream.log.cardinalities)
    options = ("--jobs", 1, "--out", tmp_path, "--json")
    status, text, _ = adsim(
        *("bench", "netcvr", "--data", file, "--methods", "bdl", "--seeds", 2, *options)
    )
    assert status == 0
    (row,) = json.loads(text)["rows"]
    assert (row["scenario"], row["seeds"], row["netcvr_ri_auc"]) == ("clicks", 1, None)
    assert (tmp_path / "data-clicks-fair-2" / "bdl.npz").is_file()
    status, text, _ = adsim(
        *("bench", "netcvr", "--data", file, "--methods", "pre_trained,bdl", *options),
        *("--tune", "1e-3,1e-2"),
    )
    assert status == 0
    grid = json.loads(text)["rows"]
    assert [(row["method"], row["learning_rate"]) for row in grid] == [("bdl", 1e-3), ("bdl", 1e-2)]
    assert grid[0]["netcvr_auc"] != grid[1]["netcvr_auc"]
    assert (tmp_path / f"data-clicks-fair-{TUNING_SEED}" / "bdl@0.001.json").is_file()
