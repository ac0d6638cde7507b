"""What the commands of the command line do."""

import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import adsim
from scenarios import console, results
from scenarios.build import make_agent
from scenarios.cache import cache_folder
from scenarios.replay import PUBLISHED, ReplayRow, hindsight_row, play_log, replay_config
from scenarios.schema import Scenario, load
from scenarios.sweep import Options, play_all, save_dataset
from scenarios.trial import Trial, World
from scenarios.version import git_commit


def run_command(
    name: str,
    agents: list[str] | None,
    seeds: list[int] | None,
    overrides: dict[str, Any],
    out: Path,
    *,
    structures: list[int] | None = None,
    jobs: int = 2,
    resume: bool = True,
    as_json: bool,
    plots: bool,
) -> None:
    """`adsim run` with agents: plays, prints, writes. Interrupted, it keeps what is finished."""
    scenario = load(name, overrides)
    wanted = agents or ["all"]
    groups = ([name] if name != "all" else scenario.agents for name in wanted)
    players = list(dict.fromkeys(name for group in groups for name in group))
    for player in players:
        make_agent(player)
    chosen = seeds if seeds is not None else list(range(scenario.seeds))
    worlds = structures or [scenario.world.structure_seed]
    given = json.dumps(overrides, sort_keys=True)
    trials = [
        Trial(World(name, given, structure), player, "platform", seed, raw=True)
        for structure in worlds
        for seed in chosen
        for player in players
    ]
    folder = make_folder(out / scenario.name)
    results.claim(folder, "agents")
    interrupted = False
    try:
        options = _options(jobs, None)._replace(resume=resume)
        play_all(f"run {scenario.name}", trials, folder, options)
    except KeyboardInterrupt:
        interrupted = True
    description = _describe("agents", scenario, players, chosen, worlds, overrides)
    written = save_dataset(folder, trials, description)
    tables = results.load(folder)
    if tables.trials.empty:
        raise KeyboardInterrupt
    rows = results.summarise(tables.trials)
    results.save_json({**description, "rows": rows}, folder / results.ABOUT)
    if plots:
        from scenarios.plots import save_all

        written += save_all(tables, folder / "_figures")
    if as_json:
        console.emit_json(rows, scenario=scenario.name, out=str(folder))
    else:
        console.print_campaigns(_title(scenario, chosen, worlds), rows, _note(scenario, worlds))
    console.stderr.print(f"{len(written)} files in {folder}", highlight=False)
    if interrupted:
        raise KeyboardInterrupt


def ladder_command(
    name: str,
    overrides: dict[str, Any],
    out: Path,
    *,
    preset: str = "quick",
    seeds: list[int] | None = None,
    structures: list[int] | None = None,
    jobs: int = 2,
    cache: Path | None = None,
    resume: bool = True,
    as_json: bool,
    plots: bool,
) -> None:
    """`adsim run` without agents: the ladder of estimates. Interrupted, it goes on when repeated.

    Raises:
        ValueError: an argument is out of range, or the scenario has no past to learn from.
    """
    from scenarios import ladder, ladder_report
    from scenarios.comparison import choose

    (preset,) = choose("preset", [preset], ladder.PRESETS)
    scenario, began = load(name, overrides), time.monotonic()
    chosen = seeds if seeds is not None else list(range(ladder.PRESETS[preset]))
    worlds = structures or [scenario.world.structure_seed]
    options = _options(jobs, make_folder(cache or cache_folder()))._replace(resume=resume)
    trials = ladder.plan(scenario, name, overrides, worlds, chosen)
    folder = make_folder(out / f"{scenario.name}_ladder")
    results.claim(folder, "ladder")
    play_all(f"ladder {scenario.name}", trials, folder, options)
    description = _describe("ladder", scenario, [ladder.AGENT], chosen, worlds, overrides)
    description |= {"estimates": ladder.PLAYED, "seconds": time.monotonic() - began}
    save_dataset(folder, trials, description)
    rows = ladder_report.rows_of(results.load_trials(folder))
    results.save_json({**description, "rows": rows}, folder / results.ABOUT)
    title = f"{_title(scenario, chosen, worlds)}, agent {ladder.AGENT}"
    if plots:
        ladder_report.save_plot(rows, title, make_folder(folder / "_figures"))
    if as_json:
        console.emit_json(rows, scenario=scenario.name, out=str(folder))
    else:
        note = _note(scenario, worlds, "the oracle")
        pcoc = "PCOC: predicted / observed on what was won."
        ladder_report.print_rows(title, rows, f"{pcoc} {note}")
    console.stderr.print(f"results in {folder}", highlight=False)


def _options(jobs: int, cache: Path | None) -> Options:
    """Of one command on this machine, which ends with the first fault."""
    if jobs < 1:
        raise ValueError(f"--jobs: must be >= 1, got {jobs}")
    count = min(jobs, os.cpu_count() or 1)
    return Options(jobs=count, cache=cache, retries=0, keep_going=False)


def make_folder(folder: Path) -> Path:
    """The folder, created if needed, before any work is done for it.

    Raises:
        ValueError: it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out: cannot write to {folder}: {error.strerror}") from error
    return folder


def _title(scenario: Scenario, seeds: list[int], structures: list[int]) -> str:
    time_config = scenario.world.time
    days = time_config.horizon_hours / 24
    worlds = f"{len(structures)} structures x " if len(structures) > 1 else ""
    ticks = f"{days:g} days, {time_config.num_ticks} ticks"
    return f"{scenario.name}: {ticks}, {worlds}{len(seeds)} seeds"


def _note(scenario: Scenario, structures: list[int], whose: str = "each agent") -> str:
    over = "structures" if len(structures) > 1 else f"seeds, given structure {structures[0]}"
    note = f"Means with 95 % intervals over {over}. Expected: given the impressions won."
    if scenario.world.market.kind == "population":
        note += f" Hindsight: at the prices recorded in {whose}'s own run."
    return note


def _describe(
    kind: str,
    scenario: Scenario,
    agents: list[str],
    seeds: list[int],
    structures: list[int],
    overrides: dict[str, Any],
) -> dict[str, Any]:
    """Everything needed to repeat a run."""
    return {
        **written_by(),
        "kind": kind,
        "command": shlex.join(["adsim", *sys.argv[1:]]),
        "scenario": scenario.model_dump(mode="json"),
        "axes": [],
        "agents": agents,
        "estimates": ["platform"],
        "seeds": seeds,
        "structures": structures,
        "overrides": overrides,
    }


def written_by() -> dict[str, Any]:
    """Version, commit and UTC time, for what is written now."""
    written = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"adsim": adsim.__version__, "git": git_commit(), "written": written}


def replay_command(
    data: Path, campaign: str, agents: list[str] | None, out: Path | None, *, as_json: bool
) -> None:
    """`adsim replay ipinyou`: the published rows, exactly, and the hindsight bound."""
    config = replay_config(data, campaign)
    if out is not None:
        make_folder(out)
    players = list(dict.fromkeys(agents or PUBLISHED))
    bound = hindsight_row(config)
    rows: list[ReplayRow] = []
    with console.progress(f"replay {campaign}", len(players) * bound.auctions) as advance:
        for name in players:
            rows.append(play_log(config, name, lambda n, name=name: advance(n, note=name)))
    rows.append(bound)
    records = [row._asdict() for row in rows]
    if out is not None:
        description = {"adsim": adsim.__version__, "git": git_commit(), "campaign": campaign}
        results.save_json({**description, "rows": records}, out / f"replay_{campaign}.json")
    if as_json:
        console.emit_json(records, campaign=campaign, budget=config.campaign.budget)
        return
    cells = [
        [row.agent, *(console.number(value) for value in row[1:]), _cost_per_click(row)]
        for row in rows
    ]
    console.print_table(
        f"iPinYou campaign {campaign}: episodes of {config.time.num_ticks} auctions, "
        f"budget {config.campaign.budget:g} each",
        ["agent", "auctions", "won", "clicks", "cost", "cost per click"],
        cells,
        "bound: most clicks affordable when all prices and clicks are known in advance.",
    )


def _cost_per_click(row: ReplayRow) -> str:
    return console.number(row.cost / row.clicks, 1) if row.clicks else "-"
