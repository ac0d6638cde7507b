import ast
import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_logs import FEATURES, NAMES, ORDER, SMALL, assert_same, file_names, make_records, once

from adsim.datasets import trace, trace_chunks
from adsim.datasets.trace import (
    CARDINALITIES,
    PurchaseRecords,
    find_cardinalities,
    read,
    read_chunks,
    write,
)
from adsim.datasets.trace_chunks import join, to_offset

# Round trips


@st.composite
def written_logs(draw):
    cardinalities = tuple(draw(st.lists(st.integers(1, 2**31), min_size=22, max_size=22)))
    clicks = draw(st.lists(st.integers(0, 2**40), max_size=4))
    sizes = [draw(st.integers(1, 4)) for _ in clicks]
    since = [sorted(draw(st.integers(0, 604_799)) for _ in range(size)) for size in sizes]
    time = [click + x for click, gaps in zip(clicks, since, strict=True) for x in gaps]
    amounts = st.floats(5e-324, 4e307)  # the first purchases make the sums positive
    amount = [
        draw(amounts if gap == 0 else amounts | st.just(0.0)) for n in sizes for gap in range(n)
    ]
    ids = [[draw(st.integers(0, size - 1)) for size in cardinalities] for _ in clicks]
    records = PurchaseRecords(
        np.array(clicks, np.int64),
        np.array(ids, np.int32).reshape(-1, 22),
        to_offset(np.array(sizes, np.int64)),
        np.array(time, np.int64),
        np.array(amount, np.float64),
    )
    return records, cardinalities


@settings(max_examples=40, deadline=None)
@given(log=written_logs(), name=st.sampled_from(["trace.txt", "trace.txt.gz"]))
def test_round_trip_is_exact(log, name):
    records, cardinalities = log
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path, records, cardinalities)
        assert find_cardinalities(path) == cardinalities
        back = read(path)
        assert_same(back, records)
        content = path.read_bytes()
        write(path, back, cardinalities)
        assert path.read_bytes() == content
        assert file_names(path.parent) == [name, f"{name}.json"]
        text = (gzip.decompress(content) if name.endswith("gz") else content).decode()
        assert_same(by_python(text), records)


def by_python(text):
    """Records of a log by plain means, with the published way to read its lists."""
    rows = [dict(zip(NAMES, row.split("\t"), strict=True)) for row in text.split("\n")[1:-1]]
    lists = [{name: ast.literal_eval(row[name]) for name in ORDER} for row in rows]
    for row in lists:
        assert row["count"] == list(range(1, row["total_counts"] + 1))
        assert row["multi_tag"] == (row["total_counts"] > 1)
        assert row["prev_dirpay_amt"] == [0.0, *row["dirpay_amt"][:-1]]
        assert row["prev_pay_time"] == [row["click_time"], *row["pay_time"][:-1]]
    return PurchaseRecords(
        np.array([row["click_time"] for row in lists], np.int64),
        np.array([[row[name] for name in FEATURES] for row in rows], np.int32).reshape(-1, 22),
        to_offset(np.array([len(row["pay_time"]) for row in lists], np.int64)),
        np.array([t for row in lists for t in row["pay_time"]], np.int64),
        np.array([p for row in lists for p in row["dirpay_amt"]], np.float64),
    )


@pytest.mark.parametrize("size", [1, 7, 50, 99, 100, 101])
def test_chunks_joined_are_the_whole(tmp_path, monkeypatch, size):
    monkeypatch.setattr(trace, "BLOCK_BYTES", 900)
    monkeypatch.setattr(trace, "CHUNK_CLICKS", 30)
    records = make_records(100)
    write(tmp_path / "trace.txt", records, SMALL)
    chunks = list(read_chunks(tmp_path / "trace.txt", chunk_clicks=size))
    counts = [chunk.click_time.size for chunk in chunks]
    assert counts == [size] * (100 // size) + [100 % size] * (100 % size > 0)
    assert all(chunk.offset[0] == 0 and chunk.offset[-1] == chunk.amount.size for chunk in chunks)
    assert_same(join(chunks), records)


def test_a_large_log_round_trips(tmp_path):
    records = make_records(20_000, 1, CARDINALITIES)
    write(tmp_path / "trace.txt", records)
    assert_same(read(tmp_path / "trace.txt", cache_dir=tmp_path), records)
    assert_same(read(tmp_path / "trace.txt", cache_dir=tmp_path), records)


def changed(records, **changes):
    """Records whose click 1 or last purchase has other values."""
    fields = {name: column.copy() for name, column in records._asdict().items()}
    for name, value in changes.items():
        fields[name][1 if fields[name].shape[0] == 2 else -1] = value
    return PurchaseRecords(**fields)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"click_time": -1}, r"records: click 1: click_time must be in \[0, \d+\], got -1"),
        ({"features": 2}, r"records: click 1: feature_0 must be in \[0, 1\], got 2"),
        ({"purchase_time": 3}, r"click 1: purchase_time must be from the click .* got 3"),
        ({"purchase_time": 604_809}, r"click 1: purchase_time must be .*604799 s .* got 604809"),
        ({"purchase_time": 10}, r"click 1: purchase_time must ascend within a click, got 10"),
        ({"amount": -0.5}, r"click 1: amount must be finite and >= 0, got -0\.5"),
        ({"amount": np.nan}, r"click 1: amount must be finite and >= 0, got nan"),
        ({"amount": np.inf}, r"click 1: amount must be finite and >= 0, got inf"),
        ({"amount": 0.0}, r"click 1: amount must have a finite sum > 0 in each click, got 0\.0"),
        ({"offset": 4}, r"offset must ascend from 0 to the number of purchases"),
    ],
)
def test_write_refuses_what_could_not_be_read_back(tmp_path, changes, problem):
    features = np.zeros((2, 22), np.int32)
    times = np.array([8, 11, 12])
    records = PurchaseRecords(
        np.array([5, 9]), features, np.array([0, 1, 3]), times, np.array([7.5, 0.0, 3.0])
    )
    write(tmp_path / "fine.txt", records, SMALL)
    with pytest.raises(ValueError, match=problem):
        write(tmp_path / "bad.txt", changed(records, **changes), SMALL)
    assert file_names(tmp_path) == ["fine.txt", "fine.txt.json"]


def test_write_refuses_other_shapes_and_types(tmp_path):
    records, path = make_records(3), tmp_path / "trace.txt"
    with pytest.raises(ValueError, match=r"records: shapes must be \(C,\), \(C, 22\), \(C \+ 1,\)"):
        write(path, records._replace(offset=records.offset[:-1]), SMALL)
    with pytest.raises(ValueError, match=r"records: must be integers, amount float64, got float64"):
        write(path, records._replace(click_time=records.click_time * 1.0), SMALL)
    with pytest.raises(ValueError, match=r"offset must ascend from 0"):
        write(path, records._replace(offset=records.offset[::-1]), SMALL)


# Beside the log


def test_cardinalities_and_count_beside_the_log(tmp_path):
    path = tmp_path / "trace.txt"
    write(path, make_records(30), SMALL)
    with pytest.raises(
        ValueError, match=r"trace\.txt:2: column \d+ \(feature_\d+\) is '\d+', must be"
    ):
        read(path, cardinalities=(1,) * 22)
    with path.open("a") as file:
        file.write(once(5, 4) + "\n")
    with pytest.raises(ValueError, match=r"31 clicks, must be 30 as trace\.txt\.json says"):
        read(path, strict=False)
    os.remove(tmp_path / "trace.txt.json")
    assert find_cardinalities(path) == CARDINALITIES


def test_cache_is_read_until_something_changes(tmp_path, monkeypatch):
    path, cache_dir = tmp_path / "trace.txt", tmp_path / "new" / "cache"
    monkeypatch.setattr(trace_chunks, "_ROW_GROUP", 30)
    parsed = []
    original = trace.parse_block
    monkeypatch.setattr(trace, "parse_block", lambda *x: parsed.append(x) or original(*x))

    def reads_source(records, **options):
        parsed.clear()
        chunks = list(read_chunks(path, cache_dir=cache_dir, chunk_clicks=40, **options))
        assert [chunk.click_time.size for chunk in chunks[:-1]] == [40] * (len(chunks) - 1)
        assert_same(join(chunks), records)
        return bool(parsed)

    for count in (100, 101, 0):
        records = make_records(count)
        write(path, records, SMALL)
        assert reads_source(records)
        assert not reads_source(records)
    assert reads_source(records, strict=False)
    assert reads_source(records, check_derived=False)
    assert reads_source(records, cardinalities=(99,) * 22)
    os.utime(path, ns=(1, 1))
    assert reads_source(records)
    (copy,) = cache_dir.iterdir()
    copy.write_bytes(copy.read_bytes()[:-9])
    assert reads_source(records)
    assert not reads_source(records)
