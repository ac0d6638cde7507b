"""Expected net GMV from the refunded share of GMV, or from the refund rate: which is nearer?

Logs of scenario `price_refunds`, where dear purchases come back more often, with structure seeds
0 to 4: users, items and hidden effects anew in each. Every method is pre-trained on the clicks of
days 0-15 and learns from the stream of days 25-35, each eighth of a day predicted before it is
learned from. Expected net GMV of a converted click is its true expected GMV times 1 - what the
method says comes back, so that all errors are those of the refund.

- constant: the refunded share of GMV of all purchases of days 0-15
- refund rate: that of first purchases, by the same network without weights, as a method that knows
  conversions only would have it
- refund share: `RefundShare`
- no cap: the same with weights that are not capped
- truth: the true share

PCOC: sum of expected over sum of true net GMV. Relative error: mean of |expected / true - 1|. Loss
of value: what truthful bids of the expected net GMV earn less than those of the true one, in second
price auctions whose prices follow gross values, as rivals do who take all purchases to come back
alike: log-normal, median = GMV x mean kept share, log sd as in the scenario. Means with 95 % t
intervals over the structures; differences are paired, method - refund share.

Run it with `python -m benchmarks.refund_share`, a minute on one core; `--scenario heavy_refund`
shows what the weights cost where refunds do not depend on amounts. `--seeds 0,1`, `--json`.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr

from adsim.purchaselog import PurchaseLog, generate_purchases
from adsim.types import FloatArray, IntArray, Target
from predictors.purchase_stream import PurchaseStream
from predictors.refund_share import RefundShare, RefundShareConfig, RefundSharePretraining
from predictors.stream import Split, gather, rounds
from scenarios import console
from scenarios.cli import parse_seeds
from scenarios.intervals import interval
from scenarios.schema import load

SCENARIO, SEEDS = "price_refunds", (0, 1, 2, 3, 4)
# 26 days of conversions, purchases up to a week later, refunds up to 3 days after these.
SPLIT = Split(pretrain_days=15, stream_start_day=25, stream_end_day=35, segment_days=0.125)
SIZE = {"time.tick_hours": 1.0, "time.num_ticks": 24 * 35, "traffic.impressions_per_tick": 1_000.0}
METHODS = {
    "refund rate": RefundShareConfig(weights="first_purchase"),
    "refund share": RefundShareConfig(),
    "no cap": RefundShareConfig(weight_cap=1.0),
}
REFERENCE = "refund share"  # differences are against it
COLUMNS = {"pcoc": "PCOC", "error": "relative error", "loss": "loss of value"}


def make_log(seed: int, scenario: str) -> tuple[PurchaseLog, float]:
    """A log (some 1,600 converted clicks a day), and the standard deviation of log prices."""
    world = load(scenario, {**SIZE, "structure_seed": seed}).world
    return generate_purchases(world, seed), world.market.landscape.log_sd


def predicted_shares(stream: PurchaseStream, seed: int) -> tuple[IntArray, dict[str, FloatArray]]:
    """The N clicks that are predicted, and what each method says comes back, (N,) each."""
    history = stream.history()
    pretraining = RefundSharePretraining(history, stream.split, seed=seed)
    shares = {}
    for name, config in METHODS.items():
        method = RefundShare(history.cardinalities, config, seed=seed)
        method.fit(history, stream.split, pretraining=pretraining, follow=True)
        parts = rounds(method, stream, (Target.REFUND_VALUE_SHARE,), lambda segment: None)
        shares[name] = gather(parts).means[0]
    rows = pretraining.matured(METHODS[REFERENCE])
    constant = (rows.amount @ rows.refunded) / rows.amount.sum()
    log, held = stream.log, map(stream.test_clicks, range(stream.split.num_segments))
    click = np.concatenate([np.arange(part.start, part.stop) for part in held])
    truth = 1 - log.net_gmv_truth[click] / log.gmv_truth[click]
    return click, {"constant": np.full(click.size, constant), **shares, "truth": truth}


def surplus(bid: FloatArray, value: FloatArray, median: FloatArray, log_sd: float) -> FloatArray:
    """Expected profit (N,) of bids in second-price auctions against log-normal prices.

    E[(value - price) 1(price <= bid)] for log price ~ N(log median, log_sd^2): with z = log(bid /
    median) / log_sd, value Phi(z) - median exp(log_sd^2 / 2) Phi(z - log_sd).
    """
    z = np.log(bid / median) / log_sd
    return value * ndtr(z) - median * np.exp(0.5 * log_sd**2) * ndtr(z - log_sd)


def scores(gmv: FloatArray, net_gmv: FloatArray, share: FloatArray, log_sd: float) -> FloatArray:
    """PCOC, mean relative error and loss of value, (3,), of refunded shares (N,)."""
    expected = gmv * (1 - share)
    median = gmv * (net_gmv.sum() / gmv.sum())
    best = surplus(net_gmv, net_gmv, median, log_sd).sum()
    earned = surplus(expected, net_gmv, median, log_sd).sum()
    error = np.abs(expected / net_gmv - 1).mean()
    loss = max(0.0, 1 - earned / best)  # below 0 by rounding only: the true value is the best bid
    return np.array([expected.sum() / net_gmv.sum(), error, loss])


def measure(seed: int, scenario: str = SCENARIO) -> dict[str, FloatArray]:
    """Scores (3,) of every method in one structure."""
    log, log_sd = make_log(seed, scenario)
    click, shares = predicted_shares(PurchaseStream(log, SPLIT), seed)
    gmv, net_gmv = log.gmv_truth[click], log.net_gmv_truth[click]
    return {name: scores(gmv, net_gmv, share, log_sd) for name, share in shares.items()}


def rows_of(measured: Sequence[dict[str, FloatArray]]) -> list[dict[str, Any]]:
    """A row per method: means over seeds and paired differences, with their intervals."""
    rows = []
    for name in measured[0]:
        row: dict[str, Any] = {"method": name, "seeds": len(measured)}
        for place, column in enumerate(COLUMNS):
            values, against = (
                np.array([seed[method][place] for seed in measured]) for method in (name, REFERENCE)
            )
            for key, found in ((column, values), (f"{column}_diff", values - against)):
                row |= dict(zip((key, f"{key}_low", f"{key}_high"), interval(found), strict=True))
        rows.append(row)
    return rows


def print_rows(rows: Sequence[dict[str, Any]], scenario: str) -> None:
    """The table."""
    header = ["", *(text for name in COLUMNS.values() for text in (name, "difference"))]
    cells = []
    for row in rows:
        line = [row["method"]]
        for column in COLUMNS:
            for key in (column, f"{column}_diff"):
                shown = key == column or row["method"] != REFERENCE
                bounds = (row[key], row[f"{key}_low"], row[f"{key}_high"])
                line.append(console.with_interval(*bounds, digits=3) if shown else "")
        cells.append(line)
    title = f"Expected net GMV in {scenario}, {rows[0]['seeds']} structures"
    note = f"Means with 95 % intervals; differences: method - {REFERENCE}, paired."
    console.print_table(title, header, cells, note)


def main(*, scenario: str = SCENARIO, seeds: Sequence[int] = SEEDS, as_json: bool = False) -> None:
    """Measures and prints."""
    torch.set_num_threads(1)  # networks as small as these are slower on several
    measured = []
    with console.progress("bench refund_share", len(seeds)) as advance:
        for seed in seeds:
            measured.append(measure(seed, scenario))
            advance(note=f"structure {seed}")
    rows = rows_of(measured)
    if as_json:
        console.emit_json(rows, scenario=scenario)
    else:
        print_rows(rows, scenario)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Refunded share of GMV against the refund rate.")
    parser.add_argument("--scenario", default=SCENARIO, help="name or .toml file")
    parser.add_argument("--seeds", default=",".join(map(str, SEEDS)), help="structures, e.g. 0-4")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    with console.user_errors():
        main(scenario=options.scenario, seeds=parse_seeds(options.seeds), as_json=options.json)
