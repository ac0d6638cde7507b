from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit, vectorize

from adsim.clearing import FIRST_PRICE, GSP, VCG, allocate, clear_population, exp32, payment
from adsim.config import WorldConfig
from adsim.kernels import (
    CLICKS,
    CONTEXT,
    ITEM,
    NUM_TOTALS,
    P_CLICK,
    PCTR,
    PRICE,
    SPEND,
    USER,
    WINS,
    Draw,
)
from adsim.rng import ID_STRIDE, Stream, uniforms
from adsim.source import SyntheticSource

MECHANISMS = {"first_price": FIRST_PRICE, "gsp": GSP, "vcg": VCG}
f32 = np.float32
compiled = settings(deadline=None, derandomize=True, max_examples=200)


@vectorize(["float32(float32)"], nopython=True)
def compiled_exp32(x):
    return exp32(x)


@njit
def compiled_payment(mechanism, scores, reserve, exposure, j):
    return payment(mechanism, scores, reserve, exposure, j)


def auction(scores, reserve=0.0, exposure=(1.0,), mechanism=GSP):
    """(bidders of the taken slots, their payments when seen) of one auction."""
    top, bidders, due = np.empty(9), np.empty(9, dtype=np.int64), np.empty(8)
    taken = allocate(np.array(scores), reserve, np.array(exposure), mechanism, top, bidders, due)
    return bidders[:taken].tolist(), due[:taken].tolist()


def welfare(scores, exposure):
    """Highest sum of exposure x score over all ways to fill the slots, by enumeration."""
    slots = len(exposure)
    padded = [*scores, *(0.0,) * slots]
    return max(
        sum(a * s for a, s in zip(exposure, chosen, strict=True))
        for chosen in permutations(padded, slots)
    )


# Taylor remainder 64 (x / 64)^6 / 720, relative: 3.9e-6 at 12, 2.2e-5 at 16, 8.3e-5 at 20; the
# rounding of float32, 6e-8, is multiplied by 64 too.
@pytest.mark.parametrize(("limit", "accuracy"), [(12.0, 2e-5), (16.0, 5e-5), (20.0, 1.2e-4)])
def test_exp32_accuracy(limit, accuracy):
    x = np.linspace(-limit, limit, 100_001).astype(f32)
    exact = np.exp(x.astype(np.float64))
    np.testing.assert_allclose(compiled_exp32(x), exact, rtol=accuracy)


def test_exp32_increases():
    x = np.linspace(-20.0, 20.0, 20_001).astype(f32)  # steps of .002: 0.2 % between neighbours
    assert (np.diff(compiled_exp32(x)) > 0).all()


# Scores 4, 3, 2 for two slots seen with probability 1 and 1/2:
# GSP: each pays the next score. VCG: slot 1 moves the second to slot 2 and the third out:
# (1 - 1/2) 3 + 1/2 x 2 = 2.5; slot 2: 2 when seen.
@pytest.mark.parametrize(
    ("mechanism", "reserve", "due"),
    [
        (FIRST_PRICE, 0.0, [4.0, 3.0]),
        (GSP, 0.0, [3.0, 2.0]),
        (VCG, 0.0, [2.5, 2.0]),
        (GSP, 2.5, [3.0, 2.5]),  # the third is below the reserve
        (VCG, 2.5, [0.5 * 3.0 + 0.5 * 2.5, 2.5]),
        (GSP, 3.5, [3.5]),  # the second too
        (VCG, 3.5, [3.5]),
        (FIRST_PRICE, 3.5, [4.0]),
        (GSP, 4.0, [4.0]),  # a score equal to the reserve takes part
        (GSP, 4.1, []),
    ],
)
def test_payments_by_hand(mechanism, reserve, due):
    bidders, found = auction([3.0, 2.0, 4.0], reserve, (1.0, 0.5), mechanism)
    assert bidders == [2, 0][: len(due)]
    assert found == pytest.approx(due)


@pytest.mark.parametrize("mechanism", [GSP, VCG])
def test_one_slot_is_a_second_price_auction(mechanism):
    for exposure in ((1.0,), (0.4,)):
        bidders, due = auction([0.7, 2.0, 1.5], exposure=exposure, mechanism=mechanism)
        assert bidders == [1]
        assert due == pytest.approx([1.5])
    assert auction([2.0], 0.3, mechanism=mechanism) == ([0], [0.3])  # alone: pays the reserve


@pytest.mark.parametrize("mechanism", MECHANISMS.values(), ids=MECHANISMS)
def test_ties_go_to_the_lower_index(mechanism):
    assert auction([1.0, 2.0, 2.0, 2.0], 0.0, (1.0, 0.5), mechanism) == ([1, 2], [2.0, 2.0])


def test_a_score_of_0_does_not_take_part():
    assert auction([0.0, 0.0]) == ([], [])
    assert auction([0.0, 0.5], 0.0, (1.0, 1.0)) == ([1], [0.0])


small_auctions = st.tuples(
    st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5),
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3).map(lambda x: sorted(x, reverse=True)),
    st.sampled_from([0.0, 0.5, 2.0]),
)


@given(case=small_auctions)
@compiled
def test_vcg_payment_is_the_externality(case):
    # With a reserve r the seller takes part with a bid of r for every slot.
    scores, exposure, reserve = case
    bidders, due = auction(scores, reserve, exposure, VCG)
    seller = [reserve] * len(exposure)
    active = [s if s >= reserve else 0.0 for s in scores]
    for j, (a, price) in enumerate(zip(bidders, due, strict=True)):
        others = active[:a] + active[a + 1 :] + seller
        without = welfare(others, exposure)
        present = welfare([*active, *seller], exposure) - exposure[j] * scores[a]
        assert price * exposure[j] == pytest.approx(without - present, rel=1e-9, abs=1e-9)


@given(case=small_auctions, mechanism=st.sampled_from([FIRST_PRICE, GSP, VCG]))
@compiled
def test_winners_have_the_highest_scores_and_pay_between_reserve_and_score(case, mechanism):
    scores, exposure, reserve = case
    bidders, due = auction(scores, reserve, exposure, mechanism)
    ranked = sorted((a for a, s in enumerate(scores) if s >= reserve), key=lambda a: -scores[a])
    assert bidders == ranked[: len(exposure)]
    for a, price in zip(bidders, due, strict=True):
        assert reserve - 1e-12 <= price <= scores[a] + 1e-12


@given(case=small_auctions)
@compiled
def test_vcg_never_costs_more_than_gsp(case):
    # Edelman, Ostrovsky, Schwarz 2007: for equal bids no GSP payment is below VCG's.
    scores, exposure, reserve = case
    for vcg, gsp in zip(
        *(auction(scores, reserve, exposure, m)[1] for m in (VCG, GSP)), strict=True
    ):
        assert vcg <= gsp + 1e-12


def test_payment_of_slots_seen_alike():
    # Two slots seen with probability 1: both winners push out the third.
    scores = np.array([4.0, 3.0, 2.0])
    for j in (0, 1):
        assert compiled_payment(VCG, scores, 0.0, np.ones(2), j) == pytest.approx(2.0)


NUM_ADS, POSITIONS = 6, 3
CASES = {
    "second_price": {"mechanism": "second_price"},
    "first_price_per_click": {"mechanism": "first_price", "charge": "click"},
    "gsp_slots": {"mechanism": "gsp", "exposure": (0.9, 0.6, 0.3), "reserve": 0.002},
    "vcg_slots_per_click": {
        **{"mechanism": "vcg", "exposure": (1.0, 0.5, 0.5, 0.4, 0.3), "charge": "click"},
        **{"reserve": 0.001, "reveal": "all"},
    },
}


class Case:
    """One tick of two worlds of a population market, ready to clear."""

    worlds, tick = np.arange(2), np.array([0, 30])
    seeds = np.array([3, 2**62 + 1], dtype=np.uint64)

    def __init__(self, market, budget=1e3):
        population = {"n_advertisers": NUM_ADS, "noise_sd": 0.5}
        self.config = WorldConfig(
            traffic={"impressions_per_tick": 60.0, "profile": "flat"},
            entities={"num_users": 500, "num_contexts": 60, "items_per_advertiser": POSITIONS},
            market={"kind": "population", "population": population, **market},
            platform_noise={"ctr_sd": 0.3},
        )
        source = SyntheticSource(self.config, 2)
        source.reset(self.worlds, self.seeds)
        shape = (2, source.num_slots)
        self.drawn = Draw(
            np.zeros((9, *shape)), np.zeros((3, *shape), np.int32), np.zeros(2, np.int64)
        )
        source.draw(self.worlds, self.seeds, self.tick, self.drawn)
        # One drift step for both worlds: the kernel gets one set of tables.
        self.tables, self.field = source.structures[0].tables(0), source.field(0, 0)
        clock = source.clocks[0]
        self.shift_click = np.ascontiguousarray(clock.offset[:, 0])
        self.shift_value = clock.offset[:, 1] - source.structures[0].bias[1]
        self.exposure = np.array(self.config.market.exposure)
        self.mechanism = MECHANISMS.get(self.config.market.mechanism, GSP)
        self.per_click = self.config.market.charge == "click"
        rng = np.random.default_rng(1)
        self.multiplier = rng.uniform(0.3, 2.0, (2, NUM_ADS))
        self.budgets = budget * rng.uniform(0.5, 1.5, (2, NUM_ADS))
        scale = 30.0 if self.per_click else 0.6
        self.bids = rng.choice([0.0, 0.3, 1.0, 3.0], shape) * scale * rng.random(shape)

    def outputs(self):
        shape = self.bids.shape
        return {
            "won": np.zeros(shape, dtype=bool),
            "price": np.full(shape, np.inf),
            "clicked": np.zeros(shape, dtype=bool),
            "slot": np.full(shape, -1, dtype=np.int8),
            "totals": np.zeros((2, NUM_TOTALS)),
            "rival_scores": np.zeros((*shape, self.exposure.size)),
            "left": self.budgets.copy(),
            "best": np.zeros(shape),  # price to beat
        }

    def run(self):
        out, floats = self.outputs(), self.drawn.floats.copy()
        market = self.config.market
        clear_population(
            *(self.worlds, self.seeds, self.tick, self.drawn.filled, floats, self.drawn.ints),
            *(self.tables, self.field, self.shift_click, self.shift_value, self.bids),
            *(self.multiplier, out["left"], 1, market.reserve, self.mechanism, self.per_click),
            *(self.exposure, market.reveal == "all", out["rival_scores"], True, out["won"]),
            *(out["price"], out["clicked"], out["slot"], out["totals"]),
        )
        out["best"][:] = floats[PRICE]
        return out

    def rival_bids(self, e, i):
        """Click probabilities (A,) and bids per click (A,), float32."""
        t, (user, context, item) = self.tick[e], self.drawn.ints[[USER, CONTEXT, ITEM], e, i]
        u, c, p = self.tables.user[user], self.tables.context[context], item % POSITIONS
        z = u[0] + c[0] + f32(self.shift_click[t]) + self.field.base[p]
        weight = self.field.weight[self.tables.scene[context], p]
        for d in range(8):
            z = z + u[5 + d] * weight[d]
        error = np.zeros(NUM_ADS, dtype=f32)
        for d in range(3):
            error += u[13 + d] * self.field.noise[d] + c[5 + d] * self.field.noise[3 + d]
        worth = compiled_exp32(np.clip(u[1] + c[1] + f32(self.shift_value[t]), f32(-3), f32(3)))
        chance = f32(1) / (f32(1) + compiled_exp32(-np.clip(z, f32(-16), f32(16))))
        bid = self.multiplier[e].astype(f32) * self.field.value_per_click[p] * worth
        return chance, bid * compiled_exp32(error)

    def twin(self):
        """The same tick, one auction after the other, as the rules read."""
        out = self.outputs()
        for e in self.worlds:
            for i in range(int(self.drawn.filled[e])):
                self.twin_auction(out, e, i)
        return out

    def twin_auction(self, out, e, i):
        market, floats, slots = self.config.market, self.drawn.floats, self.exposure.size
        pctr = floats[PCTR, e, i]
        left = out["left"][e]
        chance, bid = self.rival_bids(e, i)
        if self.per_click:
            scores = np.minimum(bid, left.astype(f32)) * chance
        else:
            scores = np.minimum(bid * chance, left.astype(f32))
        scores = scores.astype(np.float64)
        own = min(self.bids[e, i], left[0])
        scores[0] = own * pctr if self.per_click else own
        scores[scores < market.reserve] = 0.0
        ranked = [a for a in np.argsort(-scores, kind="stable") if scores[a] > 0]
        rivals = [scores[a] for a in ranked if a != 0][:slots]
        out["rival_scores"][e, i, : len(rivals)] = rivals
        out["best"][e, i] = max([*rivals[:1], market.reserve])
        padded = np.array([*(scores[a] for a in ranked), *(0.0,) * (slots + 1)])
        due = [
            compiled_payment(self.mechanism, padded, market.reserve, self.exposure, j)
            for j in range(slots)
        ]
        if market.reveal == "all":
            lowest = max(padded[slots - 1], market.reserve)
            out["price"][e, i] = lowest / (pctr if self.per_click else 1.0)
        ids = np.array([int(self.tick[e]) * ID_STRIDE + i])
        draw = lambda stream, block=0: uniforms(int(self.seeds[e]), stream, ids, block)[0]  # noqa: E731
        for j, a in enumerate(ranked[:slots]):
            out["slot"][e, i] = j if a == 0 else out["slot"][e, i]
            if draw(Stream.EXPOSURE, j // 4)[j % 4] >= self.exposure[j]:
                continue
            if a == 0:
                cost = min(due[j] / (pctr if self.per_click else 1.0), own)
                clicked = draw(Stream.OUTCOME)[0] < floats[P_CLICK, e, i]
                out["won"][e, i], out["price"][e, i], out["clicked"][e, i] = True, cost, clicked
                cost *= clicked or not self.per_click
                out["totals"][e, [WINS, CLICKS, SPEND]] += (1, clicked, cost)
            elif self.per_click:
                clicked = draw(Stream.RIVAL_CLICK, int(a))[0] < chance[a]
                cost = due[j] / np.float64(chance[a]) if clicked else 0.0
            else:
                cost = due[j]
            cost = min(cost, left[a])
            left[a] -= cost


@pytest.mark.parametrize("budget", [1e3, 0.05])
@pytest.mark.parametrize("market", CASES.values(), ids=CASES)
def test_clear_population_equals_its_twin(market, budget):
    case = Case(market, budget)
    found, expected = case.run(), case.twin()
    assert found["won"].sum() >= (10 if budget == 1e3 else 0)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("budget", [1e3, 0.5, 0.05])
@pytest.mark.parametrize("market", CASES.values(), ids=CASES)
def test_budgets_are_never_exceeded(market, budget):
    case = Case(market, budget)
    out = case.run()
    assert (out["left"] >= 0).all()
    spend = case.budgets - out["left"]
    np.testing.assert_allclose(out["totals"][:, SPEND], spend[:, 0], rtol=1e-9, atol=1e-12)
    if budget == 0.05 and case.config.market.charge == "impression":
        assert (out["left"] < 0.02 * case.budgets).any()  # somebody did run out


@pytest.mark.parametrize("market", CASES.values(), ids=CASES)
def test_price_is_at_most_the_bid(market):
    case = Case(market)
    out = case.run()
    assert (out["price"][out["won"]] <= case.bids[out["won"]] * (1 + 1e-12)).all()
    assert (out["slot"][out["won"]] >= 0).all()


def test_second_price_of_a_won_impression_is_the_price_to_beat():
    out = Case(CASES["second_price"]).run()
    won = out["won"]
    np.testing.assert_allclose(out["price"][won], out["best"][won], rtol=1e-12)
    np.testing.assert_allclose(out["best"][won], out["rival_scores"][won][:, 0], rtol=1e-12)


def test_first_price_is_the_bid():
    case = Case({"mechanism": "first_price"})
    out = case.run()
    np.testing.assert_allclose(out["price"][out["won"]], case.bids[out["won"]], rtol=1e-12)
