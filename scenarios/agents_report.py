"""Tables and figure of `adsim bench agents`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scenarios import console
from scenarios.agents_tasks import BOUND, CONSTRAINTS, PLAYERS, TARGET_OF, Targets
from scenarios.intervals import Interval, interval
from scenarios.plots import SMALL_SIZE, dressed, new_figure, save_figure
from scenarios.results import summarise

Row = dict[str, Any]
TOLERANCE = 0.05  # of the violation, before it is marked
_TITLES = {
    "budget": "budget only",
    "cpc": "cap on CPC",
    "net_cpa": "cap on net CPA",
    "net_roas": "floor of net ROAS",
}


def rows_of(
    trials: Any, targets: Mapping[str, Targets], constraints: Sequence[str] = CONSTRAINTS
) -> list[Row]:
    """One row per scenario, constraint and agent.

    Args:
        trials: table, one row per campaign and per bound, as `agents_tasks.run` leaves them.
        targets: by scenario.
        constraints: that agents are judged by.
    """
    rows = []
    for scenario in dict.fromkeys(trials["scenario"]):
        own = trials[trials["scenario"] == scenario]
        for constraint in constraints:
            part = own[own["constraint"] == constraint]
            # Who steers by no target plays the same campaign whatever the target is.
            if constraint != "budget":
                plain = own[(own["constraint"] == "budget") & (own["agent"] != BOUND)]
                part = pd.concat([plain, part])
            part = part[[TARGET_OF.get(agent, constraint) == constraint for agent in part["agent"]]]
            if len(part):
                rows += _rows(part, own, constraint, targets[scenario])
    return rows


def _rows(part: Any, own: Any, constraint: str, targets: Targets) -> list[Row]:
    """The agents of one scenario and constraint, the bound last."""
    bounds = part[part["agent"] == BOUND]
    played = part[part["agent"] != BOUND].copy()
    kind = "none"
    if len(bounds):
        kind = "exact"
        known = dict(zip(bounds["seed"], bounds["expected_net_value"], strict=True))
        played["hindsight"] = [known.get(seed, np.nan) for seed in played["seed"]]
    elif "hindsight" in played and played["hindsight"].notna().any():
        kind = "budget only"  # of a population: the prices of each agent's own run
    else:
        played["hindsight"] = np.nan
    about = {
        "scenario": own["scenario"].iloc[0],
        "constraint": constraint,
        "target": None if constraint == "budget" else getattr(targets, constraint),
        "estimates": own["estimates"].iloc[0],
    }
    played = played.sort_values(
        ["agent", "seed"], key=lambda c: c.map(PLAYERS.index) if c.name == "agent" else c
    )
    rows = [] if played.empty else summarise(played)
    for row in rows:
        mine = played[played["agent"] == row["agent"]]
        row["spend_share"] = float(mine["spend"].sum() / mine["budget"].sum())
        row["bound"] = kind
        row |= _violations(mine, constraint, targets)
    if len(bounds):
        rows.append(_bound_row(bounds, constraint, targets))
    return [about | row for row in rows]


def _violations(mine: Any, constraint: str, targets: Targets) -> Row:
    """By how much cost exceeded what outcomes allowed; as matured, and in expectation."""
    names = ("violation", "violation_low", "violation_high", "expected_violation")
    if constraint == "budget":
        return dict.fromkeys(names, float("nan"))
    spend = mine["spend"].to_numpy(np.float64)
    seen = np.asarray(targets.credit(constraint, mine), np.float64)
    expected = {name: mine[f"expected_{name}"] for name in ("clicks", "kept", "net_gmv")}
    due = np.asarray(targets.credit(constraint, expected), np.float64)
    return dict(zip(names, (*excess(spend, seen), excess(spend, due).mean), strict=True))


def excess(cost: np.ndarray, credit: np.ndarray) -> Interval:
    """Cost over credit, less 1, of campaigns (N,) taken together; 95 % interval of a ratio.

    Sums are compared, as credit may be 0 in one campaign: r = sum cost / sum credit, with the
    interval of the mean of (cost - r credit) / mean credit. Infinite for one campaign.
    """
    total = float(credit.sum())
    if total <= 0:
        return Interval(float("inf") if cost.sum() > 0 else 0.0, -np.inf, np.inf)
    ratio = float(cost.sum()) / total
    return interval(ratio - 1 + (cost - ratio * credit) / credit.mean())


def _bound_row(bounds: Any, constraint: str, targets: Targets) -> Row:
    """The linear programme, which has no outcomes but expected ones."""
    expected = {name: bounds[f"expected_{name}"] for name in ("clicks", "kept", "net_gmv")}
    violation = float("nan")
    if constraint != "budget":
        credit = np.asarray(targets.credit(constraint, expected), np.float64)
        violation = excess(bounds["spend"].to_numpy(np.float64), credit).mean
    return {
        "agent": BOUND,
        "seeds": len(bounds),
        "expected_net_value": float(bounds["expected_net_value"].mean()),
        "spend": float(bounds["spend"].mean()),
        "share_of_hindsight": 1.0,
        "spend_share": float(bounds["spend"].sum() / bounds["budget"].sum()),
        "expected_violation": violation,
        "bound": "exact",
    }


def is_violated(row: Row) -> bool:
    """Whether the target was missed by more than the tolerance, when all had matured."""
    return row.get("violation", 0.0) > TOLERANCE


def print_rows(rows: Sequence[Row]) -> None:
    """One table per scenario and constraint."""
    header = [
        *("agent", "expected net value", "vs dual", "realised", "vs dual"),
        *("hindsight", "violation", "expected", "spend"),
    ]
    for scenario in dict.fromkeys(row["scenario"] for row in rows):
        for constraint in CONSTRAINTS:
            part = [r for r in rows if (r["scenario"], r["constraint"]) == (scenario, constraint)]
            if part:
                target = "" if constraint == "budget" else f" {part[0]['target']:g}"
                seeds = max(row["seeds"] for row in part)
                title = f"{scenario}, {_TITLES[constraint]}{target}: {seeds} seeds"
                console.print_table(title, header, [_cells(row) for row in part], _note(part))


def _cells(row: Row) -> list[str]:
    def wide(mean: str, ends: str, digits: int = 0) -> str:
        if mean not in row:
            return "-"
        return console.with_interval(row[mean], row[f"{ends}_low"], row[f"{ends}_high"], digits)

    name = row["agent"]
    same = name in ("dual", BOUND)
    violation = row.get("violation", float("nan"))
    percent = {k: 100 * row.get(k, float("nan")) for k in ("violation_low", "violation_high")}
    return [
        name,
        wide("expected_net_value", "expected")
        if name != BOUND
        else console.number(row["expected_net_value"]),
        "" if same else wide("expected_diff", "expected_diff"),
        wide("net_value", "ci"),
        "" if same else wide("diff", "diff"),
        console.number(100 * row["share_of_hindsight"], 1) + " %",
        console.with_interval(
            100 * violation, percent["violation_low"], percent["violation_high"], 1
        )
        + ("!" if is_violated(row) else ""),
        console.number(100 * row["expected_violation"], 1),
        console.number(100 * row["spend_share"], 1) + " %",
    ]


def _note(part: Sequence[Row]) -> str:
    note = "Means with 95 % intervals over seeds; differences are paired."
    if part[0]["constraint"] != "budget":
        note += " Violation: cost over what outcomes allowed, less 1, %, when all has matured."
        note += f" !: more than {TOLERANCE:.0%}."
    if part[0]["bound"] == "budget only":
        note += " Hindsight: of the budget alone, at the prices of each agent's own run."
    return note


def plot_shares(rows: Sequence[Row], constraint: str, ax: Axes | None = None) -> Axes:
    """Share of the hindsight bound by agent and scenario, violations marked.

    Args:
        rows: of `rows_of`.
        constraint: in `CONSTRAINTS`.
        ax: where to draw.
    """
    own = [r for r in rows if r["constraint"] == constraint and r["agent"] != BOUND]
    scenarios = list(dict.fromkeys(row["scenario"] for row in own))
    players = [name for name in PLAYERS if any(row["agent"] == name for row in own)]
    share = np.full((len(players), len(scenarios)), np.nan)
    ax = dressed(ax, f"{_TITLES[constraint]}", "", "")
    ax.grid(visible=False)
    for row in own:
        i, j = players.index(row["agent"]), scenarios.index(row["scenario"])
        share[i, j] = 100 * row["share_of_hindsight"]
        violated = is_violated(row)
        text = console.number(share[i, j]) + ("×" if violated else "")
        dark = share[i, j] < 55 and not violated  # of the colour beneath
        ink = "white" if dark else "black"
        ax.text(j, i, text, ha="center", va="center", size=SMALL_SIZE, color=ink)
    shown = np.ma.masked_invalid(share)
    for i, j in zip(*np.nonzero(_violated(own, players, scenarios)), strict=True):
        shown[i, j] = np.ma.masked  # not comparable: more than who keeps the target can have
    ax.imshow(shown, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    ax.set_facecolor("#E3E3E3")
    ax.set_xticks(range(len(scenarios)), scenarios, rotation=35, ha="right", size=SMALL_SIZE)
    ax.set_yticks(range(len(players)), players, size=SMALL_SIZE)
    ax.tick_params(length=0)
    return ax


def _violated(own: Sequence[Row], players: list[str], scenarios: list[str]) -> np.ndarray:
    """Whether (agent, scenario) missed the target."""
    found = np.zeros((len(players), len(scenarios)), bool)
    for row in own:
        found[players.index(row["agent"]), scenarios.index(row["scenario"])] = is_violated(row)
    return found


def plot(rows: Sequence[Row]) -> Figure:
    """All constraints, one panel each."""
    shown = [c for c in CONSTRAINTS if any(row["constraint"] == c for row in rows)]
    scenarios = len({row["scenario"] for row in rows})
    columns = min(len(shown), 2)
    lines = -(-len(shown) // columns)
    players = len({row["agent"] for row in rows})
    figure = new_figure(columns * (1.9 + 0.5 * scenarios), lines * (1.5 + 0.28 * players))
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for constraint, ax in zip(shown, axes, strict=False):
        plot_shares(rows, constraint, ax)
    for ax in axes[len(shown) :]:
        ax.remove()
    seeds = max(row["seeds"] for row in rows)
    over = f"mean of {seeds} seeds" if seeds > 1 else "one seed"
    title = f"Expected net value, % of the hindsight bound: {over}"
    if len(shown) > 1 or "budget" not in shown:
        title += f"\ngrey, ×: misses the target by more than {TOLERANCE:.0%} when all has matured"
    figure.suptitle(title, fontsize=10.5)
    return figure


def save_figures(rows: Sequence[Row], out: Path) -> list[Path]:
    """Writes `shares.png`."""
    return [save_figure(plot(rows), out / "shares.png")]
