"""Estimates in the loop: what is shown, what is learned from, what is scored, and nothing else."""

import numpy as np
import pytest
from small_stacks import GMV, NETCVR, SMALL, small_warm_up
from threads import one_thread

from adsim.checks import check_no_leak, collect_windows, find_difference
from adsim.observation import shown_impressions
from adsim.rng import ID_STRIDE
from adsim.types import Estimate, Impressions, Target
from agents.base import platform_value
from predictors import OraclePredictor
from predictors.denoise_bid import DenoiseBid
from scenarios.build import make_agent, make_auction_env, make_pacing_env
from scenarios.estimates import EstimatesWrapper, estimation_loss
from scenarios.requests import sample_requests
from scenarios.schema import load
from scenarios.stack import SOURCES, Estimates, Stack
from scenarios.stacks import fitted_correctors


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def learning():
    """TESLA, READER and the refunded share."""
    warm_up = small_warm_up()
    tesla, reader = warm_up.predictor("tesla", **NETCVR), warm_up.predictor("reader", **GMV)
    share = warm_up.predictor("refund_share", embedding_dim=2, batch_size=16)
    sources = {Target.CVR: tesla, Target.REFUND_RATE: tesla, Target.GMV: reader}
    return Stack({**sources, Target.REFUND_VALUE_SHARE: share}, gmv_factor=1.2)


class Spy:
    """A predictor that remembers its windows; its CVR is 1 / (1 + their number)."""

    targets = frozenset({Target.CVR})
    privileged = False

    def __init__(self):
        self.windows = []

    def predict(self, impressions):
        mean = np.full(impressions.mask.size, 1 / (1 + len(self.windows)))
        return {Target.CVR: Estimate(mean, np.zeros(mean.size))}

    def partial_fit(self, window):
        self.windows.append(window)
        return self


def env(**overrides):
    return make_auction_env(overrides=SMALL | overrides)


def oracle_stack():
    oracle = OraclePredictor()
    return Stack(dict.fromkeys(SOURCES, oracle))


def play(wrapper, seed=3, factor=1.0):
    """A campaign of `factor` x expected net value; everything seen."""
    (obs, info), over, seen = wrapper.reset(seed=seed), False, []
    seen.append((obs, info))
    while not over:
        obs, reward, over, _, info = wrapper.step(
            np.minimum(factor * obs["expected_net_value"], wrapper.unwrapped.campaign.max_bid)
        )
        seen.append((obs, reward, info))
    return seen


# --- what is shown -----------------------------------------------------------------------------


def test_observation_is_in_its_space_and_padding_is_zero(learning):
    wrapper = EstimatesWrapper(env(), learning)
    for obs, *_ in play(wrapper):
        assert wrapper.observation_space.contains(obs)
        padding = obs["mask"] == 0
        assert not any(obs[name][padding].any() for name in Estimates._fields)
    assert obs["mask"].sum() == 0  # the last observation has no requests


def test_empty_stack_shows_the_platforms_value():
    wrapper = EstimatesWrapper(env(), Stack())
    obs, _ = wrapper.reset(seed=0)
    margin = wrapper.unwrapped.campaign.margin
    assert obs["expected_net_value"] == pytest.approx(platform_value(obs, margin), rel=1e-12)
    assert not obs["refund_rate"].any()
    np.testing.assert_array_equal(obs["gmv"], obs["list_price"])


def test_net_value_composes_what_the_sources_say(learning):
    wrapper = EstimatesWrapper(env(), learning)
    obs, _ = wrapper.reset(seed=0)
    shown = shown_impressions(obs, 0)
    means = {t: p.predict(shown)[t].mean for t, p in wrapper.stack.sources.items()}
    kept, gmv = 1 - means[Target.REFUND_VALUE_SHARE], 1.2 * means[Target.GMV]
    value = wrapper.unwrapped.campaign.margin * obs["pctr"] * means[Target.CVR] * gmv * kept
    real = obs["mask"] > 0
    # Batches of another size may be rounded otherwise.
    assert obs["expected_net_value"][real] == pytest.approx(value[real], rel=1e-5)
    assert obs["refund_rate"][real] == pytest.approx(means[Target.REFUND_RATE][real], rel=1e-5)
    assert obs["gmv"][real] == pytest.approx(gmv[real], rel=1e-5)


@pytest.mark.parametrize("name", ["value", "linear", "pid", "dual", "ortb1"])
def test_agents_bid_on_the_estimates_as_they_are(name):
    wrapper, agent = EstimatesWrapper(env(), oracle_stack()), make_agent(name)
    obs, info = wrapper.reset(seed=1)
    agent.reset(wrapper.unwrapped.campaign, seed=1)
    agent.observe(info)
    bids = agent.act(obs)
    agent.reset(wrapper.unwrapped.campaign, seed=1)
    agent.observe(info)
    doubled = agent.act({**obs, "expected_net_value": 2 * obs["expected_net_value"]})
    plain = {key: value for key, value in obs.items() if key not in Estimates._fields}
    agent.reset(wrapper.unwrapped.campaign, seed=1)
    agent.observe(info)
    assert bids.any()
    assert not np.array_equal(bids, doubled)
    assert not np.array_equal(bids, agent.act(plain))


def test_corrector_shrinks_noisy_click_rates():
    # Log-odds of CTR .4 with sd 1 of noise: the best estimate has less variance than the noisy one.
    noisy = {"platform_noise.ctr_sd": 1.0, "traffic.impressions_per_tick": 1_000}
    sized = {"traffic.slots_per_tick": 2048, "time.num_ticks": 3}
    requests = sample_requests(load("default", SMALL | noisy | sized).world)
    stack = Stack(correctors=fitted_correctors([Target.CTR], {}, requests))
    wrapper = EstimatesWrapper(env(**noisy, **sized), stack)
    obs, _ = wrapper.reset(seed=0)
    real = obs["mask"] > 0
    truth = wrapper.unwrapped.oracle().click_probability()[real]
    error = [np.square(obs[name][real] - truth).mean() for name in ("ctr", "pctr")]
    assert error[0] < 0.6 * error[1]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Stack({Target.NET_CVR: OraclePredictor()}), "sources: must be of"),
        (lambda: Stack({Target.GMV: Spy()}), "Spy does not estimate gmv"),
        (lambda: Stack(correctors={Target.GMV: DenoiseBid()}), "correctors: must be of"),
        (lambda: Stack(gmv_factor=0.0), "gmv_factor must be > 0"),
        (lambda: EstimatesWrapper(make_pacing_env(overrides=SMALL), Stack()), "Auction-v0"),
        (lambda: EstimatesWrapper(env(), Stack(), learn_every=-1), "learn_every"),
        (lambda: EstimatesWrapper(env(), Stack(), explore_share=1.5), "explore_share"),
        (lambda: EstimatesWrapper(env(), Stack(), explore_factor=0.5), "explore_factor"),
    ],
)
def test_bad_arguments_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


# --- what is learned from ----------------------------------------------------------------------


@pytest.mark.parametrize(("every", "hours"), [(1, range(12, 97, 12)), (3, (36, 72, 96)), (0, ())])
def test_windows_hold_what_was_observed(every, hours):
    wrapper = EstimatesWrapper(env(), Stack({Target.CVR: Spy()}), learn_every=every)
    seen = play(wrapper, factor=3.0)
    windows = wrapper.stack.predictors[0].windows
    assert [window.now_hours for window in windows] == list(hours)
    if not every:
        return
    shown = [rows_won(seen, tick) for tick in range(8)]
    ids = np.concatenate([won.impression_id for won in shown])
    features = np.concatenate([won.features for won in shown])
    learned = [
        np.concatenate([getattr(w.impressions, n) for w in windows])
        for n in ("impression_id", "features")
    ]
    assert find_difference([ids, features], learned) is None
    events = np.concatenate([info["feedback"].amount for _, _, info in seen[1:]])
    np.testing.assert_array_equal(np.concatenate([w.events.amount for w in windows]), events)
    for window in windows:
        np.testing.assert_array_equal(
            np.unique(window.events.click_id), window.clicks.impression_id
        )
        place = np.searchsorted(ids, window.clicks.impression_id)
        np.testing.assert_array_equal(window.clicks.features, features[place])


def rows_won(seen, tick):
    obs, won = seen[tick][0], seen[tick + 1][-1]["result"].won
    return Impressions._make(column[won] for column in shown_impressions(obs, tick))


def test_windows_are_those_of_the_conformance_checks():
    # Same bids, hence the same windows: collect_windows plays random bids of its own.
    plain = env()
    theirs = [window for _, window in collect_windows(plain, seed=5)]
    wrapper = EstimatesWrapper(env(), Stack({Target.CVR: Spy()}), learn_every=1)
    bids = []
    plain.step = lambda action, step=plain.step: (bids.append(action), step(action))[1]
    collect_windows(plain, seed=5)
    wrapper.reset(seed=5)
    for action in bids:
        wrapper.step(action)
    assert find_difference(wrapper.stack.predictors[0].windows, theirs) is None


def test_nothing_leaks_through_learning_predictors(learning):
    def make():
        return EstimatesWrapper(env(), learning, learn_every=1, explore_share=0.2)

    assert check_no_leak(make, estimates=lambda obs, info: obs["expected_net_value"]) > 30


def test_episodes_repeat_and_leave_the_given_stack_alone(learning):
    wrapper = EstimatesWrapper(env(), learning, learn_every=2, explore_share=0.2)
    obs, _ = wrapper.reset(seed=0)
    shown = shown_impressions(obs, 0)
    before = [p.predict(shown) for p in learning.predictors]
    one, first = play(wrapper), wrapper.calibration()
    two, second = play(wrapper), wrapper.calibration()
    assert find_difference(one, two) is None
    assert first == second
    assert find_difference(before, [p.predict(shown) for p in learning.predictors]) is None
    after = [p.predict(shown) for p in wrapper.stack.predictors]
    assert find_difference(before, after) is not None  # it has learned


def test_ids_of_impressions_are_those_of_events():
    wrapper = EstimatesWrapper(env(), Stack({Target.CVR: Spy()}), learn_every=1)
    play(wrapper, factor=3.0)
    window = wrapper.stack.predictors[0].windows[2]
    assert (window.impressions.impression_id // ID_STRIDE == 2).all()
    new = window.events.kind == 0
    clicked = window.impressions.impression_id[window.result.clicked]
    np.testing.assert_array_equal(window.events.click_id[new], clicked)


# --- what is scored ----------------------------------------------------------------------------


def test_predictions_are_those_of_the_moment_of_the_bid():
    # The spy says 1, then 1/2, 1/3, ...: one window per tick.
    wrapper = EstimatesWrapper(env(), Stack({Target.CVR: Spy()}), learn_every=1)
    seen = play(wrapper, factor=3.0)
    clicks = [info["result"].clicked.sum() for _, _, info in seen[1:]]
    said = wrapper.calibration()["cvr"]
    assert said.count == sum(clicks) > 40
    assert said.predicted == pytest.approx(sum(n / (1 + k) for k, n in enumerate(clicks)))


def test_scores_at_the_end_are_those_of_the_statement():
    wrapper = EstimatesWrapper(env(), Stack())
    play(wrapper, factor=3.0)
    scores, statement = wrapper.calibration(), wrapper.unwrapped.statement()
    assert (scores["ctr"].count, scores["ctr"].observed) == (statement.wins, statement.clicks)
    assert scores["gmv"].observed == pytest.approx(statement.gmv)
    assert scores["net_gmv"].observed == pytest.approx(statement.net_gmv)
    assert scores["refund_rate"].count == scores["cvr"].observed > 0


def test_truth_loses_nothing_and_noise_does():
    noisy = {"platform_noise.ctr_sd": 1.0, "platform_noise.cvr_sd": 1.0, "campaign.budget": 60.0}
    wrapper = EstimatesWrapper(env(**noisy), oracle_stack())
    assert wrapper.privileged
    play(wrapper)
    best = estimation_loss(wrapper)
    assert best.share == pytest.approx(1.0, abs=1e-9)
    assert best.hindsight == pytest.approx(wrapper.unwrapped.oracle().hindsight().net_value)
    other = EstimatesWrapper(wrapper.unwrapped, Stack())
    assert not other.privileged
    play(other)
    loss = estimation_loss(other)
    assert loss.hindsight == pytest.approx(best.hindsight)
    assert 0.2 < loss.share < 0.99
    assert loss.regret == pytest.approx(loss.hindsight - loss.chosen)


def test_oracle_stack_shows_the_truth():
    wrapper = EstimatesWrapper(env(), oracle_stack())
    obs, _ = wrapper.reset(seed=0)
    truth = wrapper.unwrapped.oracle().truth()
    np.testing.assert_array_equal(obs["ctr"], truth.p_click)
    np.testing.assert_array_equal(obs["refund_rate"], truth.p_refund)
    assert obs["expected_net_value"] == pytest.approx(truth.net_value, rel=1e-9)


def test_loss_is_told_only_afterwards():
    wrapper = EstimatesWrapper(env(), Stack())
    wrapper.reset(seed=0)
    with pytest.raises(RuntimeError, match="not over"):
        estimation_loss(wrapper)
    crowd = EstimatesWrapper(env(**{"market.kind": "population", "time.num_ticks": 1}), Stack())
    play(crowd)
    with pytest.raises(ValueError, match="population"):
        estimation_loss(crowd)


# --- exploration -------------------------------------------------------------------------------


class Listener(EstimatesWrapper):
    """Keeps what it was asked to bid and what it did bid."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked, self.made = [], []

    def _explore(self, bids):
        self.asked.append(bids)
        self.made.append(super()._explore(bids))
        return self.made[-1]


def test_exploration_multiplies_a_share_of_the_bids():
    # 8 x 30 requests, about 240; 30 % of them, sd 3 %.
    wrapper = Listener(env(), Stack(), explore_share=0.3, explore_factor=4.0)
    play(wrapper)
    asked, made = np.concatenate(wrapper.asked), np.concatenate(wrapper.made)
    real = asked > 0
    ratio = made[real] / asked[real]
    changed = ratio != 1
    assert 0.2 < changed.mean() < 0.4
    assert ratio.min() >= 0.25
    assert ratio.max() <= 4
    assert (ratio > 1).any()
    assert (ratio < 1).any()
    assert wrapper.calibration(True)["ctr"].count + wrapper.calibration(False)["ctr"].count == (
        wrapper.unwrapped.statement().wins
    )
    again = Listener(env(), Stack(), explore_share=0.3, explore_factor=4.0)
    play(again)
    np.testing.assert_array_equal(np.concatenate(again.made), made)
    play(again, seed=4)
    assert not np.array_equal(np.concatenate(again.made[8:]), made)


def test_exploration_keeps_bids_admissible_and_traffic_alike():
    wrapper = Listener(env(), Stack(), explore_share=1.0, explore_factor=100.0)
    obs, _ = wrapper.reset(seed=2)
    highest = wrapper.unwrapped.campaign.max_bid
    explored, *_ = wrapper.step(np.full(obs["mask"].size, highest))
    assert wrapper.made[0].max() == highest
    plain = EstimatesWrapper(env(), Stack())
    plain.reset(seed=2)
    other, *_ = plain.step(np.zeros(obs["mask"].size))
    np.testing.assert_array_equal(explored["features"], other["features"])
    for bids in (np.zeros(3), np.full(obs["mask"].size, 2 * highest)):
        with pytest.raises(ValueError, match="action"):
            wrapper.step(bids)


def test_no_exploration_is_the_default():
    wrapper = Listener(env(), Stack())
    play(wrapper)
    assert find_difference(wrapper.asked, wrapper.made) is None
    assert wrapper.calibration(True)["ctr"].count == 0
