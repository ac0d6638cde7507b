"""Properties of the simulated world: conservation, paired worlds, batching."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SMALL_WORLD

from adsim.checks import find_difference
from adsim.feedback import AMOUNT, CLICK_ID, KIND, NEXT, ORDER, TIME, FeedbackQueue
from adsim.kernels import ACCRUED, NUM_TOTALS, PCTR, PRICE, VALUE
from adsim.kernels import TIME as ARRIVAL
from adsim.types import EventKind
from scenarios.build import make_world
from scenarios.schema import load

# Clicks and purchases are frequent, so that a campaign of 30 impressions a tick has plenty.
SMALL = SMALL_WORLD | {
    "entities.items_per_advertiser": 5,
    "drift.step_hours": 24.0,
    "campaign.budget": 150.0,
    "campaign.max_bid": 1000.0,
    "market.population.budget_range": [5.0, 400.0],
}
POPULATION = {"market.kind": "population"}
MARKETS = [
    {},
    {"market.mechanism": "first_price", "market.reserve": 2.0},
    {"market.charge": "click"},
    {"market.exposure": [0.6], "reward": "accrual"},
    POPULATION,
    POPULATION | {"market.mechanism": "first_price", "market.charge": "click"},
    POPULATION | {"market.mechanism": "gsp", "market.exposure": [1.0, 0.7, 0.4]},
    POPULATION | {"market.mechanism": "vcg", "market.exposure": [0.9, 0.5]},
    POPULATION
    | {"market.mechanism": "vcg", "market.exposure": [1.0, 0.5], "market.charge": "click"},
]


def small_world(overrides=None, num_worlds=1, **options):
    return make_world(load("default", SMALL | (overrides or {})).world, num_worlds, **options)


def value_bids(world, factor):
    """Bids (E, M): a multiple of the platform's value, in the unit of the market."""
    floats = world.drawn.floats
    bids = factor * floats[VALUE]
    if world.config.market.charge == "click":
        bids = np.divide(bids, floats[PCTR], out=np.zeros_like(bids), where=floats[PCTR] > 0)
    return np.minimum(bids, world.config.campaign.max_bid)


def play(world, factor, worlds=None):
    """One tick with multiples of the value."""
    worlds = np.arange(world.num_worlds) if worlds is None else np.asarray(worlds)
    return world.play(value_bids(world, factor), worlds)


def campaign(world, factor, seeds=(0,)):
    """A whole campaign in all worlds; the outcome of each tick."""
    world.reset(np.arange(world.num_worlds), list(seeds))
    return [play(world, factor) for _ in range(world.num_ticks)]


def waiting_events(queue):
    """Pending events by (world, click, order, kind): their true time and amount."""
    pool, found = queue.pool, {}
    for world, bucket in np.argwhere(pool.head >= 0):
        cell = pool.head[world, bucket]
        while cell >= 0:
            key = (int(world), *pool.ints[[CLICK_ID, ORDER, KIND], cell].tolist())
            assert key not in found
            found[key] = tuple(pool.floats[[TIME, AMOUNT], cell].tolist())
            cell = pool.ints[NEXT, cell]
    return found


def released_events(outcome):
    """Released purchases and refunds in the form of `waiting_events`."""
    columns = ("world", "click_id", "order_id", "kind", "time_hours", "amount")
    rows = zip(*(getattr(outcome.seen, name).tolist() for name in columns), strict=True)
    return {row[:4]: row[4:] for row in rows if row[3] != EventKind.CLICK}


cases = st.fixed_dictionaries(
    {
        "market": st.sampled_from(MARKETS),
        "ticks": st.integers(6, 12),
        "traffic": st.sampled_from([0.5, 20.0, 50.0]),
        "budget": st.sampled_from([1e-3, 30.0, 150.0, 1e6]),
        "factor": st.sampled_from([0.0, 0.3, 1.0, 20.0]),
        "seed": st.integers(0, 2**63 - 1),
    }
)


@st.composite
def worlds_to_play(draw):
    """A small world and a bid factor; the world is reset."""
    case = draw(cases)
    overrides = {
        **case["market"],
        "time.num_ticks": case["ticks"],
        "traffic.impressions_per_tick": case["traffic"],
        "campaign.budget": case["budget"],
    }
    world = small_world(overrides)
    world.reset(np.array([0]), [case["seed"]])
    return world, case["factor"]


@settings(max_examples=24, deadline=None, derandomize=True)
@given(worlds_to_play())
def test_books_balance(played):
    world, factor = played
    start = world.budget_left.copy()
    rewards = [float(play(world, factor).reward[0]) for _ in range(world.num_ticks)]
    closing, left = world.statement(), world.budget_left
    assert (left >= 0).all()  # spend <= budget, every advertiser
    assert closing.spend == pytest.approx(start[0, 0] - left[0, 0], rel=1e-9, abs=1e-9)
    assert closing.spend <= closing.budget * (1 + 1e-12)
    assert np.cumsum(rewards)[-1] == closing.net_value  # exactly: the same additions, in order
    value = closing.margin * (closing.gmv - closing.refunded) - closing.spend
    assert closing.net_value == pytest.approx(value, rel=1e-9, abs=1e-9)
    assert closing.net_gmv == closing.gmv - closing.refunded >= -1e-9
    assert closing.wins >= closing.clicks


@settings(max_examples=16, deadline=None, derandomize=True)
@given(worlds_to_play())
def test_every_event_is_released_once_and_none_early(played):
    world, factor = played
    hours, scheduled, released = world.config.time.tick_hours, {}, {}
    for tick in range(world.num_ticks):
        drawn, now = world.drawn, world.tick.copy()
        outcome = play(world, factor)
        # What the tick's clicks will bring, scheduled again into a queue of its own.
        clicks, scratch = np.argwhere(outcome.clicked), FeedbackQueue(1, world.num_ticks)
        if clicks.size:
            scratch.reserve(clicks.shape[0] * world.source.max_events_per_click)
            arguments = (clicks, world.seeds, now, drawn, scratch.pool, np.zeros((1, NUM_TOTALS)))
            world.source.schedule(*arguments)
        scheduled |= waiting_events(scratch)
        seen = released_events(outcome)
        assert not seen.keys() & released.keys()
        released |= seen
        last = tick == world.num_ticks - 1
        assert last or all(time < (tick + 1) * hours for time, _ in seen.values())
        # None is late either: what still waits is all that has not come, and lies ahead.
        waiting = waiting_events(world.queue)
        assert released | waiting == scheduled
        assert not released.keys() & waiting.keys()
        assert all(time >= (tick + 1) * hours for time, _ in waiting.values())
    assert released == scheduled  # with their true times
    assert len(world.queue) == 0


@pytest.mark.parametrize("market", MARKETS)
def test_refund_is_at_most_its_purchase_and_later(market):
    world = small_world(market | {"campaign.budget": 1e6})
    campaign(world, 5.0)
    events = world.log.as_of(np.inf)
    rows = zip(events.kind, events.click_id, events.order_id, strict=True)
    at = {key: i for i, key in enumerate(rows)}
    refunds = np.flatnonzero(events.kind == EventKind.REFUND)
    bought = [at[EventKind.PURCHASE, events.click_id[i], events.order_id[i]] for i in refunds]
    assert len(refunds) > 5
    assert len(at) == events.kind.size
    assert (events.amount[refunds] <= events.amount[bought]).all()
    assert (events.time_hours[refunds] > events.time_hours[bought]).all()
    window = world.config.windows.refund_hours
    assert (events.time_hours[refunds] <= events.time_hours[bought] + window).all()


def test_drained_events_keep_their_true_times():
    world = small_world({"campaign.budget": 1e6})
    last = campaign(world, 5.0)[-1]
    horizon = world.config.time.horizon_hours  # 96 h; purchases come up to 168 h after the click
    assert (last.seen.time_hours > horizon).sum() > 5
    assert (world.log.as_of(np.inf).tick[-last.seen.world.size :] == world.num_ticks - 1).all()
    assert (world.log.as_of(horizon).time_hours < horizon).all()


def test_rewards_of_every_basis_sum_to_the_same_net_value():
    totals = []
    for reward in ("cash", "accrual", "estimated"):
        world = small_world({"reward": reward})
        outcomes = campaign(world, 1.0, seeds=(5,))
        totals.append(np.cumsum([o.reward[0] for o in outcomes])[-1])
        assert world.statement().net_value == totals[-1]
    assert totals[1:] == pytest.approx([totals[0]] * 2, rel=1e-9)


def paid_in_first_slot(bid, rivals, reserve, mechanism):
    """(own cost, everybody's cost) of one auction for one slot, from scores of at least 0."""
    ranked = sorted([s for s in (bid, *rivals) if s > 0 and s >= reserve], reverse=True)
    if not ranked:
        return 0.0, 0.0
    second = max(ranked[1], reserve) if len(ranked) > 1 else reserve
    due = ranked[0] if mechanism == "first_price" else second
    # Scores of rivals are float32: equal to a bid never, up to the reserve often.
    return (due if ranked[0] == bid else 0.0), due


@pytest.mark.parametrize("mechanism", ["gsp", "first_price", "vcg"])
@pytest.mark.parametrize("reserve", [0.0, 0.5])
def test_spends_sum_to_the_auctioneers_revenue(mechanism, reserve):
    # A second slot that is never seen makes the world record the two best rivals of an auction,
    # from which payments are worked out again here. Its exposure is as good as 0 for VCG, too.
    rules = {"mechanism": mechanism, "reserve": reserve, "exposure": [1.0, 1e-12]}
    overrides = POPULATION | {f"market.{k}": v for k, v in rules.items()}
    world = small_world(overrides | {"campaign.budget": 400.0}, record_prices=True)
    world.reset(np.array([0]), [3])
    budgets, revenue, own = world.budget_left.copy(), 0.0, 0.0
    for tick in range(world.num_ticks):
        bids = value_bids(world, 1.5)
        drawn = world.drawn
        world.play(bids, np.array([0]))
        scores = world.recorded[0].price[tick]
        for i in range(drawn.filled[0]):
            bid = min(bids[0, i], budgets[0, 0] - own)
            mine, paid = paid_in_first_slot(bid, scores[i], reserve, mechanism)
            own, revenue = own + mine, revenue + paid
    spends = (budgets - world.budget_left)[0]
    assert spends[0] == pytest.approx(own, rel=1e-6)
    assert spends.sum() == pytest.approx(revenue, rel=1e-6)
    assert (spends > 0).sum() >= 4  # a market of several buyers
    assert world.statement().wins > 10


@pytest.mark.parametrize("market", MARKETS)
def test_bids_change_neither_traffic_nor_shared_outcomes(market):
    worlds = [small_world(market | {"campaign.budget": 1e5}) for _ in range(2)]
    for world in worlds:
        world.reset(np.array([0]), [11])
    shared, wins, rows = 0, [0, 0], [row for row in range(9) if row != PRICE]
    for _ in range(worlds[0].num_ticks):
        a, b = (world.drawn for world in worlds)
        assert find_difference(a.floats[rows], b.floats[rows]) is None
        assert find_difference(a.ints, b.ints) is None
        if worlds[0].config.market.kind == "landscape":
            assert find_difference(a.floats[PRICE], b.floats[PRICE]) is None
        one, two = (play(world, factor) for world, factor in zip(worlds, (0.5, 4.0), strict=True))
        both = one.won & two.won
        shared, wins = shared + both.sum(), np.add(wins, [one.won.sum(), two.won.sum()])
        assert (one.clicked == two.clicked)[both].all()
    assert 10 < shared <= wins[0] < wins[1]
    one, two = (world.log.as_of(np.inf) for world in worlds)
    common = np.intersect1d(*(w.log.clicks().impression_id for w in worlds))
    assert common.size > 3
    pairs = ([c[np.isin(e.click_id, common)] for c in e[1:]] for e in (one, two))
    assert find_difference(*pairs) is None


def test_seeds_differ_and_repeat():
    world = small_world()
    first, other, again = (campaign(world, 1.0, seeds=(s,)) for s in (0, 1, 0))
    assert find_difference(first, again) is None
    assert find_difference(first, other) is not None


def one_world(outcome, index):
    """The rows of one world of a batch's outcome, its events without their world."""
    rows = [getattr(outcome, n)[index] for n in ("won", "price", "clicked", "slot", "spend")]
    rows += [outcome.reward[index], outcome.done[index], outcome.counted[:, index]]
    return rows, outcome.events(index, 0)


@pytest.mark.parametrize(
    "overrides", [*MARKETS, {"randomize_structure": True}, POPULATION | {"randomize_structure": 1}]
)
def test_batch_equals_single_worlds(overrides):
    overrides = dict(overrides)
    if "randomize_structure" in overrides:
        overrides["randomize_structure"] = True
    seeds = (4, 2**62, 4)
    batch = small_world(overrides, 3)
    outcomes = campaign(batch, 1.5, seeds)
    for index, seed in enumerate(seeds):
        single = small_world(overrides)
        for mine, alone in zip(outcomes, campaign(single, 1.5, (seed,)), strict=True):
            assert find_difference(one_world(mine, index), one_world(alone, 0)) is None
        assert find_difference(batch.statement(index), single.statement()) is None
        assert find_difference(batch.log.clicks(index), single.log.clicks()) is None
        assert find_difference(batch.budget_left[index], single.budget_left[0]) is None


@pytest.mark.parametrize("overrides", [{}, POPULATION, {"randomize_structure": True}])
def test_threads_change_nothing(overrides):
    one, two = (small_world(overrides, 5, num_threads=n) for n in (1, 2))
    runs = [campaign(world, 1.0, range(5)) for world in (one, two)]
    assert find_difference(*runs) is None
    assert find_difference(one.get_state(), two.get_state()) is None


def test_randomized_structures_differ_between_episodes():
    world = small_world({"randomize_structure": True})
    features = []
    for seed in (0, 1, 0):
        world.reset(np.array([0]), [seed])
        features.append(world.source.structures[0].item_ids.copy())
    assert find_difference(features[0], features[2]) is None
    assert find_difference(features[0], features[1]) is not None


@pytest.mark.parametrize("overrides", [{}, POPULATION, {"randomize_structure": True}])
def test_worlds_at_different_ticks_equal_single_worlds(overrides):
    # World 1 restarts after 3 ticks of 12 h and world 2 after 5: drift steps (24 h) differ then.
    batch = small_world(overrides, 3)
    batch.reset(np.arange(3), [7, 8, 9])
    singles = [small_world(overrides) for _ in range(3)]
    for world, seed in zip(singles, (7, 8, 9), strict=True):
        world.reset(np.array([0]), [seed])
    for tick in range(8):
        for index, when, seed in ((1, 3, 20), (2, 5, 21)):
            if tick == when:
                batch.reset(np.array([index]), [seed])
                singles[index].reset(np.array([0]), [seed])
        mine, alone = play(batch, 1.0), [play(world, 1.0) for world in singles]
        for index in range(3):
            assert find_difference(one_world(mine, index), one_world(alone[index], 0)) is None
    assert batch.tick.tolist() == [8, 5, 3]
    assert batch.statement(0) == singles[0].statement()


def test_worlds_that_do_not_play_stay_as_they_are():
    batch, single = small_world(num_worlds=2), small_world()
    batch.reset(np.arange(2), [1, 2])
    single.reset(np.array([0]), [2])
    before = batch.drawn.floats[:, 0].copy()
    for _ in range(3):
        mine, alone = play(batch, 1.0, [1]), play(single, 1.0)
        assert find_difference(one_world(mine, 1), one_world(alone, 0)) is None
        assert not mine.won[0].any()
        assert mine.spend[0] == mine.reward[0] == 0
    assert batch.tick.tolist() == [0, 3]
    assert find_difference(batch.drawn.floats[:, 0], before) is None


def test_traffic_does_not_depend_on_the_number_of_slots():
    # All randomness of an impression hangs on its id, tick x 2**24 + position.
    few, many = (small_world({"traffic.slots_per_tick": m}) for m in (128, 192))
    for world in (few, many):
        world.reset(np.array([0]), [0])
    for _ in range(3):
        assert few.drawn.filled == many.drawn.filled
        n = few.drawn.filled[0]
        same = [w.drawn.floats[ARRIVAL, 0, :n] for w in (few, many)]
        assert np.array_equal(*same)
        play(few, 1.0), play(many, 1.0)


def test_accrued_totals_are_those_of_the_statement():
    world = small_world({"campaign.budget": 1e6})
    campaign(world, 5.0)
    accrued = world.ledger.series[0, :, 1 + ACCRUED].sum()
    assert accrued == pytest.approx(world.statement().net_gmv, rel=1e-9)


def test_statement_before_the_end_raises():
    world = small_world()
    world.reset(np.array([0]), [0])
    play(world, 1.0)
    with pytest.raises(RuntimeError, match="not over"):
        world.statement()


@pytest.mark.parametrize("overrides", [POPULATION, {}])
def test_rivals_belong_to_population_markets_only(overrides):
    from adsim.world import World

    config = load("default", SMALL | overrides).world
    rivals = object() if not overrides else None
    with pytest.raises(ValueError, match="rivals must be given"):
        World(config, rivals=rivals)
