"""`adsim data describe`: a click log, figure by figure, against what is published about CASCADE.

Rates are those within the attribution windows of 3 days. With a known truth, rates by hour and by
bin are means of the true probabilities, which carry no luck of single conversions; without it the
rates by hour come from the outcomes and figures that need the truth are left out.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from adsim.clicklog import MISSING, ClickLog, generate
from adsim.types import BoolArray, FloatArray, IntArray
from predictors.metrics import auc
from scenarios import cascade_facts as facts
from scenarios import console
from scenarios.schema import Scenario, load

HOURS = tuple(f"{hour:02d}" for hour in range(24))
BINS = ("[0, .2)", "[.2, .4)", "[.4, .6)", "[.6, .8)", "[.8, 1]")
GROUPS = ("lowest quarter", "second", "third", "highest quarter")


class Row(NamedTuple):
    """One published number and its counterpart in a log; NaN where the log has none."""

    figure: str  # what is measured, with its unit
    at: str  # hour of the day, delay, bin or group; "" for a number that stands alone
    published: float
    simulated: float

    @property
    def deviation(self) -> float:
        """Simulated - published."""
        return self.simulated - self.published


class Panel(NamedTuple):
    """Figures that share a table."""

    title: str
    at: str  # what the rows of the table are
    columns: tuple[tuple[str, str], ...]  # figure, short name
    digits: int


PANELS = (
    Panel("Rates", "", (("rate", ""),), 4),
    Panel("AUC: published oracle, truth of the log", "", (("AUC", ""),), 3),
    Panel(
        "Rates by hour of the click, relative to their mean over the hours",
        *("hour", (("CVR by hour / mean", "CVR"), ("NetCVR by hour / mean", "NetCVR")), 3),
    ),
    Panel(
        "Share of delays below a limit",
        *("hours", (("conversion delay cdf", "conv."), ("refund delay cdf", "refund")), 3),
    ),
    Panel(
        "By true CVR of the click",
        *("CVR", (("RFR by CVR", "RFR"), ("NetCVR by CVR", "NetCVR")), 3),
    ),
    Panel(
        "By true CVR of the click, relative to the first bin",
        *("CVR", (("RFR by CVR / first", "RFR"), ("NetCVR by CVR / first", "NetCVR")), 3),
    ),
    *(
        Panel(
            f"{event.capitalize()} delay, hours, by true {rate}",
            *(rate, ((f"{event} delay mean", "mean"), (f"{event} delay sd", "sd")), 1),
        )
        for event, rate in (("conversion", "CVR"), ("refund", "RFR"))
    ),
    Panel(
        "Mean delay by group, relative to the mean of all",
        "CVR or RFR",
        (("conversion delay mean / all", "conv."), ("refund delay mean / all", "refund")),
        2,
    ),
)


class _Outcomes(NamedTuple):
    """What became of the clicks within the windows; (C,) each."""

    bought: BoolArray
    returned: BoolArray
    conversion_hours: FloatArray  # delay; NaN if not bought
    refund_hours: FloatArray  # delay; NaN if not returned


def describe(log: ClickLog) -> list[Row]:
    """Published against measured numbers, in the regime with the nearest refund rate.

    Args:
        log: of at least one conversion and one refund. Its truth may be NaN: see the module.

    Returns:
        Rows in the order of the publication; `figure` is one of those of PANELS.

    Raises:
        ValueError: the log has no conversion or no refund in its window.
    """
    outcomes = _outcomes(log)
    bought, returned = int(outcomes.bought.sum()), int(outcomes.returned.sum())
    if not bought or not returned:
        raise ValueError(
            f"a log needs conversions and refunds within {facts.WINDOW_HOURS:g} h to be described: "
            f"this one has {bought} and {returned} in {log.click_time.size} clicks"
        )
    regime = facts.nearest_regime(returned / bought)
    rates = np.array([bought, bought - returned]) / log.click_time.size
    published = (regime.cvr, regime.refund_rate, regime.net_cvr)
    measured = (rates[0], returned / bought, rates[1])
    rows = make_rows("rate", ("CVR", "RFR", "NetCVR"), published, measured)
    rows += _hours(log, outcomes)
    rows += _delay_curves(outcomes)
    if has_truth(log):
        rows += _bins(log, regime)
        rows += _groups(log, outcomes)
        kept, net = outcomes.bought & ~outcomes.returned, log.p_convert * (1 - log.p_refund)
        ranked = (auc(outcomes.bought, log.p_convert), auc(kept, net))
        rows += make_rows("AUC", ("CVR", "NetCVR"), facts.ORACLE_AUC, ranked)
    return rows


def has_truth(log: ClickLog) -> bool:
    """Whether the probabilities of the log are known."""
    return not bool(np.isnan(log.p_convert).any() or np.isnan(log.p_refund).any())


def make_rows(
    figure: str, at: Sequence[str], published: Sequence[float], measured: Sequence[float]
) -> list[Row]:
    """The rows of one figure."""
    return [
        Row(figure, place, float(left), float(right))
        for place, left, right in zip(at, published, measured, strict=True)
    ]


def _outcomes(log: ClickLog) -> _Outcomes:
    conversion = np.where(
        log.conversion_time != MISSING, (log.conversion_time - log.click_time) / 3600.0, np.inf
    )
    bought = conversion < facts.WINDOW_HOURS
    refund = np.where(
        bought & (log.refund_time != MISSING),
        (log.refund_time - log.conversion_time) / 3600.0,
        np.inf,
    )
    returned = refund < facts.WINDOW_HOURS
    return _Outcomes(
        *(bought, returned),
        *(np.where(bought, conversion, np.nan), np.where(returned, refund, np.nan)),
    )


def _hours(log: ClickLog, outcomes: _Outcomes) -> list[Row]:
    """CVR and NetCVR by hour of the click, relative to the unweighted mean over the hours."""
    hour = log.click_time // 3600 % 24
    if has_truth(log):
        converts, kept = log.p_convert, log.p_convert * (1.0 - log.p_refund)
    else:
        converts = outcomes.bought.astype(float)
        kept = (outcomes.bought & ~outcomes.returned).astype(float)
    rows: list[Row] = []
    for figure, curve, chance in (
        ("CVR by hour / mean", facts.HOURLY_CVR, converts),
        ("NetCVR by hour / mean", facts.HOURLY_NET_CVR, kept),
    ):
        measured = mean_by(hour, chance, np.ones_like(chance), 24)
        published = np.array(curve) / np.mean(curve)
        rows += make_rows(
            figure, HOURS, published.tolist(), (measured / np.nanmean(measured)).tolist()
        )
    return rows


def _delay_curves(outcomes: _Outcomes) -> list[Row]:
    rows: list[Row] = []
    for event, curve, delay in (
        ("conversion", facts.CONVERSION_DELAY, outcomes.conversion_hours[outcomes.bought]),
        ("refund", facts.REFUND_DELAY, outcomes.refund_hours[outcomes.returned]),
    ):
        limits, shares = zip(*curve, strict=True)
        below = np.searchsorted(np.sort(delay), limits, side="right") / delay.size
        names = [f"{hours:.3g}" for hours in limits]
        rows += make_rows(f"{event} delay cdf", names, shares, below.tolist())
    return rows


def _bins(log: ClickLog, regime: facts.Regime) -> list[Row]:
    """Refund rate of conversions and NetCVR of clicks, by true CVR of the click."""
    which = np.minimum((log.p_convert * 5).astype(np.int64), 4)
    kept = log.p_convert * (1.0 - log.p_refund)
    rows: list[Row] = []
    for name, curve, values, weights in (
        ("RFR by CVR", facts.REFUND_RATE_BY_CVR, log.p_refund, log.p_convert),
        ("NetCVR by CVR", facts.NET_CVR_BY_CVR, kept, np.ones_like(kept)),
    ):
        measured, published = mean_by(which, values, weights, 5), np.array(curve)
        if regime.name == "figures":  # the level is that of the figures
            rows += make_rows(name, BINS, curve, measured.tolist())
        relative = (published / published[0]).tolist(), (measured / measured[0]).tolist()
        rows += make_rows(f"{name} / first", BINS, *relative)
    return rows


def _groups(log: ClickLog, outcomes: _Outcomes) -> list[Row]:
    """Delays of conversions (refunds) by quarters of them, ordered by true CVR (refund rate).

    Reconstruction: the publication groups users; only those with a conversion have a delay, so
    that here the quarters are of conversions and of refunds.
    """
    rows: list[Row] = []
    for event, published, happened, hours, truth in (
        (
            *("conversion", facts.CONVERSION_DELAY_BY_GROUP),
            *(outcomes.bought, outcomes.conversion_hours, log.p_convert),
        ),
        (
            *("refund", facts.REFUND_DELAY_BY_GROUP),
            *(outcomes.returned, outcomes.refund_hours, log.p_refund),
        ),
    ):
        delay, chance = hours[happened], truth[happened]
        group = np.searchsorted(np.quantile(chance, (0.25, 0.5, 0.75)), chance)
        ones = np.ones_like(delay)
        mean = mean_by(group, delay, ones, 4)
        spread = np.sqrt(np.maximum(mean_by(group, delay**2, ones, 4) - mean**2, 0.0))
        means, deviations = np.array(published).T
        rows += make_rows(f"{event} delay mean", GROUPS, means.tolist(), mean.tolist())
        rows += make_rows(f"{event} delay sd", GROUPS, deviations.tolist(), spread.tolist())
        relative = (means / means.mean()).tolist(), (mean / delay.mean()).tolist()
        rows += make_rows(f"{event} delay mean / all", GROUPS, *relative)
    return rows


def mean_by(which: IntArray, values: FloatArray, weights: FloatArray, size: int) -> FloatArray:
    """Weighted mean of the values in every class (size,); NaN in an empty one."""
    total = np.bincount(which, weights * values, minlength=size)
    mass = np.bincount(which, weights, minlength=size)
    return np.divide(total, mass, out=np.full(size, np.nan), where=mass > 0)


def describe_command(
    name: str, seed: int, clicks: int | None, overrides: dict[str, Any], *, as_json: bool
) -> None:
    """`adsim data describe`: generates the log of a scenario and prints how it compares.

    Args:
        name: of the scenario.
        seed: of the episode, >= 0.
        clicks: expected size of the log, with the same days; None leaves the scenario's traffic.
        overrides: of scenario keys.
        as_json: print one JSON object instead of tables.

    Raises:
        ValueError: a wrong scenario, seed or number of clicks, or a log without events.
    """
    scenario = load_sized(name, seed, clicks, overrides)
    with console.stderr.status(f"generating the click log of {scenario.name}"):
        log = generate(scenario.world, seed)
        rows = describe(log)
    regime = facts.nearest_regime(next(row.simulated for row in rows if row.at == "RFR"))
    if as_json:
        records = [{**row._asdict(), "deviation": row.deviation} for row in rows]
        console.emit_json(
            records, scenario=scenario.name, clicks=log.click_time.size, regime=regime.name
        )
        return
    print_panels(rows, PANELS)
    console.stdout.print(_note(log, regime), highlight=False)


def load_sized(name: str, seed: int, clicks: int | None, overrides: dict[str, Any]) -> Scenario:
    """A scenario with the given expected number of clicks, and a check of the seed.

    Raises:
        ValueError: a wrong scenario, seed or number of clicks.
    """
    if seed < 0:
        raise ValueError(f"--seed: must be >= 0, got {seed}")
    if clicks is not None:
        if clicks < 1:
            raise ValueError(f"--clicks: must be >= 1, got {clicks}")
        num_ticks = load(name, overrides).world.time.num_ticks
        overrides = {**overrides, "traffic.impressions_per_tick": clicks / num_ticks}
    return load(name, overrides)


def print_panels(rows: list[Row], panels: Sequence[Panel]) -> None:
    """A table per panel that has rows."""
    for panel in panels:
        cells: dict[str, list[str]] = {}  # by line
        for figure, _ in panel.columns:
            for row in rows:
                if row.figure == figure:
                    numbers = (row.published, row.simulated, row.deviation)
                    texts = [console.number(number, panel.digits) for number in numbers]
                    cells.setdefault(row.at, []).extend(texts)
        if cells:
            heads = [(f"{short} publ.".strip(), "sim.", "dev.") for _, short in panel.columns]
            header = [panel.at, *(word for head in heads for word in head)]
            console.print_table(panel.title, header, [[at, *line] for at, line in cells.items()])


def _note(log: ClickLog, regime: facts.Regime) -> str:
    note = (
        f"{log.click_time.size:,} clicks against the published CASCADE (TESLA, arXiv:2601.19965), "
        f"regime of its {regime.name}: the nearest refund rate. dev. = simulated - published."
    )
    if not has_truth(log):
        return note + " The truth is unknown: nothing by CVR, by group, and no AUC."
    return note + (
        " Group means: the published ones imply a lower mean over all than the published curves;"
        " compare their ratios."
    )
