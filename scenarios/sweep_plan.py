"""From a sweep file to its trials."""

import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from scenarios.build import TRAINED, make_agent
from scenarios.input_files import named_inputs
from scenarios.rungs import STACKS, needs_warm_up
from scenarios.schema import Scenario, ScenarioError, explain, load
from scenarios.sweep_config import Range, Sweep, plain_key
from scenarios.trial import Trial, World

Point = dict[str, Any]
"""Values of the keys that vary."""


class Plan(NamedTuple):
    """A sweep file, read, and what follows from it."""

    sweep: Sweep
    scenario: Scenario  # with the overrides, before anything varies
    name: str  # that the scenario is loaded by
    agents: tuple[str, ...]
    structures: tuple[int, ...]

    def trials(self, points: Sequence[Point]) -> list[Trial]:
        """Trials of points: those of one world stand together.

        Raises:
            ScenarioError, ValueError: a point gives no valid scenario, or one that learned
                estimates cannot be trained for.
            FileNotFoundError: a log that is played back does not exist.
        """
        worlds = [(self._world(point, s), point) for point in points for s in self.structures]
        return [
            Trial(world, agent, estimates, seed, json.dumps(point))
            for world, point in worlds
            for estimates in self.sweep.estimates
            for seed in self.sweep.seeds
            for agent in self.agents
        ]

    def _world(self, point: Point, structure: int) -> World:
        """A valid world."""
        overrides = {**self.sweep.overrides, **point}
        try:
            scenario = load(self.name, {**overrides, "structure_seed": structure})
        except ScenarioError as error:
            shown = ", ".join(f"{key} = {value!r}" for key, value in point.items())
            raise ScenarioError(f"{error} (at {shown or 'the overrides'})") from None
        if any(needs_warm_up(name) for name in self.sweep.estimates):
            from scenarios.warmup import WarmUp  # loads torch

            WarmUp(scenario.world)
        named_inputs(scenario.world)
        return World(self.name, json.dumps(overrides, sort_keys=True), structure)


def load_plan(file: Path, overrides: Mapping[str, Any] | None = None) -> Plan:
    """Reads a sweep file.

    Args:
        file: TOML.
        overrides: further keys of the scenario with other values.

    Raises:
        ScenarioError: it cannot be read, or a key or value is wrong; names them.
        ValueError: an agent cannot be made.
    """
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{file}: cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{file}: not valid TOML: {error}") from error
    try:
        sweep = Sweep.model_validate({"name": file.stem, **data})
    except ValidationError as error:
        raise ScenarioError(f"{file}: {explain(error, 'sweep')}") from error
    given = {plain_key(key): value for key, value in (overrides or {}).items()}
    if twice := sorted(given.keys() & {*sweep.axis_names}):
        raise ScenarioError(f"--set: {', '.join(twice)} varies in {file}")
    sweep = sweep.model_copy(update={"overrides": {**sweep.overrides, **given}})
    unknown = [name for name in sweep.estimates if name not in STACKS]
    if unknown:
        raise ScenarioError(f"{file}: estimates: must be of {', '.join(STACKS)}, got {unknown[0]}")
    beside = file.parent / sweep.scenario
    name = str(beside) if sweep.scenario.endswith(".toml") else sweep.scenario
    scenario = load(name, sweep.overrides)
    agents = [_beside(file.parent, agent) for agent in sweep.agents or scenario.agents]
    for agent in agents:
        make_agent(agent)
    structures = sweep.structures or (scenario.world.structure_seed,)
    return Plan(sweep, scenario, name, tuple(dict.fromkeys(agents)), structures)


def _beside(folder: Path, agent: str) -> str:
    """An agent whose file, or folder of a training, is beside the sweep file, if it is."""
    kind, path, name = "", *agent.rpartition(":")[::2]
    if agent.startswith(TRAINED):
        kind, path, name = TRAINED, agent.removeprefix(TRAINED), ""
    if not path or not (folder / path).exists():
        return agent
    return f"{kind}{folder / path}" + (f":{name}" if name else "")


def grid(sweep: Sweep) -> list[Point]:
    """All points: the product of the axes, of the lines of each table of `zip`, of the draws."""
    parts: list[list[Point]] = [
        [{name: value} for value in _values(axis)] for name, axis in sweep.axes.items()
    ]
    parts += [
        [dict(zip(table, line, strict=True)) for line in zip(*table.values(), strict=True)]
        for table in sweep.zip
    ]
    if sweep.random is not None:
        parts.append(sweep.random.points())
    points = [
        {name: value for part in combination for name, value in part.items()}
        for combination in itertools.product(*parts)
    ]
    return list({json.dumps(point): point for point in _alike(points)}.values())


def _values(axis: Any) -> Sequence[Any]:
    return axis.values() if isinstance(axis, Range) else axis


def _alike(points: Sequence[Point]) -> Iterator[Point]:
    """The points, with values of one type per key: columns of a table."""
    kinds = {key: {type(point[key]) for point in points} for key in points[0]}
    for key, found in kinds.items():
        if len(found) > 1 and found != {int, float}:
            names = ", ".join(sorted(kind.__name__ for kind in found))
            raise ScenarioError(f"axes: values of {key} must be of one type, got {names}")
    for point in points:
        yield {
            key: float(value) if kinds[key] == {int, float} else value
            for key, value in point.items()
        }
