"""Figures of a comparison of predictors for several scenes: AUC against parameters and traffic."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from adsim.types import BoolArray, FloatArray
from scenarios import report
from scenarios.palette import BLUE, GREEN, LINES, VERMILLION
from scenarios.plots import INK, SMALL_SIZE, dressed, new_figure, save_figure
from scenarios.report import Metric
from scenarios.results import Interval
from scenarios.scenes import EXTRAS, FIRST, SETUPS
from scenarios.scenes_report import METRICS, Group
from scenarios.scenes_tasks import COLD_ROWS

REFERENCE = "scene_input"  # the method whose AUC is taken off
_PANELS = ("macro_auc", "cold_auc")
_TOWERS = "shared_bottom"
_WORDS = {"cvr": "conversion rate of clicks", "ctr": "click rate of impressions"}
_PANEL_SIZE = 5.6, 3.7  # inches
_ROOM = 1.45  # factor, beside the smallest and the largest number of parameters
_FAR = 8.0  # median deviations below the median: not worth the scale
_TICKS = (300, 1_000, 3_000, 10_000, 30_000, 100_000, 300_000)  # rows of a scene
_RINGS = (7.0, 15.0, 25.0, 37.0)  # points, distances of a name from its point
_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
_MINUS = "\N{MINUS SIGN}"

Runs = Sequence[dict[str, Any]]
Setups = Mapping[str, tuple[Group, Runs]]  # with the runs of each


def plot_parameters(group: Group, runs: Runs, metric: Metric, ax: Axes | None = None) -> Axes:
    """A metric against parameters without embeddings of ids, a point per method.

    Methods far below the others are shown as arrows at the lower edge. `EXTRAS` are left out, which
    would crowd it, unless there is nothing else. `name_points` adds names.

    Args:
        group: of one scenario and set-up; if `REFERENCE` is there its metric is taken off, and
            points have the 95 % interval of the paired difference.
        runs: the same, from `collect`.
        metric: a mean over days.
        ax: where to draw.
    """
    reference = REFERENCE if REFERENCE in group.methods else ""
    title = metric.name.replace("_", " ").replace("auc", "AUC")
    ax = dressed(ax, "", "", f"{title} {_MINUS} that of {reference}" if reference else title)
    names = [name for name in group.methods if name not in EXTRAS] or group.methods
    sizes = [_parameters(runs, name) for name in names]
    ax.set_xscale("log")
    ax.set_xlim(min(sizes) / _ROOM, max(sizes) * _ROOM)
    if reference:
        ax.axhline(0.0, color=BLUE, lw=0.8, ls=LINES[3], zorder=1.5)
    found = {name: _level(group, metric, name, reference) for name in names}
    found = {name: level for name, level in found.items() if np.isfinite(level.mean)}
    low, high = _limits(list(found.values()))
    ax.set_ylim(low, high)
    for name, (mean, start, stop) in found.items():
        size, look = _parameters(runs, name), _look(name)
        if mean < low:
            look |= {"marker": "v", "mfc": "w"}
            level = f"{name} {mean:.3f}".replace("-", _MINUS)
            ax.errorbar(size, low + 0.02 * (high - low), ls="", label=level, **look)
        else:
            bars = [[mean - start], [stop - mean]] if np.isfinite(start) else None
            ax.errorbar(size, mean, bars, capsize=2.0, elinewidth=1.2, ls="", label=name, **look)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    return ax


def _level(group: Group, metric: Metric, method: str, reference: str) -> Interval:
    """What a method's point shows."""
    if reference:
        return group.difference(metric, method, reference)
    return Interval(group.mean(method, metric.column), -np.inf, np.inf)


def _limits(levels: Sequence[Interval]) -> tuple[float, float]:
    """Of an axis that shows most of the levels, with their intervals."""
    if not levels:
        return 0.0, 1.0
    means = np.array([level.mean for level in levels])
    ends = np.array(
        [[x if np.isfinite(x) else mean for x in (low, high)] for mean, low, high in levels]
    )
    middle = np.median(means)
    near = means >= middle - _FAR * np.median(np.abs(means - middle))
    shown = means >= ends[near].min()
    low, high = float(ends[shown].min()), float(ends.max())
    room = 0.1 * (high - low) or 0.01
    return low - room, high + room


def _parameters(runs: Runs, method: str) -> int:
    return next(run["parameters_without_ids"] for run in runs if run["method"] == method)


def _look(method: str) -> dict[str, Any]:
    """Colour and marker of a method."""
    if method == FIRST:
        return {"color": VERMILLION, "marker": "D", "ms": 7.0, "zorder": 5}
    if method.startswith(FIRST):
        return {"color": VERMILLION, "marker": "D", "ms": 4.0, "mfc": "w", "zorder": 4}
    if method.startswith(REFERENCE):
        return {"color": BLUE, "marker": "s", "ms": 5.0, "zorder": 4}
    return {"color": INK, "marker": "o", "ms": 4.5, "zorder": 3}


def name_points(ax: Axes) -> None:
    """Writes the labels of error bars beside their points, where they cover least.

    The figure must be laid out, and not change afterwards.
    """
    points: list[tuple[str, FloatArray, str]] = []
    taken: list[Bbox] = []
    for container in ax.containers:
        line, _, bars = container.lines  # pyright: ignore[reportAttributeAccessIssue]
        points.append((str(container.get_label()), line.get_xydata()[0], line.get_color()))
        ends = [line.get_xydata(), *(bar.get_segments()[0] for bar in bars)]
        corners = ax.transData.transform(np.concatenate(ends))
        taken.append(Bbox([corners.min(axis=0), corners.max(axis=0)]).padded(4.0))
    for point in sorted(points, key=lambda point: -point[1][1]):
        taken.append(_name_point(ax, *point, taken))


def _name_point(ax: Axes, name: str, point: FloatArray, colour: str, taken: Sequence[Bbox]) -> Bbox:
    """Writes a name at the best of some places; returns that place, pixels."""
    words: dict[str, Any] = {"fontsize": SMALL_SIZE, "color": colour, "in_layout": False}
    words |= {"weight": "bold"} if name == FIRST else {}
    words |= {"path_effects": [withStroke(linewidth=2.0, foreground="white")], "zorder": 6}
    text = ax.text(0.5, 0.5, name, transform=ax.transAxes, **words)
    size, origin = np.array(text.get_window_extent().size), ax.transData.transform(point)
    text.remove()
    pixels = ax.figure.dpi / 72.0  # per point
    found = []
    for ring in _RINGS:
        for side in map(np.array, _SIDES):
            offset = ring * side / np.hypot(*side)
            corner = origin + pixels * offset + (side - 1) * size / 2
            box = Bbox([corner, corner + size])
            outside = box.width * box.height - _overlap(box, ax.bbox)
            covered = sum(_overlap(box, other) for other in taken)
            found.append((covered + 10.0 * outside + ring, len(found), ring, side, offset, box))
    _, _, ring, side, offset, box = min(found, key=lambda place: place[:2])
    line = {"arrowstyle": "-", "color": colour, "lw": 0.5, "shrinkA": 0.0, "shrinkB": 3.0}
    ax.annotate(
        name,
        (point[0], point[1]),
        xytext=tuple(offset),
        textcoords="offset points",
        ha=("center", "left", "right")[side[0]],
        va=("center", "bottom", "top")[side[1]],
        arrowprops=line if ring > _RINGS[0] else None,
        **words,
    )
    return box


def _overlap(one: Bbox, other: Bbox) -> float:
    """Area that two boxes share, square pixels."""
    shared = Bbox.intersection(one, other)
    return float(shared.width * shared.height) if shared is not None else 0.0


def plot_scenes(runs: Runs, ax: Axes | None = None) -> Axes:
    """How far AUCs of single scenes are below that of the truth, against the scenes' traffic.

    MI-DPG, `REFERENCE` and towers are shown, means over seeds; cold scenes are one point, the mean.

    Args:
        runs: of one scenario and set-up.
        ax: where to draw.
    """
    ax = dressed(ax, "", "rows of the scene before the stream", f"AUC {_MINUS} that of the truth")
    looks: dict[str, dict[str, Any]] = {
        _TOWERS: {"color": GREEN, "marker": "^", "ms": 4.5, "ls": LINES[2], "lw": 1.2},
        REFERENCE: {"color": BLUE, "marker": "s", "ms": 4.0, "ls": LINES[1], "lw": 1.2},
        FIRST: {"color": VERMILLION, "marker": "D", "ms": 4.5, "lw": 1.8},
    }
    ends = {}
    for method, look in looks.items():
        own = [run for run in runs if run["method"] == method]
        if own:
            rows, gap = _gaps(own)
            ax.plot(np.log10(rows), gap, **look)
            ends[method] = gap[-1]
    ax.xaxis.set_major_locator(FixedLocator([float(np.log10(tick)) for tick in _TICKS]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{10**value:,.0f}"))
    ax.margins(x=0.04)
    colours = {name: look["color"] for name, look in looks.items()}
    report.name_lines(ax, ends, colours, FIRST)
    return ax


def _gaps(runs: Runs) -> tuple[FloatArray, FloatArray]:
    """Rows before the stream, and AUC less that of the truth, in order of the rows.

    Scenes are cold in a run, as in `score`; a scene's mean is over the runs where it is not.
    """
    rows = np.array([run["scene_rows"] for run in runs], dtype=np.float64)  # (runs, S)
    gap = np.array([np.subtract(run["scene_auc"], run["scene_auc_truth"]) for run in runs])
    cold, known = rows < COLD_ROWS, ~np.isnan(gap)
    first = [_means(each, cold & known, axis=1) for each in (rows, gap)]  # of each run
    others = [_means(each, ~cold & known, axis=0) for each in (rows, gap)]
    order = np.argsort(others[0])
    found = [
        np.append(one.mean(keepdims=True) if one.size else one, other[order])
        for one, other in zip(first, others, strict=True)
    ]
    return found[0], found[1]


def _means(values: FloatArray, held: BoolArray, axis: int) -> FloatArray:
    """Means over an axis of what is held; where nothing is, there is none."""
    count = held.sum(axis=axis)
    return np.where(held, values, 0.0).sum(axis=axis)[count > 0] / count[count > 0]


def parameters_figure(groups: Setups, title: str) -> Figure:
    """Macro AUC, and AUC of cold scenes, in every set-up."""
    width, height = _PANEL_SIZE
    figure = new_figure(width * len(groups), height * len(_PANELS) + 0.6)
    panels = figure.subplots(len(_PANELS), len(groups), squeeze=False, sharex="col")
    of = {metric.name: metric for metric in METRICS}
    for row, name in zip(panels, _PANELS, strict=True):
        for ax, (setup, (group, runs)) in zip(row, groups.items(), strict=True):
            plot_parameters(group, runs, of[name], ax)
            if name == _PANELS[0]:
                over = report.clusters_of({"clusters": group.clustering})
                about = f"{setup}, {report.seeds_of(group)}\n95 % intervals over {over}"
                ax.title.set_text(about)
            else:
                ax.set_xlabel("parameters without embeddings of ids")
    figure.suptitle(title, fontsize=11.5)
    figure.draw_without_rendering()
    for ax in panels.ravel():
        name_points(ax)
    return figure


def scenes_figure(groups: Setups, title: str) -> Figure:
    """AUC against traffic in every set-up."""
    figure = new_figure(5.0 * len(groups), 4.2)
    (panels,) = figure.subplots(1, len(groups), squeeze=False)
    for ax, (setup, (group, runs)) in zip(panels, groups.items(), strict=True):
        plot_scenes(runs, ax)
        least = min(min(run["scene_rows"]) for run in runs)
        cold = "\nleftmost: mean of the cold scenes" * (least < COLD_ROWS)
        ax.title.set_text(f"{setup}, {report.seeds_of(group)}{cold}")
    figure.suptitle(title, fontsize=11.5)
    return figure


def save_figures(segments: pd.DataFrame, runs: Runs, out: Path) -> list[Path]:
    """Writes `<scenario>-<target>.png` and `<scenario>-<target>-scenes.png`."""
    groups = report.groups_of(segments, Group)
    paths = []
    for scenario in dict.fromkeys(name for name, _ in groups):
        for target, words in _WORDS.items():
            own = {
                setup: (group, [r for r in runs if (r["scenario"], r["setup"]) == (name, setup)])
                for (name, setup), group in groups.items()
                if name == scenario and SETUPS[setup].target == target
            }
            if own:
                title, stem = f"{scenario}: {words}", f"{scenario}-{target}"
                paths.append(save_figure(parameters_figure(own, title), out / f"{stem}.png"))
                paths.append(save_figure(scenes_figure(own, title), out / f"{stem}-scenes.png"))
    return paths
