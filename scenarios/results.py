"""Tables of campaign results: one row per campaign, per tick, per event, per sampled auction."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from adsim.datasets.blocks import replacing
from scenarios.intervals import Interval, by_campaign, clustered, paired

_SUMMED = (
    *("expected_net_value", "net_value", "spend", "impressions", "wins", "clicks"),
    *("purchases", "refunds", "gmv", "refunded", "hindsight"),
)


class Tables(NamedTuple):
    """Results of one or many campaigns; columns in docs/results.md."""

    trials: pd.DataFrame  # one row per (scenario, agent, seed)
    ticks: pd.DataFrame  # one row per (agent, seed, tick)
    events: pd.DataFrame  # clicks, purchases and refunds with their delays, hours
    auctions: pd.DataFrame  # a sample of auctions: price to beat, bid, value, won, paid


def concat(parts: Sequence[Tables]) -> Tables:
    """The rows of several tables."""
    return Tables(
        *(pd.concat(list(group), ignore_index=True) for group in zip(*parts, strict=True))
    )


def summarise(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per agent: means, intervals, paired differences to the first agent."""
    agents = list(agents_of(trials))
    return [_summary_row(trials, agent, agents[0]) for agent in agents]


def _summary_row(trials: pd.DataFrame, agent: str, first: str) -> dict[str, Any]:
    """One agent's row of `summarise`."""
    part = _of(trials, agent)
    values = {name: np.asarray(part[name], dtype=np.float64) for name in _SUMMED}
    played = by_campaign(part, "expected_net_value")
    expected = clustered(played)
    realised = clustered(by_campaign(part, "net_value"))
    row: dict[str, Any] = {
        "agent": agent,
        "structures": len({structure for structure, _ in played}),
        "seeds": len({seed for _, seed in played}),
        "expected_net_value": expected.mean,
        "expected_low": expected.low,
        "expected_high": expected.high,
        "net_value": realised.mean,
        "ci_low": realised.low,
        "ci_high": realised.high,
    }
    for name, column in (("expected_diff", "expected_net_value"), ("diff", "net_value")):
        same = Interval(0.0, 0.0, 0.0)
        difference = paired(part, _of(trials, first), column) if agent != first else same
        row[name], row[f"{name}_low"], row[f"{name}_high"] = difference
    for column in ("spend", "impressions", "wins", "clicks", "purchases", "refunds", "gmv"):
        row[column] = float(values[column].mean())
    spend, bound = values["spend"].sum(), values["hindsight"].sum()
    net_gmv = values["gmv"].sum() - values["refunded"].sum()
    row["net_roas"] = float(net_gmv / spend) if spend > 0 else float("nan")
    row["share_of_hindsight"] = (
        float(values["expected_net_value"].sum() / bound) if bound > 0 else float("nan")
    )
    return row


def _of(trials: pd.DataFrame, agent: str) -> pd.DataFrame:
    return trials.take(np.flatnonzero(np.asarray(trials["agent"]) == agent))


def jsonable(value: Any) -> Any:
    """The value with non-finite numbers as null, for strict JSON."""
    if isinstance(value, dict):
        return {key: jsonable(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls write(temporary) and renames: readers never see half a file."""
    with replacing(path) as partial:
        write(partial)


def save(tables: Tables, folder: Path, run: dict[str, Any]) -> list[Path]:
    """Writes the tables (Parquet) and the run's description (JSON) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, table in zip(Tables._fields, tables, strict=True):
        path = folder / f"{name}.parquet"
        save_table(table, path)
        written.append(path)
    path = folder / "run.json"
    save_json(run, path)
    return [*written, path]


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes Parquet without the index."""
    write_atomically(path, lambda partial: table.to_parquet(partial, index=False))


def save_json(value: Any, path: Path) -> None:
    """Writes strict JSON (non-finite numbers as null)."""
    text = json.dumps(jsonable(value), indent=2)

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def load(folder: Path) -> Tables:
    """The tables that `save` wrote.

    Raises:
        FileNotFoundError: a table is missing.
    """
    return Tables(*(pd.read_parquet(folder / f"{name}.parquet") for name in Tables._fields))


def agents_of(trials: pd.DataFrame) -> Iterator[str]:
    """Agents in the order in which they ran."""
    yield from dict.fromkeys(trials["agent"])
