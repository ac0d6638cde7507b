"""The clicks of a stream whose feedback is still open, and the training rows they bring.

Source: TESLA, M. Luo et al., WWW 2026, arXiv:2601.19965, section 5.1, and its published code
(alimama-tech/NetCVR, commit 2a8b78a).
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from adsim.clicklog import MISSING, ClickLog
from adsim.types import EventKind, FloatArray, IntArray, Window
from predictors.delivery import Rows, Rule, Windows, deliver

HOUR_SECONDS = 3_600
_ROUNDING = 1e-6  # seconds: whole seconds survive their way through hours


def whole_seconds(hours: FloatArray) -> IntArray:
    """Seconds (N,) of moments in hours, rounded down."""
    return np.floor(hours * HOUR_SECONDS + _ROUNDING).astype(np.int64)


def last_second(window: Window, since: int, *, is_empty: bool = True) -> int:
    """The whole second in which a window ends, at least `since`, when the one before it ended.

    Args:
        window: what was seen.
        since: seconds.
        is_empty: whether it brings nothing but its events.

    Raises:
        ValueError: the window has events, or is not empty, and ends earlier.
    """
    now = int(whole_seconds(np.array(window.now_hours)))
    if now < since and (window.events.kind.size or not is_empty):
        raise ValueError(
            f"window must end at or after second {since}, ends at {now}: for another "
            f"campaign fit or load a predictor anew"
        )
    return max(now, since)


class OpenClicks:
    """The clicks that may still bring training rows, with what has been seen of them.

    Args:
        windows: attribution and observation windows.
        num_fields: F, columns of the features.
    """

    def __init__(self, windows: Windows, num_fields: int) -> None:
        self.windows = windows
        self.since = self.now = -1  # rows of (since, now] are due, seconds
        self.known_from = -1  # second since which every click has been seen
        self.click_id = np.empty(0, np.int64)
        self.times = np.empty((3, 0), np.int64)  # click, conversion, refund; MISSING if not seen
        self.features = np.empty((0, num_fields), np.int32)

    def follow(self, history: ClickLog, now: int) -> None:
        """Goes on from a log as known at `now`, seconds; click ids are its row numbers."""
        self.click_id = np.arange(history.click_time.size)
        self.times = np.stack([history.click_time, history.conversion_time, history.refund_time])
        self.features = history.features
        self.now = now
        self.known_from = int(history.click_time[0]) if history.click_time.size else now
        self.close()

    def update(self, window: Window) -> None:
        """Takes in new clicks, and first purchases and their refunds of clicks that are open.

        An event in the very second in which the window before ended counts as of the second after.

        Raises:
            ValueError: the window has events and ends before the one before it.
        """
        events, self.now = window.events, last_second(window, self.since)
        # What was due up to `since` has been delivered without the event: that a click had not
        # converted within its window, say. As of then, no row of it would be due any more.
        seconds = np.maximum(whole_seconds(events.time_hours), self.since + 1)
        new = events.kind == EventKind.CLICK
        if new.any():
            if self.known_from < 0:
                self.known_from = int(seconds[new][0])
            place = np.searchsorted(window.clicks.impression_id, events.click_id[new])
            times = np.full((3, place.size), MISSING)
            times[0] = seconds[new]
            self.click_id = np.concatenate([self.click_id, events.click_id[new]])
            self.times = np.concatenate([self.times, times], axis=1)
            self.features = np.concatenate([self.features, window.clicks.features[place]])
        first = events.order_id == 0
        for row, kind in enumerate((EventKind.PURCHASE, EventKind.REFUND), start=1):
            rows = first & (events.kind == kind)
            place = np.searchsorted(self.click_id, events.click_id[rows])
            place = np.minimum(place, self.click_id.size - 1)
            if self.click_id.size:
                found = self.click_id[place] == events.click_id[rows]
                self.times[row, place[found]] = seconds[rows][found]

    def due(self, rule: Rule) -> tuple[Rows, NDArray[np.int32]]:
        """Rows that have become due since the last `close`, and their features (N, F)."""
        unknown = np.full(self.click_id.size, np.nan)
        click, conversion, refund = self.times
        none = self.features[:, :0]
        log = ClickLog(click, conversion, refund, none, (), unknown, unknown)
        rows = deliver(log, self.windows, rule)
        due = slice(*np.searchsorted(rows.time, [self.since, self.now], side="right").tolist())
        rows = Rows._make(column[due] for column in rows)
        return rows, self.features[rows.click]

    def traffic_ratio(
        self, cause: Literal["click", "conversion"], then: IntArray, now: IntArray, width: int
    ) -> FloatArray:
        """How many more causes there were in the `width` seconds up to `now` than up to `then`.

        Args:
            cause: what is counted, among clicks still open.
            then: (N,) seconds, each the moment of a cause, which is counted with the others: with
                Poisson counts the ratio is unbiased.
            now: (N,) seconds, later.
            width: seconds.

        Returns:
            (N,) >= 0; 1 where the causes before `then` are no longer, or were never, all known.
        """
        moments = self.times[0 if cause == "click" else 1]
        moments = np.sort(moments[moments != MISSING])

        def count(until: IntArray) -> IntArray:
            low, high = np.searchsorted(moments, [until - width, until], side="right")
            return high - low

        window = self.windows
        kept = window.conversion_attribution if cause == "click" else window.refund_attribution
        known_from = self.known_from + (cause == "conversion") * window.conversion_attribution
        complete = then - width >= max(known_from, self.since - kept)
        return np.where(complete, count(now) / np.maximum(count(then), 1), 1.0)

    def close(self) -> None:
        """Drops the clicks that bring no more rows; what is due now will not be due again."""
        click, conversion, _ = self.times
        last = click + self.windows.conversion_attribution
        converted = conversion != MISSING
        last = np.maximum(last, conversion + converted * self.windows.refund_attribution)
        kept = last > self.now
        self.click_id, self.features = self.click_id[kept], self.features[kept]
        self.times, self.since = self.times[:, kept], self.now

    def get_state(self) -> dict[str, np.ndarray]:
        """Arrays that determine the future behaviour."""
        moments = np.array([self.since, self.now, self.known_from])
        names = ("click_id", "times", "features")
        return {"moments": moments, **{name: getattr(self, name).copy() for name in names}}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.since, self.now, self.known_from = (int(moment) for moment in state["moments"])
        for name in ("click_id", "times", "features"):
            setattr(self, name, state[name].copy())
