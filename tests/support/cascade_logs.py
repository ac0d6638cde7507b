"""Click logs as text and as records, for the tests of their reader and writer."""

import numpy as np

from adsim.datasets.cascade import DAY_0, ClickRecords

SMALL = tuple(range(1, 23))  # other cardinalities than the published ones


def line(click="5", conversion="-1", refund="-1", **features):
    """A processed line; `f3="7"` sets a feature."""
    return "\t".join((click, conversion, refund, *cells("0", features)))


def raw_line(click=DAY_0 + 5, conversion="", refund="", **features):
    return "\t".join((str(click), conversion, refund, *cells("a", features)))


def cells(default, features):
    row = [default] * 22
    for name, cell in features.items():
        row[int(name[1:])] = cell
    return row


def store(folder, *lines, name="log.txt"):
    path = folder / name
    path.write_bytes("".join(f"{text}\n" for text in lines).encode())
    return path


def make_records(count, seed=0, cardinalities=SMALL):
    rng = np.random.default_rng(seed)
    click = rng.integers(0, 1000, count)
    conversion = np.where(rng.random(count) < 0.5, click + rng.integers(1, 9, count), -1)
    returned = (rng.random(count) < 0.5) & (conversion > 0)
    refund = np.where(returned, conversion + rng.integers(0, 9, count), -1)
    features = rng.integers(0, cardinalities, (count, 22)).astype(np.int32)
    return ClickRecords(click, conversion, refund, features)


def assert_same(read_back, records):
    for back, column in zip(read_back, records, strict=True):
        assert (back.dtype, back.shape) == (column.dtype, column.shape)
        np.testing.assert_array_equal(back, column)


def names(folder):
    return sorted(path.name for path in folder.iterdir())
