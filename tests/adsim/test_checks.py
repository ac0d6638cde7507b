"""The conformance checks find what they look for."""

import gymnasium as gym
import numpy as np
import pytest
from small_worlds import SMALL_WORLD

import adsim.checks as checks
from adsim.checks import CheckError, check_agent, check_no_leak, check_predictor, find_difference
from adsim.kernels import P_CLICK, PRICE
from adsim.ledger import COLUMN
from adsim.types import Estimate, Target
from agents.value import ValueAgent
from predictors.rates import RunningRatePredictor
from scenarios.build import make_auction_env, make_pacing_env

SMALL = SMALL_WORLD


def auction_env(**overrides):
    return make_auction_env(overrides=SMALL | overrides)


def pacing_env(**overrides):
    return make_pacing_env(overrides=SMALL | overrides)


@pytest.mark.parametrize(
    ("left", "right", "where"),
    [
        ({"a": (1, np.zeros(2))}, {"a": (1, np.array([0.0, 1e-300]))}, "v['a'].1.flat[1]"),
        (np.zeros(2), np.zeros(2, np.float32), "v: "),
        (np.zeros(2), np.zeros((2, 1)), "v: "),
        (0.0, -0.0, "v: 0.0 against -0.0"),
        (1, 1.0, "v: 1 against 1.0"),
        ({"a": 1}, {"b": 1}, "v: "),
        ((1, 2), (1,), "v: "),
        (Estimate(np.zeros(1), np.zeros(1)), Estimate(np.zeros(1), np.ones(1)), "v.std.flat[0]"),
        (np.array([None, 1], object), np.array([None, 2], object), "v.1: 1 against 2"),
    ],
)
def test_find_difference_names_the_place(left, right, where):
    assert find_difference(left, right, "v").startswith(where)
    assert find_difference(left, left) is None


def test_find_difference_takes_nan_as_equal_to_itself():
    value = {"a": float("nan"), "b": np.array([np.nan, np.inf]), "c": None}
    again = {"a": float("nan"), "b": np.array([np.nan, np.inf]), "c": None}
    assert find_difference(value, again) is None


# --- check_no_leak ---------------------------------------------------------------------------


def test_no_leak_rewrites_what_is_pending():
    # 8 ticks of 12 h and delays of up to 168 h: most events wait for several ticks.
    assert check_no_leak(auction_env) > 30
    assert check_no_leak(auction_env, ticks=2) < check_no_leak(auction_env)


class Leaky(gym.Wrapper):
    """Shows something of the world that no bidder may know."""

    def __init__(self, env, peek, where="info"):
        super().__init__(env)
        self.peek, self.where = peek, where

    def step(self, action):
        obs, reward, *flags, info = self.env.step(action)
        leak = np.float64(self.peek(self.env.unwrapped))
        if self.where == "obs":
            obs = dict(obs, leak=leak)
        elif self.where == "reward":
            reward += float(leak)
        else:
            info = dict(info, leak=leak)
        return obs, reward, *flags, info


PEEKS = {
    "pending": lambda env: len(env.world.queue),
    "next bucket": lambda env: env.world.queue.pool.waiting[0, env.world.tick[0] :][0],
    "expected": lambda env: env.world.ledger.total("expected_net_gmv"),
    "accrued": lambda env: env.world.ledger.series[0, :, COLUMN["accrued_net_gmv"]].max(),
    "price to beat": lambda env: env.world.drawn.floats[PRICE].sum(),
    "true click probability": lambda env: env.world.drawn.floats[P_CLICK].sum(),
    "truth": lambda env: env.oracle().truth().net_value.sum(),
    "hindsight": lambda env: env.oracle().hindsight().net_value,
    "traffic": lambda env: env.world.source._counts.sum(),
    "seed": lambda env: env.world.seeds[0] % 1000,
}


@pytest.mark.parametrize("where", ["obs", "reward", "info"])
@pytest.mark.parametrize("peek", ["pending", "accrued"])
def test_no_leak_looks_everywhere(peek, where):
    with pytest.raises(CheckError, match=f"tick . shows the future: step.{where}"):
        check_no_leak(lambda: Leaky(auction_env(), PEEKS[peek], where))


@pytest.mark.parametrize("peek", PEEKS)
@pytest.mark.parametrize("make", [auction_env, pacing_env])
def test_no_leak_finds_all_kinds(make, peek):
    with pytest.raises(CheckError, match="shows the future"):
        check_no_leak(lambda: Leaky(make(), PEEKS[peek]))


def test_no_leak_compares_estimates():
    envs = []

    def make():
        envs.append(auction_env())
        return envs[-1]

    calls = []

    def leaky(obs, info):
        calls.append(info)  # the twin's come second
        return len(envs[(len(calls) + 1) % 2].world.queue)

    with pytest.raises(CheckError, match=r"step\.estimates"):
        check_no_leak(make, estimates=leaky)
    honest = check_no_leak(auction_env, estimates=lambda obs, info: obs["pctr"] * 2)
    assert honest > 30


def test_no_leak_takes_the_users_actions():
    assert check_no_leak(auction_env, act=lambda obs: np.zeros(obs["mask"].shape)) == 0  # no wins


def test_no_leak_refuses_accrual_and_shared_environments():
    with pytest.raises(ValueError, match="accrual"):
        check_no_leak(lambda: auction_env(reward="accrual"))
    env = auction_env()
    with pytest.raises(ValueError, match="make_env"):
        check_no_leak(lambda: env)


# --- check_agent -----------------------------------------------------------------------------


class Broken(ValueAgent):
    """A value agent with one fault."""

    fault = ""
    calls = 0

    def reset(self, campaign, *, seed=None):
        super().reset(campaign, seed=seed)
        if self.fault == "price history":
            self.cpc = 1 / 0 if np.isnan(campaign.price_history.cpc) else 1.0
        if self.fault == "unclear" and not campaign.price_history.price.size:
            raise ValueError("something is wrong")
        if self.fault == "campaign":
            campaign.expected_traffic[0] += 1

    def act(self, obs):
        bids = super().act(obs)
        self.calls += 1
        match self.fault:
            case "shape":
                return bids[:-1]
            case "dtype":
                return bids.astype(np.float32)
            case "list":
                return bids.tolist()
            case "nan":
                return bids * np.nan
            case "high":
                return bids + 2 * self.campaign.max_bid
            case "negative":
                return bids - 1.0
            case "no reset":
                return bids * (0.5 + 0.5 / self.calls)
            case "empty":
                return bids * (1 / np.count_nonzero(obs["mask"]))
            case "broke":
                return bids / obs["budget_left"]
            case "obs":
                obs["pctr"] *= 0.5
        return bids

    def observe(self, info):
        if self.fault == "info":
            info["reward_terms"]["spend"] = 0.0
            info["result"].price[:] = 0.0


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("shape", r"bids must be float64 \(128,\)"),
        ("dtype", "bids must be float64"),
        ("list", "bids must be an array"),
        ("nan", r"bids must be in \[0, 100\]"),
        ("high", r"bids must be in \[0, 100\]"),
        ("negative", r"bids must be in \[0, 100\]"),
        ("no reset", r"reset\(\) does not reset"),
        ("obs", r"act\(\) modifies its argument: argument\['pctr'\]"),
        ("info", r"observe\(\) modifies its argument"),
        ("unclear", "without price history: unclear error"),
    ],
)
def test_agent_fault_is_named(fault, message):
    with pytest.raises(CheckError, match=message):
        check_agent(type("Faulty", (Broken,), {"fault": fault}), auction_env)


@pytest.mark.parametrize("fault", ["empty", "broke", "price history"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_agent_that_does_not_survive_fails(fault):
    with pytest.raises((CheckError, ZeroDivisionError)):
        check_agent(type("Faulty", (Broken,), {"fault": fault}), auction_env)


def test_agent_without_fault_passes():
    check_agent(ValueAgent, auction_env)
    check_agent(Broken, auction_env)


def test_agents_must_not_share_random_numbers():
    rng = np.random.default_rng(0)

    class Unseeded(ValueAgent):
        def act(self, obs):
            return super().act(obs) * rng.random()

    with pytest.raises(CheckError, match="same seed"):
        check_agent(Unseeded, auction_env)


@pytest.mark.parametrize("privileged", [True, "yes", None])
def test_agent_flag_must_tell_the_truth(privileged):
    with pytest.raises(CheckError, match="privileged must be True if"):
        check_agent(type("Flagged", (ValueAgent,), {"privileged": privileged}), auction_env)
    peeking = {"attach": lambda self, oracle: None}
    with pytest.raises(CheckError, match="privileged must be True if"):
        check_agent(type("Peeking", (ValueAgent,), peeking), auction_env)


def test_agent_needs_its_methods_and_the_auction_environment():
    with pytest.raises(CheckError, match=r"the agent has no \['reset', 'act'"):
        check_agent(object, auction_env)
    with pytest.raises(ValueError, match="Auction-v0"):
        check_agent(ValueAgent, pacing_env)


# --- check_predictor -------------------------------------------------------------------------


def constant(mean, std=0.0):
    """An estimate for every impression."""
    return lambda impressions: Estimate(
        np.full(impressions.mask.size, mean), np.full(impressions.mask.size, std)
    )


class FaultyPredictor(RunningRatePredictor):
    """A running rate with one fault."""

    targets = frozenset({Target.CTR})
    rule = staticmethod(constant(0.5))
    fault = ""
    calls = 0

    def predict(self, impressions):
        self.calls += 1
        if self.fault == "impure":
            return {Target.CTR: constant(1 / self.calls)(impressions)}
        if self.fault == "mutates":
            impressions.features[:] = 0
        if self.fault == "known ids":
            impressions = impressions._replace(features=np.eye(300)[impressions.scene])
        return dict.fromkeys(self.targets, self.rule(impressions))

    def partial_fit(self, window):
        if self.fault == "window":
            window.result.clicked[:] = False
        if self.fault == "empty window":
            assert window.result.won.mean() > 0
        return None if self.fault == "returns" else self


def faulty(**attributes):
    return type("Faulty", (FaultyPredictor,), attributes)


@pytest.mark.parametrize(
    ("predictor", "message"),
    [
        (faulty(rule=staticmethod(constant(1.5))), r"ctr: mean of 128 impressions"),
        (faulty(rule=staticmethod(constant(-0.1))), r"ctr: mean of 128 impressions"),
        (faulty(rule=staticmethod(constant(np.nan))), r"ctr: mean of 128 impressions"),
        (faulty(rule=staticmethod(constant(0.5, -1.0))), r"ctr: std of 128 impressions"),
        (faulty(rule=lambda self, i: Estimate(np.zeros(1), np.zeros(1))), "float64 .128,."),
        (faulty(fault="impure"), "is not pure"),
        (faulty(fault="mutates"), r"predict\(\) modifies its argument"),
        (faulty(fault="window"), r"partial_fit\(\) modifies its argument"),
        (faulty(fault="returns"), "must return the predictor itself"),
        (faulty(privileged="no"), "privileged must be a bool"),
        (faulty(attach=lambda self, oracle: None), "must be privileged"),
        (faulty(predict=lambda self, i: {}), r"must give its targets, got set\(\)"),
    ],
)
def test_predictor_fault_is_named(predictor, message):
    with pytest.raises(CheckError, match=message):
        check_predictor(predictor, auction_env)


class Counter(FaultyPredictor):
    """Says 1 / (1 + number of windows seen + a start of its own)."""

    def __init__(self, start=0):
        self.seen = start

    def predict(self, impressions):
        return {Target.CTR: constant(1 / (1 + self.seen))(impressions)}

    def partial_fit(self, window):
        self.seen += 1
        return self


def test_predictor_must_survive_reloading():
    check_predictor(Counter, auction_env)
    check_predictor(Counter, auction_env, reload=lambda old: Counter(old.seen))
    with pytest.raises(CheckError, match="reloaded, it does not go on as before"):
        check_predictor(Counter, auction_env, reload=lambda old: Counter())


def test_predictor_must_be_deterministic():
    starts = iter(range(9))
    with pytest.raises(CheckError, match="two instances, same windows"):
        check_predictor(lambda: Counter(next(starts)), auction_env)


def test_predictor_meets_unseen_ids_and_empty_windows():
    with pytest.raises(IndexError):
        check_predictor(faulty(fault="known ids"), auction_env)
    with pytest.raises((AssertionError, RuntimeWarning)):
        check_predictor(faulty(fault="empty window"), auction_env)


def test_predictor_without_fault_passes():
    check_predictor(FaultyPredictor, auction_env)
    money = faulty(targets=frozenset({Target.GMV}), rule=staticmethod(constant(250.0, 40.0)))
    check_predictor(money, auction_env)


def test_windows_hold_what_was_seen():
    env = auction_env()
    ticks = checks.collect_windows(env, seed=3)
    closing = env.statement()
    windows = [window for _, window in ticks]
    assert sum(w.impressions.mask.size for w in windows) == closing.wins
    assert sum(w.result.clicked.sum() for w in windows) == closing.clicks > 0
    assert sum((w.events.kind == 1).sum() for w in windows) == closing.purchases
    for _, window in ticks:
        assert set(window.events.click_id) == set(window.clicks.impression_id)
        assert window.clicks.features.shape[1] == window.impressions.features.shape[1]
