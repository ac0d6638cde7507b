"""What `adsim report` does."""

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scenarios import console, results
from scenarios.chart import Chart
from scenarios.charts_values import METRICS
from scenarios.commands import make_folder
from scenarios.page import render, title_of
from scenarios.played import Played, arrange
from scenarios.sweep import KEPT
from scenarios.views import Views, make_views

FOLDER = "_report"
"""Below the results; readers of datasets pass over names that start so."""
PAGE = "index.html"


def report_command(
    folder: Path, out: Path | None = None, *, open_page: bool = False, as_json: bool = False
) -> Path:
    """Writes the page and the figures of a folder of results; the path of the page.

    Raises:
        FileNotFoundError: the folder holds no results, or those of a sweep that has not ended.
        ValueError: `out` cannot be written to.
    """
    if (folder / KEPT).is_dir() and not results.file_of(folder, "trials").is_file():
        raise FileNotFoundError(f"{folder} is not finished: run the sweep again, it goes on")
    tables, about = results.load(folder), results.load_about(folder)
    target = make_folder(out or folder / FOLDER)
    played = arrange(tables, about.get("axes") or [])
    views, board = Views((), True, {(): ()}), list[dict[str, Any]]()
    if len(played.trials):
        board = results.leaderboard(tables.trials, list(played.axes))
        with console.progress(f"views of {title_of(about)}", 1) as advance:
            views = _views(played, board, about, advance)
    charts = next(iter(views.charts.values()))
    pictures = _pictures(charts)
    if out is None:  # a folder of one's own may hold other pictures
        _remove_others(pictures, target)
    _save_pictures(pictures, target)
    files = [chart.id for chart in pictures]
    arranged = played if len(played.trials) else None
    text = render(arranged, views, board, tables.trials, about, files)

    def write(partial: Path) -> None:
        partial.write_text(text, encoding="utf-8")

    page = target / PAGE
    results.write_atomically(page, write)
    if as_json:
        console.emit_json(board, out=str(page), figures=files, views=len(views.charts))
    else:
        size = page.stat().st_size / 1e6
        what = f"{len(files)} figures, {len(views.charts)} views, {size:.1f} MB"
        console.stdout.print(f"{page}: {what}", highlight=False, soft_wrap=True)
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    return page


def _views(
    played: Played, board: list[dict[str, Any]], about: Mapping[str, Any], advance: Any
) -> Views:
    """The views, told of their progress."""

    def tell(done: int, total: int) -> None:
        advance(1 / total, f"{done} of {total}")

    return make_views(played, board, random_axes(about), tell)


def random_axes(about: Mapping[str, Any]) -> frozenset[str]:
    """Axes with values that were drawn or searched for."""
    sweep = about.get("sweep") or {}
    drawn = (sweep.get("random") or {}).get("axes") or {}
    return frozenset(about.get("axes") or []) if sweep.get("search") else frozenset(drawn)


def _pictures(charts: tuple[Chart, ...]) -> list[Chart]:
    """Those that become files: of several metrics the first."""
    shown = {chart.metric for chart in charts}
    metric = next((one.column for one in METRICS if one.column in shown), "")
    return [chart for chart in charts if chart.metric in ("", metric)]


def _remove_others(charts: list[Chart], folder: Path) -> None:
    """Removes figures of an earlier report that this one does not have."""
    names = {f"{chart.id}.png" for chart in charts}
    for old in folder.glob("*.png"):
        if old.name not in names:
            old.unlink()


def _save_pictures(charts: list[Chart], folder: Path) -> None:
    """Writes the PNG files."""
    from scenarios import chart_png

    with console.progress("figures", len(charts)) as advance:
        for chart in charts:
            advance(0, note=chart.id)
            chart_png.save(chart, folder)
            advance()
