"""What `adsim sweep` does."""

import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scenarios import console, results, sweep
from scenarios.commands import make_folder, written_by
from scenarios.results import leaderboard
from scenarios.sweep import Options, Played, play_all, save_dataset
from scenarios.sweep_plan import Plan, grid, load_plan
from scenarios.trial import FAILED, Trial

SHOWN_ROWS = 20
_SHOWN_TRIALS = 5


def sweep_command(
    file: Path,
    overrides: dict[str, Any],
    out: Path,
    options: Options,
    *,
    dry_run: bool = False,
    as_json: bool = False,
) -> bool:
    """Plays a sweep, prints its table and writes the results; whether no trial failed.

    Raises:
        ValueError: the file or an option is wrong, before anything is played.
    """
    if options.engine not in sweep.ENGINES:
        raise ValueError(f"--engine: must be {' or '.join(sweep.ENGINES)}, got {options.engine!r}")
    for name, least in (("jobs", 1), ("retries", 0)):
        if getattr(options, name) < least:
            raise ValueError(f"--{name}: must be >= {least}, got {getattr(options, name)}")
    plan = load_plan(file, overrides)
    searching = None
    if plan.sweep.search is not None:
        from scenarios.search import Searching  # Optuna is loaded only if it is needed

        searching = Searching(plan)
    trials = [] if searching else plan.trials(grid(plan.sweep))
    if dry_run:
        first = searching.first_trials() if searching else trials
        _print_plan(plan, first, searching.num_trials if searching else len(trials))
        return True
    folder, began = make_folder(out / plan.sweep.name), time.monotonic()
    results.claim(folder, "sweep")
    try:
        if searching:
            played = searching.play(folder, options)
        else:
            played = play_all(f"sweep {plan.sweep.name}", trials, folder, options)
    finally:  # what is finished, whatever stopped the rest
        points = searching.numbers if searching else None
        trials = searching.trials if searching else trials
        rows = _write(plan, trials, folder, time.monotonic() - began, points)
    if as_json:
        more = {"best": searching.best_point} if searching else {}
        about = {"sweep": plan.sweep.name, "out": str(folder), **played._asdict(), **more}
        console.emit_json(rows, **about)
    elif searching:
        searching.print_best()
    else:
        _print_rows(plan, rows, played)
    console.stderr.print(f"results in {folder}: adsim report {folder}", highlight=False)
    if played.failed:
        _print_failed(folder)
    return not played.failed


def _write(
    plan: Plan,
    trials: Sequence[Trial],
    folder: Path,
    seconds: float,
    points: Mapping[Trial, int] | None,
) -> list[dict[str, Any]]:
    """Makes the dataset of what is finished; the rows of the table."""
    about = {
        **written_by(),
        "kind": "sweep",
        "command": shlex.join(["adsim", *sys.argv[1:]]),
        "sweep": plan.sweep.model_dump(mode="json"),
        "scenario": plan.scenario.model_dump(mode="json"),
        "axes": plan.sweep.axis_names,
        "agents": plan.agents,
        "estimates": plan.sweep.estimates,
        "seeds": plan.sweep.seeds,
        "structures": plan.structures,
        "trials": len(trials),
        "seconds": seconds,
    }
    save_dataset(folder, trials, about, points)
    table = results.load_trials(folder)
    rows = leaderboard(table, plan.sweep.axis_names) if len(table) else []
    results.save_json({**about, "rows": rows}, folder / results.ABOUT)
    return rows


def _print_plan(plan: Plan, trials: Sequence[Trial], total: int) -> None:
    """The number of trials and the first of them."""
    names = [*plan.sweep.axis_names, "agent", "estimates", "structure", "seed"]
    lines = []
    for trial in trials[:_SHOWN_TRIALS]:
        point = json.loads(trial.axes)
        who = [trial.agent, trial.estimates, str(trial.world.structure), str(trial.seed)]
        lines.append([*(str(point[name]) for name in plan.sweep.axis_names), *who])
    counts = {"structures": len(plan.structures), "seeds": len(plan.sweep.seeds)}
    if plan.sweep.search is None:  # a search takes one of each per point
        counts |= {"estimates": len(plan.sweep.estimates), "agents": len(plan.agents)}
    counts = {"points": total // math.prod(counts.values()), **counts}
    product = " x ".join(f"{count} {name}" for name, count in counts.items())
    title = f"{plan.sweep.name}: {total:,} trials = {product}; the first {len(lines)}:"
    console.print_table(title, names, lines, text_columns=len(names))


def _print_rows(plan: Plan, rows: Sequence[dict[str, Any]], played: Played) -> None:
    """The best points and players."""
    axes = plan.sweep.axis_names
    best = sorted(rows, key=lambda row: -row["expected_net_value"])
    several = len(plan.agents) * len(plan.sweep.estimates) > 1
    rival = f"{plan.agents[0]}, {plan.sweep.estimates[0]}" if several else "first point"
    header = [*axes, "agent", "estimates", "expected net value", f"vs {rival}", "realised"]
    header += ["of hindsight", "seeds"]
    lines = []
    for row in best[:SHOWN_ROWS]:
        cells = [
            console.with_interval(*(row[name] for name in names))
            for names in (
                ("expected_net_value", "expected_low", "expected_high"),
                ("expected_diff", "expected_diff_low", "expected_diff_high"),
                ("net_value", "ci_low", "ci_high"),
            )
        ]
        share = row["share_of_hindsight"]
        shown = f"{100 * share:.1f} %" if share == share else "-"
        lines.append([*(_plain(row[name]) for name in (*axes, "agent", "estimates")), *cells])
        lines[-1] += [shown, str(row["seeds"])]
    taken = f", {played.taken} taken" if played.taken else ""
    title = f"{plan.sweep.name}: {played.done} trials played{taken}, {played.failed} failed"
    note = "Best first. Means with 95 % intervals. Expected: given the impressions won."
    if len(best) > SHOWN_ROWS:
        note += f" {len(best) - SHOWN_ROWS} more rows: adsim report."
    console.print_table(title, header, lines, note, text_columns=len(axes) + 2)


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print_failed(folder: Path) -> None:
    """The last lines of what went wrong, each once."""
    failed = results.of(results.load_trials(folder), "status", FAILED)
    last = [str(error).strip().splitlines()[-1] for error in failed["error"]]
    for line in dict.fromkeys(last):
        shown = console.plain(f"{last.count(line)} failed: {line}")
        console.stderr.print(f"[bold red]{shown}[/]", highlight=False, soft_wrap=True)
    console.stderr.print(
        "tracebacks: column `error` of the results; --retry-failed plays them again",
        highlight=False,
        soft_wrap=True,
    )
