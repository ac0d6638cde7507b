"""Purchase logs in the TRACE format: converted clicks with every purchase in their 7 days.

Tab-separated UTF-8 text with a header, one click a line in any order, plain or gzip. Its 30 columns
stand in any order: 8 are known by their names, and the other 22 are the features, whatever their
names, in the order in which they stand. Times are whole seconds since midnight of day 0; money is
in the currency of the log.

    feature_0 .. feature_21  ids in [0, cardinalities[j]), as `12` or `12.0`; empty is 0, missing
    click_time               >= 0
    pay_time                 list of the N >= 1 purchase times, ascending (equal ones are allowed),
                             from the click up to 604,799 s after it
    dirpay_amt               list of their N amounts, each >= 0, with a sum > 0
    count                    [1, 2, ..., N]
    total_counts             N
    multi_tag                1 if N > 1, 0 otherwise
    prev_dirpay_amt          [0.0, all but the last of dirpay_amt]
    prev_pay_time            [click_time, all but the last of pay_time]

A list is `[5, 8]`: between the brackets nothing but decimal numbers, commas and blanks, so no
`nan`, no `inf` and no trailing comma. The last five columns follow from the others: they are
written like this, checked when read, and not kept.

The encrypted layout is the same but for the features: texts, whose ids `read_encrypted` makes up.

`write` leaves a small JSON file beside a log, which holds its cardinalities; published logs have
none and get the published cardinalities.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837). Neither says what the first elements of the prev_* lists
are: `check_derived=False` reads logs with another convention.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from adsim.datasets.blocks import (
    BLOCK_BYTES,
    NUM_FEATURES,
    Sidecar,
    check_cardinalities,
    check_count,
    expected_of,
    read_blocks,
    writing,
)
from adsim.datasets.cascade_lines import MAX_SECONDS
from adsim.datasets.trace_chunks import PurchaseRecords, TextIds, cached, cut, join
from adsim.datasets.trace_lines import (
    COLUMN_NAMES,
    WINDOW_SECONDS,
    Block,
    Layout,
    parse_block,
    parse_header,
)
from adsim.types import BoolArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

# Sizes of the published log's features.
CARDINALITIES = (
    *(5, 3_604_778, 1_951_876, 432_750, 14, 19, 2_638_598, 1_962_400, 11_123, 397_159, 578_622),
    *(3, 622, 107, 8_009, 30_685, 104, 10, 3, 2, 9, 7),
)
CHUNK_CLICKS = 2**18

_CACHE_VERSION = 1  # to be raised when the same file is read differently
_LOG = logging.getLogger(__name__)


class EncryptedLog(NamedTuple):
    """A log whose features were texts."""

    records: PurchaseRecords
    cardinalities: tuple[int, ...]  # (22,) highest ids + 1


class _Source(NamedTuple):
    """A log and how to read it."""

    path: Path
    num_clicks: int | None  # where a file beside the log says how many there must be
    cardinalities: tuple[int, ...]  # (22,)
    strict: bool
    check_derived: bool
    hashed: bool


def read(
    path: str | Path,
    *,
    cardinalities: tuple[int, ...] | None = None,
    strict: bool = True,
    check_derived: bool = True,
    cache_dir: str | Path | None = None,
) -> PurchaseRecords:
    """Reads a whole log; arguments and errors are those of `read_chunks`.

    Returns:
        The clicks in the order of the lines; shapes (0,), (0, 22), (1,), (0,), (0,) if there are
        none.
    """
    chunks = read_chunks(
        path,
        cardinalities=cardinalities,
        strict=strict,
        check_derived=check_derived,
        cache_dir=cache_dir,
    )
    return join(list(chunks))


def read_chunks(
    path: str | Path,
    *,
    chunk_clicks: int = CHUNK_CLICKS,
    cardinalities: tuple[int, ...] | None = None,
    strict: bool = True,
    check_derived: bool = True,
    cache_dir: str | Path | None = None,
) -> Iterator[PurchaseRecords]:
    """Reads a log piece by piece, in memory that grows with `chunk_clicks` only.

    Args:
        path: File.
        chunk_clicks: Clicks of every chunk but the last, >= 1.
        cardinalities: (22,) sizes of the features. By default those in the JSON file beside the
            log, if there is one, or else the published ones.
        strict: Refuse clicks that cannot be: with an id, a time or an amount out of range, without
            purchases, or with columns that contradict each other. Otherwise they are left out, and
            a warning is logged with their number when the log is parsed.
        check_derived: Demand that the five columns that follow from others do. Otherwise they are
            not looked at.
        cache_dir: Folder for a Parquet copy of the log, which is read from then on, and written
            anew once the size or time of the file or an argument above has changed.

    Returns:
        Chunks in the order of the lines, none if there are no clicks.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An argument out of range, damaged gzip, a missing column, a line that cannot
            be read or a click that cannot be (names the file, the line from 1, the column from 0
            and the allowed range), or another number of clicks than the JSON file beside the log
            says. Faults of lines come up during iteration.
    """
    if chunk_clicks < 1:
        raise ValueError(f"chunk_clicks: {chunk_clicks} is out of range, must be >= 1")
    path = _file(path)
    sizes, num_clicks = expected_of(path, cardinalities, CARDINALITIES)
    source = _Source(
        path=path,
        num_clicks=num_clicks,
        cardinalities=sizes,
        strict=bool(strict),
        check_derived=bool(check_derived),
        hashed=False,
    )
    parts = (block.records for block in _parse_file(source))
    if cache_dir is not None:
        parts = cached(parts, path, _cache_key(source), Path(cache_dir))
    return cut(parts, chunk_clicks)


def read_encrypted(
    path: str | Path, *, strict: bool = True, check_derived: bool = True
) -> EncryptedLog:
    """Reads a whole log whose features are texts.

    The texts of each column get ids from 1 in the order of their first appearance among the clicks
    that are kept; an empty cell is 0. `write` stores the clicks in the plain layout.

    Args:
        path: File. A JSON file beside it is not looked at.
        strict: As in `read_chunks`.
        check_derived: As in `read_chunks`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: As in `read_chunks`.
    """
    source = _Source(
        path=_file(path),
        num_clicks=None,
        cardinalities=(1,) * NUM_FEATURES,
        strict=bool(strict),
        check_derived=bool(check_derived),
        hashed=True,
    )
    columns = [TextIds() for _ in range(NUM_FEATURES)]
    parts = []
    for records, hashes, _ in _parse_file(source):
        for j, column in enumerate(columns):
            records.features[:, j] = column.number(hashes[:, j])
        parts.append(records)
    return EncryptedLog(join(parts), tuple(column.used + 1 for column in columns))


def find_cardinalities(path: str | Path) -> tuple[int, ...]:
    """Sizes (22,) of a log's features: from the JSON file beside it, or else the published ones.

    Raises:
        ValueError: The JSON file is malformed; names the file, the key and the range.
    """
    return expected_of(Path(path), None, CARDINALITIES)[0]


def write(
    path: str | Path, records: PurchaseRecords, cardinalities: tuple[int, ...] = CARDINALITIES
) -> None:
    """Writes a log that `read` reads back exactly, amounts to the last bit.

    Args:
        path: Target, gzip if it ends in `.gz`. Written to a temporary file and renamed, like
            `<path>.json` with the cardinalities and the number of clicks.
        records: Any order of clicks, also none.
        cardinalities: (22,) sizes of the features.

    Raises:
        ValueError: Shapes or types differ, or a value out of range (click from 0).
    """
    from pyarrow import csv

    path, sizes = Path(path), check_cardinalities("cardinalities", cardinalities)
    records = _as_arrays(records)
    _check_records(records, sizes)
    options = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    with writing(path, Sidecar(sizes, records.click_time.size)) as stream:
        stream.write("\t".join(COLUMN_NAMES).encode() + b"\n")
        for chunk in cut([records], CHUNK_CLICKS):
            csv.write_csv(_to_cells(chunk), stream, write_options=options)


def _file(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    return path


def _parse_file(source: _Source) -> Iterator[Block]:
    path, layout, count, dropped = source.path, None, 0, 0
    for first_line, block in read_blocks(path, BLOCK_BYTES):
        if layout is None:
            header, block = block.split(b"\n", 1)
            first_line += 1
            layout = Layout(*parse_header(path, header), *source[2:])
        part = parse_block(path, first_line, block, layout)
        count += part.records.click_time.size
        dropped += part.dropped
        yield part
    if layout is None:
        parse_header(path, b"")
    if dropped:
        _LOG.warning("%s: %d impossible clicks of %d left out", path, dropped, count + dropped)
    check_count(path, count + dropped, source.num_clicks)


def _cache_key(source: _Source) -> str:
    """All that the clicks depend on, as text."""
    stat = source.path.stat()
    file = [source.path.name, stat.st_size, stat.st_mtime_ns]
    return json.dumps({"version": _CACHE_VERSION, "file": file, "options": source[1:]})


def _as_arrays(records: PurchaseRecords) -> PurchaseRecords:
    """Records of the right shapes and types, refused if they are others."""
    records = PurchaseRecords._make(np.asarray(column) for column in records)
    shapes = [column.shape for column in records]
    count, bought = records.click_time.size, records.amount.size
    if shapes != [(count,), (count, NUM_FEATURES), (count + 1,), (bought,), (bought,)]:
        wanted = "(C,), (C, 22), (C + 1,), (P,), (P,)"
        raise ValueError(f"records: shapes must be {wanted}, got {shapes}")
    kinds = [column.dtype for column in records]
    if any(kind.kind not in "iu" for kind in kinds[:-1]) or kinds[-1] != np.float64:
        found = ", ".join(map(str, kinds))
        raise ValueError(f"records: must be integers, amount float64, got {found}")
    times = {
        name: getattr(records, name).astype(np.int64, copy=False)
        for name in ("click_time", "offset", "purchase_time")
    }
    return records._replace(**times)


def _check_records(records: PurchaseRecords, cardinalities: tuple[int, ...]) -> None:
    """Refuses records that `read` would not give back."""
    click, features, offset, time, amount = records
    size = np.diff(offset)
    if offset[0] != 0 or offset[-1] != time.size or (size < 1).any():
        raise ValueError("records: offset must ascend from 0 to the number of purchases")
    _require(
        f"click_time must be in [0, {MAX_SECONDS}]", click, (click >= 0) & (click <= MAX_SECONDS)
    )
    for j, cardinality in enumerate(cardinalities):
        column = features[:, j]
        valid = (column >= 0) & (column < cardinality)
        _require(f"feature_{j} must be in [0, {cardinality - 1}]", column, valid)
    rule = f"purchase_time must be from the click up to {WINDOW_SECONDS - 1} s after it"
    since = time - np.repeat(click, size)
    _require(rule, time, (since >= 0) & (since < WINDOW_SECONDS), size)
    ascends = np.append(True, time[1:] >= time[:-1])[: time.size]
    ascends[offset[:-1]] = True
    _require("purchase_time must ascend within a click", time, ascends, size)
    _require("amount must be finite and >= 0", amount, (amount >= 0) & (amount < np.inf), size)
    with np.errstate(over="ignore"):
        total = np.add.reduceat(amount, offset[:-1]) if click.size else amount
    _require(
        "amount must have a finite sum > 0 in each click", total, (total > 0) & (total < np.inf)
    )


def _require(rule: str, values: np.ndarray, valid: BoolArray, size: IntArray | None = None) -> None:
    """Names the first click with a value that is not valid; `size` purchases each if given."""
    if not valid.all():
        at = int(np.argmin(valid))
        click = at if size is None else int(np.searchsorted(np.cumsum(size), at, side="right"))
        raise ValueError(f"records: click {click}: {rule}, got {values[at]}")


def _to_cells(records: PurchaseRecords) -> "pa.RecordBatch":
    """The columns `COLUMN_NAMES`: integers, and lists as text."""
    import pyarrow as pa
    from pyarrow.compute import call_function

    click, features, offset, time, amount = records
    size, first = np.diff(offset), offset[:-1]
    order = np.arange(1, time.size + 1) - np.repeat(first, size)
    before, paid = np.roll(time, 1), np.roll(amount, 1)
    before[first], paid[first] = click, 0.0

    def cells(texts: "pa.Array") -> "pa.Array":
        lists = pa.ListArray.from_arrays(pa.array(offset.astype(np.int32)), texts)
        joined = call_function("binary_join", [lists, ", "])
        return call_function("binary_join_element_wise", ["[", joined, "]", ""])

    times, orders, befores = (cells(pa.array(x).cast("string")) for x in (time, order, before))
    amounts, paids = (cells(pa.array(map(repr, x.tolist()), "string")) for x in (amount, paid))
    many = pa.array((size > 1).astype(np.int8))
    others = [pa.array(click), times, amounts, orders, pa.array(size), many, paids, befores]
    columns = [*map(pa.array, features.T), *others]
    return pa.RecordBatch.from_arrays(columns, names=list(COLUMN_NAMES))
