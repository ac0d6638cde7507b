"""Charts of how campaigns went: spend, net value, calibration, delays, prices."""

from collections.abc import Iterator

import numpy as np

from adsim.types import FloatArray, IntArray
from scenarios.chart import REFERENCE, Axis, Chart, Series
from scenarios.curves import CALIBRATION, DELAY, PRICE
from scenarios.intervals import bands
from scenarios.played import Bins, Played, band, by_player, first_of, names_of

DAYS = "days since the campaign's start"
HOURS = "hours (log scale)"
DELAY_TICKS = (
    *((1 / 60, "≤ 1 min"), (1 / 4, "15 min"), (1.0, "1 h"), (6.0, "6 h")),
    *((24.0, "1 d"), (72.0, "3 d"), (168.0, "7 d")),
)
_LEAST_EXPECTED = 10.0  # positives, or labels of money, of a point of a calibration curve
_TARGETS = {
    "ctr": ("click-through rate", "probability per impression shown"),
    "cvr": ("conversion rate", "probability per click"),
    "refund_rate": ("refund rate", "probability per conversion"),
    "gmv": ("GMV", "currency per converting click"),
    "net_gmv": ("net GMV", "currency per click"),
}
_MONEY = ("gmv", "net_gmv")
_DELAYS = {
    "first purchase": "first purchase since its click",
    "later purchase": "later purchases since their click",
    "refund": "refund since its purchase",
}


def course_charts(played: Played, rows: IntArray) -> Iterator[Chart]:
    """All of this module that there is data for."""
    if played.paths:
        yield pacing_chart(played, rows)
        yield net_value_chart(played, rows)
    yield from calibration_charts(played, rows)
    yield from delay_charts(played, rows)
    yield from price_charts(played, rows)


def pacing_chart(played: Played, rows: IntArray) -> Chart:
    """Cumulative spend of each player against the plan."""
    budget = played.trials["budget"].to_numpy(np.float64)
    share = bool(np.isfinite(budget[rows]).all() and (budget[rows] > 0).all())
    scale = 100.0 / budget if share else np.ones(budget.size)
    names, series = list(names_of(played.players).values()), []
    groups, others = first_of(by_player(played, rows), "players")
    for place, own in groups.items():
        found = band(played, own, played.paths["spend"] * scale)
        series.append(_line(names[place], played.days, *found, look=place))
    plan = band(played, rows, played.paths["target"] * scale).mean
    if plan.any():
        series.append(Series("plan", "line", played.days, plan, look=REFERENCE))
    unit = "% of budget" if share else "currency"
    caption = "Mean over campaigns with its 95 % interval; the plan follows the expected traffic."
    return Chart(
        *("pacing", "Spend against plan", caption + others),
        *(Axis(DAYS), Axis(f"cumulative spend ({unit})"), tuple(series)),
    )


def _line(
    name: str, x: FloatArray, mean: FloatArray, low: FloatArray, high: FloatArray, *, look: int
) -> Series:
    ends = (low, high) if np.isfinite(low).all() and np.isfinite(high).all() else (None, None)
    return Series(name, "line", x, mean, *ends, look=look)


def net_value_chart(played: Played, rows: IntArray) -> Chart:
    """Net value of the first player as seen, as matured, and as finally realised."""
    kinds = {"finally realised": "realised", "seen so far (cash)": "seen", "matured": "matured"}
    groups = by_player(played, rows)
    (place, own), *others = groups.items()
    series = []
    for look, (name, path) in enumerate(kinds.items()):
        mean, low, high = band(played, own, played.paths[path])
        if path != "seen":  # three bands hide each other
            low = high = np.full(mean.shape, np.nan)
        series.append(_line(name, played.days, mean, low, high, look=look))
    whose = f" of {list(names_of(played.players).values())[place]}" if others else ""
    caption = (
        "Means over campaigns; band: 95 % interval of cash. Matured: refund windows have closed. "
        f"The last tick settles what is pending.{' Others: filter.' if others else ''}"
    )
    return Chart(
        *("net_value", f"Net value{whose}: cash, matured, realised", caption),
        *(Axis(DAYS), Axis("cumulative net value (currency)"), tuple(series)),
    )


def calibration_charts(played: Played, rows: IntArray) -> Iterator[Chart]:
    """Observed against predicted means by bins of the prediction, a chart per target.

    A series per stack of estimates, of all agents that bid on it.
    """
    stacks = list(dict.fromkeys(estimates for _, estimates in played.players))
    groups: dict[int, list[IntArray]] = {}
    for place, own in by_player(played, rows).items():
        groups.setdefault(stacks.index(played.players[place][1]), []).append(own)
    shown, others = first_of(groups, "estimates")
    for target, (about, unit) in _TARGETS.items():
        found = played.bins.get((CALIBRATION, target))
        if found is None:
            continue
        least_of = found.counts if target in _MONEY else found.predicted
        series = []
        for look, parts in shown.items():
            own = np.concatenate(parts)
            one = _calibration(played, own, found, least_of[:, own].sum(axis=1))
            if one is not None:
                series.append(one._replace(name=stacks[look], look=look))
        if not series:
            continue
        ends = np.concatenate([part for one in series for part in (one.x, one.y)])
        most = np.inf if target in _MONEY else 1.0
        series = [_below(one, most) for one in series]
        ends = np.array([ends.min() / 1.5, min(ends.max() * 1.5, most)])
        series.append(Series("as predicted", "line", ends, ends, look=REFERENCE))
        yield Chart(
            f"calibration_{target}",
            f"Calibration of the {about}",
            "Means of bins of the prediction at the bid, over what was won, with 95 % intervals "
            f"over campaigns (cut at a tenth); larger marks hold more labels.{others}",
            Axis(f"predicted, {unit} (log scale)", log=True),
            Axis(f"observed, {unit} (log scale)", log=True),
            tuple(series),
        )


def _below(points: Series, most: float) -> Series:
    """The points with intervals that end where the label does."""
    return points if points.high is None else points._replace(high=np.minimum(points.high, most))


def _calibration(played: Played, rows: IntArray, bins: Bins, expected: FloatArray) -> Series | None:
    """Points of one player; None where it says nothing.

    Bins are joined until `_LEAST_EXPECTED` positives are predicted. The choice does not look at
    what is observed, which leaves the means unbiased.
    """
    joined = _join(expected)
    count, predicted, observed = (
        np.stack([part[first:last].sum(axis=0) for first, last in joined])
        for part in (bins.counts, bins.predicted, bins.observed)
    )
    total = count[:, rows].sum(axis=1)
    kept = (total > 0) & (predicted[:, rows].sum(axis=1) > 0) & (observed[:, rows].sum(axis=1) > 0)
    if not kept.any():
        return None
    count, predicted, observed, total = (x[kept] for x in (count, predicted, observed, total))
    x, y = (part[:, rows].sum(axis=1) / total for part in (predicted, observed))
    low, high = _ratio_interval(played, rows, observed, count)
    low, high = np.clip(low, y / 10, None), np.clip(high, None, y * 10)  # a log axis has no 0
    notes = tuple(f"{int(n):,} labels" for n in total)
    size = np.sqrt(total / total.max())
    known = np.isfinite(low).all() and np.isfinite(high).all()
    return Series(
        "", "points", x, y, *((low, high) if known else (None, None)), notes=notes, size=size
    )


def _join(expected: FloatArray) -> list[tuple[int, int]]:
    """Ranges of bins that hold enough; what is left over goes to the last."""
    ranges, first, held = list[tuple[int, int]](), 0, 0.0
    for place, value in enumerate(expected.tolist()):
        held += value
        if held >= _LEAST_EXPECTED:
            ranges.append((first, place + 1))
            first, held = place + 1, 0.0
    if not ranges:
        return [(0, expected.size)]
    ranges[-1] = (ranges[-1][0], expected.size)
    return ranges


def _ratio_interval(
    played: Played, rows: IntArray, top: FloatArray, bottom: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Intervals of ratios of sums (quantities, n) over the campaigns.

    The sums of the points of a campaign are one observation, with the influence of a campaign on
    the ratio r, top - r bottom over the mean of bottom (linearisation; Cochran 1977, section 6.3).
    """
    ratio = top[:, rows].sum(axis=1) / bottom[:, rows].sum(axis=1)
    kinds, first, place = np.unique(played.campaign[rows], return_index=True, return_inverse=True)
    member = (place == np.arange(kinds.size)[:, None]).astype(np.float64)
    tops, bottoms = (member @ part[:, rows].T for part in (top, bottom))
    influence = ratio + (tops - ratio * bottoms) / bottoms.mean(axis=0)
    found = bands(influence, played.structure[rows][first])
    return found.low, found.high


def delay_charts(played: Played, rows: IntArray) -> Iterator[Chart]:
    """Empirical distribution functions of the delays of purchases and refunds."""
    series = []
    for look, (name, label) in enumerate(_DELAYS.items()):
        found = played.bins.get((DELAY, name))
        count = found.counts[:, rows].sum(axis=1) if found else np.zeros(0)
        if found is None or not count.sum():
            continue
        share = 100.0 * np.concatenate([[0.0], np.cumsum(count)]) / count.sum()
        last = min(int(np.flatnonzero(count)[-1]) + 2, share.size)
        # The first bin starts at 0, which has no place on a log axis.
        x = np.concatenate([[DELAY_TICKS[0][0]], found.edges[1:last]])
        y = np.concatenate([[share[1]], share[1:last]])
        name = f"{label} (n = {int(count.sum()):,})"
        series.append(Series(name, "line", x, y, look=look))
    if series:
        yield Chart(
            "delays",
            "Delay of feedback",
            "Share of the events that have come in after a delay; all events that were seen, "
            "those after the last tick included.",
            Axis(f"delay, {HOURS}", log=True, ticks=DELAY_TICKS),
            Axis("share of events (%)"),
            tuple(series),
        )


def price_charts(played: Played, rows: IntArray) -> Iterator[Chart]:
    """Histogram of the price to beat of won and lost auctions, and of prices paid."""
    sums = {
        name: played.bins[PRICE, name].counts[:, rows].sum(axis=1)
        for name in ("won", "lost", "paid")
        if (PRICE, name) in played.bins
    }
    total = sum(float(sums[name].sum()) for name in ("won", "lost") if name in sums)
    if not total:
        return
    edges = next(iter(found.edges for (curve, _), found in played.bins.items() if curve == PRICE))
    used = np.flatnonzero(sum(sums.values()))
    span = slice(int(used[0]), int(used[-1]) + 1)
    middle = np.sqrt(edges[:-1] * edges[1:])[span]
    series = []
    for look, name in enumerate(("won", "lost")):
        count = sums.get(name, np.zeros(edges.size - 1))
        label = f"price to beat, {name} ({100 * count.sum() / total:.0f} %)"
        share, bounds = 100 * count[span] / total, edges[span.start : span.stop + 1]
        series.append(Series(label, "bars", middle, share, edges=bounds, look=(0, 4)[look]))
    if "paid" in sums and sums["paid"].sum():
        paid = 100 * sums["paid"][span] / total
        series.append(Series("price paid", "line", middle, paid, look=REFERENCE))
    yield Chart(
        "prices",
        "Prices won and lost",
        f"Of {int(total):,} sampled auctions, bins of a tenth of a decade, lost stacked on won.",
        Axis("currency per impression (log scale)", log=True),
        Axis("share of auctions (%)"),
        tuple(series),
    )
