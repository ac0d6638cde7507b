"""Purchase logs as text and as records, for the tests of their reader and writer."""

import numpy as np

from adsim.datasets.trace import PurchaseRecords
from adsim.datasets.trace_chunks import to_offset

SMALL = tuple(range(2, 24))  # other cardinalities than the published ones
FEATURES = [f"feature_{j}" for j in range(22)]
ORDER = [
    *("click_time", "pay_time", "dirpay_amt", "count", "total_counts", "multi_tag"),
    *("prev_dirpay_amt", "prev_pay_time"),
]
NAMES = [*FEATURES, *ORDER]
DAY = 86_400
# Click at day 60.25, three purchases after 10 minutes, 1.5 days and 6 days.
WORKED = {
    "click_time": "5205600",
    "pay_time": "[5206200, 5335200, 5724000]",
    "dirpay_amt": "[80.0, 50.0, 30.0]",
    "count": "[1, 2, 3]",
    "total_counts": "3",
    "multi_tag": "1",
    "prev_dirpay_amt": "[0.0, 80.0, 50.0]",
    "prev_pay_time": "[5205600, 5206200, 5335200]",
}


def line(names=NAMES, **cells):
    """A line; the click of `WORKED` but for the given cells, with `f3="7"` for a feature."""
    cells = {f"feature_{name[1:]}" if name[0] == "f" else name: x for name, x in cells.items()}
    values = dict.fromkeys(FEATURES, "1") | WORKED | cells
    return "\t".join(values[name] for name in names)


def once(click=5, pay=7, amount="9.5", **cells):
    """A line of a click with one purchase."""
    values = {"click_time": str(click), "pay_time": f"[{pay}]", "dirpay_amt": f"[{amount}]"}
    derived = {"count": "[1]", "total_counts": "1", "multi_tag": "0", "prev_dirpay_amt": "[0.0]"}
    return line(**values | derived | {"prev_pay_time": f"[{click}]"} | cells)


def store(folder, *lines, names=NAMES, name="trace.txt"):
    path = folder / name
    path.write_bytes("".join(f"{text}\n" for text in ("\t".join(names), *lines)).encode())
    return path


def make_records(count, seed=0, cardinalities=SMALL):
    rng = np.random.default_rng(seed)
    click = rng.integers(0, 82 * DAY, count)
    size = 1 + rng.poisson(1, count)
    row = np.repeat(np.arange(count), size)
    since = rng.integers(0, 7 * DAY, row.size)
    time = click[row] + since[np.lexsort((since, row))]
    features = rng.integers(0, cardinalities, (count, 22)).astype(np.int32)
    amount = rng.lognormal(4.7, 1.2, row.size)
    return PurchaseRecords(click, features, to_offset(size), time, amount)


def assert_same(read_back, records):
    for back, column in zip(read_back, records, strict=True):
        assert (back.dtype, back.shape) == (column.dtype, column.shape)
        np.testing.assert_array_equal(back, column)


def file_names(folder):
    return sorted(path.name for path in folder.iterdir())
