"""Charts as data for the page, and as PNG files."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from pages import python_blocks

from scenarios import chart_png
from scenarios.chart import REFERENCE, Axis, Chart, Series, as_json, line_of, rounded
from scenarios.palette import look_of
from scenarios.plots import INK

ROOT = Path(__file__).resolve().parents[2]
X = np.array([1.0, 10.0, 1000.0])
LINE = Series("line", "line", X, 2 * X, X, 3 * X)
HEAT = Series("cells", "heat", np.array([0.0, 1.0]), np.array([0.0, 0.0]), z=np.array([1.0, 5.0]))
BARS = [
    Series(name, "bars", np.array([1.5]), np.array([high]), edges=np.array([1.0, 2.0]))
    for name, high in (("lower", 3.0), ("upper", 4.0))
]


def chart_of(*series, x=None, y=None, **options):
    axes = x or Axis("x (hours)"), y or Axis("y (currency)")
    return Chart("name", "Title", "Caption.", *axes, series, **options)


def only_axes(chart):
    return chart_png.draw(chart).axes[0]


def test_numbers_are_short_and_unknown_ones_are_null():
    values = [1 / 3, 123456.0, 2.0, 1e-9 / 3, np.nan, np.inf]
    assert rounded(values) == [0.33333, 123460, 2, 3.3333e-10, None, None]


def test_json_leaves_out_what_is_not_set():
    found = as_json(chart_of(LINE))
    assert found["x"] == {"title": "x (hours)"}
    assert set(found) == {"id", "title", "caption", "x", "y", "series"}
    assert found["series"][0] == {
        **{"name": "line", "kind": "line", "x": [1, 10, 1000], "y": [2, 20, 2000]},
        **{"low": [1, 10, 1000], "high": [3, 30, 3000], "look": 0, "line": 0},
    }


def test_neighbours_differ_in_colour_and_line_and_24_looks_differ():
    looks = [look_of(place) for place in range(24)]
    assert len(set(looks)) == 24
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in pairwise(looks[:6]))
    assert line_of(LINE._replace(look=REFERENCE)) == line_of(LINE)


def test_png_of_a_line_has_its_values_and_its_band():
    ax = only_axes(chart_of(LINE, x=Axis("x", log=True)))
    assert ax.get_lines()[0].get_ydata() == pytest.approx([2.0, 20.0, 2000.0])
    assert len(ax.collections) == 1
    assert ax.get_xscale() == "log"
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("x", "y (currency)", "Title")


def test_png_of_dots_has_intervals_along_x_and_names():
    dots = LINE._replace(kind="dots", y=np.array([0.0, 1.0, 2.0]), low=X - 0.5, high=X + 1.0)
    ax = only_axes(chart_of(dots, y=Axis("", labels=("a", "b", "c")), zero=True))
    ax.figure.canvas.draw()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b", "c"]
    (segments,) = [
        found for c in ax.collections if len(found := getattr(c, "get_segments", list)())
    ]
    assert segments[0][:, 0] == pytest.approx([0.5, 2.0])


def test_png_stacks_bars():
    ax = only_axes(chart_of(*BARS))
    lower, upper = (container[0] for container in ax.containers)
    assert (lower.get_y(), lower.get_height()) == (0.0, 3.0)
    assert (upper.get_y(), upper.get_height()) == (3.0, 4.0)
    assert upper.get_hatch()


def test_png_of_cells_has_their_numbers_and_a_scale_with_its_unit():
    axes = {"x": Axis("x", labels=("p", "q")), "y": Axis("y", labels=("r",))}
    figure = chart_png.draw(chart_of(HEAT, z_title="value (currency)", z_range=(0.0, 5.0), **axes))
    cells, scale = figure.axes
    assert [text.get_text() for text in cells.texts] == ["1", "5"]
    assert [text.get_color() for text in cells.texts] == ["white", INK]
    assert scale.get_ylabel() == "value (currency)"


def test_log_axes_of_few_decades_have_more_ticks():
    short = only_axes(chart_of(LINE, x=Axis("x", log=True), y=Axis("y", log=True)))
    short.set_xlim(1.0, 50.0)
    short.figure.canvas.draw()
    shown = {label.get_text() for label in short.get_xticklabels()}
    assert {"1", "2", "5", "10", "20", "50"} <= shown


def test_dollar_signs_are_no_formulas(tmp_path):
    name = r"$a_$/\$b_$.py:Agent"
    dots = LINE._replace(kind="dots", name=name)
    chart = chart_of(dots, LINE._replace(name=name), *BARS, x=Axis(name), y=Axis(name))
    labelled = chart._replace(title=name, y=Axis(name, labels=(name,) * 3))
    for one in (chart, labelled):
        assert chart_png.save(one, tmp_path).is_file()


@pytest.mark.parametrize("value", [1 / 60, 1e-9, 1e17])
@pytest.mark.parametrize("kind", ["points", "dots"])
def test_log_axes_of_one_value_have_a_width(kind, value):
    one = np.array([value])
    axes = {"x": Axis("x", log=True), "y": Axis("y", log=True)}
    ax = only_axes(chart_of(Series("one", kind, one, one, one, one), **axes))
    for low, high in (ax.get_xlim(), ax.get_ylim()):
        assert low < value / 1.5 < value * 1.5 < high


def test_save_writes_the_file_named_by_the_chart(tmp_path):
    path = chart_png.save(chart_of(LINE), tmp_path)
    assert path.name == "name.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_text_on_a_colour_has_the_better_contrast():
    assert chart_png.is_dark((0.0, 0.13, 0.3))
    assert not chart_png.is_dark((1.0, 0.9, 0.2))


def test_the_example_of_the_documentation_draws():
    (example,) = python_blocks((ROOT / "docs" / "reports.md").read_text())
    space = {}
    exec(compile(example, "reports.md", "exec"), space)
    assert space["figure"].axes[0].get_lines()[0].get_ydata()[-1] == 50.0
