"""The picture of a running campaign that `render` returns: the books so far, drawn off screen."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adsim.ledger import COLUMN
from adsim.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from adsim.world import World

WIDTH, HEIGHT = 900, 300  # pixels
_DPI = 100
_BLUE, _VERMILLION, _INK, _GREY = "#0072B2", "#D55E00", "#222222", "#8C8C8C"  # Okabe and Ito
_HOURS_PER_DAY = 24.0


def draw_campaign(world: "World") -> NDArray[np.uint8]:
    """Draws spend against plan, net value, and prices paid, from the ledger of world 0.

    Args:
        world: one campaign (E = 1), before, during or after its ticks.

    Returns:
        (HEIGHT, WIDTH, 3) RGB image.

    Raises:
        ValueError: several worlds.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if world.num_worlds != 1:
        raise ValueError(f"world.num_worlds must be 1, got {world.num_worlds}")
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3)
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.155, top=0.82, wspace=0.3)
    played, tick_hours = int(world.tick[0]), world.config.time.tick_hours
    books = world.ledger.series[0, :played]
    time = np.arange(world.num_ticks + 1, dtype=np.float64) * (tick_hours / _HOURS_PER_DAY)  # days
    _draw_spend(panels[0], time, books, world.ledger.budget, world.source.expected_traffic)
    _draw_net_value(panels[1], time, books, world.ledger.margin)
    _draw_prices(panels[2], time, books, world.config.market.charge)
    for ax in panels:
        _dress(ax, time[-1])
    figure.suptitle(
        f"day {time[played]:.1f} of {time[-1]:.1f}", x=0.985, y=0.975, ha="right", size=8
    )
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _draw_spend(
    ax: "Axes", time: FloatArray, books: FloatArray, budget: float, traffic: FloatArray
) -> None:
    """Cumulative spend, and the budget spread like the expected traffic."""
    plan = _cumulative(traffic) * budget / max(float(traffic.sum()), np.finfo(float).tiny)
    spend = _cumulative(books[:, COLUMN["spend"]])
    ax.plot(time, plan, color=_GREY, ls=":", lw=1.4, label="plan")
    ax.plot(time[: spend.size], spend, color=_BLUE, lw=1.6, label="spend")
    ax.set_title("spend (currency)", size=9, loc="left", pad=20)
    ax.set_ylim(0.0, 1.05 * max(float(plan[-1]), float(spend[-1])) or 1.0)


def _draw_net_value(ax: "Axes", time: FloatArray, books: FloatArray, margin: float) -> None:
    """Cumulative net value as seen, and of purchases that can no longer be refunded."""
    spend = books[:, COLUMN["spend"]]
    seen = books[:, COLUMN["gmv"]] - books[:, COLUMN["refunded"]]
    matured = books[:, COLUMN["matured_net_gmv"]]
    ax.axhline(0.0, color=_GREY, lw=0.6)
    for label, net_gmv, colour, line in (
        ("seen (cash)", seen, _BLUE, "-"),
        ("matured", matured, _VERMILLION, "--"),
    ):
        value = _cumulative(margin * net_gmv - spend)
        ax.plot(time[: value.size], value, color=colour, ls=line, lw=1.6, label=label)
    if not books.size:
        ax.set_ylim(-1.0, 1.0)
    ax.set_title("net value (currency)", size=9, loc="left", pad=20)


def _draw_prices(ax: "Axes", time: FloatArray, books: FloatArray, charge: str) -> None:
    """Average price of what was charged in each tick; none where nothing was."""
    column, unit = ("clicks", "click") if charge == "click" else ("wins", "won impression")
    spend, counts = books[:, COLUMN["spend"]], books[:, COLUMN[column]]
    price = np.divide(spend, counts, out=np.full(spend.size, np.nan), where=counts > 0)
    label = f"per {unit}, mean of a tick"
    ax.plot(time[1 : price.size + 1], price, color=_BLUE, lw=0.7, marker=".", ms=2.5, label=label)
    ax.set_title("price paid (currency)", size=9, loc="left", pad=20)
    ax.set_ylim(0.0, 1.1 * float(np.nanmax(price)) if (counts > 0).any() and spend.any() else 1.0)


def _dress(ax: "Axes", days: float) -> None:
    """Days below, a legend between title and axes, a light grid, no box."""
    ax.set_xlim(0.0, days)
    ax.set_xlabel("days", size=8, color=_INK, labelpad=1)
    ax.tick_params(labelsize=7, color=_GREY)
    ax.grid(color="#E6E6E6", lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(
        loc="lower left",
        bbox_to_anchor=(-0.02, 0.99),
        borderaxespad=0.1,
        ncols=2,
        frameon=False,
        fontsize=7.5,
    )


def _cumulative(values: FloatArray) -> FloatArray:
    """Running sums (T + 1,), from 0."""
    return np.concatenate([[0.0], np.cumsum(values)])
