"""Logs of clicks and purchases, cut and put together."""

from typing import Any

import numpy as np

from adsim.clicklog import MISSING, ClickLog
from adsim.purchaselog import PurchaseLog
from adsim.types import BoolArray, IntArray
from predictors.purchase_rows import num_purchases


def _later(time: IntArray, offset: int) -> IntArray:
    """Seconds (N,) moved by an offset; what never happens stays so."""
    return np.where(time == MISSING, MISSING, time + offset)


def thinned_clicks(log: ClickLog, kept: BoolArray, offset: int) -> ClickLog:
    """Some clicks of a log, moved in time."""
    return log._replace(
        click_time=log.click_time[kept] + offset,
        conversion_time=_later(log.conversion_time[kept], offset),
        refund_time=_later(log.refund_time[kept], offset),
        features=log.features[kept],
        p_convert=log.p_convert[kept],
        p_refund=log.p_refund[kept],
    )


def thinned_purchases(log: PurchaseLog, kept: BoolArray, offset: int) -> PurchaseLog:
    """Some clicks of a log with their purchases, moved in time."""
    number = num_purchases(log)
    bought = np.repeat(kept, number)
    return PurchaseLog(
        click_time=log.click_time[kept] + offset,
        features=log.features[kept],
        cardinalities=log.cardinalities,
        offset=np.concatenate([[0], np.cumsum(number[kept])]),
        purchase_time=log.purchase_time[bought] + offset,
        amount=log.amount[bought],
        refund_time=_later(log.refund_time[bought], offset),
        gmv_truth=log.gmv_truth[kept],
        p_repurchase=log.p_repurchase[kept],
        net_gmv_truth=log.net_gmv_truth[kept],
    )


def joined(logs: list[Any]) -> Any:
    """Logs of one kind, one after the other."""
    columns = {
        name: np.concatenate([getattr(log, name) for log in logs])
        for name in logs[0]._fields
        if name not in ("cardinalities", "offset")
    }
    if "offset" in logs[0]._fields:
        number = np.concatenate([num_purchases(log) for log in logs])
        columns["offset"] = np.concatenate([[0], np.cumsum(number)])
    return type(logs[0])(cardinalities=logs[0].cardinalities, **columns)
