"""Tables and figures of a comparison of NetCVR predictors: means, paired differences, intervals.

Segments are not independent: those of a seed share its hidden effects, those of a day also what
drift and training have made of them. Intervals therefore are t intervals over clusters of segments:
seeds if there are at least `LEAST_SEEDS`, else days of each seed (then they are conditional on the
worlds at hand).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy import stats
from scipy.optimize import isotonic_regression

from adsim.types import FloatArray, IntArray
from predictors.metrics import relative_improvement, slice_mean
from scenarios import console
from scenarios.netcvr import BASELINES, SPLIT, Task
from scenarios.netcvr_tasks import load_result, score
from scenarios.palette import BLUE, GREEN, LINES, VERMILLION
from scenarios.plots import GREY, INK, PALE, SMALL_SIZE, dressed, save_figure
from scenarios.results import CONFIDENCE, Interval

LEAST_SEEDS = 3  # from here on seeds are the clusters
SEGMENTS_A_DAY = round(1 / SPLIT.segment_days)
_OF_SEGMENTS = ("auc", "nll", "prauc")
_ZERO, _UNKNOWN = Interval(0.0, 0.0, 0.0), Interval(*[float("nan")] * 3)


class Metric(NamedTuple):
    """Of which paired differences are taken."""

    name: str
    column: str  # per segment; "": |log refund PCOC|, of all rows of a cluster
    best: int  # 1: the higher the better, -1: the lower
    relative: str = ""  # "auc" or "prauc" if it is a relative improvement, per cent


METRICS = (
    Metric("netcvr_auc", "netcvr_auc", 1),
    Metric("netcvr_ri_auc", "netcvr_auc", 1, "auc"),
    Metric("netcvr_ri_prauc", "netcvr_prauc", 1, "prauc"),
    Metric("netcvr_nll", "netcvr_nll", -1),
    Metric("cvr_auc", "cvr_auc", 1),
    Metric("refund_pcoc", "", -1),
)


def collect(tasks: Sequence[Task], out: Path) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Metrics per segment, and facts per run, of at least one finished task."""
    segments, runs = [], []
    for task in tasks:
        result, about = load_result(task, out)
        world = task.world
        keys = {"scenario": world.label, "setup": world.setup, "seed": world.seed}
        keys["method"] = task.name
        table = score(result)
        for place, (name, value) in enumerate(keys.items()):
            table.insert(place, name, value)
        segments.append(table)
        facts = {"clicks_a_day": world.clicks or None, "trained_rows": about["trained_rows"]}
        runs.append({**keys, **facts, **about["seconds"]})
    return pd.concat(segments, ignore_index=True), runs


def cluster_interval(values: FloatArray, clusters: IntArray) -> Interval:
    """Mean with a 95 % t interval whose independent observations are clusters of values.

    Args:
        values: (N,); NaN are left out.
        clusters: (N,) the cluster of each value.

    Returns:
        mean ± t(G - 1) s, s^2 = G / (G - 1) sum over G clusters of (sum of deviations)^2 / N^2;
        with clusters of one size the interval of their means. Infinite with one cluster.
    """
    known = ~np.isnan(values)
    values, clusters = values[known], clusters[known]
    if not values.size:
        return _UNKNOWN
    mean = float(values.mean())
    _, place = np.unique(clusters, return_inverse=True)
    totals = np.bincount(place, values - mean)
    if totals.size < 2:
        return Interval(mean, -np.inf, np.inf)
    error = np.sqrt(totals.size / (totals.size - 1) * np.square(totals).sum()) / values.size
    half = float(stats.t.ppf(0.5 + CONFIDENCE / 2, totals.size - 1) * error)
    return Interval(mean, mean - half, mean + half)


class Group:
    """The methods of one scenario and set-up, over the same segments of the same seeds.

    Args:
        segments: rows of `collect` of one scenario and set-up.
    """

    def __init__(self, segments: pd.DataFrame) -> None:
        self.methods = list(dict.fromkeys(segments["method"]))
        ordered = segments.sort_values(["seed", "segment"], kind="stable")
        self.parts = {name: ordered[ordered["method"] == name] for name in self.methods}
        first = self.parts[self.methods[0]]
        self.seed, self.segment = np.array(first["seed"]), np.array(first["segment"])
        self.num_seeds = np.unique(self.seed).size
        self.over_seeds = self.num_seeds >= LEAST_SEEDS
        day = self.segment // SEGMENTS_A_DAY
        self.clusters = self.seed if self.over_seeds else self.seed * 1_000 + day

    def column(self, method: str, name: str) -> FloatArray:
        """Values of every segment of every seed, NaN where undefined."""
        return np.asarray(self.parts[method][name], dtype=np.float64)

    def mean(self, method: str, name: str) -> float:
        """Mean of a column over the segments where it is defined; NaN for an absent method."""
        if method not in self.parts:
            return float("nan")
        return slice_mean(self.column(method, name)).mean

    def improvement(self, method: str, name: str) -> float:
        """Relative improvement, per cent: 0 for pre_trained, 100 for oracle."""
        means = (self.mean(who, name) for who in (method, "pre_trained", "oracle"))
        return relative_improvement(*means) + 0.0  # -0 is 0

    def calibration(self, method: str, name: str, by: NDArray[Any]) -> FloatArray:
        """Predicted over observed events, of all clicks with one value of `by`; NaN without any."""
        _, place = np.unique(by, return_inverse=True)
        predicted = np.bincount(place, self.column(method, f"{name}_predicted"))
        observed = np.bincount(place, self.column(method, f"{name}_observed"))
        nothing = np.full(observed.size, np.nan)
        return np.divide(predicted, observed, out=nothing, where=observed > 0)

    def difference(self, metric: Metric, method: str, other: str) -> Interval:
        """Of a method and another one, paired, with its interval."""
        if not {method, other} <= self.parts.keys():
            return _UNKNOWN
        if method == other:
            return _ZERO
        if not metric.column:
            one, two = (self._miscalibration(name) for name in (method, other))
            return cluster_interval(one - two, np.arange(one.size))
        values = self.column(method, metric.column) - self.column(other, metric.column)
        found = cluster_interval(values, self.clusters)
        if not metric.relative:
            return found
        gap = self.mean("oracle", metric.column) - self.mean("pre_trained", metric.column)
        scale = 100.0 / gap if gap else float("nan")
        mean, *bounds = (scale * value for value in found)
        return Interval(mean, min(bounds), max(bounds))

    def _miscalibration(self, method: str) -> FloatArray:
        """|log PCOC| of the refund rate by cluster; 0 is calibrated.

        Of all rows of a cluster: that of single segments would mostly be the luck of few refunds.
        """
        with np.errstate(divide="ignore"):
            logs = np.abs(np.log(self.calibration(method, "refund", self.clusters)))
        return np.where(np.isfinite(logs), logs, np.nan)

    def strongest(self, metric: Metric) -> str:
        """The baseline with the best mean; "" if there is none."""

        def level(name: str) -> float:
            if metric.column:
                return metric.best * self.mean(name, metric.column)
            known = self._miscalibration(name)
            return -float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")

        levels = {name: level(name) for name in BASELINES if name in self.parts}
        levels = {name: value for name, value in levels.items() if value == value}
        return max(levels, key=lambda name: levels[name], default="")

    def row(self, method: str) -> dict[str, Any]:
        """Means of a method, and its differences to the strongest baselines and to TESLA."""
        both = ("cvr", "netcvr")
        auc = slice_mean(self.column(method, "netcvr_auc"))
        row: dict[str, Any] = {"method": method, "seeds": self.num_seeds, "segments": auc.count}
        row["segments_left_out"] = auc.left_out
        row["test_clicks"] = int(self.column(method, "clicks").sum())
        row |= {f"{t}_{m}": self.mean(method, f"{t}_{m}") for m in _OF_SEGMENTS for t in both}
        for name in ("auc", "prauc"):
            row |= {f"{t}_ri_{name}": self.improvement(method, f"{t}_{name}") for t in both}
        for key, name in (("cvr", "cvr"), ("netcvr", "netcvr"), ("rfr", "refund")):
            by_seed = self.calibration(method, name, self.seed)
            row[f"{key}_pcoc"] = slice_mean(by_seed).mean
        row["strongest_baseline"] = self.strongest(METRICS[0]) or None
        for metric in METRICS:
            name, best = metric.name, self.strongest(metric)
            row[f"{name}_baseline"] = best or None
            for key, interval in (
                (f"{name}_diff", self.difference(metric, method, best)),
                (f"tesla_{name}_diff", self.difference(metric, "tesla", method)),
            ):
                row[key], row[f"{key}_low"], row[f"{key}_high"] = interval
        row["clusters"] = "seeds" if self.over_seeds else "days"
        return row


def groups_of(segments: pd.DataFrame) -> dict[tuple[str, str], Group]:
    """`Group` by scenario and set-up."""
    pairs = list(zip(segments["scenario"], segments["setup"], strict=True))
    places: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair, []).append(place)
    return {pair: Group(segments.take(rows)) for pair, rows in places.items()}


def rows_of(segments: pd.DataFrame, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The table: one row per scenario, set-up and method."""
    rows = []
    for (scenario, setup), group in groups_of(segments).items():
        for method in group.methods:
            key = (scenario, setup, method)
            own = [run for run in runs if (run["scenario"], run["setup"], run["method"]) == key]
            trained, seconds = (sum(run[name] for run in own) for name in ("trained_rows", "train"))
            speed = trained / seconds if trained else float("nan")
            row = {"scenario": scenario, "setup": setup, **group.row(method), "rows_per_s": speed}
            rows.append(row)
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """One table per scenario and set-up."""
    pairs = dict.fromkeys((row["scenario"], row["setup"]) for row in rows)
    header = ["CVR/NetCVR", "AUC", "NLL", "PR-AUC", "RI-AUC", "RI-PRAUC"]
    header += ["refund PCOC", "rows/s", "NetCVR RI-AUC diff."]
    for scenario, setup in pairs:
        own = [row for row in rows if (row["scenario"], row["setup"]) == (scenario, setup)]
        title = f"{scenario}, set-up {setup}"
        console.print_table(title, header, [_cells(row) for row in own], _note(own[0]))


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


def _note(row: dict[str, Any]) -> str:
    seeds, left_out = row["seeds"], row["segments_left_out"]
    over = f"{seeds} seed{'s' * (seeds > 1)}"
    clusters = "the seeds" if row["clusters"] == "seeds" else "the days of each seed"
    note = f"Means over {row['segments']} segments of {over}, {row['test_clicks']:,} test clicks"
    if left_out:
        note += f" ({left_out} segments of one class left out)"
    note += ". RI: per cent of the way from pre_trained to oracle."
    if row["strongest_baseline"]:
        note += (
            f" diff.: to {row['strongest_baseline']}, the baseline with the best NetCVR AUC, "
            f"paired, with 95 % t interval over {clusters}."
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
    looks: dict[str, dict[str, Any]] = {
        group.strongest(METRICS[0]): {"color": BLUE, "lw": 1.8, "ls": LINES[2], "zorder": 4},
        "oracle": {"color": GREEN, "lw": 1.8, "ls": LINES[1], "zorder": 4},
        "tesla": {"color": VERMILLION, "lw": 2.4, "zorder": 5},
        "pre_trained": {"color": INK, "lw": 1.2, "zorder": 3.5},
    }
    day = group.segment // SEGMENTS_A_DAY + 1
    clusters = group.seed if group.over_seeds else group.seed * 1_000 + group.segment
    days, ends = np.unique(day), {}
    for method in group.methods:
        values = group.column(method, "netcvr_auc")
        if zero:
            values = values - group.column(zero, "netcvr_auc")
        found = [cluster_interval(values[day == at], clusters[day == at]) for at in days]
        mean, low, high = np.array(found).T
        look = looks.get(method, {"color": PALE, "lw": 1.0, "zorder": 3})
        ax.plot(days, mean, **look)
        if method in looks and method not in ("oracle", zero):
            ax.fill_between(days, low, high, color=look["color"], alpha=0.13, lw=0)
        ends[method] = mean[-1]
    ax.set_xlim(days[0] - 0.1, days[-1] + 0.1)
    ax.set_xticks(days)
    _name_lines(ax, ends, looks)
    return ax


def _name_lines(ax: Axes, ends: dict[str, float], looks: dict[str, dict[str, Any]]) -> None:
    """Writes the names to the right of the lines, which end at heights `ends`, apart."""
    named = sorted((y, name) for name, y in ends.items() if y == y)
    if not named:
        return
    low, high = ax.get_ylim()
    start, stop = ax.get_xlim()
    least = 0.04 * (high - low) * np.arange(len(named))  # distances from the lowest name
    # As near to the ends as the distances allow, in the sense of least squares.
    places = isotonic_regression(np.array([y for y, _ in named]) - least).x + least
    for (y, name), place in zip(named, places.tolist(), strict=True):
        colour = looks.get(name, {"color": GREY})["color"]
        x = [stop + share * (stop - start) for share in (0.0, 0.04, 0.05)]
        ax.plot(x[:2], [y, place], color=colour, lw=0.6, clip_on=False)
        weight = "bold" if name == "tesla" else "normal"
        options: dict[str, Any] = {"color": colour, "fontsize": SMALL_SIZE, "weight": weight}
        ax.text(x[2], place, name, va="center", **options)
    ax.set_xlim(start, stop)
    ax.set_ylim(low, high)


def save_figures(groups: dict[tuple[str, str], Group], out: Path) -> list[Path]:
    """Writes `<scenario>-<set-up>.png` for each group."""
    paths = []
    for (scenario, setup), group in groups.items():
        over = f"mean of {group.num_seeds} seeds" if group.num_seeds > 1 else "1 seed"
        spread = "seeds" if group.over_seeds else "segments of the day"
        title = f"{scenario}, set-up {setup}: {over}\nbands: 95 % intervals over the {spread}"
        figure = plot_stream(group, title).get_figure(root=True)
        paths.append(save_figure(figure, out / f"{scenario}-{setup}.png"))
    return paths
