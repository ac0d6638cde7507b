"""Tables and figures of a comparison of GMV predictors; what intervals are: `report`."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from predictors.purchase_stream import GmvResult
from scenarios import console, report
from scenarios.gmv import SINGLE_TOWER, SPLIT, TRUTH
from scenarios.gmv_tasks import SCORES, STUDY, pooled
from scenarios.palette import BLUE, GREEN, LINES, VERMILLION
from scenarios.plots import INK, SMALL_SIZE, dressed, new_figure, save_figure
from scenarios.report import Metric

BINS = 10  # of the calibration, with as many clicks each
_FIRST = "reader"  # the method that the others are compared with, too
_PARTIAL = "online_single"  # shown beside it: trained on the amounts seen so far
_ZERO = "pre_single"
_TOLD = ("oracle_dual", "oracle_independent", "oracle_frozen")  # the kind of each click
_SHOWN = ("auc", "acc", "alpr")  # differences in the table

METRICS = (
    Metric("auc", "auc", 1),
    Metric("acc", "acc", 1),
    Metric("alpr", "alpr", -1),
    Metric("log_mae", "log_mae", -1),
    Metric("mape", "mape", -1),
    Metric("pcoc", "gmv", -1, of_sums=True),
)


def facts(result: GmvResult) -> dict[str, Any]:
    """Of a run: metrics of all rows together, and the calibration."""
    return {"pooled": pooled(result), "calibration": calibration(result)}


collect = partial(report.collect, STUDY, facts=facts)


def calibration(result: GmvResult) -> dict[str, list[float]]:
    """Predicted and final GMV, currency, in `BINS` bins of equal size by the prediction.

    Returns:
        `predicted`: medians; `low`, `median`, `high`: quartiles of the final GMV. Empty lists if
        there are fewer rows than bins, or predictions that are not finite.
    """
    levels = {"low": 0.25, "median": 0.5, "high": 0.75}
    predicted, label = (np.asarray(x, np.float64) for x in (result.gmv, result.label))
    if predicted.size < BINS or not np.isfinite(predicted).all():
        return {name: [] for name in ("predicted", *levels)}
    parts = np.array_split(np.argsort(predicted, kind="stable"), BINS)
    found = {"predicted": [float(np.median(predicted[rows])) for rows in parts]}
    quartiles = np.array([np.quantile(label[rows], list(levels.values())) for rows in parts])
    return found | dict(zip(levels, quartiles.T.tolist(), strict=True))


class Group(report.Group):
    """The methods of one scenario and set-up, over the same segments of the same seeds."""

    split = SPLIT
    baselines = SINGLE_TOWER

    def row(self, method: str) -> dict[str, Any]:
        """Means of a method, and its differences to the strongest baselines and to READER."""
        row = self.head(method, "auc")
        row |= {name: self.mean(method, name) for name in SCORES}
        row["pcoc"] = self.pcoc(method, "gmv")
        for metric in METRICS:
            row |= self.differences(metric, method, _FIRST)
            if not metric.of_sums:
                row |= self._per_cent(metric, row)
        row["clusters"] = self.clustering
        return row

    def _per_cent(self, metric: Metric, row: dict[str, Any]) -> dict[str, float]:
        """The difference to the strongest baseline, per cent of that one's mean."""
        name, level = f"{metric.name}_diff", self.mean(self.strongest(metric), metric.column)
        scale = 100.0 / level if level else math.nan
        ends = ("", "_low", "_high")
        return {f"{name}_percent{end}": scale * row[name + end] for end in ends}


def rows_of(segments: pd.DataFrame, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: one row per scenario, set-up and method, and one of the truth if it is known."""
    rows = []
    for (scenario, setup), group in report.groups_of(segments, Group).items():
        for method in group.methods:
            own = report.runs_of(runs, scenario, setup, method)
            row = {"scenario": scenario, "setup": setup, **group.row(method)}
            for name in SCORES:
                row[f"pooled_{name}"] = float(np.mean([run["pooled"][name] for run in own]))
            rows.append({**row, "rows_per_s": report.speed_of(own)})
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """One table per scenario and set-up."""
    header = ["", "AUC", "ACC", "ALPR", "PCOC", "median bias", "MAPE", "rows/s"]
    header += [f"{name.upper()} diff." for name in _SHOWN]
    report.print_tables(rows, header, _cells, _note)


def _cells(row: dict[str, Any]) -> list[str]:
    digits = {"auc": 4, "acc": 4, "alpr": 4, "pcoc": 3, "log_bias": 3, "mape": 3}
    # An expectation is no median: other metrics of the truth are not the best there are.
    known = digits if row["method"] != TRUTH else ("auc", "pcoc")
    values = [row[name] if name in known else math.nan for name in digits]
    cells = [console.number(x, n) for x, n in zip(values, digits.values(), strict=True)]
    return [
        row["method"],
        *cells,
        console.number(row["rows_per_s"]),
        *(_difference(row, name) if name in known else "" for name in _SHOWN),
    ]


def _difference(row: dict[str, Any], name: str) -> str:
    if row["method"] == row[f"{name}_baseline"]:
        return "best"
    key = f"{name}_diff"
    return console.with_interval(row[key], row[f"{key}_low"], row[f"{key}_high"], 4)


def _note(rows: Sequence[dict[str, Any]]) -> str:
    row, note = rows[0], report.note_of(rows, "without AUC")
    note += " Median bias: of ln(predicted / final)."
    if any(other["method"] == TRUTH for other in rows):
        note += f" {TRUTH}: expected GMV given the hidden effects."
    if any(other["method"].startswith("oracle_") for other in rows):
        note += " Oracles learn final amounts at once; those with two towers are told the kind of"
        note += " each click, in prediction too."
    best = [f"{name.upper()}: {row[f'{name}_baseline']}" for name in _SHOWN]
    if row["auc_baseline"]:
        note += f" diff.: to the best single tower ({', '.join(best)}), paired, with 95 % t"
        note += f" interval over {report.clusters_of(row)}."
    reader = [other for other in rows if other["method"] == _FIRST]
    if row["auc_baseline"] and reader:
        per_cent = {name.upper(): reader[0][f"{name}_diff_percent"] for name in _SHOWN}
        shares = [f"{name} {x:+.2f} %" for name, x in per_cent.items() if not math.isnan(x)]
        note += f" {_FIRST}, relative: {', '.join(shares)}." * bool(shares)
    return note


def plot_stream(group: Group, ax: Axes | None = None) -> Axes:
    """ALPR less that of the pre-trained single tower (if it is there), day by day of the stream.

    READER and the strongest other single tower stand out with 95 % intervals, over the seeds or
    else over the segments of the day. Methods that are told the kind of each click are far below
    the others: only their means are given.
    """
    zero = _ZERO if _ZERO in group.methods else ""
    title = f"Error over the stream\n{report.bands_of(group)}"
    ax = dressed(ax, title, "day of the stream", "ALPR (binary orders of magnitude)")
    if zero:
        ax.set_ylabel(f"ALPR - that of {zero} (binary orders of magnitude)")
    strongest = group.strongest(METRICS[2], but=zero)
    looks: dict[str, dict[str, Any]] = {
        _ZERO: {"color": INK, "lw": 1.2, "zorder": 3.5},
        "oracle_single": {"color": GREEN, "lw": 1.8, "ls": LINES[1], "zorder": 4},
        strongest: {"color": BLUE, "lw": 1.8, "ls": LINES[2], "zorder": 4},
        _FIRST: {"color": VERMILLION, "lw": 2.4, "zorder": 5},
    }
    told = [name for name in group.methods if name in _TOLD]
    shown = [name for name in group.methods if name not in _TOLD] or told
    report.plot_days(
        ax,
        group,
        "alpr",
        shown,
        zero=zero,
        looks=looks,
        bands={strongest, _FIRST},
        first=_FIRST,
    )
    if told and told != shown:
        level = group.mean(zero, "alpr") if zero else 0.0
        means = [f"{name} {group.mean(name, 'alpr') - level:.3f}" for name in told]
        text = f"not shown, mean: {', '.join(means)}".replace("-", "\N{MINUS SIGN}")
        ax.set_xlabel(f"{ax.get_xlabel()}\n{text}")
    return ax


def plot_calibration(runs: Sequence[dict[str, Any]], ax: Axes | None = None) -> Axes:
    """Predicted against final GMV in bins of the prediction, geometric means over seeds.

    Args:
        runs: of one scenario and set-up; those of READER and of Online-Single are shown.
        ax: where to draw.
    """
    title = "Final GMV by tenths of the prediction\nmedians; bands: quartiles"
    ax = dressed(ax, title, "predicted GMV (currency)", "final GMV (currency)")
    looks = {_PARTIAL: (BLUE, "s", LINES[2]), _FIRST: (VERMILLION, "o", LINES[0])}
    for place, (method, (colour, marker, line)) in enumerate(looks.items()):
        bins = [run["calibration"] for run in runs if run["method"] == method]
        bins = [found for found in bins if found["predicted"]]
        if not bins:
            continue
        x, low, middle, high = (
            np.exp(np.mean([np.log(found[name]) for found in bins], axis=0))
            for name in ("predicted", "low", "median", "high")
        )
        ax.fill_between(x, low, high, color=colour, alpha=0.13, lw=0, zorder=2)
        look = {"marker": marker, "ms": 4.5, "lw": 1.6, "ls": line, "label": method}
        ax.plot(x, middle, color=colour, zorder=3 + place, **look)
    _log_log(ax)
    return ax


def _log_log(ax: Axes) -> None:
    """Logarithmic axes with one scale, and the diagonal."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    ends = [*ax.get_xlim(), *ax.get_ylim()]
    ends = [min(ends), max(ends)]
    ax.plot(ends, ends, color=INK, ls=LINES[3], lw=1.2, label="predicted = final", zorder=2.5)
    ax.set_xlim(*ends)
    ax.set_ylim(*ends)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.legend(frameon=False, fontsize=SMALL_SIZE, loc="upper left", labelcolor=INK)


def plot(group: Group, runs: Sequence[dict[str, Any]], title: str) -> Figure:
    """Both panels of one scenario and set-up.

    Args:
        group: of the scenario and set-up.
        runs: the same, from `collect`.
        title: of the figure.
    """
    figure = new_figure(12.6, 5.4)
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1.0])
    plot_stream(group, left)
    plot_calibration(runs, right)
    figure.suptitle(title, fontsize=11.5)
    return figure


def save_figures(segments: pd.DataFrame, runs: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Writes `<scenario>-<set-up>.png` for each scenario and set-up; the truth is no line."""
    paths = []
    methods = segments.take(np.flatnonzero(segments["method"] != TRUTH))
    for (scenario, setup), group in report.groups_of(methods, Group).items():
        own = [run for run in runs if (run["scenario"], run["setup"]) == (scenario, setup)]
        title = f"{scenario}, set-up {setup}: {report.seeds_of(group)}"
        paths.append(save_figure(plot(group, own, title), out / f"{scenario}-{setup}.png"))
    return paths
