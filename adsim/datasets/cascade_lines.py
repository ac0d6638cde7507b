"""Lines of click logs in the CASCADE formats, parsed by one compiled pass over a block of text.

The formats and what is valid in them: `adsim.datasets.cascade`, which reads the files.
"""

# ruff: noqa: ANN001, ANN202 - compiled functions: numba infers their types

from pathlib import Path

import numpy as np
from numba import njit

from adsim.datasets.cascade_chunks import COLUMN_NAMES, NUM_FEATURES, ClickRecords
from adsim.datasets.farmhash import hash_bytes
from adsim.datasets.literals import NO_INTEGER, integer

NUM_COLUMNS = len(COLUMN_NAMES)
NUM_TIMES = NUM_COLUMNS - NUM_FEATURES  # click, first conversion, first refund
MISSING = -1  # the time of an event that is not there
MAX_SECONDS = 2**53  # integers above are not exact in float64

_TAB, _NEWLINE, _RETURN, _BLANK, _COMMA = (ord(c) for c in "\t\n\r ,")
_OPEN, _CLOSE, _SINGLE, _DOUBLE = (ord(c) for c in "[]'\"")
_NAN_HASH = np.uint64(0x878DCA7D8227C6CC)  # fingerprint of "nan", the text of a missing value
_FINE, _BAD_LINE, _BAD_CELL, _TOO_EARLY, _NO_CAUSE = range(5)
_SHOWN = 60  # characters of a bad cell that a message repeats


def parse_block(
    path: Path,
    first_line: int,
    block: bytes,
    cardinalities: tuple[int, ...],
    *,
    raw: bool,
    start: int,
    strict: bool,
) -> tuple[ClickRecords, int]:
    """Parses whole lines.

    Args:
        path: Named in messages only.
        first_line: 1-based number of the block's first line, for messages.
        block: Text whose every line ends with a newline.
        cardinalities: (22,) sizes of the features.
        raw: The lines are of the raw layout.
        start: Second of the file's clock at which day 0 starts.
        strict: Refuse events that cannot be; otherwise they count as missing.

    Returns:
        The clicks, and how many events count as missing because they cannot be.

    Raises:
        ValueError: Names file, line, column and the allowed range.
    """
    count = block.count(b"\n")
    times = np.empty((NUM_TIMES, count), dtype=np.int64)
    features = np.empty((count, NUM_FEATURES), dtype=np.int32)
    text = np.frombuffer(block, dtype=np.uint8)
    sizes = np.array(cardinalities, dtype=np.int64)
    row, column, fault, repaired = _parse(text, sizes, raw, start, strict, times, features)
    if fault == _FINE:
        return ClickRecords(times[0], times[1], times[2], features), repaired
    line = block.split(b"\n", row + 1)[row].decode("utf-8", "backslashreplace")
    cells = line.removesuffix("\r").split("\t")
    problem = _describe(cells, column, fault, times[:, row].tolist(), cardinalities, raw, start)
    raise ValueError(f"{path}:{first_line + row}: {problem}")


def _describe(
    cells: list[str],
    column: int,
    fault: int,
    times: list[int],
    cardinalities: tuple[int, ...],
    raw: bool,
    start: int,
) -> str:
    """What is wrong with a line."""
    if fault == _BAD_LINE or len(cells) != NUM_COLUMNS:
        return f"{len(cells)} columns, must be {NUM_COLUMNS}, separated by tabs"
    cell = cells[column]
    shown = cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}..."
    where = f"column {column} ({COLUMN_NAMES[column]}) is {shown!r}"
    if fault == _NO_CAUSE:
        return f"{where}, must be missing without a conversion"
    if fault == _TOO_EARLY:
        cause = column - 1
        return (
            f"{where}: second {times[column]} is before the {('click', 'conversion')[cause]} "
            f"at second {times[cause]}, must be missing or not earlier"
        )
    if column >= NUM_TIMES:
        return f"{where}, must be an integer in [0, {cardinalities[column - NUM_TIMES] - 1}]"
    limit = start + MAX_SECONDS
    if column == 0:
        return f"{where}, must be an integer in [{start}, {limit}]"
    if raw:
        return f"{where}, must be missing or a list whose first element is an integer <= {limit}"
    return f"{where}, must be an integer <= {limit}, {MISSING} or empty if missing"


@njit(cache=True, nogil=True)
def _parse(block, cardinalities, raw, start, strict, times, features):
    """Fills `times` (3, C) and `features` (C, 22); returns row, column, fault and repairs."""
    at, repaired = 0, 0
    for row in range(times.shape[1]):
        for column in range(NUM_COLUMNS):
            stop = at
            while block[stop] != _TAB and block[stop] != _NEWLINE:
                stop += 1
            last = column == NUM_COLUMNS - 1
            if (block[stop] == _NEWLINE) != last:
                return row, column, _BAD_LINE, repaired
            end = stop - 1 if last and stop > at and block[stop - 1] == _RETURN else stop
            if column < NUM_TIMES:
                second = _second(block, at, end, column, raw, start)
                if second == NO_INTEGER:
                    return row, column, _BAD_CELL, repaired
                times[column, row] = second
            else:
                index = column - NUM_TIMES
                bucket = _bucket(block, at, end, cardinalities[index], raw)
                if bucket < 0:
                    return row, column, _BAD_CELL, repaired
                features[row, index] = bucket
            at = stop + 1
        for column in range(1, NUM_TIMES):
            fault = _event_fault(times[0, row], times[1, row], times[2, row], column)
            if fault != _FINE:
                if strict:
                    return row, column, fault, repaired
                times[column, row] = MISSING
                repaired += 1
    return 0, 0, _FINE, repaired


@njit
def _event_fault(click, conversion, refund, column):
    """Whether the event of the column can follow from what came before it."""
    if column == 1:
        return _TOO_EARLY if conversion != MISSING and conversion < click else _FINE
    if refund == MISSING:
        return _FINE
    if conversion == MISSING:
        return _NO_CAUSE
    return _TOO_EARLY if refund < conversion else _FINE


@njit
def _second(block, at, end, column, raw, start):
    """Seconds since day 0 of a time cell; MISSING, or NO_INTEGER if it is not one."""
    if column > 0:
        is_list = True
        if raw:
            at, end, is_list = _element(block, at, end)
        if at == end or not is_list:
            return MISSING
    second = integer(block, at, end)
    if second == NO_INTEGER:
        return NO_INTEGER
    second -= start
    if second > MAX_SECONDS:
        return NO_INTEGER
    if column == 0:
        return second if second >= 0 else NO_INTEGER
    return second if second > 0 else MISSING


@njit
def _bucket(block, at, end, cardinality, raw):
    """Id of a feature cell, negative if it is not one."""
    if raw:
        at, end, _ = _element(block, at, end)
        text_hash = hash_bytes(block, at, end - at) if at < end else _NAN_HASH
        return np.int64(text_hash % np.uint64(cardinality))
    value = integer(block, at, end)
    return value if value < cardinality else -1


@njit
def _element(block, at, end):
    """Range of a cell's first list element, or of the whole cell, and whether it is a list."""
    quoted = end - at >= 2 and block[at] == _DOUBLE and block[end - 1] == _DOUBLE
    if quoted:  # as CSV writers do with cells that hold double quotes, which they double
        at, end = at + 1, end - 1
    if end - at < 2 or block[at] != _OPEN or block[end - 1] != _CLOSE:
        return at, end, False
    at, end = at + 1, end - 1
    while at < end and block[at] == _BLANK:
        at += 1
    if at < end and (block[at] == _SINGLE or block[at] == _DOUBLE):
        mark = block[at]
        at = min(at + (2 if quoted and mark == _DOUBLE else 1), end)
        stop = at
        while stop < end and block[stop] != mark:
            stop += 1
        return at, stop, True
    stop = at
    while stop < end and block[stop] != _COMMA:
        stop += 1
    while stop > at and block[stop - 1] == _BLANK:
        stop -= 1
    return at, stop, True
