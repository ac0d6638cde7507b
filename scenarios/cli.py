"""The command line: `adsim run | sweep | report | train | replay | data | bench | list | ...`."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from scenarios.bench_cli import CacheOption, JobsOption, JsonOption, bench_app, parse_seeds
from scenarios.train_cli import train

app = typer.Typer(
    help="adsim: an auto-bidding simulator with delayed conversions, refunds and repurchases.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
replay_app = typer.Typer(help="Replay real auction logs.", no_args_is_help=True)
app.add_typer(replay_app, name="replay")
data_app = typer.Typer(help="Click and purchase logs, logged campaigns.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.command()(train)

CORES = os.cpu_count() or 1
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a scenario key; repeatable."),
]

ResumeOption = Annotated[
    bool, typer.Option("--resume/--no-resume", help="Take finished trials from the folder.")
]


def parse_overrides(pairs: list[str] | None) -> dict[str, Any]:
    """{"market.reserve": "0.01"} from ["market.reserve=0.01"].

    Raises:
        ValueError: an entry without "=".
    """
    overrides = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set: expected KEY=VALUE, got {pair!r}")
        overrides[key.strip()] = value.strip()
    return overrides


@app.command()
def run(
    scenario: Annotated[
        str, typer.Argument(help="Name (see `adsim list`) or .toml file.")
    ] = "default",
    agent: Annotated[
        list[str] | None,
        typer.Option(
            "--agent",
            "-a",
            help="Compare agents: a name, file.py:Class of your own, sb3:FOLDER of a training, or "
            "`all` of the scenario; repeatable. Without it: estimates.",
        ),
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Of estimates: quick (5 seeds) or full (20 seeds).")
    ] = "quick",
    seeds: Annotated[
        str | None, typer.Option(help="Episode seeds, e.g. 0-9; default: preset or scenario.")
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(help="Structure seeds, e.g. 0-4: other users, items and hidden effects."),
    ] = None,
    set_: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("results"),
    json_: JsonOption = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write tables only.")] = False,
    jobs: JobsOption = 2,
    resume: ResumeOption = True,
    cache: CacheOption = None,
) -> None:
    """Compare estimates of what impressions are worth, or agents, in campaigns of a scenario.

    Without --agent, dual pacing bids on ever better estimates: FNC x list price, TESLA, READER,
    MI-DPG layers, DenoiseBid, the oracle, and the bound of hindsight. They learn from a log of the
    time before the campaign (about a minute, kept in --cache), and then from the campaign itself.

    Example: adsim run noisy --preset full

    With --agent, agents bid on what the platform shows.

    Example: adsim run default -a dual -a value --seeds 0-4 --set campaign.budget=500
    """
    from scenarios import console
    from scenarios.commands import ladder_command, run_command

    with console.user_errors():
        seed_list = parse_seeds(seeds) if seeds is not None else None
        structure_list = parse_seeds(structures, "--structures") if structures is not None else None
        options: dict[str, Any] = {"structures": structure_list, "jobs": jobs, "resume": resume}
        options |= {"as_json": json_, "plots": not no_plots}
        overrides = parse_overrides(set_)
        if agent:
            run_command(scenario, agent, seed_list, overrides, out, **options)
            return
        ladder_command(
            *(scenario, overrides, out),
            **{**options, "preset": preset, "seeds": seed_list, "cache": cache},
        )


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="Sweep file (TOML).", metavar="FILE")],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the number of trials and the first few.")
    ] = False,
    set_: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder for results.")] = Path("results"),
    json_: JsonOption = False,
    engine: Annotated[str, typer.Option(help="local (processes) or ray.")] = "local",
    jobs: JobsOption = CORES,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; without it Ray runs on this machine.")
    ] = None,
    cpus: Annotated[float, typer.Option(help="CPUs of a trial, for Ray.")] = 1.0,
    gpus: Annotated[float, typer.Option(help="GPUs of a trial, for Ray.")] = 0.0,
    resume: ResumeOption = True,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Play trials again that failed.")
    ] = False,
    retries: Annotated[
        int, typer.Option(help="Of a trial that raises, or whose process dies.")
    ] = 1,
    cache: CacheOption = None,
) -> None:
    """Play a sweep: a scenario whose keys vary, over agents, estimates and seeds.

    Whatever stops it, run it again and it goes on. Exit status 1: trials failed.

    Example: adsim sweep examples/budget_sweep.toml --dry-run
    """
    from scenarios import console
    from scenarios.sweep import Options
    from scenarios.sweep_command import sweep_command

    where = {"engine": engine, "jobs": jobs, "address": address, "cpus": cpus, "gpus": gpus}
    again = {"resume": resume, "retry_failed": retry_failed, "retries": retries}
    options = Options(**where, **again, cache=cache)
    with console.user_errors():
        overrides = parse_overrides(set_)
        if not sweep_command(file, overrides, out, options, dry_run=dry_run, as_json=json_):
            raise typer.Exit(1)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(help="Results of `adsim run` or `adsim sweep`.", metavar="DIR")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the page; default: DIR/_report.")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in the browser.")] = False,
    json_: JsonOption = False,
) -> None:
    """Write a page (index.html) and figures (PNG) of a folder of results.

    The page holds all it needs: it works from disk, without a network.

    Example: adsim report results/budget_sweep --open
    """
    from scenarios import console
    from scenarios.report_command import report_command

    with console.user_errors():
        report_command(folder, out, open_page=open_, as_json=json_)


@replay_app.command("ipinyou")
def replay_ipinyou(
    data: Annotated[Path, typer.Option(help="Folder with the logs and info files.")],
    campaign: Annotated[str, typer.Option(help="Campaign number.")] = "2997",
    agent: Annotated[
        list[str] | None, typer.Option("--agent", "-a", help="Agent; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the table to this folder.")] = None,
    json_: JsonOption = False,
) -> None:
    """Play back an iPinYou campaign with the published protocol (episodes of 1000 auctions).

    Example: adsim replay ipinyou --data DIR --campaign 2997 --agent rlb --agent linear
    """
    from scenarios import console
    from scenarios.commands import replay_command

    with console.user_errors():
        replay_command(data, campaign, agent, out, as_json=json_)


@data_app.command("describe")
def data_describe(
    scenario: Annotated[str, typer.Argument(help="Name or .toml file.")] = "cascade",
    seed: Annotated[int, typer.Option(help="Episode seed.")] = 0,
    clicks: Annotated[
        int | None, typer.Option(help="Expected clicks, in as many days; default: the scenario's.")
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for figures; of scenarios trace... only.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Generate a log and compare it with what is published.

    A scenario whose name starts with `trace` gives the purchases of converted clicks, compared with
    TRACE; any other gives clicks, compared with CASCADE.

    Example: adsim data describe cascade_high_refund --seed 1 --clicks 100000
    """
    from scenarios import console, describe, describe_trace

    with console.user_errors():
        arguments = scenario, seed, clicks, parse_overrides(set_)
        if Path(scenario).name.startswith("trace"):
            describe_trace.describe_command(*arguments, out, as_json=json_)
            return
        if out is not None:
            raise ValueError("--out: only scenarios whose name starts with `trace` have figures")
        describe.describe_command(*arguments, as_json=json_)


@data_app.command("trajectories")
def data_trajectories(
    scenario: Annotated[str, typer.Option(help="Name or .toml file.")] = "default",
    agent: Annotated[
        list[str] | None,
        typer.Option("--agent", "-a", help="Agent of one multiplier; repeatable; default: dual."),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Episode seeds, e.g. 0-9.")] = "0-9",
    noise: Annotated[
        float, typer.Option(help="Sd of the normal noise on the actions, which are in [-1, 1].")
    ] = 0.0,
    set_: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder of Minari datasets.")] = Path("datasets"),
    json_: JsonOption = False,
) -> None:
    """Log campaigns of Pacing-v0 as a Minari dataset for offline reinforcement learning.

    Example: adsim data trajectories --scenario default --agent dual --seeds 0-9 --noise 0.1
    """
    from scenarios import console
    from scenarios.trajectories import trajectories_command

    with console.user_errors():
        trajectories_command(
            *(scenario, agent or ["dual"], parse_seeds(seeds), parse_overrides(set_), out, noise),
            as_json=json_,
        )


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List scenarios and agents.

    Example: adsim list
    """
    from agents import AGENTS
    from scenarios import console, load, names

    rows = [{"scenario": name, "description": load(name).description} for name in names()]
    if json_:
        console.emit_json(rows, agents=sorted(AGENTS))
        return
    console.print_table(
        *("Scenarios", ["scenario", "what it shows"]),
        [[row["scenario"], row["description"]] for row in rows],
        text_columns=2,
    )
    described = [
        [name, (cls.__doc__ or "").strip().splitlines()[0]] for name, cls in AGENTS.items()
    ]
    console.print_table("Agents", ["agent", "rule"], described, text_columns=2)


@app.command()
def show(
    scenario: Annotated[str, typer.Argument(help="Name or .toml file.")] = "default",
    set_: SetOption = None,
) -> None:
    """Print the resolved configuration of a scenario as JSON.

    Example: adsim show population --set market.population.n_advertisers=24
    """
    from scenarios import console, load

    with console.user_errors():
        resolved = load(scenario, parse_overrides(set_))
        sys.stdout.write(json.dumps(resolved.model_dump(mode="json"), indent=2) + "\n")


@app.command()
def schema(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A page of documentation instead.")
    ] = False,
) -> None:
    """Print the JSON Schema of scenario files, for editors.

    Example: adsim schema > scenario.schema.json
    """
    if markdown:
        from scenarios import schema_page

        sys.stdout.write(schema_page.markdown())
        return
    from scenarios.schema import json_schema

    sys.stdout.write(json_schema() + "\n")


def main() -> None:
    """Entry point of the `adsim` script."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
