"""The truth against realised outcomes, and the hindsight bound."""

import numpy as np
import pytest
from small_worlds import SMALL_WORLD

from adsim.kernels import PRICE, VALUE
from adsim.ledger import COLUMN
from adsim.oracle import Oracle
from adsim.types import EventKind
from agents.value import LinearAgent
from scenarios.build import make_agent, make_auction_env, make_world
from scenarios.schema import load

SMALL = SMALL_WORLD | {
    "traffic.impressions_per_tick": 60,
    "click.ctr": 0.3,
    "conversion.cvr": 0.4,
    "campaign.budget": 800.0,
    "campaign.history_auctions": 400,
    "market.population.budget_range": [500.0, 4000.0],
    "traffic.slots_per_tick": 320,
}
TEN_DAYS = {"time.num_ticks": 20, "traffic.impressions_per_tick": 150, "campaign.budget": 4000.0}


def small_world(overrides, num_worlds=1, **options):
    return make_world(load("default", SMALL | overrides).world, num_worlds, **options)


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {
            "refund.rate": 0.5,
            "refund.amount_dependence": 0.5,
            "effects.unseen_intent_conversion": 1.0,
            "effects.unseen_intent_refund": -1.0,
            "effects.unseen_intent_repurchase": 1.0,
            "drift.share": 0.8,
        },
        {
            "purchase.repurchase_rate": 0.9,
            "purchase.continuation": 0.8,
            "purchase.max_purchases": 3,
            "market.exposure": [0.6],
            "shocks": [{"start_hours": 24, "end_hours": 60, "cvr": 2.0, "refund": 2.0}],
        },
    ],
)
def test_truth_is_calibrated(overrides):
    # Every auction is won; expected minus realised counts and sums of 150 episodes, which are
    # independent given the structure, must be 0 on average within 4 standard errors.
    num = 150
    rich = {"campaign.budget": 1e9, "campaign.max_bid": 1e6}
    world = small_world(overrides | rich, num)
    everyone = np.arange(num)
    world.reset(everyone, everyone)
    expected, realised = np.zeros((5, num)), np.zeros((5, num))
    bids = np.full((num, world.num_slots), 1e6)
    for _ in range(world.num_ticks):
        truth = world.source.truth(everyone, world.tick, world.drawn)
        outcome = world.play(bids, everyone)
        p_click, p_convert, p_refund, gmv, net_gmv = truth * outcome.won
        parts = (1.0, p_convert, p_convert * p_refund, gmv, net_gmv)
        expected += np.stack([(p_click * part).sum(axis=1) for part in parts])
    events = world.log._events
    first = events["order_id"] == 0
    kinds = [events["kind"] == kind for kind in EventKind]
    for row, which in enumerate((kinds[0], kinds[1] & first, kinds[2] & first)):
        realised[row] = np.bincount(events["world"][which], minlength=num)
    for kind, sign, rows in ((1, 1, (3, 4)), (2, -1, (4,))):
        amount = events["amount"] * sign * kinds[kind]
        for row in rows:
            realised[row] += np.bincount(events["world"], amount, minlength=num)
    error = realised - expected
    z = error.mean(axis=1) / (error.std(axis=1) / np.sqrt(num))
    assert realised.sum(axis=1).min() > 1000
    assert np.abs(z).max() < 4, dict(zip(("click", "buy", "refund", "gmv", "net"), z, strict=True))


def test_expected_conversions_in_the_ledger_are_calibrated():
    world = small_world({"campaign.budget": 1e9}, 100)
    everyone = np.arange(100)
    world.reset(everyone, everyone)
    for _ in range(world.num_ticks):
        world.play(world.drawn.floats[VALUE] * 3, everyone)
    totals = world.ledger.series.sum(axis=1)
    pairs = (("expected_clicks", "clicks"), ("expected_gmv", "gmv"))
    for name, seen in pairs:
        error = totals[:, COLUMN[seen]] - totals[:, COLUMN[name]]
        assert abs(error.mean()) < 4 * error.std() / 10
    first = (world.log._events["order_id"] == 0) & (world.log._events["kind"] == 1)
    bought = np.bincount(world.log._events["world"][first], minlength=100)
    error = bought - totals[:, COLUMN["expected_conversions"]]
    assert abs(error.mean()) < 4 * error.std() / 10


@pytest.mark.parametrize(
    "overrides", [{}, {"market.exposure": [0.5]}, {"market.kind": "population"}]
)
def test_statement_expects_the_truth_of_what_was_won(overrides):
    env = make_auction_env(overrides=SMALL | overrides)
    env.reset(seed=3)
    value = gmv = 0.0
    for _ in range(8):
        truth, bids = env.oracle().truth(), 1.5 * env.world.drawn.floats[VALUE, 0]
        assert truth.net_value == pytest.approx(env.oracle().expected_net_value())
        won = env.step(np.minimum(bids, 100.0))[-1]["result"].won
        value += truth.net_value[won].sum()
        gmv += (truth.p_click * truth.gmv)[won].sum()
    closing = env.statement()
    assert closing.wins > 20
    assert closing.expected_net_value == pytest.approx(value - closing.spend)
    assert closing.expected_gmv == pytest.approx(gmv)


def test_truth_of_padding_is_zero_and_probabilities_are_probabilities():
    env = make_auction_env(overrides=SMALL)
    obs, _ = env.reset(seed=0)
    truth, real = env.oracle().truth(), obs["mask"] > 0
    for name in ("p_click", "p_convert", "p_refund"):
        part = getattr(truth, name)
        assert ((part[real] > 0) & (part[real] < 1)).all()
    assert (truth.net_gmv < truth.gmv)[real].all()
    assert (truth.net_value == 0.3 * truth.p_click * truth.net_gmv).all()
    assert not any(part[~real].any() for part in truth)
    # Without platform noise the platform's estimates are the truth.
    assert truth.p_click == pytest.approx(obs["pctr"])
    assert truth.p_convert == pytest.approx(obs["pcvr"], rel=1e-3)


def play(env, agent, seed):
    """One campaign's statement."""
    obs, info = env.reset(seed=seed)
    agent.reset(env.campaign, seed=seed)
    if agent.privileged:
        agent.attach(env.oracle())
    agent.observe(info)
    over = False
    while not over:
        obs, _, over, _, info = env.step(agent.act(obs))
        agent.observe(info)
    return env.statement()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"market.mechanism": "first_price"},
        {"campaign.budget": 1e6, "market.reserve": 3.0},
        {"platform_noise.ctr_sd": 1.0},
    ],
)
def test_hindsight_bounds_every_agent(overrides):
    env = make_auction_env(overrides=SMALL | TEN_DAYS | overrides)
    for seed in (0, 1):
        env.reset(seed=seed)
        bound = env.oracle().hindsight()
        assert bound.spend <= env.campaign.budget * (1 + 1e-9)
        for name in ("value", "dual", "linear", "hindsight"):
            closing = play(env, make_agent(name), seed)
            assert closing.expected_net_value <= bound.net_value * (1 + 1e-9)
            assert env.oracle().hindsight().net_value == bound.net_value  # whatever was played


@pytest.mark.parametrize("overrides", [{}, {"campaign.budget": 1e6}, {"market.reserve": 3.0}])
def test_bid_of_the_hindsight_multiplier_reaches_the_bound(overrides):
    env = make_auction_env(overrides=SMALL | TEN_DAYS | overrides)
    for seed in range(3):
        closing = play(env, make_agent("hindsight"), seed)
        bound = env.oracle().hindsight()
        assert closing.expected_net_value >= 0.99 * bound.net_value
        binding = env.campaign.budget < 1e6
        assert (bound.multiplier > 0) == binding
        assert env.oracle().hindsight_multiplier() == bound.multiplier


def test_bound_in_a_population_uses_the_recorded_prices():
    poor = {"market.kind": "population", "market.population.budget_range": [50.0, 400.0]}
    overrides = SMALL | TEN_DAYS | poor
    env = make_auction_env(overrides=overrides, record_prices=True)
    for silent in (env, make_auction_env(overrides=overrides)):
        silent.reset(seed=0)
        with pytest.raises(ValueError, match="record_prices"):
            silent.oracle().hindsight()
    bounds = []
    for factor in (0.2, 2.0):
        closing = play(env, LinearAgent(multiplier=factor), 0)
        bounds.append(env.oracle().hindsight().net_value)
        assert 0 < closing.expected_net_value <= bounds[-1]
    assert bounds[0] != bounds[1]  # rivals react: the price paths differ
    assert np.isnan(env.oracle().price_to_beat()).all()


def test_recorded_bound_survives_a_restore_or_says_that_it_is_lost():
    overrides = SMALL | {"market.kind": "population"}
    env, other = (make_auction_env(overrides=overrides, record_prices=True) for _ in range(2))
    other.reset(seed=7)
    env.reset(seed=0)
    for tick in range(8):
        if tick == 4:
            other.set_state(env.get_state())
        for each in (env, other) if tick >= 4 else (env,):
            each.step(np.full(each.action_space.shape, 3.0))
    try:
        bound = other.oracle().hindsight().net_value
    except ValueError:
        return
    assert bound == env.oracle().hindsight().net_value


def test_recorded_bound_survives_the_reset_of_other_worlds():
    world = small_world({"market.kind": "population"}, 2, record_prices=True)
    world.reset(np.arange(2), [0, 1])
    for _ in range(4):
        world.play(np.full((2, world.num_slots), 3.0), np.arange(2))
    bounds = [Oracle(world, 0).hindsight().net_value]
    world.reset(np.array([1]), [5])
    bounds.append(Oracle(world, 0).hindsight().net_value)
    assert bounds[0] == bounds[1]
    with pytest.raises(ValueError, match="record"):
        Oracle(world, 1).hindsight()  # of which nothing has been recorded yet


def test_bound_in_a_population_has_one_slot():
    slots = {"market.mechanism": "gsp", "market.exposure": [1.0, 0.5], "market.kind": "population"}
    env = make_auction_env(overrides=SMALL | slots, record_prices=True)
    play(env, make_agent("value"), 0)
    with pytest.raises(ValueError, match="one slot"):
        env.oracle().hindsight()


@pytest.mark.parametrize("charge", ["impression", "click"])
def test_episode_market_is_what_winning_everything_brings(charge):
    # the value of every auction at the moment it is played, and the price of each, summed
    rich = {"campaign.budget": 1e9, "campaign.max_bid": 1e6, "market.charge": charge}
    env = make_auction_env(overrides=SMALL | rich | {"market.exposure": [0.5]})
    env.reset(seed=3)
    market = env.oracle().episode_market()
    parts = []
    for _ in range(8):
        truth, price = env.oracle().truth(), env.oracle().price_to_beat()
        kept = truth.p_click * truth.p_convert * (1 - truth.p_refund)
        real = truth.p_click > 0
        ratio = env.world.cost_ratio(env.world.drawn, 0)
        parts.append([truth.net_value[real], ratio * price[real], truth.p_click[real], kept[real]])
        env.step(np.full(env.action_space.shape, 1e3))
    played = (0.5 * np.concatenate(part) for part in zip(*parts, strict=True))
    for found, expected in zip(market, played, strict=True):
        assert found == pytest.approx(expected)


def test_episode_market_is_unknown_in_a_population():
    env = make_auction_env(overrides=SMALL | {"market.kind": "population"})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not known in advance"):
        env.oracle().episode_market()


def test_price_to_beat_decides_who_wins():
    env = make_auction_env(overrides=SMALL | {"market.reserve": 3.0, "campaign.budget": 1e6})
    obs, _ = env.reset(seed=0)
    price, real = env.oracle().price_to_beat(), obs["mask"] > 0
    assert price[real].min() >= 3.0
    assert np.array_equal(price[real], np.maximum(env.world.drawn.floats[PRICE, 0, real], 3.0))
    bids = np.minimum(np.where(np.arange(real.size) % 2, price, price * (1 - 1e-9)), 100.0)
    result = env.step(bids)[-1]["result"]
    reachable = real & (price <= 100.0)
    assert np.array_equal(result.won[reachable], np.arange(real.size)[reachable] % 2 == 1)
    assert np.array_equal(result.price[result.won], price[result.won])


def test_oracle_of_a_batch_is_that_of_single_worlds():
    batch = small_world({}, 3)
    batch.reset(np.arange(3), [5, 6, 7])
    single = small_world({})
    single.reset(np.array([0]), [6])
    mine, alone = Oracle(batch, 1), Oracle(single)
    assert all(np.array_equal(a, b) for a, b in zip(mine.truth(), alone.truth(), strict=True))
    assert mine.hindsight().net_value == alone.hindsight().net_value


def test_bound_per_click_counts_the_expected_cost():
    # A click priced at w / pCTR is due with probability P(click): with noisy pCTR the cost of
    # winning is not w. The agent that knows this stays close to the bound.
    overrides = SMALL | {"market.charge": "click", "platform_noise.ctr_sd": 1.0}
    env = make_auction_env(overrides=overrides | {"campaign.budget": 1e6})
    shares = []
    for seed in range(4):
        statement = play(env, make_agent("hindsight"), seed)
        shares.append(statement.expected_net_value / env.oracle().hindsight().net_value)
    assert np.mean(shares) == pytest.approx(1.0, abs=0.15)


def test_hindsight_multiplier_is_unknown_in_a_population():
    env = make_auction_env(overrides=SMALL | {"market.kind": "population"}, record_prices=True)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="not known in advance in a population market"):
        env.oracle().hindsight_multiplier()
