"""Predictors of the net conversion rate on a stream of delayed feedback, compared.

Run it with `adsim bench netcvr`; what is compared, and how, is in `scenarios/netcvr.py`.
"""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

import adsim
from scenarios import console, results
from scenarios.commands import git_commit, make_folder
from scenarios.netcvr import Task, choose_methods, choose_worlds
from scenarios.netcvr_report import collect, groups_of, print_rows, rows_of, save_figures
from scenarios.netcvr_tasks import measure_overhead, run_tasks, tune

_MEASURED = "tesla"  # the method whose overhead is measured


def main(
    *,
    preset: str = "quick",
    scenarios: Sequence[str] = (),
    setups: Sequence[str] = (),
    methods: str = "all",
    seeds: Sequence[int] = (),
    clicks: int | None = None,
    data: Path | None = None,
    jobs: int = 2,
    rates: Sequence[float] = (),
    as_json: bool = False,
    out: Path = Path("results/netcvr"),
) -> None:
    """Runs what is not in the folder yet; then scores, prints and writes.

    With `rates`, learning rates, it prints what each does to each method in a world of its own.
    """
    names = choose_methods(methods)
    worlds = choose_worlds(preset, scenarios, setups, seeds, clicks, data)
    if jobs < 1:
        raise ValueError(f"--jobs: must be >= 1, got {jobs}")
    jobs = min(jobs, os.cpu_count() or 1)
    make_folder(out)
    if rates:
        first = {(world.scenario, world.setup): world for world in reversed(worlds)}
        grid = [row for world in first.values() for row in tune(world, names, rates, out, jobs)]
        _print_grid(grid, as_json=as_json)
        return
    tasks = [Task(world, name) for world in worlds for name in names]
    any_run = run_tasks("bench netcvr", tasks, out, jobs) > 0
    segments, runs = collect(tasks, out)
    rows = rows_of(segments, runs)
    overhead: dict[str, Any] = {}
    if any_run and _MEASURED in names:
        stream, bare = measure_overhead(Task(worlds[0], _MEASURED), out)
        if bare:  # else too few clicks for a training step
            overhead = {"stream_rows_per_s": stream, "bare_step_rows_per_s": bare}
    _write(rows, segments, runs, overhead, out)
    if as_json:
        console.emit_json(rows, out=str(out), **overhead)
    else:
        print_rows(rows)
    if overhead:
        stream, bare = overhead.values()
        speeds = f"stream {stream:,.0f} rows/s, bare step {bare:,.0f} rows/s"
        console.stderr.print(f"{_MEASURED}: {speeds}: {stream / bare:.0%}", highlight=False)


def _write(
    rows: list[dict[str, Any]],
    segments: pd.DataFrame,
    runs: list[dict[str, Any]],
    overhead: dict[str, float],
    out: Path,
) -> None:
    """Tables and figures; what is known about the runs goes into table.json."""
    about = {
        "adsim": adsim.__version__,
        "git": git_commit(),
        "written": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **overhead,
    }
    results.save_json({**about, "rows": rows, "runs": runs}, out / "table.json")
    tables = {"table": pd.DataFrame(rows), "segments": segments}
    for name, table in tables.items():
        results.write_atomically(
            out / f"{name}.parquet", lambda path, t=table: t.to_parquet(path, index=False)
        )
    save_figures(groups_of(segments), out)


def _print_grid(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        console.emit_json(rows)
        return
    texts = ["scenario", "setup", "method"]
    numbers = ["netcvr_auc", "netcvr_nll", "cvr_auc", "cvr_nll"]
    cells = [
        [
            *(row[name] for name in texts),
            f"{row['learning_rate']:g}",
            *(console.number(row[name], 4) for name in numbers),
        ]
        for row in rows
    ]
    header = [*texts, "rate", "NetCVR AUC", "NetCVR NLL", "CVR AUC", "CVR NLL"]
    console.print_table("Learning rates", header, cells, text_columns=len(texts))
