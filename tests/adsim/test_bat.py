import gzip
from pathlib import Path

import numpy as np
import pytest

from adsim.datasets import bat

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "bat" / "traffic_share.csv.gz"
needs_data = pytest.mark.skipif(not DATA.is_file(), reason=f"BAT data not at {DATA}")

HEADER = "region_id,dow,hour,traffic_share"
FLAT = [f"{cell // 24 + 1},{cell % 24},{1 / 168!r}" for cell in range(168)]


def rows(region: int, cells: list[str] = FLAT) -> list[str]:
    return [f"{region},{cell}" for cell in cells]


def write(folder: Path, lines: list[str], name: str = "share.csv") -> Path:
    path = folder / name
    text = "\n".join([HEADER, *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def monday(share: float) -> list[str]:
    """All traffic on Monday: `share` at 00:00, the rest at 01:00."""
    shares = {0: share, 1: 1 - share}
    return [f"{c // 24 + 1},{c % 24},{shares.get(c, 0.0)}" for c in range(168)]


@pytest.mark.parametrize("name", ["share.csv", "share.csv.gz"])
def test_traffic_share_starts_on_monday_whatever_the_order(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, rows(3, monday(0.25))[::-1], name)
    share = bat.read_traffic_share(path, 3)
    assert (share.shape, share.dtype) == ((168,), np.float64)
    assert share[:3].tolist() == [0.25, 0.75, 0]
    assert share.sum() == 1


def test_traffic_share_without_region_is_the_mean_over_regions(tmp_path: Path) -> None:
    path = write(tmp_path, rows(3, monday(0.25)) + rows(4, monday(0.75)))
    assert bat.read_traffic_share(path)[:3].tolist() == [0.5, 0.5, 0]


def test_traffic_share_is_scaled_to_one(tmp_path: Path) -> None:
    cells = [f"{c // 24 + 1},{c % 24},{round(1 / 168, 6)}" for c in range(168)]
    share = bat.read_traffic_share(write(tmp_path, rows(3, cells)), 3)
    assert share == pytest.approx(np.full(168, 1 / 168), rel=1e-14)


def test_traffic_share_unknown_region_lists_some(tmp_path: Path) -> None:
    path = write(tmp_path, rows(3) + rows(4))
    with pytest.raises(ValueError, match=r"region_id 9 is unknown; it has 2 regions: 3, 4"):
        bat.read_traffic_share(path, 9)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("3,1,0", "3 fields, must be 4"),
        ("", "1 fields, must be 4"),
        ("x,1,0,0.1", r"region_id is 'x', must be an integer in \[0, "),
        ("3,0,0,0.1", r"dow is '0', must be an integer in \[1, 7\]"),
        ("3,8,0,0.1", r"dow is '8'"),
        ("3,1,24,0.1", r"hour is '24', must be an integer in \[0, 23\]"),
        ("3,1,0,abc", r"traffic_share is 'abc', must be a number in \[0, 1\]"),
        ("3,1,0,nan", r"traffic_share is 'nan'"),
        ("3,1,0,-0.1", r"traffic_share is '-0.1'"),
        ("3,7,23,0.1", r"region_id 3, dow 7, hour 23: seen twice"),
    ],
)
def test_traffic_share_malformed_line_names_file_and_line(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = write(tmp_path, [*rows(3), line, *rows(4)])
    with pytest.raises(ValueError, match=rf"share\.csv:170: {problem}"):
        bat.read_traffic_share(path, 4)


def test_traffic_share_missing_cell_raises(tmp_path: Path) -> None:
    path = write(tmp_path, rows(3) + rows(4)[:-1])
    bat.read_traffic_share(path, 3)
    for region in (4, None):
        with pytest.raises(ValueError, match=r"region_id 4 lacks 1 of 168 .* dow 7, hour 23"):
            bat.read_traffic_share(path, region)


def test_traffic_share_sum_off_raises(tmp_path: Path) -> None:
    cells = [f"{c // 24 + 1},{c % 24},0.005" for c in range(168)]
    with pytest.raises(ValueError, match=r"region_id 3: traffic_share sums to 0.840000"):
        bat.read_traffic_share(write(tmp_path, rows(3, cells)))


def test_traffic_share_header_empty_and_missing(tmp_path: Path) -> None:
    path = tmp_path / "share.csv"
    path.write_text("region,dow,hour,share\n")
    with pytest.raises(ValueError, match=r"share\.csv:1: header is"):
        bat.read_traffic_share(path)
    path.write_text("")
    with pytest.raises(ValueError, match=r"share\.csv:1: header is ''"):
        bat.read_traffic_share(path)
    with pytest.raises(ValueError, match="no regions"):
        bat.read_traffic_share(write(tmp_path, []))
    with pytest.raises(FileNotFoundError, match="no such file"):
        bat.read_traffic_share(tmp_path / "none.csv")


def test_traffic_share_truncated_gzip_raises(tmp_path: Path) -> None:
    path = write(tmp_path, rows(3), "share.csv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"share\.csv\.gz:\d+: truncated gzip file"):
        bat.read_traffic_share(path)


@needs_data
def test_real_traffic_share() -> None:
    share = bat.read_traffic_share(DATA, 645530)
    # the lines of this region: Monday 03:00 = 0.000314, 11:00 = 0.011074
    assert share[[3, 11]] == pytest.approx([0.000314, 0.011074], rel=1e-4)
    mean = bat.read_traffic_share(DATA)
    assert mean.shape == (168,)
    assert mean.sum() == pytest.approx(1, rel=1e-12)
    with pytest.raises(ValueError, match="it has 114 regions"):
        bat.read_traffic_share(DATA, 1)
