"""Chunks of click records: joined, cut to size, and kept as Parquet files.

Nothing here knows the text formats: see `adsim.datasets.cascade`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.datasets import blocks
from adsim.datasets.blocks import NUM_FEATURES
from adsim.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

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
    return blocks.cut(parts, size, join, _take)


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
    batches = (to_batch(part) for part in cut(parts, _ROW_GROUP))
    schema = to_batch(join([])).schema.with_metadata({_KEY: key.encode("utf-8")})
    for batch in blocks.cached(batches, schema, path, cache_dir):
        columns = [column.to_numpy() for column in batch.columns]
        num_times = len(columns) - NUM_FEATURES
        features = np.stack(columns[num_times:], axis=1)
        yield ClickRecords._make((*columns[:num_times], features))


def to_batch(records: ClickRecords) -> "pa.RecordBatch":
    """Arrow columns `COLUMN_NAMES`: int64 times, int32 ids."""
    import pyarrow as pa

    columns = [pa.array(column) for column in (*records[:-1], *records.features.T)]
    return pa.RecordBatch.from_arrays(columns, names=list(COLUMN_NAMES))


def _take(records: ClickRecords, begin: int, end: int) -> ClickRecords:
    """The clicks from index `begin` up to `end`, as views."""
    return ClickRecords._make(column[begin:end] for column in records)
