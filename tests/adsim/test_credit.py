"""Estimated rewards: credited at the click, corrected when its windows are closed, same sum."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_worlds import SMALL_WORLD
from value_sources import Constant

from adsim.checks import find_difference
from adsim.config import CampaignConfig, TimeConfig, WorldConfig
from adsim.credit import CreditBook
from adsim.env import AuctionEnv, PacingEnv
from adsim.feedback import NOTHING, Released
from adsim.rng import ID_STRIDE, generator
from adsim.types import EventKind
from scenarios.build import make_auction_env, make_world
from scenarios.schema import load

# Windows of 72 h to buy, 72 h to buy again and 72 h to return: 144 h, which are six ticks.
LONG = SMALL_WORLD | {"time.num_ticks": 12, "time.tick_hours": 24.0, "windows.gmv_hours": 72.0}
LONG |= {"reward": "estimated", "campaign.budget": 2_000.0}
FIRST = np.array([0])


def book():
    """Four ticks, margin .5; a click's last event comes two ticks later."""
    terms, clock = CampaignConfig(margin=0.5), TimeConfig(num_ticks=4, tick_hours=120.0)
    return CreditBook(WorldConfig(time=clock, campaign=terms), 2)


def events(*rows):
    """Of (world, tick of the click, kind, amount)."""
    world, tick, kind, amount = (np.array(column) for column in zip(*rows, strict=True))
    nothing = np.zeros(world.size)
    return Released(
        *(world, nothing, kind.astype(np.int8), tick * ID_STRIDE + 7),
        *(np.zeros(world.size, np.int16), amount.astype(float), tick),
    )


def post(books, tick, clicked=(), value=(), seen=NOTHING, worlds=(0, 1)):
    return books.post(
        np.array(worlds), np.full(2, tick), np.array(clicked, int), np.array(value, float), seen
    ).tolist()


def test_clicks_are_settled_when_their_windows_are_closed():
    # 168 + 72 hours after the click nothing can come any more: two ticks of 120 hours.
    books, buy, back = book(), EventKind.PURCHASE, EventKind.REFUND
    assert books.open_ticks == 2
    # Two clicks of world 0 are credited with 6 + 4; one brings 30 at once, of which half is profit.
    seen = events((0, 0, EventKind.CLICK, 0.0), (0, 0, buy, 30.0))
    assert post(books, 0, [0, 0], [6, 4], seen) == [[10, 0], [0, 0]]
    # A click in each world, and the refund of the first purchase: nothing is due yet.
    assert post(books, 1, [0, 1], [5, 3], events((0, 0, back, 30.0))) == [[5, 3], [0, 0]]
    # The clicks of tick 0 have brought nothing: 0 - 10.
    assert post(books, 2) == [[0, 0], [-10, 0]]
    # The end: 0.5 x 20 - 5 in world 0, 0.5 x 8 - 3 - 2 in world 1, for two clicks.
    seen = events((0, 1, buy, 20.0), (1, 1, buy, 8.0))
    assert post(books, 3, [1], [2], seen) == [[0, 2], [5, -1]]
    assert books.earned.tolist() == [[10, 5, -10, 5], [0, 3, 0, 1]]
    assert books.earned.sum(axis=1).tolist() == [10, 4]  # half of 20, and of 8


def test_events_of_settled_clicks_are_paid_as_they_come():
    books = book()
    post(books, 0, [0], [6])
    assert post(books, 2) == [[0, 0], [-6, 0]]
    late = events((0, 0, EventKind.PURCHASE, 8.0))
    assert post(books, 3, seen=late) == [[0, 0], [4, 0]]


def test_worlds_that_do_not_play_are_left_alone():
    books = book()
    post(books, 0, [0, 1], [6, 2])
    kept = books.get_state()
    assert post(books, 3, worlds=[0]) == [[0, 0], [-6, 0]]
    books.reset(np.array([0]))
    state = books.get_state()
    assert not any(array[0].any() for array in state.values())
    assert find_difference(state["booked"][1], kept["booked"][1]) is None
    books.set_state(kept)
    assert find_difference(books.get_state(), kept) is None


def test_first_reward_is_the_platforms_value_of_the_clicks_less_the_spend():
    env = make_auction_env(overrides=LONG)
    obs, _ = env.reset(seed=4)
    worth = obs["pcvr"] * obs["list_price"] * env.campaign.margin
    bids = np.minimum(2 * worth * obs["pctr"], env.campaign.max_bid)
    _, reward, _, _, info = env.step(bids)
    result, terms = info["result"], info["reward_terms"]
    assert result.clicked.sum() > 3
    assert terms["credit"] == pytest.approx(worth[result.clicked].sum())
    assert terms["correction"] == 0
    assert terms["spend"] == pytest.approx(-result.price[result.won].sum())
    assert reward == pytest.approx(sum(terms.values()))


def test_corrections_are_what_was_observed_less_what_was_credited():
    env = make_auction_env(overrides=LONG)
    obs, _ = env.reset(seed=4)
    credited, observed = np.zeros(12), np.zeros(12)
    for tick in range(12):
        obs, reward, _, _, info = env.step(np.minimum(0.8 * value(env, obs), 100.0))
        terms, seen = info["reward_terms"], info["feedback"]
        assert reward == pytest.approx(sum(terms.values()))
        credited[tick] = terms["credit"]
        sign = np.array([0, 1, -1])[seen.kind]
        np.add.at(observed, seen.click_id // ID_STRIDE, 0.3 * sign * seen.amount)
        settled = slice(tick - 6, tick - 5) if tick >= 6 else slice(0)
        if tick == 11:
            settled = slice(5, 12)
        gap = (observed - credited)[settled].sum()
        assert terms["correction"] == pytest.approx(gap, abs=1e-9)
    assert (credited > 0).all()
    earned = env.world.credits.earned[0]
    assert earned.sum() == pytest.approx(observed.sum())


def value(env, obs):
    return obs["pctr"] * obs["pcvr"] * obs["list_price"] * env.campaign.margin


@cache  # making a world takes 50 ms
def world_of(market, reward):
    """Reset before use; prices of others, per impression or click, or a population."""
    rules = {"market.kind": "population"} if market == "population" else {"market.charge": market}
    return make_world(load("default", SMALL_WORLD | rules | {"reward": reward}).world)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    scale=st.floats(0, 1e3),
    market=st.sampled_from(["impression", "click", "population"]),
)
def test_whatever_is_predicted_the_sum_is_the_net_value(seed, scale, market):
    rng, totals = generator(seed, 1), []
    for reward in ("cash", "estimated"):
        world, bids = world_of(market, reward), generator(seed, 2)
        world.reset(FIRST, [seed])
        total = 0.0
        for _ in range(world.num_ticks):
            said = scale * rng.exponential(size=(1, world.num_slots))
            outcome = world.play(bids.uniform(0, 8, said.shape), FIRST, said)
            assert outcome.reward[0] == pytest.approx(outcome.credit.sum() - outcome.spend[0]) or (
                reward == "cash"
            )
            total += outcome.reward[0]
        assert world.statement().net_value == total
        totals.append(total)
    size = abs(totals[0]) + world.statement().spend + world.credits.earned.max()
    assert totals[1] == pytest.approx(totals[0], rel=1e-9, abs=1e-12 * size)


@pytest.mark.parametrize("make", [AuctionEnv, PacingEnv])
def test_credit_is_that_of_the_value_source(make):
    # Worth 20 if shown and clicked with probability .25: 80 at a click.
    world = make_world(load("default", LONG).world)
    env = make(world, value_source=Constant(20.0, ctr=0.25))
    obs, _ = env.reset(seed=1)
    action = np.full(128, 20.0) if make is AuctionEnv else np.array([0.0])
    if make is AuctionEnv:
        assert obs["expected_net_value"].max() == 20.0
        assert env.observation_space.contains(obs)
    _, _, _, _, info = env.step(action)
    clicks = world.ledger.total("clicks")
    assert clicks > 2
    assert info["reward_terms"]["credit"] == pytest.approx(80 * clicks)


def test_credit_can_be_handed_over_for_one_tick():
    env = make_auction_env(overrides=LONG)
    obs, _ = env.reset(seed=4)
    bids = np.minimum(2 * value(env, obs), 100.0)
    env.credit(np.full(128, 5.0))
    _, _, _, _, info = env.step(bids)
    assert info["reward_terms"]["credit"] == 5 * info["result"].clicked.sum() > 0
    _, _, _, _, info = env.step(bids)
    assert info["reward_terms"]["credit"] != 5 * info["result"].clicked.sum()
