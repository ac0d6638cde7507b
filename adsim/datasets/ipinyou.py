"""iPinYou auction logs and campaign totals, in the form published with han-cai/rlb-dp.

Source: H. Cai et al., "Real-Time Bidding by Reinforcement Learning in Display Advertising"
(RLB), WSDM 2017, arXiv:1701.02490; files and protocol of github.com/han-cai/rlb-dp.

Prices and costs are integers in 1/1000 of a currency unit per impression (CPM).
"""

import gzip
import json
import math
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adsim.datasets import read_text
from adsim.types import BoolArray, FloatArray, IntArray, PriceHistory

MAX_PRICE = 300  # highest market price of the logs, 1/1000 currency
EPISODE_AUCTIONS = 1000  # rlb-dp, README: auctions N of one episode
DEFAULT_C0 = 1 / 32  # rlb-dp, README: budget as a share of the cost of buying all

_FIELDS = ("click", "price", "theta")
_INFO_SUFFIX = ".info.json"
_LOG_SUFFIXES = (".test.theta.txt.gz", ".test.theta.txt")
_MAX_COUNT = 2**53  # integers above are not exact in float64
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MANY_NAMES = 20


class AuctionLog(NamedTuple):
    """Second-price auctions in order of arrival; (N,) each."""

    click: BoolArray  # (N,) the impression is clicked if shown
    price: FloatArray  # (N,) price to beat, integers >= 0, 1/1000 currency per impression
    theta: FloatArray  # (N,) predicted CTR, probability


class CampaignInfo(NamedTuple):
    """Totals of a campaign's training log, and of its test log where the file has them."""

    campaign: str
    imp_train: int  # impressions >= 1
    cost_train: int  # cost of buying all of them >= 1, 1/1000 currency
    clk_train: int  # clicks, 1..imp_train
    price_counts: IntArray  # (301,) how often each price 0..MAX_PRICE occurred
    imp_test: int | None = None  # lines of the test log
    cost_test: int | None = None  # 1/1000 currency
    clk_test: int | None = None


def read_auction_log(path: str | Path) -> AuctionLog:
    """Reads `click price theta` lines, separated by blanks; gzip or plain text.

    Args:
        path: For instance `2997.test.theta.txt.gz`.

    Returns:
        The auctions in the order of the lines.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Empty, truncated or malformed; names the file, the line (from 1), the field and
            the allowed range.
    """
    lines = read_text(path).rstrip().split("\n")
    if lines == [""]:
        raise ValueError(f"{path}: no auctions (want lines `click price theta`)")
    problem = "malformed"
    try:
        table = np.loadtxt(lines, dtype=np.float64, comments=None, ndmin=2)  # (N, 3)
        if table.shape == (len(lines), len(_FIELDS)) and _find_fault(*table.T) is None:
            return AuctionLog(table[:, 0] == 1, table[:, 1].copy(), table[:, 2].copy())
    except ValueError as error:
        problem = str(error)
    for number, line in enumerate(lines, start=1):
        fault = _line_fault(line)
        if fault is not None:
            raise ValueError(f"{path}:{number}: {fault}")
    raise ValueError(f"{path}: {problem}")


def write_auction_log(path: str | Path, log: AuctionLog) -> None:
    """Writes a log that `read_auction_log` reads back bit for bit.

    Args:
        path: Target, gzip if it ends in `.gz`. Written to a temporary file and renamed.
        log: Auctions, at least one.

    Raises:
        ValueError: Shapes differ, no auctions, or a value out of range (index from 0).
    """
    path = Path(path)
    click, price, theta = (np.asarray(column, dtype=np.float64) for column in log)
    if not click.shape == price.shape == theta.shape or click.ndim != 1 or click.size == 0:
        shapes = f"{click.shape}, {price.shape}, {theta.shape}"
        raise ValueError(f"log: click, price, theta must all be (N,), N >= 1; got {shapes}")
    fault = _find_fault(click, price, theta)
    if fault is not None:
        row = (float(click[fault]), float(price[fault]), float(theta[fault]))
        raise ValueError(f"log: auction {fault}: {_value_fault(*row)}")
    rows = zip(click.tolist(), price.tolist(), theta.tolist(), strict=True)
    text = "".join(f"{c:.0f} {p:.0f} {t!r}\n" for c, p, t in rows)
    content = text.encode("ascii")
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)  # no time stamp: same log, same bytes
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_info(path: str | Path) -> CampaignInfo:
    """Reads the totals of one campaign from `<campaign>.info.json`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Not JSON, a key is missing, or a value is not an integer in its range; names
            the file, the key and the range. Totals are not checked against each other.
    """
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: want a JSON object, got {type(content).__name__}")
    imp_train = _integer(path, content, "imp_train", 1)
    return CampaignInfo(
        campaign=Path(path).name.removesuffix(_INFO_SUFFIX),
        imp_train=imp_train,
        cost_train=_integer(path, content, "cost_train", 1),
        clk_train=_integer(path, content, "clk_train", 1, imp_train),
        price_counts=_counts(path, content),
        **{
            key: _integer(path, content, key, 0)
            for key in ("imp_test", "cost_test", "clk_test")
            if key in content
        },
    )


def price_history(info: CampaignInfo) -> PriceHistory:
    """The training log as a histogram of prices, for `Campaign.price_history`.

    Keeps all 301 prices (row i is price i), so that weights may be 0 here. Values per impression
    and predicted CTRs are unknown (NaN). Prices and cost per click are in 1/1000 currency.
    """
    unknown = np.full(MAX_PRICE + 1, np.nan)
    return PriceHistory(
        price=np.arange(MAX_PRICE + 1, dtype=np.float64),
        weight=info.price_counts.astype(np.float64),
        pctr=unknown,
        value=unknown.copy(),
        ctr=info.clk_train / info.imp_train,  # rlb-dp: average theta
        cpc=info.cost_train / info.clk_train,  # rlb-dp: the CPC that mcpc bids by
    )


def episode_budget(
    info: CampaignInfo, auctions: int = EPISODE_AUCTIONS, c0: float = DEFAULT_C0
) -> int:
    """Budget of one episode, 1/1000 currency.

    Args:
        info: Totals of the campaign.
        auctions: Auctions N of a full episode, >= 1. A shorter last episode has the same budget.
        c0: Share of the cost of buying everything, > 0.

    Raises:
        ValueError: `auctions` or `c0` out of range.
    """
    if auctions < 1:
        raise ValueError(f"auctions: {auctions} is out of range, must be >= 1")
    if not (c0 > 0 and math.isfinite(c0)):
        raise ValueError(f"c0: {c0} is out of range, must be finite and > 0")
    return int(info.cost_train / info.imp_train * c0 * auctions)  # rlb-dp: B = CPM c0 N


def campaign_files(data_dir: str | Path, campaign: int | str) -> tuple[Path, Path]:
    """Paths (log, info) of a campaign's test log and totals.

    Args:
        data_dir: The folder with the files, or its parent with a folder `ipinyou`.
        campaign: For instance 2997.

    Raises:
        FileNotFoundError: No such folder, or it lacks one of the two files; lists the campaigns
            that are there.
    """
    folder = Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")
    if (folder / "ipinyou").is_dir():
        folder = folder / "ipinyou"
    infos = {p.name.removesuffix(_INFO_SUFFIX): p for p in folder.glob(f"*{_INFO_SUFFIX}")}
    logs: dict[str, Path] = {}
    for suffix in reversed(_LOG_SUFFIXES):  # a gzip file wins over a plain one
        logs |= {p.name.removesuffix(suffix): p for p in folder.glob(f"*{suffix}")}
    name = str(campaign)
    if name in infos and name in logs:
        return logs[name], infos[name]
    missing = f"{name}{_INFO_SUFFIX if name in logs else _LOG_SUFFIXES[0]}"
    known = sorted(infos.keys() & logs.keys())
    listed = ", ".join(known[:_MANY_NAMES]) or "none"
    raise FileNotFoundError(
        f"{folder}: campaign {name}: no file {missing}; campaigns with a log and totals: {listed}"
    )


def _find_fault(click: FloatArray, price: FloatArray, theta: FloatArray) -> int | None:
    """Index of the first auction with a value out of range, None if there is none."""
    good = (click == 0) | (click == 1)
    good &= (price >= 0) & (price <= _MAX_COUNT) & (price == np.floor(price))
    good &= (theta >= 0) & (theta <= 1)  # false for NaN
    return None if good.all() else int(np.argmin(good))


def _value_fault(click: float, price: float, theta: float) -> str | None:
    """What is wrong with the values of one auction, None if nothing."""
    if click not in (0, 1):
        return f"click is {click}, must be 0 or 1"
    if not (0 <= price <= _MAX_COUNT and price == math.floor(price)):
        return f"price is {price}, must be an integer >= 0"
    if not 0 <= theta <= 1:
        return f"theta is {theta}, must be in [0, 1]"
    return None


def _line_fault(line: str) -> str | None:
    """What is wrong with one line of a log, None if nothing."""
    tokens = line.split()
    if len(tokens) != len(_FIELDS):
        return f"{len(tokens)} fields, must be 3 (click price theta)"
    for field, token in zip(_FIELDS, tokens, strict=True):
        if _NUMBER.fullmatch(token) is None:
            return f"{field} is {token!r}, must be a finite number"
    click, price, theta = map(float, tokens)
    return _value_fault(click, price, theta)


def _integer(
    path: str | Path, content: dict[str, Any], key: str, low: int, high: int = _MAX_COUNT
) -> int:
    """A required integer of an info file, checked against its range."""
    if key not in content:
        raise ValueError(f"{path}: missing key {key} (an integer >= {low})")
    value = content[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{path}: {key} is {value!r}, must be an integer in [{low}, {high}]")
    return value


def _counts(path: str | Path, content: dict[str, Any]) -> IntArray:
    """The price counts (301,) of an info file, checked."""
    key = "price_counter_train"
    size = MAX_PRICE + 1
    if key not in content:
        raise ValueError(f"{path}: missing key {key} (a list of {size} counts)")
    counts = content[key]
    if not isinstance(counts, list) or len(counts) != size:
        got = f"{len(counts)} entries" if isinstance(counts, list) else type(counts).__name__
        raise ValueError(f"{path}: {key} must be a list of {size} counts, got {got}")
    for price, count in enumerate(counts):
        if type(count) is not int or not 0 <= count <= _MAX_COUNT:
            raise ValueError(f"{path}: {key}[{price}] is {count!r}, must be an integer >= 0")
    if sum(counts) == 0:
        raise ValueError(f"{path}: {key} is all 0, must count at least one price")
    return np.array(counts, dtype=np.int64)
