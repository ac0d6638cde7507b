"""The reference of scenario files as a Markdown page, made from their schema."""

from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any, NamedTuple

from scenarios.schema import Scenario, load, names

_LONGEST = 8  # entries of a list that are written out as a default

_INTRO = """\
# Scenarios

A scenario is a TOML file: a world, agents, seeds. It names only what differs from the defaults
below. `adsim list` lists the scenarios that come with adsim, `adsim show NAME` prints one with all
its keys, and commands that take the name of a scenario take the path of a `.toml` file, too:

    adsim show heavy_refund --set refund.rate=0.4
    adsim run default --agent all --set campaign.budget=500 --set time.num_ticks=96

Keys stand here as `--set KEY=VALUE` and `overrides={KEY: VALUE}` of `gymnasium.make` take them. In
a file, those of the world stand below `world`: `campaign.budget` is `budget` in the table
`[world.campaign]`. An unknown key, a wrong type and a value out of its range are errors that name
the file, the key and the range. `adsim schema` prints the schema for editors, `adsim schema
--markdown` this page."""

_RULES = """\
- `entities.cold_scenes` is below `entities.num_scenes`, and the cold scenes' shares sum to less
  than 1.
- `effects.user_share` and `effects.item_share` sum to at most 1. Only `click` and `conversion` have
  an `interaction_sd`.
- `conversion.cvr` stays below 1 at the highest hour of `conversion.hourly`.
- `windows.gmv_hours` is at least `windows.conversion_hours`. Delays increase in both columns and
  end with share 1, within their windows.
- A shock ends after it starts.
- More than one slot (`market.exposure`) and `vcg` need `market.kind = "population"`; several slots
  need another mechanism than `second_price`.
- `market.kind = "replay"` needs `market.replay.log`.
- Ranges of `market.population` are (low, high)."""


class Key(NamedTuple):
    """One key of scenario files."""

    name: str  # as --set takes it
    kind: str
    default: str  # empty: must be given
    range: str
    about: str  # meaning and unit


class Section(NamedTuple):
    """A table of a scenario file and its keys."""

    name: str
    about: str
    keys: list[Key]


def sections() -> list[Section]:
    """Every key of scenario files, by table, in the order of the schema."""
    schema = Scenario.model_json_schema()
    found = list(_sections(schema, schema["$defs"], "", {}))
    return [section._replace(name=section.name.removeprefix("world.")) for section in found]


def _sections(
    model: Mapping[str, Any], models: Mapping[str, Any], name: str, defaults: Mapping[str, Any]
) -> Iterator[Section]:
    """A table and the tables in it.

    Args:
        model: JSON schema of the table.
        models: those that it refers to.
        name: dotted; "" is the file itself.
        defaults: of the keys where they are not the model's own.
    """
    keys, inner = [], []
    for key, entry in model["properties"].items():
        dotted = f"{name}.{key}" if name else key
        default = defaults.get(key, entry.get("default"))
        if "$ref" in entry:
            inner.append((_model(entry, models), models, dotted, default or {}))
            continue
        if "$ref" in entry.get("items", {}):  # a list of tables
            inner.append((_model(entry["items"], models), models, f"{dotted}[]", {}))
        told = "default" in entry or key in defaults
        about = " ".join(entry.get("description", "").split()).replace("|", "\\|")
        if inner and inner[-1][2] == f"{dotted}[]":
            about = f"See `{inner[-1][2].removeprefix('world.')}`."
        kind, limits = _kind(entry), _range(entry)
        shown = f"`{_toml(default)}`" if told and default is not None else "none" if told else ""
        keys.append(Key(dotted.removeprefix("world."), kind, shown, limits, about))
    about = model.get("description", "").partition("\n")[0]
    yield Section(name, about, keys)
    for parts in inner:
        yield from _sections(*parts)


def _model(entry: Mapping[str, Any], models: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a reference stands for, with the description of the key if there is one."""
    model = models[entry["$ref"].rpartition("/")[2]]
    return {**model, "description": entry.get("description", model.get("description", ""))}


def _kind(entry: Mapping[str, Any]) -> str:
    """Type of a value, in words."""
    if "anyOf" in entry:
        return " or ".join(_kind(each) for each in entry["anyOf"] if each.get("type") != "null")
    if "enum" in entry:
        return ", ".join(f"`{each}`" for each in entry["enum"])
    if entry["type"] != "array":
        return entry["type"]
    if "prefixItems" in entry:
        return "(" + ", ".join(_kind(each) for each in entry["prefixItems"]) + ")"
    items = entry["items"]
    return f"list of {'tables' if '$ref' in items else _kind(items)}"


def _range(entry: Mapping[str, Any]) -> str:
    """Allowed range of a value, or of the entries of a list; empty if there is none."""
    if "anyOf" in entry:
        return "; ".join(filter(None, map(_range, entry["anyOf"])))
    if entry.get("type") == "array":
        least, most = entry.get("minItems"), entry.get("maxItems")
        inner = entry.get("prefixItems") or [entry.get("items", {})]
        ranges = list(dict.fromkeys(filter(None, map(_range, inner))))
        if "prefixItems" in entry:
            return "; ".join(ranges)
        count = f"{least} entries" if least == most and least else f">= {least} entry"
        return ", ".join(([count] if least else []) + ranges)
    if "pattern" in entry:
        return f"`{entry['pattern']}`"
    low, high = entry.get("minimum"), entry.get("maximum")
    above, below = entry.get("exclusiveMinimum"), entry.get("exclusiveMaximum")
    start, end = above if low is None else low, below if high is None else high
    end = "2**63" if end == 2**63 else end
    if start is not None and end is not None:
        return f"{'[' if low is not None else '('}{start}, {end}{']' if high is not None else ')'}"
    if start is not None:
        return f"{'>=' if low is not None else '>'} {start}"
    return "" if end is None else f"{'<=' if high is not None else '<'} {end}"


def _toml(value: Any) -> str:
    """A default as TOML writes it; long lists by their length."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, list | tuple):
        if len(value) > _LONGEST:
            return f"[{len(value)} entries]"
        return "[" + ", ".join(_toml(each) for each in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown() -> str:
    """The page `docs/scenarios.md`."""
    parts = [_INTRO, "## Shipped scenarios", _listed()]
    for section in sections():
        heading = "The file" if not section.name else f"`{section.name}`"
        heading = "The world" if section.name == "world" else heading
        rows = [f"| `{key.name}` | {' | '.join(key[1:])} |" for key in section.keys]
        table = ["| key | type | default | range | meaning, unit |", "|---|---|---|---|---|", *rows]
        parts += [f"## {heading}", section.about, *(["\n".join(table)] if rows else [])]
    parts += ["## Rules between keys", _RULES, "## Files", "The scenarios, as they are written."]
    for name in names():
        text = (resources.files("scenarios") / f"{name}.toml").read_text(encoding="utf-8")
        parts += [f"### Scenario {name}", f"```toml\n{text.rstrip()}\n```"]
    return "\n\n".join(filter(None, parts)) + "\n"


def _listed() -> str:
    rows = [f"| [`{name}`](#scenario-{name}) | {load(name).description} |" for name in names()]
    return "\n".join(["| name | what it shows |", "|---|---|", *rows])
