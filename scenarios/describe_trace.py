"""`adsim data describe` of a log of converted clicks, against what is published about TRACE.

Purchases count within the attribution window of 7 days. With a known truth the mean GMV by hour
is that of the true expectations; without it that of the outcomes, which a few large ones sway.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adsim.config import ShockConfig, WorldConfig
from adsim.purchaselog import PurchaseLog, generate_purchases
from adsim.types import BoolArray, FloatArray, IntArray
from predictors.metrics import auc
from scenarios import console
from scenarios import trace_facts as facts
from scenarios.describe import HOURS, Panel, Row, load_sized, make_rows, mean_by, print_panels

SHOWN = (0, 1, 6, 12, 24, 48, 72, 96, 120, 144)  # k of the cumulative curve in the table
LEVELS = tuple(f"{100 * level:.0f} %" for level in facts.LEVELS)
CLASSES = ("one purchase", "more")
_BINS = np.linspace(0.0, 12.43, 101)  # of READER, fig. 4

PANELS = (
    Panel("Shares of clicks", "", (("share", ""),), 4),
    Panel("Mean GMV, currency", "clicks with", (("mean GMV", ""),), 1),
    Panel("Mean GMV by hour of the click, currency", "hour", (("mean GMV by hour", ""),), 1),
    Panel(
        "Share of the final GMV seen by the end of hour k, %",
        *("k", (("GMV seen", ""),), 1),
    ),
    Panel(
        "Quantiles of log(GMV)",
        "quantile",
        tuple((f"log GMV, {name}", name) for name in CLASSES),
        2,
    ),
    Panel("AUC: published model, truth of the log", "", (("AUC", ""),), 3),
)


class Clicks(NamedTuple):
    """What the figures need of a log; (C,) or (P,) each."""

    place: IntArray  # (C,) in the log, of the clicks with a purchase in the window
    gmv: FloatArray  # (C,) currency
    several: BoolArray  # (C,) more than one purchase
    hour: IntArray  # (C,) of the day, of the click
    hours_since: IntArray  # (P,) whole hours from click to purchase
    share: FloatArray  # (P,) of the click's GMV


def summary(log: PurchaseLog) -> Clicks:
    """GMV of the clicks and shares of the purchases within the window.

    Raises:
        ValueError: the log lacks clicks with one purchase or clicks with more.
    """
    number = np.diff(log.offset)
    click = np.repeat(np.arange(number.size), number)
    hours = (log.purchase_time - log.click_time[click]) // 3600
    kept = hours < facts.WINDOW_HOURS
    click, hours, amount = click[kept], hours[kept], log.amount[kept]
    place, which, number = np.unique(click, return_inverse=True, return_counts=True)
    gmv = np.bincount(which, amount, minlength=place.size).astype(np.float64)
    single, several = int((number == 1).sum()), int((number > 1).sum())
    if not single or not several:
        raise ValueError(
            "a log needs clicks with one purchase and clicks with more to be described: "
            f"this one has {single} and {several}"
        )
    hour = log.click_time[place] // 3600 % 24
    return Clicks(place, gmv, number > 1, hour, hours, amount / gmv[which])


def describe(log: PurchaseLog, hourly: FloatArray | None = None) -> list[Row]:
    """Published against measured numbers.

    Args:
        log: with clicks of one purchase and clicks of more. Its truth may be NaN: see the module.
        hourly: (24,) expected mean GMV by hour if it is known, see `expected_hourly`.

    Returns:
        Rows in the order of PANELS; `published` is NaN where nothing is.
    """
    clicks = summary(log)
    single = clicks.gmv[~clicks.several]
    rows = make_rows(
        "share",
        ("more than one purchase", "single: price occurs again"),
        (facts.REPURCHASE_SHARE, np.nan),
        (clicks.several.mean(), recurring_share(single)),
    )
    means = [clicks.gmv[~clicks.several].mean(), clicks.gmv[clicks.several].mean()]
    rows += make_rows("mean GMV", CLASSES, facts.MEAN_GMV, means)
    measured = hourly_gmv(log, clicks) if hourly is None else hourly
    rows += make_rows("mean GMV by hour", HOURS, facts.HOURLY_GMV, measured.tolist())
    published, curve = dict(facts.CUMULATIVE), cumulative(clicks)
    rows += make_rows(
        *("GMV seen", [str(k) for k in SHOWN]),
        *([published[k] for k in SHOWN], [100.0 * curve[k] for k in SHOWN]),
    )
    for name, chosen, quantiles in zip(
        CLASSES,
        (~clicks.several, clicks.several),
        (facts.SINGLE_LOG_GMV, facts.REPURCHASE_LOG_GMV),
        strict=True,
    ):
        found = np.quantile(np.log(clicks.gmv[chosen]), facts.LEVELS)
        rows += make_rows(f"log GMV, {name}", LEVELS, quantiles, found.tolist())
    if has_truth(log):
        ranked = auc(clicks.several, log.p_repurchase[clicks.place])
        rows += make_rows("AUC", ("more than one purchase",), (facts.ROUTER_AUC,), (ranked,))
    return rows


def has_truth(log: PurchaseLog) -> bool:
    """Whether the expectations of the log are known."""
    return not bool(np.isnan(log.gmv_truth).any() or np.isnan(log.p_repurchase).any())


def recurring_share(amount: FloatArray) -> float:
    """Share of the amounts that occur more than once.

    In a simulated log these are purchases at exactly the list price: other amounts differ all.
    """
    _, which, count = np.unique(amount, return_inverse=True, return_counts=True)
    return float((count[which] > 1).mean())


def cumulative(clicks: Clicks) -> FloatArray:
    """Mean share (168,) of the final GMV of a click that is seen by the end of hour k."""
    seen = np.bincount(clicks.hours_since, clicks.share, minlength=facts.WINDOW_HOURS)
    return np.cumsum(seen) / clicks.gmv.size


def hourly_gmv(log: PurchaseLog, clicks: Clicks) -> FloatArray:
    """Mean GMV (24,) of the clicks of an hour: of the truth if it is known."""
    values = log.gmv_truth[clicks.place] if has_truth(log) else clicks.gmv
    return mean_by(clicks.hour, values, np.ones_like(values), 24)


def expected_hourly(config: WorldConfig, seed: int, log: PurchaseLog) -> FloatArray:
    """Expected GMV (24,) if all clicks of the log came in that hour: no luck in who comes when.

    A click's expectation is a + b f(hour): purchases at the list price do not follow the hours. A
    second log in which all amounts that do are doubled has a + 2 b f(hour).

    Args:
        config: the world.
        seed: of the episode.
        log: what `generate_purchases` gives for both.
    """
    whole = ShockConfig(start_hours=0.0, end_hours=config.time.horizon_hours, amount=2.0)
    doubled = config.model_copy(update={"shocks": (*config.shocks, whole)})
    follows = generate_purchases(doubled, seed).gmv_truth - log.gmv_truth
    factor = np.array(config.purchase.hourly)
    mean = (follows / factor[log.click_time // 3600 % 24]).mean()
    return (log.gmv_truth - follows).mean() + mean * factor


def describe_command(
    name: str,
    seed: int,
    clicks: int | None,
    overrides: dict[str, Any],
    out: Path | None,
    *,
    as_json: bool,
) -> None:
    """`adsim data describe` of a scenario like TRACE: prints how its log compares.

    Args:
        name: of the scenario.
        seed: of the episode, >= 0.
        clicks: expected size of the log, with the same days; None leaves the scenario's traffic.
        overrides: of scenario keys.
        out: folder for figures; None draws none.
        as_json: print one JSON object instead of tables.

    Raises:
        ValueError: a wrong scenario, seed or number of clicks, or a log without both classes.
    """
    scenario = load_sized(name, seed, clicks, overrides)
    with console.stderr.status(f"generating the purchase log of {scenario.name}"):
        log = generate_purchases(scenario.world, seed)
        hourly = expected_hourly(scenario.world, seed, log)
        rows = describe(log, hourly)
        paths = [] if out is None else save_figures(log, hourly, out)
    if as_json:
        records = [{**row._asdict(), "deviation": row.deviation} for row in rows]
        extra = {"clicks": log.click_time.size, "purchases": log.amount.size}
        console.emit_json(records, scenario=scenario.name, **extra)
        return
    print_panels(rows, PANELS)
    console.stdout.print(
        f"{log.click_time.size:,} converted clicks with {log.amount.size:,} purchases against the "
        "published TRACE (READER, arXiv:2601.20307). dev. = simulated - published. Mean GMV by "
        "hour is expected, over all clicks; nothing is published where a column has a dash.",
        highlight=False,
    )
    for path in paths:
        console.stdout.print(str(path), highlight=False, soft_wrap=True)


def save_figures(log: PurchaseLog, hourly: FloatArray, folder: Path) -> list[Path]:
    """Writes the figures of the publication with both curves, as PNG files.

    Returns:
        The paths: hourly_gmv, cumulative_share, log_gmv.
    """
    from matplotlib.axes import Axes

    from scenarios.palette import BLUE, GREEN, VERMILLION
    from scenarios.plots import GREY, INK, SMALL_SIZE, dressed, save_figure

    clicks = summary(log)
    dots: dict[str, Any] = {"ls": "", "marker": "o", "ms": 4.0, "mfc": "w", "color": INK}
    folder.mkdir(parents=True, exist_ok=True)

    def finish(ax: Axes, name: str) -> Path:
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, 0.0), "borderaxespad": 4.6}
        ax.legend(ncols=2, frameon=False, fontsize=SMALL_SIZE, handlelength=2.6, **below)
        return save_figure(ax.get_figure(root=True), folder / f"{name}.png")

    day = dressed(None, "Mean GMV of a click", "hour of the click", "mean GMV (currency)")
    day.plot(range(24), hourly, color=BLUE, lw=1.8, label="simulated, expected")
    day.plot(range(24), facts.HOURLY_GMV, label="published (READER, fig. 2)", **dots)
    day.set_xticks(range(0, 24, 3))

    curve = dressed(None, "GMV seen since the click", "days since the click", "final GMV seen (%)")
    days = np.arange(facts.WINDOW_HOURS + 1) / 24.0
    share = 100.0 * np.append(0.0, cumulative(clicks))
    curve.plot(days, share, color=BLUE, lw=1.8, label="simulated, mean over clicks")
    k, seen = np.array(facts.CUMULATIVE).T
    curve.plot((k + 1.0) / 24.0, seen, label="published (READER, fig. 3)", **dots)
    curve.set_ylim(0.0, 102.0)

    density = dressed(
        None, "GMV of a click (READER, fig. 4)", "log(GMV), GMV in currency", "density"
    )
    for several, name, published, colour in (
        (False, CLASSES[0], facts.SINGLE_LOG_GMV, VERMILLION),
        (True, "more purchases", facts.REPURCHASE_LOG_GMV, GREEN),
    ):
        values = np.log(clicks.gmv[clicks.several == several])
        height, _ = np.histogram(values, _BINS, density=True)
        density.stairs(height, _BINS, color=colour, lw=1.4, label=f"{name}, simulated")
        steps = np.diff(facts.LEVELS) / np.diff(published)
        density.stairs(
            steps, published, baseline=None, color=colour, lw=1.4, ls=":", alpha=0.9,
            label=f"{name}, between published quantiles",
        )  # fmt: skip
    density.axhline(0.0, color=GREY, lw=0.8)
    density.set_xlim(0.0, 11.0)
    return [
        finish(day, "hourly_gmv"),
        finish(curve, "cumulative_share"),
        finish(density, "log_gmv"),
    ]
