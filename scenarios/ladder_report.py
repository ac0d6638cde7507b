"""Table and figure of the ladder of estimates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scenarios import console
from scenarios.intervals import Interval, by_campaign, clustered, paired
from scenarios.palette import BLUE, COLOURS, GREEN, VERMILLION
from scenarios.plots import GREY, INK, SMALL_SIZE, dressed, new_figure, save_figure
from scenarios.stacks import RUNGS

Row = dict[str, Any]
HINDSIGHT = "hindsight"
TARGETS = {"ctr": "CTR", "cvr": "CVR", "refund_rate": "refunds", "gmv": "GMV", "net_gmv": "net GMV"}
"""Estimates whose calibration is shown, with their names."""
_ABOUT = {name: rung.about for name, rung in RUNGS.items()}
_ABOUT |= {"oracle": "estimates by the oracle", HINDSIGHT: "bound of hindsight"}


def rows_of(trials: Any) -> list[Row]:
    """One row per rung, worst first, and the bound of hindsight.

    Args:
        trials: finished ones of one agent; the rungs are their `estimates`.
    """
    table, oracle = trials, trials[trials["estimates"] == "oracle"]
    if len(oracle) and oracle["hindsight"].notna().all():
        bound = oracle.assign(estimates=HINDSIGHT, expected_net_value=oracle["hindsight"])
        table = pd.concat([table, bound.assign(net_value=np.nan)], ignore_index=True)
    names = list(dict.fromkeys(table["estimates"]))
    return [
        _row(table, name, names[place - 1] if place else None) for place, name in enumerate(names)
    ]


def _row(table: Any, name: str, below: str | None) -> Row:
    """One rung, compared with the one below."""
    part = table[table["estimates"] == name]
    played = name != HINDSIGHT
    row: Row = {"rung": name, "about": _ABOUT.get(name, name)}
    row |= {"structures": part["structure"].nunique(), "seeds": part["seed"].nunique()}
    for column, prefix in (("expected_net_value", "expected"), ("net_value", "ci")):
        found = clustered(by_campaign(part, column))
        row |= {column: found.mean, f"{prefix}_low": found.low, f"{prefix}_high": found.high}
    unknown = Interval(float("nan"), float("nan"), float("nan"))
    for column, prefix in (("expected_net_value", "paired"), ("net_value", "realised")):
        compared = below and (played or prefix == "paired")
        found = paired(part, table[table["estimates"] == below], column) if compared else unknown
        row |= dict(zip((f"{prefix}_diff", f"{prefix}_low", f"{prefix}_high"), found, strict=True))
    for share, other in (("share_of_oracle", "oracle"), ("share_of_hindsight", HINDSIGHT)):
        best = table[table["estimates"] == other]["expected_net_value"].sum()
        row[share] = float(part["expected_net_value"].sum() / best) if best else float("nan")
    for target in TARGETS:
        sums = [
            float(part[f"{target}_{kind}"].sum()) if played else float("nan")
            for kind in ("predicted", "observed")
        ]
        said = sums[0] > 0 and sums[1] > 0  # FNC says nothing of refunds
        row[f"pcoc_{target}"] = sums[0] / sums[1] if said else float("nan")
    for column in ("share_of_best_choice", "learn_seconds_per_hour", "predict_ms_per_tick"):
        known = played and column in part
        row[column] = float(part[column].mean()) if known else float("nan")
    return row


def print_rows(title: str, rows: Sequence[Row], note: str) -> None:
    """The table of `adsim run`."""
    header = ["rung", "estimates", "expected net value", "vs rung below", "realised net value"]
    header += ["vs rung below", "of oracle", "of hindsight"]
    header += [f"PCOC {name}" for name in TARGETS.values()]
    cells = []
    for place, row in enumerate(rows):
        values = [
            _cell(row, "expected_net_value", "expected"),
            _cell(row, "paired_diff", "paired"),
            _cell(row, "net_value", "ci"),
            _cell(row, "realised_diff", "realised"),
        ]
        shares = [f"{100 * row[s]:.1f} %" for s in ("share_of_oracle", "share_of_hindsight")]
        pcoc = [console.number(row[f"pcoc_{target}"], 2) for target in TARGETS]
        cells.append([f"{place + 1} {row['rung']}", row["about"], *values, *shares, *pcoc])
    console.print_table(title, header, cells, note, text_columns=2)


def _cell(row: Row, mean: str, bounds: str) -> str:
    if not np.isfinite(row[mean]):
        return "-"
    return console.with_interval(row[mean], row[f"{bounds}_low"], row[f"{bounds}_high"])


def plot_values(rows: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Expected and realised net value of every rung with intervals; worst at the top."""
    seeds = rows[0]["seeds"]
    title = f"What better estimates are worth\n{seeds} seeds, bars: 95 % intervals of the means"
    ax = dressed(ax, title, "net value of the campaign, currency", "")
    places = np.arange(len(rows))
    for column, prefix, colour, shift in (
        ("net_value", "ci", GREY, 0.17),
        ("expected_net_value", "expected", BLUE, -0.17),
    ):
        mean = np.array([row[column] for row in rows])
        low, high = (np.array([row[f"{prefix}_{end}"] for row in rows]) for end in ("low", "high"))
        known = np.isfinite(low) & np.isfinite(high)
        spread = np.where(known, np.stack([mean - low, high - mean]), 0.0)
        ax.errorbar(mean, places + shift, xerr=spread, fmt="o", color=colour, ms=5, capsize=2)
    for place, row in enumerate(rows):
        ax.annotate(
            f"{100 * row['share_of_oracle']:.1f} % of oracle",
            (row["expected_net_value"], place - 0.17),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=SMALL_SIZE,
            color=BLUE,
        )
    ax.set_yticks(places, [f"{row['rung']}\n{row['about']}" for row in rows], fontsize=SMALL_SIZE)
    ax.set_ylim(len(rows) - 0.5, -0.75)
    ax.margins(x=0.12)
    for text, colour, at in (("expected", BLUE, 0.02), ("realised", GREY, 0.17)):
        ax.text(at, 0.02, text, transform=ax.transAxes, color=colour, fontsize=SMALL_SIZE)
    return ax


def plot_steps(rows: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Paired difference of every rung to the one below, expected net value."""
    ax = dressed(ax, "Step from the rung below\npaired by seed", "expected net value, currency", "")
    for place, row in enumerate(rows):
        mean = row["paired_diff"]
        if not np.isfinite(mean):
            continue
        low, high = row["paired_low"], row["paired_high"]
        colour = GREEN if low > 0 else VERMILLION if high < 0 else GREY
        half = 0.5 * (high - low) if np.isfinite(high - low) else 0.0
        ax.barh(place, mean, height=0.55, color=colour, alpha=0.75, xerr=half, capsize=2)
    ax.axvline(0.0, color=INK, lw=0.8)
    ax.set_yticks(range(len(rows)), [""] * len(rows))
    ax.set_ylim(len(rows) - 0.5, -0.75)
    return ax


def plot_calibration(rows: Sequence[Row], ax: Axes | None = None) -> Axes:
    """Predicted over observed of each estimate, at the moment of the bid; 1 is right."""
    title = "Calibration on what was won\npredicted / observed"
    ax = dressed(ax, title, "PCOC", "")
    colours = dict(zip(TARGETS, (*COLOURS[:4], INK), strict=True))
    marks = dict(zip(TARGETS, "osD^*", strict=True))
    for target, name in TARGETS.items():
        value = np.array([row[f"pcoc_{target}"] for row in rows])
        options = {"ms": 6, "ls": "", "marker": marks[target], "color": colours[target]}
        ax.plot(value, np.arange(len(rows)), label=name, alpha=0.85, **options)
    ax.axvline(1.0, color=INK, lw=0.8)
    ax.set_yticks(range(len(rows)), [""] * len(rows))
    ax.set_ylim(len(rows) - 0.5, -0.75)
    ax.legend(fontsize=SMALL_SIZE, frameon=False, loc="lower right")
    return ax


def plot(rows: Sequence[Row], title: str) -> Figure:
    """Values, steps and calibration side by side."""
    figure = new_figure(12.4, 1.6 + 0.62 * len(rows))
    axes = figure.subplots(1, 3, width_ratios=(1.5, 1.0, 1.0))
    plot_values(rows, axes[0])
    plot_steps(rows, axes[1])
    plot_calibration(rows, axes[2])
    figure.suptitle(title, fontsize=11.5)
    return figure


def save_plot(rows: Sequence[Row], title: str, folder: Path) -> Path:
    """Writes `ladder.png`."""
    return save_figure(plot(rows, title), folder / "ladder.png")
