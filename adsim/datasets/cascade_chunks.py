"""Chunks of click records: joined, cut to size, and kept as Parquet files.

Nothing here knows the text formats: see `adsim.datasets.cascade`.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

NUM_FEATURES = 22
COLUMN_NAMES = (
    *("click_time", "conversion_time", "refund_time"),
    *(f"feature_{j}" for j in range(NUM_FEATURES)),
)

_ROW_GROUP = 2**18  # clicks that are written to a Parquet file at once
_KEY = b"adsim.cascade"


class ClickRecords(NamedTuple):
    """Clicks in the order of the file; (C,) each."""

    click_time: IntArray  # (C,) seconds >= 0 since day 0
    conversion_time: IntArray  # (C,) seconds > 0, -1 if missing
    refund_time: IntArray  # (C,) seconds > 0, -1 if missing
    features: NDArray[np.int32]  # (C, 22) ids


def join(parts: list[ClickRecords]) -> ClickRecords:
    """All clicks of the parts, in their order; (0,) and (0, 22) without parts."""
    if not parts:
        none = np.empty(0, dtype=np.int64)
        features = np.empty((0, NUM_FEATURES), dtype=np.int32)
        return ClickRecords(none, none.copy(), none.copy(), features)
    if len(parts) == 1:
        return parts[0]
    return ClickRecords._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


def cut(parts: Iterable[ClickRecords], size: int) -> Iterator[ClickRecords]:
    """The same clicks in chunks of `size`; the last may be smaller, none is empty."""
    waiting: list[ClickRecords] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += part.click_time.size
        if count < size:
            continue
        joined = join(waiting)
        whole = count - count % size
        for begin in range(0, whole, size):
            yield ClickRecords._make(column[begin : begin + size] for column in joined)
        # A copy: a view would keep all of what has been passed on.
        waiting = [ClickRecords._make(column[whole:].copy() for column in joined)]
        count -= whole
    if count:
        yield join(waiting)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; takes its place if nothing went wrong."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def cached(
    parts: Iterable[ClickRecords], path: Path, key: str, cache_dir: Path
) -> Iterator[ClickRecords]:
    """The clicks of `parts`, from a Parquet file where one with this key is there already.

    Args:
        parts: Clicks read from the log; not touched if the Parquet file is good.
        path: The log, which names the Parquet file.
        key: All that the clicks depend on. The file is written anew if it was another.
        cache_dir: Folder of the Parquet file, created if need be.
    """
    whole_path = os.fsencode(path.resolve())
    target = cache_dir / f"{path.name}-{blake2b(whole_path, digest_size=8).hexdigest()}.parquet"
    if _key_of(target) != key:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial:
            _write_parquet(partial, parts, key)
    yield from _read_parquet(target)


def to_batch(records: ClickRecords, metadata: dict[bytes, bytes] | None = None) -> "pa.RecordBatch":
    """Arrow columns `COLUMN_NAMES`: int64 times, int32 ids."""
    import pyarrow as pa

    columns = [pa.array(column) for column in (*records[:-1], *records.features.T)]
    types = [
        pa.field(name, column.type) for name, column in zip(COLUMN_NAMES, columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(types, metadata))


def _key_of(target: Path) -> str | None:
    """Key of a Parquet file; None if it is absent or cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(target).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    return metadata.get(_KEY, b"").decode("utf-8", "replace")


def _write_parquet(target: Path, parts: Iterable[ClickRecords], key: str) -> None:
    import pyarrow.parquet as pq

    metadata = {_KEY: key.encode("utf-8")}
    schema = to_batch(join([]), metadata).schema
    with pq.ParquetWriter(target, schema, compression="zstd", compression_level=1) as writer:
        for part in cut(parts, _ROW_GROUP):
            writer.write_batch(to_batch(part, metadata), row_group_size=_ROW_GROUP)


def _read_parquet(target: Path) -> Iterator[ClickRecords]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(target) as file:
        for batch in file.iter_batches(batch_size=_ROW_GROUP):
            columns = [column.to_numpy() for column in batch.columns]
            num_times = len(columns) - NUM_FEATURES
            features = np.stack(columns[num_times:], axis=1)
            yield ClickRecords._make((*columns[:num_times], features))
