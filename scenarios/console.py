"""What the command line prints: tables, progress, errors. Progress goes to standard error."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from scenarios.results import jsonable

EXIT_USER_ERROR = 2
stdout = Console()
stderr = Console(stderr=True)


@contextmanager
def user_errors() -> Iterator[None]:
    """Turns errors that the user can mend into one line and exit status 2."""
    try:
        yield
    except (ValueError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        stderr.print(f"[bold red]error:[/] {plain(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(EXIT_USER_ERROR) from None


def plain(text: str) -> str:
    """The text with rich's markup switched off."""
    return text.replace("[", r"\[")


@contextmanager
def progress(description: str, total: int) -> Iterator[Any]:
    """A progress bar on standard error; yields advance(steps=1, note="")."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=stderr, transient=True) as bar:
        task = bar.add_task(description, total=total, note="")
        yield lambda steps=1, note="": bar.update(task, advance=steps, note=plain(note))


def emit_json(rows: list[dict[str, Any]], **extra: Any) -> None:
    """One JSON object with `rows` on standard output."""
    json.dump(jsonable({**extra, "rows": rows}), sys.stdout, indent=2)
    sys.stdout.write("\n")


def number(value: float, digits: int = 0) -> str:
    """A number for a table cell."""
    return f"{value:,.{digits}f}" if value == value else "-"


def with_interval(mean: float, low: float, high: float, digits: int = 0) -> str:
    """`mean ± half width` of a symmetric interval; the mean alone if it is unknown."""
    half = 0.5 * (high - low)
    return number(mean, digits) + (f" ± {number(half, digits)}" if half < float("inf") else "")


def print_table(
    title: str, header: list[str], rows: list[list[str]], note: str = "", *, text_columns: int = 1
) -> None:
    """A table whose first `text_columns` columns are text, left-aligned; nothing is cut."""
    table = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for position, name in enumerate(header):
        table.add_column(
            name, justify="right" if position >= text_columns else "left", no_wrap=True
        )
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    # Numbers are never cut: a line longer than the terminal wraps, a file gets it whole.
    width = Console(width=1_000).measure(table).maximum
    Console(width=max(width, stdout.width)).print(table)


def print_campaigns(title: str, rows: list[dict[str, Any]], note: str) -> None:
    """The table of `adsim run`: one row per agent, turned if the terminal is narrow."""
    header = ["", *(row["agent"] for row in rows)]
    lines = [
        (
            "expected net value",
            [_interval_cell(row, "expected_net_value", "expected") for row in rows],
        ),
        ("  vs first, paired", [_difference_cell(row, "expected_diff", rows) for row in rows]),
        ("realised net value", [_interval_cell(row, "net_value", "ci") for row in rows]),
        ("  vs first, paired", [_difference_cell(row, "diff", rows) for row in rows]),
        ("share of hindsight", [_share(row["share_of_hindsight"]) for row in rows]),
    ]
    for name in ("spend", "impressions", "wins", "clicks", "purchases", "refunds", "gmv"):
        label = "GMV" if name == "gmv" else name
        lines.append((label, [number(row[name]) for row in rows]))
    lines.append(("net ROAS", [number(row["net_roas"], 2) for row in rows]))
    print_table(title, header, [[label, *cells] for label, cells in lines], note)


def _interval_cell(row: dict[str, Any], mean: str, bounds: str) -> str:
    return with_interval(row[mean], row[f"{bounds}_low"], row[f"{bounds}_high"])


def _difference_cell(row: dict[str, Any], name: str, rows: list[dict[str, Any]]) -> str:
    if row is rows[0]:
        return ""
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _share(value: float) -> str:
    return f"{100 * value:.1f} %" if value == value else "-"
