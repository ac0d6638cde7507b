"""Auctions between A advertisers for S slots: first price, second price, GSP and VCG.

A rival's bid is multiplier x value per click x sigmoid(z), where z shares the hidden click effects
of the controlled campaign plus an error made of user, context and advertiser tables. All A values
of an auction are computed in one loop over advertisers that LLVM vectorises (float32).

Payments, given the ranked scores s_1 >= s_2 >= ... of the auction and the probabilities
alpha_1 >= ... >= alpha_S that a slot is seen (scores below the reserve do not take part, and the
reserve is the score of a missing bidder); due when the ad is seen:

    first price   s_j
    GSP           s_{j+1}                        (Edelman, Ostrovsky, Schwarz 2007, section I)
    VCG           sum_{k=j..S} (alpha_k - alpha_{k+1}) s_{k+1} / alpha_j, alpha_{S+1} = 0
                                                 (Varian 2007, section 5, per seen impression)

Second price is GSP with one slot. Per click, scores are bid x pCTR, payments are divided by pCTR.
"""

# ruff: noqa: ANN001, ANN201 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from adsim.kernels import (
    CLICKS,
    CONTEXT,
    ITEM,
    P_CLICK,
    PCTR,
    PRICE,
    SPEND,
    USER,
    WINS,
    is_clicked,
)
from adsim.rng import ID_STRIDE, Stream, philox, to_uniform

FIRST_PRICE, GSP, VCG = 0, 1, 2
MAX_SLOTS = 8
_EXPOSURE, _RIVAL_CLICK = np.uint64(Stream.EXPOSURE), np.uint64(Stream.RIVAL_CLICK)


class Field(NamedTuple):
    """The advertisers as the compiled loop reads them; position p of every catalogue in block p."""

    base: NDArray[np.float32]  # (P, A) click effect of the item shown at position p
    weight: NDArray[np.float32]  # (scenes, P, 8, A) click interaction weights
    noise: NDArray[np.float32]  # (6, A) loadings on user and context error components; 0 for 0
    value_per_click: NDArray[np.float32]  # (P, A) currency; of rivals only


@njit(inline="always")
def exp32(x):
    """Exp of a float32 in [-20, 20] by multiplications only: (Taylor_5(x / 64)) ** 64."""
    y = x * np.float32(1.0 / 64.0)
    p = np.float32(1.0 / 120.0)
    p = p * y + np.float32(1.0 / 24.0)
    p = p * y + np.float32(1.0 / 6.0)
    p = p * y + np.float32(0.5)
    p = p * y + np.float32(1.0)
    p = p * y + np.float32(1.0)
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    p *= p
    return p


@njit
def payment(mechanism, scores, reserve, exposure, j):
    """Score due for slot j when seen; `scores` are ranked, padded with 0, longer than the slots."""
    if mechanism == FIRST_PRICE:
        return scores[j]
    if mechanism == GSP:
        return max(scores[j + 1], reserve)
    due, slots = 0.0, exposure.size
    for k in range(j, slots):
        following = exposure[k + 1] if k + 1 < slots else 0.0
        due += (exposure[k] - following) * max(scores[k + 1], reserve)
    return due / exposure[j]


@njit
def insert_top(score, bidder, scores, bidders, size):
    """Keeps the `size` highest scores in order; earlier bidders win ties."""
    j = size - 1
    while j > 0 and scores[j - 1] < score:
        scores[j], bidders[j] = scores[j - 1], bidders[j - 1]
        j -= 1
    scores[j], bidders[j] = score, bidder


@njit(cache=True, nogil=True)
def allocate(scores_in, reserve, exposure, mechanism, scores, bidders, due):
    """One auction: ranks (A,) scores into S + 1 places and fills `due` (S,) for the taken slots.

    Returns the number of slots taken.
    """
    size = exposure.size + 1
    for j in range(size):
        scores[j], bidders[j] = 0.0, -1
    for a in range(scores_in.size):
        if scores_in[a] > scores[size - 1] and scores_in[a] >= reserve:
            insert_top(scores_in[a], a, scores, bidders, size)
    taken = 0
    for j in range(exposure.size):
        if bidders[j] < 0:
            break
        due[j] = payment(mechanism, scores, reserve, exposure, j)
        taken += 1
    return taken


@njit(inline="always")
def rival_scores_of(
    u, c, base, weight, noise, value_per_click, multiplier, limit, per_click, shift_click,
    shift_value, pctr, scores,
):  # fmt: skip
    """Fills `pctr` (A,) and `scores` (A,) of one auction; both vectorise over advertisers."""
    num_ads = base.size
    common = u[0] + c[0] + np.float32(shift_click)
    # Rivals want converting traffic: the common conversion effects scale all their values.
    shift = u[1] + c[1] + np.float32(shift_value)
    worth = exp32(min(max(shift, np.float32(-3.0)), np.float32(3.0)))
    for a in range(num_ads):
        pctr[a] = common + base[a]
    for d in range(8):
        ud = u[5 + d]
        for a in range(num_ads):
            pctr[a] += ud * weight[d, a]
    for a in range(num_ads):
        error = np.float32(0.0)
        for d in range(3):
            error += u[13 + d] * noise[d, a] + c[5 + d] * noise[3 + d, a]
        x = min(max(pctr[a], np.float32(-16.0)), np.float32(16.0))
        p = np.float32(1.0) / (np.float32(1.0) + exp32(-x))
        pctr[a] = p
        bid = np.float32(multiplier[a]) * value_per_click[a] * worth * exp32(error)
        if per_click:
            scores[a] = min(bid, limit[a]) * p
        else:
            scores[a] = min(bid * p, limit[a])


@njit
def is_seen(seed, impression, exposure, j):
    """Whether the ad in slot j of an impression is seen; word j % 4 of block j // 4."""
    if exposure >= 1.0:
        return True
    w = philox(seed, _EXPOSURE, impression, np.uint64(j >> 2))
    k = j & 3
    word = w[0] if k == 0 else (w[1] if k == 1 else (w[2] if k == 2 else w[3]))
    return to_uniform(word) < exposure


@njit(cache=True, nogil=True, error_model="numpy")
def clear_population(
    worlds, seeds, tick, count, floats, ints, tables, field, shift_click, shift_value, bids,
    multiplier, budget_left, controlled, reserve, mechanism, per_click, exposure, reveal_all,
    rival_scores, record, won, price, clicked, slot, totals,
):  # fmt: skip
    """Clears one tick of auctions between all advertisers, in arrival order with live budgets.

    Advertisers 0..controlled-1 bid what they are told to, as row e + a; the rows of an auction show
    the same impressions. A row's own budget is in column 0, those of its rivals are in row e.

    Args beyond those of `kernels.clear_prices`:
        worlds: (W,) first row e of each auction.
        shift_click, shift_value: (T,) click offset, log factor on rivals' values.
        multiplier: (E, A) rivals' factors; budget_left: (E, A) live, currency.
        rival_scores: (E, M, S) the rivals' S highest scores, written if `record`.
    """
    num_ads, slots = multiplier.shape[1], exposure.size
    pctr, scores32 = np.empty(num_ads, np.float32), np.empty(num_ads, np.float32)
    limit = np.empty(num_ads, np.float32)
    scores_in, scores = np.empty(num_ads), np.empty(MAX_SLOTS + 1)
    bidders, due = np.empty(MAX_SLOTS + 1, np.int64), np.empty(MAX_SLOTS)
    positions = field.base.shape[0]
    for e in worlds:
        t = tick[e]
        first = np.uint64(t * ID_STRIDE)
        for a in range(num_ads):
            limit[a] = np.float32(budget_left[e, a])
        for i in range(count[e]):
            impression, context = first + np.uint64(i), ints[CONTEXT, e, i]
            position = ints[ITEM, e, i] % positions
            rival_scores_of(
                tables.user[ints[USER, e, i]], tables.context[context], field.base[position],
                field.weight[tables.scene[context], position], field.noise,
                field.value_per_click[position], multiplier[e], limit, per_click, shift_click[t],
                shift_value[t], pctr, scores32,
            )  # fmt: skip
            for a in range(controlled, num_ads):
                scores_in[a] = scores32[a]
            scores_in[:controlled] = 0.0
            if record:
                allocate(scores_in, reserve, exposure, GSP, scores, bidders, due)
                for j in range(slots):
                    rival_scores[e, i, j] = scores[j]
            for a in range(controlled):
                own = min(bids[e + a, i], budget_left[e + a, 0])
                scores_in[a] = own * floats[PCTR, e + a, i] if per_click else own
            taken = allocate(scores_in, reserve, exposure, mechanism, scores, bidders, due)
            for a in range(controlled):
                # The price to beat of a controlled campaign: the best score of the others.
                best = scores[0] if bidders[0] != a else scores[1]
                floats[PRICE, e + a, i] = max(best, reserve)
                if reveal_all:  # the lowest bid that would have been shown
                    lowest = max(scores[slots - 1], reserve)
                    price[e + a, i] = lowest / floats[PCTR, e + a, i] if per_click else lowest
            for j in range(taken):
                a = bidders[j]
                r, column = (e + a, 0) if a < controlled else (e, a)
                if a < controlled:
                    slot[r, i] = j
                if not is_seen(seeds[e], impression, exposure[j], j):
                    continue
                if a < controlled:
                    own = min(bids[r, i], budget_left[r, 0])
                    hit = is_clicked(seeds[r], impression, floats[P_CLICK, r, i])
                    cost = min(due[j] / floats[PCTR, r, i] if per_click else due[j], own)
                    won[r, i], price[r, i], clicked[r, i] = True, cost, hit
                    totals[r, WINS] += 1
                    totals[r, CLICKS] += hit
                else:
                    w = philox(seeds[e], _RIVAL_CLICK, impression, np.uint64(a))
                    hit = to_uniform(w[0]) < pctr[a]
                    cost = due[j] / pctr[a] if per_click else due[j]
                # float32 scores of rivals can exceed the budget in the last digit
                cost = min(cost, budget_left[r, column]) if hit or not per_click else 0.0
                budget_left[r, column] -= cost
                if a < controlled:
                    totals[r, SPEND] += cost
                else:
                    limit[a] = np.float32(budget_left[r, column])
