"""A figure described apart from what draws it: matplotlib (`chart_png`) or the page of a report.

A chart holds numbers that are final: nothing is computed when it is drawn.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from adsim.types import FloatArray
from scenarios.palette import look_of

Kind = Literal["line", "points", "dots", "bars", "heat"]
REFERENCE = -1
"""Look of what others are compared with: a plan, a diagonal."""
_DIGITS = 5  # significant, of numbers in a page


class Axis(NamedTuple):
    """One direction of a chart."""

    title: str  # with the unit
    log: bool = False
    labels: tuple[str, ...] = ()  # of a categorical axis, whose values are places in it
    ticks: tuple[tuple[float, str], ...] = ()  # values with names, in place of numbers


class Series(NamedTuple):
    """What is drawn in one colour, N values.

    Kinds: `line` with a band from low to high; `points` with intervals along y, of places of a
    categorical axis or of numbers; `dots` with intervals along x; `bars` from `edges`, stacked in
    the order of the series; `heat` of cells.
    """

    name: str
    kind: Kind
    x: FloatArray  # (N,)
    y: FloatArray  # (N,)
    low: FloatArray | None = None  # (N,)
    high: FloatArray | None = None  # (N,)
    z: FloatArray | None = None  # (N,) of cells
    edges: FloatArray | None = None  # (N + 1,) of bars
    look: int = 0  # place in the palette, or `REFERENCE`
    notes: tuple[str, ...] = ()  # (N,) for who points at a value
    size: FloatArray | None = None  # (N,) of markers, 0 to 1
    filled: bool = True  # markers


class Chart(NamedTuple):
    """One figure."""

    id: str  # name of its file
    title: str
    caption: str  # what it says and of what, one or two sentences
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    metric: str = ""  # one of several that can be chosen
    z_title: str = ""  # of the colours of cells, with the unit
    z_range: tuple[float, float] | None = None
    zero: bool = False  # a line at x = 0


def line_of(series: Series) -> int:
    """Place of its line and marker in the palette."""
    return look_of(max(series.look, 0))[1]


def as_json(chart: Chart) -> dict[str, Any]:
    """The chart for the page: numbers rounded, what is not set left out."""
    fields = _set_fields(chart)
    fields["x"], fields["y"] = _set_fields(chart.x), _set_fields(chart.y)
    fields["series"] = [
        _set_fields(one) | {"line": line_of(one), "look": one.look} for one in chart.series
    ]
    return fields


def _set_fields(part: Any) -> dict[str, Any]:
    defaults = part._field_defaults
    return {
        name: rounded(value) if isinstance(value, np.ndarray) else value
        for name, value in part._asdict().items()
        if name not in defaults or value is not defaults[name]
    }


def rounded(values: FloatArray | Sequence[float]) -> list[float | int | None]:
    """Numbers of few digits; None for those that are not finite."""
    return [_short(float(value)) for value in values]


def _short(value: float) -> float | int | None:
    if not np.isfinite(value):
        return None
    value = float(f"{value:.{_DIGITS}g}")
    return int(value) if value == int(value) and abs(value) < 1e15 else value
