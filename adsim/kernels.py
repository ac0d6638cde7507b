"""The compiled hot loops of a tick: draw impressions, clear one price, realise what was won.

Every loop works on the worlds listed in `worlds` and writes only their rows, so that two threads
can share a batch. Arrays of a tick live in two blocks, `floats` (9, E, M) and `ints` (3, E, M),
whose rows are named below; padding stays 0.
"""

# ruff: noqa: ANN001, ANN201 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.effects import Alias
from adsim.feedback import PURCHASE, REFUND, push
from adsim.funnel import click_outcome, expectation, lookup, sigmoid
from adsim.rng import ID_STRIDE, Stream, normal_ppf, philox, to_uniform
from adsim.types import FloatArray, IntArray

# Rows of the float block.
TIME, P_CLICK, Z_CONVERT, PCTR, PCVR, VALUE, PRICE, PCTR_STD, PCVR_STD = range(9)
# Rows of the int block.
USER, CONTEXT, ITEM = range(3)
# Columns of a tick's totals per world.
WINS, SPEND, CLICKS, EXPECTED_GMV, EXPECTED_NET_GMV, ACCRUED = range(6)
EXPECTED_CLICKS, EXPECTED_CONVERSIONS = 6, 7
NUM_TOTALS = 8
_TRAFFIC, _MARKET = np.uint64(Stream.TRAFFIC), np.uint64(Stream.MARKET)
_EXPOSURE, _OUTCOME = np.uint64(Stream.EXPOSURE), np.uint64(Stream.OUTCOME)
_ZERO, _LOW = np.uint64(0), np.uint64(0xFFFFFFFF)
_HIGH = np.uint64(32)


class Landscape(NamedTuple):
    """Prices to beat: log-normal mixture, or counts if `values` is not empty."""

    log_median: FloatArray  # (scenes,)
    log_sd: float
    second_share: float
    second_log_ratio: float
    second_log_sd: float
    quality_slope: float
    values: FloatArray  # (P,) prices of a histogram, currency
    counts: Alias  # over `values`


class Noise(NamedTuple):
    """Logit noise of the platform's estimates."""

    ctr_sd: float
    cvr_sd: float
    high_factor: float
    high_share: float


@njit
def alias_draw(accept, other, word):
    """An index from one word: the high half picks the cell, the low half accepts it."""
    index = ((word >> _HIGH) * np.uint64(accept.size)) >> _HIGH
    return np.int64(index) if (word & _LOW) < accept[index] else np.int64(other[index])


@njit(inline="always")
def landscape_price(landscape, scene, shift, component, level):
    """Price to beat from two words; `shift` is added to the log price. 0 without a landscape."""
    if landscape.values.size:
        counts = landscape.counts
        return landscape.values[alias_draw(counts.accept, counts.other, level)]
    if not landscape.log_median.size:
        return 0.0
    x, log_price = normal_ppf(to_uniform(level)), landscape.log_median[scene] + shift
    if (component >> _HIGH) * 2.0**-32 < landscape.second_share:
        return np.exp(log_price + landscape.second_log_ratio + landscape.second_log_sd * x)
    return np.exp(log_price + landscape.log_sd * x)


@njit
def draw_entities(e, seed, t, n, tables, tick_hours, first_item, floats, ints):
    """User, context, item and moment of the n impressions of tick t in world e."""
    users, contexts, items = tables.user_alias, tables.context_alias, tables.item_alias
    for i in range(n):
        w = philox(seed, _TRAFFIC, np.uint64(t * ID_STRIDE + i), _ZERO)
        ints[USER, e, i] = alias_draw(users.accept, users.other, w[0])
        ints[CONTEXT, e, i] = alias_draw(contexts.accept, contexts.other, w[1])
        ints[ITEM, e, i] = first_item + alias_draw(items.accept, items.other, w[2])
        floats[TIME, e, i] = (t + (i + to_uniform(w[3])) / n) * tick_hours


@njit
def sum_effects(e, n, tables, shift_click, shift_convert, floats, ints):
    """Click and conversion logits into rows P_CLICK and Z_CONVERT, and into row PRICE the part of
    users and contexts, which rivals value too.
    """  # noqa: D205 - one sentence
    for i in range(n):
        context, item = ints[CONTEXT, e, i], ints[ITEM, e, i]
        u, c, a = tables.user[ints[USER, e, i]], tables.context[context], tables.item[item]
        weight = tables.weight[item, tables.scene[context]]
        quality, worth = u[0] + c[0], u[1] + c[1]
        dot_click, dot_convert = np.float32(0.0), np.float32(0.0)
        for d in range(8):
            dot_click += u[5 + d] * weight[d]
            dot_convert += u[5 + d] * weight[8 + d]
        floats[P_CLICK, e, i] = np.float64(quality) + a[0] + (dot_click + shift_click)
        floats[Z_CONVERT, e, i] = np.float64(worth) + a[1] + (dot_convert + shift_convert)
        floats[PRICE, e, i] = quality + worth


@njit(cache=True, nogil=True, error_model="numpy")
def draw(
    worlds, traffic_seeds, seeds, first_item, tick, count, tables, offset, log_price, tick_hours,
    landscape, noise, p_convert, margin, floats, ints,
):  # fmt: skip
    """Impressions of tick[e] with everything that is known before bidding, and the price to beat.

    Words used: TRAFFIC = user, context, item, arrival jitter; MARKET = mixture component (high
    half) and noise class (low half), price, pCTR noise, pCVR noise. Arrivals are stratified: the
    i-th of n falls uniformly into the i-th n-th of the tick, which sorts them. TRAFFIC is drawn
    from `traffic_seeds` (E,); the catalogue of a world's campaign starts at `first_item` (E,).
    """
    noisy = noise.ctr_sd > 0.0 or noise.cvr_sd > 0.0
    for e in worlds:
        t, n, seed = tick[e], count[e], seeds[e]
        # One pass each for who, for the reads of their rows, and for the arithmetic: rows are
        # scattered in memory, and short loops let the processor fetch many of them at once.
        draw_entities(e, traffic_seeds[e], t, n, tables, tick_hours, first_item[e], floats, ints)
        sum_effects(e, n, tables, offset[t, 0], offset[t, 1], floats, ints)
        for i in range(n):
            z_click, z_convert = floats[P_CLICK, e, i], floats[Z_CONVERT, e, i]
            scene = tables.scene[ints[CONTEXT, e, i]]
            p_click, p_buy = sigmoid(z_click), lookup(p_convert, z_convert)
            floats[P_CLICK, e, i] = p_click
            w = philox(seed, _MARKET, np.uint64(t * ID_STRIDE + i), _ZERO)
            shift = log_price[t] + landscape.quality_slope * floats[PRICE, e, i]
            floats[PRICE, e, i] = landscape_price(landscape, scene, shift, w[0], w[1])
            if noisy:
                # Low half of the word: independent of the mixture component in its high half.
                high = (w[0] & _LOW) * 2.0**-32 < noise.high_share
                factor = noise.high_factor if high else 1.0
                ctr_sd, cvr_sd = noise.ctr_sd * factor, noise.cvr_sd * factor
                floats[PCTR_STD, e, i], floats[PCVR_STD, e, i] = ctr_sd, cvr_sd
                p_click = sigmoid(z_click + ctr_sd * normal_ppf(to_uniform(w[2])))
                odds = p_buy / (1.0 - p_buy) * np.exp(cvr_sd * normal_ppf(to_uniform(w[3])))
                p_buy = odds / (1.0 + odds)
            floats[PCTR, e, i], floats[PCVR, e, i] = p_click, p_buy
            floats[VALUE, e, i] = p_click * p_buy * tables.list_price[ints[ITEM, e, i]] * margin


@njit
def is_clicked(seed, impression, p_click):
    """Whether an impression that is shown is clicked; word 0 of its OUTCOME block."""
    w = philox(seed, _OUTCOME, impression, _ZERO)
    return to_uniform(w[0]) < p_click


@njit(cache=True, nogil=True, error_model="numpy")
def clear_prices(
    worlds, seeds, tick, count, floats, bids, budget_left, reserve, first_price, per_click,
    exposure, reveal_all, won, price, clicked, slot, totals,
):  # fmt: skip
    """Single-slot auctions against a given price to beat, in arrival order with a live budget.

    A bid at or above max(price to beat, reserve) wins. Per click, bid x pCTR is compared and the
    price per click is the one that would just have won; it is due when the click happens.
    `price` arrives filled with infinity, the other outputs with False, -1 and 0.
    """
    for e in worlds:
        first = np.uint64(tick[e] * ID_STRIDE)
        left = budget_left[e]
        for i in range(count[e]):
            pctr = floats[PCTR, e, i] if per_click else 1.0
            to_beat = max(floats[PRICE, e, i], reserve)
            due = to_beat / pctr
            bid = min(bids[e, i], left)
            if reveal_all:
                price[e, i] = due
            if bid <= 0.0 or bid < due:
                continue
            slot[e, i] = 0
            if exposure < 1.0:
                w = philox(seeds[e], _EXPOSURE, first + np.uint64(i), _ZERO)
                if to_uniform(w[0]) >= exposure:
                    continue
            if first_price:
                due = bid
            won[e, i], price[e, i] = True, due
            clicked[e, i] = is_clicked(seeds[e], first + np.uint64(i), floats[P_CLICK, e, i])
            totals[e, WINS] += 1
            if clicked[e, i]:
                totals[e, CLICKS] += 1
            if clicked[e, i] or not per_click:
                left -= due
                totals[e, SPEND] += due
        budget_left[e] = left


@njit
def responses(tables, offset, t, user, context, item):
    """Refund, log-amount and repurchase responses of an impression."""
    u, c, a = tables.user[user], tables.context[context], tables.item[item]
    return (
        np.float64(u[2]) + c[2] + a[2] + offset[t, 2],
        np.float64(u[3]) + c[3] + a[3] + offset[t, 3],
        np.float64(u[4]) + c[4] + a[4] + offset[t, 4],
    )


@njit(cache=True, nogil=True, error_model="numpy")
def appraise(worlds, tick, floats, ints, count, won, tables, offset, law, totals):
    """Adds the expected outcomes of what was won to the tick's totals."""
    for e in worlds:
        for i in range(count[e]):
            if not won[e, i]:
                continue
            item = ints[ITEM, e, i]
            r, g, q = responses(
                tables, offset, tick[e], ints[USER, e, i], ints[CONTEXT, e, i], item
            )
            p_click, list_price = floats[P_CLICK, e, i], tables.list_price[item]
            p_convert, _, gmv, net = expectation(law, floats[Z_CONVERT, e, i], r, g, q)
            totals[e, EXPECTED_CLICKS] += p_click
            totals[e, EXPECTED_CONVERSIONS] += p_click * p_convert
            totals[e, EXPECTED_GMV] += p_click * gmv * list_price
            totals[e, EXPECTED_NET_GMV] += p_click * net * list_price


@njit(cache=True, nogil=True, error_model="numpy")
def schedule(
    clicks, seeds, tick, floats, ints, tables, offset, law, tick_hours, pool, totals
):  # fmt: skip
    """Pushes the purchases and refunds of `clicks` (C, 2: world, slot) into the queue."""
    size = law.max_purchases
    when, amount, refund_at = np.empty(size), np.empty(size), np.empty(size)
    for row in range(clicks.shape[0]):
        e, i = clicks[row]
        t = tick[e]
        item, impression = ints[ITEM, e, i], t * ID_STRIDE + i
        r, g, q = responses(tables, offset, t, ints[USER, e, i], ints[CONTEXT, e, i], item)
        n = click_outcome(
            law, seeds[e], np.uint64(impression), floats[TIME, e, i], floats[Z_CONVERT, e, i],
            r, g, q, tables.list_price[item], when, amount, refund_at,
        )  # fmt: skip
        for k in range(n):
            # max: the quotient may round down to just below a tick boundary
            bought, kept = max(int(when[k] / tick_hours), t), amount[k]
            push(pool, e, bought, when[k], PURCHASE, impression, k, amount[k], bought)
            if refund_at[k] < np.inf:
                back, kept = max(int(refund_at[k] / tick_hours), bought), 0.0
                push(pool, e, back, refund_at[k], REFUND, impression, k, amount[k], bought)
            totals[e, ACCRUED] += kept


@njit(cache=True, nogil=True, error_model="numpy")
def truth(worlds, tick, floats, ints, count, tables, offset, law, out):
    """Exact expectations of every impression: `out` (5, E, M) = P(click), P(convert | click),
    P(first purchase refunded | convert), E[GMV | click], E[net GMV | click], currency.
    """  # noqa: D205 - one sentence
    for e in worlds:
        for i in range(count[e]):
            item = ints[ITEM, e, i]
            r, g, q = responses(
                tables, offset, tick[e], ints[USER, e, i], ints[CONTEXT, e, i], item
            )
            p_convert, p_refund, gmv, net = expectation(law, floats[Z_CONVERT, e, i], r, g, q)
            out[0, e, i] = floats[P_CLICK, e, i]
            out[1, e, i], out[2, e, i] = p_convert, p_refund
            out[3, e, i] = gmv * tables.list_price[item]
            out[4, e, i] = net * tables.list_price[item]


@njit(cache=True, nogil=True)
def gather_features(
    worlds, ints, count, user_ids, item_ids, context_ids, scene_of, features, scene
):  # fmt: skip
    """Field ids (E, M, F) and scenes (E, M) of a tick's impressions; padding stays 0."""
    a, b = user_ids.shape[1], user_ids.shape[1] + item_ids.shape[1]
    for e in worlds:
        for i in range(count[e]):
            row = features[e, i]
            user, item, context = ints[USER, e, i], ints[ITEM, e, i], ints[CONTEXT, e, i]
            for f in range(user_ids.shape[1]):
                row[f] = user_ids[user, f]
            for f in range(item_ids.shape[1]):
                row[a + f] = item_ids[item, f]
            for f in range(context_ids.shape[1]):
                row[b + f] = context_ids[context, f]
            scene[e, i] = scene_of[context]


class Draw(NamedTuple):
    """The impressions of one tick in E worlds."""

    floats: FloatArray  # (9, E, M), rows TIME .. PCVR_STD
    ints: NDArray[np.int32]  # (3, E, M), rows USER .. ITEM
    filled: IntArray  # (E,) real impressions; the rest of the slots is padding
