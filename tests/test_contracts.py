"""Everything in the registries keeps its contract: registry x check, markets x check."""

import json
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import small_gmv
import small_predictors
from purchase_logs import WEEK
from small_worlds import SMALL_WORLD
from threads import one_thread

from adsim.checks import check_agent, check_no_leak, check_predictor, default_action
from adsim.datasets.ipinyou import AuctionLog, write_auction_log
from adsim.purchaselog import generate_purchases
from adsim.rng import generator
from adsim.types import Corrector, Estimate
from agents import AGENTS
from predictors import (
    CORRECTORS,
    PREDICTORS,
    DenoiseBid,
    GmvPredictor,
    GmvPretraining,
    NetCVRPredictor,
    RefundShare,
    RefundShareConfig,
    RiskBid,
    ScenePredictor,
)
from predictors.neural import NeuralPredictor, load_predictor
from predictors.purchase_rows import purchases_known_at
from predictors.stream import Split
from scenarios.build import make_agent, make_auction_env, make_pacing_env
from scenarios.schema import load

SMALL = SMALL_WORLD | {
    "campaign.budget": 800.0,
}
MARKETS = {
    "second_price": {},
    "first_price": {"market.mechanism": "first_price"},
    "per_click": {"market.charge": "click"},
    "revealed": {"market.mechanism": "first_price", "market.reveal": "all"},
    "noisy": {"platform_noise.ctr_sd": 0.5, "platform_noise.cvr_sd": 0.5, "market.reserve": 2.0},
    "new_structures": {"randomize_structure": True, "reward": "estimated"},
    "shock": {"shocks": [{"start_hours": 24.0, "end_hours": 48.0, "traffic": 2.0, "cvr": 1.5}]},
    "population": {"market.kind": "population"},
    "auctions_of_three": {
        "market.kind": "population",
        "market.mechanism": "gsp",
        "market.exposure": [1.0, 0.8, 0.6],
        "market.charge": "click",
        "market.reveal": "all",
    },
}
WHOLE_PRICES = {"ss_mdp", "rlb"}  # their tables need whole prices: they play the replay
PRIVILEGED = {"hindsight"}  # the only ones that may look behind the curtain


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def replay(tmp_path_factory):
    """Overrides of a replay market: 60 auctions of whole prices, 5 a tick."""
    folder = tmp_path_factory.mktemp("log")
    rng = generator(0, 1)
    theta = rng.uniform(0.05, 0.6, 60)
    log = AuctionLog(rng.random(60) < theta, rng.integers(1, 30, 60).astype(float), theta)
    write_auction_log(folder / "log.txt", log)
    counts = rng.integers(0, 9, 301).tolist()
    info = {"imp_train": 100, "cost_train": 1500, "clk_train": 30, "price_counter_train": counts}
    (folder / "x.info.json").write_text(json.dumps(info))
    return {
        "time.num_ticks": 8,
        "market.kind": "replay",
        "market.replay.log": str(folder / "log.txt"),
        "market.replay.info": str(folder / "x.info.json"),
        "market.replay.auctions_per_tick": 5,
        "market.replay.click_value": 50.0,
        "campaign.budget": 200.0,
        "campaign.margin": 1.0,
    }


@pytest.mark.parametrize("market", ["second_price", "first_price", "per_click"])
@pytest.mark.parametrize("name", sorted(AGENTS.keys() - WHOLE_PRICES))
def test_agent_keeps_its_contract(name, market):
    overrides = SMALL | MARKETS[market]
    check_agent(lambda: make_agent(name), lambda: make_auction_env(overrides=overrides))


@pytest.mark.parametrize("name", sorted(AGENTS.keys() - PRIVILEGED))
def test_agent_keeps_its_contract_in_a_replay(name, replay):
    check_agent(lambda: make_agent(name), lambda: make_auction_env(overrides=replay))


@pytest.mark.parametrize("name", sorted(AGENTS.keys() - PRIVILEGED - WHOLE_PRICES))
def test_agent_keeps_its_contract_in_a_population(name):
    overrides = SMALL | MARKETS["auctions_of_three"]
    check_agent(lambda: make_agent(name), lambda: make_auction_env(overrides=overrides))


def test_privileged_agents_are_flagged():
    assert {name for name in AGENTS if make_agent(name).privileged} == PRIVILEGED


# Two days of purchases to pre-train on, and all there is to know of them.
SPLIT = Split(pretrain_days=2, stream_start_day=12, stream_end_day=13, segment_days=0.25)
BOUND_TO_A_LOG = {"oracle_dual"}  # attached to a log of purchases, it cannot play a campaign


@cache
def purchases():
    """Some 50 clicks a day with their purchases, known when the stream starts, of a small world."""
    size = {"time.num_ticks": 4, "traffic.impressions_per_tick": 60}
    log = generate_purchases(load("price_refunds", SMALL_WORLD | size).world, 0)
    return purchases_known_at(log, SPLIT.start_second - 1)


@cache
def gmv_pretraining():
    """Shared by the GMV predictors: every network is trained once."""
    return GmvPretraining(purchases(), SPLIT)


@cache
def clicks():
    """Clicks of a small world, known when the stream starts."""
    return small_predictors.stream().history()


def make_predictor(name):
    """A predictor; a neural one has learned from clicks of a small world."""
    make, fields = PREDICTORS[name], purchases().cardinalities
    if issubclass(make, NetCVRPredictor):
        return small_predictors.fitted(name, follow=False)
    if issubclass(make, GmvPredictor):
        predictor = small_gmv.new_predictor(name, fields, attribution_seconds=WEEK)
        return predictor.fit(purchases(), SPLIT, pretraining=gmv_pretraining())
    if issubclass(make, ScenePredictor):
        config = make.config_class(embedding_dim=2, bottom=(8,), tower=(4,), batch_size=32)
        return make(clicks().cardinalities, config).fit(clicks(), small_predictors.SPLIT)
    if make is RefundShare:
        return RefundShare(fields, RefundShareConfig(batch_size=16)).fit(purchases(), SPLIT)
    return make()


@pytest.mark.parametrize("name", sorted(PREDICTORS.keys() - BOUND_TO_A_LOG))
@pytest.mark.parametrize("market", ["second_price", "population"])
def test_predictor_keeps_its_contract(name, market, tmp_path):
    def reload(predictor):
        if not isinstance(predictor, NeuralPredictor):
            return deepcopy(predictor)
        predictor.save(tmp_path / "kept.npz")
        return load_predictor(tmp_path / "kept.npz")

    env = {"overrides": SMALL | MARKETS[market]}
    check_predictor(lambda: make_predictor(name), lambda: make_auction_env(**env), reload=reload)


def test_privileged_predictors_are_flagged():
    privileged = {name for name, make in PREDICTORS.items() if make.privileged}
    assert privileged == {"oracle", "trained_oracle", "oracle_single", "oracle_dual"}
    assert privileged > BOUND_TO_A_LOG


def test_correctors_are_registered():
    assert {"denoise_bid": DenoiseBid, "risk_bid": RiskBid} == CORRECTORS


@pytest.mark.parametrize("name", sorted(CORRECTORS))
def test_corrector_keeps_its_contract(name):
    rng = generator(0, 3)
    mean = 1 / (1 + np.exp(-rng.normal(-3.0, 1.0, 500)))
    given = Estimate(mean, 0.5 * mean * (1 - mean))
    # Certain and impossible events, estimates whose error is unknown (0) or huge.
    edges = Estimate(np.array([0.0, 1.0, 0.02, 0.02, 0.02]), np.array([0.0, 0.1, 0.0, 0.1, 1e6]))
    before = [part.copy() for part in (*given, *edges)]
    corrector = CORRECTORS[name]()
    assert isinstance(corrector, Corrector)
    assert corrector.privileged is False
    assert corrector.fit(given) is corrector
    for batch in (given, edges, Estimate(np.zeros(0), np.zeros(0))):
        found, again = corrector.correct(batch), corrector.correct(batch)
        for part, same in zip(found, again, strict=True):
            assert part.shape == batch.mean.shape
            assert part.dtype == np.float64
            np.testing.assert_array_equal(part, same)  # pure
        assert ((found.mean >= 0) & (found.mean <= 1)).all()  # false for NaN
        assert (found.std >= 0).all()
    for part, old in zip((*given, *edges), before, strict=True):
        np.testing.assert_array_equal(part, old)
    # Rows do not depend on their neighbours.
    some = corrector.correct(Estimate(mean[:7], given.std[:7]))
    np.testing.assert_allclose(some.mean, corrector.correct(given).mean[:7], rtol=1e-12)
    for wrong in (Estimate(np.array([np.nan]), np.zeros(1)), Estimate(np.zeros(1), -np.ones(1))):
        with pytest.raises(ValueError, match="must be"):
            corrector.correct(wrong)


@pytest.mark.parametrize("make", [make_auction_env, make_pacing_env])
@pytest.mark.parametrize("market", MARKETS)
def test_future_is_unreachable(market, make):
    rng, env = generator(0, 2), make(overrides=SMALL | MARKETS[market])

    def act(obs):  # about three times the values: enough wins in every market
        if make is make_pacing_env:
            return np.full(env.action_space.shape, 0.5, np.float32)
        return (3 * default_action(env, obs, rng)).clip(0, env.campaign.max_bid)

    rewritten = check_no_leak(lambda: make(overrides=SMALL | MARKETS[market]), act=act)
    assert rewritten > 10


@pytest.mark.parametrize("make", [make_auction_env, make_pacing_env])
def test_future_of_a_replay_is_unreachable(replay, make):
    assert check_no_leak(lambda: make(overrides=replay)) == 0  # purchases come with the click
