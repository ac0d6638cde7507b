"""Learning curves: pure functions of the tables of `scenarios.train`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adsim.types import FloatArray
from scenarios.intervals import interval
from scenarios.palette import styles_of
from scenarios.plots import GREY, SMALL_SIZE, dressed, new_figure, save_figure

_SIZE = (6.4, 4.2)  # inches
_BAND = 0.18  # opacity
_REFERENCES = {"dual": "-", "linear": (0, (4, 2))}


def plot_learning(
    curves: Mapping[str, Sequence[pd.DataFrame]],
    title: str,
    ax: Axes | None = None,
    *,
    order: Sequence[str] = (),
) -> Axes:
    """Expected net value of the policy while it learns, as a share of dual pacing's.

    Args:
        curves: tables of trainings by label; those of one label differ in their training seed. The
            band spans them or, of a single one, is a 95 % interval over held-out seeds.
        title: of the axes.
        ax: where to draw.
        order: labels whose colours come first.
    """
    ax = dressed(ax, title, "training steps", "expected net value, % of dual pacing's")
    styles = styles_of([*order, *curves])
    for label, tables in curves.items():
        steps, shares = _shares(tables)
        low, high = shares.min(axis=0), shares.max(axis=0)
        if len(tables) == 1:
            found = [interval(column) for column in shares.T]
            low, high = (np.array([getattr(one, end) for one in found]) for end in ("low", "high"))
        style = styles[label]
        ax.plot(
            steps,
            shares.mean(axis=0),
            color=style["color"],
            marker=style["marker"],
            ms=4,
            label=label,
        )
        if np.isfinite(low).all():
            ax.fill_between(steps, low, high, color=style["color"], alpha=_BAND, lw=0)
    for agent, line in _REFERENCES.items():
        level = np.mean([_mean(table, agent) / _mean(table, "dual") for table in _all(curves)])
        ax.axhline(100.0 * float(level), color=GREY, ls=line, lw=1.2, label=agent, zorder=1)
    ax.legend(frameon=False, fontsize=SMALL_SIZE, loc="center right")
    return ax


def _all(curves: Mapping[str, Sequence[pd.DataFrame]]) -> list[pd.DataFrame]:
    return [table for tables in curves.values() for table in tables]


def _mean(table: pd.DataFrame, agent: str) -> float:
    return float(table.loc[table["agent"] == agent, "expected_net_value"].mean())


def _shares(tables: Sequence[pd.DataFrame]) -> tuple[FloatArray, FloatArray]:
    """Steps (P,) and shares (trainings or held-out seeds, P) in percent of dual pacing."""
    paths = []
    for table in tables:
        policy = table[table["agent"] == "policy"]
        wide = policy.pivot(index="seed", columns="steps", values="expected_net_value")
        dual = table[table["agent"] == "dual"].set_index("seed")["expected_net_value"]
        # Paired by seed, around the ratio of the means.
        paths.append(100.0 + 100.0 * wide.sub(dual, axis=0) / dual.mean())
    steps = sorted(set.intersection(*(set(path.columns) for path in paths)))
    rows = [path[steps].to_numpy() for path in paths]
    shares = rows[0] if len(rows) == 1 else np.stack([row.mean(axis=0) for row in rows])
    return np.array(steps, dtype=np.float64), shares


def learning_figure(panels: Mapping[str, Mapping[str, Sequence[pd.DataFrame]]]) -> Figure:
    """One panel per title, see `plot_learning`."""
    figure = new_figure(_SIZE[0] * len(panels), _SIZE[1])
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    order = [label for curves in panels.values() for label in curves]  # one colour each
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        plot_learning(curves, title, ax, order=order)
    return figure


def save_curve(curve: pd.DataFrame, path: Path, title: str = "") -> Path:
    """The learning curve of one training, as a PNG file."""
    return save_figure(learning_figure({title: {"policy": [curve]}}), path)
