"""Click logs in the CASCADE formats: clicks, first conversions, first refunds, 22 features.

Processed layout: tab-separated text without a header, 25 integer columns, one click a line in any
order. Times are whole seconds since midnight of day 0.

    0      click time, >= 0
    1      first conversion; 0 or less, or empty, is missing, as in the published programs
    2      first refund of that conversion, likewise
    3..24  ids; column 3 + j is in [0, cardinalities[j])

Raw layout: a folder of `*.txt` files, read in order of their names, or one file; tab-separated
text without a header, 25 columns. Times are Unix seconds.

    0      click time
    1, 2   conversions, refunds: a list such as `[1746030000, 1746040000]` whose first element
           counts. An empty cell, an empty list, or a cell that is no list is missing.
    3..24  features: a text as it stands, or a list such as `[abc, def]`, `['abc', 'def']` or
           `[12, 13]` whose first element counts, without blanks around it and without quotes.
           An empty cell, list or element counts as the text "nan".

The id of a text is its Fingerprint64 modulo the cardinality of the feature. A list starts with `[`
and ends with `]`; double quotes around a whole cell are dropped first, as a CSV reader does.

Both layouts may be gzip-compressed. An event cannot be if it is before its cause (a conversion
before the click, a refund before the conversion) or if it is a refund without a conversion.

`write` leaves a small JSON file beside a log, which holds its cardinalities; published logs have
none and get the published cardinalities.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from adsim.datasets.blocks import (
    BLOCK_BYTES,
    MAX_LINE_BYTES,
    NUM_FEATURES,
    Sidecar,
    check_cardinalities,
    check_count,
    expected_of,
    read_blocks,
    writing,
)
from adsim.datasets.cascade_chunks import COLUMN_NAMES, ClickRecords, cached, cut, join, to_batch
from adsim.datasets.cascade_lines import MAX_SECONDS, MISSING, NUM_TIMES, parse_block

# Sizes of the published log's features.
CARDINALITIES = (
    *(8, 327_680, 655_360, 655_360, 8_192, 655_360, 16, 32, 256, 81_920, 163_840),
    *(8, 512, 128, 256, 1_024, 128, 16, 8, 8, 16, 16),
)
DAY_0 = 1_746_028_800  # Unix second of 2025-05-01 00:00:00 in Asia/Shanghai (UTC+8)
CHUNK_CLICKS = 2**19

Layout = Literal["auto", "processed", "raw"]

_BLOCK_BYTES = BLOCK_BYTES
_MAX_LINE_BYTES = MAX_LINE_BYTES
_UNIX_SECONDS = 10**9  # clicks this late (31 years after day 0) are on the Unix clock
_CACHE_VERSION = 1  # to be raised when the same file is read differently
_LOG = logging.getLogger(__name__)


class _Source(NamedTuple):
    """Files of one log and how to read them."""

    files: tuple[Path, ...]
    num_clicks: int | None  # where a file beside the log says how many there must be
    raw: bool
    cardinalities: tuple[int, ...]  # (22,)
    start: int  # second of the files' clock at which day 0 starts
    strict: bool


def read(
    path: str | Path,
    *,
    layout: Layout = "auto",
    cardinalities: tuple[int, ...] | None = None,
    start: int = DAY_0,
    strict: bool = True,
    cache_dir: str | Path | None = None,
) -> ClickRecords:
    """Reads a whole log; arguments and errors are those of `read_chunks`.

    Returns:
        The clicks in the order of the lines; shapes (0,) and (0, 22) if there are none.
    """
    chunks = read_chunks(
        path,
        layout=layout,
        cardinalities=cardinalities,
        start=start,
        strict=strict,
        cache_dir=cache_dir,
    )
    return join(list(chunks))


def read_chunks(
    path: str | Path,
    *,
    chunk_clicks: int = CHUNK_CLICKS,
    layout: Layout = "auto",
    cardinalities: tuple[int, ...] | None = None,
    start: int = DAY_0,
    strict: bool = True,
    cache_dir: str | Path | None = None,
) -> Iterator[ClickRecords]:
    """Reads a log piece by piece, in memory that grows with `chunk_clicks` only.

    Args:
        path: File, or folder of raw files.
        chunk_clicks: Clicks of every chunk but the last, >= 1.
        layout: "auto" takes a folder as raw, and a file whose first line holds a `[` or a click
            time of 10**9 or more; that line decides.
        cardinalities: (22,) sizes of the features. By default those in the JSON file beside the
            log, if there is one, or else the published ones.
        start: Unix second at which day 0 starts; for the raw layout.
        strict: Refuse events that cannot be. Otherwise such an event counts as missing (and with
            a conversion its refund), and a warning is logged with their number for every file
            that is parsed.
        cache_dir: Folder for a Parquet copy of the log, which is read from then on, and written
            anew once the size or time of a file or an argument above has changed.

    Returns:
        Chunks in the order of the lines, none if there are no clicks.

    Raises:
        FileNotFoundError: There is no such file, or no `*.txt` file in the folder.
        ValueError: An argument out of range, damaged gzip, a malformed line (names the file, the
            line from 1, the column from 0 and the allowed range), or another number of clicks
            than the JSON file beside the log says. Faults of lines come up during iteration.
    """
    if chunk_clicks < 1:
        raise ValueError(f"chunk_clicks: {chunk_clicks} is out of range, must be >= 1")
    path = Path(path)
    files = _files(path, layout)
    sizes, num_clicks = expected_of(path, cardinalities, CARDINALITIES)
    if not 0 <= start <= MAX_SECONDS:
        raise ValueError(f"start: {start} is out of range, must be in [0, {MAX_SECONDS}]")
    raw = layout == "raw" or (layout == "auto" and (path.is_dir() or _looks_raw(path)))
    source = _Source(
        files=files,
        num_clicks=num_clicks,
        raw=raw,
        cardinalities=sizes,
        start=int(start) if raw else 0,
        strict=bool(strict),
    )
    parts = _parse_files(source)
    if cache_dir is not None:
        parts = cached(parts, path, _cache_key(source), Path(cache_dir))
    return cut(parts, chunk_clicks)


def find_cardinalities(path: str | Path) -> tuple[int, ...]:
    """Sizes (22,) of a log's features: from the JSON file beside it, or else the published ones.

    Raises:
        ValueError: The JSON file is malformed; names the file, the key and the range.
    """
    return expected_of(Path(path), None, CARDINALITIES)[0]


def write(
    path: str | Path, records: ClickRecords, cardinalities: tuple[int, ...] = CARDINALITIES
) -> None:
    """Writes a log in the processed layout that `read` reads back exactly.

    Args:
        path: Target, gzip if it ends in `.gz`. Written to a temporary file and renamed, like
            `<path>.json` with the cardinalities and the number of clicks.
        records: Any order of clicks, also none. -1 is a missing event.
        cardinalities: (22,) sizes of the features.

    Raises:
        ValueError: Shapes or types differ, or a value out of range (index from 0). An event at
            second 0 is refused too: the format cannot tell it from a missing one.
    """
    from pyarrow import csv

    path, sizes = Path(path), check_cardinalities("cardinalities", cardinalities)
    records = ClickRecords._make(np.asarray(column) for column in records)
    _check_records(records, sizes)
    options = csv.WriteOptions(include_header=False, delimiter="\t")
    with writing(path, Sidecar(sizes, len(records.click_time))) as stream:
        for chunk in cut([records], CHUNK_CLICKS):
            csv.write_csv(to_batch(chunk), stream, write_options=options)


def _files(path: Path, layout: str) -> tuple[Path, ...]:
    if layout not in ("auto", "processed", "raw"):
        raise ValueError(f"layout: {layout!r} is unknown, must be 'auto', 'processed' or 'raw'")
    if not path.is_dir():
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        return (path,)
    if layout == "processed":
        raise ValueError(f"{path}: is a folder, must be a file for layout 'processed'")
    names = sorted(p.name for p in path.iterdir() if p.name.endswith((".txt", ".txt.gz")))
    if not names:
        raise FileNotFoundError(f"{path}: no *.txt files in this folder")
    return tuple(path / name for name in names)


def _looks_raw(path: Path) -> bool:
    for _, block in read_blocks(path, _BLOCK_BYTES, _MAX_LINE_BYTES):
        first = block.split(b"\n", 1)[0]
        click = first.split(b"\t", 1)[0]
        return b"[" in first or (click.isdigit() and int(click[:20]) >= _UNIX_SECONDS)
    return False


def _parse_files(source: _Source) -> Iterator[ClickRecords]:
    count = 0
    for path in source.files:
        repaired = 0
        for first_line, block in read_blocks(path, _BLOCK_BYTES, _MAX_LINE_BYTES):
            records, block_repaired = parse_block(
                *(path, first_line, block, source.cardinalities),
                **{"raw": source.raw, "start": source.start, "strict": source.strict},
            )
            count += records.click_time.size
            repaired += block_repaired
            yield records
        if repaired:
            _LOG.warning("%s: %d impossible events count as missing", path, repaired)
    check_count(source.files[0], count, source.num_clicks)


def _cache_key(source: _Source) -> str:
    """All that the clicks depend on, as text."""
    stats = [(path.name, path.stat()) for path in source.files]
    files = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
    return json.dumps({"version": _CACHE_VERSION, **source._asdict(), "files": files})


def _check_records(records: ClickRecords, cardinalities: tuple[int, ...]) -> None:
    """Refuses records that `read` would not give back."""
    click, conversion, refund, features = records
    shapes = [column.shape for column in records]
    if shapes != [(click.size,)] * NUM_TIMES + [(click.size, NUM_FEATURES)]:
        raise ValueError(f"records: shapes must be (C,) three times and (C, 22), got {shapes}")
    kinds = [column.dtype for column in records]
    if any(kind.kind not in "iu" for kind in kinds):
        raise ValueError(f"records: must be integers, got {', '.join(map(str, kinds))}")
    has_conversion, has_refund = conversion != MISSING, refund != MISSING
    faults = {
        f"click_time must be in [0, {MAX_SECONDS}]": (click < 0) | (click > MAX_SECONDS),
        "conversion_time must be -1, or > 0 and not before the click": has_conversion
        & ((conversion <= 0) | (conversion < click) | (conversion > MAX_SECONDS)),
        "refund_time must be -1, or > 0 and not before a conversion": has_refund
        & (~has_conversion | (refund < conversion) | (refund > MAX_SECONDS)),
    }
    for j, size in enumerate(cardinalities):
        bad = (features[:, j] < 0) | (features[:, j] >= size)
        faults[f"feature_{j} must be in [0, {size - 1}]"] = bad
    for problem, bad in faults.items():
        if bad.any():
            at = int(np.argmax(bad))
            column = COLUMN_NAMES.index(problem.split()[0])
            value = [*records[:NUM_TIMES], *features.T][column][at]
            raise ValueError(f"records: click {at}: {problem}, got {value}")
