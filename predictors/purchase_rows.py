"""When the purchases of converted clicks become training rows.

A click with N purchases in its attribution window gives N + 1 rows: one per purchase, with what has
been bought so far, and one at the end of the window, when the GMV is final. `OpenPurchases` finds
them window by window.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837), whose stream has these rows. That code knows the end of a
window by its second, and gives it the count N + 1; here a row says of what kind it is.
"""

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.clicklog import MISSING, ClickLog
from adsim.purchaselog import PurchaseLog
from adsim.types import BoolArray, EventKind, FloatArray, IntArray, Window
from predictors.delivery import check_log
from predictors.open_clicks import last_second, whole_seconds

ATTRIBUTION_SECONDS = 604_800  # 7 days, as published
MAX_PURCHASES = 32_767  # of a click: events number them in 16 bits


class RowKind(IntEnum):
    """What a row stands for. The value orders rows of the same second."""

    PURCHASE = 0
    WINDOW_END = 1


class PurchaseRows(NamedTuple):
    """N training rows in order of (time, kind, click)."""

    time: IntArray  # (N,) seconds, the moment of delivery
    click: IntArray  # (N,) place of the click in the store
    kind: NDArray[np.int8]  # (N,) RowKind
    # (N,) purchases seen, this one included; at the window's end all of the click
    count: IntArray  # pyright: ignore[reportIncompatibleMethodOverride] - hides tuple.count
    gmv: FloatArray  # (N,) currency, sum of the purchases seen
    elapsed: FloatArray  # (N,) from click to latest purchase, in attribution windows, in [0, 1)


class Purchases(NamedTuple):
    """N purchases in the order in which they were seen."""

    click_id: IntArray  # (N,)
    time: IntArray  # (N,) seconds
    amount: FloatArray  # (N,) currency


class Sums(NamedTuple):
    """What has been bought, by click or after each of some purchases."""

    number: IntArray  # purchases
    gmv: FloatArray  # currency
    latest: IntArray  # seconds, the latest purchase


_CLICK_COLUMNS = ("click_id", "click_time", "features")


class OpenPurchases:
    """The clicks with a purchase whose attribution window is open, and what they have bought.

    A click enters with its first purchase, wherever its click was. Rows of purchases are due as
    soon as they are seen and their moment has come; at the end of the window, a click gives its
    last row and leaves. Ignored are purchases after the end of the window, purchases of clicks
    whose first one was never seen, and refunds.

    Args:
        attribution_seconds: length of the attribution window, > 0.
        num_fields: F, columns of the features.

    Raises:
        ValueError: no length of a window.

    Attributes:
        since, now: seconds; what was due up to `since` will not be due again, what is due up to
            `now` is due now.
        click_id, click_time, features: of the C clicks in the store, in order of their ids.
        sums: (C,) of the purchases that have been due up to `since`.
        ahead: purchases seen that had not been due by then.
    """

    def __init__(self, attribution_seconds: int, num_fields: int) -> None:
        _check_attribution(attribution_seconds)
        self.attribution_seconds = attribution_seconds
        self.since = self.now = -1
        self.click_id, self.click_time = np.empty((2, 0), np.int64)
        self.features = np.empty((0, num_fields), np.int32)
        self.sums = Sums(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64))
        self.ahead = Purchases(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

    def follow(self, history: PurchaseLog, now: int) -> None:
        """Goes on from a log as known at `now`, seconds; click ids are its row numbers.

        Its purchases bring no rows, but are part of the sums of those to come.
        """
        self.click_id = np.arange(history.click_time.size)
        self.click_time, self.features = history.click_time, history.features
        latest = history.purchase_time[history.offset[1:] - 1]
        self.sums = Sums(num_purchases(history), final_gmv(history), latest)
        self.ahead = Purchases._make(column[:0] for column in self.ahead)
        self.now = now
        self.close()

    def update(self, window: Window) -> None:
        """Takes in the purchases of a window.

        Raises:
            ValueError: the window has events and ends before the one before it.
        """
        events, self.now = window.events, last_second(window, self.since)
        bought = events.kind == EventKind.PURCHASE
        click_id, seconds = events.click_id[bought], whole_seconds(events.time_hours[bought])
        clicks = window.clicks
        place = np.searchsorted(clicks.impression_id, click_id)
        click_time = whole_seconds(clicks.time_hours[place])
        attributed = seconds < click_time + self.attribution_seconds
        first = attributed & (events.order_id[bought] == 0)
        self._enter(click_id[first], click_time[first], clicks.features[place[first]])
        taken = attributed & self._has(click_id)
        seen = Purchases(click_id[taken], seconds[taken], events.amount[bought][taken])
        self.ahead = Purchases._make(map(np.concatenate, zip(self.ahead, seen, strict=True)))

    def _enter(self, *columns: np.ndarray) -> None:
        """Adds N clicks, by their values of `_CLICK_COLUMNS`, without purchases so far."""
        size = columns[0].size
        order = np.argsort(np.concatenate([self.click_id, columns[0]]), kind="stable")
        for name, column in zip(_CLICK_COLUMNS, columns, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), column])[order])
        nothing = Sums(np.zeros(size, np.int64), np.zeros(size), columns[1])
        pairs = zip(self.sums, nothing, strict=True)
        self.sums = Sums._make(np.concatenate(pair)[order] for pair in pairs)

    def _has(self, click_id: IntArray) -> BoolArray:
        """Which clicks (N,) are in the store."""
        place = np.searchsorted(self.click_id, click_id, side="right")
        return np.concatenate([[-1], self.click_id])[place] == click_id

    def due(self) -> tuple[PurchaseRows, NDArray[np.int32]]:
        """Rows that have become due since the last `close`, and their features (N, F)."""
        place, seen, after = self._added(self.ahead.time <= self.now)
        end = self.click_time + self.attribution_seconds
        ended = np.flatnonzero(end <= self.now)
        click = np.concatenate([place, ended])
        latest = np.concatenate([seen.latest, after.latest[ended]])
        rows = PurchaseRows(
            time=np.concatenate([seen.latest, end[ended]]),
            click=click,
            kind=np.repeat(np.array([*RowKind], np.int8), [place.size, ended.size]),
            count=np.concatenate([seen.number, after.number[ended]]),
            gmv=np.concatenate([seen.gmv, after.gmv[ended]]),
            elapsed=(latest - self.click_time[click]) / self.attribution_seconds,
        )
        order = np.lexsort((rows.click, rows.kind, rows.time))
        rows = PurchaseRows._make(column[order] for column in rows)
        return rows, self.features[rows.click]

    def totals(self) -> Sums:
        """Sums (C,) of all purchases seen of the clicks in the store.

        After a privileged window, future purchases are among them: these are final.
        """
        return self._added(np.ones(self.ahead.time.size, np.bool_))[2]

    def _added(self, chosen: BoolArray) -> tuple[IntArray, Sums, Sums]:
        """Some of the purchases ahead (N,), in the order seen, added to the sums of their clicks.

        Returns:
            Their clicks' places (N,); the sums after each, (N,); the sums by click then, (C,).
        """
        added = Purchases._make(column[chosen] for column in self.ahead)
        place = np.searchsorted(self.click_id, added.click_id)
        after = Sums._make(column.copy() for column in self.sums)
        np.maximum.at(after.latest, place, added.time)
        seen = Sums(np.empty_like(place), np.empty_like(added.amount), added.time)
        rank = _ranks(place)
        for nth in range(rank.max(initial=-1) + 1):  # sums must not depend on how windows are cut
            part = np.flatnonzero(rank == nth)
            click = place[part]
            after.number[click] += 1
            after.gmv[click] += added.amount[part]
            seen.number[part], seen.gmv[part] = after.number[click], after.gmv[click]
        return place, seen, after

    def close(self) -> None:
        """Drops the clicks that bring no more rows; what is due now will not be due again."""
        later = self.ahead.time > self.now
        *_, sums = self._added(~later)
        self.ahead = Purchases._make(column[later] for column in self.ahead)
        kept = self.click_time + self.attribution_seconds > self.now
        self.sums = Sums._make(column[kept] for column in sums)
        for name in _CLICK_COLUMNS:
            setattr(self, name, getattr(self, name)[kept])
        self.since = self.now

    def get_state(self) -> dict[str, np.ndarray]:
        """Arrays that determine the future behaviour."""
        clicks = {name: getattr(self, name).copy() for name in _CLICK_COLUMNS}
        sums = {f"sum_{name}": column.copy() for name, column in self.sums._asdict().items()}
        ahead = {f"ahead_{name}": column.copy() for name, column in self.ahead._asdict().items()}
        return {"moments": np.array([self.since, self.now]), **clicks, **sums, **ahead}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.since, self.now = (int(moment) for moment in state["moments"])
        for name in _CLICK_COLUMNS:
            setattr(self, name, state[name].copy())
        self.sums = Sums._make(state[f"sum_{name}"].copy() for name in Sums._fields)
        self.ahead = Purchases._make(state[f"ahead_{name}"].copy() for name in Purchases._fields)


def _ranks(place: IntArray) -> IntArray:
    """How many of the values before it equal each of the values (N,)."""
    order = np.argsort(place, kind="stable")
    first = np.searchsorted(place[order], place[order])  # where its run of equal values starts
    rank = np.empty_like(place)
    rank[order] = np.arange(place.size) - first
    return rank


def num_purchases(log: PurchaseLog) -> IntArray:
    """Purchases of each click, (C,)."""
    return np.diff(log.offset)


def final_gmv(log: PurchaseLog) -> FloatArray:
    """Currency that each click is credited with when its window has closed, (C,)."""
    total = np.zeros(log.click_time.size)
    np.add.at(total, _clicks(log), log.amount)  # one after the other, as `OpenPurchases` does
    return total


def _clicks(log: PurchaseLog) -> IntArray:
    """The click of each purchase, (P,)."""
    return np.repeat(np.arange(log.click_time.size), num_purchases(log))


def purchases_known_at(log: PurchaseLog, second: int) -> PurchaseLog:
    """The log as seen at a second: no later purchases and refunds, no hidden truth (NaN).

    Clicks without a purchase by then are not converted yet, and left out.
    """
    known = log.purchase_time <= second
    number = np.diff(np.concatenate([[0], np.cumsum(known)])[log.offset])
    seen = number > 0
    refund = log.refund_time[known]
    return PurchaseLog(
        click_time=log.click_time[seen],
        features=log.features[seen],
        cardinalities=log.cardinalities,
        offset=np.concatenate([[0], np.cumsum(number[seen])]),
        purchase_time=log.purchase_time[known],
        amount=log.amount[known],
        refund_time=np.where(refund <= second, refund, MISSING),
        gmv_truth=np.full(int(seen.sum()), np.nan),
        p_repurchase=np.full(int(seen.sum()), np.nan),
        net_gmv_truth=np.full(int(seen.sum()), np.nan),
    )


def check_purchases(log: PurchaseLog, attribution_seconds: int = ATTRIBUTION_SECONDS) -> None:
    """Checks lengths, order, delays, amounts and ids of a log.

    Args:
        log: of C clicks and P purchases.
        attribution_seconds: purchases come before the end of a window of this length.

    Raises:
        ValueError: names field, allowed range, and the first click or purchase that is wrong.
    """
    _check_attribution(attribution_seconds)
    clicks, purchases = log.click_time.size, log.purchase_time.size
    sizes = dict.fromkeys(("features", "gmv_truth", "p_repurchase", "net_gmv_truth"), clicks)
    sizes |= {"offset": clicks + 1, "amount": purchases, "refund_time": purchases}
    for name, size in sizes.items():
        if len(getattr(log, name)) != size:
            raise ValueError(f"{name} must have length {size}, got {len(getattr(log, name))}")
    never, unknown = np.full(clicks, MISSING), np.full(clicks, np.nan)
    times = (log.click_time, never, never)
    check_log(ClickLog(*times, log.features, log.cardinalities, unknown, unknown))
    number, ends = num_purchases(log), log.offset[[0, -1]].tolist()
    if ends != [0, purchases]:
        raise ValueError(f"offset must go from 0 to {purchases}, got {ends[0]} to {ends[1]}")
    bad = (number < 1) | (number > MAX_PURCHASES)
    _refuse(bad, "number of purchases", number, f"in [1, {MAX_PURCHASES}]", "click")
    click, time = _clicks(log), log.purchase_time
    delay = time - log.click_time[click]
    bad = (delay < 0) | (delay >= attribution_seconds)
    allowed = f"in [0, {attribution_seconds}) s after the click's"
    _refuse(bad, "purchase_time", delay, allowed, "purchase")
    bad = np.concatenate([[False], (np.diff(time) < 0) & (np.diff(click) == 0)])[:purchases]
    _refuse(bad, "purchase_time", time, "at or after that of the purchase before it", "purchase")
    bad = ~(np.isfinite(log.amount) & (log.amount >= 0))
    _refuse(bad, "amount", log.amount, "finite and >= 0", "purchase")
    total = final_gmv(log)
    _refuse(~((total > 0) & np.isfinite(total)), "sum of amount", total, "finite and > 0", "click")
    bad = (log.refund_time != MISSING) & (log.refund_time < time)
    allowed = f"at or after the purchase, or {MISSING}"
    _refuse(bad, "refund_time", log.refund_time, allowed, "purchase")


def _check_attribution(seconds: int) -> None:
    if not (seconds > 0 and seconds == int(seconds)):
        raise ValueError(f"attribution_seconds must be > 0 and whole, got {seconds}")


def _refuse(bad: BoolArray, field: str, values: np.ndarray, allowed: str, place: str) -> None:
    if bad.any():
        first = int(np.argmax(bad))
        raise ValueError(f"{field} must be {allowed}, got {values[first]} at {place} {first}")
