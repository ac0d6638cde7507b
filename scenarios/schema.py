"""Scenario files: a world, the agents that play in it, and the seeds.

A scenario is a TOML file; unknown keys, wrong types and values out of range are errors that name
the file, the key and the allowed range. `load("default")` finds the scenarios of this package.
"""

import json
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from adsim.config import WorldConfig
from adsim.market_config import Model


class Scenario(Model):
    """A named experiment configuration."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """File name without .toml: letters, digits, `_`, `-` and `.`."""
    description: str = ""
    """One line for `adsim list`."""
    agents: tuple[str, ...] = Field(default=("dual", "pid", "linear", "value"), min_length=1)
    """Agents of `adsim run --agent all`, by registry name."""
    seeds: Annotated[int, Field(ge=1)] = 10
    """Episode seeds 0 .. seeds - 1 of `adsim run --agent ...`."""
    world: WorldConfig = WorldConfig()
    """What is simulated."""


class ScenarioError(ValueError):
    """A scenario that cannot be used; the message names file, key and allowed range."""


def names() -> list[str]:
    """Names of the scenarios of this package, sorted."""
    folder = resources.files("scenarios")
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in folder.iterdir()
        if entry.name.endswith(".toml")
    )


def load(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Scenario:
    """A validated scenario.

    Args:
        name: a scenario of this package, or a path ending in .toml.
        overrides: dotted keys (`market.reserve`, relative to the world, or `agents`, `seeds`)
            to values; strings are parsed as TOML values where that is possible.

    Raises:
        ScenarioError: no such scenario, bad TOML, unknown key, value out of range.
    """
    text, origin, stem = _read(name)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{origin}: not valid TOML: {error}") from error
    for key, value in (overrides or {}).items():
        _set(data, key, value, origin)
    try:
        return Scenario.model_validate({"name": stem, **data})
    except ValidationError as error:
        raise ScenarioError(f"{origin}: {explain(error)}") from error


def _read(name: str | Path) -> tuple[str, str, str]:
    """Text, origin for messages, and name of a scenario."""
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return path.read_text(encoding="utf-8"), str(path), path.stem
        except (OSError, UnicodeDecodeError) as error:
            raise ScenarioError(f"{path}: cannot be read: {error}") from error
    entry = resources.files("scenarios") / f"{name}.toml"
    if not entry.is_file():
        raise ScenarioError(
            f"scenario {str(name)!r} does not exist: "
            f"give a .toml file or one of {', '.join(names())}"
        )
    return entry.read_text(encoding="utf-8"), f"scenario {name}", str(name)


def _set(data: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Sets a dotted key; keys are relative to the world unless they name a scenario field."""
    parts = key.split(".")
    if parts[0] not in Scenario.model_fields:
        parts = ["world", *parts]
    table = data
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ScenarioError(f"{origin}: {key}: {part} is not a table")
    table[parts[-1]] = parse_value(value) if isinstance(value, str) else value


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself if it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def explain(error: ValidationError, whole: str = "scenario") -> str:
    """Every finding of pydantic as `key: what is wrong (got value)`, one line.

    Args:
        error: of a model.
        whole: what findings without a key are about.
    """
    findings = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or whole
        if item["type"] == "extra_forbidden":
            findings.append(f"{key}: unknown key")
            continue
        message = item["msg"].removeprefix("Value error, ")
        shown = repr(item["input"])
        got = f" (got {shown})" if len(shown) <= 60 else ""
        findings.append(f"{key}: {message}{got}")
    return "; ".join(findings)


def json_schema() -> str:
    """JSON Schema of scenario files, for editors."""
    schema = Scenario.model_json_schema()
    schema["required"] = []  # `name` comes from the file
    return json.dumps(schema, indent=2)
