"""Searches: which points are tried, what they are worth, and going on after a stop."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from command_line import adsim
from small_worlds import SMALL_WORLD

from scenarios import search as module
from scenarios.search import Searching
from scenarios.sweep import Options, read
from scenarios.sweep_plan import load_plan
from scenarios.trial_columns import NUMBERS

_TIMES = ["seconds", "finished", "learn_seconds_per_hour", "predict_ms_per_tick"]
_AXES = "campaign.budget = { start = 20, stop = 600, num = 2, log = true }"


def search_file(folder, axes=_AXES, agents=("dual",), trials=10, more="", **overrides):
    world = {k: v for k, v in (SMALL_WORLD | overrides).items() if k not in axes + more}
    lines = [f"agents = {list(agents)}", "seeds = 2", "[overrides]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in world.items()]
    lines += ["[axes]", axes, "[search]", f"trials = {trials}", more]
    file = folder / "small.toml"
    file.write_text("\n".join(lines))
    return file


def played(file, out, *options):
    status, printed, err = adsim("sweep", file, "--out", out, "--jobs", 1, "--json", *options)
    assert status == 0, err
    return json.loads(printed)


def table(out):
    return pd.read_parquet(out / "small").drop(columns=_TIMES)


def test_best_point_is_the_one_with_the_best_mean(tmp_path):
    report = played(search_file(tmp_path, agents=("dual", "linear")), tmp_path)
    trials = table(tmp_path)
    assert len(trials) == 20  # 10 points x 2 seeds
    means = trials.groupby("point")["expected_net_value"].mean()
    best = report["best"]
    assert best["expected_net_value"] == pytest.approx(means.max(), rel=1e-12)
    assert best["point"] == means.idxmax()
    assert trials[trials["point"] == best["point"]]["agent"].unique() == [best["agent"]]
    assert trials["campaign.budget"].between(20, 600).all()
    assert set(trials["agent"]) == {"dual", "linear"}


def test_search_finds_the_most_and_the_least(tmp_path):
    # More clicks are worth more: the best share of clicks is the highest, the worst the lowest.
    axes = "click.ctr = { start = 0.05, stop = 0.5, num = 2 }"
    for direction, near in (("maximize", 0.5), ("minimize", 0.05)):
        more = f"metric = 'clicks'\ndirection = '{direction}'"
        out = tmp_path / direction
        best = played(search_file(tmp_path, axes, trials=16, more=more), out)["best"]
        assert best["click.ctr"] == pytest.approx(near, abs=0.1)


def test_points_do_not_depend_on_the_order_of_completion(tmp_path, monkeypatch):
    played(search_file(tmp_path), tmp_path / "one")
    in_order = module.play
    monkeypatch.setattr(module, "play", lambda e, todo, *rest: in_order(e, todo[::-1], *rest))
    played(search_file(tmp_path), tmp_path / "other")
    pd.testing.assert_frame_equal(table(tmp_path / "one"), table(tmp_path / "other"))


def test_killed_search_ends_with_the_same_table(tmp_path):
    file = search_file(tmp_path, **{"time.num_ticks": 96, "time.tick_hours": 1.0})
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "scenarios.cli", "sweep", file, "--out", killed]
    with subprocess.Popen([*map(str, command), "--jobs", "1"], stderr=subprocess.DEVNULL) as driver:
        for _ in range(1200):
            kept = len(list(killed.glob("small/_trials/*.npz")))
            if kept >= 9:  # in the second batch
                break
            assert driver.poll() is None
            time.sleep(0.02)
        driver.send_signal(signal.SIGKILL)
    assert kept < 20
    report = played(file, killed)
    assert report["taken"] >= 9
    assert report["taken"] + report["done"] == 20
    assert report["best"] == played(file, whole)["best"]
    pd.testing.assert_frame_equal(table(killed), table(whole))


def test_finished_search_is_taken_from_the_folder(tmp_path, monkeypatch):
    file = search_file(tmp_path)
    first = played(file, tmp_path)
    monkeypatch.setattr(module, "make_engine", lambda *_: pytest.fail("played again"))
    again = played(file, tmp_path)
    assert (again["taken"], again["done"]) == (20, 0)
    assert again["best"] == first["best"]


def test_failed_trials_make_their_point_fail(tmp_path, monkeypatch):
    monkeypatch.setattr("scenarios.playing.make_agent", _agent_without_small_budgets)
    file = search_file(tmp_path)
    status, printed, _ = adsim("sweep", file, "--out", tmp_path, "--jobs", 1, "--retries", 0)
    assert status == 1
    trials = pd.read_parquet(tmp_path / "small")
    failed = set(trials[trials["status"] == "failed"]["point"])
    assert failed
    assert f"{len(failed)} of them failed" in printed
    searching = Searching(load_plan(file))
    searching.play(tmp_path / "small", Options(jobs=1))
    assert {point.number for point in searching.points} - failed == {
        point.number for point in searching.ranked()
    }


def _agent_without_small_budgets(name):
    from scenarios.build import make_agent

    agent = make_agent(name)
    reset = agent.reset

    def checked(campaign, **options):
        if campaign.budget < 100:
            raise RuntimeError("too poor")
        reset(campaign, **options)

    agent.reset = checked
    return agent


def test_points_without_a_valid_scenario_are_passed_over(tmp_path):
    # Purchases count for at least as long as first ones: both ends, tried at start, are valid.
    axes = "windows.conversion_hours = { start = 72, stop = 200, num = 2 }\n"
    axes += "windows.gmv_hours = { start = 80, stop = 210, num = 2 }"
    file = search_file(tmp_path, axes, trials=8)
    status, _, err = adsim("sweep", file, "--out", tmp_path, "--jobs", 1)
    assert status == 0
    trials = table(tmp_path)
    assert err.count("gmv_hours must be >= conversion_hours") == 8 - trials["point"].nunique() > 0
    assert (trials["windows.gmv_hours"] >= trials["windows.conversion_hours"]).all()


@pytest.mark.parametrize(
    ("axes", "more", "text"),
    [
        (_AXES, "metric = 'wealth'", "search.metric: 'wealth' is no number of the results: one of"),
        ("no.such.key = [1, 2]", "", "unknown key"),
        ("campaign.budget = { start = -5, stop = 5, num = 2 }", "", "campaign.budget"),
        ("time.num_ticks = { start = 2.2, stop = 2.8, num = 2 }", "", "takes whole numbers"),
        (
            _AXES,
            "[random]\ndraws = 3\n[random.axes]\nclick.ctr = { normal = [0.5, 0.1] }",
            "random.axes.click.ctr: normal and log_normal have no ends",
        ),
    ],
)
def test_searches_that_cannot_be(tmp_path, axes, more, text):
    file = search_file(tmp_path, axes, more=more, trials=2)
    status, _, err = adsim("sweep", file, "--out", tmp_path, "--jobs", 1)
    assert status == 2
    assert text in err


def test_metric_is_checked_before_anything_is_played(tmp_path):
    file = search_file(tmp_path, more="metric = 'wealth'")
    status, _, err = adsim("sweep", file, "--dry-run")
    assert status == 2
    assert "search.metric: 'wealth' is no number of the results: one of impressions" in err


def test_kinds_of_axes(tmp_path):
    axes = """campaign.budget = { start = 10, stop = 1000, num = 2, log = true }
time.num_ticks = { start = 4, stop = 12, step = 4 }
campaign.margin = [1, 0.5]
market.population.budget_range = [[10.0, 20.0], [30.0, 40.0]]"""
    more = "[random]\ndraws = 1\n[random.axes]\nclick.ctr = { uniform = [0.1, 0.2] }"
    searching = Searching(load_plan(search_file(tmp_path, axes, more=more)))
    space = searching._space
    kinds = {name: type(law).__name__.removesuffix("Distribution") for name, law in space.items()}
    assert kinds == {
        **{"campaign.budget": "Float", "time.num_ticks": "Int", "click.ctr": "Float"},
        **dict.fromkeys(("campaign.margin", "market.population.budget_range"), "Categorical"),
    }
    assert (space["campaign.budget"].log, space["time.num_ticks"].step) == (True, 4)
    assert space["campaign.margin"].choices == (1.0, 0.5)
    axes_of = json.loads(searching.first_trials()[0].axes)
    assert axes_of["market.population.budget_range"] in ([10.0, 20.0], [30.0, 40.0])
    assert axes_of["time.num_ticks"] in (4, 8, 12)


def test_dry_run_shows_the_first_points(tmp_path):
    file = search_file(tmp_path, agents=("dual", "linear"))
    status, out, _ = adsim("sweep", file, "--dry-run")
    assert status == 0
    assert "20 trials = 10 points x 1 structures x 2 seeds" in " ".join(out.split())


def test_missing_optuna_is_told_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, err = adsim("sweep", search_file(tmp_path), "--dry-run")
    assert status == 2
    assert 'pip install "adsim[search]"' in err


def test_example_is_played(tmp_path):
    file = Path(__file__).parents[2] / "examples" / "search.toml"
    small = ("--set", "time.num_ticks=4", "--set", "traffic.impressions_per_tick=20")
    status, out, err = adsim("sweep", file, "--out", tmp_path, "--jobs", 1, *small)
    assert status == 0, err
    assert "16 points to maximize expected_net_value" in out


def test_results_have_what_was_told_to_optuna_and_every_metric(tmp_path):
    file = search_file(tmp_path, trials=4)
    searching = Searching(load_plan(file))
    (tmp_path / "kept").mkdir()
    searching.play(tmp_path / "kept", Options(jobs=1))
    row = read(tmp_path / "kept", searching.trials[0]).row
    assert sorted(NUMBERS) == sorted(
        name for name, value in row.items() if isinstance(value, int | float | None)
    )
    for point in searching.points:
        values = [
            read(tmp_path / "kept", trial).row["expected_net_value"] for trial in point.trials
        ]
        assert point.value == pytest.approx(sum(values) / 2, rel=1e-12)
