"""What `adsim bench agents` does: choose, find targets, play, print, write."""

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from scenarios import console, results
from scenarios.agents_report import print_rows, rows_of, save_figures
from scenarios.agents_tasks import (
    CONSTRAINTS,
    PLAYERS,
    TARGET_OF,
    TIGHTER,
    TUNING_SEEDS,
    Play,
    Targets,
    found_targets,
    plan,
    prepare,
    read,
    run,
    tuning_plays,
)
from scenarios.cache import cache_folder
from scenarios.commands import make_folder, written_by
from scenarios.comparison import TUNING_SEED, choose
from scenarios.pool import each
from scenarios.rungs import STACKS, needs_warm_up
from scenarios.schema import load

Played = list[dict[str, Any]]


class Preset(NamedTuple):
    """What is compared unless options say otherwise."""

    scenarios: tuple[str, ...]
    players: tuple[str, ...]
    seeds: int


PRESETS = {
    "quick": Preset(
        ("default", "first_price"),
        ("dual", "dual_cpc", "dual_cpa", "dual_roas", "shading", "hindsight"),
        3,
    ),
    "full": Preset(
        (
            *("default", "drift", "heavy_refund", "long_delay", "multi_scene", "noisy"),
            *("repurchase", "price_refunds", "first_price", "population"),
        ),
        PLAYERS,
        10,
    ),
}


def choose_plays(
    preset: str = "quick",
    scenarios: Sequence[str] = (),
    constraints: Sequence[str] = (),
    agents: Sequence[str] = (),
    seeds: Sequence[int] = (),
    estimates: str = "full",
) -> list[Play]:
    """The campaigns of a preset; every argument that is given replaces that part of it.

    Raises:
        ValueError: an unknown name, a seed out of range, or agents without a campaign.
    """
    (preset,) = choose("preset", [preset], PRESETS)
    usual = PRESETS[preset]
    choose("estimates", [estimates], STACKS)
    names = list(dict.fromkeys(scenarios)) or list(usual.scenarios)
    wanted = choose("constraint", constraints, CONSTRAINTS) or list(CONSTRAINTS)
    wanted = [name for name in CONSTRAINTS if name in wanted]
    players = choose("agent", agents, PLAYERS) or list(usual.players)
    if any(not 0 <= seed < TUNING_SEED for seed in seeds):
        raise ValueError(f"--seeds: must be in [0, {TUNING_SEED}), got {max(seeds)}")
    labels = {Play(name, "", "", "", 0).label for name in names}
    if len(labels) < len(names):
        raise ValueError(f"--scenario: names must differ, got {', '.join(names)}")
    for name in names:
        if load(name).world.market.kind == "replay":
            raise ValueError(f"scenario {name}: a replay has no purchases to bid on")
    plays = plan(names, estimates, wanted, players, list(seeds) or range(usual.seeds))
    if not any(play.agent in PLAYERS[:-1] for play in plays):
        steer = ", ".join(f"{agent} by {target}" for agent, target in TARGET_OF.items())
        raise ValueError(f"--agent, --constraint: nothing to play; of those with a target: {steer}")
    return plays


def compare(
    *,
    preset: str = "quick",
    scenarios: Sequence[str] = (),
    constraints: Sequence[str] = (),
    agents: Sequence[str] = (),
    seeds: Sequence[int] = (),
    estimates: str = "full",
    jobs: int = 2,
    as_json: bool = False,
    out: Path,
    cache: Path | None = None,
) -> None:
    """Plays what is not in the folder yet; then prints tables and writes them with a figure.

    Args:
        preset: in `PRESETS`.
        scenarios: names or .toml files.
        constraints: in `CONSTRAINTS`.
        agents: in `PLAYERS`.
        seeds: of campaigns.
        estimates: in `STACKS`: what the agents bid on.
        jobs: processes, at most as many as cores.
        as_json: print rows as JSON instead of tables.
        out: folder of results, created if needed.
        cache: folder of trained estimates, created if needed; None: `cache_folder()`.

    Raises:
        ValueError: an argument is out of range, or a campaign failed.
    """
    plays = choose_plays(preset, scenarios, constraints, agents, seeds, estimates)
    if jobs < 1:
        raise ValueError(f"--jobs: must be >= 1, got {jobs}")
    jobs = min(jobs, os.cpu_count() or 1)
    make_folder(out)
    cache = make_folder(cache or cache_folder())
    began = time.monotonic()
    names = list(dict.fromkeys(play.scenario for play in plays))
    tuning = tuning_plays(names)
    _play_all("targets", tuning, dict.fromkeys(names), out, cache, jobs)
    targets = {
        name: found_targets(_rows([p for p in tuning if p.scenario == name], {name: None}, out))
        for name in names
    }
    todo = _left(plays, targets, out)
    first = {play.scenario: play for play in reversed(todo) if needs_warm_up(play.estimates)}
    each("warm-up", partial(_prepare, cache), list(reversed(first.values())), jobs, _name_of)
    _play_all("bench agents", plays, targets, out, cache, jobs)
    trials = pd.DataFrame(_rows(plays, targets, out))
    of_label = {Play(n, "", "", "", 0).label: t for n, t in targets.items()}
    rows = rows_of(trials, of_label, [c for c in CONSTRAINTS if c in constraints] or CONSTRAINTS)
    settings = {
        "preset": preset,
        "estimates": estimates,
        "targets": {name: found._asdict() for name, found in targets.items()},
        "tuning_seeds": TUNING_SEEDS,
        "tighter": TIGHTER,
        "seconds": time.monotonic() - began,
        "played": len(todo),
    }
    _write(rows, trials, settings, out)
    if as_json:
        console.emit_json(rows, out=str(out), targets=settings["targets"])
    else:
        print_rows(rows)


def _left(plays: Sequence[Play], targets: Mapping[str, Targets | None], out: Path) -> list[Play]:
    """Those whose results are not in the folder."""
    return [play for play in plays if read(play, targets[play.scenario], out) is None]


def _rows(plays: Sequence[Play], targets: Mapping[str, Targets | None], out: Path) -> Played:
    """Figures of finished plays."""
    found = [read(play, targets[play.scenario], out) for play in plays]
    return [kept["row"] for kept in found if kept is not None]


def _play_all(
    title: str,
    plays: Sequence[Play],
    targets: Mapping[str, Targets | None],
    out: Path,
    cache: Path,
    jobs: int,
) -> None:
    """Plays what is not in the folder, and says what is taken from there."""
    todo = _left(plays, targets, out)
    if len(todo) < len(plays):
        _tell(f"{title}: {len(plays) - len(todo)} of {len(plays)} taken from {out}")
    # Plays of one environment stand together, so that a process builds few.
    todo.sort(key=lambda play: (list(targets).index(play.scenario), play.constraint))
    try:
        each(title, partial(_run, targets, out, cache), todo, jobs, _name_of)
    except BaseException:
        _tell(f"stopped: what is finished is in {out}; run again to go on")
        raise


def _name_of(play: Play) -> str:
    return f"{play.agent}, {play.label}, {play.constraint}, seed {play.seed}"


def _run(targets: Mapping[str, Targets | None], out: Path, cache: Path, play: Play) -> None:
    """`agents_tasks.run`, whose errors say where they come from."""
    try:
        run(play, targets[play.scenario], out, cache)
    except (ValueError, FileNotFoundError) as error:  # the user's
        raise ValueError(f"{_name_of(play)}: {error}") from error
    except Exception as error:
        raise RuntimeError(f"{_name_of(play)}: {type(error).__name__}: {error}") from error


def _prepare(cache: Path, play: Play) -> None:
    prepare(play, cache)


def _tell(text: str) -> None:
    console.stderr.print(text, highlight=False, soft_wrap=True)


def _write(
    rows: list[dict[str, Any]], trials: pd.DataFrame, settings: dict[str, Any], out: Path
) -> None:
    results.save_json({**written_by(), "settings": settings, "rows": rows}, out / "table.json")
    for name, frame in {"table": pd.DataFrame(rows), "trials": trials}.items():
        results.save_table(frame, out / f"{name}.parquet")
    save_figures(rows, out)
