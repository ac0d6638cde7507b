"""The adapter to stable-baselines3's vector environments."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from small_worlds import SMALL_WORLD
from stable_baselines3.common.env_checker import check_env

from scenarios.build import make_pacing_vector_env
from scenarios.policy import policy_input
from scenarios.rl import PacingVecEnv

TICKS = SMALL_WORLD["time.num_ticks"]
BUDGET = SMALL_WORLD["campaign.budget"]


def make(num_envs=3, reference=None, **overrides):
    env = make_pacing_vector_env(
        num_envs, "default", SMALL_WORLD | overrides, autoreset_mode="SameStep"
    )
    return PacingVecEnv(env, reference)


@pytest.mark.parametrize("per_scene", [False, True])
def test_single_environment_passes_the_library_check_without_warnings(per_scene):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make("adsim/Pacing-v0", overrides=SMALL_WORLD, per_scene=per_scene))


def test_adapter_plays_what_the_vector_environment_plays():
    env, plain = make(), make().env
    env.seed(5)
    inputs = env.reset()
    obs, _ = plain.reset(seed=5)
    np.testing.assert_array_equal(inputs, policy_input(obs))
    actions = np.array([[-0.3], [0.0], [0.2]], np.float32)
    for tick in range(2 * TICKS):
        inputs, rewards, dones, infos = env.step(actions)
        obs, reward, terminated, _, told = plain.step(actions)
        np.testing.assert_array_equal(inputs, policy_input(obs))
        np.testing.assert_allclose(rewards, reward / BUDGET, rtol=1e-6)
        np.testing.assert_array_equal(dones, terminated)
        assert dones.all() == (tick % TICKS == TICKS - 1)
        for e, info in enumerate(infos):
            if not dones[e]:
                assert info == {}
                continue
            last = policy_input(told["final_obs"][e][None])[0]
            np.testing.assert_array_equal(info["terminal_observation"], last)
            assert last[0] == 0.0  # no time left; the new campaign has all of it
            assert inputs[e, 0] == 1.0


def test_episodes_report_net_value_and_length():
    env = make()
    env.seed(1)
    env.reset()
    for _ in range(TICKS):
        *_, infos = env.step(np.zeros((3, 1), np.float32))
    statements = env.env_method("statement")
    for info, statement in zip(infos, statements, strict=True):
        assert info["episode"]["r"] == pytest.approx(statement.net_value, rel=1e-12)
        assert info["episode"]["l"] == TICKS
        assert info["episode"]["spend"] == statement.spend
        assert info["episode"]["expected_net_value"] == statement.expected_net_value


def test_reference_has_the_same_traffic_and_is_taken_off():
    # Three campaigns and the reference: whoever bids as it does gets nothing more, in every tick.
    env = make(4, reference=-0.25)
    assert env.num_envs == 3
    env.seed(8)
    env.reset()
    actions = np.array([[-0.25], [-0.25], [0.3]], np.float32)
    rewards = []
    for _ in range(2 * TICKS):  # the second campaign has the same new traffic, too
        _, reward, _, _ = env.step(actions)
        rewards.append(reward)
    assert not np.any(np.stack(rewards)[:, :2])
    assert np.count_nonzero(np.stack(rewards)[:, 2]) > TICKS
    first, _, other = env.env_method("statement")
    total = float(np.sum(np.stack(rewards)[TICKS:, 2]))
    assert total == pytest.approx((other.net_value - first.net_value) / BUDGET, rel=1e-5)


def test_seeds_are_used_once():
    env = make(2)
    env.seed(3)
    first = env.reset()
    second = env.reset()  # goes on
    assert not np.array_equal(first, second)
    env.seed(3)
    np.testing.assert_array_equal(env.reset(), first)


def test_unseeded_campaigns_with_a_reference_share_their_traffic():
    env = make(3, reference=0.0)
    inputs = env.reset()
    np.testing.assert_array_equal(inputs[0], inputs[1])


def test_attributes_are_those_of_the_vector_environment():
    env = make(2)
    assert env.get_attr("num_envs") == [2, 2]
    assert env.get_attr("render_mode", 0) == [None]
    assert env.env_is_wrapped(gym.Wrapper) == [False, False]
    assert env.env_method("campaign", indices=[1])[0].budget == BUDGET
    with pytest.raises(NotImplementedError, match="set_attr"):
        env.set_attr("num_envs", 3)
    env.close()


def test_wrong_environments_are_refused():
    with pytest.raises(ValueError, match="SameStep"):
        PacingVecEnv(make_pacing_vector_env(2, "default", SMALL_WORLD))
    for num_envs, reference in ((1, 0.0), (2, 1.5), (2, float("nan"))):
        with pytest.raises(ValueError, match=r"reference must be in \[-1, 1\]"):
            make(num_envs, reference)
