"""The observation of Pacing-v0: what a bidder knows of its campaign, as numbers in [-1, 1]."""

# ruff: noqa: ANN001, ANN201 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit

from adsim.ledger import COLUMN
from adsim.types import Campaign, FloatArray, PriceHistory

_IMPRESSIONS, _WINS, _SPEND, _CLICKS = (
    COLUMN[name] for name in ("impressions", "wins", "spend", "clicks")
)
_QUANTILES = (0.1, 0.5, 0.9)


class PacingFeatures(NamedTuple):
    """Entries of the Pacing-v0 observation, in order; each within [-1, 1] or [0, 1]."""

    time_left: FloatArray  # share of the ticks
    budget_left: FloatArray  # share of the budget
    spend_last: FloatArray  # last tick's spend against its traffic share of the budget, squashed
    spend_last_3: FloatArray  # the same over three ticks
    win_rate_last: FloatArray
    win_rate_last_3: FloatArray
    mean_value: FloatArray  # of this tick's impressions against the history's mean, squashed
    mean_value_won: FloatArray  # of the impressions won last tick, squashed
    price_q10: FloatArray  # of auctions won last tick against the history's mean value, squashed
    price_q50: FloatArray
    price_q90: FloatArray
    clicks_last_3: FloatArray  # clicks per won impression against the history's pCTR, squashed
    impressions: FloatArray  # of this tick, share of the slots
    expected_traffic: FloatArray  # of this tick, share of the highest
    hour_sin: FloatArray
    hour_cos: FloatArray
    week_sin: FloatArray
    week_cos: FloatArray
    pending_value: FloatArray  # margin x net GMV seen with open refund windows / budget, squashed
    matured_value: FloatArray  # (margin x matured net GMV - spend) / budget, squashed
    refund_share: FloatArray  # seen refunds / seen purchases, in money
    last_action: FloatArray  # mean over the action's components


PACING_SIZE = len(PacingFeatures._fields)


SIGNED = (
    "hour_sin",
    "hour_cos",
    "week_sin",
    "week_cos",
    "pending_value",
    "matured_value",
    "last_action",
)


class PacingScales(NamedTuple):
    """What the observation of one campaign is measured by."""

    value: float  # the history's mean value, currency per shown impression
    ctr: float  # the history's pCTR
    plan: FloatArray  # (2, T + 1) planned spend of the last and of the last three ticks, currency
    traffic: FloatArray  # (T,) expected traffic relative to its highest
    waves: FloatArray  # (T, 4) sine and cosine of the time of day and of the week


def history_scales(history: PriceHistory) -> tuple[float, float]:
    """Mean value and pCTR of a price history; 1 for what is unknown or not positive."""
    known = np.isfinite(history.value)
    mean = np.average(history.value[known], weights=history.weight[known]) if known.any() else 0.0
    return (float(mean) if mean > 0 else 1.0, history.ctr if history.ctr > 0 else 1.0)


def pacing_scales(
    campaign: Campaign, hour_of_week: FloatArray, history: tuple[float, float]
) -> PacingScales:
    """Scales of a campaign.

    Args:
        campaign: its terms.
        hour_of_week: (T,) in the middle of each tick.
        history: see `history_scales`.
    """
    angles = np.stack([hour_of_week * (2 * np.pi / 24), hour_of_week * (2 * np.pi / 168)])
    waves = [np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])]
    traffic = campaign.expected_traffic
    spent = np.concatenate([[0.0], np.cumsum(campaign.budget * traffic / traffic.sum())])
    ends = np.arange(spent.size)
    plan = np.stack([spent[ends] - spent[np.maximum(ends - k, 0)] for k in (1, 3)])
    plan[:, 0] = 1.0  # nothing was spent before the first tick
    return PacingScales(*history, plan, traffic / traffic.max(), np.stack(waves, axis=1))


@njit
def squash(x):
    """X / (1 + |x|): keeps sign and order, bounded by 1."""
    return x / (1.0 + abs(x))


@njit
def shell_sort(values, n):
    """Sorts values[:n] in place (numba's np.sort alone takes two seconds to compile).

    Gaps: Ciura, "Best increments for the average case of Shellsort" (FCT 2001), extended by 2.25.
    """
    for gap in (45_000, 20_000, 8_900, 3_937, 1_750, 701, 301, 132, 57, 23, 10, 4, 1):
        for i in range(gap, n):
            value, j = values[i], i
            while j >= gap and values[j - gap] > value:
                values[j] = values[j - gap]
                j -= gap
            values[j] = value


@njit(cache=True, nogil=True, error_model="numpy")
def won_summary(worlds, won, price, value, memory):
    """Mean value and price quantiles of what was won last tick into memory[:, 0:4]; 0 if nothing.

    The q-quantile of n sorted prices is the one at position floor(q n).
    """
    buffer = np.empty(won.shape[1])
    for e in worlds:
        n, total = 0, 0.0
        for i in range(won.shape[1]):
            if won[e, i]:
                buffer[n] = price[e, i]
                total += value[e, i]
                n += 1
        memory[e, 0] = total / max(n, 1)
        shell_sort(buffer, n)
        for k in range(3):
            memory[e, 1 + k] = buffer[int(_QUANTILES[k] * n)] if n else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def pacing_features(
    tick, num_ticks, recent, left, budget, margin, value_scale, ctr_scale, plan, traffic, waves,
    filled, values, memory, seen_gmv, seen_refunded, matured_net_gmv, out,
):  # fmt: skip
    """Fills `out` (E, PACING_SIZE) in the order of PacingFeatures.

    `recent` (E, 3, columns) is the ledger of the last three ticks, `left` (E,) the budget left,
    `value_scale` to `waves` are `PacingScales`, `memory` (E, 5) is what `won_summary` left and the
    last action.
    """
    for e in range(tick.size):
        t, last = tick[e], recent[e, 0]
        now = min(t, num_ticks - 1)
        spend, wins, clicks, offered = 0.0, 0.0, 0.0, 0.0
        for k in range(3):
            spend += recent[e, k, _SPEND]
            wins += recent[e, k, _WINS]
            clicks += recent[e, k, _CLICKS]
            offered += recent[e, k, _IMPRESSIONS]
        total = 0.0
        for i in range(filled[e]):
            total += values[e, i]
        o = out[e]
        o[0], o[1] = 1.0 - t / num_ticks, left[e] / budget
        o[2], o[3] = squash(last[_SPEND] / plan[0, t]), squash(spend / plan[1, t])
        o[4], o[5] = last[_WINS] / max(last[_IMPRESSIONS], 1.0), wins / max(offered, 1.0)
        o[6] = squash(total / (max(filled[e], 1) * value_scale))
        for k in range(4):
            o[7 + k] = squash(memory[e, k] / value_scale)
        o[11] = squash(clicks / (max(wins, 1.0) * ctr_scale))
        o[12] = filled[e] / values.shape[1]
        o[13] = traffic[now] if t < num_ticks else 0.0
        for k in range(4):
            o[14 + k] = waves[now, k]
        pending = seen_gmv[e] - seen_refunded[e] - matured_net_gmv[e]
        o[18] = squash(margin * pending / budget)
        o[19] = squash((margin * matured_net_gmv[e] - budget + left[e]) / budget)
        o[20] = seen_refunded[e] / max(seen_gmv[e], 1e-12)
        o[21] = memory[e, 4]
