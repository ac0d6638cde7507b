"""What the formats of click logs share: blocks of lines, safe writing, Parquet copies.

Nothing here knows a text format: see `adsim.datasets.cascade` and `adsim.datasets.trace`.
"""

import copy
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from adsim.datasets import GZIP_MAGIC
from adsim.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

NUM_FEATURES = 22
BLOCK_BYTES = 2**22
MAX_LINE_BYTES = 2**24

_GZIP_LEVEL = 4  # 9 takes ten times as long for 5 % less
_MAX_CARDINALITY = 2**31  # ids are int32


class Sidecar(NamedTuple):
    """Content of the JSON file beside a log."""

    cardinalities: tuple[int, ...]  # (22,) sizes of the features
    num_clicks: int  # >= 0


class Clicks(Protocol):
    """Records of clicks in the order of the file."""

    @property
    def click_time(self) -> IntArray:
        """(C,) seconds since day 0."""
        ...


ClicksT = TypeVar("ClicksT", bound=Clicks)


def read_blocks(
    path: Path, block_bytes: int = BLOCK_BYTES, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[int, bytes]]:
    """Pieces of whole lines of a plain or gzip file, and the 1-based number of their first line.

    The last newline is added if need be.

    Args:
        path: File; gzip if it starts with the gzip magic number, as a name in `.gz` demands.
        block_bytes: Size of a piece, about; > 0.
        max_line_bytes: Longest line allowed, about.

    Raises:
        ValueError: Truncated or damaged gzip, or a line too long; names the file and the line.
    """
    line, rest = 1, b""
    with path.open("rb") as plain:
        is_gzip = plain.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    if not is_gzip and path.suffix == ".gz" and path.stat().st_size:
        raise ValueError(f"{path}: not a gzip file (no gzip header)")
    with gzip.open(path) if is_gzip else path.open("rb") as stream:
        while piece := _read_piece(cast(BinaryIO, stream), path, line, block_bytes):
            end = piece.rfind(b"\n") + 1
            if end:
                block = rest + piece[:end]
                yield line, block
                line += block.count(b"\n")
                rest = piece[end:]
            else:
                rest += piece
            if len(rest) > max_line_bytes:
                raise ValueError(f"{path}:{line}: line of more than {max_line_bytes} bytes")
    if rest:
        yield line, rest + b"\n"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to; takes its place if nothing went wrong."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def writing(path: Path, sidecar: Sidecar) -> Iterator[BinaryIO]:
    """A stream into a new log, which takes its place with its JSON file if nothing went wrong.

    Args:
        path: The log; compressed if it ends in `.gz`.
        sidecar: Content of the JSON file, `<path>.json`.
    """
    with replacing(path) as partial:
        with partial.open("wb") as plain:
            # No name and no time stamp in the file: same log, same bytes.
            packed = path.suffix == ".gz"
            stream = gzip.GzipFile("", "wb", _GZIP_LEVEL, plain, mtime=0) if packed else plain
            with stream:
                yield cast(BinaryIO, stream)
        # Before the log: a write that stops in between leaves a pair that does not match.
        with replacing(sidecar_path(path)) as partial_sidecar:
            partial_sidecar.write_text(json.dumps(sidecar._asdict()) + "\n", "utf-8")


def sidecar_path(path: Path) -> Path:
    """The JSON file beside a log."""
    return path.with_name(f"{path.name}.json")


def read_sidecar(path: Path) -> Sidecar | None:
    """Content of the JSON file beside a log, None without one.

    Raises:
        ValueError: It is malformed; names the file, the key and the range.
    """
    sidecar = sidecar_path(path)
    if not sidecar.is_file():
        return None
    try:
        content = json.loads(sidecar.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{sidecar}: not JSON: {error}") from None
    if not isinstance(content, dict) or not set(Sidecar._fields) <= content.keys():
        raise ValueError(f"{sidecar}: must be an object with the keys cardinalities, num_clicks")
    count = content["num_clicks"]
    if type(count) is not int or count < 0:
        raise ValueError(f"{sidecar}: num_clicks: {count!r} is out of range, must be >= 0")
    sizes = check_cardinalities(f"{sidecar}: cardinalities", content["cardinalities"])
    return Sidecar(sizes, count)


def expected_of(
    path: Path, cardinalities: tuple[int, ...] | None, published: tuple[int, ...]
) -> tuple[tuple[int, ...], int | None]:
    """Sizes (22,) of a log's features, and its number of clicks if that is known.

    Args:
        path: The log.
        cardinalities: As the caller says; None: those in the JSON file beside the log, if there is
            one, or else the published ones.
        published: Sizes of the published log.

    Raises:
        ValueError: Sizes out of range, or the JSON file is malformed; names key and range.
    """
    sidecar = read_sidecar(path)
    if cardinalities is None:
        cardinalities = sidecar.cardinalities if sidecar else published
    sizes = check_cardinalities("cardinalities", cardinalities)
    return sizes, sidecar.num_clicks if sidecar else None


def check_cardinalities(name: str, cardinalities: object) -> tuple[int, ...]:
    """Sizes (22,) of features as a tuple of Python integers.

    Raises:
        ValueError: Names the argument and the range.
    """
    sizes = tuple(cardinalities) if isinstance(cardinalities, tuple | list) else ()
    if len(sizes) != NUM_FEATURES or any(isinstance(size, bool) for size in sizes):
        raise ValueError(f"{name}: must be {NUM_FEATURES} integers, got {cardinalities!r}")
    for j, size in enumerate(sizes):
        if not (isinstance(size, int | np.integer) and 1 <= size <= _MAX_CARDINALITY):
            limits = f"[1, {_MAX_CARDINALITY}]"
            raise ValueError(
                f"{name}[{j}]: {size!r} is out of range, must be an integer in {limits}"
            )
    return tuple(int(size) for size in sizes)


def check_count(path: Path, count: int, expected: int | None) -> None:
    """Refuses a log of `count` clicks where the JSON file beside it says another number."""
    if expected not in (None, count):
        raise ValueError(
            f"{path}: {count} clicks, must be {expected} as {sidecar_path(path).name} says"
        )


def cut(
    parts: Iterable[ClicksT],
    size: int,
    join: Callable[[list[ClicksT]], ClicksT],
    take: Callable[[ClicksT, int, int], ClicksT],
) -> Iterator[ClicksT]:
    """The same clicks in chunks of `size`; the last may be smaller, none is empty.

    Args:
        parts: Clicks in order, any number in each part.
        size: Clicks of every chunk but the last, >= 1.
        join: All clicks of several parts.
        take: The clicks from one index up to another, which may be views.
    """
    waiting: list[ClicksT] = []
    count = 0
    for part in parts:
        waiting.append(part)
        count += part.click_time.size
        if count < size:
            continue
        joined = join(waiting)
        whole = count - count % size
        for begin in range(0, whole, size):
            yield take(joined, begin, begin + size)
        # A copy: a view would keep all of what has been passed on.
        waiting = [copy.deepcopy(take(joined, whole, count))]
        count -= whole
    if count:
        yield join(waiting)


def cached(
    batches: Iterable["pa.RecordBatch"], schema: "pa.Schema", path: Path, cache_dir: Path
) -> Iterator["pa.RecordBatch"]:
    """The batches, from a Parquet file where one with the metadata of `schema` is there already.

    Args:
        batches: Clicks read from the log; not touched if the Parquet file is good. One row group
            of the file each.
        schema: Columns of the batches; the metadata hold all that the clicks depend on. The file
            is written anew if they were others.
        path: The log, which names the Parquet file.
        cache_dir: Folder of the Parquet file, created if need be.
    """
    import pyarrow.parquet as pq

    whole_path = os.fsencode(path.resolve())
    target = cache_dir / f"{path.name}-{blake2b(whole_path, digest_size=8).hexdigest()}.parquet"
    if not _has_metadata(target, schema.metadata):
        cache_dir.mkdir(parents=True, exist_ok=True)
        with (
            replacing(target) as partial,
            pq.ParquetWriter(partial, schema, compression="zstd", compression_level=1) as writer,
        ):
            for batch in batches:
                writer.write_batch(batch, row_group_size=max(batch.num_rows, 1))
    with pq.ParquetFile(target) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=2**31 - 1, row_groups=[group])


def _has_metadata(target: Path, metadata: dict[bytes, bytes]) -> bool:
    """Whether a Parquet file is there, can be read and has these metadata among its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_schema(target).metadata or {}
    except (OSError, pa.ArrowException):
        return False
    return metadata.items() <= found.items()


def _read_piece(stream: BinaryIO, path: Path, line: int, size: int) -> bytes:
    try:
        return stream.read(size)
    except EOFError:
        problem = "truncated gzip file"
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged gzip file ({error})"
    raise ValueError(f"{path}:{line}: {problem}; not readable from about here on")
