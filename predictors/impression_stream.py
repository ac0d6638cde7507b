"""A log of impressions as a stream: played back in windows, clicks with their impressions."""

import numpy as np

from adsim.impressionlog import ImpressionLog
from adsim.types import EventKind, Window
from predictors.delivery import check_columns, reject
from predictors.stream import Events, Playback, Split


class ImpressionStream(Playback):
    """Plays a log of impressions back: what was known before the stream, then window after window.

    Ids are row numbers of the log. The test clicks of a segment are its impressions. A privileged
    predictor is told of impressions when they are shown, as any other.

    Args:
        log: I impressions in order of time.
        split: of the log.

    Raises:
        ValueError: see `check_impressions`; or no impression before or after the stream starts.
    """

    def __init__(self, log: ImpressionLog, split: Split) -> None:
        check_impressions(log)
        self.log = log
        clicks = np.flatnonzero(log.clicked)
        events = Events(
            click=clicks,
            kind=np.full(clicks.size, EventKind.CLICK, np.int8),
            order_id=np.full(clicks.size, -1, np.int16),
            amount=np.zeros(clicks.size),
            moment=log.time[clicks],
        )
        super().__init__(split, log.time, log.features, events, told=log.time)

    def history(self) -> ImpressionLog:
        """The impressions before the stream starts; their truth is hidden (NaN)."""
        log, seen = self.log, slice(int(np.searchsorted(self.log.time, self.start)))
        return ImpressionLog(
            time=log.time[seen],
            clicked=log.clicked[seen],
            features=log.features[seen],
            cardinalities=log.cardinalities,
            p_click=np.full_like(log.p_click[seen], np.nan),
        )

    def window(self, k: int, *, privileged: bool = False) -> Window:
        """What was seen in segment k: its impressions, and the clicks on them."""
        found = super().window(k, privileged=privileged)
        shown = self.split.train_segment(self.log.time, k)
        result = found.result._replace(clicked=self.log.clicked[shown].copy())
        return found._replace(result=result)


def check_impressions(log: ImpressionLog) -> None:
    """Checks order, shapes and ids of a log.

    Raises:
        ValueError: unsorted or negative times, a wrong shape, clicks that are not bool, a truth
            outside [0, 1], or an id outside its field; names the first such impression.
    """
    check_columns(log, "time", "impression")
    if log.clicked.dtype != np.bool_:
        raise ValueError(f"clicked must be bool, got {log.clicked.dtype}")
    outside = (log.p_click < 0) | (log.p_click > 1)  # NaN is unknown
    reject(outside, "p_click", log.p_click, "in [0, 1]", "impression")
