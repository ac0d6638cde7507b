"""Purchase logs and windows of purchases and refunds made by hand."""

import numpy as np
import purchase_logs

from adsim.types import AuctionResult, EventBatch, Impressions, Window


def make_log(click, purchases, features=None, cardinalities=(4,)):
    """A log of clicks (C,) whose purchases are (seconds after the click, amount, refund lag)."""
    lags = [lag for bought in purchases for *_, lag in bought]
    pairs = [[(delay, amount) for delay, amount, _ in bought] for bought in purchases]
    log = purchase_logs.make_log(
        *((second, *bought) for second, bought in zip(click, pairs, strict=True)),
        refunds=[(place, lag) for place, lag in enumerate(lags) if lag is not None],
    )
    if features is None:
        features = log.features % cardinalities[0]
    return log._replace(features=np.asarray(features, np.int32), cardinalities=cardinalities)


def make_window(now, clicks, events):
    """A window that ends at a second.

    Args:
        now: seconds.
        clicks: {id: second}; the only feature of a click is its id.
        events: (kind, click id, order id, second, amount).
    """
    ids = np.array(sorted(clicks), np.int64)
    time = np.array([clicks[i] for i in sorted(clicks)]) / 3600.0
    size = ids.size
    scene, mask = np.zeros(size, np.int32), np.ones(size, np.int8)
    held = Impressions(ids, time, ids[:, None].astype(np.int32), scene, mask)
    columns = list(zip(*events, strict=True)) or [()] * 5
    kind, click, order, second, amount = columns
    batch = EventBatch(
        tick=np.zeros(len(kind), np.int64),
        time_hours=np.array(second, float) / 3600.0,
        kind=np.array(kind, np.int8),
        click_id=np.array(click, np.int64),
        order_id=np.array(order, np.int16),
        amount=np.array(amount, float),
    )
    none = np.zeros(0)
    result = AuctionResult(none > 0, none, none > 0, none.astype(np.int8))
    nothing = Impressions._make(column[:0] for column in held)
    return Window(now / 3600.0, nothing, result, held, batch)
