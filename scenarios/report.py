"""What reports of comparisons share: means, paired differences, intervals, lines over the stream.

Segments are not independent: those of a seed share its hidden effects, those of a day also what
drift and training have made of them. Intervals are therefore those of means of clusters:
seeds if there are at least `LEAST_SEEDS`, else days of each seed (then they are conditional on the
worlds at hand). Seeds of a data file share its clicks, and differ in training only: there clusters
are days, each with the segments of all seeds.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from adsim.types import FloatArray, IntArray
from predictors.metrics import slice_mean
from predictors.stream import Split
from scenarios import console
from scenarios.comparison import Task
from scenarios.intervals import UNKNOWN, Interval, cluster_interval
from scenarios.plots import GREY, PALE, SMALL_SIZE
from scenarios.tasks import Study, has_diverged, load_result, mean_of

LEAST_SEEDS = 3  # from here on seeds are the clusters
ZERO = Interval(0.0, 0.0, 0.0)
_PLACES_OF_A_SEED = 1_000  # more than a stream has days or segments
_MOST_DAYS = 13  # labels of an axis
_NAME_GAP = 0.04  # of the height of a panel, between names of lines


class Metric(NamedTuple):
    """Of which paired differences are taken."""

    name: str
    column: str  # mean per segment; or prefix of the sums `{column}_predicted` and `_observed`
    best: int  # 1: the higher the better, -1: the lower
    of_sums: bool = False  # |log PCOC|, of the sums of a cluster
    relative: bool = False  # per cent of the unit of the group


def collect(
    study: Study,
    tasks: Sequence[Task],
    out: Path,
    facts: Callable[[Any], dict[str, Any]] = lambda result: {},
) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Metrics per segment, and facts per run, of at least one finished task.

    Args:
        study: of the tasks.
        tasks: finished.
        out: folder of the results.
        facts: more about a run, from its result.
    """
    segments, runs = [], []
    for task in tasks:
        result, about = load_result(study, task, out)
        world = task.world
        keys = {"scenario": world.label, "setup": world.setup, "seed": world.seed}
        keys["method"] = task.name
        table = study.score(result)
        for place, (name, value) in enumerate({**keys, "is_file": world.is_file}.items()):
            table.insert(place, name, value)
        segments.append(table)
        known = {"clicks_a_day": world.clicks or None, "trained_rows": about["trained_rows"]}
        runs.append({**keys, **known, **about["seconds"], **facts(result)})
    return pd.concat(segments, ignore_index=True), runs


class Group:
    """The methods of one scenario and set-up, over the same segments of the same seeds.

    Args:
        segments: rows of `collect` of one scenario and set-up. If `is_file`, seeds share clicks.
    """

    split: ClassVar[Split]
    baselines: ClassVar[tuple[str, ...]]  # among which the strongest is looked for

    def __init__(self, segments: pd.DataFrame) -> None:
        self.methods = list(dict.fromkeys(segments["method"]))
        ordered = segments.sort_values(["seed", "segment"], kind="stable")
        self.parts = {
            name: ordered.take(np.flatnonzero(ordered["method"] == name)) for name in self.methods
        }
        first = self.parts[self.methods[0]]
        self.seed, self.segment = np.array(first["seed"]), np.array(first["segment"])
        self.num_seeds = np.unique(self.seed).size
        self.is_file = bool(first["is_file"].all())
        self.over_seeds = self.num_seeds >= LEAST_SEEDS and not self.is_file
        self.day = self.segment // round(1 / self.split.segment_days)  # of the stream, from 0
        self.clusters = self.seed if self.over_seeds else self.within_seeds(self.day)

    def within_seeds(self, place: IntArray) -> IntArray:
        """Clusters of the segments by seed and place; by place alone where seeds share clicks."""
        return place if self.is_file else self.seed * _PLACES_OF_A_SEED + place

    @property
    def clustering(self) -> str:
        """What intervals are over, as in the table."""
        if self.over_seeds:
            return "seeds"
        return "days of the file" if self.is_file else "days"

    def column(self, method: str, name: str) -> FloatArray:
        """Values of every segment of every seed, NaN where undefined."""
        return np.asarray(self.parts[method][name], dtype=np.float64)

    def mean(self, method: str, name: str) -> float:
        """Mean of a column over the segments where it is defined; NaN for an absent method."""
        if method not in self.parts:
            return float("nan")
        return mean_of(self.column(method, name))

    def calibration(self, method: str, name: str, by: NDArray[Any]) -> FloatArray:
        """Predicted over observed sum of all clicks with one value of `by`.

        NaN where nothing is observed, infinite where a prediction is not finite.
        """
        _, place = np.unique(by, return_inverse=True)
        sums = self.column(method, f"{name}_predicted")
        predicted = np.bincount(place, np.where(np.isfinite(sums), sums, np.inf))
        observed = np.bincount(place, self.column(method, f"{name}_observed"))
        nothing = np.full(observed.size, np.nan)
        return np.divide(predicted, observed, out=nothing, where=observed > 0)

    def pcoc(self, method: str, name: str) -> float:
        """Mean over the seeds of predicted over observed sums."""
        return mean_of(self.calibration(method, name, self.seed))

    def difference(self, metric: Metric, method: str, other: str) -> Interval:
        """Of a method and another one, paired, with its interval; unknown if one is infinite."""
        if not {method, other} <= self.parts.keys():
            return UNKNOWN
        if method == other:
            return ZERO
        if metric.of_sums:
            one, two = (self._miscalibration(name, metric.column) for name in (method, other))
            clusters = np.arange(one.size)
        else:
            one, two = (self.column(name, metric.column) for name in (method, other))
            clusters = self.clusters
        if np.isinf(one).any() or np.isinf(two).any():
            return UNKNOWN
        found = cluster_interval(one - two, clusters)
        return scaled(found, 100.0 / self.unit(metric)) if metric.relative else found

    def unit(self, metric: Metric) -> float:
        """What differences of a metric are a share of; NaN if there is nothing."""
        return float("nan")

    def _miscalibration(self, method: str, column: str) -> FloatArray:
        """|log PCOC| by cluster; 0 is calibrated, NaN unknown, infinite: a prediction is.

        Of all rows of a cluster: that of single segments would mostly be the luck of few events.
        """
        with np.errstate(divide="ignore"):
            return np.abs(np.log(self.calibration(method, column, self.clusters)))

    def strongest(self, metric: Metric, but: str = "") -> str:
        """The baseline with the best mean, other than `but`; "" if there is none.

        One that has diverged is none: it would be judged by the segments before.
        """

        def level(name: str) -> float:
            if not metric.of_sums:
                return metric.best * self.mean(name, metric.column)
            return -mean_of(self._miscalibration(name, metric.column))

        names = [name for name in self.baselines if name in self.parts and name != but]
        levels = {name: level(name) for name in names if not has_diverged(self.parts[name])}
        levels = {name: value for name, value in levels.items() if value == value}
        return max(levels, key=lambda name: levels[name], default="")

    def head(self, method: str, column: str) -> dict[str, Any]:
        """First entries of a method's row; `column` is one that is undefined on some segments."""
        found = slice_mean(self.column(method, column))
        return {
            "method": method,
            "seeds": self.num_seeds,
            "segments": found.count,
            "segments_left_out": found.left_out,
            "test_clicks": int(self.column(method, "clicks").sum()),
        }

    def differences(self, metric: Metric, method: str, first: str) -> dict[str, Any]:
        """Entries of a method's row: its difference to the strongest baseline, that of `first`."""
        name, best = metric.name, self.strongest(metric)
        entries: dict[str, Any] = {f"{name}_baseline": best or None}
        for key, interval in (
            (f"{name}_diff", self.difference(metric, method, best)),
            (f"{first}_{name}_diff", self.difference(metric, first, method)),
        ):
            entries[key], entries[f"{key}_low"], entries[f"{key}_high"] = interval
        return entries


GroupT = TypeVar("GroupT", bound=Group)


def scaled(interval: Interval, factor: float) -> Interval:
    """The interval of `factor` times the quantity."""
    mean, *bounds = (factor * value for value in interval)
    return Interval(mean, min(bounds), max(bounds))


def groups_of(segments: pd.DataFrame, cls: type[GroupT]) -> dict[tuple[str, str], GroupT]:
    """A group by scenario and set-up."""
    pairs = list(zip(segments["scenario"], segments["setup"], strict=True))
    places: dict[tuple[str, str], list[int]] = {}
    for place, pair in enumerate(pairs):
        places.setdefault(pair, []).append(place)
    return {pair: cls(segments.take(rows)) for pair, rows in places.items()}


def runs_of(
    runs: Iterable[dict[str, Any]], scenario: str, setup: str, method: str
) -> list[dict[str, Any]]:
    """The runs of a method in all seeds of a scenario and set-up."""
    key = (scenario, setup, method)
    return [run for run in runs if (run["scenario"], run["setup"], run["method"]) == key]


def speed_of(runs: Sequence[dict[str, Any]]) -> float:
    """Rows trained on per second of training; NaN without training."""
    trained, seconds = (sum(run[name] for run in runs) for name in ("trained_rows", "train"))
    return trained / seconds if trained else float("nan")


def print_tables(
    rows: Sequence[dict[str, Any]],
    header: list[str],
    cells: Callable[[dict[str, Any]], list[str]],
    note: Callable[[list[dict[str, Any]]], str],
) -> None:
    """One table per scenario and set-up, with a note on its rows."""
    for scenario, setup in dict.fromkeys((row["scenario"], row["setup"]) for row in rows):
        own = [row for row in rows if (row["scenario"], row["setup"]) == (scenario, setup)]
        title = f"{scenario}, set-up {setup}"
        console.print_table(title, header, [cells(row) for row in own], note(own))


def note_of(rows: Sequence[dict[str, Any]], why_left_out: str, unit: str = "segments") -> str:
    """What the numbers of the rows are means over; names methods that have fewer segments.

    `unit`: what a segment of the table is called.
    """
    row = min(rows, key=lambda row: row["segments_left_out"])
    seeds, left_out = row["seeds"], row["segments_left_out"]
    over = f"{seeds} seed{'s' * (seeds > 1)}"
    note = f"Means over {row['segments']} {unit} of {over}, {row['test_clicks']:,} test clicks"
    more = {other["method"]: other["segments_left_out"] for other in rows}
    parts = [f"{left_out} {unit} {why_left_out} left out"] * (left_out > 0)
    parts += [f"of {name} {count} left out" for name, count in more.items() if count > left_out]
    return note + f" ({', '.join(parts)})" * bool(parts) + "."


def clusters_of(row: dict[str, Any]) -> str:
    """What the intervals of a row are over."""
    names = {"seeds": "the seeds", "days": "the days of each seed"}
    return names.get(row["clusters"], "the days, all seeds together")


def seeds_of(group: Group) -> str:
    """What the lines of a figure are means over."""
    return f"mean of {group.num_seeds} seeds" if group.num_seeds > 1 else "1 seed"


def bands_of(group: Group) -> str:
    """What the bands of `plot_days` are."""
    spread = "seeds" if group.over_seeds else "segments of the day"
    return f"bands: 95 % intervals over the {spread}"


def plot_days(
    ax: Axes,
    group: Group,
    column: str,
    methods: Iterable[str],
    *,
    zero: str,
    looks: dict[str, dict[str, Any]],
    bands: Collection[str],
    first: str,
) -> None:
    """Draws a column of some methods, day by day of the stream, and names the lines.

    Infinite values are left out.

    Args:
        ax: with title and labels.
        group: of the methods.
        column: of the segments.
        methods: whose lines are drawn.
        zero: method whose values are taken off; "" for none.
        looks: of the lines that stand out.
        bands: methods with 95 % intervals, over the seeds or else over the segments of the day.
        first: the method whose name is bold.
    """
    clusters = group.seed if group.over_seeds else group.within_seeds(group.segment)

    def known(method: str) -> FloatArray:
        values = group.column(method, column)
        return np.where(np.isfinite(values), values, np.nan)

    days, ends = np.unique(group.day), {}
    for method in methods:
        values = known(method) - known(zero) if zero else known(method)
        rows = [group.day == day for day in days]
        found = [cluster_interval(values[held], clusters[held]) for held in rows]
        mean, low, high = np.array(found).T
        look = looks.get(method, {"color": PALE, "lw": 1.0, "zorder": 3})
        ax.plot(days + 1, mean, **look)
        if method in bands:
            ax.fill_between(days + 1, low, high, color=look["color"], alpha=0.13, lw=0)
        ends[method] = mean[-1]
    ax.set_xlim(days[0] + 0.9, days[-1] + 1.1)
    ax.set_xticks(days[:: -(-days.size // _MOST_DAYS)] + 1)
    colours = {name: look["color"] for name, look in looks.items()}
    name_lines(ax, ends, colours, first)


def name_lines(ax: Axes, ends: dict[str, float], colours: dict[str, str], first: str) -> None:
    """Writes the names to the right of the lines, which end at heights `ends`, apart."""
    named = sorted((y, name) for name, y in ends.items() if y == y)
    if not named:
        return
    low, high = ax.get_ylim()
    start, stop = ax.get_xlim()
    least = _NAME_GAP * (high - low) * np.arange(len(named))  # distances from the lowest name
    # As near to the ends as the distances allow, in the sense of least squares.
    places = isotonic_regression(np.array([y for y, _ in named]) - least).x + least
    for (y, name), place in zip(named, places.tolist(), strict=True):
        colour = colours.get(name, GREY)
        x = [stop + share * (stop - start) for share in (0.0, 0.04, 0.05)]
        ax.plot(x[:2], [y, place], color=colour, lw=0.6, clip_on=False)
        weight = "bold" if name == first else "normal"
        options: dict[str, Any] = {"color": colour, "fontsize": SMALL_SIZE, "weight": weight}
        ax.text(x[2], place, name, va="center", **options)
    ax.set_xlim(start, stop)
    ax.set_ylim(low, high)
