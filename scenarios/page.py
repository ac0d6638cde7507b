"""The page of a report: one HTML file with its data, styles and scripts, which needs no network.

The charts are drawn by `figure.js`: a charting library of several megabytes takes longer to load
than all figures take to be drawn.
"""

import html
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from string import Template
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from scenarios import console
from scenarios.chart import as_json
from scenarios.chart_png import COLOUR_MAP, is_dark
from scenarios.charts_values import METRICS
from scenarios.palette import COLOURS
from scenarios.played import Played, compared, plain
from scenarios.results import of
from scenarios.trial import FAILED
from scenarios.views import MOST_VALUES, Views, compact, place_of, rival_of

_RAMP = 64  # colours of cells
_MOST_FAILED = 50  # whose tracebacks are shown
Row = Mapping[str, Any]


class Column(NamedTuple):
    """Of the leaderboard."""

    title: str
    mean: str  # column of `results.leaderboard`
    ends: str = ""  # prefix of its interval
    digits: int = 0
    scale: float = 1.0
    unit: str = ""
    extra: bool = False  # not on paper


COLUMNS = (
    Column("expected net value", "expected_net_value", "expected"),
    Column("expected, vs {rival}", "expected_diff", "expected_diff"),
    Column("realised net value", "net_value", "ci"),
    Column("realised, vs {rival}", "diff", "diff"),
    Column("of hindsight", "share_of_hindsight", digits=1, scale=100.0, unit=" %"),
    Column("spend", "spend"),
    Column("net ROAS", "net_roas", digits=2),
    Column("wins", "wins", extra=True),
    Column("clicks", "clicks", digits=1, extra=True),
    Column("purchases", "purchases", digits=1, extra=True),
    Column("refunds", "refunds", digits=1, extra=True),
    Column("seeds", "seeds"),
    Column("structures", "structures", extra=True),
)


def ramp() -> list[tuple[str, str]]:
    """Colours of cells from the lowest to the highest, and of the text on them."""
    return [
        (to_hex(colour), "#ffffff" if is_dark(colour) else "#222222")
        for colour in mpl.colormaps[COLOUR_MAP](np.linspace(0.0, 1.0, _RAMP))
    ]


def render(
    played: Played | None,
    views: Views,
    board: Sequence[Row],
    trials: pd.DataFrame,
    about: Mapping[str, Any],
    files: Sequence[str],
) -> str:
    """The page as text.

    Args:
        played: finished trials; none if all failed.
        views: their charts.
        board: their leaderboard.
        trials: all.
        about: of `results.load_about`.
        files: ids of the charts that are PNG files beside the page.
    """
    title = title_of(about)
    payload = {
        "filters": [{"column": one.column, "labels": one.labels} for one in views.filters],
        "combined": views.combined,
        "palette": {"colours": COLOURS, "ramp": ramp()},
        "files": list(files),
        "views": {
            ",".join(map(str, choice)): [as_json(chart) for chart in charts]
            for choice, charts in views.charts.items()
        },
    }
    parts = {
        "title": html.escape(title),
        "style": _file("page.css"),
        "script": _file("page.js"),
        "about": _about(trials, about),
        "filters": _filters(played, views),
        "leaderboard": _leaderboard(played, views, board),
        "failed": _failed(trials),
        "reproduce": _reproduce(about),
        # "</script>" would end the element, and "<!--<script" not let it end.
        "payload": compact(payload).replace("<", "\\u003c"),
        "figure": _file("figure.js"),
    }
    return Template(_file("page.html")).substitute(parts)


def _file(name: str) -> str:
    return resources.files("scenarios").joinpath(name).read_text(encoding="utf-8")


def title_of(about: Mapping[str, Any]) -> str:
    """Kind and name of what was played."""
    scenario = (about.get("scenario") or {}).get("name", "")
    name = (about.get("sweep") or {}).get("name") or scenario
    return f"{about.get('kind', 'run')} {name}".strip()


def _about(trials: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """What was played, and by which code."""
    sweep, scenario = about.get("sweep") or {}, about.get("scenario") or {}
    # That of a scenario need not hold for what a sweep makes of it.
    description = (sweep or scenario).get("description", "")
    failed = len(_failed_rows(trials))
    facts = {
        "scenario": scenario.get("name", ""),
        "trials": f"{len(trials):,}",
        "failed": f"{failed:,}" if failed else "",
        "axes": ", ".join(about.get("axes") or []),
        "agents": ", ".join(about.get("agents") or []),
        "estimates": ", ".join(about.get("estimates") or []),
        "seeds": _listed(about.get("seeds") or []),
        "structures": _listed(about.get("structures") or []),
        "written": about.get("written", ""),
        "adsim": about.get("adsim", ""),
        "commit": (about.get("git") or "")[:12],
    }
    items = [
        f'<div class="{name}"><dt>{name}</dt><dd>{html.escape(value)}</dd></div>'
        for name, value in facts.items()
        if value
    ]
    return f'<p>{html.escape(description)}</p>\n<dl class="facts">{"".join(items)}</dl>'


def _listed(values: Sequence[Any]) -> str:
    """A few values, or their number and ends."""
    if len(values) <= 6:
        return ", ".join(map(str, values))
    return f"{len(values)} ({values[0]} to {values[-1]})"


def _filters(played: Played | None, views: Views) -> str:
    """A choice per filter, that of the metric, and what cannot be chosen."""
    controls = []
    for place, one in enumerate(views.filters):
        values = [*enumerate(one.labels)]
        options = "".join(
            f'<option value="{k}">{html.escape(label)}</option>' for k, label in values
        )
        controls.append(
            f'<label>{html.escape(one.column)}<select id="filter-{place}">'
            f'<option value="-1">all</option>{options}</select></label>'
        )
    shown = {chart.metric for charts in views.charts.values() for chart in charts} - {""}
    if shown:
        options = "".join(
            f'<option value="{one.column}">{html.escape(one.title)}</option>'
            for one in METRICS
            if one.column in shown
        )
        controls.append(f'<label>metric over axes<select id="metric">{options}</select></label>')
    notes = []
    if not views.combined:
        notes.append("There are too many combinations to hold them all: one filter at a time.")
    names = {one.column for one in views.filters}
    missing = [axis for axis in (played.axes if played else ()) if axis not in names]
    if missing:
        many = f"more than {MOST_VALUES} values"
        notes.append(f"{', '.join(missing)}: {many}, which the figures show and filters do not.")
    text = f'<p class="note">{html.escape(" ".join(notes))}</p>' if notes else ""
    return "\n".join([*controls, text])


def _leaderboard(played: Played | None, views: Views, board: Sequence[Row]) -> str:
    """The table, best first; each row says which filters it passes."""
    if played is None or not board:
        return '<p class="note">No trial has finished.</p>'
    rival, others = rival_of(played), [id(row) for row in compared(played, board)]
    head = [
        f'<th class="text" scope="col"><button type="button">{html.escape(name)}</button></th>'
        for name in (*played.axes, "agent", "estimates")
    ]
    for one in COLUMNS:
        sort = ' aria-sort="descending"' if one is COLUMNS[0] else ""
        title = html.escape(one.title.format(rival=rival))
        extra = ' class="extra"' * one.extra
        head.append(f'<th scope="col"{extra}{sort}><button type="button">{title}</button></th>')
    lines = []
    for row in sorted(board, key=lambda row: -row["expected_net_value"]):
        at = ",".join(map(str, place_of(views.filters, row)))
        names = [_text_cell(row[name]) for name in (*played.axes, "agent", "estimates")]
        cells = [_cell(one, row, alone=id(row) not in others) for one in COLUMNS]
        lines.append(f'<tr data-at="{at}">{"".join([*names, *cells])}</tr>')
    over = "structures" if len(set(played.structure.tolist())) > 1 else "seeds"
    note = (
        f"Means with 95 % intervals over {over} (± half width); money is in currency per campaign. "
        "Expected: given the impressions won. Differences are paired on the same seeds, against "
        f"{rival}{' of the same point' if len(played.players) > 1 and played.axes else ''}."
    )
    return (
        f'<p class="note">{html.escape(note)}</p>\n<div class="scroll" tabindex="0" role="region" '
        f'aria-label="Leaderboard"><table id="board"><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>"
    )


def _text_cell(value: Any) -> str:
    shown = html.escape(plain(value))
    return f'<td class="text" data-v="{html.escape(str(value))}">{shown}</td>'


def _cell(column: Column, row: Row, *, alone: bool) -> str:
    """A mean with its interval; no difference where there is nothing to compare with."""
    value = column.scale * row[column.mean]
    ends = [row[f"{column.ends}_{end}"] for end in ("low", "high")] if column.ends else []
    extra = ' class="extra"' * column.extra
    if (alone and column.mean.endswith("diff")) or not math.isfinite(value):
        return f'<td{extra} data-v="">–</td>'
    shown = console.with_interval(value, *ends) if ends else console.number(value, column.digits)
    return f'<td{extra} data-v="{value:.8g}">{shown}{column.unit}</td>'


def _failed_rows(trials: pd.DataFrame) -> list[dict[Any, Any]]:
    return of(trials, "status", FAILED).to_dict("records") if "status" in trials else []


def _failed(trials: pd.DataFrame) -> str:
    """Tracebacks of the trials that failed."""
    failed = _failed_rows(trials)
    if not failed:
        return ""
    parts = []
    for row in failed[:_MOST_FAILED]:
        names = [name for name in row if name not in ("status", "error", "trial", "scenario")]
        labels = [f"{n} {plain(row[n])}" for n in names[: names.index("seed") + 1]]
        error = str(row["error"]).strip()
        last = error.splitlines()[-1] if error else "no traceback"
        summary = f"{', '.join(labels)}: {last}"
        parts.append(
            f"<details><summary>{html.escape(summary)}</summary>"
            f"<pre>{html.escape(error)}</pre></details>"
        )
    more = len(failed) - len(parts)
    note = f'<p class="note">{more} more: column `error` of trials.parquet.</p>' if more else ""
    return (
        f'<section aria-labelledby="h-failed"><h2 id="h-failed" class="bad">Failed trials '
        f"({len(failed)})</h2>{''.join(parts)}{note}</section>"
    )


def _reproduce(about: Mapping[str, Any]) -> str:
    """The command, and the resolved configuration."""
    command = str(about.get("command") or "")
    if not command:
        words = ["adsim", "run", str((about.get("scenario") or {}).get("name", ""))]
        command = shlex.join(words)
    parts = [
        '<div class="command"><pre id="command">' + html.escape(command) + "</pre>"
        '<button type="button" class="control" data-copy="command">copy</button></div>'
    ]
    parts.append('<p class="note">Configuration, seeds and version determine the results.</p>')
    for key, name in (("sweep", "sweep file"), ("scenario", "scenario, all keys resolved")):
        if about.get(key):
            text = html.escape(json.dumps(about[key], indent=2, ensure_ascii=False))
            parts.append(
                f"<details><summary>{name} (JSON)</summary>"
                f'<button type="button" class="control" data-copy="json-{key}">copy</button>'
                f'<pre id="json-{key}">{text}</pre></details>'
            )
    return "\n".join(parts)
