"""Tables and figures of a comparison of NetCVR predictors; what intervals are: `report`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from predictors.metrics import relative_improvement
from scenarios import console, report
from scenarios.netcvr import BASELINES, SPLIT
from scenarios.netcvr_tasks import STUDY
from scenarios.palette import BLUE, GREEN, LINES, VERMILLION
from scenarios.plots import INK, dressed, save_figure
from scenarios.report import Metric

_OF_SEGMENTS = ("auc", "nll", "prauc")
_FIRST = "tesla"  # the method that the others are compared with, too

METRICS = (
    Metric("netcvr_auc", "netcvr_auc", 1),
    Metric("netcvr_ri_auc", "netcvr_auc", 1, relative=True),
    Metric("netcvr_ri_prauc", "netcvr_prauc", 1, relative=True),
    Metric("netcvr_nll", "netcvr_nll", -1),
    Metric("cvr_auc", "cvr_auc", 1),
    Metric("refund_pcoc", "refund", -1, of_sums=True),
)

collect = partial(report.collect, STUDY)


class Group(report.Group):
    """The methods of one scenario and set-up, over the same segments of the same seeds."""

    split = SPLIT
    baselines = BASELINES

    def improvement(self, method: str, name: str) -> float:
        """Relative improvement, per cent: 0 for pre_trained, 100 for oracle."""
        means = (self.mean(who, name) for who in (method, "pre_trained", "oracle"))
        return relative_improvement(*means) + 0.0  # -0 is 0

    def unit(self, metric: Metric) -> float:
        """The way from pre_trained to oracle; NaN if there is none."""
        gap = self.mean("oracle", metric.column) - self.mean("pre_trained", metric.column)
        return gap or float("nan")

    def row(self, method: str) -> dict[str, Any]:
        """Means of a method, and its differences to the strongest baselines and to TESLA."""
        both = ("cvr", "netcvr")
        row = self.head(method, "netcvr_auc")
        row |= {f"{t}_{m}": self.mean(method, f"{t}_{m}") for m in _OF_SEGMENTS for t in both}
        for name in ("auc", "prauc"):
            row |= {f"{t}_ri_{name}": self.improvement(method, f"{t}_{name}") for t in both}
        for key, name in (("cvr", "cvr"), ("netcvr", "netcvr"), ("rfr", "refund")):
            row[f"{key}_pcoc"] = self.pcoc(method, name)
        row["strongest_baseline"] = self.strongest(METRICS[0]) or None
        for metric in METRICS:
            row |= self.differences(metric, method, _FIRST)
        row["clusters"] = self.clustering
        return row


def rows_of(segments: pd.DataFrame, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: one row per scenario, set-up and method."""
    rows = []
    for (scenario, setup), group in report.groups_of(segments, Group).items():
        for method in group.methods:
            speed = report.speed_of(report.runs_of(runs, scenario, setup, method))
            row = {"scenario": scenario, "setup": setup, **group.row(method), "rows_per_s": speed}
            rows.append(row)
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """One table per scenario and set-up."""
    header = ["CVR/NetCVR", "AUC", "NLL", "PR-AUC", "RI-AUC", "RI-PRAUC"]
    header += ["refund PCOC", "rows/s", "NetCVR RI-AUC diff."]
    report.print_tables(rows, header, _cells, _note)


def _cells(row: dict[str, Any]) -> list[str]:
    def pair(name: str, digits: int) -> str:
        return "/".join(console.number(row[f"{of}_{name}"], digits) for of in ("cvr", "netcvr"))

    name = "netcvr_ri_auc_diff"
    difference = console.with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], 1)
    return [
        row["method"],
        *(pair(name, 4) for name in ("auc", "nll", "prauc")),
        *(pair(name, 1) for name in ("ri_auc", "ri_prauc")),
        console.number(row["rfr_pcoc"], 3),
        console.number(row["rows_per_s"]),
        "strongest" if row["method"] == row["strongest_baseline"] else difference,
    ]


def _note(rows: Sequence[dict[str, Any]]) -> str:
    row, note = rows[0], report.note_of(rows, "of one class")
    note += " RI: per cent of the way from pre_trained to oracle."
    if row["strongest_baseline"]:
        note += (
            f" diff.: to {row['strongest_baseline']}, the baseline with the best NetCVR AUC, "
            f"paired, with 95 % interval over {report.clusters_of(row)}."
        )
    return note


def plot_stream(group: Group, title: str, ax: Axes | None = None) -> Axes:
    """NetCVR AUC above that of the pre-trained model (if it is there), day by day of the stream.

    TESLA and the strongest baseline stand out with 95 % intervals, over the seeds or else over the
    segments of the day, between the lines of oracle and pre-trained model.
    """
    zero = "pre_trained" if "pre_trained" in group.methods else ""
    ax = dressed(ax, title, "day of the stream", "NetCVR AUC", height=5.4)
    if zero:
        ax.set_ylabel("NetCVR AUC - that of pre_trained")
    strongest = group.strongest(METRICS[0])
    looks: dict[str, dict[str, Any]] = {
        strongest: {"color": BLUE, "lw": 1.8, "ls": LINES[2], "zorder": 4},
        "oracle": {"color": GREEN, "lw": 1.8, "ls": LINES[1], "zorder": 4},
        _FIRST: {"color": VERMILLION, "lw": 2.4, "zorder": 5},
        "pre_trained": {"color": INK, "lw": 1.2, "zorder": 3.5},
    }
    report.plot_days(
        ax,
        group,
        "netcvr_auc",
        group.methods,
        zero=zero,
        looks=looks,
        bands={strongest, _FIRST, "pre_trained"} - {zero},
        first=_FIRST,
    )
    return ax


def save_figures(segments: pd.DataFrame, runs: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Writes `<scenario>-<set-up>.png` for each scenario and set-up."""
    paths = []
    for (scenario, setup), group in report.groups_of(segments, Group).items():
        over, bands = report.seeds_of(group), report.bands_of(group)
        ax = plot_stream(group, f"{scenario}, set-up {setup}: {over}\n{bands}")
        figure = ax.get_figure(root=True)
        paths.append(save_figure(figure, out / f"{scenario}-{setup}.png"))
    return paths
