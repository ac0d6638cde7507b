"""What `adsim bench netcvr`, `gmv` and `scenes` do: run, score, print, write."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from scenarios import console, results
from scenarios.commands import make_folder, written_by
from scenarios.comparison import Preset, Task, World
from scenarios.tasks import Study, run_tasks, tune

Segments = pd.DataFrame
Runs = list[dict[str, Any]]
Rows = list[dict[str, Any]]


class Bench(NamedTuple):
    """A comparison of predictors of one kind, as a command."""

    name: str
    study: Study
    presets: Mapping[str, Preset]
    choose_methods: Callable[[str], list[str]]
    choose_worlds: Callable[..., list[World]]
    collect: Callable[[Sequence[Task], Path], tuple[Segments, Runs]]
    rows_of: Callable[[Segments, Runs], Rows]
    print_rows: Callable[[Rows], None]
    save_figures: Callable[[Segments, Runs, Path], list[Path]]
    measured: str  # the method whose overhead is measured
    measure_overhead: Callable[[Task, Path], tuple[float, float]]
    reference: str = ""  # the task that is added in generated worlds


def parse_rates(text: str) -> list[float]:
    """Learning rates from "1e-3,1e-2".

    Raises:
        ValueError: anything else than numbers in (0, 1].
    """
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate <= 1 for rate in rates):
        raise ValueError(f"--tune: expected numbers in (0, 1] such as 1e-3,1e-2, got {text!r}")
    return rates


def compare(
    bench: Bench,
    *,
    preset: str = "quick",
    scenarios: Sequence[str] = (),
    setups: Sequence[str] = (),
    methods: str | None = None,
    seeds: Sequence[int] = (),
    clicks: int | None = None,
    data: Path | None = None,
    jobs: int = 2,
    rates: Sequence[float] = (),
    as_json: bool = False,
    out: Path,
) -> None:
    """Runs what is not in the folder yet; then scores, prints and writes.

    With `rates`, learning rates, it prints what each does to each method in a world of its own.
    """
    names = bench.choose_methods("all" if methods is None else methods)
    worlds = bench.choose_worlds(preset, scenarios, setups, seeds, clicks, data)
    if jobs < 1:
        raise ValueError(f"--jobs: must be >= 1, got {jobs}")
    jobs = min(jobs, os.cpu_count() or 1)
    make_folder(out)
    if rates:
        first = {(world.scenario, world.setup): world for world in reversed(worlds)}
        options = (names, rates, out, jobs)
        grid = [row for world in first.values() for row in tune(bench.study, world, *options)]
        _print_grid(grid, bench.study.tuned, as_json=as_json)
        return
    tasks = [
        Task(world, name)
        for world in worlds
        for name in _names_in(bench, world, names, preset if methods is None else "")
    ]
    any_run = run_tasks(bench.study, f"bench {bench.name}", tasks, out, jobs) > 0
    segments, runs = bench.collect(tasks, out)
    rows = bench.rows_of(segments, runs)
    overhead: dict[str, Any] = {}
    if any_run and bench.measured in names:
        stream, bare = bench.measure_overhead(Task(worlds[0], bench.measured), out)
        if bare:  # else too few clicks for a training step
            overhead = {"stream_rows_per_s": stream, "bare_step_rows_per_s": bare}
    _write(bench, segments, runs, {**overhead, "rows": rows, "runs": runs}, out)
    if as_json:
        console.emit_json(rows, out=str(out), **overhead)
    else:
        bench.print_rows(rows)
    if overhead:
        stream, bare = overhead.values()
        speeds = f"stream {stream:,.0f} rows/s, bare step {bare:,.0f} rows/s"
        console.stderr.print(f"{bench.measured}: {speeds}: {stream / bare:.0%}", highlight=False)


def _names_in(bench: Bench, world: World, names: list[str], preset: str) -> list[str]:
    """Methods that are run in a world; `preset` is "" if they were asked for."""
    if preset and (world.scenario, world.setup) in bench.presets[preset].with_extras:
        names = bench.choose_methods("all,extras")
    return names + [bench.reference] * bool(bench.reference and not world.is_file)


def _write(bench: Bench, segments: Segments, runs: Runs, table: dict[str, Any], out: Path) -> None:
    """Tables and figures; what is known about the runs goes into table.json."""
    results.save_json({**written_by(), **table}, out / "table.json")
    tables = {"table": pd.DataFrame(table["rows"]), "segments": segments}
    for name, frame in tables.items():
        results.save_table(frame, out / f"{name}.parquet")
    bench.save_figures(segments, runs, out)


def _print_grid(rows: Rows, headers: Mapping[str, str], *, as_json: bool) -> None:
    if as_json:
        console.emit_json(rows)
        return
    texts = ["scenario", "setup", "method"]
    cells = [
        [
            *(row[name] for name in texts),
            f"{row['learning_rate']:g}",
            *(console.number(row[name], 4) for name in headers),
        ]
        for row in rows
    ]
    header = [*texts, "rate", *headers.values()]
    console.print_table("Learning rates", header, cells, text_columns=len(texts))
