"""Trials on Ray: nothing is lost with a worker or a node, and nodes need no disk in common."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from command_line import adsim
from ray_cluster import descendants, two_nodes
from small_worlds import SMALL_WORLD

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


def num_results(folder):
    return len(list(folder.glob("small/_trials/*.npz")))


def table(folder):
    return pd.read_parquet(folder / "small").drop(columns=_TIMES)


@pytest.mark.slow  # starts Ray and campaigns of a second
def test_worker_and_node_that_die_cost_nothing(tmp_path):
    file = sweep_file(tmp_path, 10, **{"time.num_ticks": 240, "time.tick_hours": 1.0})
    assert adsim("sweep", file, "--out", tmp_path / "local", "--jobs", 1)[0] == 0
    with two_nodes() as (address, cluster):
        ray = start(
            "sweep", file, "--out", tmp_path / "ray", "--engine", "ray", "--address", address
        )
        wait_for(lambda: num_results(tmp_path / "ray") >= 4, ray)
        workers = [pid for pid, name in descendants(cluster.pid).items() if "ray::_work" in name]
        os.kill(workers[0], signal.SIGKILL)
        wait_for(lambda: num_results(tmp_path / "ray") >= 10, ray)
        cluster.stdin.write("\n")  # kills the second node
        cluster.stdin.flush()
        _, errors = ray.communicate(timeout=120)
        assert ray.returncode == 0, errors
    pd.testing.assert_frame_equal(table(tmp_path / "ray"), table(tmp_path / "local"))
