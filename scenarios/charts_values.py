"""Charts of what campaigns were worth: players, axes of a sweep, the ladder of estimates."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from adsim.config import WorldConfig
from adsim.types import FloatArray, IntArray
from scenarios.chart import Axis, Chart, Series
from scenarios.intervals import Band
from scenarios.played import Played, band, by_player, column, first_of, names_of, plain

MOST_ROWS = 24  # of a chart of points and players
_FAR = 100.0  # ratio of ends from which an axis is logarithmic
_NOBODY = np.zeros(0, np.int64)  # rows of a player that has none


class Metric(NamedTuple):
    """What can be shown over the axes of a sweep."""

    column: str
    title: str
    unit: str
    scale: float = 1.0

    @property
    def label(self) -> str:
        """Title with unit."""
        return f"{self.title} ({self.unit})"


METRICS = (
    Metric("expected_net_value", "expected net value", "currency per campaign"),
    Metric("net_value", "realised net value", "currency per campaign"),
    Metric("share_of_hindsight", "share of hindsight bound", "%", 100.0),
    Metric("spend", "spend", "currency per campaign"),
    Metric("net_roas", "net ROAS", "net GMV / spend"),
    Metric("wins", "wins", "impressions per campaign"),
    Metric("purchases", "purchases", "per campaign"),
    Metric("pacing_rmse", "distance from plan", "RMSE, budget per tick"),
)
_MONEY = "net value of a campaign (currency)"


def key_title(key: str) -> str:
    """A key of the scenario with the first sentence of its description, which says the unit."""
    fields: Any = WorldConfig.model_fields
    about = ""
    for part in key.removeprefix("world.").split("."):
        if part not in fields:
            return key
        about = fields[part].description or ""
        fields = getattr(fields[part].annotation, "model_fields", {})
    sentence = about.replace("\n", " ").split(". ")[0].rstrip(".")
    return f"{key} ({sentence[:1].lower()}{sentence[1:]})" if sentence else key


def name_of(played: Played, row: Mapping[str, Any]) -> str:
    """A row of the leaderboard in words."""
    who = names_of(played.players)[str(row["agent"]), str(row["estimates"])]
    several = len(played.players) > 1 or not played.axes
    point = [f"{axis.rpartition('.')[2]} {plain(row[axis])}" for axis in played.axes]
    return " · ".join([*point, *([who] if several else [])])


def leaderboard_chart(played: Played, rows: Sequence[Mapping[str, Any]]) -> Chart:
    """Expected and realised net value of the best rows of `results.leaderboard`."""
    best = sorted(rows, key=lambda row: -row["expected_net_value"])[:MOST_ROWS]
    more = f" The best {MOST_ROWS} of {len(rows)} rows." if len(rows) > len(best) else ""
    about = (
        ("expected", "expected_net_value", "expected", 0.16, True),
        ("realised", "net_value", "ci", -0.16, False),
    )
    series = tuple(
        _dots(name, look, best, (value, f"{ends}_low", f"{ends}_high"), shift, filled=filled)
        for look, (name, value, ends, shift, filled) in enumerate(about)
    )
    caption = (
        "Means with 95 % intervals. Expected: given the impressions won, without the luck of "
        f"purchases and refunds.{more}"
    )
    labels = tuple(name_of(played, row) for row in reversed(best))
    return Chart(
        *("leaderboard", "Net value", caption, Axis(_MONEY), Axis("", labels=labels), series)
    )


def _dots(
    name: str,
    look: int,
    rows: Sequence[Mapping[str, Any]],
    columns: tuple[str, str, str],
    shift: float = 0.0,
    *,
    filled: bool = True,
) -> Series:
    """A row each, the first on top."""
    x, low, high = (np.array([row[name] for row in rows], np.float64) for name in columns)
    y = np.array([len(rows) - 1 - place + shift for place in range(len(rows))], np.float64)
    return Series(name, "dots", x, y, *_finite(low, high), look=look, filled=filled)


def _finite(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray] | tuple[None, None]:
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return None, None
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def differences_chart(
    played: Played, rows: Sequence[Mapping[str, Any]], rival: str
) -> Chart | None:
    """Paired differences of expected net value to the first player, or point.

    Args:
        played: trials.
        rows: of `results.leaderboard`, compared with somebody.
        rival: in words.
    """
    best = sorted(rows, key=lambda row: -row["expected_diff"])[:MOST_ROWS]
    if not best:
        return None
    more = f" The best {MOST_ROWS} of {len(rows)} rows." if len(rows) > len(best) else ""
    columns = ("expected_diff", "expected_diff_low", "expected_diff_high")
    labels = tuple(name_of(played, row) for row in reversed(best))
    return Chart(
        "differences",
        f"Difference to {rival}",
        f"Of expected net value on the same seeds, with 95 % intervals; left of 0 is worse.{more}",
        Axis("difference of net value (currency per campaign)"),
        Axis("", labels=labels),
        (_dots("paired difference", 2, best, columns),),
        zero=True,
    )


def map_charts(played: Played, rows: IntArray, random_axes: frozenset[str]) -> Iterator[Chart]:
    """Every metric over the axes that vary: heat map of two, lines over one, dots of draws."""
    trials = played.trials.iloc[rows]
    axes = [axis for axis in played.axes if trials[axis].nunique(dropna=False) > 1]
    values = np.stack([metric.scale * column(played, metric.column) for metric in METRICS])
    grid, drawn = axes[:2], [axis for axis in axes if axis in random_axes]
    points = len(trials[grid].drop_duplicates()) if grid else 0
    full = len(grid) == 2 and points == np.prod([trials[axis].nunique() for axis in grid])
    if full and not drawn:
        yield from _heat_maps(played, rows, (grid[0], grid[1]), values)
        return
    for axis in axes:
        yield from _lines_over(played, rows, axis, values, joined=axis not in drawn)


def levels_of(played: Played, rows: IntArray, axis: str) -> list[Any]:
    """Values of an axis, numbers in order."""
    found = list(dict.fromkeys(played.trials[axis].to_numpy()[rows].tolist()))
    return sorted(found) if all(isinstance(value, int | float) for value in found) else found


def _where(played: Played, rows: IntArray, axis: str, value: Any) -> IntArray:
    return rows[played.trials[axis].to_numpy()[rows] == value]


def _stacked(found: Sequence[Band], metric: int) -> Band:
    """One metric of the bands of several points."""
    return Band(*(np.array([getattr(one, end)[metric] for one in found]) for end in Band._fields))


def _slug(key: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in key)


def _lines_over(
    played: Played, rows: IntArray, axis: str, values: FloatArray, *, joined: bool
) -> Iterator[Chart]:
    """A line, or dots, of each player."""
    names, levels = list(names_of(played.players).values()), levels_of(played, rows, axis)
    numeric = all(isinstance(value, int | float) and value == value for value in levels)
    x = np.array(levels if numeric else range(len(levels)), np.float64)
    log = numeric and bool(x.min() > 0 and x.max() / x.min() >= _FAR)
    found: dict[int, list[Band]] = {}
    groups, others = first_of(by_player(played, rows), "players")
    for place, own in groups.items():
        parts = [_where(played, own, axis, level) for level in levels]
        found[place] = [
            band(played, part, values) if part.size else _unknown(len(METRICS)) for part in parts
        ]
    pooled = [other for other in played.axes if other != axis]
    over = f", means over {', '.join(pooled)}" if pooled and joined else ""
    labels = () if numeric else tuple(plain(level) for level in levels)
    for number, metric in enumerate(METRICS):
        series = []
        for place, bands_of in found.items():
            mean, low, high = _stacked(bands_of, number)
            if np.isfinite(mean).any():
                kind = "line" if joined and numeric else "points"
                series.append(Series(names[place], kind, x, mean, *_finite(low, high), look=place))
        if series:
            yield Chart(
                f"map_{metric.column}_{_slug(axis)}",
                f"{metric.title.capitalize()} over {axis}",
                f"Means over campaigns with 95 % intervals{over}.{others}",
                Axis(key_title(axis), log=log, labels=labels),
                Axis(metric.label),
                tuple(series),
                metric=metric.column,
            )


def _unknown(size: int) -> Band:
    return Band(*(np.full(size, np.nan) for _ in Band._fields))


def _heat_maps(
    played: Played, rows: IntArray, axes: tuple[str, str], values: FloatArray
) -> Iterator[Chart]:
    """A map of each player, on one scale of colours."""
    names = list(names_of(played.players).values())
    levels = [levels_of(played, rows, axis) for axis in axes]
    x, y = (part.ravel() for part in np.meshgrid(*(np.arange(len(part)) for part in levels)))
    cells: dict[int, list[Band]] = {}
    groups, others = first_of(by_player(played, rows), "players")
    for place, own in groups.items():
        parts = [
            _where(played, _where(played, own, axes[0], levels[0][i]), axes[1], levels[1][j])
            for i, j in zip(x, y, strict=True)
        ]
        cells[place] = [
            band(played, part, values) if part.size else _unknown(len(METRICS)) for part in parts
        ]
    pooled = [axis for axis in played.axes if axis not in axes]
    over = f", and over {', '.join(pooled)}" if pooled else ""
    x_axis, y_axis = (
        Axis(key_title(axis), labels=tuple(plain(level) for level in part))
        for axis, part in zip(axes, levels, strict=True)
    )
    for number, metric in enumerate(METRICS):
        found = {place: _stacked(part, number) for place, part in cells.items()}
        known = np.concatenate([part.mean[np.isfinite(part.mean)] for part in found.values()])
        for place, (mean, low, high) in found.items():
            if not np.isfinite(mean).any():
                continue
            series = Series(
                names[place], "heat", x.astype(float), y.astype(float), *_finite(low, high), z=mean
            )
            who = f": {names[place]}" if len(played.players) > 1 else ""
            yield Chart(
                f"map_{metric.column}" + (f"_{_slug(names[place])}_{place}" if who else ""),
                f"{metric.title.capitalize()}{who}",
                f"Means over campaigns{over}.{others}",
                *(x_axis, y_axis, (series,)),
                metric=metric.column,
                z_title=metric.label,
                z_range=(float(known.min()), float(known.max())),
            )


def ladder_charts(played: Played, rows: IntArray) -> Iterator[Chart]:
    """Expected net value by estimates, and the paired steps from one to the next."""
    groups = by_player(played, rows)
    if len({played.players[place][1] for place in groups}) < 2:
        return
    rungs = list(dict.fromkeys(estimates for _, estimates in played.players))
    value, bound = (column(played, name) for name in ("expected_net_value", "hindsight"))
    agents = list(dict.fromkeys(played.players[place][0] for place in groups))
    levels, steps = [], []
    for agent in agents:
        own = {played.players[p][1]: r for p, r in groups.items() if played.players[p][0] == agent}
        parts = [(rung, own.get(rung, _NOBODY), value) for rung in rungs]
        if "oracle" in own and np.isfinite(bound[own["oracle"]]).all():
            parts.append(("hindsight", own["oracle"], bound))
        found = {name: band(played, part, values[None]) for name, part, values in parts}
        levels.append((agent, _known(found)))
        steps.append((agent, _known(_steps(played, parts))))
    shown = {name for _, found in levels for name in found}
    order = [name for name in (*rungs, "hindsight") if name in shown]
    yield _by_rung(
        "ladder",
        "What better estimates are worth",
        "Expected net value by the estimates that the agent bids on, with 95 % intervals; "
        "hindsight is the bound with all prices known.",
        *(_MONEY, order, levels),
    )
    if not any(found for _, found in steps):
        return
    yield _by_rung(
        "ladder_steps",
        "Step from the estimates before",
        "Differences of expected net value on the same seeds, with 95 % intervals; "
        "left of 0 is worse.",
        *("difference of net value (currency per campaign)", order[1:], steps),
        zero=True,
    )


def _known(found: Mapping[str, Band]) -> dict[str, Band]:
    return {name: one for name, one in found.items() if np.isfinite(one.mean).all()}


def _steps(played: Played, parts: Sequence[tuple[str, IntArray, FloatArray]]) -> dict[str, Band]:
    """Differences of each part to the one before, paired by point and campaign.

    There is none after a part without rows: the one before that is no step below.
    """
    trials, found = played.trials, {}
    keys = [*played.axes, "agent", "structure", "seed"]
    for (name, rows, values), (_, other, base) in zip(parts[1:], parts[:-1], strict=True):
        below = trials.iloc[other][keys].assign(base=base[other])
        own = trials.iloc[rows][keys].assign(row=rows).merge(below, on=keys)
        difference = np.full(len(trials), np.nan)
        shared = own["row"].to_numpy(np.int64)
        difference[shared] = values[shared] - own["base"].to_numpy(np.float64)
        found[name] = band(played, shared, difference[None])
    return found


def _by_rung(
    id_: str,
    title: str,
    caption: str,
    unit: str,
    order: Sequence[str],
    parts: Sequence[tuple[str, Mapping[str, Band]]],
    *,
    zero: bool = False,
) -> Chart:
    """Dots of each agent, the first rung on top."""
    series = []
    for look, (agent, found) in enumerate(parts):
        if not found:
            continue
        mean, low, high = _stacked(list(found.values()), 0)
        shift = 0.12 * (0.5 * (len(parts) - 1) - look)
        y = np.array([len(order) - 1 - order.index(name) for name in found]) + shift
        series.append(Series(agent, "dots", mean, y, *_finite(low, high), look=look))
    labels = tuple(reversed(order))
    return Chart(
        *(id_, title, caption, Axis(unit), Axis("", labels=labels), tuple(series)), zero=zero
    )
