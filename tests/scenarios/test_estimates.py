"""Estimates in the loop: what is shown, what is learned from, what is scored, and nothing else."""

import numpy as np
import pytest
from small_worlds import SMALL_WORLD
from threads import one_thread

from adsim.checks import check_no_leak, collect_windows, find_difference
from adsim.config import WindowsConfig
from adsim.rng import ID_STRIDE
from adsim.types import AuctionResult, Estimate, EventBatch, Impressions, Target
from agents.base import platform_value
from predictors import OraclePredictor
from predictors.denoise_bid import DenoiseBid
from scenarios.build import make_agent, make_auction_env, make_pacing_env
from scenarios.estimates import EstimatesWrapper, estimation_loss
from scenarios.observed import LabelBook, Recorder, shown_impressions
from scenarios.schema import load
from scenarios.stack import SOURCES, Estimates, Stack
from scenarios.warmup import HistoryConfig, WarmUp

SMALL = SMALL_WORLD | {"campaign.budget": 800.0}
SIZE = HistoryConfig(days=14, clicks_per_day=150, impressions_per_day=300)
NETCVR = {"embedding_dim": 2, "widths": (8,), "batch_size": 32}
GMV = {"embedding_dim": 2, "encoder_widths": (8,), "tower_widths": (4,), "batch_size": 16}
GMV |= {"router_widths": (4,), "calibrator_widths": (4,), "pretrain_epochs": 1}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def warm_up():
    return WarmUp(load("default", SMALL).world, SIZE)


@pytest.fixture(scope="module")
def learning(warm_up):
    """TESLA, READER and the refunded share."""
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
    wrapper = EstimatesWrapper(env(**noisy, **sized), Stack(corrector=DenoiseBid()))
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
        (lambda: Stack({Target.CTR: OraclePredictor()}, corrector=DenoiseBid()), "corrector"),
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


def test_recorder_gives_empty_windows_and_forgets_old_clicks():
    obs, _ = env().reset(seed=0)
    recorder, shown = Recorder(obs, kept_hours=24.0), shown_impressions(obs, 0)
    empty = recorder.window(0.0)
    assert [len(part[0]) for part in empty[1:]] == [0, 0, 0, 0]
    won = shown.mask > 0
    result = AuctionResult(won, np.ones(won.size), won, np.zeros(won.size, np.int8))
    nothing = EventBatch(*(column[:0] for column in empty.events))
    recorder.add(shown, {"result": result, "feedback": nothing})
    first = recorder.window(12.0)
    assert first.impressions.mask.sum() == won.sum()
    assert first.clicks.mask.size == 0  # no event refers to them

    def purchase(hours):
        one = (np.zeros(1, int), np.array([hours]), np.ones(1, np.int8), np.zeros(1, int))
        events = EventBatch(*one, np.zeros(1, np.int16), np.ones(1))
        none = AuctionResult(won & False, result.price, won & False, result.slot)
        recorder.add(shown_impressions(obs, 1), {"result": none, "feedback": events})
        return recorder.window(hours)

    known = purchase(20.0)
    np.testing.assert_array_equal(known.clicks.features, shown.features[:1])
    assert known.impressions.mask.size == 0
    purchase(40.0)  # 24 h after the last click of the first 12 h: forgotten from now on
    assert purchase(41.0).clicks.mask.size == 0


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


# --- what is scored ----------------------------------------------------------------------------


def events(*rows):
    """(click, hours, kind, order, amount) each."""
    click, hours, kind, order, amount = (np.array(column) for column in zip(*rows, strict=True))
    tick = np.zeros(click.size, int)
    return EventBatch(tick, hours * 1.0, kind, click, order, amount * 1.0)


def test_labels_are_scored_when_they_mature():
    # Windows of 10 h to the first purchase, 20 h to any, 5 h to a refund. Four wins, three clicks
    # at 0, 1 and 2 h. The first buys at 3 h for 50 (back at 6 h) and at 12 h for 30, the second at
    # 9 h for 20, the third nothing.
    book = LabelBook(WindowsConfig(conversion_hours=10, gmv_hours=20, refund_hours=5))
    ids, hours = np.arange(4), np.array([0.0, 1.0, 2.0, 3.0])
    yes, slot = np.ones(4, bool), np.zeros(4, np.int8)
    shown = Impressions(ids, hours, np.zeros((4, 1), np.int32), np.zeros(4, np.int32), slot + 1)
    said = Estimates(
        ctr=np.array([0.5, 0.5, 0.5, 0.3]),
        cvr=np.array([0.4, 0.3, 0.2, 0.9]),
        refund_rate=np.array([0.3, 0.1, 0.0, 0.0]),
        gmv=np.array([60.0, 50.0, 40.0, 1.0]),
        expected_net_value=np.zeros(4),
    )
    result = AuctionResult(yes, np.ones(4), np.array([True, True, True, False]), slot)
    explored = np.array([False, True, False, False])
    book.add(shown, said, np.array([10.0, 20.0, 30.0, 0.0]), result, explored)
    book.update(events((0, 3, 1, 0, 50), (0, 6, 2, 0, 50), (1, 9, 1, 0, 20)))
    book.update(events((0, 12, 1, 1, 30)))

    def found(now, explored=None):
        scores = book.calibration(now, explored)
        return {name: (s.count, s.predicted, s.observed) for name, s in scores.items()}

    assert found(0)["ctr"] == (4, pytest.approx(1.8), 3)  # known at once
    assert [found(now)["cvr"][0] for now in (9.9, 10, 11, 12)] == [0, 1, 2, 3]
    assert found(12)["cvr"] == (3, pytest.approx(0.9), 2)
    assert [found(now)["refund_rate"][0] for now in (7.9, 8, 13.9, 14)] == [0, 1, 1, 2]
    assert found(14)["refund_rate"] == (2, pytest.approx(0.4), 1)
    assert found(20)["gmv"] == (1, 60, 80)
    assert found(21)["gmv"] == (2, 110, 100)
    assert found(24.9)["net_gmv"] == (0, 0, 0)
    assert found(25)["net_gmv"] == (1, 10, 30)  # 50 of 80 have come back
    assert found(np.inf)["net_gmv"] == (3, 60, 50)
    assert found(np.inf, True)["cvr"] == (1, 0.3, 1)
    assert found(np.inf, True)["ctr"] == (1, 0.5, 1)
    assert found(np.inf, False)["gmv"] == (1, 60, 80)
    assert book.calibration(np.inf)["net_gmv"].pcoc == pytest.approx(60 / 50)
    assert np.isnan(book.calibration(0)["cvr"].pcoc)


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


# --- before the campaign -----------------------------------------------------------------------


def test_history_is_known_before_the_campaign(warm_up):
    # 14 days are 3.5 campaigns of 4 days: 4 of them, 16 days.
    clicks, purchases = warm_up.history
    start = 16 * 86_400
    for times in (*clicks[:3], purchases.purchase_time, purchases.refund_time):
        assert times.max() < start
    assert np.isnan(clicks.p_convert).all()
    assert np.isnan(purchases.gmv_truth).all()
    assert clicks.click_time.size == pytest.approx(16 * 150, rel=0.1)
    assert purchases.click_time.size == np.count_nonzero(clicks.conversion_time >= 0)


def test_history_holds_impressions_as_often_as_they_are_clicked():
    # Shares of the 20 items among clicks; those among all impressions are further off.
    world = load("default", SMALL | {"drift.share": 0.0, "effects.click.sd": 1.5}).world
    warm = WarmUp(world, HistoryConfig(days=12, clicks_per_day=2_000, impressions_per_day=20_000))
    item = 1 + len(world.entities.user_cardinalities)
    log, shown = warm.history.clicks, warm.impressions
    shares = [
        np.bincount(features[:, item], minlength=20) / len(features)
        for features in (log.features, shown.features[shown.clicked], shown.features)
    ]
    error = [np.abs(shares[0] - other).sum() for other in shares[1:]]
    assert error[0] < 0.05
    assert error[1] > 2 * error[0]


def test_warm_up_is_kept_and_found_again(tmp_path, warm_up, capsys):
    config = load("default", SMALL).world
    spent = config.campaign.model_copy(update={"budget": 5.0})
    ids = warm_up.history.clicks.features[:50]
    shown = Impressions(np.arange(50), np.zeros(50), ids, np.zeros(50, np.int32), np.ones(50))
    one = WarmUp(config, SIZE, cache=tmp_path)
    said = one.predictor("fnc", **NETCVR).predict(shown)
    factor = one.gmv_factor("reader", **GMV)
    files = sorted(tmp_path.iterdir())
    assert [file.name.split("-")[0] for file in files] == ["fnc", "gmv_factor", "reader"]
    other = WarmUp(config.model_copy(update={"campaign": spent}), SIZE, cache=tmp_path)
    assert find_difference(other.predictor("fnc", **NETCVR).predict(shown), said) is None
    assert other.gmv_factor("reader", **GMV) == factor
    assert "history" not in vars(other)  # nothing was drawn
    longer = SIZE.model_copy(update={"days": 17})
    for change in ((config, longer), (config.model_copy(update={"structure_seed": 1}), SIZE)):
        WarmUp(*change, cache=tmp_path).predictor("fnc", **NETCVR)
    assert len(list(tmp_path.iterdir())) == 5


def test_gmv_factor_makes_sums_agree(warm_up):
    # Amounts are medians in networks; list prices leave out repurchases: both factors are > 1.
    assert warm_up.gmv_factor() > 1.3
    assert warm_up.gmv_factor("reader", **GMV) > 1


def test_click_predictor_learns_from_impressions(warm_up):
    predictor = warm_up.predictor(
        "scene_input", target="ctr", embedding_dim=2, bottom=(4,), tower=(4,)
    )
    stack = Stack({Target.CTR: predictor})
    wrapper = EstimatesWrapper(env(), stack)
    play(wrapper, factor=3.0)
    assert 0.5 < wrapper.calibration()["ctr"].pcoc < 2
    assert wrapper.stack.predictors[0].trained_rows > 0


@pytest.mark.parametrize(
    ("overrides", "name", "text"),
    [
        ({"randomize_structure": True}, "fnc", "structure that is known"),
        ({}, "oracle", "'oracle' has no warm-up: one of apg, bdl, "),
        ({}, "trained_oracle", "has no warm-up"),
        ({"windows.gmv_hours": 400.0}, "reader", "days must be > 16.6667"),
    ],
)
def test_impossible_warm_ups_are_refused(overrides, name, text):
    with pytest.raises(ValueError, match=text):
        WarmUp(load("default", SMALL | overrides).world, SIZE).predictor(name)


def test_ids_of_impressions_are_those_of_events():
    wrapper = EstimatesWrapper(env(), Stack({Target.CVR: Spy()}), learn_every=1)
    play(wrapper, factor=3.0)
    window = wrapper.stack.predictors[0].windows[2]
    assert (window.impressions.impression_id // ID_STRIDE == 2).all()
    new = window.events.kind == 0
    clicked = window.impressions.impression_id[window.result.clicked]
    np.testing.assert_array_equal(window.events.click_id[new], clicked)
