import gzip
import logging

import numpy as np
import pytest
from cascade_logs import SMALL, assert_same, line, make_records, raw_line, store

from adsim.datasets import cascade
from adsim.datasets.cascade import CARDINALITIES, DAY_0, read, read_chunks, write
from adsim.datasets.farmhash import fingerprint64


def bucket(text, feature):
    return fingerprint64(text) % CARDINALITIES[feature]


def test_published_cardinalities():
    assert len(CARDINALITIES) == 22
    assert sum(CARDINALITIES) == 2_550_144


def test_read_processed_values(tmp_path):
    path = store(tmp_path, line("9", "20", "30", f0="7", f21="15"), line("0", "", ""), line("9"))
    records = read(path)
    assert [column.dtype for column in records] == [np.int64] * 3 + [np.int32]
    assert records.click_time.tolist() == [9, 0, 9]  # in the order of the file
    assert records.conversion_time.tolist() == [20, -1, -1]
    assert records.refund_time.tolist() == [30, -1, -1]
    assert records.features.shape == (3, 22)
    assert records.features[0].tolist() == [7, *[0] * 20, 15]


def test_read_event_at_second_0_or_less_is_missing(tmp_path):
    path = store(tmp_path, line("0", "0", "0"), line("0", "-7", ""), line("1", "1", "1"))
    records = read(path)
    assert records.conversion_time.tolist() == [-1, -1, 1]  # the click's own second is fine
    assert records.refund_time.tolist() == [-1, -1, 1]


def test_read_windows_line_ends_and_no_last_newline(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(f"{line('1', f21='3')}\r\n{line('2', f21='4')}\r\n{line('3')}".encode())
    assert read(path).click_time.tolist() == [1, 2, 3]
    assert read(path).features[:, 21].tolist() == [3, 4, 0]


@pytest.mark.parametrize("layout", ["auto", "processed", "raw"])
def test_read_empty_file_has_no_clicks(tmp_path, layout):
    for name in ("log.txt", "log.txt.gz"):
        path = store(tmp_path, name=name)
        records = read(path, layout=layout)
        assert [column.shape for column in records] == [(0,)] * 3 + [(0, 22)]
        assert list(read_chunks(path, layout=layout)) == []


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (line() + "\t0", r"26 columns, must be 25, separated by tabs"),
        (line().removesuffix("\t0"), r"24 columns, must be 25"),
        ("", r"1 columns, must be 25"),
        (line().replace("\t", " "), r"1 columns, must be 25"),
        (line("x") + "\t0", r"26 columns"),
        (line("-1"), r"column 0 \(click_time\) is '-1', must be an integer in \[0, 9007199254740"),
        (line(""), r"column 0 \(click_time\) is '', must be an integer in \[0"),
        (line("9" * 16), r"column 0 \(click_time\) is '9999999999999999', must be an integer in"),
        (line("1.0"), r"column 0 \(click_time\) is '1\.0', must be an integer"),
        (line("0x10"), r"column 0 \(click_time\) is '0x10'"),
        (line("5", "7.5"), r"column 1 \(conversion_time\) is '7\.5', must be an integer <= 90"),
        (line("5", "nan"), r"column 1 \(conversion_time\) is 'nan', .* -1 or empty if missing"),
        (line("5", "7", "-"), r"column 2 \(refund_time\) is '-', must be an integer"),
        (
            line("5", "4"),
            r"column 1 \(conversion_time\) is '4': second 4 is before the click at second 5, "
            r"must be missing or not earlier",
        ),
        (
            line("5", "7", "6"),
            r"column 2 \(refund_time\) is '6': second 6 is before the conversion at second 7",
        ),
        (line("5", "", "6"), r"column 2 \(refund_time\) is '6', must be missing without a conv"),
        (line(f0="8"), r"column 3 \(feature_0\) is '8', must be an integer in \[0, 7\]"),
        (line(f21="-1"), r"column 24 \(feature_21\) is '-1', must be an integer in \[0, 15\]"),
        (line(f4=""), r"column 7 \(feature_4\) is '', must be an integer in \[0, 8191\]"),
        (line(f4="1" * 99), r"column 7 \(feature_4\) is '1{60}\.\.\.', must be"),
        (line(f4="é"), r"column 7 \(feature_4\) is 'é', must be"),
    ],
)
def test_read_malformed_line_names_file_line_and_column(tmp_path, bad, problem):
    path = store(tmp_path, line(), line(), bad, line("x"))
    with pytest.raises(ValueError, match=rf"log\.txt:3: {problem}"):
        read(path, layout="processed")


def test_read_counts_lines_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(cascade, "_BLOCK_BYTES", 100)
    path = store(tmp_path, *[line(str(i), f0="7") for i in range(50)], line(f1="x"))
    with pytest.raises(ValueError, match=r"log\.txt:51: column 4 \(feature_1\) is 'x'"):
        read(path)
    monkeypatch.setattr(cascade, "_MAX_LINE_BYTES", 1000)
    path = store(tmp_path, line(), "0" * 2000)
    with pytest.raises(ValueError, match=r"log\.txt:2: line of more than 1000 bytes"):
        read(path)


def test_read_not_strict_takes_impossible_events_as_missing(tmp_path, caplog):
    path = store(
        tmp_path,
        line("5", "7", "8"),
        line("5", "4", "8"),  # the refund has no conversion left
        line("5", "", "8"),
        line("5", "9", "8"),
    )
    with caplog.at_level(logging.WARNING):
        records = read(path, strict=False)
    assert records.conversion_time.tolist() == [7, -1, -1, 9]
    assert records.refund_time.tolist() == [8, -1, -1, -1]
    (message,) = caplog.messages
    assert message.endswith("log.txt: 4 impossible events count as missing")
    with pytest.raises(ValueError, match=r"log\.txt:1: column 3"):
        read(store(tmp_path, line(f0="8")), strict=False)


def test_read_arguments_out_of_range(tmp_path):
    path = store(tmp_path, line())
    with pytest.raises(ValueError, match=r"chunk_clicks: 0 is out of range, must be >= 1"):
        read_chunks(path, chunk_clicks=0)
    with pytest.raises(ValueError, match=r"layout: 'csv' is unknown"):
        read(path, layout="csv")
    with pytest.raises(ValueError, match=r"start: -1 is out of range, must be in \[0, "):
        read(path, start=-1)
    with pytest.raises(ValueError, match=r"cardinalities: must be 22 integers"):
        read(path, cardinalities=(1, 2))
    with pytest.raises(ValueError, match=r"cardinalities\[3\]: 0 is out of range"):
        read(path, cardinalities=(1, 1, 1, 0, *[1] * 18))
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
        read(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"is a folder, must be a file"):
        read(tmp_path, layout="processed")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no \*\.txt files"):
        read(tmp_path / "empty")


# Raw layout


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("abc", "abc"),
        (" a b ", " a b "),  # as it stands
        ("12", "12"),
        ("é漢", "é漢"),
        ("a" * 100, "a" * 100),
        ("", "nan"),
        ("[abc, def]", "abc"),
        ("[ abc , def]", "abc"),
        ("['abc', 'def']", "abc"),
        ("['a, b', 'c']", "a, b"),
        ('["it\'s"]', "it's"),
        ("['']", "nan"),
        ("[]", "nan"),
        ("[ ]", "nan"),
        ("[, 5]", "nan"),
        ("[12, 13]", "12"),
        ('"abc"', "abc"),  # quoted as CSV writers do
        ('"[""abc"", ""def""]"', "abc"),
        ('"[""""]"', "nan"),
        ("[abc", "[abc"),  # not a list
        ("['abc]", "abc"),
        ("[", "["),
        ('"', '"'),
    ],
)
def test_read_raw_feature_texts(tmp_path, cell, text):
    path = store(tmp_path, raw_line(f0="first", f1=cell, f21=cell))
    features = read(path, layout="raw").features
    assert features[0, 0] == bucket("first", 0)
    assert features[0, 2] == bucket("a", 2)
    assert (features[0, 1], features[0, 21]) == (bucket(text, 1), bucket(text, 21))


@pytest.mark.parametrize(
    ("cell", "second"),
    [
        (f"[{DAY_0 + 60}, {DAY_0 + 7}]", 60),  # the first, not the earliest
        (f"['{DAY_0 + 60}']", 60),
        (f'"[{DAY_0 + 60}, {DAY_0 + 70}]"', 60),
        (f"[{DAY_0 + 5}]", 5),
        (f"{DAY_0 + 60}", -1),  # no list
        ("nan", -1),
        ("", -1),
        ("[]", -1),
        ("[-1]", -1),
        (f"[{DAY_0}]", -1),  # second 0
    ],
)
def test_read_raw_event_cells(tmp_path, cell, second):
    records = read(store(tmp_path, raw_line(conversion=cell)), layout="raw")
    assert records.click_time.tolist() == [5]
    assert records.conversion_time.tolist() == [second]
    assert records.refund_time.tolist() == [-1]


def test_read_raw_folder_in_order_of_names(tmp_path):
    store(tmp_path, raw_line(1002), raw_line(1001), name="b.txt")
    store(tmp_path, raw_line(1005, "[1009]", "[1010, 1011]"), name="a.txt")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(raw_line(1003).encode()))
    store(tmp_path, "not a log", name="notes.md")
    records = read(tmp_path, start=1000)
    assert records.click_time.tolist() == [5, 2, 1, 3]
    assert records.conversion_time.tolist() == [9, -1, -1, -1]
    assert records.refund_time.tolist() == [10, -1, -1, -1]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (raw_line() + "\t", r"26 columns, must be 25"),
        (
            raw_line(DAY_0 - 1),
            rf"column 0 \(click_time\) is '\d+', must be an integer in \[{DAY_0}",
        ),
        (raw_line("[5]"), r"column 0 \(click_time\) is '\[5\]', must be an integer"),
        (
            raw_line(conversion="[x, 5]"),
            r"column 1 \(conversion_time\) is '\[x, 5\]', must be missing or a list whose first",
        ),
        (
            raw_line(conversion=f"[{DAY_0 + 4}]"),
            r"column 1 \(conversion_time\) is '\[\d+\]': second 4 is before the click at second 5",
        ),
        (raw_line(refund=f"[{DAY_0 + 4}]"), r"column 2 \(refund_time\) is .* without a conversion"),
    ],
)
def test_read_raw_malformed_line(tmp_path, bad, problem):
    store(tmp_path, raw_line(), name="a.txt")
    store(tmp_path, raw_line(), bad, name="b.txt")
    with pytest.raises(ValueError, match=rf"b\.txt:2: {problem}"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        (line(), False),
        (line("999999999"), False),
        (raw_line(), True),
        (raw_line(5, f3="[5]"), True),
        (raw_line(5, "[9]"), True),
    ],
)
def test_layout_is_recognised_by_the_first_line(tmp_path, text, raw):
    path = store(tmp_path, text)
    start = 0 if len(text.split("\t")[0]) < 10 else DAY_0
    assert_same(read(path, start=start), read(path, layout=("processed", "raw")[raw], start=start))


# Gzip


def test_read_truncated_or_damaged_gzip_names_the_file(tmp_path):
    path = tmp_path / "log.txt.gz"
    write(path, make_records(1000), SMALL)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"log\.txt\.gz:1: truncated gzip file"):
        read(path)
    path.write_bytes(good[:-6] + b"\xff" + good[-5:])  # checksum
    with pytest.raises(ValueError, match=r"log\.txt\.gz:1: damaged gzip file"):
        read(path)
    path.write_text(line() + "\n")
    with pytest.raises(ValueError, match=r"log\.txt\.gz: not a gzip file"):
        read(path)
