import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from adsim.datasets import ipinyou
from adsim.datasets.ipinyou import AuctionLog

DATA = Path(__file__).parents[2].parent / "shared" / "data"
needs_data = pytest.mark.skipif(
    not (DATA / "ipinyou").is_dir(), reason=f"iPinYou data not at {DATA}"
)

LOG = AuctionLog(
    click=np.array([False, True, False]),
    price=np.array([70.0, 0.0, 300.0]),
    theta=np.array([0.1 + 0.2, 5e-324, 1.0]),  # 0.1 + 0.2 needs 17 digits
)


def info_content() -> dict[str, object]:
    counts = [0] * 301
    counts[10], counts[30] = 6, 4
    totals = {"imp_train": 10, "cost_train": 180, "clk_train": 2}
    return {**totals, "price_counter_train": counts, "field": 60}


def write(folder: Path, text: str, name: str = "log.txt") -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", ["log.txt", "log.txt.gz"])
def test_auction_log_round_trip_is_exact(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    ipinyou.write_auction_log(path, LOG)
    back = ipinyou.read_auction_log(path)
    assert back.click.dtype == bool
    for written, read in zip(LOG, back, strict=True):
        np.testing.assert_array_equal(written, read)
    assert [p.name for p in tmp_path.iterdir()] == [name]  # no temporary file is left


def test_write_auction_log_format_is_one_auction_per_line(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    ipinyou.write_auction_log(path, LOG)
    assert path.read_text() == "0 70 0.30000000000000004\n1 0 5e-324\n0 300 1.0\n"


def test_write_auction_log_gzip_is_reproducible(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        ipinyou.write_auction_log(tmp_path / name, LOG)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_write_auction_log_bad_log_raises_and_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    with pytest.raises(ValueError, match=r"auction 1: theta is 1.5, must be in \[0, 1\]"):
        ipinyou.write_auction_log(path, LOG._replace(theta=np.array([0.5, 1.5, 0.5])))
    with pytest.raises(ValueError, match="must all be"):
        ipinyou.write_auction_log(path, LOG._replace(theta=np.array([0.5])))
    assert list(tmp_path.iterdir()) == []


def test_read_auction_log_takes_windows_line_ends_and_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    path.write_bytes(b"0 5 0.25\r\n1 6 1e-3")
    log = ipinyou.read_auction_log(path)
    assert log.click.tolist() == [False, True]
    assert log.price.tolist() == [5, 6]
    assert log.theta.tolist() == [0.25, 0.001]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0 5", r"2 fields, must be 3"),
        ("0 5 0.1 7", r"4 fields, must be 3"),
        ("", r"0 fields, must be 3"),
        ("0,5,0.1", r"1 fields, must be 3"),
        ("0 x 0.1", r"price is 'x', must be a finite number"),
        ("0 5 nan", r"theta is 'nan', must be a finite number"),
        ("0 inf 0.1", r"price is 'inf', must be a finite number"),
        ("0 5 1_0", r"theta is '1_0', must be a finite number"),
        ("2 5 0.1", r"click is 2.0, must be 0 or 1"),
        ("0.5 5 0.1", r"click is 0.5, must be 0 or 1"),
        ("0 -5 0.1", r"price is -5.0, must be an integer >= 0"),
        ("0 5.5 0.1", r"price is 5.5, must be an integer >= 0"),
        ("0 5 1.1", r"theta is 1.1, must be in \[0, 1\]"),
        ("0 5 -0.1", r"theta is -0.1, must be in \[0, 1\]"),
    ],
)
def test_read_auction_log_malformed_line_names_file_and_line(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = write(tmp_path, f"0 5 0.1\n1 6 0.2\n{line}\n0 7 0.3\n")
    with pytest.raises(ValueError, match=rf"log\.txt:3: {problem}"):
        ipinyou.read_auction_log(path)


def test_read_auction_log_wrong_number_of_fields_everywhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log\.txt:1: 2 fields"):
        ipinyou.read_auction_log(write(tmp_path, "0 5\n1 6\n"))


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_read_auction_log_empty_raises(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"log\.txt: no auctions"):
        ipinyou.read_auction_log(write(tmp_path, text))


def test_read_auction_log_truncated_gzip_names_file_and_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines = [f"0 {p} {t!r}\n" for p, t in enumerate(rng.random(20_000).tolist())]
    path = tmp_path / "log.txt.gz"
    raw = gzip.compress("".join(lines).encode())
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"log\.txt\.gz:\d+: truncated gzip file") as caught:
        ipinyou.read_auction_log(path)
    line = int(str(caught.value).split(":")[-2])
    assert 8_000 < line < 12_000  # half of the bytes hold about half of the lines


def test_read_auction_log_damaged_gzip_raises(tmp_path: Path) -> None:
    path = tmp_path / "log.txt.gz"
    raw = bytearray(gzip.compress(b"0 5 0.1\n" * 1000))
    raw[-6] ^= 0xFF  # checksum
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"log\.txt\.gz:\d+: damaged gzip file"):
        ipinyou.read_auction_log(path)


def test_read_auction_log_not_gzip_not_text_missing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a gzip file"):
        ipinyou.read_auction_log(write(tmp_path, "0 5 0.1\n", "log.gz"))
    path = tmp_path / "log.txt"
    path.write_bytes(b"0 5 0.1\n0 \xff 0.1\n")
    with pytest.raises(ValueError, match=r"log\.txt:2: not UTF-8"):
        ipinyou.read_auction_log(path)
    with pytest.raises(FileNotFoundError, match=r"none\.txt: no such file"):
        ipinyou.read_auction_log(tmp_path / "none.txt")


def test_read_info_and_price_history(tmp_path: Path) -> None:
    info = ipinyou.read_info(write(tmp_path, json.dumps(info_content()), "77.info.json"))
    assert info[:4] == ("77", 10, 180, 2)
    assert (info.price_counts.shape, info.price_counts.dtype) == ((301,), np.int64)
    assert info.imp_test is None
    history = ipinyou.price_history(info)
    assert history.price.tolist() == list(range(301))
    assert (history.weight[10], history.weight[30], history.weight.sum()) == (6, 4, 10)
    assert np.isnan(history.pctr).all()
    assert np.isnan(history.value).all()
    assert (history.ctr, history.cpc) == (0.2, 90)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"imp_train": None}, r"missing key imp_train \(an integer >= 1\)"),
        ({"price_counter_train": None}, r"missing key price_counter_train"),
        ({"cost_train": -1}, r"cost_train is -1, must be an integer in \[1, "),
        ({"clk_train": 11}, r"clk_train is 11, must be an integer in \[1, 10\]"),
        ({"imp_train": 0}, r"imp_train is 0, must be"),
        ({"imp_train": 1.5}, r"imp_train is 1.5, must be"),
        ({"imp_train": "10"}, r"imp_train is '10', must be"),
        ({"imp_train": True}, r"imp_train is True, must be"),
        ({"imp_test": -1}, r"imp_test is -1, must be"),
        ({"price_counter_train": [1] * 300}, r"must be a list of 301 counts, got 300 entries"),
        ({"price_counter_train": 5}, r"must be a list of 301 counts, got int"),
        ({"price_counter_train": [0] * 300 + [-2]}, r"price_counter_train\[300\] is -2"),
        ({"price_counter_train": [0] * 301}, r"price_counter_train is all 0"),
    ],
)
def test_read_info_bad_field_names_file_and_field(
    tmp_path: Path, change: dict[str, object], problem: str
) -> None:
    content = {k: v for k, v in {**info_content(), **change}.items() if v is not None}
    path = write(tmp_path, json.dumps(content), "77.info.json")
    with pytest.raises(ValueError, match=rf"77\.info\.json: .*{problem}"):
        ipinyou.read_info(path)


def test_read_info_not_json_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"77\.info\.json:2: not JSON"):
        ipinyou.read_info(write(tmp_path, '{\n"imp_train": }', "77.info.json"))
    with pytest.raises(ValueError, match="want a JSON object, got list"):
        ipinyou.read_info(write(tmp_path, "[]", "77.info.json"))


def test_episode_budget_rounds_down(tmp_path: Path) -> None:
    info = ipinyou.read_info(write(tmp_path, json.dumps(info_content()), "77.info.json"))
    assert ipinyou.episode_budget(info) == 562  # 180 / 10 / 32 x 1000 = 562.5
    assert ipinyou.episode_budget(info, auctions=10, c0=0.5) == 90
    with pytest.raises(ValueError, match="auctions: 0 is out of range"):
        ipinyou.episode_budget(info, auctions=0)
    with pytest.raises(ValueError, match="c0: nan is out of range"):
        ipinyou.episode_budget(info, c0=float("nan"))


def test_campaign_files_finds_both_layouts(tmp_path: Path) -> None:
    folder = tmp_path / "ipinyou"
    folder.mkdir()
    names = ("5.test.theta.txt.gz", "5.info.json", "6.test.theta.txt", "6.info.json", "7.info.json")
    for name in names:
        write(folder, "", name)
    for root in (folder, tmp_path):
        assert ipinyou.campaign_files(root, 5) == (folder / names[0], folder / names[1])
    assert ipinyou.campaign_files(tmp_path, "6") == (folder / names[2], folder / names[3])
    with pytest.raises(FileNotFoundError, match=r"no file 7\.test\.theta\.txt\.gz; .*: 5, 6$"):
        ipinyou.campaign_files(tmp_path, 7)
    with pytest.raises(FileNotFoundError, match=r"campaign 8: no file .*: 5, 6$"):
        ipinyou.campaign_files(tmp_path, 8)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        ipinyou.campaign_files(tmp_path / "nowhere", 5)


@needs_data
def test_real_log_of_campaign_2997() -> None:
    log_path, info_path = ipinyou.campaign_files(DATA, 2997)
    log, info = ipinyou.read_auction_log(log_path), ipinyou.read_info(info_path)
    assert log.price.shape == (156_063,)
    totals = (log.price.size, int(log.price.sum()), int(log.click.sum()))
    assert totals == (info.imp_test, info.cost_test, info.clk_test)
    assert log.theta[0] == 0.0021143609192222357
    assert log.price.max() <= ipinyou.MAX_PRICE
    assert ipinyou.episode_budget(info) == 1969


@needs_data
def test_real_infos_are_consistent() -> None:
    paths = sorted((DATA / "ipinyou").glob("*.info.json"))
    assert len(paths) == 9
    for path in paths:
        info = ipinyou.read_info(path)
        assert info.price_counts.sum() == info.imp_train
        assert info.price_counts @ np.arange(301) == info.cost_train
