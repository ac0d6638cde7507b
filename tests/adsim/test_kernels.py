import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.special import expit, ndtri

from adsim.config import WorldConfig
from adsim.effects import alias_table
from adsim.feedback import PURCHASE, REFUND, FeedbackQueue
from adsim.funnel import click_outcome, expectation, lookup
from adsim.kernels import (
    ACCRUED,
    CLICKS,
    CONTEXT,
    EXPECTED_CLICKS,
    EXPECTED_CONVERSIONS,
    EXPECTED_GMV,
    EXPECTED_NET_GMV,
    ITEM,
    NUM_TOTALS,
    P_CLICK,
    PCTR,
    PCTR_STD,
    PCVR,
    PCVR_STD,
    PRICE,
    SPEND,
    TIME,
    USER,
    VALUE,
    WINS,
    Z_CONVERT,
    Draw,
    clear_prices,
)
from adsim.rng import ID_STRIDE, Stream, uniforms, words
from adsim.source import SyntheticSource

ENTITIES = {
    "num_users": 700,
    "num_contexts": 90,
    "user_cardinalities": (64, 32, 16, 8, 4, 4, 2),
    "context_cardinalities": (32, 16, 8, 8, 4, 4, 2),
}
NOISE = {"ctr_sd": 0.5, "cvr_sd": 0.3, "high_factor": 2.0, "high_share": 0.4}
WORLDS = np.arange(2)
SEEDS = np.array([11, 2**63 - 5], dtype=np.uint64)
TICK = np.array([0, 9])


def make_source(**sections):
    base = {"traffic": {"impressions_per_tick": 80.0, "profile": "flat"}, "entities": ENTITIES}
    return SyntheticSource(WorldConfig(**base, time={"num_ticks": 12}, **sections), 2)


def make_histogram():
    source = make_source()
    prices, counts = np.array([0.01, 0.05, 0.2]), np.array([3.0, 5.0, 1.0])
    land = source.landscapes[0]
    source.landscapes[0] = land._replace(values=prices, counts=alias_table(counts))
    return source


SOURCES = {
    "default": make_source,
    "noisy": lambda: make_source(platform_noise=NOISE),
    "drift": lambda: make_source(drift={"share": 0.5, "step_hours": 2.0}),
    "histogram": make_histogram,
}


@pytest.fixture(scope="module", params=SOURCES.values(), ids=SOURCES)
def drawn(request):
    """(source, draw of tick 0 of world 0 and tick 9 of world 1)."""
    return draw_of(request.param())


def draw_of(source):
    source.reset(WORLDS, SEEDS)
    shape = (2, source.num_slots)
    out = Draw(np.zeros((9, *shape)), np.zeros((3, *shape), np.int32), np.zeros(2, np.int64))
    source.draw(WORLDS, SEEDS, TICK, out)
    return source, out


def alias(table, word):
    """Plain twin of `alias_draw`, elementwise, in exact integers."""
    n, out = table.accept.size, []
    for w in word.tolist():
        cell = ((w >> 32) * n) >> 32
        out.append(cell if (w & (2**32 - 1)) < int(table.accept[cell]) else int(table.other[cell]))
    return np.array(out)


def halves(word):
    """High and low 32 bits as fractions."""
    return (word >> np.uint64(32)) / 2.0**32, (word & np.uint64(2**32 - 1)) / 2.0**32


def twin_draw(source, e, n):
    """Rows of floats and ints of world e, written with arrays over its n impressions."""
    t = int(TICK[e])
    clock, land, noise = source.clocks[0], source.landscapes[0], source.noise
    tables = source.structures[0].tables(int(clock.drift_step[t]))
    ids = t * ID_STRIDE + np.arange(n)
    traffic, u = (f(int(SEEDS[e]), Stream.TRAFFIC, ids) for f in (words, uniforms))
    market, v = (f(int(SEEDS[e]), Stream.MARKET, ids) for f in (words, uniforms))
    user, context = (
        alias(tables.user_alias, traffic[:, 0]),
        alias(tables.context_alias, traffic[:, 1]),
    )
    item, scene = alias(tables.item_alias, traffic[:, 2]), tables.scene[context]
    quality = tables.user[user, 0] + tables.context[context, 0]  # float32, like all tables
    z_click = quality.astype(np.float64) + tables.item[item, 0]
    buying = tables.user[user, 1] + tables.context[context, 1]
    z_buy = buying.astype(np.float64) + tables.item[item, 1]
    dot = np.zeros((2, n), dtype=np.float32)
    for d in range(8):
        weight = tables.weight[item, scene]
        dot += tables.user[user, 5 + d] * np.stack([weight[:, d], weight[:, 8 + d]])
    z_click = z_click + (dot[0] + clock.offset[t, 0])
    z_buy = z_buy + (dot[1] + clock.offset[t, 1])
    p_click = expit(z_click)
    p_buy = np.array([lookup.py_func(source.law.p_convert, z) for z in z_buy])
    high, low = halves(market[:, 0])
    factor = np.where(low < noise.high_share, noise.high_factor, 1.0)
    noisy = noise.ctr_sd > 0 or noise.cvr_sd > 0
    ctr_sd, cvr_sd = (sd * factor if noisy else 0.0 * factor for sd in noise[:2])
    pctr = expit(z_click + ctr_sd * ndtri(v[:, 2]))
    pcvr = expit(np.log(p_buy / (1 - p_buy)) + cvr_sd * ndtri(v[:, 3]))
    floats = np.empty((9, n))
    floats[TIME] = (t + (np.arange(n) + u[:, 3]) / n) * clock.tick_hours
    floats[P_CLICK], floats[Z_CONVERT], floats[PCTR], floats[PCVR] = p_click, z_buy, pctr, pcvr
    floats[VALUE] = pctr * pcvr * tables.list_price[item] * source.config.campaign.margin
    floats[PCTR_STD], floats[PCVR_STD] = ctr_sd, cvr_sd
    if land.values.size:
        floats[PRICE] = land.values[alias(land.counts, market[:, 1])]
    else:
        second, x = high < land.second_share, ndtri(v[:, 1])
        level = (
            land.log_median[scene]
            + clock.log_price[t]
            + land.quality_slope * (quality + buying).astype(np.float64)
        )
        level += np.where(second, land.second_log_ratio + land.second_log_sd * x, land.log_sd * x)
        floats[PRICE] = np.exp(level)
    return floats, np.stack([user, context, item])


def test_draw_equals_its_twin(drawn):
    source, out = drawn
    for e in WORLDS:
        n = int(out.filled[e])
        assert 40 < n < 120  # Poisson, mean 80
        floats, ints = twin_draw(source, e, n)
        np.testing.assert_array_equal(out.ints[:, e, :n], ints)
        np.testing.assert_allclose(out.floats[:, e, :n], floats, rtol=1e-9)


def test_draw_leaves_the_padding_0(drawn):
    _, out = drawn
    for e in WORLDS:
        assert not out.floats[:, e, out.filled[e] :].any()
        assert not out.ints[:, e, out.filled[e] :].any()


def test_arrivals_are_in_order_within_their_tick(drawn):
    _, out = drawn
    for e in WORLDS:
        times = out.floats[TIME, e, : out.filled[e]]
        assert (np.diff(times) > 0).all()
        assert TICK[e] * 0.5 < times[0] < times[-1] < (TICK[e] + 1) * 0.5


def test_draw_of_a_world_does_not_depend_on_the_others():
    source, out = draw_of(make_source(platform_noise=NOISE))
    alone = Draw(np.zeros_like(out.floats), np.zeros_like(out.ints), np.zeros(2, np.int64))
    source.draw(WORLDS[1:], SEEDS, TICK, alone)
    np.testing.assert_array_equal(alone.floats[:, 1], out.floats[:, 1])
    assert not alone.floats[:, 0].any()


def test_truth_equals_the_funnels_expectation(drawn):
    source, out = drawn
    found = source.truth(WORLDS, TICK, out)
    for e in WORLDS:
        n, t = int(out.filled[e]), int(TICK[e])
        tables = source.structures[0].tables(int(source.clocks[0].drift_step[t]))
        user, context, item = out.ints[:, e, :n]
        main = [tables.user[user], tables.context[context], tables.item[item]]
        z = sum(part[:, 2:5].astype(np.float64) for part in main) + source.clocks[0].offset[t, 2:5]
        rows = [
            expectation(source.law, z_v, *heads)
            for z_v, heads in zip(out.floats[Z_CONVERT, e, :n], z.tolist(), strict=True)
        ]
        expected = np.column_stack([out.floats[P_CLICK, e, :n], np.array(rows)]).T
        expected[3:] *= source.structures[0].list_price[item]
        np.testing.assert_allclose(found[:, e, :n], expected, rtol=1e-9)
        assert not found[:, e, n:].any()


def test_appraise_sums_the_truth_of_what_was_won(drawn):
    source, out = drawn
    won = np.random.default_rng(0).random((2, source.num_slots)) < 0.5
    totals = np.zeros((2, NUM_TOTALS))
    source.appraise(WORLDS, TICK, out, won, totals)
    truth = source.truth(WORLDS, TICK, out)  # 0 in padding
    for column, value in (
        (EXPECTED_CLICKS, truth[0]),
        (EXPECTED_CONVERSIONS, truth[0] * truth[1]),
        (EXPECTED_GMV, truth[0] * truth[3]),
        (EXPECTED_NET_GMV, truth[0] * truth[4]),
    ):
        np.testing.assert_allclose(totals[:, column], (won * value).sum(axis=1), rtol=1e-9)
    assert not totals[:, [WINS, SPEND, CLICKS, ACCRUED]].any()


def test_gather_features_copies_the_entities_rows(drawn):
    source, out = drawn
    features, scene = source.features(WORLDS, out)
    structure = source.structures[0]
    for e in WORLDS:
        n = int(out.filled[e])
        user, context, item = (out.ints[row, e, :n] for row in (USER, CONTEXT, ITEM))
        parts = (structure.user_ids[user], structure.item_ids[item], structure.context_ids[context])
        np.testing.assert_array_equal(features[e, :n], np.hstack(parts))
        np.testing.assert_array_equal(scene[e, :n], structure.context_ids[context, 0])
        np.testing.assert_array_equal(features[e, :n, 14], scene[e, :n])
        assert not features[e, n:].any()


@njit
def one_outcome(law, seed, impression, time, z, list_price, when, amount, back):
    return click_outcome(
        law, seed, impression, time, z[0], z[1], z[2], z[3], list_price, when, amount, back
    )


def test_schedule_pushes_the_outcomes_of_the_clicks():
    source, out = draw_of(make_source(conversion={"cvr": 0.5}))
    clicks = np.array([[e, i] for e in WORLDS for i in range(int(out.filled[e]))])
    queue, totals = FeedbackQueue(2, 12), np.zeros((2, NUM_TOTALS))
    queue.reserve(16 * clicks.shape[0])
    source.schedule(clicks, SEEDS, TICK, out, queue.pool, totals)
    expected, accrued = [], np.zeros(2)
    for e, i in clicks.tolist():
        t, (user, context, item) = int(TICK[e]), out.ints[:, e, i]
        tables = source.structures[0].tables(int(source.clocks[0].drift_step[t]))
        main = [tables.user[user], tables.context[context], tables.item[item]]
        z = sum(part[2:5].astype(np.float64) for part in main) + source.clocks[0].offset[t, 2:5]
        z = np.concatenate([[out.floats[Z_CONVERT, e, i]], z])
        when, amount, back = np.empty(8), np.empty(8), np.empty(8)
        click_id = t * ID_STRIDE + i
        price, time = tables.list_price[item], out.floats[TIME, e, i]
        n = one_outcome(
            source.law, SEEDS[e], np.uint64(click_id), time, z, price, when, amount, back
        )
        for k in range(n):
            origin = int(when[k] / 0.5)
            expected.append((e, when[k], PURCHASE, click_id, k, amount[k], origin))
            if back[k] < np.inf:
                expected.append((e, back[k], REFUND, click_id, k, amount[k], origin))
            else:
                accrued[e] += amount[k]
    empty = np.zeros((3, 0), dtype=np.int64)
    seen = queue.release(WORLDS, np.array([0, 0]), np.array([12, 12]), empty, np.zeros(0))
    rows = list(zip(*(column.tolist() for column in seen), strict=True))
    assert len(rows) > 50
    assert [row[:5] for row in rows] == [row[:5] for row in sorted(expected, key=lambda r: r[:5])]
    np.testing.assert_allclose(
        [row[5:] for row in rows],
        [row[5:] for row in sorted(expected, key=lambda r: r[:5])],
        rtol=1e-12,
    )
    np.testing.assert_allclose(totals[:, ACCRUED], accrued, rtol=1e-12)


money = st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0, 2.0])


@st.composite
def ticks(draw):
    """Prices, bids, pCTR and P(click) of up to 8 impressions, on a coarse grid: ties happen."""
    n = draw(st.integers(1, 8))
    columns = [draw(st.lists(money, min_size=n, max_size=n)) for _ in range(2)]
    chances = st.sampled_from([0.25, 0.5, 0.9])
    columns += [draw(st.lists(chances, min_size=n, max_size=n)) for _ in range(2)]
    return np.array(columns)


def run_clear(tick, seed, budget, rules):
    """(won, price, clicked, slot, totals, left) of one tick of one world; row n is padding."""
    prices, bids, pctr, p_click = np.pad(tick, ((0, 0), (0, 1)))
    n = prices.size - 1
    floats = np.zeros((9, 1, n + 1))
    floats[PRICE, 0], floats[PCTR, 0], floats[P_CLICK, 0] = prices, pctr, p_click
    won, clicked = np.zeros((2, 1, n + 1), dtype=bool)
    price, slot = np.full((1, n + 1), np.inf), np.full((1, n + 1), -1, dtype=np.int8)
    totals, left = np.zeros((1, NUM_TOTALS)), np.array([budget])
    clear_prices(
        *(WORLDS[:1], np.array([seed], dtype=np.uint64), np.array([3]), np.array([n]), floats),
        *(bids[None], left, rules["reserve"], rules["first_price"], rules["per_click"]),
        *(rules["exposure"], rules["reveal_all"], won, price, clicked, slot, totals),
    )
    return won[0], price[0], clicked[0], slot[0], totals[0], float(left[0])


def twin_clear(tick, seed, budget, rules):
    """The same, written as the rules read."""
    n = tick.shape[1]
    ids = 3 * ID_STRIDE + np.arange(n)
    shown = uniforms(seed, Stream.EXPOSURE, ids)[:, 0] < rules["exposure"]
    chance = uniforms(seed, Stream.OUTCOME, ids)[:, 0]
    won, clicked = np.zeros((2, n + 1), dtype=bool)
    price, slot = np.full(n + 1, np.inf), np.full(n + 1, -1)
    totals, left = np.zeros(NUM_TOTALS), budget
    for i, (rival, bid, pctr, p_click) in enumerate(tick.T):
        needed = max(rival, rules["reserve"]) / (pctr if rules["per_click"] else 1.0)
        bid = min(bid, left)
        if rules["reveal_all"]:
            price[i] = needed
        if bid > 0 and bid >= needed:
            slot[i] = 0
            if shown[i]:
                won[i], clicked[i] = True, chance[i] < p_click
                price[i] = bid if rules["first_price"] else needed
                charged = price[i] if clicked[i] or not rules["per_click"] else 0.0
                left -= charged
                totals[[WINS, SPEND, CLICKS]] += (1, charged, clicked[i])
    return won, price, clicked, slot, totals, left


@given(
    tick=ticks(),
    seed=st.integers(0, 2**63 - 1),
    budget=st.sampled_from([0.0, 0.3, 1.0, 2.1, 100.0]),
    reserve=st.sampled_from([0.0, 0.25, 0.6]),
    exposure=st.sampled_from([1.0, 0.5]),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_clear_prices_equals_its_twin(tick, seed, budget, reserve, exposure, flags):
    rules = dict(zip(("first_price", "per_click", "reveal_all"), flags, strict=True))
    rules |= {"reserve": reserve, "exposure": exposure}
    found, expected = (f(tick, seed, budget, rules) for f in (run_clear, twin_clear))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    assert found[-1] >= 0.0  # never more than the budget
    assert found[-1] == pytest.approx(budget - found[4][SPEND], abs=1e-12)


# price to beat, bid, pCTR, P(click) = 1 of three impressions; expected price, spend, left of 1.0.
@pytest.mark.parametrize(
    ("first_price", "per_click", "reserve", "price", "spend"),
    [
        (False, False, 0.0, [0.2, np.inf, 0.5], 0.7),  # a tie (second bid .3 = .3 + eps) loses
        (True, False, 0.0, [0.4, np.inf, 0.6], 1.0),  # the last bid of .9 is cut to what is left
        (False, False, 0.35, [0.35, np.inf, 0.5], 0.85),
        (False, True, 0.0, [0.4, np.inf, np.inf], 0.4),  # .2 / .5, then .5 / .5 > .6 left
    ],
)
def test_clear_prices_by_hand(first_price, per_click, reserve, price, spend):
    tick = np.array([[0.2, 0.31, 0.5], [0.4, 0.3, 0.9], [0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])
    rules = {"first_price": first_price, "per_click": per_click, "reserve": reserve}
    rules |= {"exposure": 1.0, "reveal_all": False}
    _, found, clicked, _, totals, left = run_clear(tick, 1, 1.0, rules)
    assert found[:3].tolist() == pytest.approx(price)
    assert totals[SPEND] == pytest.approx(spend)
    assert left == pytest.approx(1.0 - spend)
    assert (clicked[:3] == np.isfinite(price)).all()
