"""Trials on Ray: nothing is lost with a worker or a node, and nodes need no disk in common."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from command_line import adsim
from ray_cluster import descendants, two_nodes
from small_worlds import SMALL_WORLD

_ON_THIS_MACHINE = """
from scenarios import ray_engine
from scenarios.pool import outcomes
from scenarios.sweep import Options
from scenarios.trial import Trial, World

world = World("default", '{"time.num_ticks": 2, "campaign.history_auctions": 100}', 0)
unplayable = Trial(world, "dual", "nothing", 0)._replace(estimates="platform", explore=2.0)
engine = ray_engine.RayEngine(Options("ray", jobs=1))
played, failed = sorted(
    outcomes(engine, [Trial(world, "dual", "platform", 0), unplayable]),
    key=lambda outcome: outcome.item.explore,
)
assert len(played.value) > 1000 and played.error is None, played
assert isinstance(failed.error, ValueError) and "Traceback" in failed.trace, failed
ray_engine._code = lambda: "another version"
engine._code = "another version"
try:
    list(outcomes(engine, [played.item]))
except ValueError as error:
    assert "has other code of adsim" in str(error), error
else:
    raise AssertionError("other code was not noticed")
engine.close()
"""
_TIMES = ["seconds", "finished", "learn_seconds_per_hour", "predict_ms_per_tick"]


def sweep_file(folder, seeds, **more):
    lines = ["agents = ['dual', 'linear']", f"seeds = {seeds}", "[overrides]"]
    lines += [f"{key} = {value}" for key, value in (SMALL_WORLD | more).items()]
    lines = [line for line in lines if "campaign.budget" not in line]
    file = folder / "small.toml"
    file.write_text("\n".join([*lines, "[axes]", "campaign.budget = [100, 300]"]))
    return file


def start(*arguments):
    """`adsim` in a process of its own."""
    command = [sys.executable, "-m", "scenarios.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for(condition, process, seconds=90):
    """Waits until a condition holds, while the process runs."""
    for _ in range(int(20 * seconds)):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("this took too long")


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def num_results(folder):
    return len(list(folder.glob("small/_trials/*.npz")))


def table(folder):
    return pd.read_parquet(folder / "small").drop(columns=_TIMES)


@pytest.mark.slow  # starts Ray and campaigns of a second
def test_worker_and_node_that_die_cost_nothing(tmp_path):
    file = sweep_file(tmp_path, 6, **{"time.num_ticks": 240, "time.tick_hours": 1.0})
    assert adsim("sweep", file, "--out", tmp_path / "local", "--jobs", 1)[0] == 0
    with two_nodes() as (address, cluster):
        ray = start(
            "sweep", file, "--out", tmp_path / "ray", "--engine", "ray", "--address", address
        )
        wait_for(lambda: num_results(tmp_path / "ray") >= 4, ray)
        workers = [pid for pid, name in descendants(cluster.pid).items() if "ray::_work" in name]
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: num_results(tmp_path / "ray") >= 8, ray)
        cluster.stdin.write("\n")  # kills the second node
        cluster.stdin.flush()
        assert cluster.stdout.readline() == "killed\n"
        assert num_results(tmp_path / "ray") < 24
        _, errors = ray.communicate(timeout=120)
        assert ray.returncode == 0, errors
    pd.testing.assert_frame_equal(table(tmp_path / "ray"), table(tmp_path / "local"))


@pytest.mark.slow  # starts Ray
def test_outcomes_of_a_ray_of_this_machine():
    # In a process of its own: Ray warns of what is no fault of ours.
    done = subprocess.run([sys.executable, "-c", _ON_THIS_MACHINE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow  # starts Ray
def test_ray_ends_with_its_driver_and_the_sweep_goes_on(tmp_path):
    file = sweep_file(tmp_path, 6, **{"time.num_ticks": 240, "time.tick_hours": 1.0})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    with start("sweep", file, "--out", killed, "--engine", "ray") as driver:
        wait_for(lambda: num_results(killed) >= 3, driver)
        below = descendants(driver.pid)
        at_work = [pid for pid, name in below.items() if "ray::_work" in name or "raylet" in name]
        assert len(at_work) > 1
        driver.kill()
    finished = num_results(killed)
    assert finished < 24
    for _ in range(300):  # agents, which do no work, may wait for a minute
        if not any(is_running(pid) for pid in at_work):
            break
        time.sleep(0.1)
    else:
        raise AssertionError("Ray goes on")
    status, _, err = adsim("sweep", file, "--out", killed, "--jobs", 1)
    assert status == 0
    assert f"{finished} of 24 trials taken" in err
    assert adsim("sweep", file, "--out", whole, "--jobs", 1)[0] == 0
    pd.testing.assert_frame_equal(table(killed), table(whole))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--address", "127.0.0.1:1"), "--address: nothing answers at 127.0.0.1:1"),
        (("--address", "somewhere"), "--address: must be HOST:PORT of the head or auto"),
        (("--address", "ray://127.0.0.1:10001"), "--address: must be HOST:PORT"),
        (("--cpus", "0"), "--cpus: must be > 0"),
        (("--cpus", "1.5"), "--cpus: must be > 0, and whole above 1, got 1.5"),
        (("--gpus", "-1"), "--gpus: must be >= 0"),
    ],
)
def test_options_of_ray_that_are_wrong(tmp_path, options, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    monkeypatch.setitem(sys.modules, "ray.exceptions", ModuleType("ray.exceptions"))
    monkeypatch.setattr(sys.modules["ray"], "is_initialized", lambda: False, raising=False)
    file = sweep_file(tmp_path, 1)
    status, _, err = adsim("sweep", file, "--out", tmp_path, "--engine", "ray", *options)
    assert status == 2
    assert text in err


def test_missing_ray_is_told_with_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    file = sweep_file(tmp_path, 1)
    status, _, err = adsim("sweep", file, "--out", tmp_path, "--engine", "ray")
    assert status == 2
    assert 'pip install "adsim[ray]"' in err
