"""Literals in cells of text: integers, lists of integers and lists of numbers, compiled.

A cell is a range of bytes in a block of text, from `at` up to `end`.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - compiled functions: numba infers their types

import numpy as np
from numba import njit

NO_INTEGER = np.iinfo(np.int64).min  # what `integer` returns for a text that is none

_MAX_DIGITS = 18  # fit into int64
_BLANK, _COMMA, _MINUS, _PLUS, _DOT = (ord(c) for c in " ,-+.")
_OPEN, _CLOSE, _NOUGHT, _NINE, _SMALL_E, _LARGE_E = (ord(c) for c in "[]09eE")


@njit
def integer(block, at, end):
    """Value of an optional minus sign and 1 to 18 digits, NO_INTEGER for any other text."""
    negative = at < end and block[at] == _MINUS
    if negative:
        at += 1
    if not 1 <= end - at <= _MAX_DIGITS:
        return NO_INTEGER
    value = 0
    for i in range(at, end):
        if not _NOUGHT <= block[i] <= _NINE:
            return NO_INTEGER
        value = 10 * value + np.int64(block[i] - _NOUGHT)
    return -value if negative else value


@njit
def _element(block, at, end):
    """Range of the list element that starts at `at`, without blanks, and where the next starts.

    `end` is that of the list, where its `]` stands.
    """
    stop = at
    while stop < end and block[stop] != _COMMA:
        stop += 1
    next_at = stop + 1
    while at < stop and block[at] == _BLANK:
        at += 1
    while stop > at and block[stop - 1] == _BLANK:
        stop -= 1
    return at, stop, next_at


@njit
def read_integers(block, at, end, values, filled):
    """Stores the elements of a list such as `[5, -8]` in `values` from index `filled` on.

    Returns:
        Their number, -1 if it is no list of integers.
    """
    if end - at < 2 or block[at] != _OPEN or block[end - 1] != _CLOSE:
        return -1
    at, end, count = at + 1, end - 1, 0
    if at == end:
        return 0
    while at <= end:
        start, stop, at = _element(block, at, end)
        value = integer(block, start, stop)
        if value == NO_INTEGER:
            return -1
        values[filled + count] = value
        count += 1
    return count


@njit
def read_numbers(block, at, end, text, bounds, filled):
    """Copies the elements of a list such as `[5.0, -2, 1e-05]` to `text`, without gaps.

    Element i goes from bounds[filled + i] up to bounds[filled + i + 1], which is set here; the
    first of these is where the free part of `text` starts.

    Returns:
        Their number, -1 if it is no list of decimal numbers.
    """
    if end - at < 2 or block[at] != _OPEN or block[end - 1] != _CLOSE:
        return -1
    at, end, count = at + 1, end - 1, 0
    if at == end:
        return 0
    while at <= end:
        start, stop, at = _element(block, at, end)
        if not _is_number(block, start, stop):
            return -1
        shift = bounds[filled + count] - start
        for i in range(start, stop):  # a loop: a slice takes 2 s to compile
            text[i + shift] = block[i]
        count += 1
        bounds[filled + count] = stop + shift
    return count


@njit
def _is_number(block, at, end):
    """Whether a text is digits with an optional minus sign, point and exponent."""
    if at < end and block[at] == _MINUS:
        at += 1
    start, points = at, 0
    while at < end and (_NOUGHT <= block[at] <= _NINE or (block[at] == _DOT and points == 0)):
        points += block[at] == _DOT
        at += 1
    if at - start - points < 1:
        return False
    if at < end and (block[at] == _SMALL_E or block[at] == _LARGE_E):
        at += 1
        if at < end and (block[at] == _MINUS or block[at] == _PLUS):
            at += 1
        start = at
        while at < end and _NOUGHT <= block[at] <= _NINE:
            at += 1
        if at == start:
            return False
    return at == end
