"""Charts as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, LogLocator, NullLocator

from scenarios.chart import REFERENCE, Axis, Chart, Series, line_of
from scenarios.palette import COLOURS, LINES, MARKERS, look_of
from scenarios.plots import (
    GREY,
    HEIGHT,
    INK,
    PLAIN_NUMBERS,
    ROW_HEIGHT,
    SMALL_SIZE,
    dressed,
    literal,
    new_figure,
    save_figure,
    with_legend,
)

COLOUR_MAP = "cividis"  # readable with colour-blindness, and in grey
_WIDTH = 7.2  # inches
_CAPTION_LETTERS = 92  # of a line
_NARROWEST = 1e-6  # log axis, relative: below, its margins are lost in rounding
_MOST_CELLS = 150  # with their number in them


class _LogTicks(LogLocator):
    """Powers of ten, with 2 and 5 between them where there are few."""

    def tick_values(self, vmin: float, vmax: float) -> Any:
        self.set_params(subs=(1.0, 2.0, 5.0) if vmax < 160 * vmin else (1.0,), numticks=12)
        return super().tick_values(vmin, vmax)

    def nonsingular(self, v0: float, v1: float) -> tuple[float, float]:
        low, high = super().nonsingular(v0, v1)
        return (low / 2.0, high * 2.0) if high < low * (1.0 + _NARROWEST) else (low, high)


def draw(chart: Chart) -> Figure:
    """The chart as a figure."""
    rows = len(chart.y.labels)
    height = max(HEIGHT, 2.0 + ROW_HEIGHT * rows) if rows else HEIGHT
    figure = new_figure(_WIDTH, height)
    ax = dressed(figure.add_subplot(), chart.title, chart.x.title, chart.y.title)
    for direction, axis in (("x", chart.x), ("y", chart.y)):
        _scale(ax, direction, axis)
    if chart.zero:
        ax.axvline(0.0, color=INK, lw=0.8)
    floor = np.zeros(0)
    for series in chart.series:
        match series.kind:
            case "heat":
                _heat(ax, chart, series)
            case "bars":
                floor = _bars(ax, series, floor)
            case _:
                _marks(ax, series)
    if any(series.kind == "heat" for series in chart.series):
        ax.grid(False)
    elif len(chart.series) > 1:
        with_legend(ax)
    return figure


def save(chart: Chart, folder: Path) -> Path:
    """Writes the file named by the chart's id."""
    return save_figure(draw(chart), folder / f"{chart.id}.png")


def _scale(ax: Axes, direction: str, axis: Axis) -> None:
    scaled = ax.xaxis if direction == "x" else ax.yaxis
    if axis.log:
        (ax.set_xscale if direction == "x" else ax.set_yscale)("log")
        scaled.set_major_locator(_LogTicks())
        scaled.set_minor_locator(NullLocator())
        scaled.set_major_formatter(PLAIN_NUMBERS)
    if axis.ticks:
        scaled.set_major_locator(FixedLocator([value for value, _ in axis.ticks]))
        scaled.set_major_formatter(FixedFormatter([name for _, name in axis.ticks]))
    if axis.labels:
        scaled.set_major_locator(FixedLocator(list(range(len(axis.labels)))))
        scaled.set_major_formatter(FixedFormatter([literal(name) for name in axis.labels]))
        limits = (-0.6, len(axis.labels) - 0.4)
        ax.set_xlim(limits) if direction == "x" else ax.set_ylim(limits)


def _colour(series: Series) -> str:
    return INK if series.look == REFERENCE else COLOURS[look_of(series.look)[0]]


def _marks(ax: Axes, series: Series) -> None:
    """A line with its band, or marks with intervals."""
    colour, turn = _colour(series), line_of(series)
    if series.kind == "line":
        style = LINES[3] if series.look == REFERENCE else LINES[turn]
        marker = MARKERS[turn] if series.x.size <= 12 and series.look != REFERENCE else None
        look: dict[str, Any] = {"color": colour, "ls": style, "lw": 1.8, "marker": marker, "ms": 5}
        ax.plot(series.x, series.y, label=literal(series.name), **look)
        if series.low is not None and series.high is not None:
            ax.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, lw=0)
        return
    if series.low is not None and series.high is not None:
        error = np.nan_to_num(np.stack([-series.low, series.high]))
        middle = series.x if series.kind == "dots" else series.y
        error = np.where(np.isnan(series.low), 0.0, error + np.stack([middle, -middle]))
        look: dict[str, Any] = {"xerr" if series.kind == "dots" else "yerr": error}
        look |= {"ecolor": colour, "elinewidth": 1.5, "capsize": 2.5}
        ax.errorbar(series.x, series.y, fmt="none", **look)
    size = 36.0 if series.size is None else 12.0 + 60.0 * series.size
    face = colour if series.filled else "white"
    look = {"marker": MARKERS[turn], "c": face, "edgecolors": colour, "linewidths": 1.4}
    ax.scatter(series.x, series.y, s=size, label=literal(series.name), zorder=3, **look)


def _bars(ax: Axes, series: Series, floor: np.ndarray) -> np.ndarray:
    """Bars on top of those before; their upper ends."""
    assert series.edges is not None
    floor = floor if floor.size else np.zeros(series.y.size)
    ax.bar(
        series.edges[:-1],
        series.y,
        np.diff(series.edges),
        bottom=floor,
        align="edge",
        color=_colour(series),
        edgecolor="white",
        linewidth=0.3,
        hatch="///" if floor.any() else None,
        label=literal(series.name),
    )
    return floor + series.y


def _heat(ax: Axes, chart: Chart, series: Series) -> None:
    """Cells with their numbers and a bar of colours."""
    assert series.z is not None
    cells = np.full((len(chart.y.labels), len(chart.x.labels)), np.nan)
    cells[series.y.astype(int), series.x.astype(int)] = series.z
    low, high = chart.z_range or (float(np.nanmin(cells)), float(np.nanmax(cells)))
    image = ax.imshow(cells, cmap=COLOUR_MAP, vmin=low, vmax=high, aspect="auto", origin="lower")
    ax.set_xlim(-0.5, cells.shape[1] - 0.5)
    ax.set_ylim(-0.5, cells.shape[0] - 0.5)
    bar = ax.figure.colorbar(image, ax=ax, format=PLAIN_NUMBERS)
    bar.set_label(chart.z_title, fontsize=SMALL_SIZE + 1)
    bar.ax.tick_params(labelsize=SMALL_SIZE, color=GREY)
    if cells.size > _MOST_CELLS:
        return
    scale = mpl.colormaps[COLOUR_MAP]
    for x, y, value in zip(series.x, series.y, series.z, strict=True):
        if np.isfinite(value):
            shade = scale((value - low) / (high - low) if high > low else 0.5)
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": SMALL_SIZE}
            ax.text(
                float(x), float(y), number(value), color="white" if is_dark(shade) else INK, **style
            )


def number(value: float) -> str:
    """Four digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def is_dark(colour: Sequence[float]) -> bool:
    """Whether text on a colour (RGB, 0 to 1) has to be white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722))) < 0.18  # WCAG 2: equal contrasts
