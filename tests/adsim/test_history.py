"""What agents are told before a campaign: the terms and the sample of past auctions."""

import numpy as np
import pytest
from small_worlds import SMALL_WORLD

from adsim.checks import find_difference
from adsim.history import make_campaign, sample_history
from adsim.kernels import PCTR, PRICE, VALUE
from adsim.rng import Stream, derive
from scenarios.build import make_auction_env, make_pacing_env, make_world
from scenarios.schema import load

SMALL = SMALL_WORLD | {
    "traffic.impressions_per_tick": 60,
    "click.ctr": 0.3,
    "campaign.history_auctions": 240,
    "market.population.value_range": [0.1, 1.0],
    "traffic.slots_per_tick": 320,
}
SEED = derive(0, Stream.HISTORY)  # structure seed 0


def small_world(num_worlds=1, **overrides):
    return make_world(load("default", SMALL | overrides).world, num_worlds)


def test_history_visits_ticks_of_an_earlier_week():
    # 240 auctions of 8 ticks: 30 of each, evenly spread, are told and stand for all of them.
    world = small_world(**{"traffic.profile": "flat", "drift.share": 0.0})
    history = sample_history(world, SEED)
    told, weight = [], []
    for tick in range(8):
        world.reset(np.array([0]), [SEED])
        world.tick[0] = tick
        world.redraw(np.array([0]))
        count = int(world.drawn.filled[0])
        kept = np.linspace(0, count - 1, min(count, 30)).astype(int)
        told.append(world.drawn.floats[[PRICE, PCTR, VALUE], 0][:, kept])
        weight.append(np.full(kept.size, count / kept.size))
    price, pctr, value = np.concatenate(told, axis=1)
    for mine, expected in (
        (history.price, price),
        (history.pctr, pctr),
        (history.value, value),
        (history.weight, np.concatenate(weight)),
    ):
        assert np.array_equal(mine, expected)
    assert history.ctr == pytest.approx(np.average(pctr, weights=history.weight))
    assert history.cpc == pytest.approx(np.average(price, weights=history.weight) / history.ctr)


@pytest.mark.parametrize("kind", ["landscape", "population"])
def test_history_before_the_first_episode_is_that_of_the_structure(kind):
    overrides = SMALL | {"market.kind": kind}
    config = load("default", overrides).world
    histories = [
        sample_history(small_world(**overrides), SEED),
        sample_history(small_world(3, **overrides), SEED),
        make_campaign(make_world(config)).price_history,
        make_auction_env(overrides=overrides).campaign.price_history,
        make_pacing_env(overrides=overrides).campaign.price_history,
    ]
    for other in histories[1:]:
        assert find_difference(histories[0], other) is None


def test_every_episode_of_a_landscape_has_a_history_of_its_own():
    env = make_auction_env(overrides=SMALL)
    prices = []
    for seed in (1, 2, 1):
        env.reset(seed=seed)
        prices.append(env.campaign.price_history.price)
    assert not np.array_equal(prices[0][:20], prices[1][:20])
    assert np.array_equal(prices[0], prices[2])


def test_history_leaves_a_landscape_as_it_is():
    world = small_world()
    world.reset(np.array([0]), [5])
    before, drawn = world.get_state(), world.drawn
    sample_history(world, SEED)
    assert find_difference(before, world.get_state()) is None
    assert world.drawn is drawn
    twin = small_world()
    twin.reset(np.array([0]), [5])
    for each in (world, twin):
        each.play(np.full((1, each.num_slots), 1.0), np.array([0]))
    assert find_difference(world.drawn, twin.drawn) is None


def test_history_knows_nothing_of_the_campaigns_drift_and_shocks():
    # A promotion that multiplies prices by 100, and effects that are all new every 12 hours.
    quiet = {"drift.share": 1.0, "drift.time_constant_hours": 0.1, "drift.step_hours": 12.0}
    shock = {"start_hours": 0.0, "end_hours": 96.0, "price": 100.0, "traffic": 2.0, "ctr": 3.0}
    calm, shocked = small_world(**quiet), small_world(**quiet, shocks=[shock])
    one, two = (make_campaign(world) for world in (calm, shocked))
    assert find_difference(one.expected_traffic, two.expected_traffic) is None
    assert find_difference(one.price_history, two.price_history) is None
    for tick in range(8):  # hidden effects of every history tick are those of the start
        with calm.source.rehearsal(0, SEED):
            assert calm.source.groups(np.array([0]), np.array([tick]))[0][1] == 0


def test_history_is_that_of_another_week():
    env = make_auction_env(overrides=SMALL)
    env.reset(seed=0)
    drawn = env.world.drawn.floats[PRICE, 0, :10]
    assert not np.isin(drawn, env.campaign.price_history.price).any()


def test_history_follows_the_prices_of_campaigns():
    # Log prices of 20 episodes against those of the history, weighted: equal means within 4 s.e.
    # (prices of an hour vary together: ticks are the units).
    world = small_world(20, **{"campaign.history_auctions": 8000, "time.num_ticks": 14})
    history = sample_history(world, SEED)
    world.reset(np.arange(20), range(20))
    means, history_mean = [], np.average(np.log(history.price), weights=history.weight)
    for _ in range(14):
        n = world.drawn.filled
        means += [np.log(world.drawn.floats[PRICE, e, : n[e]]).mean() for e in range(20)]
        world.play(np.zeros((20, world.num_slots)), np.arange(20))
    error = np.std(means) / np.sqrt(14)
    assert abs(np.mean(means) - history_mean) < 4 * error


def test_history_of_a_population_holds_rivals_scores():
    history = sample_history(
        small_world(**{"market.kind": "population", "market.reserve": 0.5}), SEED
    )
    assert history.price.min() >= 0.5
    assert (history.price > 0.5).mean() > 0.5


def test_no_history():
    history = sample_history(small_world(**{"campaign.history_auctions": 0}), SEED)
    assert history.price.shape == history.weight.shape == history.pctr.shape == (0,)
    assert np.isnan(history.ctr)
    assert np.isnan(history.cpc)


@pytest.mark.parametrize("wanted", [1, 7, 59, 100_000])
def test_history_of_any_size(wanted):
    world = small_world(**{"campaign.history_auctions": wanted})
    history = sample_history(world, SEED)
    assert 0 < history.price.size <= wanted
    assert (history.weight >= 1).all()
    assert np.isfinite([history.ctr, history.cpc]).all()
    assert all(np.isfinite(part).all() for part in history[:4])


def test_campaign_states_its_terms():
    overrides = {
        "campaign.budget": 123.0,
        "campaign.margin": 0.4,
        "campaign.max_bid": 7.0,
        "campaign.targets.net_roas": 2.5,
        "windows.gmv_hours": 240.0,
        "market.mechanism": "first_price",
        "market.charge": "click",
    }
    world = small_world(**overrides)
    campaign = make_campaign(world)
    assert (campaign.budget, campaign.margin, campaign.max_bid) == (123.0, 0.4, 7.0)
    assert (campaign.num_ticks, campaign.tick_hours) == (8, 12.0)
    assert (campaign.mechanism, campaign.charge) == ("first_price", "click")
    assert campaign.targets == (np.inf, np.inf, 2.5)
    assert campaign.windows == (72.0, 240.0, 72.0)
    assert campaign.expected_traffic.sum() == pytest.approx(world.source.expected_traffic.sum())
    with pytest.raises(ValueError, match="read-only"):
        campaign.expected_traffic[:] = 0
