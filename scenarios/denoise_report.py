"""Table and figures of the comparison of correctors: pure functions of trials.

Means are over seeds. Differences to the plain bidder are paired by seed, so that the luck of a
campaign cancels; their intervals are 95 % intervals over the seeds.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator

from scenarios import console
from scenarios.denoise import BEST, METHODS, PLAIN, REGIMES, Trial
from scenarios.intervals import interval
from scenarios.palette import BLUE, GREEN, LINES, VERMILLION
from scenarios.plots import GREY, INK, dressed, new_figure, save_figure
from scenarios.report import name_lines

Row = dict[str, Any]

_NOISE = "sd of the noise, log-odds (log scale)"
_TITLES = {"budget": "Budget only", "online": "On-line, hard budget", "cpc": "Budget and CPC cap"}
_LOOKS: dict[str, dict[str, Any]] = {
    PLAIN: {"color": BLUE, "lw": 1.8, "ls": LINES[2], "zorder": 4},
    BEST: {"color": VERMILLION, "lw": 2.4, "zorder": 5},
    "denoise_k1": {"color": "#E69F00", "lw": 1.4, "ls": LINES[1], "zorder": 3.8},
    "oracle_prior": {"color": GREEN, "lw": 1.4, "ls": LINES[1], "zorder": 3.9},
    "robust": {"color": "#7A5195", "lw": 1.4, "ls": LINES[0], "zorder": 3.5},
    "risk_01": {"color": GREY, "lw": 1.2, "ls": LINES[3], "zorder": 3},
    "risk_05": {"color": GREY, "lw": 1.2, "ls": LINES[0], "zorder": 3},
}
_COLOURS = {name: look["color"] for name, look in _LOOKS.items()}
_FEW = (1.0, 2.0)  # log-odds; what is shown of many kinds of prices


def rows_of(trials: Iterable[Trial]) -> list[Row]:
    """One row per kind of prices, regime, noise and method; its entries: docs/benchmarks.md."""
    cells: dict[tuple[str, str, str, float], dict[str, dict[int, Trial]]] = {}
    for trial in trials:
        key = (trial.source, trial.prices, trial.regime, trial.sigma)
        cells.setdefault(key, {}).setdefault(trial.method, {})[trial.seed] = trial
    rows = []
    for (source, prices, regime, sigma), methods in cells.items():
        head = {"price_source": source, "prices": prices, "regime": regime, "sigma": sigma}
        plain = methods[PLAIN]
        for method, by_seed in methods.items():
            rows.append({**head, "method": method, **_statistics(by_seed, plain)})
    return rows


def _statistics(by_seed: dict[int, Trial], plain: dict[int, Trial]) -> Row:
    trials = [by_seed[seed] for seed in sorted(by_seed)]
    value = np.array([trial.value_ratio for trial in trials])
    gain = value - [plain[trial.seed].value_ratio for trial in trials]
    paired = interval(gain)
    return {
        "seeds": value.size,
        "value_ratio": float(value.mean()),
        "sd": float(value.std(ddof=1)) if value.size > 1 else float("nan"),
        "spend_ratio": float(np.mean([trial.spend_ratio for trial in trials])),
        "cpc_ratio": float(np.mean([trial.cpc_ratio for trial in trials])),
        "paired_diff": paired.mean,
        "paired_low": paired.low if gain.any() else 0.0,
        "paired_high": paired.high if gain.any() else 0.0,
        "seeds_better": int((gain > 0).sum()),
        "at_floor": float(np.mean([trial.at_floor for trial in trials])),
    }


def print_rows(rows: Sequence[Row]) -> None:
    """A table per regime of the first kind of prices, and a short one of all others."""
    kinds = _kinds(rows)
    for regime in _regimes(rows):
        part = [row for row in _of(rows, *kinds[0]) if row["regime"] == regime]
        header = ["sigma", "method", "value / oracle", "sd", "spend / B", "CPC / C", "less plain"]
        title = f"{regime}, {_label(*kinds[0])}: {_seeds(part)}"
        cells = [_cells(row) for row in part]
        console.print_table(title, header, cells, _note(part), text_columns=2)
    if len(kinds) > 1:
        _print_others(rows, kinds[1:])


def _cells(row: Row) -> list[str]:
    number = console.number
    return [
        f"{row['sigma']:.4g}" if row["method"] == PLAIN else "",
        row["method"],
        number(row["value_ratio"], 3),
        number(row["sd"], 3),
        number(row["spend_ratio"], 3),
        number(row["cpc_ratio"], 3),
        ""
        if row["method"] == PLAIN
        else console.with_interval(row["paired_diff"], row["paired_low"], row["paired_high"], 3),
    ]


def _note(rows: Sequence[Row]) -> str:
    note = "Means over the seeds; less plain: paired, with 95 % intervals."
    if rows[0]["regime"] == "cpc":
        note += " CPC / C: 1 is the cap. RiskBid knows no cap; value / oracle above 1 breaks it."
    if rows[0]["regime"] == "heteroscedastic":
        note += " Half of the auctions at noise .2, half at 2; denoise_rms takes all alike."
    floors = [row for row in rows if row["at_floor"] > 0]
    if floors:
        most = max(row["at_floor"] for row in floors)
        note += f" Priors whose variance met its floor: up to {most:.0%} of the seeds,"
        note += f" from sigma {min(row['sigma'] for row in floors):.4g} on."
    return note


def _print_others(rows: Sequence[Row], kinds: Sequence[tuple[str, str]]) -> None:
    regimes = [name for name in ("budget", "cpc", "online") if name in _regimes(rows)]
    for regime in regimes:
        sigmas = _few(rows, regime)
        header, cells = ["prices"], []
        for sigma in sigmas:
            header += [f"{PLAIN}, {sigma:.3g}", f"{BEST}, {sigma:.3g}", "less plain"]
            header += [f"CPC / C {name}" for name in (PLAIN, BEST)] * (regime == "cpc")
        for kind in kinds:
            line = [_label(*kind)]
            for sigma in sigmas:
                found = {
                    row["method"]: row
                    for row in _of(rows, *kind)
                    if row["regime"] == regime and row["sigma"] == sigma
                }
                both = [found[PLAIN], found[BEST]]
                line += [console.number(row["value_ratio"], 3) for row in both]
                line.append(_cells(both[1])[-1])
                if regime == "cpc":
                    line += [console.number(row["cpc_ratio"], 3) for row in both]
            cells.append(line)
        console.print_table(f"{regime}: value / oracle by prices and sigma", header, cells)


def _few(rows: Sequence[Row], regime: str) -> list[float]:
    known = sorted({row["sigma"] for row in rows if row["regime"] == regime})
    nearest = [min(known, key=lambda sigma: abs(np.log(sigma / few))) for few in _FEW]
    return list(dict.fromkeys(nearest))


def _kinds(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((row["price_source"], row["prices"]) for row in rows))


def _regimes(rows: Sequence[Row]) -> list[str]:
    there = {row["regime"] for row in rows}
    return [name for name in REGIMES if name in there]


def _of(rows: Sequence[Row], source: str, prices: str) -> list[Row]:
    return [row for row in rows if (row["price_source"], row["prices"]) == (source, prices)]


def _label(source: str, prices: str) -> str:
    return "synthetic prices" if source == "synthetic" else f"{source} {prices}"


def _seeds(rows: Sequence[Row]) -> str:
    count = rows[0]["seeds"]
    return f"{count} seed{'s' * (count > 1)}"


def plot_regime(
    rows: Sequence[Row], regime: str, column: str = "value_ratio", ax: Axes | None = None
) -> Axes:
    """A column against the sd of the noise, one line per method, named at its end.

    Args:
        rows: of `rows_of`, of one kind of prices.
        regime: budget, cpc or online.
        column: value_ratio, with bands of ± 1 sd over the seeds for the plain bidder and the
            best corrector; or cpc_ratio.
        ax: where to draw.
    """
    part = [row for row in rows if row["regime"] == regime]
    bands, seeds = column == "value_ratio", part[0]["seeds"]
    below = "bands: ± 1 sd over the seeds" if bands and seeds > 1 else ""
    title = f"{_TITLES[regime]}\n{below if bands else 'dotted: the cap'}"
    unit = "value won / oracle" if column == "value_ratio" else "cost per click / cap"
    ax = dressed(ax, title, _NOISE, unit)
    ends = {}
    for method in METHODS:
        own = [row for row in part if row["method"] == method]
        if not own:
            continue
        x = np.log10([row["sigma"] for row in own])
        y = np.array([row[column] for row in own])
        ax.plot(x, y, **_LOOKS[method])
        if bands and method in (PLAIN, BEST):
            sd = np.array([row["sd"] for row in own])
            ax.fill_between(x, y - sd, y + sd, color=_COLOURS[method], alpha=0.15, lw=0)
        ends[method] = float(y[-1])
    if not bands:
        ax.axhline(1.0, color=INK, ls=LINES[3], lw=1.2, zorder=2.5)
    ax.set_ylim(bottom=0.0)
    _log_ticks(ax, [row["sigma"] for row in part])
    name_lines(ax, ends, _COLOURS, BEST)
    return ax


def _log_ticks(ax: Axes, sigmas: Sequence[float]) -> None:
    """Ticks of log10(sigma) at powers of ten, and small ones between them."""
    low, high = np.log10([min(sigmas), max(sigmas)])
    ax.set_xlim(low - 0.02, high + 0.02)
    powers = np.arange(np.floor(low), np.ceil(high) + 1)
    ax.xaxis.set_major_locator(FixedLocator(powers.tolist()))
    ax.xaxis.set_major_formatter(FixedFormatter([f"{10**power:g}" for power in powers]))
    between = (powers[:, None] + np.log10(np.arange(2, 10))).ravel()
    ax.xaxis.set_minor_locator(FixedLocator(between.tolist()))


def plot(rows: Sequence[Row], title: str) -> Figure:
    """The regimes of one kind of prices."""
    panels = [(name, "value_ratio") for name in _TITLES if name in _regimes(rows)]
    if ("cpc", "value_ratio") in panels:
        panels.insert(panels.index(("cpc", "value_ratio")) + 1, ("cpc", "cpc_ratio"))
    lines = -(-len(panels) // 2)
    figure = new_figure(11.6 if len(panels) > 1 else 6.4, 4.4 * lines)
    axes = figure.subplots(lines, min(len(panels), 2), squeeze=False).ravel()
    for (regime, column), ax in zip(panels, axes, strict=False):
        plot_regime(rows, regime, column, ax)
    for ax in axes[len(panels) :]:
        ax.remove()
    figure.suptitle(title, fontsize=11.5)
    return figure


def plot_landscapes(rows: Sequence[Row], regimes: Sequence[str]) -> Figure:
    """What the best corrector gains over the plain bidder, one line per campaign's landscape."""
    figure = new_figure(5.8 * len(regimes), 4.4)
    for regime, ax in zip(regimes, figure.subplots(1, len(regimes), squeeze=False)[0], strict=True):
        of_cap = regime == "cpc"
        unit = "cost per click / cap" if of_cap else f"value / oracle, {BEST} less {PLAIN}"
        title = f"{_TITLES[regime]}\n" + (
            f"solid: {BEST}, dashed: {PLAIN}" if of_cap else "gain of " + BEST
        )
        dressed(ax, title, _NOISE, unit)
        ends = {}
        for source, prices in _kinds(rows):
            own = [row for row in _of(rows, source, prices) if row["regime"] == regime]
            for name in (BEST, PLAIN) if of_cap else (BEST,):
                mine = [row for row in own if row["method"] == name]
                x = np.log10([row["sigma"] for row in mine])
                y = [row["cpc_ratio" if of_cap else "paired_diff"] for row in mine]
                colour = VERMILLION if name == BEST else BLUE
                ax.plot(x, y, color=colour, ls=LINES[0 if name == BEST else 1], lw=1.1, alpha=0.8)
                ends[prices] = y[-1]
        ax.axhline(1.0 if of_cap else 0.0, color=INK, ls=LINES[3], lw=1.2, zorder=2.5)
        _log_ticks(ax, [row["sigma"] for row in rows if row["regime"] == regime])
        name_lines(ax, ends, {}, "")
    title = f"Noisy CTRs, prices drawn from the landscapes of campaigns: mean of {_seeds(rows)}"
    figure.suptitle(title, fontsize=11.5)
    return figure


def save_figures(rows: Sequence[Row], out: Path) -> list[Path]:
    """Writes `<prices>.png` for synthetic prices or the log, and `landscapes.png`."""
    regimes = [name for name in _TITLES if name in _regimes(rows)]
    if not regimes:
        return []
    paths = []
    for source, prices in _kinds(rows):
        if source == "landscape":
            continue
        own = _of(rows, source, prices)
        title = f"Noisy CTRs, {_label(source, prices)}: mean of {_seeds(own)}"
        name = prices if source == "synthetic" else f"{source}-{prices}"
        paths.append(save_figure(plot(own, title), out / f"{name}.png"))
    many = [row for row in rows if row["price_source"] == "landscape"]
    if many:
        paths.append(save_figure(plot_landscapes(many, regimes), out / "landscapes.png"))
    return paths
