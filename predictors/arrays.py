"""Named arrays in npz files; nothing in a file is executed."""

import os
from pathlib import Path

import numpy as np


def save_arrays(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an npz file; an interrupted write leaves the old one, or none."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with part.open("wb") as out:
            np.savez(out, **arrays)  # pyright: ignore[reportArgumentType]
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def load_arrays(file: Path) -> dict[str, np.ndarray]:
    """Reads an npz file; nothing in it is executed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no npz file; names it.
    """
    with file.open("rb") as opened:
        try:
            with np.load(opened, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # whatever the readers of zip files and arrays stumble over
            raise ValueError(f"{file}: damaged, or not an npz file ({error})") from error
