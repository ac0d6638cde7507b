"""A log of converted clicks as a stream: played back in windows, learned from and scored.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, section 5.1, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from adsim.clicklog import MISSING
from adsim.purchaselog import PurchaseLog
from adsim.types import EventKind, FloatArray, IntArray, Predictor, Target
from predictors.purchase_rows import (
    ATTRIBUTION_SECONDS,
    check_purchases,
    final_gmv,
    num_purchases,
    purchases_known_at,
)
from predictors.stream import Events, Playback, Split, gather, rounds

READER_SPLIT = Split(
    pretrain_days=50,
    stream_start_day=57,
    stream_end_day=81.875,
    segment_days=0.125,
    closed="left",
)
"""82 days of clicks: 50 to pre-train on, a week until their windows have closed, 199 segments."""


class PurchaseStream(Playback):
    """Plays a log of purchases back: what was known before the stream, then window after window.

    A privileged predictor is told of a click, and all it will buy, with its first purchase.

    Click ids are row numbers of the log, except before the stream. There, clicks with a purchase
    come first: theirs are row numbers of `history()`, which knows no others.

    Args:
        log: C clicks in order of time.
        split: of the log.
        attribution_seconds: length of the attribution window.

    Raises:
        ValueError: see `check_purchases`; or no click before or after the stream starts.
    """

    def __init__(
        self,
        log: PurchaseLog,
        split: Split = READER_SPLIT,
        *,
        attribution_seconds: int = ATTRIBUTION_SECONDS,
    ) -> None:
        check_purchases(log, attribution_seconds)
        self.log = log
        first = log.purchase_time[log.offset[:-1]]
        before = slice(int(np.searchsorted(log.click_time, split.start_second)))
        ids = np.arange(log.click_time.size)
        ids[np.argsort(first[before] >= split.start_second, kind="stable")] = ids[before].copy()
        super().__init__(split, log.click_time, log.features, _events(log), first, ids)

    def history(self) -> PurchaseLog:
        """The log as known when the stream starts."""
        return purchases_known_at(self.log, self.start - 1)


def _events(log: PurchaseLog) -> Events:
    """Clicks, purchases and refunds of a log."""
    number = num_purchases(log)
    rows = np.arange(log.click_time.size)
    click = np.repeat(rows, number)
    order = np.arange(click.size) - np.repeat(log.offset[:-1], number)
    back = np.flatnonzero(log.refund_time != MISSING)
    sizes = (rows.size, click.size, back.size)
    return Events(
        click=np.concatenate([rows, click, click[back]]),
        kind=np.repeat(np.array([*EventKind], np.int8), sizes),
        order_id=np.concatenate([np.full(rows.size, -1), order, order[back]]).astype(np.int16),
        amount=np.concatenate([np.zeros(rows.size), log.amount, log.amount[back]]),
        moment=np.concatenate([log.click_time, log.purchase_time, log.refund_time[back]]),
    )


class GmvResult(NamedTuple):
    """Predictions for the N test clicks of a stream, in order, with their final GMV."""

    segment: IntArray  # (N,) the segment the model was trained up to
    click: IntArray  # (N,) row of the log
    gmv: FloatArray  # (N,) predicted, currency
    label: FloatArray  # (N,) final GMV, currency
    purchases: IntArray  # (N,) final number of purchases
    seconds: FloatArray  # (K, 2) spent in partial_fit and in predict, per segment


def run_gmv_stream(
    predictor: Predictor,
    stream: PurchaseStream,
    advance: Callable[[int], Any] = lambda segment: None,
) -> GmvResult:
    """Trains on segment k, then predicts the clicks of segment k + 1, for every k.

    Args:
        predictor: of `Target.GMV`, ready for the stream. A privileged one is told of purchases in
            advance.
        stream: of the log.
        advance: called with k after every segment, for instance to show progress.
    """
    segment, click, (gmv,), seconds = gather(rounds(predictor, stream, (Target.GMV,), advance))
    label, purchases = final_gmv(stream.log)[click], num_purchases(stream.log)[click]
    return GmvResult(segment, click, gmv, label, purchases, seconds)
