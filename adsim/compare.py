"""Bit for bit comparison of nested values, and the error of a broken rule."""

from collections.abc import Iterator
from typing import Any

import numpy as np


class CheckError(AssertionError):
    """A rule is broken; the message names it."""


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The numbers and arrays inside nested dicts, tuples and object arrays, with their places."""
    if isinstance(value, dict):
        parts = {f"[{key!r}]": part for key, part in value.items()}
    elif isinstance(value, tuple | list) or getattr(value, "dtype", None) == np.dtype(object):
        names = getattr(value, "_fields", range(len(value)))
        parts = {f".{name}": part for name, part in zip(names, value, strict=True)}
    else:
        yield path, value
        return
    for name, part in parts.items():
        yield from _leaves(part, path + name)


def _bits(leaf: Any) -> Any:
    """What makes two leaves the same: type, shape and bytes."""
    if not isinstance(leaf, np.ndarray | np.generic | float):
        return type(leaf), leaf
    array = np.asarray(leaf)
    return type(leaf), array.dtype, array.shape, array.tobytes()


def find_difference(left: Any, right: Any, path: str = "value") -> str | None:
    """Where two nested values (dicts, tuples, arrays, numbers) differ, bit for bit.

    Returns None if they are the same. Types and dtypes count, too.
    """
    ours, theirs = dict(_leaves(left, path)), dict(_leaves(right, path))
    if list(ours) != list(theirs):
        return f"{path}: {list(ours)} against {list(theirs)}"
    for place, one in ours.items():
        two = theirs[place]
        if _bits(one) == _bits(two):
            continue
        if isinstance(one, np.ndarray) and _bits(one)[:3] == _bits(two)[:3]:
            pairs = enumerate(zip(one.ravel(), two.ravel(), strict=True))
            at, (one, two) = next((i, p) for i, p in pairs if _bits(p[0]) != _bits(p[1]))
            place = f"{place}.flat[{at}]"
        return f"{place}: {one!r} against {two!r}"
    return None
