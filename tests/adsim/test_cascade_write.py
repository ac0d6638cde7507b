import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from cascade_logs import SMALL, assert_same, line, make_records, names, raw_line, store
from hypothesis import given, settings
from hypothesis import strategies as st

from adsim.checks import find_difference
from adsim.clicklog import from_records, generate
from adsim.config import WorldConfig
from adsim.datasets import cascade, cascade_chunks
from adsim.datasets.cascade import CARDINALITIES, ClickRecords, read, read_chunks, write

# Chunks


@pytest.mark.parametrize("size", [1, 7, 50, 99, 100, 101])
def test_chunks_joined_are_the_whole(tmp_path, monkeypatch, size):
    monkeypatch.setattr(cascade, "_BLOCK_BYTES", 300)
    records = make_records(100)
    write(tmp_path / "log.txt", records, SMALL)
    chunks = list(read_chunks(tmp_path / "log.txt", chunk_clicks=size))
    counts = [chunk.click_time.size for chunk in chunks]
    assert counts == [size] * (100 // size) + [100 % size] * (100 % size > 0)
    assert_same(cascade_chunks.join(chunks), records)


def test_chunks_can_be_left_early(tmp_path):
    write(tmp_path / "log.txt", make_records(100), SMALL)
    for cache_dir in (None, tmp_path / "cache"):
        chunk = next(read_chunks(tmp_path / "log.txt", chunk_clicks=10, cache_dir=cache_dir))
        assert_same(chunk, ClickRecords._make(column[:10] for column in make_records(100)))


# Writer


@st.composite
def written_logs(draw):
    cardinalities = tuple(draw(st.lists(st.integers(1, 2**31), min_size=22, max_size=22)))
    seconds = st.integers(0, 2**40)
    rows = []
    for _ in range(draw(st.integers(0, 5))):
        click = draw(seconds)
        conversion = draw(st.just(-1) | st.integers(max(click, 1), 2**41))
        refund = draw(st.just(-1) | st.integers(conversion, 2**42)) if conversion > 0 else -1
        rows.append(
            (click, conversion, refund, *(draw(st.integers(0, c - 1)) for c in cardinalities))
        )
    table = np.array(rows, dtype=np.int64).reshape(-1, 25)
    times = (table[:, i].copy() for i in range(3))
    return ClickRecords(*times, table[:, 3:].astype(np.int32)), cardinalities


@settings(max_examples=40, deadline=None)
@given(log=written_logs(), name=st.sampled_from(["log.txt", "log.txt.gz"]))
def test_round_trip_is_exact(log, name):
    records, cardinalities = log
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path, records, cardinalities)
        assert cascade.find_cardinalities(path) == cardinalities
        back = read(path, layout="processed")
        assert_same(back, records)
        content = path.read_bytes()
        write(path, back, cardinalities)
        assert path.read_bytes() == content
        assert names(path.parent) == [name, f"{name}.json"]


def test_write_format(tmp_path):
    write(tmp_path / "log.txt", make_records(1)._replace(features=np.arange(22)[None] * 0), SMALL)
    click, conversion, refund, *ids = (tmp_path / "log.txt").read_text().rstrip("\n").split("\t")
    assert [int(cell) for cell in (click, conversion, refund)] == [
        int(column[0]) for column in make_records(1)[:3]
    ]
    assert ids == ["0"] * 22
    content = json.loads((tmp_path / "log.txt.json").read_text())
    assert content == {"cardinalities": list(SMALL), "num_clicks": 1}


def test_write_in_several_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(cascade, "CHUNK_CLICKS", 30)
    for name in ("log.txt", "log.txt.gz"):
        write(tmp_path / name, make_records(100), SMALL)
        assert_same(read(tmp_path / name), make_records(100))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"click_time": -1}, r"click 1: click_time must be in \[0, \d+\], got -1"),
        ({"conversion_time": 0}, r"click 1: conversion_time must be -1, or > 0 .*, got 0"),
        ({"conversion_time": 3}, r"click 1: conversion_time .* not before the click, got 3"),
        ({"conversion_time": -1}, r"click 1: refund_time must be -1, or .*, got 20"),
        ({"refund_time": 9}, r"click 1: refund_time .* not before a conversion, got 9"),
        ({"features": 1}, r"click 1: feature_0 must be in \[0, 0\], got 1"),
    ],
)
def test_write_refuses_what_could_not_be_read_back(tmp_path, change, problem):
    features = np.zeros((2, 22), dtype=np.int32)
    times = (np.array([5, 5]), np.array([10, 10]), np.array([20, 20]))
    records = ClickRecords(*times, features)._asdict()
    for name, value in change.items():
        records[name][1] = value
    with pytest.raises(ValueError, match=problem):
        write(tmp_path / "log.txt", ClickRecords(**records), SMALL)
    assert names(tmp_path) == []


def test_write_refuses_other_shapes_and_types(tmp_path):
    records = make_records(3)
    with pytest.raises(ValueError, match=r"records: shapes must be \(C,\) three times"):
        write(tmp_path / "log.txt", records._replace(click_time=np.zeros(2, dtype=int)), SMALL)
    with pytest.raises(ValueError, match=r"records: must be integers, got float64, int64"):
        write(tmp_path / "log.txt", records._replace(click_time=np.zeros(3)), SMALL)


# JSON file beside the log


def test_cardinalities_argument_wins_over_the_file_beside_the_log(tmp_path):
    path = tmp_path / "log.txt"
    write(path, make_records(3), SMALL)
    with pytest.raises(ValueError, match=r"log\.txt:1: column 4"):
        read(path, cardinalities=(1,) * 22)
    os.remove(tmp_path / "log.txt.json")
    assert cascade.find_cardinalities(path) == CARDINALITIES


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", r"log\.txt\.json: not JSON"),
        ("[]", r"log\.txt\.json: must be an object with the keys cardinalities, num_clicks"),
        ('{"num_clicks": 3}', r"log\.txt\.json: must be an object with the keys"),
        ('{"cardinalities": [2], "num_clicks": 3}', r"json: cardinalities: must be 22 integers"),
        (
            json.dumps({"cardinalities": SMALL, "num_clicks": -1}),
            r"json: num_clicks: -1 is out of range, must be >= 0",
        ),
        (
            json.dumps({"cardinalities": SMALL, "num_clicks": 4}),
            r"log\.txt: 3 clicks, must be 4 as log\.txt\.json says",
        ),
    ],
)
def test_malformed_file_beside_the_log(tmp_path, content, problem):
    write(tmp_path / "log.txt", make_records(3), SMALL)
    (tmp_path / "log.txt.json").write_text(content)
    with pytest.raises(ValueError, match=problem):
        read(tmp_path / "log.txt")


# Parquet copy


def test_cache_is_read_until_something_changes(tmp_path, monkeypatch):
    path, cache_dir = tmp_path / "log.txt", tmp_path / "new" / "cache"
    write(path, make_records(100), SMALL)
    blocks_read = count_parsing(monkeypatch)

    def reads_source(**options):
        before = len(blocks_read)
        options = {"cache_dir": cache_dir, "layout": "processed"} | options
        assert_same(read(path, **options), read(path))
        return len(blocks_read) - before == 2  # one of them without the cache

    assert reads_source()
    assert not reads_source()
    assert reads_source(strict=False)
    assert not reads_source(strict=False)
    assert reads_source(cardinalities=(99,) * 22)
    assert reads_source()
    os.utime(path, ns=(1, 1))
    assert reads_source()
    write(path, make_records(101), SMALL)
    assert reads_source()
    assert not reads_source()
    (copy,) = cache_dir.iterdir()
    copy.write_bytes(copy.read_bytes()[:-9])
    assert reads_source()
    assert not reads_source()


def count_parsing(monkeypatch):
    """A list that grows by one with each parsed block."""
    parsed = []
    original = cascade.parse_block

    def parse_block(*args, **options):
        parsed.append(args[:2])
        return original(*args, **options)

    monkeypatch.setattr(cascade, "parse_block", parse_block)
    return parsed


def test_cache_of_a_folder_follows_its_files(tmp_path):
    logs, cache_dir = tmp_path / "logs", tmp_path / "cache"
    logs.mkdir()
    store(logs, raw_line(1003), name="a.txt")
    for _ in range(2):
        records = read(logs, start=1000, cache_dir=cache_dir)
        assert records.click_time.tolist() == [3]
    assert read(logs, start=1001, cache_dir=cache_dir).click_time.tolist() == [2]
    store(logs, raw_line(1009), name="b.txt")
    assert read(logs, start=1001, cache_dir=cache_dir).click_time.tolist() == [2, 8]


def test_cache_keeps_logs_of_one_name_apart(tmp_path):
    for folder, count in (("one", 3), ("two", 4), ("one", 3), ("empty", 0)):
        (tmp_path / folder).mkdir(exist_ok=True)
        write(tmp_path / folder / "log.txt", make_records(count), SMALL)
        records = read(tmp_path / folder / "log.txt", cache_dir=tmp_path / "cache")
        assert_same(records, make_records(count))
    assert len(names(tmp_path / "cache")) == 3


def test_cache_interrupted_leaves_nothing(tmp_path):
    path, cache_dir = tmp_path / "log.txt", tmp_path / "cache"
    store(tmp_path, *[line() for _ in range(100)], line("x"))
    with pytest.raises(ValueError, match=r"log\.txt:101"):
        read(path, cache_dir=cache_dir)
    assert names(cache_dir) == []


def test_cache_chunks_have_the_asked_size(tmp_path, monkeypatch):
    monkeypatch.setattr(cascade_chunks, "_ROW_GROUP", 30)
    path = tmp_path / "log.txt"
    write(path, make_records(100), SMALL)
    chunks = list(read_chunks(path, chunk_clicks=40, cache_dir=tmp_path / "cache"))
    assert [chunk.click_time.size for chunk in chunks] == [40, 40, 20]
    assert_same(cascade_chunks.join(chunks), make_records(100))


# As a click log


def test_from_records_sorts_stably_by_click_time():
    records = make_records(4)._replace(
        click_time=np.array([7, 3, 7, 1]), conversion_time=np.array([8, 4, 9, -1])
    )
    log = from_records(records, SMALL)
    assert log.click_time.tolist() == [1, 3, 7, 7]
    assert log.conversion_time.tolist() == [-1, 4, 8, 9]
    np.testing.assert_array_equal(log.features, records.features[[3, 1, 0, 2]])
    assert log.cardinalities == SMALL
    assert np.isnan(log.p_convert).all()
    assert np.isnan(log.p_refund).all()
    assert log.p_convert.shape == log.p_refund.shape == (4,)
    with pytest.raises(ValueError, match=r"cardinalities: must be 22 sizes, got 2"):
        from_records(records, (5, 5))


def test_generated_log_survives_file_and_back(tmp_path):
    config = WorldConfig(time={"num_ticks": 4}, traffic={"impressions_per_tick": 500.0})
    log, path = generate(config, 3), tmp_path / "log.txt"
    write(path, ClickRecords._make(log[:4]), log.cardinalities)
    back = from_records(read(path), cascade.find_cardinalities(path))
    assert find_difference(back[:5], log[:5]) is None
