"""The ladder of estimates: one scenario, one agent, the same seeds, rising quality of the estimate.

Every rung is a stack of `scenarios.stacks`; above them stand the oracle's estimates and the bound
of hindsight. A step leaves `<out>/<scenario>/ladder/<rung>-...json`, written at once, and is played
again only if its settings or the code are others.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import agents
import scenarios
from adsim.env import AuctionEnv
from scenarios import console
from scenarios.build import make_agent, make_world
from scenarios.estimates import EstimatesWrapper, estimation_loss
from scenarios.pool import each
from scenarios.results import jsonable, save_json
from scenarios.run import hindsight_bound, make_bounded_env, play
from scenarios.schema import Scenario, load
from scenarios.selection import SelectionMeter
from scenarios.stacks import RUNGS, make_stack, needs_warm_up
from scenarios.tasks import code_digest
from scenarios.warmup import HistoryConfig, WarmUp

AGENT = "dual"
PLAYED = (*RUNGS, "oracle")
"""Rungs that are campaigns; the bound of hindsight is computed beside the oracle's."""
PRESETS = {"quick": 5, "full": 20}
"""Numbers of seeds."""
SIZE = HistoryConfig()  # of the warm-up
_TRAINED_APART = {  # stacks whose warm-ups share no network, and those that need no others
    "reader": ("fnc", "tesla", "reader"),
    "full": ("scenes", "full", "full_ctr"),
}


class Step(NamedTuple):
    """One rung in one campaign."""

    scenario: str  # name or .toml file
    overrides: str  # dotted keys and values, JSON
    structure: int
    rung: str  # in `STACKS`
    seed: int
    explore: float = 0.0  # share of the bids that are randomised

    @property
    def world(self) -> "Step":
        """What all steps of one world have in common."""
        return self._replace(rung="", seed=0, explore=0.0)

    def file(self, out: Path) -> Path:
        """Where the result is kept."""
        explored = f"-explore{self.explore:g}" if self.explore else ""
        return out / "ladder" / f"{self.rung}{explored}-{self.structure}-{self.seed}.json"


@lru_cache(maxsize=4)
def scenario_of(world: Step) -> Scenario:
    """The scenario of a step, with its structure; `world` as from `Step.world`."""
    return load(world.scenario, {**json.loads(world.overrides), "structure_seed": world.structure})


def plan(
    scenario: Scenario,
    name: str,
    overrides: Mapping[str, Any],
    structures: Sequence[int],
    seeds: Sequence[int],
    *,
    rungs: Sequence[str] = PLAYED,
) -> list[Step]:
    """All steps of a ladder, structure by structure, rung by rung.

    Args:
        scenario: as loaded.
        name: that it was loaded by, with `overrides`.
        overrides: dotted keys and values.
        structures: seeds of structures; empty: the scenario's own.
        seeds: of episodes.
        rungs: in `STACKS`.

    Raises:
        ValueError: a world that cannot be made, or without a past that estimates could learn from.
    """
    WarmUp(scenario.world)
    make_world(scenario.world)
    given = json.dumps(dict(overrides), sort_keys=True)
    return [
        Step(name, given, structure, rung, seed)
        for structure in structures or [scenario.world.structure_seed]
        for rung in rungs
        for seed in seeds
    ]


def settings_of(step: Step) -> dict[str, Any]:
    """Everything that a result depends on."""
    world = scenario_of(step.world).world.model_dump(mode="json")
    about: dict[str, Any] = {"rung": step.rung, "seed": step.seed, "explore": step.explore}
    about |= {"agent": AGENT, "world": world, "history": SIZE.model_dump(mode="json")}
    about["code"] = code_digest(agents, scenarios)  # pyright: ignore[reportArgumentType] - hashable
    return json.loads(json.dumps(jsonable(about)))


def read(step: Step, out: Path) -> dict[str, Any] | None:
    """The figures that `run` left, if it was with the same settings."""
    try:
        kept = json.loads(step.file(out).read_text("utf-8"))
        return kept["row"] if kept["settings"] == settings_of(step) else None
    except (OSError, KeyError, TypeError, json.JSONDecodeError):  # none, or not written by `run`
        return None


def run(step: Step, out: Path, cache: Path) -> None:
    """Plays a step and writes its figures."""
    env = _environment(step.world)
    wrapped = EstimatesWrapper(
        env, _stack(step.world, step.rung, cache), explore_share=step.explore
    )
    meter = SelectionMeter(wrapped)
    statement, _ = play(meter, make_agent(AGENT), step.seed)
    config = env.world.config
    row: dict[str, Any] = {
        **{"rung": step.rung, "structure": step.structure, "seed": step.seed},
        **{"explore": step.explore, **statement._asdict(), "hindsight": hindsight_bound(env)},
        "learn_seconds_per_hour": wrapped.seconds["learn"] / config.time.horizon_hours,
        "predict_ms_per_tick": 1e3 * wrapped.seconds["predict"] / config.time.num_ticks,
        **meter.totals(),
    }
    if config.market.kind != "population":
        loss = estimation_loss(wrapped)
        row |= {"regret": loss.regret, "share_of_best_choice": loss.share}
    for target, found in wrapped.calibration().items():
        row[f"{target}_predicted"], row[f"{target}_observed"] = found.predicted, found.observed
    file = step.file(out)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_json({"settings": settings_of(step), "row": row}, file)


@lru_cache(maxsize=1)
def _environment(world: Step) -> AuctionEnv:
    return make_bounded_env(scenario_of(world).world)


@lru_cache(maxsize=len(PLAYED))
def _stack(world: Step, rung: str, cache: Path) -> Any:
    """Of a rung; never modified, so that campaigns share it."""
    return make_stack(rung, _warm_up(world, cache) if needs_warm_up(rung) else None)


@lru_cache(maxsize=1)
def _warm_up(world: Step, cache: Path) -> WarmUp:
    return WarmUp(scenario_of(world).world, SIZE, cache=cache)


def _train(cache: Path, step: Step) -> None:
    """Trains what a step's stack and those below it need, unless the cache has it."""
    warm_up = _warm_up(step.world, cache)
    make_stack(step.rung, warm_up)
    if step.rung == "reader":
        make_stack("fnc", warm_up)


def play_all(steps: Sequence[Step], out: Path, cache: Path, jobs: int) -> list[dict[str, Any]]:
    """Plays what is not in the folder yet; the figures of all steps, in their order.

    Args:
        steps: to be played.
        out: folder of results.
        cache: folder of trained estimates.
        jobs: processes.
    """
    todo = [step for step in steps if read(step, out) is None]
    if len(todo) < len(steps):
        console.stderr.print(f"{len(steps) - len(todo)} of {len(steps)} campaigns taken from {out}")
    apart = dict.fromkeys(
        step.world._replace(rung=top)
        for step in todo
        for top, rungs in _TRAINED_APART.items()
        if step.rung in rungs
    )
    each("warm-up (once)", partial(_train, cache), list(apart), jobs, _name_of)
    each("campaigns", partial(_run, out, cache), todo, jobs, _name_of)
    rows = [read(step, out) for step in steps]
    return [row for row in rows if row is not None]


def _run(out: Path, cache: Path, step: Step) -> None:
    run(step, out, cache)


def _name_of(step: Step) -> str:
    return f"{step.rung}, structure {step.structure}, seed {step.seed}"
