"""Figures of campaign outcomes: pure functions of result tables.

Each function takes tables (of `results.Tables`) and an optional `ax`, draws into it or into a
figure of its own, and returns the Axes; an unknown agent or scenario is a ValueError. No pyplot:
nothing global is opened, so a notebook shows a figure by ending a cell with
`plot_pacing(ticks).figure`. Money is in currency, durations in hours, or in days since the
campaign's start.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FixedFormatter,
    FixedLocator,
    Formatter,
    FuncFormatter,
    Locator,
    LogLocator,
    NullLocator,
)

from adsim.types import FloatArray
from scenarios.intervals import Interval, by_campaign, clustered
from scenarios.palette import BLUE, GREEN, LINES, VERMILLION, styles_of
from scenarios.played import cumulative
from scenarios.results import Tables, write_atomically

INK, GREY, PALE = "#222222", "#8C8C8C", "#BDBDBD"
_TITLE_SIZE, _TEXT_SIZE, SMALL_SIZE = 10.5, 9.0, 8.0  # points
_WIDTH, HEIGHT, ROW_HEIGHT = 6.4, 4.2, 0.36  # inches; the last per agent of a leaderboard
_DPI = 150
_LEGEND_CHARACTERS = 78  # of one line, handles counted as six each
_FEW_SEEDS = 10  # below, a band spans all seeds; from here on their 10-90 % range
_MOST_BANDS = 4  # with more agents the bands hide each other
_PRICE_BINS = 50
_TIME = "days since the campaign's start"
_PRICE = "price to beat (currency per impression, log scale)"
_DELAYS = (1 / 60, 1 / 4, 1.0, 6.0, 24.0, 72.0, 168.0)  # hours
_DELAY_NAMES = ("≤ 1 min", "15 min", "1 h", "6 h", "1 d", "3 d", "7 d")


def plot_pacing(
    ticks: pd.DataFrame,
    ax: Axes | None = None,
    *,
    budget: float | None = None,
    agents: Sequence[str] | None = None,
) -> Axes:
    """Cumulative spend of each agent against the plan; mean over seeds and their range.

    Args:
        ticks: see `results.Tables`.
        ax: where to draw.
        budget: currency; if given, spend is shown as a percentage of it.
        agents: all agents in the order that fixes their colours; by default that of `ticks`.
    """
    unit, scale = ("currency", 1.0) if budget is None else ("% of budget", 100.0 / budget)
    ax = dressed(ax, "Spend against plan", _TIME, f"cumulative spend ({unit})")
    if ticks.empty:
        return _nothing(ax, "no ticks")
    shown, num_seeds = _names(ticks), _num_campaigns(ticks)
    style = styles_of([*(agents or ()), *shown])
    edges = (0.0, 1.0) if num_seeds < _FEW_SEEDS else (0.1, 0.9)
    band = " and range" if num_seeds < _FEW_SEEDS else " and 10-90 % range"
    for name in shown:
        rows, _ = _chosen(ticks, "agent", name)
        x, paths = _cumulative(rows, scale * _column(rows, "spend"))
        if len(shown) <= _MOST_BANDS:
            low, high = np.quantile(paths, edges, axis=1)
            ax.fill_between(x, low, high, color=style[name]["color"], alpha=0.18, lw=0)
        look = {key: style[name][key] for key in ("color", "ls")}
        ax.plot(x, paths.mean(axis=1), lw=1.8, label=literal(name), **look)
    x, plan = _cumulative(ticks, scale * np.nan_to_num(_column(ticks, "target_spend")))
    if plan.any():
        ax.plot(x, plan.mean(axis=1), color=INK, ls=LINES[3], lw=1.5, label="plan", zorder=3)
    ax.title.set_text(
        f"Spend against plan\n{_of_seeds(num_seeds, band * (len(shown) <= _MOST_BANDS))}"
    )
    ax.set_ylim(bottom=0.0)
    return with_legend(ax)


def plot_net_value(
    ticks: pd.DataFrame, margin: float, ax: Axes | None = None, *, agent: str | None = None
) -> Axes:
    """Net value of one agent as seen, as matured, and as finally realised, over time.

    As seen counts purchases and refunds when they arrive; matured counts purchases whose refund
    window has closed; finally realised credits an impression at once with all that will follow.
    The last tick settles what is pending, so all three end at the same value.

    Args:
        ticks: see `results.Tables`.
        margin: profit share of net GMV.
        ax: where to draw.
        agent: whose; the first by default.
    """
    ax = dressed(ax, "Net value", _TIME, "cumulative net value (currency)")
    if ticks.empty:
        return _nothing(ax, "no ticks")
    rows, agent = _chosen(ticks, "agent", agent)
    curves = {
        "finally realised": (_column(rows, "accrued_net_gmv"), GREEN, LINES[1]),
        "seen so far (cash)": (_column(rows, "gmv") - _column(rows, "refunded"), BLUE, "-"),
        "matured": (_column(rows, "matured_net_gmv"), VERMILLION, LINES[2]),
    }
    ax.axhline(0.0, color=GREY, lw=0.8)
    for label, (net_gmv, colour, line) in curves.items():
        x, paths = _cumulative(rows, margin * net_gmv - _column(rows, "spend"))
        ax.plot(x, paths.mean(axis=1), color=colour, ls=line, lw=1.8, label=label)
    seeds = _of_seeds(_num_campaigns(rows))
    whose = literal(repr(agent))
    ax.title.set_text(f"Net value of {whose}: {seeds}\nthe last tick settles what is pending")
    return with_legend(ax)


def plot_delays(events: pd.DataFrame, ax: Axes | None = None, *, agent: str | None = None) -> Axes:
    """Empirical distribution functions of the delays of purchases and refunds, log hours.

    Args:
        events: see `results.Tables`.
        ax: where to draw.
        agent: whose; the first by default. Agents that win alike see the same events of a seed.
    """
    ax = dressed(ax, "Delay of observed feedback", "delay (log scale)", "share of events (%)")
    if events.empty:
        return _nothing(ax, "no events")
    rows, agent = _chosen(events, "agent", agent)
    kind, order = np.asarray(rows["kind"]), _column(rows, "order_id")
    if np.all(kind == "click"):
        return _nothing(ax, "no purchases")
    delay = np.maximum(_column(rows, "delay_hours"), _DELAYS[0])  # no place for 0 on a log axis
    ax.title.set_text(literal(f"Delay of the feedback that {agent!r} saw"))
    curves = {
        "first purchase since click": ((kind == "purchase") & (order == 0), BLUE, "-"),
        "later purchases since click": ((kind == "purchase") & (order > 0), GREEN, LINES[1]),
        "refund since its purchase": (kind == "refund", VERMILLION, LINES[2]),
    }
    longest = max(_DELAYS[-1], delay.max()) * 1.15
    for label, (chosen, colour, line) in curves.items():
        x = np.sort(delay[chosen])
        if x.size:
            steps = np.concatenate([x[:1], x, [longest]])
            share = 100.0 * np.minimum(np.arange(x.size + 2) / x.size, 1.0)
            look: dict[str, Any] = {"color": colour, "ls": line, "lw": 1.8}
            ax.step(steps, share, where="post", label=f"{label} (n = {x.size:,})", **look)
    _log_axis(ax, FixedLocator(_DELAYS), FixedFormatter(_DELAY_NAMES))
    ax.set_xlim(_DELAYS[0], longest)
    ax.set_ylim(0.0, 102.0)
    return with_legend(ax)


def plot_prices(
    auctions: pd.DataFrame, ax: Axes | None = None, *, agent: str | None = None
) -> Axes:
    """Histogram of the price to beat of won and lost auctions, on a log axis.

    Args:
        auctions: see `results.Tables`; auctions whose price is unknown or 0 are left out.
        ax: where to draw.
        agent: whose; the first by default.
    """
    ax = dressed(ax, "Price to beat", _PRICE, "auctions")
    if auctions.empty:
        return _nothing(ax, "no auctions")
    rows, agent = _chosen(auctions, "agent", agent)
    price, won = _column(rows, "price"), np.asarray(rows["won"], dtype=bool)
    known = np.isfinite(price) & (price > 0.0)
    if not known.any():
        return _nothing(ax, "no known prices")
    price, won, paid = price[known], won[known], _column(rows, "paid")[known & won]
    low, high = price.min() / 1.01, price.max() * 1.01
    ax.hist(
        [price[won], price[~won]],
        bins=list(np.geomspace(low, high, _PRICE_BINS + 1)),
        stacked=True,
        color=[BLUE, PALE],
        label=[f"won ({won.mean():.0%})", f"lost ({(~won).mean():.0%}), stacked on won"],
    )
    if np.isfinite(paid).any():
        median = float(np.nanmedian(paid))
        ax.axvline(median, color=INK, ls=LINES[1], lw=1.4, label=f"median paid {median:.3g}")
    subs = (1.0,) if high / low > 1e4 else (1.0, 2.0, 5.0)
    _log_axis(ax, LogLocator(subs=subs, numticks=20), PLAIN_NUMBERS)
    ax.title.set_text(literal(f"Price to beat in {price.size:,} auctions of {agent!r}"))
    return with_legend(ax)


def plot_leaderboard(
    trials: pd.DataFrame,
    ax: Axes | None = None,
    *,
    scenario: str | None = None,
    agents: Sequence[str] | None = None,
) -> Axes:
    """Expected and realised net value of each agent, with 95 % intervals (`intervals.clustered`).

    Args:
        trials: see `results.Tables`.
        ax: where to draw.
        scenario: which one; the first by default.
        agents: all agents in the order that fixes their colours; by default that of `trials`.
    """
    labels = "Net value of the agents", "net value of a campaign (currency)", ""
    if trials.empty:
        return _nothing(dressed(ax, *labels), "no trials")
    rows, scenario = _chosen(trials, "scenario", scenario)
    own = {name: _chosen(rows, "agent", name)[0] for name in _names(rows)}
    ax = dressed(ax, *labels, height=max(HEIGHT, 1.8 + ROW_HEIGHT * len(own)))
    style = styles_of([*(agents or ()), *_names(trials)])

    def spread(column: str, name: str) -> Interval:
        return clustered(by_campaign(own[name], column))

    names = sorted(own, key=lambda name: spread("expected_net_value", name).mean)
    for y, name in enumerate(names):  # the best on top
        _dot(ax, y + 0.13, spread("expected_net_value", name), style[name], filled=True)
        _dot(ax, y - 0.13, spread("net_value", name), style[name], filled=False)
        bound = _column(own[name], "hindsight")
        if np.isfinite(bound).any():
            ax.vlines(np.nanmean(bound), y - 0.5, y + 0.5, color=INK, ls=LINES[3], lw=1.6)
    ax.set_yticks(range(len(names)), [literal(name) for name in names])
    ax.set_ylim(-0.6, len(names) - 0.4)
    ax.tick_params(axis="y", labelsize=_TEXT_SIZE, length=0)
    ax.yaxis.grid(False)
    seeds = _of_seeds(_num_campaigns(rows), " and 95 % interval")
    ax.title.set_text(literal(f"Net value in scenario {scenario!r}\n{seeds}"))
    handles = [Line2D([], [], ls="", marker="o", color=INK, label="expected")]
    handles.append(Line2D([], [], ls="", marker="o", color=INK, label="realised", mfc="w"))
    if np.isfinite(_column(rows, "hindsight")).any():
        handles.append(Line2D([], [], color=INK, ls=LINES[3], lw=1.6, label="hindsight bound"))
    return with_legend(ax, handles)


def overview(tables: Tables, path: str | Path | None = None) -> Figure:
    """All panels in one figure, also written to a PNG file if `path` is given."""
    top = max(HEIGHT, 1.8 + ROW_HEIGHT * len(_names(tables.trials)))
    figure = new_figure(14.5, top + HEIGHT)
    grid = figure.add_gridspec(2, 6, height_ratios=[top, HEIGHT])
    lower = {"net_value": grid[1, :2], "delays": grid[1, 2:4], "prices": grid[1, 4:]}
    places = {"leaderboard": grid[0, :3], "pacing": grid[0, 3:], **lower}
    for name, draw in _panels(tables).items():
        draw(figure.add_subplot(places[name]))
    if path is not None:
        save_figure(figure, Path(path))
    return figure


def save_all(tables: Tables, folder: str | Path) -> list[Path]:
    """Writes each panel and the overview as PNG files, each at once or not at all; their paths."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    axes = {name: draw(None) for name, draw in _panels(tables).items()}
    paths = [
        save_figure(ax.get_figure(root=True), target / f"{name}.png") for name, ax in axes.items()
    ]
    return [*paths, save_figure(overview(tables), target / "overview.png")]


def _panels(tables: Tables) -> dict[str, Callable[[Axes | None], Axes]]:
    """The panels by name, with one order of the agents, hence one look of each."""
    trials, ticks = tables.trials, tables.ticks
    agents = [name for table in (trials, ticks) for name in _names(table)]
    budgets = [] if trials.empty else np.unique(_column(trials, "budget"))
    budget = float(budgets[0]) if len(budgets) == 1 and 0 < budgets[0] < np.inf else None
    known, margin = (trials, 1.0) if trials.empty else (ticks, float(trials["margin"].iloc[0]))
    return {
        "pacing": lambda ax: plot_pacing(ticks, ax, budget=budget, agents=agents),
        "net_value": lambda ax: plot_net_value(known, margin, ax),
        "delays": lambda ax: plot_delays(tables.events, ax),
        "prices": lambda ax: plot_prices(tables.auctions, ax),
        "leaderboard": lambda ax: plot_leaderboard(trials, ax, agents=agents),
    }


def save_figure(figure: Figure | None, path: Path) -> Path:
    """Writes a PNG at once or not at all."""
    assert figure is not None
    options: dict[str, Any] = {"dpi": _DPI, "facecolor": "white", "metadata": {"Software": None}}
    write_atomically(path, lambda partial: figure.savefig(partial, format="png", **options))
    return path


def new_figure(width: float, height: float) -> Figure:
    """A figure of a size in inches that belongs to no window."""
    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def dressed(
    ax: Axes | None, title: str, x_label: str, y_label: str, height: float = HEIGHT
) -> Axes:
    """Axes with title, units, light grid and no box; of a new figure if there are none."""
    if ax is None:
        ax = new_figure(_WIDTH, height).add_subplot()
    ax.set_title(literal(title), fontsize=_TITLE_SIZE, pad=8)
    ax.set_xlabel(literal(x_label), fontsize=_TEXT_SIZE)
    ax.set_ylabel(literal(y_label), fontsize=_TEXT_SIZE)
    ax.tick_params(labelsize=SMALL_SIZE, color=GREY)
    ax.grid(color="#E6E6E6", lw=0.7)
    ax.set_axisbelow(True)
    ax.margins(x=0.02)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GREY)
    ax.xaxis.set_major_formatter(PLAIN_NUMBERS)
    ax.yaxis.set_major_formatter(PLAIN_NUMBERS)
    return ax


def literal(text: str) -> str:
    """Text that is shown as it is: between dollar signs matplotlib reads formulas."""
    return text.replace("$", r"\$")


def _log_axis(ax: Axes, ticks: Locator, labels: Formatter) -> None:
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(ticks)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(labels)


def with_legend(ax: Axes, handles: list[Line2D] | None = None) -> Axes:
    """A legend below the axes, where it covers nothing."""
    shown = ax.get_legend_handles_labels()[0] if handles is None else handles
    width = max(len(str(handle.get_label())) for handle in shown) + 6
    lines = -(-len(shown) // max(1, _LEGEND_CHARACTERS // width))
    ax.legend(
        handles=shown,
        loc="upper center",
        bbox_to_anchor=(0.5, 0.0),
        borderaxespad=4.6,  # font sizes: clear of the labels of ticks and axis
        ncols=-(-len(shown) // lines),
        frameon=False,
        fontsize=SMALL_SIZE,
        handlelength=2.6,
    )
    return ax


def _nothing(ax: Axes, message: str) -> Axes:
    """Axes that say why they are empty."""
    ax.text(0.5, 0.5, message, transform=ax.transAxes, ha="center", va="center", color=GREY)
    ax.set_xticks([])
    ax.set_yticks([])
    return ax


def _dot(ax: Axes, y: float, what: Interval, style: dict[str, Any], *, filled: bool) -> None:
    """A mean with its 95 % interval, if there is one."""
    mean, low, _ = what
    look = {"fmt": style["marker"], "color": style["color"], "ms": 6.5, "lw": 1.6, "capsize": 2.5}
    error = mean - low if np.isfinite(low) else None
    ax.errorbar(mean, y, xerr=error, mfc=style["color"] if filled else "w", **look)


def _column(table: pd.DataFrame, name: str) -> FloatArray:
    return np.asarray(table[name], dtype=np.float64)


def _names(table: pd.DataFrame, column: str = "agent") -> list[str]:
    """The different values of a column in order of appearance."""
    return [] if table.empty else list(dict.fromkeys(table[column]))


def _chosen(table: pd.DataFrame, column: str, value: str | None) -> tuple[pd.DataFrame, str]:
    """The rows with a value of a column, by default its first, and that value."""
    values = _names(table, column)
    value = values[0] if value is None else value
    if value not in values:
        raise ValueError(f"{column}: must be one of {values}, got {value!r}")
    return table.take(np.flatnonzero(np.asarray(table[column]) == value)), value


def _cumulative(rows: pd.DataFrame, values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cumulative values of the campaigns of each agent, see `played.cumulative`."""
    path = np.asarray(rows.groupby(["agent", *_campaign_keys(rows)], sort=False).ngroup())
    return cumulative(_column(rows, "hours"), path, values, int(path.max()) + 1)


def _campaign_keys(rows: pd.DataFrame) -> list[str]:
    return [name for name in ("structure", "seed") if name in rows]


def _num_campaigns(rows: pd.DataFrame) -> int:
    return int(rows.groupby(_campaign_keys(rows)).ngroups)


def _of_seeds(num_seeds: int, band: str = "") -> str:
    return "1 campaign" if num_seeds == 1 else f"mean{band} of {num_seeds} campaigns"


PLAIN_NUMBERS = FuncFormatter(lambda value, _: f"{value:,.10g}".replace("-", "\N{MINUS SIGN}"))
