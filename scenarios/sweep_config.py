"""Sweep files: a base scenario, what varies in it, who plays, and the trials that follow.

A sweep file is TOML; unknown keys, wrong types and values out of range are errors that name the
file, the key and the allowed range. Axes are any keys of the scenario: the full grid of `axes`,
times the lines of each table of `zip`, times the draws of `random`.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError, model_validator

from adsim.market_config import Model
from adsim.rng import generator
from scenarios.schema import explain

RANDOM_STREAM = 105  # of rng: apart from every stream of a world
_APART = ("agents", "seeds", "name", "description", "structure_seed")
_MOST_VALUES = 10_000  # of one range

Values = tuple[Any, ...]
Name = Annotated[str, Field(min_length=1)]


class Range(Model):
    """Evenly spaced numbers; with `log` their logarithms are."""

    start: float
    """First value."""
    stop: float
    """Last value, included."""
    num: Annotated[int | None, Field(ge=1, le=_MOST_VALUES)] = None
    """How many; or `step`."""
    step: Annotated[float | None, Field(gt=0)] = None
    """From one to the next; or `num`. The last value is the last that is not beyond `stop`."""
    log: bool = False
    """Evenly spaced logarithms; needs `num` and positive ends."""

    @model_validator(mode="after")
    def _is_complete(self) -> "Range":
        if (self.num is None) == (self.step is None):
            raise ValueError("a range needs `num` or `step`, one of them")
        if self.stop < self.start:
            raise ValueError(f"stop must be >= start, got {self.stop} < {self.start}")
        if self.log and (self.step is not None or self.start <= 0):
            raise ValueError("a logarithmic range needs `num` and start > 0")
        if self.step is not None and (self.stop - self.start) / self.step > _MOST_VALUES:
            raise ValueError(f"a range has at most {_MOST_VALUES} values")
        return self

    def values(self) -> list[float | int]:
        """Whole numbers as integers, if all are."""
        if self.step is not None:
            count = math.floor((self.stop - self.start) / self.step + 1e-9) + 1
            found = self.start + self.step * np.arange(count)
        elif self.log:
            found = np.geomspace(self.start, self.stop, self.num or 1)
        else:
            found = np.linspace(self.start, self.stop, self.num or 1)
        rounded = [float(f"{value:.12g}") for value in found]
        whole = all(value.is_integer() for value in rounded)
        return [int(value) for value in rounded] if whole else rounded


Pair = tuple[float, float]


class Distribution(Model):
    """What the values of a random axis are drawn from: exactly one of its keys."""

    uniform: Pair | None = None
    """Between two numbers."""
    log_uniform: Pair | None = None
    """Likewise, evenly in logarithms; both > 0."""
    normal: Pair | None = None
    """Mean and standard deviation."""
    log_normal: Pair | None = None
    """Median and standard deviation of the logarithm, both > 0."""
    integers: tuple[int, int] | None = None
    """Between two whole numbers, both included."""
    choice: Annotated[Values | None, Field(min_length=1)] = None
    """One of the values."""

    @model_validator(mode="after")
    def _is_one(self) -> "Distribution":
        given = {k: v for k, v in self.model_dump().items() if v is not None}
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(type(self).model_fields)} is needed")
        for name, pair in given.items():
            if name in ("uniform", "log_uniform", "integers") and pair[0] > pair[1]:
                raise ValueError(f"{name}: the first number must be <= the second, got {pair}")
            if name in ("log_uniform", "log_normal") and min(pair) <= 0:
                raise ValueError(f"{name}: both numbers must be > 0, got {pair}")
            if name == "normal" and pair[1] < 0:
                raise ValueError(f"normal: the standard deviation must be >= 0, got {pair[1]}")
        return self

    def draw(self, rng: np.random.Generator) -> Any:
        """A value."""
        if self.uniform is not None:
            return float(rng.uniform(*self.uniform))
        if self.log_uniform is not None:
            return float(np.exp(rng.uniform(*np.log(self.log_uniform))))
        if self.normal is not None:
            return float(rng.normal(*self.normal))
        if self.log_normal is not None:
            median, sd = self.log_normal
            return float(median * np.exp(sd * rng.normal()))
        if self.integers is not None:
            return int(rng.integers(*self.integers, endpoint=True))
        assert self.choice is not None
        return self.choice[int(rng.integers(len(self.choice)))]


Axis = Range | Values
Nested = dict[str, Any]


class RandomAxes(Model):
    """Points drawn at random; each axis has its own stream of random numbers."""

    draws: Annotated[int, Field(ge=1)]
    """Number of points."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the draws."""
    axes: Annotated[dict[Name, Distribution], Field(min_length=1)]
    """Keys of the scenario and what their values are drawn from."""

    def points(self) -> list[dict[str, Any]]:
        """The draws. More of them leave the first as they are."""
        columns = []
        for place, axis in enumerate(self.axes.values()):
            rng = generator(self.seed, RANDOM_STREAM + (place << 16))
            columns.append([axis.draw(rng) for _ in range(self.draws)])
        return [dict(zip(self.axes, values, strict=True)) for values in zip(*columns, strict=True)]


class Search(Model):
    """Points chosen one after another to maximise a metric, in place of the grid."""

    trials: Annotated[int, Field(ge=1)]
    """Number of points."""
    metric: str = "expected_net_value"
    """Column of the results; its mean over structures and seeds counts."""
    direction: Annotated[str, Field(pattern="^(maximize|minimize)$")] = "maximize"
    """Whether more of it is better."""
    batch: Annotated[int, Field(ge=1)] = 4
    """Points chosen at a time: they are played side by side, and learned from together."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the choice."""


class Sweep(Model):
    """What a sweep file says."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """File name without .toml."""
    description: str = ""
    """One line."""
    scenario: str = "default"
    """Name of a scenario, or a .toml file (relative to the sweep file)."""
    agents: Annotated[tuple[Name, ...], Field(min_length=1)] | None = None
    """As `adsim run --agent` takes them; default: those of the scenario."""
    estimates: Annotated[tuple[str, ...], Field(min_length=1)] = ("platform",)
    """What agents bid on: platform, fnc, tesla, reader, scenes, full, full_ctr or oracle."""
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 1, 2, 3, 4)
    """Episode seeds: a list, or how many, from 0."""
    structures: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = (
        None
    )
    """Structure seeds: a list, or how many, from 0; default: the scenario's own."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Scenario keys with other values than in the scenario."""
    axes: dict[Name, Axis] = Field(default_factory=dict)
    """Scenario keys and their values: a list, or a range."""
    zip: tuple[dict[Name, Values], ...] = ()
    """Tables of keys that vary together: lists of one length."""
    random: RandomAxes | None = None
    """Keys whose values are drawn."""
    search: Search | None = None
    """Chooses points by a metric instead."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        """Dotted keys of nested tables; counts of seeds as lists."""
        data = dict(data)
        for name in ("seeds", "structures"):
            if isinstance(data.get(name), int) and not isinstance(data[name], bool):
                data[name] = list(range(data[name]))
        for name, leaf in (("axes", Range), ("overrides", None)):
            if isinstance(data.get(name), dict):
                data[name] = _plain(data[name], leaf)
        for name in ("seeds", "structures", "agents", "estimates"):
            if isinstance(data.get(name), list):
                data[name] = list(dict.fromkeys(data[name]))
        if isinstance(data.get("axes"), dict):
            data["axes"] = {name: _axis(name, value) for name, value in data["axes"].items()}
        if isinstance(data.get("zip"), dict):
            data["zip"] = [data["zip"]]
        if isinstance(data.get("zip"), list):
            data["zip"] = [_plain(table, None) for table in data["zip"]]
        random = data.get("random")
        if isinstance(random, dict) and isinstance(random.get("axes"), dict):
            data["random"] = {**random, "axes": _plain(random["axes"], Distribution)}
        return data

    @model_validator(mode="after")
    def _is_consistent(self) -> "Sweep":
        for table in self.zip:
            lengths = {name: len(values) for name, values in table.items()}
            if len(set(lengths.values())) > 1:
                shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
                raise ValueError(
                    f"zip: lists that vary together must be of one length, got {shown}"
                )
        lists = [("axes", self.axes), *(("zip", table) for table in self.zip)]
        for table, axes in lists:
            for name, axis in axes.items():
                if axis == ():
                    raise ValueError(f"{table}.{name}: must have at least one value")
        keys = self.axis_names
        twice = sorted({key for key in keys if keys.count(key) > 1} | {*keys} & {*self.overrides})
        if twice:
            raise ValueError(f"{', '.join(twice)}: given more than once")
        apart = [key for key in [*keys, *self.overrides] if key.removeprefix("world.") in _APART]
        if apart:
            raise ValueError(f"{apart[0]}: not an axis: use `agents`, `seeds`, `structures`")
        if self.search is not None and (self.zip or not keys):
            raise ValueError("search: needs `axes` or `random.axes`, and no `zip`")
        return self

    @property
    def axis_names(self) -> list[str]:
        """Keys that vary, in the order of the columns of the results."""
        random = self.random.axes if self.random else {}
        return [*self.axes, *(name for table in self.zip for name in table), *random]


def _flattened(table: Mapping[str, Any], leaf: type[Model] | None) -> Iterator[tuple[str, Any]]:
    """Dotted keys and values; tables with nothing but keys of `leaf` are values."""
    for key, value in table.items():
        known = set(leaf.model_fields) if leaf is not None else set()
        if isinstance(value, dict) and not known & value.keys():
            yield from ((f"{key}.{rest}", entry) for rest, entry in _flattened(value, leaf))
        else:
            yield key, value


def _plain(table: Mapping[str, Any], leaf: type[Model] | None) -> dict[str, Any]:
    """The same with one name of each key.

    Raises:
        ValueError: a key is there under two names.
    """
    found: dict[str, Any] = {}
    for key, value in _flattened(table, leaf):
        if plain_key(key) in found:
            raise ValueError(f"{plain_key(key)}: given more than once")
        found[plain_key(key)] = value
    return found


def plain_key(key: str) -> str:
    """One name of a key: relative to the world, unless that would be a single word."""
    inner = key.removeprefix("world.")
    return inner if "." in inner else f"world.{inner}"


def _axis(name: str, value: Any) -> Any:
    """A list or a range.

    Raises:
        ValueError: neither.
    """
    if isinstance(value, dict):
        try:
            return Range.model_validate(value)
        except ValidationError as error:
            raise ValueError(f"axes.{name}: {explain(error, 'range')}") from None
    if not isinstance(value, list | tuple):
        raise ValueError(
            f"axes.{name}: must be a list of values or {{ start, stop, num }}, got {value!r}"
        )
    return tuple(value)
