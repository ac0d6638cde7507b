"""The features of Pacing-v0: their space, hand-worked values, memory of the last tick."""

import numpy as np
import pytest
from small_worlds import SMALL_WORLD
from value_sources import Constant

from adsim.checks import find_difference
from adsim.env import PacingEnv
from adsim.kernels import VALUE
from adsim.observation import PACING_SIZE, PacingFeatures
from adsim.rng import generator
from scenarios.build import make_auction_env, make_pacing_env

SMALL = SMALL_WORLD | {
    "campaign.history_auctions": 400,
}


def make(**overrides):
    return make_pacing_env(overrides=SMALL | overrides)


def squash(x):
    return x / (1 + abs(x))


def named(obs):
    return PacingFeatures(*obs.astype(np.float64))


def test_entries_are_those_of_the_space():
    env = make()
    obs, _ = env.reset(seed=0)
    assert env.observation_space.shape == obs.shape == (PACING_SIZE,) == (22,)
    assert obs.dtype == np.float32
    low, high = env.observation_space.low, env.observation_space.high
    assert set(low.tolist()) == {-1.0, 0.0}
    assert (high == 1).all()


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"campaign.budget": 1e-6},
        {"campaign.budget": 1e9, "market.landscape.median": 1e-3},
        {"market.mechanism": "first_price", "market.charge": "click"},
        {"market.kind": "population", "traffic.impressions_per_tick": 0.5},
        {"campaign.history_auctions": 0},
        {"refund.rate": 0.99, "reward": "accrual"},
        {"time.start_hour_of_week": 167.0, "time.tick_hours": 200.0},
    ],
)
def test_features_stay_in_their_space(overrides):
    env, rng = make(**overrides), generator(0, 1)
    for episode in range(3):
        obs, _ = env.reset(seed=episode)
        over = False
        while not over:
            assert env.observation_space.contains(obs)
            assert np.isfinite(obs).all()
            obs, _, over, _, _ = env.step(rng.uniform(-1, 1, 1))
        assert env.observation_space.contains(obs)


def test_features_at_reset():
    # Tick 0 is Monday 0 h to 12 h: its middle, 6 h, is a quarter of the day and 6 / 168 of the
    # week. Nothing has been spent, won or seen.
    env = make(**{"traffic.profile": "flat"})
    f = named(env.reset(seed=0)[0])
    assert (f.time_left, f.budget_left) == (1, 1)
    zeros = ("spend_last", "spend_last_3", "win_rate_last", "win_rate_last_3", "mean_value_won")
    zeros += ("price_q10", "price_q50", "price_q90", "clicks_last_3", "pending_value")
    zeros += ("matured_value", "refund_share", "last_action")
    assert all(getattr(f, name) == 0 for name in zeros)
    n = env.world.drawn.filled[0]
    assert f.impressions == pytest.approx(n / 128)
    assert f.expected_traffic == 1
    assert (f.hour_sin, f.hour_cos) == pytest.approx((1, 0), abs=1e-6)
    angle = 2 * np.pi * 6 / 168
    assert (f.week_sin, f.week_cos) == pytest.approx((np.sin(angle), np.cos(angle)))
    history = env.view.campaign.price_history  # of the structure: the scale stays the same
    scale = np.average(history.value, weights=history.weight)
    value = env.world.drawn.floats[VALUE, 0, :n].mean()
    assert f.mean_value == pytest.approx(squash(value / scale))


def test_features_after_two_ticks():
    rich = {"campaign.budget": 3000.0}
    env, twin = make(**rich), make_auction_env(overrides=SMALL | rich)
    env.reset(seed=1)
    twin.reset(seed=1)
    world, prices, values, spends = env.world, [], [], []
    counts = []
    for action in (0.5, -0.2):
        worth = world.drawn.floats[VALUE, 0].copy()
        counts.append(world.drawn.filled[0])
        obs = env.step(np.array([action]))[0]
        # The bids are value x 10 ** action: the same auctions in Auction-v0.
        result = twin.step(np.minimum(worth * 10.0**action, 100.0))[-1]["result"]
        prices, values = np.sort(result.price[result.won]), worth[result.won]
        spends.append(prices.sum())
        counts.append(result.won.sum())
    f = named(obs)
    budget, margin, traffic = 3000.0, 0.3, env.campaign.expected_traffic
    plan = budget * traffic / traffic.sum()
    history = env.view.campaign.price_history  # of the structure: the scale stays the same
    scale = np.average(history.value, weights=history.weight)
    assert f.time_left == 0.75
    assert f.budget_left == pytest.approx(1 - sum(spends) / budget)
    assert f.spend_last == pytest.approx(squash(spends[1] / plan[1]))
    assert f.spend_last_3 == pytest.approx(squash(sum(spends) / (plan[0] + plan[1])))
    assert f.win_rate_last == pytest.approx(counts[3] / counts[2])
    assert f.win_rate_last_3 == pytest.approx((counts[1] + counts[3]) / (counts[0] + counts[2]))
    assert f.mean_value_won == pytest.approx(squash(values.mean() / scale))
    for name, share in (("price_q10", 0.1), ("price_q50", 0.5), ("price_q90", 0.9)):
        quantile = prices[int(share * prices.size)]
        assert getattr(f, name) == pytest.approx(squash(quantile / scale))
    assert f.last_action == pytest.approx(-0.2)
    clicks, wins = len(world.log.clicks().impression_id), counts[1] + counts[3]
    assert f.clicks_last_3 == pytest.approx(squash(clicks / wins / history.ctr))
    seen = world.log.as_of(np.inf)
    gmv, refunded = (seen.amount[seen.kind == kind].sum() for kind in (1, 2))
    # Refund windows of 72 h = 6 ticks: all is pending, so that only spend has matured.
    assert f.pending_value == pytest.approx(squash(margin * (gmv - refunded) / budget))
    assert f.matured_value == pytest.approx(squash(-sum(spends) / budget), rel=1e-5)
    assert f.refund_share == pytest.approx(refunded / gmv)


def test_everything_has_matured_at_the_end():
    env = make()
    env.reset(seed=1)
    for _ in range(8):
        obs = env.step(np.array([0.0]))[0]
    f, closing = named(obs), env.statement()
    assert f.pending_value == pytest.approx(0, abs=1e-9)
    assert f.matured_value == pytest.approx(squash(closing.net_value / closing.budget), rel=1e-5)
    assert f.refund_share == pytest.approx(closing.refunded / closing.gmv)
    assert (f.time_left, f.impressions, f.expected_traffic) == (0, 0, 0)


def test_one_action_per_scene():
    env = make_pacing_env(overrides=SMALL | {"entities.num_scenes": 3}, per_scene=True)
    env.reset(seed=0)
    assert env.action_space.shape == (3,)
    world = env.world
    scene = world.source.scenes(world.drawn.ints[1])[0]
    value, wanted = world.drawn.floats[VALUE, 0], np.array([-1.0, 0.0, 1.0])
    bids = env.view.bids(wanted[None], np.array([True]))
    assert bids[0] == pytest.approx(np.minimum(value * 10.0 ** wanted[scene], 100.0))
    assert len(set(scene.tolist())) == 3


def test_values_can_come_from_elsewhere():
    source = Constant(7.0)
    env = PacingEnv(make().world, value_source=source)
    env.reset(seed=0)
    n = env.world.drawn.filled[0]
    bids = env.view.bids(np.array([[0.0]]), np.array([True]))[0]
    assert bids.tolist() == [7.0] * n + [0.0] * (128 - n)
    for _ in range(3):
        env.step(np.array([0.1]))
    assert (source.asked, source.noted) == (4, 3)  # once per observation


def test_bids_per_click_are_values_of_a_click():
    env = make(**{"market.charge": "click"})
    env.reset(seed=0)
    n, floats = env.world.drawn.filled[0], env.world.drawn.floats
    bids = env.view.bids(np.array([[0.0]]), np.array([True]))[0]
    auction = make_auction_env(overrides=SMALL | {"market.charge": "click"})
    obs, _ = auction.reset(seed=0)
    worth = 0.3 * obs["pcvr"] * obs["list_price"]  # per click, margin .3
    assert bids[:n] == pytest.approx(np.minimum(worth[:n], 100.0))
    assert floats[VALUE, 0, :n] == pytest.approx(worth[:n] * obs["pctr"][:n])
    assert not bids[n:].any()


def test_observations_share_nothing_with_the_world():
    # A view of the world's arrays would let users change the auction, and `.base` of the view
    # would show them the price to beat.
    per_click = SMALL | {"market.charge": "click"}
    env, twin = make_auction_env(overrides=per_click), make_auction_env(overrides=per_click)
    obs, _ = env.reset(seed=0)
    twin.reset(seed=0)
    for part in obs.values():
        assert not np.shares_memory(part, env.world.drawn.floats)
        assert part.base is None or not np.shares_memory(part.base, env.world.drawn.floats)
        part[:] = 0
    steps = [each.step(np.full(128, 20.0)) for each in (env, twin)]
    assert find_difference(*steps) is None


def test_bids_per_click_use_the_click_rate_of_the_value():
    # A click is worth 2 / .5 = 4 by the source, whatever the platform's CTR is.
    per_click = {"market.charge": "click", "platform_noise.ctr_sd": 1.0}
    env = make(**per_click)
    env = PacingEnv(env.world, value_source=Constant(2.0, ctr=0.5))
    env.reset(seed=0)
    bids = env.view.bids(np.zeros((1, 1)), np.array([True]))[0]
    real = np.arange(bids.size) < env.world.drawn.filled[0]
    np.testing.assert_allclose(bids[real], 4.0)
    assert not bids[~real].any()


def test_rewards_made_of_the_truth_are_privileged():
    assert not make().privileged
    assert make(reward="accrual").privileged
