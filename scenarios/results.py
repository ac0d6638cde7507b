"""Tables of campaign results: one row per campaign, per tick, per bin, per event, per auction.

A folder of results is a Parquet dataset: `pandas.read_parquet(folder)` gives one row per trial.
Names of all else in it start with `_`, which readers of datasets pass over. The columns are
described in docs/results.md.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from adsim.datasets.blocks import replacing
from scenarios.intervals import Interval, by_campaign, clustered, paired

ABOUT = "_run.json"
WHO = ("agent", "estimates")
"""Columns that say who played; the axes of a sweep say in what."""
_SUMMED = (
    *("expected_net_value", "net_value", "spend", "impressions", "wins", "clicks"),
    *("purchases", "refunds", "gmv", "refunded", "hindsight"),
)
_ROWS_PER_GROUP = 20_000  # of a Parquet file


class Tables(NamedTuple):
    """Results of one or many campaigns."""

    trials: pd.DataFrame  # one row per campaign
    ticks: pd.DataFrame  # one row per campaign and tick
    curves: pd.DataFrame  # bins of delays, prices and predictions, see `scenarios.curves`
    events: pd.DataFrame  # clicks, purchases and refunds with their delays, hours
    auctions: pd.DataFrame  # a sample of auctions: price to beat, bid, value, won, paid


def file_of(folder: Path, table: str) -> Path:
    """Where a table is kept; `table` is a field of `Tables`."""
    return folder / ("trials.parquet" if table == "trials" else f"_{table}.parquet")


def concat(parts: Sequence[Tables]) -> Tables:
    """The rows of several tables."""
    return Tables(
        *(pd.concat(list(group), ignore_index=True) for group in zip(*parts, strict=True))
    )


def of(trials: pd.DataFrame, column: str, value: Any) -> pd.DataFrame:
    """The rows with a value of a column."""
    return trials.take(np.flatnonzero(np.asarray(trials[column]) == value))


def summarise(trials: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per agent: means, intervals, paired differences to the first agent."""
    names = list(agents_of(trials))
    parts = [of(trials, "agent", name) for name in names]
    return [
        {"agent": name, **summary_row(part, parts[0])}
        for name, part in zip(names, parts, strict=True)
    ]


def leaderboard(trials: pd.DataFrame, axes: Sequence[str] = ()) -> list[dict[str, Any]]:
    """One row per point of a sweep and player: means, intervals, paired differences.

    Differences are to the first player of the same point; with one player, to the first point;
    NaN if nothing of it is finished.

    Args:
        trials: all, those that failed included, which say who is first.
        axes: columns that vary.
    """
    players = trials[list(WHO)].drop_duplicates().to_numpy().tolist()
    groups = trials.groupby([*axes, *WHO], sort=False, dropna=False)
    parts: dict[Any, pd.DataFrame] = {key: finished(pd.DataFrame(part)) for key, part in groups}
    rows, first = [], next(iter(parts), None)
    for key, part in parts.items():
        rival: Any = (*key[: len(axes)], *players[0]) if len(players) > 1 else first
        if len(part):
            other = parts[rival] if rival in parts else part.iloc[:0]
            row = summary_row(part, other)
            rows.append(dict(zip([*axes, *WHO], key, strict=True)) | row)
    return rows


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    """Those that did not fail."""
    return of(trials, "status", "done") if "status" in trials else trials


def summary_row(part: pd.DataFrame, first: pd.DataFrame) -> dict[str, Any]:
    """Means and intervals of one player's campaigns; differences to another's, NaN without."""
    played = by_campaign(part, "expected_net_value")
    row: dict[str, Any] = {
        "structures": len({structure for structure, _ in played}),
        "seeds": len({seed for _, seed in played}),
    }
    for column, ends in (("expected_net_value", "expected"), ("net_value", "ci")):
        found = clustered(by_campaign(part, column))
        row |= {column: found.mean, f"{ends}_low": found.low, f"{ends}_high": found.high}
    for name, column in (("expected_diff", "expected_net_value"), ("diff", "net_value")):
        same = Interval(0.0, 0.0, 0.0)
        difference = same if first is part else paired(part, first, column)
        row[name], row[f"{name}_low"], row[f"{name}_high"] = difference
    values = {name: np.asarray(part[name], dtype=np.float64) for name in _SUMMED}
    for column in ("spend", "impressions", "wins", "clicks", "purchases", "refunds", "gmv"):
        row[column] = float(values[column].mean())
    spend, bound = values["spend"].sum(), values["hindsight"].sum()
    net_gmv = values["gmv"].sum() - values["refunded"].sum()
    row["net_roas"] = float(net_gmv / spend) if spend > 0 else float("nan")
    row["share_of_hindsight"] = (
        float(values["expected_net_value"].sum() / bound) if bound > 0 else float("nan")
    )
    return row


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


class Record(NamedTuple):
    """One campaign's tables as arrays, which are faster to join than tables are."""

    labels: dict[str, Any]  # columns that say which trial it is, the same in all tables
    row: dict[str, Any]  # of `trials`
    columns: dict[str, dict[str, np.ndarray]]  # of the other tables, by name


def record_of(tables: Tables) -> Record:
    """One campaign's tables, whose labels are among their columns."""
    (row,) = tables.trials.to_dict("records")
    return Record({}, row, columns_of(tables))


def columns_of(tables: Tables) -> dict[str, dict[str, np.ndarray]]:
    """Arrays of all tables but `trials`; text as numpy has it."""
    return {
        name: {column: _plain(np.asarray(table[column])) for column in table}
        for name, table in tables._asdict().items()
        if name != "trials"
    }


def _plain(values: np.ndarray) -> np.ndarray:
    return values.astype(str) if values.dtype == object else values


def save(parts: Iterable[Tables], folder: str | Path, run: dict[str, Any]) -> list[Path]:
    """Writes campaigns as a dataset, and what describes them (JSON); returns the files.

    Args:
        parts: labelled tables, campaign by campaign.
        folder: created if needed. Tables without rows are not written, and older ones removed.
        run: description.
    """
    return save_records(map(record_of, parts), Path(folder), run)


def save_records(records: Iterable[Record], folder: Path, run: dict[str, Any]) -> list[Path]:
    """As `save`; few of the records are held at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(_Appender(file_of(folder, name)))
            for name in Tables._fields[1:]
        }
        for record in records:
            rows.append({**record.labels, **record.row})
            for name, writer in writers.items():
                writer.add(record.labels, record.columns[name])
    # A trial that failed has fewer columns: the order is that of the one that has most.
    columns = list(max(rows, key=len, default={}))
    save_table(pd.DataFrame(rows, columns=columns), file_of(folder, "trials"))
    save_json(run, folder / ABOUT)
    written = [file_of(folder, name) for name in Tables._fields]
    return [*(file for file in written if file.is_file()), folder / ABOUT]


class _Appender:
    """Writes a Parquet file piece by piece, at once or not at all."""

    def __init__(self, path: Path) -> None:
        self._path, self._size = path, 0
        self._waiting: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
        self._stack = ExitStack()
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> "_Appender":
        return self

    def add(self, labels: dict[str, Any], columns: dict[str, np.ndarray]) -> None:
        """Appends rows, with the same labels and columns as those before."""
        size = next(iter(columns.values())).size if columns else 0
        if size:
            self._waiting.append((labels, columns))
            self._size += size
        if self._size >= _ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        sizes = [next(iter(columns.values())).size for _, columns in self._waiting]
        first_labels, first = self._waiting[0]
        table = {
            name: np.repeat([labels[name] for labels, _ in self._waiting], sizes)
            for name in first_labels
        }
        table |= {
            name: np.concatenate([columns[name] for _, columns in self._waiting]) for name in first
        }
        self._waiting, self._size = [], 0
        group = pa.table(table)
        if self._writer is None:
            partial = self._stack.enter_context(replacing(self._path))
            self._writer = pq.ParquetWriter(partial, group.schema)
        self._writer.write_table(group.cast(self._writer.schema))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self._waiting and error is None:
            self._flush()
        if self._writer is not None:
            self._writer.close()
        elif error is None:
            self._path.unlink(missing_ok=True)
        self._stack.__exit__(kind, error, trace)


def claim(folder: Path, kind: str) -> None:
    """Raises ValueError if a folder holds results of another kind, which would be overwritten."""
    if (folder / ABOUT).is_file() and (other := load_about(folder).get("kind")) != kind:
        raise ValueError(f"--out: {folder} holds results of another kind ({other}): name another")


def save_table(table: pd.DataFrame, path: Path) -> None:
    """Writes Parquet without the index."""
    write_atomically(path, lambda partial: table.to_parquet(partial, index=False))


def save_json(value: Any, path: Path) -> None:
    """Writes strict JSON (non-finite numbers as null)."""
    text = json.dumps(jsonable(value), indent=2)

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    write_atomically(path, write)


def load_trials(folder: str | Path) -> pd.DataFrame:
    """The table of trials of a folder of results.

    Raises:
        FileNotFoundError: the folder holds no results.
    """
    file = file_of(Path(folder), "trials")
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no results: trials.parquet is not there")
    return pd.read_parquet(file)


def load(folder: str | Path) -> Tables:
    """The tables of a folder of results; those that were not kept are empty.

    Raises:
        FileNotFoundError: the folder holds no results.
    """
    files = [file_of(Path(folder), name) for name in Tables._fields[1:]]
    others = (pd.read_parquet(file) if file.is_file() else pd.DataFrame() for file in files)
    return Tables(load_trials(folder), *others)


def load_about(folder: str | Path) -> dict[str, Any]:
    """What `save` was told of the run: configuration, seeds, axes, versions, printed rows.

    Raises:
        FileNotFoundError: the folder holds no results.
    """
    return json.loads((Path(folder) / ABOUT).read_text("utf-8"))


def agents_of(trials: pd.DataFrame) -> Iterator[str]:
    """Agents in the order in which they ran."""
    yield from dict.fromkeys(trials["agent"])
