"""Finished trials of a folder of results, arranged for figures of any part of them.

Everything is by the place of a trial in `Played.trials`. A figure of some trials takes the mean
over the points of a sweep for each campaign (structure and seed), and intervals over campaigns:
points share their campaigns, and are not independent.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from adsim.types import FloatArray, IntArray
from scenarios import results
from scenarios.curves import DELAY_EDGES, MONEY_EDGES, PROBABILITY_EDGES
from scenarios.intervals import Band, bands
from scenarios.results import WHO, Tables

MOST_POINTS = 90  # of a line
MOST_PLAYERS = 8  # of a figure
_BIN_COLUMNS = ("low", "count", "predicted", "observed")
_MONEY_TARGETS = ("gmv", "net_gmv")
Group = TypeVar("Group")


class Bins(NamedTuple):
    """What a series of `scenarios.curves` counted, by bin and trial."""

    edges: FloatArray  # (B + 1,)
    counts: FloatArray  # (B, n)
    predicted: FloatArray  # (B, n)
    observed: FloatArray  # (B, n)


class Played(NamedTuple):
    """Finished trials; n of them, P points in time."""

    trials: pd.DataFrame  # n rows
    axes: tuple[str, ...]  # columns that vary
    players: tuple[tuple[str, str], ...]  # agent and estimates in the order of all trials
    campaign: IntArray  # (n,) number of structure and seed
    structure: IntArray  # (n,)
    days: FloatArray  # (P,) since the start of the campaign, from 0
    paths: dict[str, FloatArray]  # (P, n) cumulative until then, currency
    bins: dict[tuple[str, str], Bins]  # by curve and series


def arrange(tables: Tables, axes: Sequence[str]) -> Played:
    """The finished trials of a folder.

    Axes and players are those of all trials: who is first, and with whom others are compared, does
    not depend on what failed.

    Args:
        tables: of `results.load`.
        axes: columns that a sweep varies.
    """
    trials = tables.trials
    axes = [axis for axis in axes if len(set(trials[axis].tolist())) > 1]
    players = trials[list(WHO)].drop_duplicates().to_numpy().tolist()
    trials = results.finished(trials).reset_index(drop=True)
    keys = trials[["structure", "seed"]]
    days, paths = _paths(trials, tables.ticks)
    return Played(
        trials,
        tuple(axes),
        tuple((str(agent), str(estimates)) for agent, estimates in players),
        np.asarray(keys.groupby(list(keys)).ngroup(), np.int64),
        np.asarray(trials["structure"], np.int64),
        days,
        paths,
        _bins(trials, tables.curves),
    )


def _place(trials: pd.DataFrame, table: pd.DataFrame) -> IntArray:
    """Place in `trials` of the trial of each row; -1 for those that are not there."""
    return pd.Index(trials["trial"]).get_indexer(pd.Index(table["trial"])).astype(np.int64)


def _paths(trials: pd.DataFrame, ticks: pd.DataFrame) -> tuple[FloatArray, dict[str, FloatArray]]:
    """Ends of ticks in days, and what has come in until then."""
    if ticks.empty or trials.empty:
        return np.zeros(1), {}
    place = _place(trials, ticks)
    ticks = ticks.take(np.flatnonzero(place >= 0))
    place = place[place >= 0]
    margin = trials["margin"].to_numpy(np.float64)[place]
    column = {
        name: ticks[name].to_numpy(np.float64)
        for name in ("hours", "spend", "gmv", "refunded", "matured_net_gmv", "accrued_net_gmv")
    }
    spend = column["spend"]
    flows = {
        "spend": spend,
        "target": np.nan_to_num(ticks["target_spend"].to_numpy(np.float64)),
        "seen": margin * (column["gmv"] - column["refunded"]) - spend,
        "matured": margin * column["matured_net_gmv"] - spend,
        "realised": margin * column["accrued_net_gmv"] - spend,
    }
    days, paths = np.zeros(1), {}
    for name, values in flows.items():
        days, table = cumulative(column["hours"], place, values, len(trials))
        paths[name] = table
    kept = np.unique(np.linspace(0, days.size - 1, min(days.size, MOST_POINTS)).astype(np.int64))
    return days[kept], {name: table[kept] for name, table in paths.items()}


def cumulative(
    hours: FloatArray, path: IntArray, values: FloatArray, num_paths: int
) -> tuple[FloatArray, FloatArray]:
    """Ends of ticks in days (T + 1,), from 0, and cumulative values of each path (T + 1, paths).

    Args:
        hours: (N,) starts of ticks.
        path: (N,) which path.
        values: (N,)
        num_paths: number of paths.
    """
    start, tick = np.unique(hours, return_inverse=True)
    table = np.zeros((start.size + 1, num_paths))
    np.add.at(table, (tick + 1, path), values)
    length = start[1] - start[0] if start.size > 1 else 0.0
    return np.append(start, start[-1] + length) / 24.0, np.cumsum(table, axis=0)


def _bins(trials: pd.DataFrame, curves: pd.DataFrame) -> dict[tuple[str, str], Bins]:
    if curves.empty or trials.empty:
        return {}
    place = _place(trials, curves)
    found: dict[tuple[str, str], Bins] = {}
    known = np.flatnonzero(place >= 0)
    curves, place = curves.take(known), place[known]
    columns = {name: curves[name].to_numpy(np.float64) for name in _BIN_COLUMNS}
    which = curves["curve"].to_numpy(), curves["series"].to_numpy()
    for curve, series in dict.fromkeys(zip(*which, strict=True)):
        rows = (which[0] == curve) & (which[1] == series)
        edges = edges_of(curve, series)
        spot = np.searchsorted(edges, columns["low"][rows] * (1 + 1e-9), "right") - 1
        tables = []
        for name in _BIN_COLUMNS[1:]:
            table = np.zeros((edges.size - 1, len(trials)))
            np.add.at(table, (spot, place[rows]), np.nan_to_num(columns[name][rows]))
            tables.append(table)
        found[curve, series] = Bins(edges, *tables)
    return found


def edges_of(curve: str, series: str) -> FloatArray:
    """Edges of the bins of a series of `scenarios.curves`."""
    if curve == "delay":
        return DELAY_EDGES
    money = curve == "price" or series in _MONEY_TARGETS
    return MONEY_EDGES if money else PROBABILITY_EDGES


def of_campaigns(played: Played, rows: IntArray, values: FloatArray) -> tuple[FloatArray, IntArray]:
    """Means over the points of each campaign: values (C, quantities) and structures (C,).

    Campaigns that lack a point (a trial that failed) are left out, unless all do: their means would
    be of other points.

    Args:
        played: trials.
        rows: (k,) places of those that are shown.
        values: (quantities, n) of all trials.
    """
    kinds, first, place, count = np.unique(
        played.campaign[rows], return_index=True, return_inverse=True, return_counts=True
    )
    member = (place == np.arange(kinds.size)[:, None]) / count[:, None]
    means = member @ values[:, rows].T
    whole = count == count.max(initial=0)
    return means[whole], played.structure[rows][first][whole]


def band(played: Played, rows: IntArray, values: FloatArray) -> Band:
    """Means and intervals over campaigns of several quantities, see `of_campaigns`."""
    means, structure = of_campaigns(played, rows, values)
    return bands(means, structure)


def names_of(players: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Short names: what all share is left out."""
    agents, estimates = ({player[part] for player in players} for part in (0, 1))
    if len(estimates) < 2:
        return {player: player[0] for player in players}
    if len(agents) < 2:
        return {player: player[1] for player in players}
    return {player: ", ".join(player) for player in players}


def by_player(played: Played, rows: IntArray) -> dict[int, IntArray]:
    """Rows of each player that has some, by the player's place."""
    columns = (played.trials[name].astype(str).to_numpy()[rows] for name in WHO)
    who = list(zip(*columns, strict=True))
    groups = {
        place: rows[[one == player for one in who]] for place, player in enumerate(played.players)
    }
    return {place: group for place, group in groups.items() if len(group)}


def first_of(groups: Mapping[int, Group], what: str) -> tuple[dict[int, Group], str]:
    """Those that a figure has room for, and the sentence of its caption on the others.

    Args:
        groups: by place.
        what: their plural.
    """
    kept = dict(list(groups.items())[:MOST_PLAYERS])
    if len(kept) == len(groups):
        return kept, ""
    return kept, f" The first {MOST_PLAYERS} of {len(groups)} {what}; the filter shows the others."


def column(played: Played, name: str) -> FloatArray:
    """A metric of all trials (n,); NaN where it was not measured."""
    if name not in played.trials:
        return np.full(len(played.trials), np.nan)
    return played.trials[name].to_numpy(np.float64)


def plain(value: Any) -> str:
    """A value of an axis in a label."""
    if not isinstance(value, float | np.floating):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1_000 else f"{value:.7g}"


def compared(played: Played, board: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of `results.leaderboard` that have somebody else to be compared with."""
    if len(played.players) < 2:
        others = board[1:]
    else:
        others = [row for row in board if _player(row) != played.players[0]]
    return [row for row in others if np.isfinite(row["expected_diff"])]


def _player(row: Mapping[str, Any]) -> tuple[str, str]:
    return str(row["agent"]), str(row["estimates"])
