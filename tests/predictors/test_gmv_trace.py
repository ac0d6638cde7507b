"""A file in the TRACE format as a stream: written, read, put in order and played back."""

import numpy as np
import pytest
from trace_logs import SMALL, line, make_records, store

from adsim.datasets import trace
from adsim.datasets.trace import PurchaseRecords
from adsim.purchaselog import from_trace
from adsim.types import EventKind
from predictors.purchase_rows import OpenPurchases, RowKind
from predictors.purchase_stream import READER_SPLIT, PurchaseStream

WEEK = 604_800


def assert_same_parts(found, expected):
    """Equal named tuples of arrays, of types and values."""
    for name, column, other in zip(expected._fields, found, expected, strict=True):
        assert np.asarray(column).dtype == np.asarray(other).dtype, name
        np.testing.assert_array_equal(column, other, err_msg=name)


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
def test_a_log_that_is_written_and_read_gives_the_same_stream(name, tmp_path):
    log = from_trace(make_records(3_000), SMALL)  # shuffled clicks, in order now
    columns = (log.click_time, log.features, log.offset, log.purchase_time, log.amount)
    trace.write(tmp_path / name, PurchaseRecords(*columns), SMALL)
    read = from_trace(trace.read(tmp_path / name), trace.find_cardinalities(tmp_path / name))
    assert_same_parts(read, log)
    plays, again = PurchaseStream(log), PurchaseStream(read)
    assert_same_parts(again.history(), plays.history())
    events = 0
    for k in range(READER_SPLIT.num_segments):
        assert again.test_clicks(k) == plays.test_clicks(k)
        for privileged in (False, True):
            window, expected = (p.window(k, privileged=privileged) for p in (again, plays))
            assert window.now_hours == expected.now_hours
            assert_same_parts(window.clicks, expected.clicks)
            assert_same_parts(window.events, expected.events)
        events += expected.events.kind.size
    assert events > 2_000


def test_a_line_of_a_file_gives_the_rows_of_its_timeline(tmp_path):
    # Click at day 60.25, 80, 50 and 30 after 10 minutes, 1.5 days and 6 days; one click before.
    early = line(
        **{"click_time": "0", "pay_time": "[5]", "dirpay_amt": "[7.0]", "count": "[1]"},
        **{"total_counts": "1", "multi_tag": "0", "prev_dirpay_amt": "[0.0]"},
        prev_pay_time="[0]",
    )
    records = trace.read(store(tmp_path, line(), early))
    plays = PurchaseStream(from_trace(records, (2,) * 22))
    kept, found = OpenPurchases(WEEK, 22), []
    for k in range(READER_SPLIT.num_segments):
        window = plays.window(k)
        assert not (window.events.kind == EventKind.REFUND).any()  # the format has none
        kept.update(window)
        rows, _ = kept.due()
        kept.close()
        columns = (rows.kind, rows.count, rows.gmv)
        found += [(k, *row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    assert found == [
        (26, RowKind.PURCHASE, 1, 80.0),
        (38, RowKind.PURCHASE, 2, 130.0),
        (74, RowKind.PURCHASE, 3, 160.0),
        (82, RowKind.WINDOW_END, 3, 160.0),
    ]
