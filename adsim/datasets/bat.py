"""Hour-of-week traffic profiles of the BAT benchmark.

Source: BAT: Benchmark for Auto-bidding Task, arXiv:2505.08485, `data/traffic_share.csv` of
github.com/avito-tech/bat-autobidding-benchmark (MIT): average weekly traffic of 114 regions.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from adsim.datasets import read_text
from adsim.types import FloatArray

DAYS = 7
HOURS = 24
HOURS_PER_WEEK = DAYS * HOURS
HEADER = ("region_id", "dow", "hour", "traffic_share")

_SUM_TOLERANCE = 1e-3  # published shares are rounded to 6 digits: sums are 0.99998..1.00004
_MANY_NAMES = 5


def read_traffic_share(path: str | Path, region_id: int | None = None) -> FloatArray:
    """Share of the week's traffic in each hour of the week.

    Args:
        path: CSV or gzipped CSV with the columns region_id, dow (1 = Monday), hour (0..23),
            traffic_share.
        region_id: A region of the file; None gives the mean over all regions, each weighted alike.

    Returns:
        Shares (168,) >= 0, Monday 00:00 first, scaled to sum to 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A malformed line (names file and line), an unknown region, a region without
            all 168 cells or whose shares do not sum to 1 within 1e-3.
    """
    regions = _read_regions(path)
    if region_id is None:
        return np.mean([_normalise(path, region, regions[region]) for region in regions], axis=0)
    if region_id not in regions:
        some = ", ".join(str(region) for region in sorted(regions)[:_MANY_NAMES])
        raise ValueError(
            f"{path}: region_id {region_id} is unknown; it has {len(regions)} regions: {some}, ..."
        )
    return _normalise(path, region_id, regions[region_id])


def _read_regions(path: str | Path) -> Mapping[int, FloatArray]:
    """Shares (168,) by region, NaN where the file has no line."""
    header, *lines = read_text(path).rstrip().split("\n")
    if tuple(name.strip() for name in header.split(",")) != HEADER:
        raise ValueError(f"{path}:1: header is {header!r}, must be {','.join(HEADER)!r}")
    regions: dict[int, FloatArray] = {}
    for number, line in enumerate(lines, start=2):
        where = f"{path}:{number}"
        region, cell, share = _parse(where, line.split(","))
        shares = regions.setdefault(region, np.full(HOURS_PER_WEEK, np.nan))
        if not np.isnan(shares[cell]):
            dow, hour = divmod(cell, HOURS)
            raise ValueError(f"{where}: region_id {region}, dow {dow + 1}, hour {hour}: seen twice")
        shares[cell] = share
    if not regions:
        raise ValueError(f"{path}: no regions, only a header")
    return regions


def _parse(where: str, row: list[str]) -> tuple[int, int, float]:
    """Region, hour of the week (0..167) and share of one line."""
    if len(row) != len(HEADER):
        raise ValueError(f"{where}: {len(row)} fields, must be {len(HEADER)} ({','.join(HEADER)})")
    region = _whole(where, "region_id", row[0], 0, 2**63 - 1)
    dow = _whole(where, "dow", row[1], 1, DAYS)
    hour = _whole(where, "hour", row[2], 0, HOURS - 1)
    try:
        share = float(row[3])
    except ValueError:
        share = float("nan")
    if not 0 <= share <= 1:
        raise ValueError(f"{where}: traffic_share is {row[3]!r}, must be a number in [0, 1]")
    return region, (dow - 1) * HOURS + hour, share


def _whole(where: str, field: str, token: str, low: int, high: int) -> int:
    """An integer field, checked against its range."""
    try:
        value = int(token)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise ValueError(f"{where}: {field} is {token!r}, must be an integer in [{low}, {high}]")
    return value


def _normalise(path: str | Path, region: int, shares: FloatArray) -> FloatArray:
    """Shares (168,) of a complete region, scaled to sum to 1."""
    missing = np.flatnonzero(np.isnan(shares))
    if missing.size:
        dow, hour = divmod(int(missing[0]), HOURS)
        raise ValueError(
            f"{path}: region_id {region} lacks {missing.size} of {HOURS_PER_WEEK} hours of the "
            f"week, the first is dow {dow + 1}, hour {hour}"
        )
    total = float(shares.sum())
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ValueError(
            f"{path}: region_id {region}: traffic_share sums to {total:.6f}, "
            f"must be 1 within {_SUM_TOLERANCE}"
        )
    return shares / total
