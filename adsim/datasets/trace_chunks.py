"""Chunks of purchase records: joined, cut to size, kept as Parquet files; ids for texts.

Nothing here knows the text format: see `adsim.datasets.trace`.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.datasets import blocks
from adsim.datasets.blocks import NUM_FEATURES
from adsim.types import FloatArray, IntArray

if TYPE_CHECKING:
    import pyarrow as pa

_ROW_GROUP = 2**18  # clicks that are written to a Parquet file at once
_KEY = b"adsim.trace"
_FEATURES = tuple(f"feature_{j}" for j in range(NUM_FEATURES))
_BATCH_NAMES = ("click_time", *_FEATURES, "purchase_time", "amount")


class PurchaseRecords(NamedTuple):
    """Converted clicks in the order of the file, and the P purchases of all of them."""

    click_time: IntArray  # (C,) seconds >= 0 since day 0
    features: NDArray[np.int32]  # (C, 22) ids, 0 if missing
    offset: IntArray  # (C + 1,) purchases of click i are offset[i]:offset[i + 1], at least one
    purchase_time: IntArray  # (P,) seconds since day 0, non-decreasing within a click
    amount: FloatArray  # (P,) currency >= 0, with a sum > 0 in each click


def join(parts: list[PurchaseRecords]) -> PurchaseRecords:
    """All clicks of the parts, in their order; (0,), (0, 22), (1,), (0,), (0,) without parts."""
    if not parts:
        none, features = np.empty(0, np.int64), np.empty((0, NUM_FEATURES), np.int32)
        return PurchaseRecords(none, features, np.zeros(1, np.int64), none.copy(), np.empty(0))
    if len(parts) == 1:
        return parts[0]
    size = np.concatenate([np.diff(part.offset) for part in parts])
    columns = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    return PurchaseRecords._make(columns)._replace(offset=to_offset(size))


def take(records: PurchaseRecords, begin: int, end: int) -> PurchaseRecords:
    """The clicks from index `begin` up to `end`; views but for the offsets."""
    offset = records.offset[begin : end + 1]
    bought = slice(offset[0], offset[-1])
    return PurchaseRecords(
        records.click_time[begin:end],
        records.features[begin:end],
        offset - offset[0],
        records.purchase_time[bought],
        records.amount[bought],
    )


def to_offset(size: IntArray) -> IntArray:
    """Where the purchases of each click start, and the last end (C + 1,), from their numbers."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(size, dtype=np.int64)])


def cut(parts: Iterable[PurchaseRecords], size: int) -> Iterator[PurchaseRecords]:
    """The same clicks in chunks of `size`; the last may be smaller, none is empty."""
    return blocks.cut(parts, size, join, take)


def cached(
    parts: Iterable[PurchaseRecords], path: Path, key: str, cache_dir: Path
) -> Iterator[PurchaseRecords]:
    """The clicks of `parts`, from a Parquet file where one with this key is there already.

    Args:
        parts: Clicks read from the log; not touched if the Parquet file is good.
        path: The log, which names the Parquet file.
        key: All that the clicks depend on. The file is written anew if it was another.
        cache_dir: Folder of the Parquet file, created if need be.
    """
    batches = (_to_batch(part) for part in cut(parts, _ROW_GROUP))
    schema = _to_batch(join([])).schema.with_metadata({_KEY: key.encode("utf-8")})
    for batch in blocks.cached(batches, schema, path, cache_dir):
        yield _from_batch(batch)


class TextIds:
    """Ids of texts: from 1 in the order of first appearance, 0 if missing.

    A text is known by its 64-bit fingerprint: among 4 million texts the chance that any two share
    one is 4e-7.
    """

    def __init__(self) -> None:
        self.used = 0  # the highest id
        self._keys = np.zeros(2, dtype=np.uint64)  # open addressing: a power of two of places
        self._ids = np.zeros(2, dtype=np.int32)  # 0 in empty places

    def number(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Ids (N,) of fingerprints (N,), of which 0 is a missing text."""
        most = 2 * (self.used + hashes.size)
        if most > self._keys.size:
            taken = self._ids > 0
            known = self._keys[taken][np.argsort(self._ids[taken])]  # those of ids 1, 2, ...
            size = 1 << most.bit_length()
            self._keys, self._ids = np.zeros(size, np.uint64), np.zeros(size, np.int32)
            _number(known, self._keys, self._ids, 0, np.empty(known.size, np.int32))
        ids = np.empty(hashes.size, dtype=np.int32)
        self.used = _number(hashes, self._keys, self._ids, self.used, ids)
        return ids


@njit(cache=True, nogil=True)
def _number(
    hashes: NDArray[np.uint64],
    keys: NDArray[np.uint64],
    ids: NDArray[np.int32],
    used: int,
    found: NDArray[np.int32],
) -> int:
    """Fills `found` with ids; new ones go up from `used`, and the highest is returned."""
    mask = np.uint64(keys.size - 1)
    for i in range(hashes.size):
        if hashes[i] == 0:
            found[i] = 0
            continue
        place = hashes[i] & mask
        while ids[place] != 0 and keys[place] != hashes[i]:
            place = (place + np.uint64(1)) & mask
        if ids[place] == 0:
            used += 1
            keys[place], ids[place] = hashes[i], used
        found[i] = ids[place]
    return used


def _to_batch(records: PurchaseRecords) -> "pa.RecordBatch":
    import pyarrow as pa

    offset = pa.array(records.offset.astype(np.int32))
    lists = [pa.ListArray.from_arrays(offset, pa.array(column)) for column in records[3:]]
    columns = [pa.array(records.click_time), *map(pa.array, records.features.T), *lists]
    return pa.RecordBatch.from_arrays(columns, names=list(_BATCH_NAMES))


def _from_batch(batch: "pa.RecordBatch") -> PurchaseRecords:
    *flat, time, amount = batch.columns
    click, *features = (column.to_numpy() for column in flat)
    return PurchaseRecords(
        click,
        np.stack(features, axis=1),
        to_offset(time.value_lengths().to_numpy()),
        time.flatten().to_numpy(),
        amount.flatten().to_numpy(),
    )
