"""The vector environments equal Gymnasium's SyncVectorEnv of single ones, infos included."""

from copy import deepcopy
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small_worlds import SMALL_WORLD

from adsim.checks import find_difference
from adsim.rng import generator
from adsim.vector_env import AuctionVectorEnv, PacingVectorEnv
from scenarios import build

SMALL = SMALL_WORLD | {
    "time.num_ticks": 6,
    "traffic.impressions_per_tick": 20,
    "traffic.slots_per_tick": 64,
    "entities.num_scenes": 3,
    "campaign.budget": 200.0,
}
NUM_ENVS = 3
KINDS = {
    "auction": (build.make_auction_env, build.make_auction_vector_env),
    "pacing": (build.make_pacing_env, build.make_pacing_vector_env),
}
VARIANTS = {
    "landscape": {},
    "per_click": {"market.charge": "click", "reward": "accrual", "market.reveal": "all"},
    "population": {"market.kind": "population", "reward": "estimated"},
    "new_structures": {"randomize_structure": True},
}

QUICK = sorted(VARIANTS.keys() - {"new_structures"})  # which calibrates anew at every reset


@cache  # every test resets what it gets: making a world takes 50 ms
def parts(kind, variant):
    """A world of all sub-environments, and single environments."""
    overrides = SMALL | VARIANTS[variant]
    world = KINDS[kind][1](NUM_ENVS, overrides=overrides).world
    return world, [KINDS[kind][0](overrides=overrides) for _ in range(NUM_ENVS)]


def make_pair(kind, mode, variant="landscape"):
    """A vector environment and the same one made of single environments."""
    world, singles = parts(kind, variant)
    vector = {"auction": AuctionVectorEnv, "pacing": PacingVectorEnv}[kind](world, mode)
    return vector, SyncVectorEnv([lambda e=e: e for e in singles], autoreset_mode=mode)


def random_actions(env, rng):
    """Actions that win some auctions and never all the budget at once."""
    if isinstance(env.single_action_space.low.flat[0], np.float32):
        return rng.uniform(-1, 0.5, env.action_space.shape).astype(np.float32)
    return rng.uniform(0, 8, env.action_space.shape)


def plain(value):
    """Dict entries in order of their names: Gymnasium and adsim may insert them differently."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(plain(part) for part in value)
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [plain(part) for part in value]
    return value


def assert_same(mine, theirs, when):
    assert find_difference(plain(mine), plain(theirs), when) is None


@pytest.mark.parametrize(
    ("mode", "variant"),
    [
        *((AutoresetMode.NEXT_STEP, variant) for variant in QUICK),
        *((AutoresetMode.SAME_STEP, variant) for variant in QUICK),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_single_environments(kind, mode, variant):
    vector, singles = make_pair(kind, mode, variant)
    assert vector.observation_space == singles.observation_space
    assert vector.action_space == singles.action_space
    assert vector.single_observation_space == singles.single_observation_space
    assert vector.single_action_space == singles.single_action_space
    assert_same(vector.reset(seed=5), singles.reset(seed=5), "reset")
    rng, ends = generator(0, 1), 0
    for step in range(17):  # two and a half episodes; a reset takes a step in NEXT_STEP
        actions = random_actions(vector, rng)
        mine, theirs = vector.step(actions), singles.step(actions)
        assert_same(mine, theirs, f"step {step}")
        assert vector.observation_space.contains(mine[0])
        ends += mine[2].sum()
    assert ends == 2 * NUM_ENVS
    assert mine[1].any()
    # The next reset goes on from there, with new seeds or the generators as they are.
    assert_same(vector.reset(), singles.reset(), "second reset")
    assert_same(vector.reset(seed=[9, None, 2]), singles.reset(seed=[9, None, 2]), "seeds")
    actions = random_actions(vector, rng)
    assert_same(vector.step(actions), singles.step(actions), "last step")


@pytest.mark.parametrize(
    ("kind", "variant"),
    [*((kind, variant) for kind in KINDS for variant in QUICK), ("auction", "new_structures")],
)
def test_equals_single_environments_with_reset_masks(kind, variant):
    vector, singles = make_pair(kind, AutoresetMode.DISABLED, variant)
    assert_same(vector.reset(seed=[7, 7, 8]), singles.reset(seed=[7, 7, 8]), "reset")
    # Sub-environments are reset in the middle of episodes: from then on their ticks differ.
    resets = {2: [0], 4: [1], 7: [2], 8: [0], 10: [1], 13: [2], 14: [0]}
    rng = generator(0, 1)
    for step in range(15):
        if step in resets:
            mask = np.isin(np.arange(NUM_ENVS), resets[step])
            seed = [None, 40 + step, None] if step % 2 else None
            pair = []
            for env in (vector, singles):
                options = {"reset_mask": mask.copy()}  # Gymnasium pops the entry
                pair.append(env.reset(seed=seed, options=options))
            assert_same(*pair, f"reset before step {step}")
        if (vector.world.tick == 6).any():
            late = np.flatnonzero(vector.world.tick == 6)
            with pytest.raises(ResetNeeded, match="are over"):
                vector.step(random_actions(vector, rng))
            pair = [
                env.reset(options={"reset_mask": np.isin(np.arange(NUM_ENVS), late)})
                for env in (vector, singles)
            ]
            assert_same(*pair, f"late reset before step {step}")
        actions = random_actions(vector, rng)
        assert_same(vector.step(actions), singles.step(actions), f"step {step}")
    assert len(set(vector.world.tick.tolist())) > 1


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("kind", KINDS)
def test_worlds_at_different_ticks(kind, mode):
    vector, singles = make_pair(kind, mode)
    for env in (vector, singles):
        env.reset(seed=1)
    rng = generator(0, 1)
    for step in range(14):
        if step in (2, 3, 9):
            mask = np.isin(np.arange(NUM_ENVS), [step % NUM_ENVS])
            pair = [env.reset(options={"reset_mask": mask.copy()}) for env in (vector, singles)]
            assert_same(*pair, f"reset before step {step}")
        actions = random_actions(vector, rng)
        assert_same(vector.step(actions), singles.step(actions), f"step {step}")


def test_returned_arrays_do_not_change_later():
    vector, _ = make_pair("auction", AutoresetMode.SAME_STEP)
    rng = generator(0, 1)
    kept = [vector.reset(seed=0)]
    copies = [deepcopy(kept[0])]
    for _ in range(8):
        kept.append(vector.step(random_actions(vector, rng)))
        copies.append(deepcopy(kept[-1]))
    assert_same(tuple(kept), tuple(copies), "history")


@pytest.mark.parametrize(
    "mode", ["vector_entry_point", "sync", pytest.param("async", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("env_id", ["adsim/Auction-v0", "adsim/Pacing-v0"])
def test_make_vec(env_id, mode):
    kwargs = {"scenario": "default", "overrides": SMALL}
    made = gym.make_vec(env_id, num_envs=3, vectorization_mode=mode, **kwargs)
    try:
        expected = gym.make_vec(env_id, num_envs=3, vectorization_mode="sync", **kwargs)
        assert made.num_envs == 3
        assert_same(made.reset(seed=2), expected.reset(seed=2), "reset")
        rng = generator(0, 1)
        for step in range(7):
            actions = random_actions(made, rng)
            assert_same(made.step(actions), expected.step(actions), f"step {step}")
    finally:
        made.close()
    if mode == "vector_entry_point":
        assert isinstance(made.unwrapped, AuctionVectorEnv | PacingVectorEnv)


def test_make_vec_takes_threads_and_one_action_per_scene():
    kwargs = {"overrides": SMALL, "per_scene": True}
    runs = []
    for threads in (1, 2):
        env = gym.make_vec("adsim/Pacing-v0", 5, num_threads=threads, **kwargs)
        assert env.single_action_space.shape == (3,)
        env.reset(seed=0)
        rng = generator(0, 1)
        runs.append([env.step(random_actions(env, rng)) for _ in range(7)])
    assert find_difference(*runs) is None


@pytest.mark.parametrize("kind", KINDS)
def test_statement_campaign_and_oracle_are_those_of_single_environments(kind):
    vector, _ = make_pair(kind, AutoresetMode.DISABLED)
    single = KINDS[kind][0](overrides=SMALL)
    vector.reset(seed=3)
    single.reset(seed=4)
    rng = generator(0, 1)
    for _ in range(6):
        actions = random_actions(vector, rng)
        vector.step(actions)
        single.step(actions[1])
    assert find_difference(vector.campaign(1), single.campaign) is None
    assert vector.statement(1) == single.statement()
    assert vector.statement(0) != vector.statement(1)
    truth = vector.oracle(1).hindsight().net_value
    assert truth == pytest.approx(single.oracle().hindsight().net_value)


@pytest.mark.parametrize(
    ("options", "seed", "message"),
    [
        (None, [1, 2], "seed must have 3 entries, got 2"),
        ({"reset_mask": np.ones(2, bool)}, None, "reset_mask"),
        ({"reset_mask": np.ones(3)}, None, "reset_mask"),
        ({"reset_mask": np.zeros(3, bool)}, None, "reset_mask"),
        ({"unknown": 1}, None, r"options: unknown \['unknown'\]"),
    ],
)
def test_wrong_resets_are_named(options, seed, message):
    vector, _ = make_pair("pacing", AutoresetMode.NEXT_STEP)
    vector.reset(seed=0)
    with pytest.raises(ValueError, match=message):
        vector.reset(options=options, seed=seed)


def test_first_reset_covers_everything():
    vector, _ = make_pair("pacing", AutoresetMode.DISABLED)
    with pytest.raises(ResetNeeded, match="reset"):
        vector.step(np.zeros((3, 1), np.float32))
    with pytest.raises(ResetNeeded, match="all sub-environments"):
        vector.reset(options={"reset_mask": np.array([True, False, True])})


@pytest.mark.parametrize("value", [np.nan, -5.0, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_action_of_one_world_is_named(kind, value):
    vector, _ = make_pair(kind, AutoresetMode.NEXT_STEP)
    vector.reset(seed=0)
    actions = np.zeros(vector.action_space.shape)
    actions[1, 0] = value
    with pytest.raises(ValueError, match=r"must be in \["):
        vector.step(actions)


def test_actions_of_worlds_that_restart_are_ignored():
    # As in Gymnasium: the action of the step in which a sub-environment is reset is not used.
    vector, _ = make_pair("auction", AutoresetMode.NEXT_STEP)
    vector.reset(seed=0)
    for _ in range(6):
        over = vector.step(np.zeros((3, 64)))[2]
    assert over.all()
    rewards, over = vector.step(np.full((3, 64), np.nan))[1:3]
    assert not over.any()
    assert not rewards.any()


@pytest.mark.parametrize("mode", ["SameStep", "NextStep"])
def test_statement_is_that_of_the_last_finished_campaign(mode):
    env = build.make_pacing_vector_env(2, "default", SMALL, autoreset_mode=mode)
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="not finished a campaign"):
        env.statement(0)
    total, over = np.zeros(2), np.zeros(2, dtype=bool)
    while not over.all():
        _, reward, over, _, _ = env.step(np.zeros(env.action_space.shape, np.float32))
        total += reward
    assert [env.statement(i).net_value for i in range(2)] == total.tolist()


def test_threads_agree_when_worlds_are_far_out_of_step():
    # 40 drift steps, more than are kept, and every world at another tick.
    overrides = SMALL | {
        "time.num_ticks": 40,
        "drift.share": 0.5,
        "drift.step_hours": 12.0,
        "entities.num_users": 2_000,
    }
    runs = []
    for threads in (1, 4):
        env = build.make_pacing_vector_env(
            12, "default", overrides, autoreset_mode="Disabled", num_threads=threads
        )
        env.reset(seed=0)
        action, seen = np.zeros(env.action_space.shape, np.float32), []
        for step in range(24):
            seen.append(env.step(action)[0])
            mask = np.arange(12) == step % 12
            env.reset(options={"reset_mask": mask})
        env.close()
        runs.append(np.stack(seen))
    assert np.array_equal(*runs)
