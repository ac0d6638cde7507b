"""Click logs made by hand or at random, for the tests of the stream."""

import numpy as np

from adsim.clicklog import MISSING, ClickLog
from predictors.delivery import RULES, Trajectory, Windows
from predictors.stream import Split

WINDOWS = Windows()
W, A = 864, 259_200  # the default windows, seconds
DAY_17 = 17 * 86_400
LEARNING = sorted(name for name in RULES if not RULES[name].privileged)


def make_log(click, conversion, refund):
    """A log whose only feature is the number of the click in the given order."""
    size = len(click)
    columns = (np.array(column, np.int64) for column in (click, conversion, refund))
    features = np.arange(size, dtype=np.int32)[:, None]
    return ClickLog(*columns, features, (max(size, 1),), np.full(size, 0.1), np.full(size, 0.2))


def random_log(size, seed=0, p_v=0.066, f_v=0.27, p_r=0.245, f_r=0.545, span=25 * 86_400, late=0.0):
    """Clicks with the given rates; a share `late` of the events comes after attribution."""
    rng = np.random.default_rng(seed)

    def delays(in_window):
        early = rng.integers(0, W + 1, size)
        delayed = rng.integers(W + 1, A, size)
        delay = np.where(rng.random(size) < in_window, early, delayed)
        return np.where(rng.random(size) < late, rng.integers(A, 2 * A, size), delay)

    click = np.sort(rng.integers(0, span, size))
    converts = rng.random(size) < p_v
    conversion = np.where(converts, click + delays(f_v), MISSING)
    returns = converts & (rng.random(size) < p_r)
    return make_log(click, conversion, np.where(returns, conversion + delays(f_r), MISSING))


def listed(rows, origin=0):
    """Rows as (seconds, tower, label), "v" for conversion and "r" for refund rows."""
    return [
        (int(t) - origin, "v" if m else "r", int(s if m else 1 - n))
        for t, m, s, n in zip(
            rows.time, rows.conversion_row, rows.pay_label, rows.net_label, strict=True
        )
    ]


I_V, D_V, I_R, D_R = 500, 10_000, 300, 50_000  # delays, seconds
FATES = {
    Trajectory.NO_CONVERSION: (None, None),
    Trajectory.I_CONVERSION: (I_V, None),
    Trajectory.D_CONVERSION: (D_V, None),
    Trajectory.I_CONVERSION_I_REFUND: (I_V, I_V + I_R),
    Trajectory.I_CONVERSION_D_REFUND: (I_V, I_V + D_R),
    Trajectory.D_CONVERSION_I_REFUND: (D_V, D_V + I_R),
    Trajectory.D_CONVERSION_D_REFUND: (D_V, D_V + D_R),
}


def fates_log():
    times = [[MISSING if t is None else 1_000 + t for t in fate] for fate in FATES.values()]
    conversion, refund = zip(*times, strict=True)
    return make_log([1_000] * len(FATES), conversion, refund)


def short_split(days, segment):
    """A stream of some days from day 7 on."""
    return Split(pretrain_days=1, stream_start_day=7, stream_end_day=7 + days, segment_days=segment)
