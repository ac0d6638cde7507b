"""Lines of purchase logs in the TRACE format, parsed by one compiled pass over a block of text.

The format and what is valid in it: `adsim.datasets.trace`, which reads the files.
"""

# ruff: noqa: ANN001, ANN202 - compiled functions: numba infers their types

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.datasets.blocks import NUM_FEATURES
from adsim.datasets.cascade_lines import MAX_SECONDS
from adsim.datasets.farmhash import hash_bytes
from adsim.datasets.literals import NO_INTEGER, integer, read_integers, read_numbers
from adsim.datasets.trace_chunks import PurchaseRecords, to_offset
from adsim.types import FloatArray, IntArray

WINDOW_SECONDS = 604_800  # purchases count from the click to 7 days after it, that second excluded

# Roles of columns: 0..21 are the features.
CLICK, PAY, AMOUNT, COUNT, TOTAL, MULTI, PREV_AMOUNT, PREV_PAY = range(
    NUM_FEATURES, NUM_FEATURES + 8
)
OTHER_NAMES = (
    *("click_time", "pay_time", "dirpay_amt", "count", "total_counts", "multi_tag"),
    *("prev_dirpay_amt", "prev_pay_time"),
)
COLUMN_NAMES = (*(f"feature_{j}" for j in range(NUM_FEATURES)), *OTHER_NAMES)
NUM_COLUMNS = len(COLUMN_NAMES)

_FINE, _BAD_LINE, _BAD_CELL, _RANGE, _EMPTY, _LENGTH, _TIMES, _AMOUNTS, _SUM, _DERIVED = range(10)
_TAB, _NEWLINE, _RETURN, _DOT, _NOUGHT = (ord(c) for c in "\t\n\r.0")
_SHOWN = 60  # characters of a bad cell that a message repeats

_RULES = {  # of value faults; `{}` is the click time
    _EMPTY: "must hold at least one purchase",
    _LENGTH: "must have as many elements as pay_time",
    _TIMES: "must ascend from the click at second {} and end before it plus 604800",
    _AMOUNTS: "must be finite and >= 0",
    _SUM: "must have a finite sum > 0",
}
_DERIVED_RULES = {
    COUNT: "must be [1, 2, ...] with one element for each of pay_time",
    TOTAL: "must be the number of elements of pay_time",
    MULTI: "must be 1 if pay_time has several elements, 0 otherwise",
    PREV_AMOUNT: "must be 0.0, then all but the last of dirpay_amt",
    PREV_PAY: "must be click_time, then all but the last of pay_time",
}


class Layout(NamedTuple):
    """What the columns of a file are, and how they are read."""

    names: tuple[str, ...]  # (30,) as in the header
    roles: tuple[int, ...]  # (30,) 0..21 are features, then CLICK..PREV_PAY
    cardinalities: tuple[int, ...]  # (22,) sizes of the features; not used for hashed ones
    strict: bool  # refuse clicks that cannot be; otherwise leave them out
    check_derived: bool  # count, total_counts, multi_tag and prev_* must follow from the rest
    hashed: bool  # features are texts


class Block(NamedTuple):
    """The clicks of a block of lines."""

    records: PurchaseRecords  # features are all 0 if they are hashed
    hashes: NDArray[np.uint64]  # (C, 22) fingerprints of hashed features, 0 if missing; or (0, 22)
    dropped: int  # clicks left out because they cannot be


class _Cells(NamedTuple):
    """What the compiled pass fills: C clicks, at most P purchases and T bytes of numbers."""

    click: IntArray  # (C,)
    ids: NDArray[np.int32]  # (C, 22)
    hashes: NDArray[np.uint64]  # (C, 22); (0, 22) if not hashed
    size: IntArray  # (C,) purchases; 0 if the click has a fault
    integers: IntArray  # (3, P) pay_time, count, prev_pay_time
    text: NDArray[np.uint8]  # (2, T) numbers of dirpay_amt and prev_dirpay_amt, without gaps
    bounds: NDArray[np.int32]  # (2, P + 1) where each of them starts and the last ends
    fault: NDArray[np.int8]  # (C,) first fault of each click
    column: NDArray[np.int8]  # (C,) where it is


def parse_header(path: Path, line: bytes) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Names and roles (30,) of the columns.

    Args:
        path: Named in messages only.
        line: Without its newline.

    Raises:
        ValueError: A column is missing or doubled, there are not 22 features besides, or one
            named after its index stands in another place; names the file and the column.
    """
    text = line.decode("utf-8", "backslashreplace").removesuffix("\r")
    names = tuple(text.split("\t")) if text else ()
    for name in OTHER_NAMES:
        if names.count(name) != 1:
            raise ValueError(f"{path}:1: {names.count(name)} columns {name!r}, must be one")
    features = [name for name in names if name not in OTHER_NAMES]
    if len(features) != NUM_FEATURES:
        others = ", ".join(OTHER_NAMES)
        raise ValueError(
            f"{path}:1: {len(features)} feature columns, must be {NUM_FEATURES} besides {others}"
        )
    for j, name in enumerate(features):
        if name != COLUMN_NAMES[j] and name in COLUMN_NAMES:
            raise ValueError(f"{path}:1: column {name!r} stands at the place of feature_{j}")
    places = iter(range(NUM_FEATURES))
    roles = {name: NUM_FEATURES + i for i, name in enumerate(OTHER_NAMES)}
    return names, tuple(roles[name] if name in roles else next(places) for name in names)


def parse_block(path: Path, first_line: int, block: bytes, layout: Layout) -> Block:
    """Parses whole lines.

    Args:
        path: Named in messages only.
        first_line: 1-based number of the block's first line, for messages.
        block: Text whose every line ends with a newline.
        layout: Of the file.

    Raises:
        ValueError: Names file, line, column and the allowed range.
    """
    cells = _allocate(block, layout.hashed)
    text = np.frombuffer(block, dtype=np.uint8)
    sizes = np.array(layout.cardinalities, dtype=np.int64)
    roles = np.array(layout.roles, dtype=np.int64)
    rows, column, fault = _parse(text, roles, sizes, layout.hashed, layout.check_derived, cells)
    num_purchases = int(cells.size.sum())
    amount = _numbers(cells, 0, num_purchases)
    previous = _numbers(cells, 1, num_purchases if layout.check_derived else 0)
    _check_amounts(amount, previous, layout.check_derived, cells)
    faulty = np.flatnonzero(cells.fault)
    if faulty.size and layout.strict:
        row = int(faulty[0])
        column = layout.roles.index(int(cells.column[row]))
        problem = _describe(block, row, column, int(cells.fault[row]), layout)
        raise ValueError(f"{path}:{first_line + row}: {problem}")
    if fault:
        problem = _describe(block, rows, column, fault, layout)
        raise ValueError(f"{path}:{first_line + rows}: {problem}")
    return _gather(cells, amount, faulty.size)


def _allocate(block: bytes, hashed: bool) -> _Cells:
    count = block.count(b"\n")
    most = count + block.count(b",")  # elements in all columns together
    return _Cells(
        click=np.empty(count, dtype=np.int64),
        ids=np.zeros((count, NUM_FEATURES), dtype=np.int32),
        hashes=np.zeros((count if hashed else 0, NUM_FEATURES), dtype=np.uint64),
        size=np.zeros(count, dtype=np.int64),
        integers=np.empty((3, most), dtype=np.int64),
        text=np.empty((2, len(block)), dtype=np.uint8),
        bounds=np.zeros((2, most + 1), dtype=np.int32),
        fault=np.zeros(count, dtype=np.int8),
        column=np.zeros(count, dtype=np.int8),
    )


def _numbers(cells: _Cells, which: int, count: int) -> FloatArray:
    """The first `count` numbers of a list column, each the float64 nearest to its text."""
    import pyarrow as pa

    bounds, text = cells.bounds[which, : count + 1], cells.text[which]
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(text)]
    texts = pa.Array.from_buffers(pa.string(), count, buffers)
    return np.array(texts.cast(pa.float64()))


def _gather(cells: _Cells, amount: FloatArray, dropped: int) -> Block:
    """The clicks without fault."""
    click, ids, hashes, size = cells.click, cells.ids, cells.hashes, cells.size
    time = cells.integers[0, : amount.size]
    if dropped:
        keep = cells.fault == _FINE
        bought = np.repeat(keep, size)
        click, ids, size = click[keep], ids[keep], size[keep]
        hashes = hashes[keep] if hashes.size else hashes
        time, amount = time[bought], amount[bought]
    else:
        time = time.copy()  # no view of the whole block
    return Block(PurchaseRecords(click, ids, to_offset(size), time, amount), hashes, dropped)


def _describe(block: bytes, row: int, column: int, fault: int, layout: Layout) -> str:
    """What is wrong with a line."""
    line = block.split(b"\n", row + 1)[row].decode("utf-8", "backslashreplace")
    cells = line.removesuffix("\r").split("\t")
    if fault == _BAD_LINE or len(cells) != NUM_COLUMNS:
        return f"{len(cells)} columns, must be {NUM_COLUMNS}, separated by tabs"
    cell, role = cells[column], layout.roles[column]
    shown = cell if len(cell) <= _SHOWN else f"{cell[:_SHOWN]}..."
    where = f"column {column} ({layout.names[column]}) is {shown!r}"
    if fault == _DERIVED:
        return f"{where}, {_DERIVED_RULES[role]}"
    if fault in _RULES:
        return f"{where}, {_RULES[fault].format(cells[layout.roles.index(CLICK)])}"
    if role < NUM_FEATURES:
        return f"{where}, must be an integer in [0, {layout.cardinalities[role] - 1}] or empty"
    if role == CLICK:
        return f"{where}, must be an integer in [0, {MAX_SECONDS}]"
    if role in (TOTAL, MULTI):
        return f"{where}, must be an integer"
    kind = "numbers such as [5.0, 2.5]" if role in (AMOUNT, PREV_AMOUNT) else "integers, as [5, 8]"
    return f"{where}, must be a list of {kind}"


@njit(cache=True, nogil=True)
def _parse(block, roles, cardinalities, hashed, check_derived, cells):
    """Fills `cells`; returns the number of rows that could be read, and column and fault if less.

    Lines that cannot be read end the pass; clicks that cannot be have their fault noted and no
    purchases.
    """
    lengths = np.zeros(NUM_COLUMNS, dtype=np.int64)
    scalars = np.zeros(NUM_COLUMNS, dtype=np.int64)
    at = filled = np.int64(0)
    for row in range(cells.click.size):
        fault, where = _FINE, 0
        for column in range(roles.size):
            stop = at
            while block[stop] != _TAB and block[stop] != _NEWLINE:
                stop += 1
            last = column == roles.size - 1
            if (block[stop] == _NEWLINE) != last:
                return row, column, _BAD_LINE
            end = stop - 1 if last and stop > at and block[stop - 1] == _RETURN else stop
            role = roles[column]
            if role < NUM_FEATURES and hashed:
                cells.hashes[row, role] = _fingerprint(block, at, end)
            elif role < NUM_FEATURES:
                value = _id(block, at, end)
                if value == NO_INTEGER:
                    return row, column, _BAD_CELL
                if 0 <= value < cardinalities[role]:
                    cells.ids[row, role] = value
                elif fault == _FINE:
                    fault, where = _RANGE, role
            elif (role <= AMOUNT or check_derived) and not _read_other(
                block, at, end, role, filled, scalars, lengths, cells
            ):
                return row, column, _BAD_CELL
            at = stop + 1
        if fault == _FINE:
            fault, where = _click_fault(scalars[CLICK], lengths, filled, cells)
        if fault == _FINE and check_derived:
            fault, where = _derived_fault(scalars, lengths, filled, cells)
        cells.click[row], cells.fault[row], cells.column[row] = scalars[CLICK], fault, where
        if fault == _FINE:
            cells.size[row] = lengths[PAY]
            filled += lengths[PAY]
    return cells.click.size, 0, _FINE


@njit
def _read_other(block, at, end, role, filled, scalars, lengths, cells):
    """Reads a cell that is no feature; whether it can be read."""
    if role in (CLICK, TOTAL, MULTI):
        scalars[role] = integer(block, at, end)
        return scalars[role] != NO_INTEGER
    if role in (AMOUNT, PREV_AMOUNT):
        which = 0 if role == AMOUNT else 1
        text, bounds = cells.text[which], cells.bounds[which]
        lengths[role] = read_numbers(block, at, end, text, bounds, filled)
    else:
        which = 0 if role == PAY else 1 if role == COUNT else 2
        lengths[role] = read_integers(block, at, end, cells.integers[which], filled)
    return lengths[role] >= 0


@njit
def _click_fault(click, lengths, filled, cells):
    """First fault of the click and its purchases, amounts aside, and the role where it is."""
    if not 0 <= click <= MAX_SECONDS:
        return _RANGE, CLICK
    count = lengths[PAY]
    if count == 0:
        return _EMPTY, PAY
    if lengths[AMOUNT] != count:
        return _LENGTH, AMOUNT
    before = click
    for i in range(filled, filled + count):
        second = cells.integers[0, i]
        if second < before or second - click >= WINDOW_SECONDS:
            return _TIMES, PAY
        before = second
    return _FINE, 0


@njit
def _derived_fault(scalars, lengths, filled, cells):
    """First fault of the columns that follow from others, and the role where it is."""
    size = lengths[PAY]
    for role in (COUNT, PREV_AMOUNT, PREV_PAY):
        if lengths[role] != size:
            return _LENGTH, role
    if scalars[TOTAL] != size:
        return _DERIVED, TOTAL
    if scalars[MULTI] != (1 if size > 1 else 0):
        return _DERIVED, MULTI
    before = scalars[CLICK]
    for i in range(size):
        if cells.integers[1, filled + i] != i + 1:
            return _DERIVED, COUNT
        if cells.integers[2, filled + i] != before:
            return _DERIVED, PREV_PAY
        before = cells.integers[0, filled + i]
    return _FINE, 0


@njit(cache=True, nogil=True)
def _check_amounts(amount, previous, check_derived, cells):
    """Notes the faults of amounts (P,) in `cells.fault` and `cells.column`."""
    begin = 0
    for row in range(cells.size.size):
        fault, where, total = _FINE, AMOUNT, 0.0
        for i in range(begin, begin + cells.size[row]):
            total += amount[i]
            if not 0 <= amount[i] < np.inf:
                fault = _AMOUNTS
        if fault == _FINE and begin < begin + cells.size[row]:
            if not 0 < total < np.inf:
                fault = _SUM
            elif check_derived and previous[begin] != 0:
                fault, where = _DERIVED, PREV_AMOUNT
        for i in range(begin + 1, begin + cells.size[row]):
            if fault == _FINE and check_derived and previous[i] != amount[i - 1]:
                fault, where = _DERIVED, PREV_AMOUNT
        if fault != _FINE:
            cells.fault[row], cells.column[row] = fault, where
        begin += cells.size[row]


@njit
def _fingerprint(block, at, end):
    """Hash of a text, never 0; 0 if it is empty."""
    if at == end:
        return np.uint64(0)
    return max(hash_bytes(block, at, end - at), np.uint64(1))


@njit
def _id(block, at, end):
    """Id of a feature cell such as `12` or `12.0`, 0 if it is empty, NO_INTEGER if it is none."""
    if at == end:
        return 0
    stop = at
    while stop < end and block[stop] != _DOT:
        stop += 1
    for i in range(stop + 1, end):
        if block[i] != _NOUGHT:
            return NO_INTEGER
    return integer(block, at, stop)
