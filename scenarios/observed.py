"""What a campaign has observed: windows to learn from, and predictions with their labels."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from adsim.config import WindowsConfig
from adsim.log import Columns
from adsim.observation import empty_events, empty_result, rows_of, shown_impressions
from adsim.types import (
    AuctionResult,
    BoolArray,
    EventBatch,
    EventKind,
    FloatArray,
    Impressions,
    Window,
)
from scenarios.curves import CALIBRATION, MONEY_EDGES, PROBABILITY_EDGES, binned, curve_rows
from scenarios.stack import Estimates


class Calibration(NamedTuple):
    """Predictions of one kind against their matured labels."""

    target: str  # ctr, cvr, refund_rate, gmv or net_gmv
    count: int  # pyright: ignore[reportIncompatibleMethodOverride] - labels, not tuple.count
    predicted: float  # sum of the predictions
    observed: float  # sum of the labels
    pcoc: float  # predicted / observed; NaN if nothing was observed


class _Outcomes(NamedTuple):
    """What has become of C clicks so far."""

    bought_hours: FloatArray  # (C,) moment of the first purchase; infinity if there is none
    refunded: BoolArray  # (C,) the first purchase came back
    gmv: FloatArray  # (C,) currency
    net_gmv: FloatArray  # (C,) less what came back, currency


class Recorder:
    """What has been observed since the last window, and the clicks that events may yet refer to.

    Args:
        obs: an observation, for shapes and types.
        kept_hours: how long after a click its last event may come.
    """

    def __init__(self, obs: dict[str, Any], kept_hours: float) -> None:
        self._kept_hours = kept_hours
        self._clicks = rows_of(shown_impressions(obs, 0), slice(0))
        self._clear()

    def _clear(self) -> None:
        self._won = [rows_of(self._clicks, slice(0))]
        self._results = [empty_result(0)]
        self._events = [empty_events()]

    def add(self, impressions: Impressions, info: dict[str, Any]) -> None:
        """Takes in a tick: the impressions (M,) that were bid on, and what became of them."""
        result: AuctionResult = info["result"]
        self._won.append(rows_of(impressions, result.won))
        self._results.append(rows_of(result, result.won))
        self._events.append(info["feedback"])
        new = rows_of(impressions, result.won & result.clicked)
        self._clicks = _joined([self._clicks, new])

    def window(self, now_hours: float) -> Window:
        """All that was added since the last window, which ends now."""
        events = _joined(self._events)
        referred = np.isin(self._clicks.impression_id, events.click_id)
        window = Window(
            now_hours,
            _joined(self._won),
            _joined(self._results),
            rows_of(self._clicks, referred),
            events,
        )
        recent = self._clicks.time_hours + self._kept_hours > now_hours
        self._clicks = rows_of(self._clicks, recent)
        self._clear()
        return window


def _joined(parts: list[Any]) -> Any:
    """Several NamedTuples of arrays as one."""
    return parts[0]._make(np.concatenate(columns) for columns in zip(*parts, strict=True))


class LabelBook:
    """Predictions as they were made, and their labels as they mature.

    CTR is scored on won impressions, all else on their clicks: CVR when the conversion window has
    closed, the refund rate of conversions when the first purchase's refund window has, GMV of
    conversions when the last purchase may have come, net GMV of clicks when nothing more can come
    back. When the campaign is over all events are known.

    Args:
        windows: attribution windows of the world.
    """

    def __init__(self, windows: WindowsConfig) -> None:
        self._windows = windows
        # Of bids as made, and explored: wins, sum of CTR and clicks, by bin of CTR.
        self._shown = np.zeros((2, 3, PROBABILITY_EDGES.size - 1))
        self._clicks = Columns(
            click_id=np.int64,
            time_hours=np.float64,
            explored=np.bool_,
            cvr=np.float64,
            refund_rate=np.float64,
            gmv=np.float64,
            net_gmv=np.float64,
        )
        self._events = Columns(
            click_id=np.int64,
            time_hours=np.float64,
            kind=np.int8,
            order_id=np.int16,
            amount=np.float64,
        )

    def add(
        self, impressions: Impressions, estimates: Estimates, net_gmv: FloatArray,
        result: AuctionResult, explored: BoolArray,
    ) -> None:  # fmt: skip
        """Keeps the predictions of a tick's won impressions (M,) and of their clicks."""
        for group, rows in enumerate((result.won & ~explored, result.won & explored)):
            said, clicked = estimates.ctr[rows], result.clicked[rows].astype(np.float64)
            self._shown[group] += binned(said, PROBABILITY_EDGES, said, clicked)
        rows = np.flatnonzero(result.won & result.clicked)
        self._clicks.append(
            click_id=impressions.impression_id[rows],
            time_hours=impressions.time_hours[rows],
            explored=explored[rows],
            cvr=estimates.cvr[rows],
            refund_rate=estimates.refund_rate[rows],
            gmv=estimates.gmv[rows],
            net_gmv=net_gmv[rows],
        )

    def update(self, events: EventBatch) -> None:
        """Keeps the purchases and refunds of a tick."""
        later = events.kind != EventKind.CLICK
        names = ("click_id", "time_hours", "kind", "order_id", "amount")
        self._events.append(**{name: getattr(events, name)[later] for name in names})

    def _outcomes(self) -> _Outcomes:
        """What has become of the clicks so far."""
        events, size = self._events, self._clicks.size
        place = np.searchsorted(self._clicks["click_id"], events["click_id"])
        bought, back = (events["kind"] == kind for kind in (EventKind.PURCHASE, EventKind.REFUND))
        first = events["order_id"] == 0
        moment, refunded = np.full(size, np.inf), np.zeros(size, np.bool_)
        moment[place[first & bought]] = events["time_hours"][first & bought]
        refunded[place[first & back]] = True
        gmv, lost = np.zeros(size), np.zeros(size)
        np.add.at(gmv, place[bought], events["amount"][bought])
        np.add.at(lost, place[back], events["amount"][back])
        return _Outcomes(moment, refunded, gmv, gmv - lost)

    def calibration(self, now_hours: float, explored: bool | None = None) -> dict[str, Calibration]:
        """Predicted and observed sums of all labels that are final.

        Args:
            now_hours: that has been seen; infinity when the campaign is over.
            explored: bids by exploration only, or others only; None: all.
        """
        chosen = slice(None) if explored is None else [int(explored)]
        sums = {"ctr": tuple(self._shown[chosen].sum(axis=(0, 2)))}
        for name, (predicted, label) in self._labelled(now_hours, explored).items():
            sums[name] = (predicted.size, predicted.sum(), label.sum())
        return {
            name: Calibration(name, int(n), float(p), float(y), float(p / y) if y else np.nan)
            for name, (n, p, y) in sums.items()
        }

    def curves(self, now_hours: float) -> pd.DataFrame:
        """The same by bins of the prediction: rows of `scenarios.curves`.

        Args:
            now_hours: that has been seen; infinity when the campaign is over.
        """
        parts = [curve_rows(CALIBRATION, "ctr", PROBABILITY_EDGES, self._shown.sum(axis=0))]
        for name, (predicted, label) in self._labelled(now_hours, None).items():
            edges = PROBABILITY_EDGES if name in ("cvr", "refund_rate") else MONEY_EDGES
            sums = binned(predicted, edges, predicted, label)
            parts.append(curve_rows(CALIBRATION, name, edges, sums))
        return pd.concat(parts, ignore_index=True)

    def _labelled(
        self, now_hours: float, explored: bool | None
    ) -> dict[str, tuple[FloatArray, FloatArray]]:
        """Predictions and labels of clicks that are final, by target."""
        clicks = self._clicks
        kept = np.ones(clicks.size, bool) if explored is None else clicks["explored"] == explored
        since, found = clicks["time_hours"], self._outcomes()
        converted = np.isfinite(found.bought_hours)
        refund_end = np.where(converted, found.bought_hours, 0.0) + self._windows.refund_hours
        gmv_end = since + self._windows.gmv_hours
        ends = {
            "cvr": (since + self._windows.conversion_hours, kept, converted),
            "refund_rate": (refund_end, kept & converted, found.refunded),
            "gmv": (gmv_end, kept & converted, found.gmv),
            "net_gmv": (gmv_end + self._windows.refund_hours, kept, found.net_gmv),
        }
        rows = {name: asked & (end <= now_hours) for name, (end, asked, _) in ends.items()}
        return {
            name: (clicks[name][rows[name]], label[rows[name]].astype(np.float64))
            for name, (_, _, label) in ends.items()
        }
