"""The command line: `adsim run | replay | data | bench | list | show | schema`."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

app = typer.Typer(
    help="adsim: an auto-bidding simulator with delayed conversions, refunds and repurchases.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
replay_app = typer.Typer(help="Replay real auction logs.", no_args_is_help=True)
app.add_typer(replay_app, name="replay")
data_app = typer.Typer(help="Click and purchase logs.", no_args_is_help=True)
app.add_typer(data_app, name="data")


class _Benchmarks(TyperGroup):
    """Commands whose unknown names are errors like those of other names."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the arguments name."""
        name, known = args[0], self.list_commands(ctx)
        if not name.startswith("-") and name not in known:
            from scenarios import console

            with console.user_errors():
                names = ", ".join(known)
                raise ValueError(f"benchmark {name!r} does not exist: one of {names}")
        return super().resolve_command(ctx, args)


bench_app = typer.Typer(
    help="Benchmarks of the source checkout. Example: adsim bench speed",
    cls=_Benchmarks,
    no_args_is_help=True,
)
app.add_typer(bench_app, name="bench")

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a scenario key; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

# Of `scenarios.netcvr` and `gmv`, which take too long to import for the help of other commands.
_METHODS = (
    "pre_trained, oracle, bdl, fnc, fnw, es_dfm, defer, defuse, ddfm, dfsn, miss, "
    "tesla_separate, tesla_shared, tesla_hybrid, tesla"
)
_EXTRAS = (
    "oracle_cascade, oracle_direct, fnc_direct, tesla_rn, tesla_ln, tesla_hn, "
    "tesla_traffic, tesla_row, tesla_payments, tesla_frozen, tesla_narrow, es_dfm_narrow, "
    "es_dfm_frozen"
)
_GMV_METHODS = (
    "pre_single, offline_single, online_single, oracle_single, pre_dual, offline_dual, "
    "online_dual, oracle_dual, reader"
)
_GMV_EXTRAS = (
    "online_dual_ends, online_dual_gra, reader_calib, reader_gra, reader_currency, "
    "online_dual_hard, reader_hard, oracle_independent, oracle_frozen"
)


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Seeds from "0-9", "1,4,7" or a mixture.

    Raises:
        ValueError: anything else.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdigit() or (dash and not high.isdigit()) or (dash and int(high) < int(low)):
            raise ValueError(f"{option}: expected numbers >= 0 such as 0-9 or 1,4,7, got {text!r}")
        seeds.extend(range(int(low), int(high or low) + 1))
    return list(dict.fromkeys(seeds))


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
        typer.Option("--agent", "-a", help="Agent, or file.py:Class of your own; repeatable."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Episode seeds, e.g. 0-9; default: the scenario's.")
    ] = None,
    structures: Annotated[
        str | None,
        typer.Option(help="Structure seeds, e.g. 0-4: other users, items and hidden effects."),
    ] = None,
    set_: SetOption = None,
    out: Annotated[Path, typer.Option(help="Folder for tables and figures.")] = Path("results"),
    json_: JsonOption = False,
    no_plots: Annotated[bool, typer.Option("--no-plots", help="Write tables only.")] = False,
) -> None:
    """Let agents play the campaigns of a scenario and compare them.

    Example: adsim run default --agent dual --agent value --seeds 0-4 --set campaign.budget=500
    """
    from scenarios import console
    from scenarios.commands import run_command

    with console.user_errors():
        seed_list = parse_seeds(seeds) if seeds is not None else None
        run_command(
            *(scenario, agent, seed_list, parse_overrides(set_), out),
            structures=parse_seeds(structures, "--structures") if structures is not None else None,
            as_json=json_,
            plots=not no_plots,
        )


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


def _benchmark(name: str) -> ModuleType:
    """A module of the folder benchmarks, which only source checkouts have.

    Raises:
        ValueError: there is none of this name.
    """
    path = Path(__file__).parents[1] / "benchmarks" / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in path.parent.glob("*.py"))
        raise ValueError(f"benchmark {name!r} does not exist: one of {', '.join(known) or 'none'}")
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"benchmark {name!r} cannot be loaded from {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@bench_app.command("speed")
def bench_speed(
    json_: JsonOption = False,
    out: Annotated[Path | None, typer.Option(help="Also write the table to this folder.")] = None,
) -> None:
    """Measure speed and memory of the environments.

    Example: adsim bench speed
    """
    from scenarios import console

    with console.user_errors():
        _benchmark("speed").main(as_json=json_, out=out)


PresetOption = Annotated[
    str, typer.Option(help="quick: one world. full: several seeds, scenarios and set-ups.")
]
ScenariosOption = Annotated[
    list[str] | None,
    typer.Option("--scenario", help="Other scenarios than the preset's; repeatable."),
]
SeedsOption = Annotated[str | None, typer.Option(help="Seeds, e.g. 0-4; default: the preset's.")]
ClicksOption = Annotated[int | None, typer.Option(help="Clicks a day; default: the preset's.")]
JobsOption = Annotated[int, typer.Option(help="Processes, at most as many as cores.")]
TuneOption = Annotated[
    str | None, typer.Option(hidden=True, help="Compare learning rates, e.g. 1e-3,1e-2.")
]
ResultsOption = Annotated[
    Path, typer.Option(help="Folder of results; those in it are not run again.")
]


def _compare(
    name: str,
    *,
    scenarios: list[str] | None,
    setups: list[str] | None,
    seeds: str | None,
    tune: str | None,
    **options: Any,
) -> None:
    """Runs a benchmark of predictors; `options` are those of `scenarios.bench.compare`."""
    from scenarios import console
    from scenarios.bench import parse_rates

    with console.user_errors():
        options |= {
            "scenarios": scenarios or (),
            "setups": setups or (),
            "seeds": parse_seeds(seeds) if seeds is not None else (),
            "rates": parse_rates(tune) if tune is not None else (),
        }
        _benchmark(name).main(**options)


@bench_app.command("netcvr")
def bench_netcvr(
    preset: PresetOption = "quick",
    scenarios: ScenariosOption = None,
    setups: Annotated[
        list[str] | None,
        typer.Option("--setup", help="fair: all alike. published: TESLA's code; repeatable."),
    ] = None,
    methods: Annotated[
        str,
        typer.Option(help=f"Names separated by commas. all: {_METHODS}. extras: {_EXTRAS}."),
    ] = "all",
    seeds: SeedsOption = None,
    clicks: ClicksOption = None,
    data: Annotated[
        Path | None, typer.Option(help="A log in a CASCADE format instead of scenarios.")
    ] = None,
    jobs: JobsOption = 2,
    tune: TuneOption = None,
    out: ResultsOption = Path("results/netcvr"),
    json_: JsonOption = False,
) -> None:
    """Compare predictors of the net conversion rate on a stream of delayed feedback.

    Example: adsim bench netcvr --preset full --scenario cascade --methods oracle,es_dfm,tesla
    """
    options = {"preset": preset, "scenarios": scenarios, "setups": setups, "methods": methods}
    options |= {"seeds": seeds, "clicks": clicks, "data": data, "jobs": jobs, "tune": tune}
    _compare("netcvr", as_json=json_, out=out, **options)


@bench_app.command("gmv")
def bench_gmv(
    preset: PresetOption = "quick",
    scenarios: ScenariosOption = None,
    setups: Annotated[
        list[str] | None,
        typer.Option("--setup", help="fair: all alike. published: READER's code; repeatable."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Names separated by commas. all: {_GMV_METHODS}. extras: {_GMV_EXTRAS}. "
            "Default: all; in preset full extras, too, in scenario trace, set-up fair."
        ),
    ] = None,
    seeds: SeedsOption = None,
    clicks: ClicksOption = None,
    data: Annotated[
        Path | None, typer.Option(help="A log in the TRACE format instead of scenarios.")
    ] = None,
    jobs: JobsOption = 2,
    tune: TuneOption = None,
    out: ResultsOption = Path("results/gmv"),
    json_: JsonOption = False,
) -> None:
    """Compare predictors of the GMV of converted clicks on a stream of delayed purchases.

    Example: adsim bench gmv --scenario trace_many --methods online_single,reader --seeds 0-2
    """
    options = {"preset": preset, "scenarios": scenarios, "setups": setups, "methods": methods}
    options |= {"seeds": seeds, "clicks": clicks, "data": data, "jobs": jobs, "tune": tune}
    _compare("gmv", as_json=json_, out=out, **options)


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
def schema() -> None:
    """Print the JSON Schema of scenario files, for editors.

    Example: adsim schema > scenario.schema.json
    """
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
