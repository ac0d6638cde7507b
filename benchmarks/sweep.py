"""How much faster sweeps are on two processes than on one, what a trial costs besides, and memory.

Run: python -m benchmarks.sweep --engine local --trials 32
     python -m benchmarks.sweep --engine ray --trials 32
     python -m benchmarks.sweep --tiny 2000

Both sides play the same trials, each sweep in a process of its own that has started its workers
before the clock runs. The sides take turns, so that both meet the same
noise of the machine; medians over `--repeats` are printed.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from scenarios.console import print_table, stderr
from scenarios.monitor import Monitor
from scenarios.sweep import Options, make_engine, play, prepare, row_of
from scenarios.trial import Trial, World

_LONG = {"traffic.impressions_per_tick": 4_000.0, "campaign.history_auctions": 1_000}
"""Of `default`: a week that takes more than 3 s."""
_TINY = {
    **{"time.num_ticks": 8, "time.tick_hours": 12.0, "traffic.impressions_per_tick": 30},
    **{"entities.num_users": 200, "entities.num_contexts": 64, "campaign.history_auctions": 100},
}


def trials(count: int, overrides: dict[str, Any], first: int = 0) -> list[Trial]:
    """Trials that differ in their seeds."""
    world = World("default", json.dumps(overrides), 0)
    return [Trial(world, "dual", "platform", first + seed) for seed in range(count)]


def measure(engine_name: str, jobs: int, count: int, overrides: dict[str, Any]) -> dict[str, float]:
    """Plays the trials: wall seconds, mean seconds inside a trial, and the driver's peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder, options = Path(name), Options(engine_name, jobs, retries=0, keep_going=False)
        prepare(folder)
        engine = make_engine(options, count)
        # Several per process: which one takes which is left to the engine.
        warm = trials(8 * jobs, _TINY, first=10_000)
        play(engine, warm, folder, options, Monitor("warm-up", len(warm), None))
        todo = trials(count, overrides)
        began = time.perf_counter()
        play(engine, todo, folder, options, Monitor("trials", count, None))
        wall = time.perf_counter() - began
        engine.close()
        rows = [row_of(folder, trial) or {} for trial in todo]
    assert all(row["status"] == "done" for row in rows)
    inside = statistics.mean(row["seconds"] for row in rows)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall": wall, "inside": inside, "memory_mb": memory}


def in_own_process(*arguments: Any) -> dict[str, float]:
    """`measure` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.sweep", "--measure", json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(engine: str, count: int, repeats: int) -> None:
    """Prints the speed-up of two processes over one."""
    one, two = [], []
    for _ in range(repeats):
        one.append(in_own_process("local", 1, count, _LONG))
        two.append(in_own_process(engine, 2, count, _LONG))
    speedups = [a["wall"] / b["wall"] for a, b in zip(one, two, strict=True)]
    lines = [_line("one process", one, 1, count), _line(f"two, {engine}", two, 2, count)]
    header = ["", "wall, s", "seconds of a trial", "overhead per trial, ms", "driver, MB"]
    found = ", ".join(f"{each:.2f}" for each in speedups)
    title = f"{count} trials, speed-up {statistics.median(speedups):.2f} (of each pair: {found})"
    print_table(title, header, lines, "Medians.")


def _line(name: str, runs: list[dict[str, float]], slots: int, count: int) -> list[str]:
    wall, inside, memory = (
        statistics.median(run[key] for run in runs) for key in ("wall", "inside", "memory_mb")
    )
    overhead = statistics.median(run["wall"] * slots / count - run["inside"] for run in runs)
    return [name, f"{wall:.1f}", f"{inside:.2f}", f"{1e3 * overhead:.0f}", f"{memory:.0f}"]


def tiny(engine: str, count: int) -> None:
    """Prints what many trials of milliseconds cost."""
    run = in_own_process(engine, 2, count, _TINY)
    header = ["", "wall, s", "seconds of a trial", "overhead per trial, ms", "driver, MB"]
    print_table(f"{count:,} tiny trials", header, [_line(f"two, {engine}", [run], 2, count)])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--trials", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tiny", type=int, default=0, help="so many trials of milliseconds")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        stderr.quiet = True
        print(json.dumps(measure(*json.loads(given.measure))))
    elif given.tiny:
        tiny(given.engine, given.tiny)
    else:
        compare(given.engine, given.trials, given.repeats)


if __name__ == "__main__":
    main()
