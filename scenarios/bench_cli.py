"""The commands `adsim bench ...`, and options that they share with others."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


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
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]

# Of `scenarios.netcvr`, `gmv`, `scenes`, which take too long to import for the help of others.
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
_SCENES_METHODS = (
    "shared_mlp, scene_input, scene_input_wide, shared_bottom, mmoe, ple, star, star_plain, apg, "
    "pepnet, one_per_scene, mi_dpg"
)
_SCENES_EXTRAS = (
    "mi_dpg_no_mi, mi_dpg_r2, mi_dpg_r8, mi_dpg_sigmoid, mi_dpg_diagonal, mi_dpg_infonce, "
    "mi_dpg_twice, scene_input_wide_twice, shared_bottom_twice, star_plain_twice"
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
JobsOption = Annotated[
    int, typer.Option(envvar="ADSIM_JOBS", help="Processes, at most as many as cores.")
]
TuneOption = Annotated[
    str | None, typer.Option(hidden=True, help="Compare learning rates, e.g. 1e-3,1e-2.")
]
CacheOption = Annotated[
    Path | None,
    typer.Option(help="Folder of trained estimates; default: $ADSIM_CACHE or ~/.cache/adsim."),
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


@bench_app.command("scenes")
def bench_scenes(
    preset: PresetOption = "quick",
    scenarios: ScenariosOption = None,
    setups: Annotated[
        list[str] | None,
        typer.Option(
            "--setup",
            help="different, half, alike: CVR, by how much scenes differ. ctr_different, "
            "ctr_alike: CTR; repeatable.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help=f"Names separated by commas. all: {_SCENES_METHODS}. extras: {_SCENES_EXTRAS}. "
            "Default: all; in preset full extras, too, in set-up different."
        ),
    ] = None,
    seeds: SeedsOption = None,
    clicks: Annotated[
        int | None, typer.Option(help="Clicks, or impressions, a day; default: the preset's.")
    ] = None,
    jobs: JobsOption = 2,
    tune: TuneOption = None,
    out: ResultsOption = Path("results/scenes"),
    json_: JsonOption = False,
) -> None:
    """Compare predictors for scenes of unequal traffic whose laws differ, on a stream.

    Example: adsim bench scenes --setup different --methods scene_input,mi_dpg --seeds 0-2
    """
    options = {"preset": preset, "scenarios": scenarios, "setups": setups, "methods": methods}
    options |= {"seeds": seeds, "clicks": clicks, "jobs": jobs, "tune": tune}
    _compare("scenes", as_json=json_, out=out, **options)


@bench_app.command("denoise")
def bench_denoise(
    preset: Annotated[
        str, typer.Option(help="quick: 5 seeds, half a minute. full: 20 seeds, minutes.")
    ] = "quick",
    data: Annotated[
        Path | None,
        typer.Option(
            help="iPinYou folder: the prices of its log of campaign 2997 and of every price "
            "landscape instead of synthetic ones; prices of 0 are left out."
        ),
    ] = None,
    regimes: Annotated[
        list[str] | None,
        typer.Option(
            "--regime",
            help="budget, cpc, online (without robust, whose purchases are parts of auctions), "
            "heteroscedastic; repeatable. Default: all.",
        ),
    ] = None,
    sigmas: Annotated[
        str | None, typer.Option(help="Noise, sd of the log-odds, e.g. 0.1,1; default: a grid.")
    ] = None,
    seeds: SeedsOption = None,
    out: Annotated[Path, typer.Option(help="Folder of tables and figures.")] = Path(
        "results/denoise"
    ),
    json_: JsonOption = False,
) -> None:
    """Compare bidders on noisy CTRs: plain, denoised, robust, risk-averse.

    Example: adsim bench denoise --regime budget --regime cpc --sigmas 0.1,1,2.154 --seeds 0-9
    """
    from scenarios import console

    with console.user_errors():
        from scenarios.denoise_bench import parse_sigmas

        options = {"regimes": regimes or (), "sigmas": parse_sigmas(sigmas) if sigmas else ()}
        options |= {"seeds": parse_seeds(seeds) if seeds is not None else ()}
        _benchmark("denoise").main(preset=preset, data=data, as_json=json_, out=out, **options)


@bench_app.command("agents")
def bench_agents(
    preset: Annotated[
        str,
        typer.Option(help="quick: 5 agents, 2 scenarios, 3 seeds. full: all, 10 seeds."),
    ] = "quick",
    scenarios: ScenariosOption = None,
    constraints: Annotated[
        list[str] | None,
        typer.Option(
            "--constraint", help="budget, cpc, net_cpa, net_roas; repeatable. Default: all."
        ),
    ] = None,
    agents: Annotated[
        list[str] | None,
        typer.Option("--agent", "-a", help="Other agents than the preset's; repeatable."),
    ] = None,
    seeds: SeedsOption = None,
    estimates: Annotated[
        str,
        typer.Option(
            help="What agents bid on: platform, fnc, tesla, reader, scenes, full, oracle."
        ),
    ] = "full",
    jobs: JobsOption = 2,
    out: ResultsOption = Path("results/agents"),
    cache: CacheOption = None,
    json_: JsonOption = False,
) -> None:
    """Compare bidding agents with learned estimates, by net value and by how targets are kept.

    Example: adsim bench agents --scenario default --constraint net_cpa -a dual -a dual_cpa
    """
    from scenarios import console

    with console.user_errors():
        options = {"scenarios": scenarios or (), "constraints": constraints or ()}
        options |= {"seeds": parse_seeds(seeds) if seeds is not None else ()}
        options |= {"agents": agents or (), "estimates": estimates, "jobs": jobs, "cache": cache}
        _benchmark("agents").main(preset=preset, as_json=json_, out=out, **options)
