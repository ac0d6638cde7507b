"""A click log as a stream: split in segments, handed over in windows, learned from and scored.

`Split` cuts rows and clicks in segments. `Playback` hands the events of a log over in `Window`s, as
an environment would; `LogStream` does so with a click log. `rounds` trains a predictor on segment
after segment, each time scoring it on the clicks of the next one; `run_stream` gathers what comes
of it for NetCVR.

Source: TESLA, M. Luo et al., WWW 2026, arXiv:2601.19965, section 5.1, and its published code
(alimama-tech/NetCVR, commit 2a8b78a).
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.clicklog import MISSING, ClickLog
from adsim.types import (
    AuctionResult,
    EventBatch,
    EventKind,
    FloatArray,
    Impressions,
    IntArray,
    Predictor,
    Target,
    Window,
)
from predictors.delivery import (
    DAY_SECONDS,
    Windows,
    check_log,
    final_labels,
    known_at,
)
from predictors.open_clicks import HOUR_SECONDS


@dataclass(frozen=True, kw_only=True)
class Split:
    """Days on which models are pre-trained, and the segments of the stream; day 0 starts the log.

    Segment k holds the rows delivered from `stream_start_day + k segment_days` to its end. By
    default a row on a boundary belongs to the earlier segment, as with the rounded boundaries of
    the published code (NetCVR's; OnlineGMV's gives it to the later one). The first second of the
    stream belongs to segment 0 in any case. As published, corrections and refund rows arrive in the
    first days for clicks whose first rows came before the stream.

    Args:
        pretrain_days: clicks of days [0, pretrain_days) train with final labels.
        stream_start_day, stream_end_day: the stream's span.
        segment_days: length of a segment, a divisor of the stream's span.
        closed: the end of a segment that belongs to it: (start, end] or [start, end).

    Raises:
        ValueError: a value out of range, or not whole in seconds or segments.
    """

    pretrain_days: float = 10.0
    stream_start_day: float = 17.0
    stream_end_day: float = 24.0
    segment_days: float = 0.1
    closed: Literal["right", "left"] = "right"

    def __post_init__(self) -> None:
        if self.closed not in ("right", "left"):
            raise ValueError(f"closed must be 'right' or 'left', got {self.closed!r}")
        for name, days in vars(self).items():
            if name == "closed":
                continue
            if not (0 <= days < 1e6 and abs(days * DAY_SECONDS % 1 - 0.5) > 0.4999):
                raise ValueError(f"{name} must be in [0, 1e6) and whole in seconds, got {days}")
        if not self.pretrain_days <= self.stream_start_day:
            allowed = f"[0, {self.stream_start_day}]"
            raise ValueError(f"pretrain_days must be in {allowed}, got {self.pretrain_days}")
        span = self._second(self.stream_end_day) - self._second(self.stream_start_day)
        if not (0 < self.segment_seconds <= span and span % self.segment_seconds == 0):
            raise ValueError(
                f"segment_days must be > 0 and divide {span / DAY_SECONDS} days, "
                f"got {self.segment_days}"
            )

    @property
    def start_second(self) -> int:
        """First second of the stream."""
        return self._second(self.stream_start_day)

    @property
    def segment_seconds(self) -> int:
        """Length of a segment."""
        return self._second(self.segment_days)

    @property
    def num_segments(self) -> int:
        """Segments of the stream."""
        span = self._second(self.stream_end_day) - self.start_second
        return span // self.segment_seconds

    def last_second(self, k: int) -> int:
        """The last second of segment k."""
        return self.start_second + (k + 1) * self.segment_seconds - (self.closed == "left")

    def check_gap(self, windows: Windows | int) -> None:
        """Raises ValueError if final labels of pre-training clicks reach into the stream.

        Args:
            windows: after which labels are final; or seconds from the click.
        """
        if isinstance(windows, Windows):
            needed = windows.conversion_attribution + windows.refund_attribution
        else:
            needed = windows
        gap = self.start_second - self._second(self.pretrain_days)
        if gap < needed:
            days, found = needed / DAY_SECONDS, gap / DAY_SECONDS
            raise ValueError(f"stream_start_day - pretrain_days must be >= {days}, got {found}")

    def segments(self, time: IntArray) -> IntArray:
        """Segment of each time (N,), seconds; outside [0, num_segments): not of the stream."""
        since = time - self.start_second
        if self.closed == "left":
            return since // self.segment_seconds
        index = -(-since // self.segment_seconds) - 1  # ceiling: a boundary goes to the earlier
        return np.where(since == 0, 0, index)

    def pretrain(self, click_time: IntArray) -> slice:
        """Clicks to pre-train on, of the sorted times (C,) of a log."""
        return slice(0, int(np.searchsorted(click_time, self._second(self.pretrain_days))))

    def train_segment(self, time: IntArray, k: int) -> slice:
        """Rows of segment k < `num_segments`, of sorted times (N,); may be empty."""
        return self._between(time, k, k)

    def test_segment(self, click_time: IntArray, k: int) -> slice:
        """Clicks to evaluate after training on segment k: those of segment k + 1; may be empty."""
        return self._between(click_time, k, k + 1)

    def _between(self, time: IntArray, k: int, held: int) -> slice:
        """Places of segment `held`, in round k; the first second belongs to segment 0."""
        if not 0 <= k < self.num_segments:
            raise ValueError(f"segment must be in [0, {self.num_segments}), got {k}")
        before = self.last_second(held - 1) if held else self.start_second - 1
        edges = [before, self.last_second(held)]
        return slice(*np.searchsorted(time, edges, side="right").tolist())

    @staticmethod
    def _second(day: float) -> int:
        return round(day * DAY_SECONDS)


def batches(count: int, batch_size: int, *, drop_last: bool = False) -> Iterator[slice]:
    """Cuts `count` consecutive rows in batches of nearly equal size.

    The number of batches is count / batch_size, rounded, at least 1: no batch is much smaller than
    the others, whose statistics (batch normalisation) would be poor. `drop_last` cuts batches of
    exactly `batch_size` and leaves the remaining rows out, as the published code does. No rows give
    no batches.

    Raises:
        ValueError: batch_size is < 1 or count < 0.
    """
    if not (batch_size >= 1 and count >= 0):
        raise ValueError(f"batch_size must be >= 1 and count >= 0, got {batch_size} and {count}")
    number = count // batch_size if drop_last else round(count / batch_size) or min(count, 1)
    stop = number * batch_size if drop_last else count
    for k in range(number):
        yield slice(k * stop // number, (k + 1) * stop // number)


class Events(NamedTuple):
    """N events of the clicks of a log, in any order."""

    click: IntArray  # (N,) row of the log
    kind: NDArray[np.int8]  # (N,) EventKind
    order_id: NDArray[np.int16]  # (N,) 0-based purchase of the click; -1 for a click
    amount: FloatArray  # (N,) currency; 0 for a click
    moment: IntArray  # (N,) seconds


class Playback:
    """Plays the events of a log back, window after window; hours count from the log's day 0.

    Args:
        split: of the log.
        click_time: (C,) seconds, in order.
        features: (C, F) categorical ids.
        events: of the clicks.
        told: (C,) the second in whose segment a privileged predictor is told of a click.
        click_id: (C,) ids of the clicks; by default, row numbers of the log.

    Raises:
        ValueError: no click before or after the stream starts.
    """

    def __init__(
        self,
        split: Split,
        click_time: IntArray,
        features: NDArray[np.int32],
        events: Events,
        told: IntArray,
        click_id: IntArray | None = None,
    ) -> None:
        self.split, self.start = split, split.start_second
        if click_time.size == 0 or not click_time[0] < self.start <= click_time[-1]:
            raise ValueError(f"log must have clicks before and after second {self.start}")
        self._click_time, self._features = click_time, features
        self._click_id = np.arange(click_time.size) if click_id is None else click_id
        keys = (events.order_id, self._click_id[events.click], events.kind, events.moment)
        order = np.lexsort(keys)
        self._events = Events._make(column[order] for column in events)
        self._told = split.segments(told)

    def window(self, k: int, *, privileged: bool = False) -> Window:
        """What was seen in segment k: its clicks, and the events of all clicks in that time.

        `privileged` gives instead all events of the clicks that are told of in the segment, future
        ones included.
        """
        clicks = self.split.train_segment(self._click_time, k)
        if privileged:
            rows = np.flatnonzero(self._told[self._events.click] == k)
        else:
            rows = self.split.train_segment(self._events.moment, k)
        seen = Events._make(column[rows] for column in self._events)
        events = EventBatch(
            tick=np.full(seen.click.size, k),
            time_hours=seen.moment / HOUR_SECONDS,
            kind=seen.kind,
            click_id=self._click_id[seen.click],
            order_id=seen.order_id,
            amount=seen.amount,
        )
        size = clicks.stop - clicks.start
        won = np.ones(size, np.bool_)
        slot = np.zeros(size, np.int8)
        result = AuctionResult(won, np.full(size, np.inf), won.copy(), slot)
        now = self.split.last_second(k) / HOUR_SECONDS
        referred = np.unique(seen.click)
        referred = self.impressions(referred[np.argsort(self._click_id[referred])])
        return Window(now, self.impressions(clicks), result, referred, events)

    def impressions(self, rows: slice | IntArray) -> Impressions:
        """Clicks of the log, by row numbers; the scene is unknown (0)."""
        ids, moment = self._click_id[rows], self._click_time[rows]
        scene, mask = np.zeros(ids.size, np.int32), np.ones(ids.size, np.int8)
        return Impressions(ids, moment / HOUR_SECONDS, self._features[rows], scene, mask)

    def test_clicks(self, k: int) -> slice:
        """Clicks on which a model trained up to segment k is scored: those of segment k + 1."""
        return self.split.test_segment(self._click_time, k)


class LogStream(Playback):
    """Plays a click log back: what was known before the stream, then window after window.

    Click ids are row numbers of the log. A privileged predictor is told of clicks when they happen.

    Args:
        log: C clicks in order of time.
        split: of the log.

    Raises:
        ValueError: see `check_log`; or no click before or after the stream starts.
    """

    def __init__(self, log: ClickLog, split: Split) -> None:
        check_log(log)
        self.log = log
        times = (log.click_time, log.conversion_time, log.refund_time)
        happened = [np.flatnonzero(time != MISSING) for time in times]
        kind = np.repeat(np.arange(3, dtype=np.int8), [rows.size for rows in happened])
        events = Events(
            click=np.concatenate(happened),
            kind=kind,
            order_id=np.where(kind == EventKind.CLICK, -1, 0).astype(np.int16),
            amount=np.zeros(kind.size),
            moment=np.concatenate([time[rows] for time, rows in zip(times, happened, strict=True)]),
        )
        super().__init__(split, log.click_time, log.features, events, told=log.click_time)

    def history(self) -> ClickLog:
        """The log as known when the stream starts."""
        return known_at(self.log, self.start - 1)


class Round(NamedTuple):
    """Predictions for the N test clicks of one segment, or of K segments one after the other."""

    segment: IntArray  # (N,) the segment the model was trained up to
    click: IntArray  # (N,) row of the log
    means: list[FloatArray]  # (N,) predictions per target
    seconds: FloatArray  # (K, 2) spent in partial_fit and in predict, per segment


def rounds(
    predictor: Predictor,
    stream: Playback,
    targets: tuple[Target, ...],
    advance: Callable[[int], Any],
) -> Iterator[Round]:
    """Trains on segment k, then predicts the clicks of segment k + 1, for every k.

    Args:
        predictor: ready for the stream. A privileged one sees the events of clicks in advance.
        stream: of a log.
        targets: that are predicted.
        advance: called with k after every segment, for instance to show progress.
    """
    for k in range(stream.split.num_segments):
        window = stream.window(k, privileged=predictor.privileged)
        started = time.perf_counter()
        predictor.partial_fit(window)
        trained = time.perf_counter()
        held = stream.test_clicks(k)
        estimates = predictor.predict(stream.impressions(held))
        seconds = np.array([[trained - started, time.perf_counter() - trained]])
        click = np.arange(held.start, held.stop)
        means = [estimates[target].mean for target in targets]
        yield Round(np.full(click.size, k), click, means, seconds)
        advance(k)


def gather(parts: Iterator[Round]) -> Round:
    """All rounds as one."""
    segment, click, means, seconds = zip(*parts, strict=True)
    columns = [np.concatenate(column) for column in zip(*means, strict=True)]
    segment, click, seconds = map(np.concatenate, (segment, click, seconds))
    return Round(segment, click, columns, seconds)


class StreamResult(NamedTuple):
    """Predictions for the N test clicks of a stream, in order, with their final labels."""

    segment: IntArray  # (N,) the segment the model was trained up to
    click: IntArray  # (N,) row of the log
    cvr: FloatArray  # (N,) predicted P(conversion)
    net_cvr: FloatArray  # (N,) predicted P(conversion that is kept)
    refund_rate: FloatArray  # (N,) predicted P(refund | conversion)
    y: NDArray[np.int8]  # (N,) converted
    z: NDArray[np.int8]  # (N,) converted and refunded
    seconds: FloatArray  # (K, 2) spent in partial_fit and in predict, per segment


def run_stream(
    predictor: Predictor,
    stream: LogStream,
    windows: Windows,
    advance: Callable[[int], Any] = lambda segment: None,
) -> StreamResult:
    """Trains on segment k, then predicts the clicks of segment k + 1, for every k.

    Args:
        predictor: ready for the stream. A privileged one sees the events of clicks in advance.
        stream: of the log.
        windows: that define the final labels.
        advance: called with k after every segment, for instance to show progress.
    """
    labels = final_labels(stream.log, windows)
    targets = (Target.CVR, Target.NET_CVR, Target.REFUND_RATE)
    segment, click, means, seconds = gather(rounds(predictor, stream, targets, advance))
    final = labels.y[click], labels.z[click]
    return StreamResult._make([segment, click, *means, *final, seconds])
