"""Purchase logs made by hand or at random, and their rows by brute force."""

import numpy as np

from adsim.clicklog import MISSING
from adsim.purchaselog import PurchaseLog
from predictors.purchase_rows import PurchaseRows, RowKind
from predictors.stream import Split

DAY, WEEK = 86_400, 604_800
TIMELINE = (5_205_600, (600, 80.0), (129_600, 50.0), (518_400, 30.0))  # a click at day 60.25


def make_log(*clicks, refunds=()):
    """A log of clicks (second, (delay, amount), ...), whose feature is the number of the click.

    refunds: (purchase, delay) pairs.
    """
    number = [len(purchases) for _, *purchases in clicks]
    time = [click + delay for click, *purchases in clicks for delay, _ in purchases]
    amount = [value for _, *purchases in clicks for _, value in purchases]
    refund = np.full(len(time), MISSING)
    for purchase, delay in refunds:
        refund[purchase] = time[purchase] + delay
    size = len(clicks)
    return PurchaseLog(
        click_time=np.array([click for click, *_ in clicks], np.int64),
        features=np.arange(size, dtype=np.int32)[:, None],
        cardinalities=(max(size, 1),),
        offset=np.concatenate([[0], np.cumsum(number)]).astype(np.int64),
        purchase_time=np.array(time, np.int64),
        amount=np.array(amount, np.float64),
        refund_time=refund,
        gmv_truth=np.full(size, 100.0),
        p_repurchase=np.full(size, 0.5),
        net_gmv_truth=np.full(size, 90.0),
    )


def random_log(size, seed=0, *, span=20 * DAY, window=WEEK, refunds=0.0):
    """Clicks with up to 5 purchases in their window, in cents so that sums are not exact."""
    rng = np.random.default_rng(seed)
    clicks = []
    for click in np.sort(rng.integers(0, span, size)).tolist():
        delays = np.sort(rng.integers(0, window, rng.integers(1, 6))).tolist()
        clicks.append((click, *((delay, rng.integers(1, 10**6) / 100) for delay in delays)))
    log = make_log(*clicks)
    back = np.flatnonzero(rng.random(log.amount.size) < refunds)
    log.refund_time[back] = log.purchase_time[back] + rng.integers(0, window, back.size)
    return log


def rows_of(log, window=WEEK):
    """(time, kind, click, count, gmv, elapsed) of all rows of a log, one click after the other."""
    rows = []
    for row, click in enumerate(log.click_time.tolist()):
        total, latest = 0.0, click
        part = slice(*log.offset[row : row + 2].tolist())
        bought = zip(log.purchase_time[part].tolist(), log.amount[part].tolist(), strict=True)
        for count, (latest, amount) in enumerate(bought, start=1):
            total += amount
            elapsed = (latest - click) / window
            rows.append((latest, RowKind.PURCHASE, row, count, total, elapsed))
        rows.append((click + window, RowKind.WINDOW_END, row, count, total, elapsed))
    return sorted(rows)


def listed(rows: PurchaseRows, features):
    """Rows as those of `rows_of`; the feature of a click is its number."""
    kinds = [RowKind(kind) for kind in rows.kind.tolist()]
    columns = (features[:, 0], rows.count, rows.gmv, rows.elapsed)
    columns = (rows.time.tolist(), kinds, *(column.tolist() for column in columns))
    return list(zip(*columns, strict=True))


def short_split(start, segment, count, closed="left"):
    """A stream of some segments, all in seconds."""
    return Split(
        pretrain_days=0,
        stream_start_day=start / DAY,
        stream_end_day=(start + count * segment) / DAY,
        segment_days=segment / DAY,
        closed=closed,
    )
