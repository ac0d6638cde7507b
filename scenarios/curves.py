"""What a campaign's outcomes are distributed like, in bins that add up over campaigns."""

from typing import Any

import numpy as np
import pandas as pd

from adsim.types import FloatArray, IntArray

PROBABILITY_EDGES = np.geomspace(1e-5, 1.0, 26)  # five bins per decade
MONEY_EDGES = np.geomspace(1e-4, 1e4, 81)  # currency; ten per decade
DELAY_EDGES = np.concatenate([[0.0], np.geomspace(1 / 60, 384.0, 48)])  # hours, up to 16 days
CALIBRATION, DELAY, PRICE = "calibration", "delay", "price"
COLUMNS = ("curve", "series", "low", "high", "count", "predicted", "observed")


def bin_of(values: FloatArray, edges: FloatArray) -> IntArray:
    """Bin of each value (N,); what lies outside the edges is in the first or the last bin."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, edges.size - 2)


def binned(values: FloatArray, edges: FloatArray, *weights: FloatArray) -> FloatArray:
    """Counts, then sums of each of the weights (N,), by bin: (1 + weights, bins)."""
    place, size = bin_of(values, edges), edges.size - 1
    sums = [np.bincount(place, weight, size) for weight in (None, *weights)]
    return np.array(sums, np.float64).reshape(1 + len(weights), size)


def curve_rows(curve: str, series: str, edges: FloatArray, sums: FloatArray) -> pd.DataFrame:
    """The bins that are not empty, as rows of `COLUMNS`.

    Args:
        curve: `CALIBRATION`, `DELAY` or `PRICE`.
        series: one of its lines.
        edges: (bins + 1,)
        sums: (1 or 3, bins): counts, and with them sums of predictions and of observed labels.
    """
    kept = np.flatnonzero(sums[0])
    columns: dict[str, Any] = {"curve": curve, "series": series}
    columns |= {"low": edges[kept], "high": edges[kept + 1], "count": sums[0][kept]}
    for place, name in enumerate(("predicted", "observed"), start=1):
        columns[name] = sums[place][kept] if len(sums) > 1 else np.nan
    return pd.DataFrame(columns)


def delay_curves(events: pd.DataFrame) -> pd.DataFrame:
    """Delays of purchases since the click and of refunds since their purchase, hours.

    Args:
        events: `event_table` of a campaign.
    """
    bought, first = events["kind"] == "purchase", events["order_id"] == 0
    chosen = {
        "first purchase": bought & first,
        "later purchase": bought & ~first,
        "refund": events["kind"] == "refund",
    }
    delay = events["delay_hours"].to_numpy(np.float64)
    return pd.concat(
        [
            curve_rows(DELAY, name, DELAY_EDGES, binned(delay[rows.to_numpy()], DELAY_EDGES))
            for name, rows in chosen.items()
        ]
    )


def price_curves(auctions: pd.DataFrame) -> pd.DataFrame:
    """Prices to beat of sampled auctions that were won and that were lost, and prices paid.

    Args:
        auctions: as sampled by `scenarios.run.play`.
    """
    price, paid = (auctions[name].to_numpy(np.float64) for name in ("price", "paid"))
    won, known = auctions["won"].to_numpy(bool), np.isfinite(price)
    parts = {"won": price[won & known], "lost": price[~won & known], "paid": paid[won]}
    return pd.concat(
        [
            curve_rows(PRICE, name, MONEY_EDGES, binned(values[np.isfinite(values)], MONEY_EDGES))
            for name, values in parts.items()
        ]
    )
