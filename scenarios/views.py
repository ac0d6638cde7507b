"""The charts of a report for every choice of its filters.

A view is what is shown for one choice: each filter at one of its values, or at all. All
combinations are made if they are at most `MOST_VIEWS` and their size stays below `MOST_BYTES`;
else one filter at a time, the others at all.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adsim.types import IntArray
from scenarios.chart import Chart, as_json
from scenarios.charts_course import course_charts
from scenarios.charts_values import (
    differences_chart,
    ladder_charts,
    leaderboard_chart,
    levels_of,
    map_charts,
)
from scenarios.played import Played, compared, names_of, plain
from scenarios.results import WHO

MOST_VIEWS = 256
MOST_BYTES = 6_000_000  # of all views
MOST_VALUES = 16  # of an axis that can be filtered; players always can
ALL = -1

Row = Mapping[str, Any]
"""Of `results.leaderboard`."""
Choice = tuple[int, ...]
"""Of each filter: place of a value, or `ALL`."""


class Filter(NamedTuple):
    """A column by which trials can be chosen."""

    column: str
    values: tuple[Any, ...]

    @property
    def labels(self) -> list[str]:
        """The values in words."""
        return [plain(value) for value in self.values]


class Views(NamedTuple):
    """All that a page shows of the trials."""

    filters: tuple[Filter, ...]
    combined: bool  # whether filters can be combined
    charts: dict[Choice, tuple[Chart, ...]]  # by choice; choices without trials are left out


def filters_of(played: Played) -> tuple[Filter, ...]:
    """Agents and estimates, and axes of not too many values, that have several."""
    rows = np.arange(len(played.trials))
    found = (Filter(name, tuple(levels_of(played, rows, name))) for name in (*played.axes, *WHO))
    return tuple(
        one
        for one in found
        if len(one.values) > 1 and (one.column in WHO or len(one.values) <= MOST_VALUES)
    )


def chosen(played: Played, filters: Sequence[Filter], choice: Choice) -> IntArray:
    """Places of the trials of a choice."""
    keep = np.ones(len(played.trials), bool)
    for one, place in zip(filters, choice, strict=True):
        if place != ALL:
            keep &= played.trials[one.column].to_numpy() == one.values[place]
    return np.flatnonzero(keep)


def place_of(filters: Sequence[Filter], row: Mapping[str, Any]) -> Choice:
    """Which value of each filter a row of the leaderboard has."""
    return tuple(one.values.index(row[one.column]) for one in filters)


def matches(own: Choice, choice: Choice) -> bool:
    """Whether a row of the leaderboard belongs to a choice."""
    return all(place in (ALL, mine) for mine, place in zip(own, choice, strict=True))


def rival_of(played: Played) -> str:
    """In words: whom `results.leaderboard` compares with."""
    if len(played.players) > 1:
        return names_of(played.players)[played.players[0]]
    return "the first point"


def charts_of(
    played: Played,
    rows: IntArray,
    board: Sequence[Row],
    others: Sequence[Row],
    random_axes: frozenset[str],
) -> Iterator[Chart]:
    """All figures of some trials.

    Args:
        played: all finished trials.
        rows: (k,) places of those that are shown.
        board: their rows of `results.leaderboard`.
        others: those of them that are compared with somebody.
        random_axes: axes with values that were drawn.
    """
    yield leaderboard_chart(played, board)
    differences = differences_chart(played, others, rival_of(played))
    if differences is not None:
        yield differences
    yield from map_charts(played, rows, random_axes)
    yield from ladder_charts(played, rows)
    yield from course_charts(played, rows)


def choices_of(filters: Sequence[Filter], all_bytes: int) -> tuple[bool, list[Choice]]:
    """Whether filters can be combined, and the choices but that of all.

    Args:
        filters: of the page.
        all_bytes: size of the view of all trials, the largest one.
    """
    sizes = [len(one.values) for one in filters]
    total = math.prod(size + 1 for size in sizes)
    if total <= MOST_VIEWS and total * all_bytes <= MOST_BYTES:
        product = itertools.product(*(range(ALL, size) for size in sizes))
        return True, [choice for choice in product if any(place != ALL for place in choice)]
    one_by_one = []
    for place, size in enumerate(sizes):
        before, after = (ALL,) * place, (ALL,) * (len(sizes) - place - 1)
        one_by_one += [(*before, value, *after) for value in range(size)]
    return False, one_by_one


def size_of(charts: Sequence[Chart]) -> int:
    """Bytes in the page."""
    return len(compact([as_json(chart) for chart in charts]))


def compact(value: Any) -> str:
    """JSON without blanks."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def make_views(
    played: Played,
    board: Sequence[Row],
    random_axes: frozenset[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Views:
    """The charts of every choice.

    Args:
        played: finished trials, at least one.
        board: `results.leaderboard` of them.
        random_axes: axes with values that were drawn.
        progress: told how many views are made, of how many.
    """
    filters = filters_of(played)
    places = [place_of(filters, row) for row in board]
    everything: Choice = (ALL,) * len(filters)
    rows = np.arange(len(played.trials))
    others = [id(row) for row in compared(played, board)]
    views: dict[Choice, tuple[Chart, ...]] = {}

    def add(choice: Choice, rows: IntArray) -> None:
        own = [row for row, at in zip(board, places, strict=True) if matches(at, choice)]
        rivals = [row for row in own if id(row) in others]
        views[choice] = tuple(charts_of(played, rows, own, rivals, random_axes))

    add(everything, rows)
    combined, choices = choices_of(filters, size_of(views[everything]))
    for done, choice in enumerate(choices, start=1):
        progress(done, len(choices))
        rows = chosen(played, filters, choice)
        if rows.size:
            add(choice, rows)
    return Views(filters, combined, views)
