import ast
import json
import logging

import numpy as np
import pytest
from trace_logs import FEATURES, NAMES, ORDER, SMALL, assert_same, line, make_records, once, store

from adsim.datasets import trace
from adsim.datasets.trace import CARDINALITIES, read, read_chunks, read_encrypted, write
from adsim.datasets.trace_chunks import TextIds

# Values


def test_published_cardinalities():
    assert len(CARDINALITIES) == 22
    assert sum(CARDINALITIES) == 11_616_905


def test_read_values(tmp_path):
    records = read(store(tmp_path, line(f0="4", f21="", f7="12.0"), once(0, 604_799)))
    assert [column.dtype for column in records] == [np.int64, np.int32, *[np.int64] * 2, float]
    assert records.click_time.tolist() == [5_205_600, 0]  # in the order of the file
    assert records.features[0].tolist() == [4, *[1] * 6, 12, *[1] * 13, 0]
    assert records.offset.tolist() == [0, 3, 4]
    assert records.purchase_time.tolist() == [5_206_200, 5_335_200, 5_724_000, 604_799]
    assert records.amount.tolist() == [80, 50, 30, 9.5]


def test_write_format(tmp_path):
    records = read(store(tmp_path, line(f5="")))
    write(tmp_path / "new.txt", records)
    lines = (tmp_path / "new.txt").read_text().split("\n")
    assert lines == ["\t".join(NAMES), line(f5="0"), ""]
    assert all(ast.literal_eval(cell) is not None for cell in lines[1].split("\t"))
    content = json.loads((tmp_path / "new.txt.json").read_text())
    assert content == {"cardinalities": list(CARDINALITIES), "num_clicks": 1}


def test_columns_in_any_order_features_by_position(tmp_path):
    names = [*reversed(ORDER), *FEATURES]
    features = {f"f{j}": str(j % 2) for j in range(22)}
    path = store(
        tmp_path, line(names, **features), names=[*names[:8], *(f"x{j}" for j in range(22))]
    )
    records = read(path)
    assert records.features.tolist() == [[j % 2 for j in range(22)]]
    assert records.amount.tolist() == [80, 50, 30]
    with pytest.raises(ValueError, match=r"trace\.txt:2: column 7 \(click_time\) is '-1'"):
        read(store(tmp_path, line(names, click_time="-1"), names=names))


@pytest.mark.parametrize(
    "text", ["5", "5.", ".5", "1e-05", "1E+16", "0.1", "123456789012345678", "007.5"]
)
def test_read_amount_is_the_nearest_float(tmp_path, text):
    assert read(store(tmp_path, once(amount=f" {text} "))).amount.tolist() == [float(text)]


def test_read_windows_line_ends_and_no_last_newline(tmp_path):
    path = tmp_path / "trace.txt"
    path.write_bytes("\r\n".join(["\t".join(NAMES), once(1), once(2), once(3)]).encode())
    assert read(path).click_time.tolist() == [1, 2, 3]


def test_read_without_clicks(tmp_path):
    for text in ("\t".join(NAMES), "\t".join(NAMES) + "\n"):
        path = tmp_path / "trace.txt"
        path.write_text(text)
        assert [column.shape for column in read(path)] == [(0,), (0, 22), (1,), (0,), (0,)]
        assert list(read_chunks(path)) == []


# Malformed files


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (line() + "\t0", "31 columns, must be 30, separated by tabs"),
        (line().rpartition("\t")[0], "29 columns, must be 30"),
        ("", "1 columns, must be 30"),
        (
            line(f2="x"),
            r"column 2 \(feature_2\) is 'x', must be an integer in \[0, 1951875\] or em",
        ),
        (line(f2="1.5"), r"column 2 \(feature_2\) is '1\.5', must be an integer"),
        (line(click_time=""), r"column 22 \(click_time\) is '', must be an integer in \[0, 900"),
        (line(click_time="5.0"), r"column 22 \(click_time\) is '5\.0', must be an integer"),
        (line(total_counts="x"), r"column 26 \(total_counts\) is 'x', must be an integer"),
        (line(pay_time="5"), r"column 23 \(pay_time\) is '5', must be a list of integers"),
        (line(pay_time=""), r"column 23 \(pay_time\) is '', must be a list of integers"),
        (line(pay_time="[5206200.0]"), r"column 23 .* must be a list of integers"),
        (line(pay_time="[5206200,]"), r"column 23 .* must be a list of integers"),
        (line(pay_time="[5206200"), r"column 23 .* must be a list of integers"),
        (line(pay_time="(1, 2)"), r"column 23 .* must be a list of integers"),
        (line(count="[1, 2, None]"), r"column 25 \(count\) .* must be a list of integers"),
        (line(dirpay_amt="[nan]"), r"column 24 \(dirpay_amt\) is '\[nan\]', must be a list of num"),
        (
            line(dirpay_amt="[inf]"),
            r"column 24 .* must be a list of numbers such as \[5\.0, 2\.5\]",
        ),
        (line(dirpay_amt="[1e]"), r"column 24 .* must be a list of numbers"),
        (line(dirpay_amt="[.]"), r"column 24 .* must be a list of numbers"),
        (line(dirpay_amt="[1.2.3]"), r"column 24 .* must be a list of numbers"),
        (line(dirpay_amt="[1_0]"), r"column 24 .* must be a list of numbers"),
        (line(dirpay_amt="[+1]"), r"column 24 .* must be a list of numbers"),
        (line(dirpay_amt="[np.float64(1)]"), r"column 24 .* must be a list of numbers"),
        (line(prev_dirpay_amt="['1']"), r"column 28 \(prev_dirpay_amt\) .* must be a list of num"),
        (line(pay_time="é" * 99), r"column 23 \(pay_time\) is 'é{60}\.\.\.', must be"),
    ],
)
def test_line_that_cannot_be_read(tmp_path, bad, problem):
    path = store(tmp_path, line(), once(), bad, line(f0="x"))
    for strict in (True, False):
        with pytest.raises(ValueError, match=rf"trace\.txt:4: {problem}"):
            read(path, strict=strict)


IMPOSSIBLE = [
    (line(f0="5"), r"column 0 \(feature_0\) is '5', must be an integer in \[0, 4\] or empty"),
    (line(f21="-1"), r"column 21 \(feature_21\) is '-1', must be an integer in \[0, 6\] or empty"),
    (line(f1="3604778.0"), r"column 1 \(feature_1\) is '3604778\.0', must be"),
    (line(click_time="-1"), r"column 22 \(click_time\) is '-1', must be an integer in \[0, "),
    (line(pay_time="[]"), r"column 23 \(pay_time\) is '\[\]', must hold at least one purchase"),
    (line(dirpay_amt="[80.0, 80.0]"), r"column 24 \(dirpay_amt\) .* as many elements as pay_time"),
    (line(dirpay_amt="[]"), r"column 24 \(dirpay_amt\) .* as many elements as pay_time"),
    (
        line(pay_time="[5206200, 5724000, 5335200]"),
        r"column 23 \(pay_time\) is '\[5206200, 5724000, 5335200\]', must ascend from the click at "
        r"second 5205600 and end before it plus 604800",
    ),
    (once(5, 4), r"column 23 \(pay_time\) is '\[4\]', must ascend from the click at second 5 and"),
    (once(5, -1), r"column 23 \(pay_time\) is '\[-1\]', must ascend from the click"),
    (once(5, 604_805), r"column 23 \(pay_time\) is '\[604805\]', must ascend .* end before"),
    (once(amount="-1"), r"column 24 \(dirpay_amt\) is '\[-1\]', must be finite and >= 0"),
    (once(amount="1e400"), r"column 24 \(dirpay_amt\) is '\[1e400\]', must be finite"),
    (once(amount="0.0"), r"column 24 \(dirpay_amt\) is '\[0\.0\]', must have a finite sum > 0"),
    (line(dirpay_amt="[1e308, 1e308, 0]"), r"column 24 \(dirpay_amt\) .* a finite sum > 0"),
    (line(dirpay_amt="[5, -5, 9]"), r"column 24 \(dirpay_amt\) .* must be finite and >= 0"),
]
INCONSISTENT = [
    (line(count="[1, 2]"), r"column 25 \(count\) is '\[1, 2\]', must have as many elements as pay"),
    (line(count="[0, 1, 2]"), r"column 25 \(count\) .* must be \[1, 2, \.\.\.\] with one element"),
    (line(total_counts="2"), r"column 26 \(total_counts\) is '2', must be the number of elements"),
    (line(multi_tag="0"), r"column 27 \(multi_tag\) is '0', must be 1 if pay_time has several"),
    (once(multi_tag="1"), r"column 27 \(multi_tag\) is '1', must be 1 if"),
    (line(prev_dirpay_amt="[0.0, 80.0]"), r"column 28 \(prev_dirpay_amt\) .* as many elements"),
    (
        line(prev_dirpay_amt="[1.0, 80.0, 50.0]"),
        r"column 28 .* must be 0\.0, then all but the last",
    ),
    (
        line(prev_dirpay_amt="[0, 80, 50.1]"),
        r"column 28 \(prev_dirpay_amt\) .* all but the last of",
    ),
    (line(prev_pay_time="[5205600]"), r"column 29 \(prev_pay_time\) .* as many elements"),
    (line(prev_pay_time="[0, 5206200, 5335200]"), r"column 29 .* must be click_time, then all but"),
    (
        line(prev_pay_time="[5205600, 5206200, 5206200]"),
        r"column 29 \(prev_pay_time\) .* click_time",
    ),
]


@pytest.mark.parametrize(("bad", "problem"), IMPOSSIBLE + INCONSISTENT)
def test_click_that_cannot_be(tmp_path, bad, problem):
    path = store(tmp_path, line(), once(), bad, once(5, 4))
    with pytest.raises(ValueError, match=rf"trace\.txt:4: {problem}"):
        read(path)


def test_read_not_strict_leaves_out_clicks_that_cannot_be(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(trace, "BLOCK_BYTES", 3000)
    bad = [text for text, _ in IMPOSSIBLE + INCONSISTENT]
    good = [once(k, k + 9, k + 1) if k % 3 else line() for k in range(len(bad))]
    path = store(tmp_path, *(text for pair in zip(bad, good, strict=True) for text in pair))
    with caplog.at_level(logging.WARNING):
        records = read(path, strict=False)
    assert_same(records, read(store(tmp_path, *good, name="good.txt")))
    (message,) = caplog.messages
    assert message.endswith("trace.txt: 27 impossible clicks of 54 left out")


def test_columns_that_follow_from_others_need_not_be_looked_at(tmp_path):
    bad = [text for text, _ in INCONSISTENT]
    path = store(tmp_path, *bad, line(count="x", multi_tag="", prev_dirpay_amt="[nan, 1, 2]"))
    records = read(path, check_derived=False)
    assert records.click_time.size == len(bad) + 1
    assert records.offset[-1] == records.amount.size == 3 * len(bad) + 1
    with pytest.raises(ValueError, match=r"trace\.txt:2: .* must ascend"):
        read(store(tmp_path, IMPOSSIBLE[7][0]), check_derived=False)


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ([n for n in NAMES if n != "pay_time"], "0 columns 'pay_time', must be one"),
        ([*NAMES, "count"], "2 columns 'count', must be one"),
        (NAMES[1:], "21 feature columns, must be 22 besides click_time, pay_time"),
        (["", *NAMES], "23 feature columns, must be 22 besides"),
        (
            ["feature_1", "feature_0", *NAMES[2:]],
            "column 'feature_1' stands at the place of feature_0",
        ),
    ],
)
def test_header_without_the_columns(tmp_path, names, problem):
    with pytest.raises(ValueError, match=rf"trace\.txt:1: {problem}"):
        read(store(tmp_path, line(), names=names))


def test_read_empty_file_has_no_columns(tmp_path):
    (tmp_path / "trace.txt").touch()
    with pytest.raises(ValueError, match=r"trace\.txt:1: 0 columns 'click_time', must be one"):
        read(tmp_path / "trace.txt")


def test_read_arguments_out_of_range(tmp_path):
    path = store(tmp_path, line())
    with pytest.raises(ValueError, match=r"chunk_clicks: 0 is out of range, must be >= 1"):
        read_chunks(path, chunk_clicks=0)
    with pytest.raises(ValueError, match=r"cardinalities: must be 22 integers"):
        read(path, cardinalities=(1, 2))
    for reader in (read, read_encrypted):
        with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
            reader(tmp_path / "none.txt")


def test_read_truncated_or_damaged_gzip_names_the_file(tmp_path):
    path = tmp_path / "trace.txt.gz"
    write(path, make_records(1000), SMALL)
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises(ValueError, match=r"trace\.txt\.gz:1: truncated gzip file"):
        read(path)
    path.write_text(line() + "\n")
    with pytest.raises(ValueError, match=r"trace\.txt\.gz: not a gzip file"):
        read(path)


# Encrypted layout


def test_read_encrypted_numbers_texts_by_first_appearance(tmp_path, monkeypatch):
    monkeypatch.setattr(trace, "BLOCK_BYTES", 300)
    texts = ["b9", "", "a", "b9", "c", "a", "", "12"]
    lines = [once(k, k, f0=text, f21=f"x{k // 4}") for k, text in enumerate(texts)]
    path = store(tmp_path, *lines[:2], once(5, 4, f0="left out"), *lines[2:])
    records, cardinalities = read_encrypted(path, strict=False)
    assert records.features[:, 0].tolist() == [1, 0, 2, 1, 3, 2, 0, 4]
    assert records.features[:, 21].tolist() == [1] * 4 + [2] * 4
    assert cardinalities == (5, *[2] * 20, 3)
    assert records.click_time.tolist() == list(range(8))
    write(tmp_path / "plain.txt", records, cardinalities)
    assert_same(read(tmp_path / "plain.txt"), records)
    with pytest.raises(ValueError, match=r"trace\.txt:4: column 23 \(pay_time\) is '\[4\]'"):
        read_encrypted(path)


def test_text_ids_equal_those_of_a_dict():
    rng = np.random.default_rng(0)
    column, known, ids = TextIds(), {}, []
    for count in (0, 1, 1000, 5000, 3):
        hashes = rng.integers(0, 3000, count).astype(np.uint64) * np.uint64(2**52)
        expected = [known.setdefault(x, len(known) + 1) if x else 0 for x in hashes.tolist()]
        assert column.number(hashes).tolist() == expected
        ids += expected
    assert column.used == max(ids)
