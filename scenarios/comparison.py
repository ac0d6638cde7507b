"""What predictors of one kind are compared on: methods, worlds, tasks, and how options choose them.

A method is run in a world: a log (of a scenario and a seed, or read from a file) and a set-up that
says how all methods are configured. One method in one world is a task.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel

import adsim
from predictors.stream import Split
from scenarios.results import jsonable
from scenarios.schema import Scenario, load

TUNING_SEED = 1000  # of the world on which learning rates are chosen; no world of a comparison
SETUPS = ("fair", "published")  # unless a comparison has others

Settings = MappingProxyType[str, Any]


def only(**settings: Any) -> Settings:
    """Settings that nobody changes."""
    return MappingProxyType(settings)


class Method(NamedTuple):
    """A predictor and the settings in which it differs from the defaults of its configuration."""

    predictor: str  # in `PREDICTORS`
    always: Settings = only()
    published: Settings = only()  # in set-up published, on top
    like: str = ""  # whose learning rates it has; its own by default


class World(NamedTuple):
    """Where methods are compared."""

    scenario: str  # name or .toml file; or the data file
    setup: str  # of those that the comparison knows
    seed: int  # of episode and training, and added to the structure seed
    clicks: int  # a day; of a data file 0: as many as it has

    @property
    def is_file(self) -> bool:
        """Whether the log is read, not generated."""
        return self.clicks == 0

    @property
    def label(self) -> str:
        """The scenario without folder and endings."""
        path = Path(self.scenario)
        return path.name.split(".")[0] if self.is_file else path.name.removesuffix(".toml")

    @property
    def name(self) -> str:
        """Of the world's folder."""
        return f"{'data-' * self.is_file}{self.label}-{self.setup}-{self.seed}"


class Task(NamedTuple):
    """One method in one world."""

    world: World
    method: str
    rate: float | None = None  # learning rate; None: that of the set-up

    @property
    def name(self) -> str:
        """Of the result files."""
        return self.method if self.rate is None else f"{self.method}@{self.rate:g}"

    def file(self, out: Path, ending: str) -> Path:
        """Where a result is kept, ending ".npz" or ".json"."""
        return out / self.world.name / f"{self.name}{ending}"


Overrides = Callable[[World], dict[str, Any]]  # dotted keys of a world's scenario, as in `load`


def no_overrides(world: World) -> dict[str, Any]:
    """The scenario as it is."""
    return {}


class Preset(NamedTuple):
    """What is compared unless options say otherwise."""

    clicks: int  # a day
    seeds: dict[tuple[str, str], int]  # number of seeds by scenario and set-up
    other_seeds: int  # of other scenarios
    with_extras: tuple[tuple[str, str], ...] = ()  # scenarios and set-ups that get all methods


def choose(kind: str, wanted: Iterable[str], allowed: Iterable[str]) -> list[str]:
    """The wanted names, each once.

    Raises:
        ValueError: one is not allowed; lists those that are.
    """
    names, known = list(dict.fromkeys(wanted)), list(allowed)
    for name in names:
        if name not in known:
            raise ValueError(f"{kind} {name!r} does not exist: one of {', '.join(known)}")
    return names


def choose_methods(
    methods: Mapping[str, Method], extras: Mapping[str, Method], text: str = "all"
) -> list[str]:
    """Methods from "tesla,es_dfm", "all", "extras" or a mixture, in the order of the table."""
    groups = {"all": methods, "extras": extras}
    words = [word.strip() for word in text.split(",")]
    wanted = [name for word in words for name in groups.get(word, (word,))]
    known = [*methods, *extras]
    names = choose("method", wanted, [*known, *groups])
    return sorted(names, key=known.index)


def choose_worlds(
    presets: Mapping[str, Preset],
    preset: str = "quick",
    scenarios: Sequence[str] = (),
    setups: Sequence[str] = (),
    seeds: Sequence[int] = (),
    clicks: int | None = None,
    data: Path | None = None,
    *,
    folders: bool = True,
    known_setups: Iterable[str] = SETUPS,
) -> list[World]:
    """The worlds of a preset; every argument that is given replaces that part of it.

    `folders`: whether `data` may be one. `known_setups`: of the comparison.

    Raises:
        ValueError: an unknown name, a value out of range, or arguments that exclude each other.
    """
    (preset,) = choose("preset", [preset], presets)
    usual, wanted_setups = presets[preset], choose("setup", setups, known_setups)
    if data is not None and (scenarios or clicks is not None):
        raise ValueError("--data: its clicks are those of the file, without --scenario or --clicks")
    if data is not None and not data.exists():
        raise ValueError(f"--data: {data} does not exist")
    if data is not None and data.is_dir() and not folders:
        raise ValueError(f"--data: must be a file, {data} is a folder")
    if data is not None and data.is_file() and not data.stat().st_size:
        raise ValueError(f"--data: {data} has no clicks")
    if clicks is not None and clicks < 1:
        raise ValueError(f"--clicks: must be >= 1 a day, got {clicks}")
    if any(not 0 <= seed < TUNING_SEED for seed in seeds):
        raise ValueError(f"--seeds: must be in [0, {TUNING_SEED}), got {max(seeds)}")
    names = [str(data)] if data else list(dict.fromkeys(scenarios))
    worlds = [
        World(name, setup, seed, 0 if data else clicks or usual.clicks)
        for name, setup in _pairs(usual, names, wanted_setups)
        for seed in seeds or range(usual.seeds.get((name, setup), usual.other_seeds))
    ]
    if len({world.name for world in worlds}) < len(worlds):
        raise ValueError(f"--scenario: names must differ, got {', '.join(names)}")
    return worlds


def _pairs(usual: Preset, names: list[str], setups: list[str]) -> list[tuple[str, str]]:
    """Scenarios with their set-ups: all of both that are given, else as the preset plans them."""
    planned_names, planned_setups = (
        list(dict.fromkeys(part)) for part in zip(*usual.seeds, strict=True)
    )
    pairs = [(name, setup) for name in names or planned_names for setup in setups or planned_setups]
    planned = [pair for pair in pairs if pair in usual.seeds]
    if not names:
        return planned or pairs
    if setups:
        return pairs
    return [pair for pair in pairs if pair in planned or pair[0] not in planned_names]


def scenario_of(world: World, days: int, overrides: Overrides = no_overrides) -> Scenario:
    """The scenario of a world, with its traffic and structure.

    Args:
        world: of the scenario.
        days: that it must last at least.
        overrides: what the set-up makes of it.

    Raises:
        ValueError: it cannot be loaded, or is shorter than `days`.
    """
    changed = overrides(world)
    plain = load(world.scenario, changed)
    clock = plain.world.time
    scenario = load(
        world.scenario,
        {
            **changed,
            "structure_seed": plain.world.structure_seed + world.seed,
            "traffic.impressions_per_tick": world.clicks * clock.tick_hours / 24,
        },
    )
    if clock.horizon_hours < 24 * days:
        lasts = clock.horizon_hours / 24
        raise ValueError(f"scenario {world.label}: must last {days} days, lasts {lasts:g}")
    return scenario


def settings_of(task: Task, config: BaseModel | None, log: dict[str, Any]) -> dict[str, Any]:
    """Everything that a result depends on, as it is written to JSON.

    Args:
        task: one method in one world.
        config: of its predictor, if that has one.
        log: `log_settings` of the world.
    """
    settings = {
        "method": task.method,
        "config": config.model_dump(mode="json") if config else None,
        "seed": task.world.seed,
        **log,
    }
    return json.loads(json.dumps(jsonable(settings)))


def log_settings(
    world: World,
    split: Split,
    days: int,
    cardinalities_of: Callable[[Path], tuple[int, ...]] | None = None,
    overrides: Overrides = no_overrides,
) -> dict[str, Any]:
    """Everything that a log depends on.

    Args:
        world: of the log.
        split: of the log.
        days: that a generated log lasts.
        cardinalities_of: sizes of the features of a file; None: there are no files.
        overrides: see `scenario_of`.
    """
    about: dict[str, Any] = {"adsim": adsim.__version__, "split": vars(split), "days": days}
    if not world.is_file:
        settings = _world_settings(world, days, overrides)
        return {**about, "clicks": world.clicks, "world": settings}
    assert cardinalities_of is not None
    path = Path(world.scenario)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return {**about, "data": stats, "cardinalities": cardinalities_of(path)}


@lru_cache(maxsize=64)
def _world_settings(world: World, days: int, overrides: Overrides) -> dict[str, Any]:
    return scenario_of(world, days, overrides).world.model_dump(mode="json")
