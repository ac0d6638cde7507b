"""Sweeps: what is played, kept, taken from the folder, recorded as failed, and told."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
from command_line import adsim
from small_sweeps import SLOW_AGENT, VARYING, sweep_file, table_of

from scenarios import playing, sweep, trial
from scenarios.results import load, load_about
from scenarios.run import run
from scenarios.sweep import Options, play_all
from scenarios.sweep_plan import grid, load_plan

TEXT = 'agents = ["dual", "value"]\nseeds = 2\n[axes]\ncampaign.budget = [100, 200]'


def small_sweep(folder, text=TEXT, *options, name="sweep"):
    file = sweep_file(folder, text, name)
    return adsim("sweep", file, "--out", folder, "--jobs", "1", *options)


def trials_of(folder, text=TEXT):
    plan = load_plan(sweep_file(folder, text))
    return plan.trials(grid(plan.sweep))


def test_dry_run_says_how_many_trials_there_are_and_plays_none(tmp_path):
    status, out, _ = small_sweep(tmp_path, TEXT, "--dry-run")
    assert status == 0
    said = " ".join(out.split())
    assert "8 trials = 2 points x 1 structures x 2 seeds x 1 estimates x 2 agents" in said
    assert "campaign.budget" in out
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.toml"]


def test_results_have_a_row_per_trial_and_its_axes(tmp_path):
    status, out, _ = small_sweep(tmp_path, TEXT, "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["done"], told["failed"], told["taken"]) == (8, 0, 0)
    trials = pd.read_parquet(tmp_path / "sweep")
    assert trials["campaign.budget"].tolist() == [100] * 4 + [200] * 4
    assert trials["agent"].tolist() == ["dual", "value"] * 4
    assert (trials["budget"] == trials["campaign.budget"]).all()
    assert (trials["status"] == "done").all()
    assert trials["trial"].nunique() == 8
    assert {"adsim", "git", "seconds", "finished", "hindsight", "expected_net_value"} <= {*trials}
    tables = load(tmp_path / "sweep")
    spent = tables.ticks.groupby("trial")["spend"].sum()
    np.testing.assert_allclose(spent[trials["trial"]], trials["spend"])
    assert tables.events.empty
    about = load_about(tmp_path / "sweep")
    assert about["axes"] == ["campaign.budget"]
    assert [row["expected_net_value"] for row in about["rows"]] == [
        row["expected_net_value"] for row in told["rows"]
    ]


def test_a_trial_is_the_campaign_that_a_script_plays(tmp_path):
    (one,) = trials_of(tmp_path, 'agents = ["dual"]\nseeds = [3]')
    arrays = dict(np.load(io.BytesIO(playing.play_trial(tmp_path, one)), allow_pickle=False))
    record = trial.decode(arrays)
    row = pd.Series({**record.labels, **record.row})
    (tables,) = run(trial.scenario_of(one.world), ["dual"], [3])
    expected = tables.trials.iloc[0].drop(labels=["predict_ms_per_tick", "scenario"])
    assert row[expected.index].to_dict() == pytest.approx(expected.to_dict(), nan_ok=True)


def test_finished_trials_are_taken_from_the_folder(tmp_path, monkeypatch):
    small_sweep(tmp_path)
    before = pd.read_parquet(tmp_path / "sweep")
    monkeypatch.setattr(playing, "play_trial", lambda *_: pytest.fail("played again"))
    status, _, err = small_sweep(tmp_path)
    assert status == 0
    assert "8 of 8 trials taken" in " ".join(err.split())
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "sweep"), before)


def test_only_new_points_are_played(tmp_path):
    small_sweep(tmp_path)
    more = TEXT.replace("[100, 200]", "[100, 150, 200]")
    status, out, _ = small_sweep(tmp_path, more, "--json")
    assert (status, json.loads(out)["taken"], json.loads(out)["done"]) == (0, 8, 4)
    assert pd.read_parquet(tmp_path / "sweep")["campaign.budget"].unique().tolist() == [
        *(100, 150, 200),
    ]
    _, out, _ = small_sweep(tmp_path, TEXT, "--no-resume", "--json")
    assert (json.loads(out)["taken"], json.loads(out)["done"]) == (0, 8)


def test_damaged_file_is_played_again(tmp_path):
    small_sweep(tmp_path)
    before = table_of(tmp_path / "sweep")
    for file in sorted((tmp_path / "sweep" / "_trials").iterdir())[:2]:
        file.write_bytes(file.read_bytes()[:100])
    _, out, _ = small_sweep(tmp_path, TEXT, "--json")
    assert (json.loads(out)["taken"], json.loads(out)["done"]) == (6, 2)
    pd.testing.assert_frame_equal(table_of(tmp_path / "sweep"), before)


@pytest.mark.parametrize("content", [b"", b"PK no zip", None])
def test_files_that_cannot_be_read_are_played_again(tmp_path, content):
    small_sweep(tmp_path)
    before = table_of(tmp_path / "sweep")
    for file in sorted((tmp_path / "sweep" / "_trials").iterdir())[:2]:
        good = bytearray(file.read_bytes())
        good[60:90] = b"\0" * 30  # in the first array
        file.write_bytes(good if content is None else content)
    for _ in range(4):  # a file whose row is whole is noticed, and removed, when it is read
        status, _, err = small_sweep(tmp_path)
        if status == 0:
            break
        assert "was damaged and is removed: run the command again" in " ".join(err.split())
    pd.testing.assert_frame_equal(table_of(tmp_path / "sweep"), before)


def test_whole_numbers_and_others_are_the_same_points(tmp_path):
    small_sweep(tmp_path)
    more = TEXT.replace("[100, 200]", "[100, 200, 200.5]")
    _, out, _ = small_sweep(tmp_path, more, "--json")
    assert (json.loads(out)["taken"], json.loads(out)["done"]) == (8, 4)
    found = pd.read_parquet(tmp_path / "sweep")["campaign.budget"].unique()
    assert found.tolist() == [100.0, 200.0, 200.5]


def test_a_sweep_does_not_overwrite_other_results(tmp_path):
    world = ("--set=time.num_ticks=4", "--set=traffic.impressions_per_tick=40")
    adsim("run", "-a", "value", "--seeds", "0", *world, "--no-plots", "--out", tmp_path)
    status, _, err = small_sweep(tmp_path, TEXT, name="default")
    assert status == 2
    assert "holds results of another kind (agents)" in " ".join(err.split())


def test_files_of_a_process_at_work_are_left_alone(tmp_path):
    (tmp_path / "_trials").mkdir()
    mine = tmp_path / "_trials" / f".x.npz.{os.getpid()}.partial"
    stale = tmp_path / "_trials" / ".x.npz.999999999.partial"
    for file in (mine, stale):
        file.write_bytes(b"half")
    sweep.prepare(tmp_path)
    assert mine.exists()
    assert not stale.exists()


def test_keys_differ_by_all_that_matters(tmp_path):
    one, *_ = trials_of(tmp_path)
    others = [one._replace(agent="value"), one._replace(seed=9), one._replace(estimates="oracle")]
    others += [one._replace(raw=True), one._replace(explore=0.1)]
    others += [one._replace(world=one.world._replace(structure=4))]
    assert len({trial.key_of(each) for each in [one, *others]}) == 7
    mine = tmp_path / "mine.py"
    mine.write_text(SLOW_AGENT.format(seconds=0))
    own = one._replace(agent=f"{mine}:Slow")
    key = trial.key_of(own)
    mine.write_text(SLOW_AGENT.format(seconds=0.0))
    changed = trial.key_of(own)
    assert changed != key
    (tmp_path / "helper.py").write_text("GAIN = 2")  # it might import this
    assert trial.key_of(own) != changed


FAULTY = """
from agents import AGENTS


class Faulty(AGENTS["dual"]):
    def reset(self, campaign, *, seed=None):
        if seed == 1:
            raise RuntimeError("no luck with seed 1")
        super().reset(campaign, seed=seed)
"""


def test_failed_trials_are_recorded_and_the_others_go_on(tmp_path):
    (tmp_path / "faulty.py").write_text(FAULTY)
    text = f'agents = ["{tmp_path}/faulty.py:Faulty", "dual"]\nseeds = 3'
    status, _, err = small_sweep(tmp_path, text)
    assert status == 1
    assert "1 failed: RuntimeError: no luck with seed 1" in " ".join(err.split())
    trials = pd.read_parquet(tmp_path / "sweep")
    failed = trials[trials["status"] == "failed"]
    assert failed["seed"].tolist() == [1]
    assert "Traceback" in failed["error"].iloc[0]
    assert trials["net_value"].isna().sum() == 1
    log = (tmp_path / "sweep" / "_sweep.log").read_text()
    assert log.count("tried again (RuntimeError: no luck with seed 1)") == 1
    assert "6/6" in log
    # It is not played again unless that is asked for; then it may succeed.
    assert small_sweep(tmp_path, text, "--json")[0] == 1
    status, out, _ = small_sweep(tmp_path, text, "--retry-failed", "--json")
    assert (status, json.loads(out)["done"], json.loads(out)["failed"]) == (1, 0, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "cloud"), "--engine: must be local or ray"),
        (("--jobs", "0"), "--jobs: must be >= 1"),
        (("--retries", "-1"), "--retries: must be >= 0"),
        (("--set", "market.reserves=1"), "market.reserves: unknown key"),
        (("--out", "/proc/nowhere"), "--out: cannot write to"),
    ],
)
def test_bad_options_are_named_before_anything_is_played(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr(playing, "play_trial", lambda *_: pytest.fail("played"))
    status, _, err = small_sweep(tmp_path, TEXT, *options)
    assert status == 2
    assert message in " ".join(err.split())


def test_full_disk_is_named_at_the_start_and_at_the_write(tmp_path, monkeypatch):
    trials = trials_of(tmp_path)
    usage = sweep.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(sweep.shutil, "disk_usage", lambda _: usage._replace(free=1_000))
        with pytest.raises(ValueError, match="8 trials need about 1 MB"):
            play_all("sweep", trials, tmp_path, Options(jobs=1))

    def full(path, write):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sweep, "write_atomically", full)
    with pytest.raises(ValueError, match=r"cannot write .*npz: No space left on device"):
        play_all("sweep", trials, tmp_path, Options(jobs=1))


class Sweeping:
    """A sweep of slow trials in processes of its own, to be killed."""

    def __init__(self, folder, name):
        self.folder, self.name, self.file = folder, name, folder / "sweep.toml"
        self.out = folder / name / "sweep"
        command = [sys.executable, "-m", "scenarios.cli", "sweep", str(self.file), "--jobs", "2"]
        with (folder / f"{name}.txt").open("w") as told:
            self.process = subprocess.Popen(
                [*command, "--out", str(folder / name)],
                **{"stdout": told, "stderr": told},
                # Whoever runs the tests in the background may have interrupts ignored.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )

    def finished(self):
        return len(list(self.out.glob("_trials/*.npz")))

    def wait_for_two_trials(self):
        wait_until(lambda: self.finished() >= 2, "two trials are finished")

    def told(self):
        return " ".join((self.folder / f"{self.name}.txt").read_text().split())

    def go_on(self):
        status, _, err = adsim("sweep", self.file, "--out", self.folder / self.name)
        assert status == 0
        assert "of 9 trials taken" in err
        return table_of(self.out)


def wait_until(holds, what):
    for _ in range(1200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(f"a minute later it is not so that {what}")


@pytest.fixture(scope="module")
def slow_sweep(tmp_path_factory):
    """A folder with a sweep of nine slow trials, and the table it ends with undisturbed."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "slow.py").write_text(SLOW_AGENT.format(seconds=0.4))
    text = f'agents = ["{folder}/slow.py:Slow"]\nseeds = 3\n'
    file = sweep_file(folder, text + "[axes]\ncampaign.budget = [100, 150, 200]")
    assert adsim("sweep", file, "--out", folder / "whole")[0] == 0
    return folder, table_of(folder / "whole" / "sweep")


# Slow, 10 s: processes are started and killed.
@pytest.mark.slow
def test_sweep_whose_driver_was_killed_goes_on(slow_sweep):
    folder, expected = slow_sweep
    sweeping = Sweeping(folder, "driver")
    sweeping.wait_for_two_trials()
    workers = children(sweeping.process.pid)
    sweeping.process.kill()
    sweeping.process.wait()
    assert sweeping.finished() < len(expected) == 9
    gone = lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers)  # noqa: E731
    wait_until(gone, "the workers have ended")
    pd.testing.assert_frame_equal(sweeping.go_on(), expected)


@pytest.mark.slow
def test_sweep_whose_worker_was_killed_plays_its_trial_again(slow_sweep):
    folder, expected = slow_sweep
    sweeping = Sweeping(folder, "worker")
    sweeping.wait_for_two_trials()
    os.kill(children(sweeping.process.pid)[-1], signal.SIGKILL)
    assert sweeping.process.wait(120) == 0, sweeping.told()
    pd.testing.assert_frame_equal(table_of(sweeping.out), expected)
    log = (sweeping.out / "_sweep.log").read_text()
    assert "tried again (the worker process ended by signal SIGKILL" in log


@pytest.mark.slow
def test_interrupted_sweep_keeps_its_table_and_goes_on(slow_sweep):
    folder, expected = slow_sweep
    sweeping = Sweeping(folder, "stopped")
    sweeping.wait_for_two_trials()
    sweeping.process.send_signal(signal.SIGINT)
    assert sweeping.process.wait(60) == 130, sweeping.told()
    assert "go on by running it again" in sweeping.told()
    assert 2 <= len(table_of(sweeping.out)) < 9
    pd.testing.assert_frame_equal(sweeping.go_on(), expected)


def children(pid):
    """Worker processes of a process, oldest first."""
    with open(f"/proc/{pid}/task/{pid}/children") as listed:
        found = [int(word) for word in listed.read().split()]
    return [child for child in found if "spawn_main" in command_of(child)]


def command_of(pid):
    with open(f"/proc/{pid}/cmdline") as command:
        return command.read()


def test_times_are_all_that_varies(tmp_path):
    small_sweep(tmp_path, TEXT, name="one")
    small_sweep(tmp_path, TEXT, name="two")
    one, two = (table_of(tmp_path / name) for name in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)
    assert {*VARYING} <= {*pd.read_parquet(tmp_path / "one")}
