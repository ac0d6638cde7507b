"""Estimates as the value source of environments: frozen for many worlds, learning for one."""

import pickle
import warnings
from functools import cache, partial

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from small_stacks import GMV, NETCVR, SIZE, SMALL, small_warm_up
from threads import one_thread

import scenarios.values
from adsim.checks import check_no_leak, find_difference
from adsim.env import AuctionEnv, PacingEnv
from adsim.types import Estimate, Target
from adsim.vector_env import AuctionVectorEnv, PacingVectorEnv
from predictors import OraclePredictor
from scenarios.build import make_auction_env, make_pacing_env, make_world
from scenarios.cache import cache_folder
from scenarios.estimates import EstimatesWrapper
from scenarios.requests import sample_requests
from scenarios.run import tick_table
from scenarios.schema import load
from scenarios.stack import SOURCES, Estimates, Stack
from scenarios.stacks import fitted_correctors
from scenarios.values import FrozenValues, LearningValues, make_values
from scenarios.warmup import WarmUp

NOISY = {"platform_noise.ctr_sd": 1.0, "traffic.impressions_per_tick": 90}
NOISY |= {"traffic.slots_per_tick": 256}
NUM_ENVS = 3


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture
def _small_warm_up(monkeypatch, tmp_path_factory):
    """What `make` trains is small, and kept for all tests of this file."""
    folder = tmp_path_factory.getbasetemp() / "predictors"
    monkeypatch.setenv("ADSIM_CACHE", str(folder))
    monkeypatch.setattr(scenarios.values, "WarmUp", partial(WarmUp, size=SIZE))


class Ids:
    """A predictor of CVR from the fields alone, row by row; counts its calls and windows."""

    targets = frozenset({Target.CVR})
    privileged = False

    def __init__(self):
        self.calls, self.windows = [], 0

    def predict(self, impressions):
        self.calls.append(impressions.mask.size)
        mean = (impressions.features.sum(axis=1) % 97) / 97 / (1 + self.windows)
        return {Target.CVR: Estimate(mean, np.zeros(mean.size))}

    def partial_fit(self, window):
        self.windows += 1
        return self


@cache
def networks():
    """TESLA and READER; nobody may let them learn."""
    warm_up = small_warm_up()
    tesla, reader = warm_up.predictor("tesla", **NETCVR), warm_up.predictor("reader", **GMV)
    return {Target.CVR: tesla, Target.REFUND_RATE: tesla, Target.GMV: reader}


@cache
def correctors():
    requests = sample_requests(load("default", SMALL | NOISY).world, 300)
    return fitted_correctors([Target.CTR], {}, requests)


def oracle():
    return Stack(dict.fromkeys(SOURCES, OraclePredictor()))


STACKS = {
    "platform": Stack,
    "fields": lambda: Stack({Target.CVR: Ids()}),
    "corrected": lambda: Stack({Target.CVR: Ids()}, correctors=correctors()),
    "networks": lambda: Stack(networks(), gmv_factor=1.2),
    "oracle": oracle,
}


def frozen(kind, stack, num_envs=None, mode=AutoresetMode.NEXT_STEP, **overrides):
    """An environment, or a vector one, with frozen estimates."""
    world = make_world(load("default", SMALL | overrides).world, num_envs or 1)
    source = FrozenValues(stack, world)
    if num_envs:
        vector = {"auction": AuctionVectorEnv, "pacing": PacingVectorEnv}[kind]
        return vector(world, mode, value_source=source)
    return {"auction": AuctionEnv, "pacing": PacingEnv}[kind](world, value_source=source)


def actions(kind, step, shape=()):
    """Actions of a step: multipliers around 1, bids that win some."""
    wave = np.sin(step + np.arange(int(np.prod(shape)) or 1)).reshape(shape or (1,))
    return 4.0 + 3.0 * wave if kind == "auction" else (0.3 * wave).astype(np.float32)


def plain(value):
    """Entries in order of their names."""
    if isinstance(value, dict):
        return {key: plain(value[key]) for key in sorted(value)}
    return [plain(part) for part in value] if isinstance(value, list | tuple) else value


# --- frozen ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("kind", ["auction", "pacing"])
@pytest.mark.parametrize("name", ["platform", "fields", "oracle"])
def test_vector_environment_equals_single_ones(kind, name, mode):
    options = NOISY | {"reward": "estimated"}
    vector = frozen(kind, STACKS[name](), NUM_ENVS, mode, **options)
    singles = SyncVectorEnv(
        [lambda: frozen(kind, STACKS[name](), **options) for _ in range(NUM_ENVS)],
        autoreset_mode=mode,
    )
    assert vector.observation_space == singles.observation_space
    mine, theirs = vector.reset(seed=2), singles.reset(seed=2)
    assert find_difference(plain(mine[0]), plain(theirs[0])) is None
    for step in range(12):  # over the end of an episode, which has eight ticks
        action = actions(kind, step, vector.action_space.shape)
        mine, theirs = vector.step(action), singles.step(action)
        assert find_difference(plain(mine[:4]), plain(theirs[:4]), f"step {step}") is None
        if kind == "pacing":
            assert find_difference(plain(mine[4]), plain(theirs[4]), f"step {step}") is None
    assert mine[1].any()


@pytest.mark.parametrize(
    ("kind", "name"), [("auction", "corrected"), ("auction", "networks"), ("pacing", "networks")]
)
def test_products_of_matrices_say_nearly_the_same_of_all_worlds_at_once(kind, name):
    options = NOISY | {"reward": "estimated"}
    vector = frozen(kind, STACKS[name](), NUM_ENVS, **options)
    singles = [frozen(kind, STACKS[name](), **options) for _ in range(NUM_ENVS)]
    vector.reset(seed=2)
    for seed, env in enumerate(singles):
        env.reset(seed=2 + seed)
    for step in range(8):
        action = actions(kind, step, vector.action_space.shape)
        theirs = [env.step(part) for env, part in zip(singles, action, strict=True)]
        obs, reward, *_ = vector.step(action)
        for e, step_of_one in enumerate(theirs):
            assert reward[e] == pytest.approx(step_of_one[1], rel=1e-6)
            mine = {n: c[e] for n, c in obs.items()} if kind == "auction" else {"": obs[e]}
            other = step_of_one[0] if kind == "auction" else {"": step_of_one[0]}
            for name, column in mine.items():
                np.testing.assert_allclose(column, other[name], rtol=2e-6, atol=1e-6)


def test_stack_is_asked_once_per_tick_about_real_impressions_only():
    stack = STACKS["fields"]()
    vector = frozen("pacing", stack, NUM_ENVS)
    calls = stack.predictors[0].calls
    vector.reset(seed=0)
    filled = [int(vector.world.drawn.filled.sum())]
    for _ in range(7):
        vector.step(np.zeros((NUM_ENVS, 1)))
        filled.append(int(vector.world.drawn.filled.sum()))
    assert calls == filled


def test_values_are_those_of_the_wrapper():
    env = frozen("auction", STACKS["networks"]())
    wrapper = EstimatesWrapper(
        make_auction_env(overrides=SMALL), STACKS["networks"](), learn_every=0
    )
    (mine, _), (theirs, _) = env.reset(seed=1), wrapper.reset(seed=1)
    assert env.observation_space == wrapper.observation_space
    for _ in range(8):
        assert find_difference(plain(mine), plain(theirs)) is None
        bids = np.minimum(mine["expected_net_value"], 100.0)
        mine, theirs = env.step(bids)[0], wrapper.step(bids)[0]


def test_bids_of_pacing_are_multiples_of_the_estimates():
    env = frozen("pacing", oracle())
    env.reset(seed=1)
    worth = env.oracle().expected_net_value()
    assert env.privileged
    bids = env.view.bids(np.array([[0.5]]), np.array([True]))[0]
    assert bids == pytest.approx(np.minimum(worth * 10**0.5, 100.0))


def test_nothing_of_an_episode_changes_frozen_estimates():
    stack = Stack(networks(), correctors=correctors())
    env = frozen("auction", stack, **NOISY)
    first, _ = env.reset(seed=3)
    for step in range(8):
        env.step(actions("auction", step, env.action_space.shape))
    again, _ = env.reset(seed=3)
    assert find_difference(first, again) is None


def test_without_noise_there_is_nothing_to_correct():
    requests = sample_requests(load("default", SMALL | {"platform_noise.ctr_sd": 0.0}).world, 300)
    stack = Stack(correctors=fitted_correctors([Target.CTR], {}, requests))
    obs, _ = frozen("auction", stack, **{"platform_noise.ctr_sd": 0.0}).reset(seed=0)
    np.testing.assert_allclose(obs["ctr"], obs["pctr"], rtol=1e-9)


def test_environments_with_estimates_pickle():
    env = frozen("pacing", oracle())
    env.reset(seed=0)
    env.step(np.array([0.1]))
    other = pickle.loads(pickle.dumps(env))
    for _ in range(3):
        assert find_difference(env.step(np.array([0.2])), other.step(np.array([0.2]))) is None


# --- learning ----------------------------------------------------------------------------------


@pytest.mark.parametrize("corrected", [False, True])
def test_learning_values_are_those_of_the_wrapper(corrected):
    def stack():
        return Stack(networks(), correctors=correctors() if corrected else None)

    overrides = SMALL | NOISY | {"time.num_ticks": 5}
    world = make_world(load("default", overrides).world)
    env = PacingEnv(world, value_source=LearningValues(stack(), world))
    wrapper = EstimatesWrapper(make_auction_env(overrides=overrides), stack())
    for seed in (1, 2):  # the second episode starts from the given stack, too
        env.reset(seed=seed)
        obs, _ = wrapper.reset(seed=seed)
        learned = [obs["expected_net_value"]]
        for _ in range(5):
            np.testing.assert_array_equal(env.view.values()[0], learned[-1])
            env.step(np.array([0.0]))
            bids = np.minimum(obs["expected_net_value"], 100.0)
            obs, *_ = wrapper.step(bids)
            learned.append(obs["expected_net_value"])
        assert env.statement() == wrapper.unwrapped.statement()
    assert wrapper.calibration() == env.view._shown.value_source.online.calibration()


def test_estimated_rewards_of_the_wrapper_credit_what_the_stack_says():
    rules = SMALL | {"reward": "estimated"}
    wrapper = EstimatesWrapper(make_auction_env(overrides=rules), STACKS["networks"]())
    obs, _ = wrapper.reset(seed=1)
    total, over = 0.0, False
    while not over:
        said = obs
        bids = np.minimum(said["expected_net_value"], 100.0)
        obs, reward, over, _, info = wrapper.step(bids)
        clicked = info["result"].clicked
        credit = (said["expected_net_value"][clicked] / said["ctr"][clicked]).sum()
        assert info["reward_terms"]["credit"] == pytest.approx(credit)
        total += reward
    statement = wrapper.unwrapped.statement()
    cash = statement.margin * statement.net_gmv - statement.spend
    assert total == pytest.approx(cash, rel=1e-9)
    assert tick_table(wrapper.unwrapped)["reward"].sum() == pytest.approx(cash, rel=1e-9)


# --- by name -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("_small_warm_up")
@pytest.mark.parametrize(
    ("env_id", "options"),
    [
        ("adsim/Auction-v0", {"estimates": "full"}),
        ("adsim/Pacing-v0", {"estimates": "full"}),
        ("adsim/Pacing-v0", {"estimates": "full", "learn": True}),
        ("adsim/Pacing-v0", {"estimates": "oracle"}),
    ],
)
def test_environments_are_made_by_name(env_id, options):
    env = gym.make(env_id, overrides=SMALL | NOISY, disable_env_checker=True, **options)
    assert env.unwrapped.privileged == (options["estimates"] == "oracle")
    spec = gym.envs.registration.EnvSpec.from_json(env.spec.to_json())
    assert spec.kwargs["estimates"] == options["estimates"]
    with warnings.catch_warnings():  # that bids are money, not numbers in [-1, 1]
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        check_env(env.unwrapped, skip_render_check=True)


@pytest.mark.usefixtures("_small_warm_up")
@pytest.mark.parametrize("name", ["Auction", "Pacing"])
def test_vector_environments_are_made_by_name(name):
    overrides = SMALL | NOISY
    vector = gym.make_vec(f"adsim/{name}-v0", 2, overrides=overrides, estimates="full")
    plain_one = gym.make_vec(f"adsim/{name}-v0", 2, overrides=overrides)
    obs, _ = vector.reset(seed=0)
    assert vector.observation_space.contains(obs)
    other, _ = plain_one.reset(seed=0)
    if name == "Auction":
        assert set(obs) - set(other) == set(Estimates._fields)
    else:
        assert not np.array_equal(obs, other)


@pytest.mark.usefixtures("_small_warm_up")
@pytest.mark.parametrize("learn", [False, True])
def test_nothing_leaks(learn):
    rules = SMALL | NOISY | {"reward": "estimated"}
    make = partial(make_pacing_env, overrides=rules, estimates="full", learn=learn)
    assert check_no_leak(make, act=lambda obs: np.full(1, 0.3, np.float32)) > 10


@pytest.mark.usefixtures("_small_warm_up")
@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("best", {}, "one of platform, fnc"),
        ("oracle", {"learn": True}, "learn must be False unless"),
        ("platform", {"learn": True}, "learn must be False unless"),
        ("full", {"overrides": {"randomize_structure": True}}, "randomize_structure must be False"),
    ],
)
def test_wrong_names_are_refused(name, options, text):
    options = {"overrides": SMALL} | options
    with pytest.raises(ValueError, match=text):
        make_pacing_env(estimates=name, **options)


def test_cache_folder_can_be_chosen(monkeypatch, tmp_path):
    monkeypatch.setenv("ADSIM_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("ADSIM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "adsim"


@pytest.mark.usefixtures("_small_warm_up")
def test_predictors_are_trained_once():
    world = make_world(load("default", SMALL).world)
    make_values("fnc", world)
    files = {file: file.stat().st_mtime_ns for file in cache_folder().iterdir()}
    assert files
    make_values("fnc", world)
    assert {file: file.stat().st_mtime_ns for file in cache_folder().iterdir()} == files


def test_restored_environment_estimates_the_saved_tick():
    world = make_world(load("default", SMALL).world)
    env = PacingEnv(world, value_source=LearningValues(Stack(), world))
    env.reset(seed=0)
    env.step(np.array([0.0]))
    state, values = env.get_state(), env.view.values().copy()
    for _ in range(3):
        env.step(np.array([0.0]))
    env.set_state(state)
    np.testing.assert_array_equal(env.view.values(), values)  # the platform's do not learn
