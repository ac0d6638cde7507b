"""The single environments: Gymnasium's contract, errors, saving, rewards."""

import json
import pickle
import re
import warnings
from functools import cache

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from small_worlds import SMALL_WORLD

from adsim.checks import find_difference
from adsim.env import AuctionEnv
from adsim.rng import ID_STRIDE, generator
from adsim.types import EventKind
from scenarios.build import make_world

IDS = ["adsim/Auction-v0", "adsim/Pacing-v0"]
SMALL = SMALL_WORLD | {
    "entities.num_scenes": 3,
}
VARIANTS = {
    "landscape": {},
    "first_price": {"market.mechanism": "first_price", "platform_noise.ctr_sd": 0.4},
    "per_click": {"market.charge": "click", "market.exposure": [0.7], "reward": "accrual"},
    "new_structures": {"randomize_structure": True},
    "population": {"market.kind": "population", "reward": "estimated"},
    "slots": {"market.kind": "population", "market.mechanism": "vcg", "market.exposure": [1, 0.6]},
}
QUICK = sorted(VARIANTS.keys() - {"new_structures"})  # which calibrates anew at every reset
# The only warning that may come: bids are money, not numbers in [-1, 1].
EXPECTED_WARNINGS = {"adsim/Auction-v0": ["symmetric and normalized space"], "adsim/Pacing-v0": []}


def make(env_id=IDS[0], variant="landscape", **options):
    overrides = SMALL | VARIANTS[variant] | options.pop("overrides", {})
    return gym.make(env_id, overrides=overrides, disable_env_checker=True, **options).unwrapped


shared = cache(make)  # for tests that reset it first: making an environment takes 50 ms


def rollout(env, actions):
    """What each action brings, until the end."""
    steps = []
    for action in actions:
        steps.append(env.step(action))
        if steps[-1][2]:
            break
    return steps


def actions_of(env, seed=0, count=20):
    """Fixed random actions."""
    rng = generator(seed, 1)
    if isinstance(env, AuctionEnv):
        return [rng.uniform(0, 12, env.action_space.shape) for _ in range(count)]
    return [rng.uniform(-1, 0.5, env.action_space.shape) for _ in range(count)]


@pytest.fixture(params=IDS)
def env(request):
    return make(request.param)


@pytest.mark.parametrize("variant", QUICK)
@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_check_passes(env_id, variant):
    env = shared(env_id, variant)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(env, skip_render_check=True)
    found = [str(w.message) for w in caught]
    allowed = EXPECTED_WARNINGS[env_id]
    assert [m for m in found if not any(text in m for text in allowed)] == []
    assert len(found) == len(allowed)


def test_gymnasium_check_of_the_default_scenario_with_pictures():
    pytest.importorskip("adsim.rendering")
    check_env(gym.make(IDS[1], render_mode="rgb_array").unwrapped)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("env_id", IDS)
def test_same_seed_same_rollout(env_id, variant):
    one, two = shared(env_id, variant), make(env_id, variant)
    actions = actions_of(one)
    runs = [(e.reset(seed=7), rollout(e, actions)) for e in (one, two, one)]
    assert find_difference(runs[0], runs[1]) is None
    assert find_difference(runs[0], runs[2]) is None
    other = (one.reset(seed=8), rollout(one, actions))
    assert find_difference(runs[0], other) is not None


def test_observations_stay_in_their_space(env):
    obs, _ = env.reset(seed=1)
    for action in actions_of(env):
        assert env.observation_space.contains(obs)
        obs, _, over, _, _ = env.step(action)
        if over:
            break
    assert env.observation_space.contains(obs)


def test_what_was_returned_does_not_change_later(env):
    first = env.reset(seed=1)
    kept = pickle.loads(pickle.dumps(first))
    steps = rollout(env, actions_of(env))
    copy = pickle.loads(pickle.dumps(steps))
    env.reset(seed=2)
    rollout(env, actions_of(env))
    assert find_difference(first, kept) is None
    assert find_difference(steps, copy) is None


def test_reset_without_seed_continues_np_random(env):
    first, _ = env.reset(seed=3)
    second, _ = env.reset()
    again = make(f"adsim/{type(env).__name__.removesuffix('Env')}-v0")
    again.reset(seed=3)
    rollout(again, actions_of(again, count=2))  # playing draws nothing from np_random
    third, _ = again.reset()
    assert find_difference(first, second) is not None
    assert find_difference(second, third) is None
    expected = np.random.Generator(np.random.PCG64(3)).integers(2**63, size=2)
    assert again.world.seeds[0] == expected[1]  # one draw per reset


@pytest.mark.parametrize("env_id", IDS)
def test_specification_is_plain_json(env_id):
    made = gym.make(env_id, scenario="default", overrides=SMALL)
    again = gym.make(gym.envs.registration.EnvSpec.from_json(made.spec.to_json()))
    assert again.unwrapped.world.config == made.unwrapped.world.config
    assert json.loads(made.spec.to_json())["kwargs"]["overrides"]["time.num_ticks"] == 8


@pytest.mark.parametrize("variant", QUICK)
@pytest.mark.parametrize("env_id", IDS)
def test_episode_ends_and_rewards_sum(env_id, variant):
    env = shared(env_id, variant)
    _, info = env.reset(seed=2)
    assert all(value == 0 for value in info["reward_terms"].values())
    rewards = []
    steps = rollout(env, actions_of(env, count=30))
    for _, reward, terminated, truncated, now in steps:
        rewards.append(reward)
        assert type(reward) is float
        assert type(terminated) is type(truncated) is bool
        assert sum(now["reward_terms"].values()) == pytest.approx(reward, rel=1e-12, abs=1e-9)
        assert now.keys() == info.keys()
        assert now["reward_terms"].keys() == info["reward_terms"].keys()
        assert terminated == (now is steps[-1][-1])
        assert not truncated
    assert len(steps) == 8
    assert np.cumsum(rewards)[-1] == env.statement().net_value != 0
    obs = steps[-1][0]
    if env_id == IDS[0]:
        assert (obs["mask"] == 0).all()
        assert obs["tick_fraction"] == 1.0
        assert obs["budget_left"] == pytest.approx(env.world.budget_left[0, 0])
    else:
        assert steps[-1][-1]["net_value"] == env.statement().net_value
        assert obs[0] == 0.0  # no time is left


def test_last_entries_are_those_of_the_result():
    env = make()
    env.reset(seed=4)
    for obs, _, _, _, info in rollout(env, actions_of(env)):
        result, feedback = info["result"], info["feedback"]
        assert obs["last_wins"] == result.won.sum()
        assert obs["last_clicks"] == result.clicked.sum()
        assert obs["last_spend"] == pytest.approx(result.price[result.won].sum())
        bought = feedback.amount[feedback.kind == EventKind.PURCHASE].sum()
        back = feedback.amount[feedback.kind == EventKind.REFUND].sum()
        assert obs["last_gmv"] == pytest.approx(bought)
        assert obs["last_refunded"] == pytest.approx(back)
        terms = info["reward_terms"]
        assert terms["spend"] == -obs["last_spend"]
        assert terms["purchases"] == pytest.approx(0.3 * bought)
        assert terms["refunds"] == pytest.approx(-0.3 * back)
        assert not np.isfinite(result.price[~result.won]).any()  # only the winner's are revealed
        assert ((result.slot >= 0) == result.won).all()


def test_pacing_counts_the_same_as_the_ledger():
    env = make(IDS[1])
    env.reset(seed=4)
    steps = rollout(env, actions_of(env))
    closing, infos = env.statement(), [step[-1] for step in steps]
    for name in ("impressions", "wins", "clicks", "spend", "gmv", "refunded"):
        total = sum(info[name] for info in infos)
        assert total == pytest.approx(getattr(closing, name))
        assert all(type(info[name]) is float for info in infos)


def test_feedback_is_attributed_to_its_decision():
    env, decided = make(), {}
    env.reset(seed=5)
    late = 0
    for tick, action in enumerate(actions_of(env, count=8)):
        *_, info = env.step(action)
        events, clicked = info["feedback"], info["result"].clicked
        decided |= dict.fromkeys((tick * ID_STRIDE + np.flatnonzero(clicked)).tolist(), tick)
        causes = env.world.log.attribute(events).tolist()
        assert causes == [decided[click] for click in events.click_id.tolist()]
        assert (events.tick == tick).all()
        late += sum(cause < tick for cause in causes)
    assert late > 20
    events = env.world.log.as_of(np.inf)
    assert events.kind.size == len(decided) + (events.kind != EventKind.CLICK).sum()
    unknown = events._replace(click_id=events.click_id + 10_000)
    with pytest.raises(ValueError, match="never observed"):
        env.world.log.attribute(unknown)


def test_statement_before_the_end_raises(env):
    with pytest.raises(RuntimeError, match="not over"):
        env.statement()
    env.reset(seed=0)
    rollout(env, actions_of(env, count=7))
    with pytest.raises(RuntimeError, match="not over"):
        env.statement()


def test_campaign_without_budget_runs_on():
    env = make(overrides={"campaign.budget": 1e-6, "campaign.max_bid": 50.0})
    env.reset(seed=0)
    steps = rollout(env, [np.full(128, 50.0)] * 20)
    assert len(steps) == 8
    assert env.statement().spend <= 1e-6


def test_step_needs_reset(env):
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(env.action_space.sample())
    env.reset(seed=0)
    rollout(env, actions_of(env))
    with pytest.raises(ResetNeeded, match="over"):
        env.step(env.action_space.sample())


@pytest.mark.parametrize(
    ("env_id", "wrong", "message"),
    [
        (IDS[0], np.full(128, np.nan), r"action: bids must be in [0, 100], got nan"),
        (IDS[0], np.full(128, -0.5), r"action: bids must be in [0, 100], got -0.5"),
        (IDS[0], np.full(128, 101.0), r"action: bids must be in [0, 100], got 101"),
        (IDS[0], np.full(128, np.inf), r"action: bids must be in [0, 100], got inf"),
        (IDS[0], np.zeros(127), "action must have shape (128,), got (127,)"),
        (IDS[0], 1.0, "action must have shape (128,), got ()"),
        (IDS[1], np.array([np.nan]), "action must be in [-1, 1], got nan"),
        (IDS[1], np.array([1.01]), "action must be in [-1, 1], got 1.01"),
        (IDS[1], np.array([-2.0]), "action must be in [-1, 1], got -2"),
        (IDS[1], np.zeros(2), "action must have shape (1,), got (2,)"),
    ],
)
def test_wrong_action_is_named_and_changes_nothing(env_id, wrong, message):
    env, twin = shared(env_id, "landscape"), shared(env_id)  # two of them
    for each in (env, twin):
        each.reset(seed=0)
    with pytest.raises(ValueError, match=re.escape(message)):
        env.step(wrong)
    actions = actions_of(env)
    assert find_difference(rollout(env, actions), rollout(twin, actions)) is None


def test_options_and_render_mode_are_checked(env):
    with pytest.raises(ValueError, match=r"options: unknown \['first_auction'\]"):
        env.reset(options={"first_auction": 3})
    with pytest.raises(ValueError, match="render_mode must be None or 'rgb_array'"):
        type(env)(env.world, render_mode="human")
    with pytest.raises(ValueError, match="num_worlds must be 1, got 2"):
        type(env)(make_world(env.world.config, 2))


@pytest.mark.parametrize(
    ("variant", "way"),
    [
        *((variant, "file") for variant in VARIANTS),
        *((variant, way) for variant in ("landscape", "population") for way in ("pickle", "state")),
    ],
)
@pytest.mark.parametrize("env_id", IDS)
def test_restored_environment_continues_bit_for_bit(tmp_path, env_id, variant, way):
    env = shared(env_id, variant)
    env.reset(seed=9)
    actions = actions_of(env)
    rollout(env, actions[:4])
    other = pickle.loads(pickle.dumps(env)) if way == "pickle" else make(env_id, variant)
    if way == "state":
        other.set_state(env.get_state())
    if way == "file":
        env.save(tmp_path / "state.npz")
        other.load(tmp_path / "state.npz")
        assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    ends = [(e._observation(), rollout(e, actions[4:]), e.statement()) for e in (env, other)]
    assert find_difference(*ends) is None
    # The next episode and the one after it continue, too: np_random was restored.
    nexts = [(e.reset(), rollout(e, actions), e.reset()) for e in (env, other)]
    assert find_difference(*nexts) is None


def test_state_is_a_copy(env):
    env.reset(seed=9)
    actions = actions_of(env)
    rollout(env, actions[:3])
    state = env.get_state()
    kept = pickle.loads(pickle.dumps(state))
    first = rollout(env, actions[3:])
    env.set_state(state)
    assert find_difference(rollout(env, actions[3:]), first) is None
    assert find_difference(state, kept) is None


def test_log_and_oracle_are_restored():
    env, other = make(), make()
    env.reset(seed=9)
    rollout(env, actions_of(env)[:5])
    other.set_state(env.get_state())
    logs = [(e.world.log.as_of(np.inf), e.world.log.clicks()) for e in (env, other)]
    assert find_difference(*logs) is None
    assert find_difference(env.oracle().truth(), other.oracle().truth()) is None


def test_state_of_another_configuration_is_refused(tmp_path):
    env, other = make(), make(overrides={"campaign.budget": 301.0})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="another configuration"):
        other.set_state(env.get_state())
    env.save(tmp_path / "state.npz")
    with pytest.raises(ValueError, match="another configuration"):
        other.load(tmp_path / "state.npz")
    state = env.get_state()
    state["meta"]["format"] = 99
    with pytest.raises(ValueError, match="format must be"):
        env.set_state(state)


def test_state_of_the_other_environment_is_refused():
    auction, pacing = make(IDS[0]), make(IDS[1])
    auction.reset(seed=0)
    with pytest.raises(ValueError, match="state"):
        pacing.set_state(auction.get_state())


@pytest.mark.parametrize("content", ["empty", "text", "truncated", "other"])
def test_wrong_file_is_refused(tmp_path, content):
    env, path = make(), tmp_path / "wrong.npz"
    env.reset(seed=0)
    env.save(path)
    whole = path.read_bytes()
    if content == "other":
        np.savez(path, something=np.zeros(3))
    else:
        path.write_bytes({"empty": b"", "text": b"text", "truncated": whole[:-40]}[content])
    with pytest.raises(ValueError, match=r"wrong\.npz"):
        env.load(path)
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        env.load(tmp_path / "none.npz")


def test_picture_is_an_rgb_array(env):
    pytest.importorskip("adsim.rendering")
    env.reset(seed=0)
    assert env.render() is None
    drawing = make(IDS[1], render_mode="rgb_array")
    with pytest.raises(ResetNeeded):
        drawing.render()
    drawing.reset(seed=0)
    for count in (0, 3, 5):
        rollout(drawing, actions_of(drawing, count=count))
        picture = drawing.render()
        assert picture.dtype == np.uint8
        assert picture.ndim == 3
        assert picture.shape[2] == 3
        assert picture.min() < picture.max()
