"""When the clicks of a log become training rows, method by method.

A click gives one or more rows: what is known of its conversion when its observation window closes,
corrections when events arrive late, and rows on its refund. `RULES` states per method which rows
are delivered when; `deliver` applies a rule to a log.

Boundary conventions: an event counts only if its delay is < the attribution window; it is in
window if its delay is <= the observation window, delayed otherwise. A refund counts only through a
conversion that counts.

Source: TESLA, M. Luo et al., WWW 2026, arXiv:2601.19965, and its published code
(alimama-tech/NetCVR, commit 2a8b78a), whose delivery is followed row by row.
"""

from enum import IntEnum
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.clicklog import MISSING, ClickLog
from adsim.impressionlog import ImpressionLog
from adsim.types import BoolArray, IntArray

Int8Array = NDArray[np.int8]
DAY_SECONDS = 86_400


class Windows(NamedTuple):
    """Windows in whole seconds, 0 <= observation <= attribution > 0; by default as published."""

    conversion_attribution: int = 259_200  # 3 days from the click
    refund_attribution: int = 259_200  # 3 days from the conversion
    conversion_observation: int = 864
    refund_observation: int = 864


class Labels(NamedTuple):
    """Final labels of C clicks; 0 or 1."""

    y: Int8Array  # (C,) converted in the attribution window
    z: Int8Array  # (C,) converted and refunded, each in its attribution window
    n: Int8Array  # (C,) net conversion, y (1 - z)


class Trajectory(IntEnum):
    """The seven fates of a click; I = in the observation window, D = after it."""

    NO_CONVERSION = 0  # a conversion after the attribution window included
    I_CONVERSION = 1
    D_CONVERSION = 2
    I_CONVERSION_I_REFUND = 3
    I_CONVERSION_D_REFUND = 4
    D_CONVERSION_I_REFUND = 5
    D_CONVERSION_D_REFUND = 6


class Emit(NamedTuple):
    """One entry of a delivery rule: at `when`, the clicks of `to` give a row with `label`.

    Moments and groups of clicks are named in `_timeline`. A label is 1 for the clicks of a group:
    the pay label of a conversion row, the refund label of a refund row.
    """

    when: str
    to: str
    label: str
    row: Literal["conversion", "refund"] = "conversion"
    pay: str = "all"  # pay label of a refund row
    net: str | None = None  # net label of a conversion row; None repeats the pay label
    flag: bool = False  # DDFM's d: the row carries the final conversion label


class Rule(NamedTuple):
    """What a method is delivered; the order of the entries orders rows of the same second."""

    emits: tuple[Emit, ...]
    reading: Literal["nothing", "refund_rows", "payments", "final"]  # see `refund_targets`
    privileged: bool = False  # rows carry labels that are not known yet


_AT_WINDOW = Emit("window", "all", "in_window")
_RECAPTURED = Emit("conversion", "delayed", "all")
_CONVERTED = Emit("conversion", "converters", "all")
_NEVER = Emit("matured", "others", "none")
_REFUNDED = Emit("refund", "refunders", "all", "refund")

_FNC = Rule((Emit("click", "all", "none"), _CONVERTED, _REFUNDED._replace(pay="none")), "payments")
_ES_DFM = Rule((_AT_WINDOW, _RECAPTURED, _REFUNDED), "payments")
_DDFM = (_AT_WINDOW, _RECAPTURED._replace(flag=True), _NEVER._replace(flag=True), _REFUNDED)
_UNREFUNDED = Emit("refund_window", "not_refunded_in_window", "none", "refund")
_BDL_REFUND = Emit("refund_matured", "converters", "refunders", "refund")

RULES: dict[str, Rule] = {
    "pre_trained": Rule((Emit("click", "none", "none"),), "nothing"),
    "oracle": Rule((Emit("click", "all", "converters", net="net_converters"),), "final", True),
    "bdl": Rule((Emit("matured", "all", "converters"), _BDL_REFUND), "refund_rows"),
    **dict.fromkeys(("fnc", "fnw"), _FNC),
    **dict.fromkeys(("es_dfm", "defuse", "miss", "dfsn"), _ES_DFM),
    "dfsn_unbias": _FNC._replace(reading="nothing"),
    "dfsn_feature": Rule((Emit("half_window", "all", "in_half_window"),), "nothing"),
    "defer": Rule((_AT_WINDOW, _CONVERTED, _NEVER, _REFUNDED), "payments"),
    "ddfm": Rule(_DDFM, "payments"),
    "tesla": Rule((_AT_WINDOW, _RECAPTURED, _UNREFUNDED, _REFUNDED), "refund_rows"),
    "matured": Rule((Emit("matured", "all", "converters"),), "nothing"),
}
"""Delivery rule of each NetCVR method, of DFSN's satellite networks, and of CVR in scenes."""


class Rows(NamedTuple):
    """N training rows ordered by time; rows of the same second in the order of the rule."""

    click: IntArray  # (N,) index into the log
    time: IntArray  # (N,) seconds, the moment of delivery
    pay_label: Int8Array  # (N,) s_y
    net_label: Int8Array  # (N,) s_n; on refund rows 1 - the refund label
    conversion_row: BoolArray  # (N,) m: True on conversion rows, False on refund rows
    flag: BoolArray  # (N,) d: the row carries the final conversion label (DDFM)
    delay: IntArray  # (N,) seconds of the row's event from its cause; MISSING if its label is 0


def check_columns(log: ClickLog | ImpressionLog, moment: str, row: str) -> None:
    """Checks lengths of columns, order and ids of a log.

    Args:
        log: of any kind.
        moment: the column by which it is ordered.
        row: what one row is called.

    Raises:
        ValueError: unsorted or negative moments, a wrong shape, or an id outside its field; names
            the first such row.
    """
    time = getattr(log, moment)
    for name, column in zip(log._fields, log, strict=True):
        if name != "cardinalities" and len(column) != time.size:
            raise ValueError(f"{name} must have {time.size} {row}s, got {len(column)}")
    if log.features.ndim != 2 or log.features.shape[1] != len(log.cardinalities):
        shape = f"({row[0].upper()}, {len(log.cardinalities)})"
        raise ValueError(f"features must have shape {shape}, got {log.features.shape}")
    reject(time < 0, moment, time, ">= 0", row)
    unsorted = np.zeros(time.size, np.bool_)
    unsorted[1:] = time[1:] < time[:-1]
    reject(unsorted, moment, time, f"at or after the previous {row}'s", row)
    if time.size:
        low, high = log.features.min(axis=0), log.features.max(axis=0)  # (F,)
        for field in np.flatnonzero((low < 0) | (high >= np.array(log.cardinalities))):
            ids, size = log.features[:, field], log.cardinalities[field]
            bad = (ids < 0) | (ids >= size)
            reject(bad, f"features[:, {field}]", ids, f"in [0, {size})", row)


def check_log(log: ClickLog) -> None:
    """Checks order, delays and ids of a log.

    Raises:
        ValueError: unsorted or negative click times, an event before its cause, a refund without a
            conversion, a wrong shape, or an id outside its field; names the first such click.
    """
    click, conversion, refund = log.click_time, log.conversion_time, log.refund_time
    check_columns(log, "click_time", "click")
    early = (conversion != MISSING) & (conversion < click)
    reject(early, "conversion_time", conversion, f"at or after the click, or {MISSING}", "click")
    early = (refund != MISSING) & ((conversion == MISSING) | (refund < conversion))
    reject(early, "refund_time", refund, f"at or after a conversion, or {MISSING}", "click")


def reject(bad: BoolArray, field: str, values: np.ndarray, allowed: str, row: str) -> None:
    """Raises ValueError, which names the first of the bad rows, if there are any."""
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"{field} must be {allowed}, got {values[first]} at {row} {first}")


def _check_windows(windows: Windows) -> None:
    for name, seconds in zip(windows._fields, windows, strict=True):
        longest = getattr(windows, name.replace("observation", "attribution"))
        if not (0 <= seconds <= longest and longest > 0 and seconds == int(seconds)):
            allowed = "> 0" if name.endswith("attribution") else f"in [0, {longest}]"
            raise ValueError(f"{name} must be {allowed} and whole seconds, got {seconds}")


def _timeline(log: ClickLog, windows: Windows) -> tuple[dict[str, IntArray], dict[str, BoolArray]]:
    """Moments (C,), valid where their event exists, and groups (C,), of attributed events only."""
    _check_windows(windows)
    check_log(log)
    longest, longest_refund, window, refund_window = map(int, windows)
    click, conversion, refund = log.click_time, log.conversion_time, log.refund_time
    delay, refund_delay = conversion - click, refund - conversion
    y = (conversion != MISSING) & (delay < longest)
    z = y & (refund != MISSING) & (refund_delay < longest_refund)
    times = {
        "click": click,
        "half_window": click + window // 2,  # half the observation window, rounded down
        "window": click + window,
        "conversion": conversion,
        "matured": click + longest,
        "refund_window": conversion + refund_window,
        "refund": refund,
        "refund_matured": conversion + longest_refund,
    }
    groups = {
        "all": np.ones_like(y),
        "none": np.zeros_like(y),
        "converters": y,
        "others": ~y,
        "in_half_window": y & (delay <= window // 2),
        "in_window": y & (delay <= window),
        "delayed": y & (delay > window),
        "refunders": z,
        "net_converters": y & ~z,
        "delayed_refund": z & (refund_delay > refund_window),
        "not_refunded_in_window": y & ~(z & (refund_delay <= refund_window)),
    }
    return times, groups


def final_labels(log: ClickLog, windows: Windows) -> Labels:
    """Labels after both attribution windows have closed; raises as `deliver` does."""
    _, groups = _timeline(log, windows)
    names = ("converters", "refunders", "net_converters")
    return Labels(*(groups[name].astype(np.int8) for name in names))


def trajectory(log: ClickLog, windows: Windows) -> Int8Array:
    """`Trajectory` of each click, (C,); raises as `deliver` does.

    Late conversions are `NO_CONVERSION`; late refunds leave the conversion as it is.
    """
    _, groups = _timeline(log, windows)
    late = groups["delayed"].astype(np.int8)
    refunded = Trajectory.I_CONVERSION_I_REFUND + 2 * late + groups["delayed_refund"]
    return np.where(groups["refunders"], refunded, groups["converters"] + late).astype(np.int8)


def deliver(log: ClickLog, windows: Windows, rule: Rule) -> Rows:
    """The training rows of a log under a rule, ordered by time.

    Args:
        log: C clicks in order of time.
        windows: attribution and observation windows, seconds.
        rule: an entry of `RULES`.

    Raises:
        ValueError: see `check_log`; or windows out of range.
    """
    timeline = _timeline(log, windows)
    parts = [_emitted(emit, *timeline) for emit in rule.emits]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[Rows._fields.index("time")], kind="stable")
    return Rows(*(column[order] for column in columns))


def _emitted(emit: Emit, times: dict[str, IntArray], groups: dict[str, BoolArray]) -> Rows:
    """Rows of one entry, in the order of the clicks."""
    click = np.flatnonzero(groups[emit.to])  # (N,)
    label = groups[emit.label][click]
    is_conversion = emit.row == "conversion"
    pay = label if is_conversion else groups[emit.pay][click]
    net = ~label if not is_conversion else groups[emit.net or emit.label][click]
    cause, event = ("click", "conversion") if is_conversion else ("conversion", "refund")
    return Rows(
        click=click,
        time=times[emit.when][click],
        pay_label=pay.astype(np.int8),
        net_label=net.astype(np.int8),
        conversion_row=np.full(click.size, is_conversion),
        flag=np.full(click.size, emit.flag),
        delay=np.where(label, times[event][click] - times[cause][click], MISSING),
    )


def refund_targets(rows: Rows, rule: Rule) -> tuple[Int8Array, BoolArray]:
    """Labels (N,) of the refund tower and the mask (N,) of the rows it reads, by `rule.reading`.

    "refund_rows": the refund rows with their label; "payments": refund rows as 1 and conversion
    rows with pay label 1 as 0; "final" (Oracle): rows with pay label 1, as 1 where the net label
    is 0; "nothing": no row.
    """
    refund_row, paid = ~rows.conversion_row, rows.pay_label == 1
    label, mask = {
        "nothing": (refund_row & False, refund_row & False),
        "refund_rows": (refund_row & paid & (rows.net_label == 0), refund_row),
        "payments": (refund_row, refund_row | paid),
        "final": (paid & (rows.net_label == 0), paid),
    }[rule.reading]
    return label.astype(np.int8), mask


def head_labels(rows: Rows, windows: Windows) -> Int8Array:
    """Pay labels (N, 3) of MISS's heads, whose windows are 1/2, 2/3 and all of the observation's.

    A conversion in window counts for the heads whose window holds it; a recaptured one for all.
    """
    whole = windows.conversion_observation
    heads = np.array([whole // 2, 2 * whole // 3, whole])
    delay = rows.delay[:, None]  # (N, 1)
    positive = (rows.conversion_row & (rows.pay_label == 1))[:, None]
    return (positive & ((delay <= heads) | (delay > whole))).astype(np.int8)


def known_at(log: ClickLog, time: int) -> ClickLog:
    """The log as seen at `time`, seconds: no later clicks and events, no hidden truth (NaN)."""
    seen = slice(int(np.searchsorted(log.click_time, time, side="right")))
    conversion, refund = log.conversion_time[seen], log.refund_time[seen]
    return ClickLog(
        click_time=log.click_time[seen],
        conversion_time=np.where(conversion <= time, conversion, MISSING),
        refund_time=np.where(refund <= time, refund, MISSING),
        features=log.features[seen],
        cardinalities=log.cardinalities,
        p_convert=np.full_like(log.p_convert[seen], np.nan),
        p_refund=np.full_like(log.p_refund[seen], np.nan),
    )
