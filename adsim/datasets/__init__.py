"""Readers and writers of public data sets, one module per format.

Every reader takes a path to a file that stays outside the repository, accepts plain text and gzip,
and reports bad input as a `ValueError` that names the file, the line and the allowed range.
"""

import gzip
import zlib
from pathlib import Path

GZIP_MAGIC = b"\x1f\x8b"  # RFC 1952, section 2.3.1: ID1, ID2
_GZIP_WBITS = 31  # zlib: 15-bit window, gzip header
_CHUNK_BYTES = 4096  # step of the slow pass that finds where a broken file ends

__all__ = ["read_text"]


def read_text(path: str | Path) -> str:
    """Content of a UTF-8 text file, decompressed if it starts with the gzip magic number.

    Args:
        path: File; a name ending in `.gz` demands gzip content.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Truncated or damaged gzip, or not UTF-8; names the file and the line reached.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    raw = path.read_bytes()
    if raw.startswith(GZIP_MAGIC):
        raw = _decompress(path, raw)
    elif path.suffix == ".gz":
        raise ValueError(f"{path}: not a gzip file (no gzip header)")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not UTF-8 text (byte {raw[error.start]:#04x})") from None


def _decompress(path: Path, raw: bytes) -> bytes:
    """All members of a gzip file; an error names the line at which its readable part ends."""
    try:
        return gzip.decompress(raw)
    except EOFError:
        problem = "truncated gzip file"
    except (gzip.BadGzipFile, zlib.error) as error:
        problem = f"damaged gzip file ({error})"
    raise ValueError(f"{path}:{_last_readable_line(raw)}: {problem}; the readable part ends here")


def _last_readable_line(raw: bytes) -> int:
    """1-based line at which the first member of a broken gzip file stops being readable."""
    stream = zlib.decompressobj(_GZIP_WBITS)
    newlines = 0
    try:
        for start in range(0, len(raw), _CHUNK_BYTES):
            newlines += stream.decompress(raw[start : start + _CHUNK_BYTES]).count(b"\n")
    except zlib.error:
        pass  # the damage: what was readable before it is counted
    return newlines + 1
