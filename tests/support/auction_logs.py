"""Auction logs in the form of iPinYou."""

import json

import numpy as np

from adsim.datasets.ipinyou import AuctionLog, write_auction_log


def write_ipinyou(folder):
    """12,000 auctions of campaign 2997 without clicks, price landscapes of two, free auctions."""
    rng = np.random.default_rng(0)
    price = rng.integers(1, 200, 12_000).astype(float)
    price[::100] = 0.0
    log = AuctionLog(np.zeros(price.size, bool), price, np.full(price.size, 0.001))
    write_auction_log(folder / "2997.test.theta.txt.gz", log)
    for campaign in ("1458", "2997"):
        counts = rng.integers(0, 50, 301)
        counts[0] = 7
        about = {"imp_train": 100, "cost_train": 100, "clk_train": 1}
        info = {**about, "price_counter_train": counts.tolist()}
        (folder / f"{campaign}.info.json").write_text(json.dumps(info))
