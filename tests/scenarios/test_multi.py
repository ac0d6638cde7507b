"""Several campaigns in one auction: the contract of PettingZoo, and who is told and paid what."""

import importlib
import sys

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test
from small_worlds import SMALL_WORLD

from adsim.checks import default_action, find_difference
from adsim.kernels import ITEM, P_CLICK, PRICE, USER
from adsim.rng import ID_STRIDE, Stream, campaign_seeds, derive, generator, uniforms
from adsim.source import SyntheticSource
from adsim.types import EventKind
from adsim.world import World
from scenarios.build import make_agent, make_auction_env, make_pacing_env, make_rivals
from scenarios.multi import make_campaigns_env
from scenarios.schema import load

SMALL = SMALL_WORLD | {"campaign.budget": 800.0, "market.kind": "population"}
PER_CLICK = {
    "market.mechanism": "gsp",
    "market.exposure": [1.0, 0.8, 0.6],
    "market.charge": "click",
    "market.reveal": "all",
    "platform_noise.ctr_sd": 0.3,
}
ONLY_TWO = {"market.population.n_advertisers": 2, "platform_noise.ctr_sd": 0.3}


def make(k=2, pacing=False, **overrides):
    return make_campaigns_env(k, overrides=SMALL | overrides, pacing=pacing)


def flat(env, **bids):
    """Actions: one bid for all impressions, by agent."""
    return {agent: np.full(env.world.num_slots, float(bids[agent])) for agent in env.agents}


def play(env, seed=3, factors=(3.0, 3.0, 3.0)):
    """Bids of random multiples of the platform's value; everything returned per tick."""
    rng, (obs, _) = generator(seed, 5), env.reset(seed=seed)
    steps = []
    while env.agents:
        actions = {}
        for agent, factor in zip(env.agents, factors, strict=False):
            if isinstance(obs[agent], dict):
                shown, terms = obs[agent], env.campaigns[agent]
                value = shown["pctr"] * shown["pcvr"] * shown["list_price"] * terms.margin
                bids = factor * value * rng.uniform(0.5, 1.5, value.shape)
                actions[agent] = np.minimum(bids, terms.max_bid)
            else:
                actions[agent] = rng.uniform(-1, 1, 1)
        steps.append(env.step(actions))
        obs = steps[-1][0]
    return steps


# --- the contract ------------------------------------------------------------------------------


@pytest.mark.parametrize("pacing", [False, True])
def test_contract_of_pettingzoo(pacing, capsys):
    parallel_api_test(make(3, pacing), num_cycles=20)
    parallel_seed_test(lambda: make(3, pacing), num_cycles=20)
    assert "Passed" in capsys.readouterr().out


@pytest.mark.parametrize("pacing", [False, True])
def test_observations_are_in_their_spaces(pacing):
    env = make(3, pacing)
    for obs, *_ in play(env):
        assert all(env.observation_space(agent).contains(o) for agent, o in obs.items())


@pytest.mark.parametrize("market", [{}, PER_CLICK, {"randomize_structure": True}])
@pytest.mark.parametrize("pacing", [False, True])
def test_one_campaign_alone_plays_the_single_environment(pacing, market):
    env, maker = make(1, pacing, **market), (make_auction_env, make_pacing_env)[pacing]
    single = maker(overrides=SMALL | market)
    assert find_difference(env.campaigns["campaign_0"], single.campaign) is None
    rng = generator(0, 5)
    (obs, infos), seen, over = env.reset(seed=9), single.reset(seed=9), False
    assert find_difference((obs["campaign_0"], infos["campaign_0"]), seen) is None
    while not over:
        action = default_action(single, seen[0], rng)
        obs, *rest = env.step({"campaign_0": action})
        seen = single.step(action)
        over = seen[2]
        ours = (obs["campaign_0"], *(part["campaign_0"] for part in rest))
        assert find_difference(ours, seen) is None
    assert env.statement("campaign_0") == single.statement()
    assert env.agents == []


@pytest.mark.parametrize("pacing", [False, True])
@pytest.mark.parametrize("market", [{}, PER_CLICK])
def test_rewards_sum_to_the_net_value_of_each_statement(pacing, market):
    env = make(3, pacing, **market)
    steps = play(env)
    for agent in env.possible_agents:
        statement = env.statement(agent)
        assert sum(step[1][agent] for step in steps) == statement.net_value
        rest = statement.margin * statement.net_gmv - statement.spend
        assert statement.net_value == pytest.approx(rest, abs=1e-9)
        assert 0 < statement.spend <= statement.budget
        assert statement.clicks > 0
    assert steps[-1][2] == dict.fromkeys(env.possible_agents, True)


# --- the auction -------------------------------------------------------------------------------


def test_two_campaigns_price_each_other():
    # Nobody else bids: 5 beats 3 and pays 3. The budget of 800 buys 266 impressions at 3, more than
    # the 8 x 30 or so of the campaign.
    env = make(**ONLY_TWO)
    env.reset(seed=0)
    while env.agents:
        shown = env.world.drawn
        *_, infos = env.step(flat(env, campaign_0=3, campaign_1=5))
        count = int(shown.filled[0])
        loser, winner = (infos[agent]["result"] for agent in env.possible_agents)
        assert winner.won[:count].all()
        assert (winner.price[:count] == 3).all()
        assert not loser.won.any()
        assert np.isinf(loser.price).all()
        # The prices to beat, of which nothing is told: the other's bid.
        np.testing.assert_array_equal(shown.floats[PRICE, :, 0], [5, 3])
    spent = env.statement("campaign_1").spend
    assert (
        spent == 3 * env.statement("campaign_1").wins == 3 * env.world.ledger.total("impressions")
    )
    assert env.statement("campaign_0").spend == 0


def test_budgets_are_live_within_a_tick():
    # Budgets of 20. campaign_1 pays 3 six times; its bid is then the 2 that are left. campaign_0
    # pays these 2 ten times, also as the first of a tie (2 against 2), and has nothing left; the
    # rest is free.
    env = make(**ONLY_TWO, **{"campaign.budget": 20.0})
    env.reset(seed=0)
    count = int(env.world.drawn.filled[0])
    *_, infos = env.step(flat(env, campaign_0=3, campaign_1=5))
    first, second = (infos[agent]["result"] for agent in env.possible_agents)
    assert count > 16
    assert second.price[:count].tolist() == [3.0] * 6 + [np.inf] * 10 + [0.0] * (count - 16)
    assert first.price[:count].tolist() == [np.inf] * 6 + [2.0] * 10 + [np.inf] * (count - 16)
    np.testing.assert_array_equal(env.world.budget_left[:, 0], [0, 2])


def test_ties_go_to_the_first_and_the_reserve_holds():
    env = make(**ONLY_TWO, **{"market.reserve": 4.0})
    env.reset(seed=0)
    count = int(env.world.drawn.filled[0])
    *_, infos = env.step(flat(env, campaign_0=5, campaign_1=5))
    assert infos["campaign_0"]["result"].won[:count].all()
    *_, infos = env.step(flat(env, campaign_0=5, campaign_1=3))
    assert (infos["campaign_0"]["result"].price[:3] == 4).all()
    *_, infos = env.step(flat(env, campaign_0=3, campaign_1=3))
    assert not any(infos[agent]["result"].won.any() for agent in env.possible_agents)


def test_same_traffic_own_catalogues_own_noise():
    env = make(3, **{"platform_noise.ctr_sd": 0.5})
    obs, _ = env.reset(seed=2)
    one, two, _ = obs.values()
    real = one["mask"] > 0
    users, items = env.world.drawn.ints[[USER, ITEM]]
    size = env.world.config.entities.items_per_advertiser
    np.testing.assert_array_equal(users[0], users[1])
    np.testing.assert_array_equal(one["time_hours"], two["time_hours"])
    np.testing.assert_array_equal(one["scene"], two["scene"])
    assert (items[1][real] == items[0][real] + size).all()
    assert (items[2][real] == items[0][real] + 2 * size).all()
    assert not np.array_equal(one["list_price"], two["list_price"])
    truth = env.world.drawn.floats[P_CLICK][:, real]
    error = [
        np.log(o["pctr"][real] / (1 - o["pctr"][real])) - np.log(p / (1 - p))
        for o, p in zip((one, two), truth, strict=False)
    ]
    assert abs(np.corrcoef(error)[0, 1]) < 0.6  # 30 draws: sd of about 0.18 if independent


def test_truth_is_of_the_own_catalogue():
    # E[GMV | click] is list price x a factor: about the same for both, with prices of their own.
    env = make()
    env.reset(seed=2)
    truths = [env.oracle(agent).truth() for agent in env.possible_agents]
    assert not np.array_equal(truths[0].gmv, truths[1].gmv)
    for row, truth in enumerate(truths):
        np.testing.assert_array_equal(truth.p_click, env.world.drawn.floats[P_CLICK, row])


# --- what happens to a campaign ----------------------------------------------------------------


def test_feedback_is_of_own_clicks_only():
    env = make(3)
    own = {agent: set() for agent in env.possible_agents}
    purchases = 0
    for *_, infos in play(env):
        for agent, info in infos.items():
            events = info["feedback"]
            new = events.click_id[events.kind == EventKind.CLICK]
            np.testing.assert_array_equal(new % ID_STRIDE, np.flatnonzero(info["result"].clicked))
            own[agent] |= set(new.tolist())
            assert set(events.click_id.tolist()) <= own[agent]
            purchases += np.count_nonzero(events.kind == EventKind.PURCHASE)
    assert purchases > 10
    assert min(map(len, own.values())) > 0


def test_outcomes_belong_to_impression_and_campaign():
    # Outbidding the others changes what campaign_1 wins, not what becomes of what it wins.
    clicks, wins = [], []
    for others in (1.0, 4.0):
        env = make(3)
        won, clicked = set(), set()
        for tick, (*_, infos) in enumerate(play(env, factors=(others, 3.0, others))):
            result = infos["campaign_1"]["result"]
            won |= {(tick, i) for i in np.flatnonzero(result.won)}
            clicked |= {(tick, i) for i in np.flatnonzero(result.clicked)}
        wins.append(won)
        clicks.append(clicked)
    both = wins[0] & wins[1]
    assert wins[0] != wins[1]
    assert len(both & clicks[0]) > 5
    assert both & clicks[0] == both & clicks[1]


def test_campaigns_have_outcomes_of_their_own():
    # Seed of campaign 1: derived; word 0 of its OUTCOME block is the click.
    seeds = campaign_seeds(17, 2)
    assert seeds == [17, derive(17, Stream.CAMPAIGN, 1)]
    env = make(**ONLY_TWO)
    env.reset(seed=0)
    episode, other = (int(seed) for seed in env.world.seeds)
    assert other == derive(episode, Stream.CAMPAIGN, 1)
    drawn, count = env.world.drawn, int(env.world.drawn.filled[1])
    *_, infos = env.step(flat(env, campaign_0=3, campaign_1=5))
    draws = uniforms(other, Stream.OUTCOME, np.arange(count))[:, 0]
    expected = draws < drawn.floats[P_CLICK, 1, :count]
    np.testing.assert_array_equal(infos["campaign_1"]["result"].clicked[:count], expected)


@pytest.mark.parametrize("pacing", [False, True])
def test_episodes_repeat(pacing):
    one, two = (play(make(3, pacing)) for _ in range(2))
    assert find_difference(one, two) is None


def test_agents_of_the_registry_play_against_each_other():
    env = make(**{"campaign.budget": 60.0})
    obs, infos = env.reset(seed=1)
    agents = {"campaign_0": make_agent("dual"), "campaign_1": make_agent("value")}
    for name, agent in agents.items():
        agent.reset(env.campaigns[name], seed=1)
        agent.observe(infos[name])
    while env.agents:
        obs, *_, infos = env.step({name: agents[name].act(obs[name]) for name in env.agents})
        for name, agent in agents.items():
            agent.observe(infos[name])
    assert all(env.statement(name).wins > 0 for name in agents)


def test_histories_are_of_the_own_catalogue():
    one, two = make(**{"campaign.history_auctions": 200}).campaigns.values()
    assert one.budget == two.budget
    np.testing.assert_array_equal(one.price_history.price, two.price_history.price)
    assert not np.array_equal(one.price_history.value, two.price_history.value)
    assert not one.price_history.value.flags.writeable


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: make_campaigns_env(2, "default"), "'population'"),
        (lambda: make(0), "num_campaigns must be >= 1"),
        (lambda: make(6), "got 6 in a population market of 5"),
    ],
)
def test_impossible_markets_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        wrong()


def test_shared_worlds_record_no_prices():
    config = load("population", SMALL).world
    source = SyntheticSource(config, 2, shared=True)
    rivals = make_rivals(config, source, 2)
    for more in ({"record_prices": True}, {"num_threads": 2}):
        with pytest.raises(ValueError, match="record no prices"):
            World(config, 2, source=source, rivals=rivals, **more)


def test_wrong_actions_are_named():
    env = make()
    with pytest.raises(Exception, match="call reset"):
        env.step({})
    env.reset(seed=0)
    good = flat(env, campaign_0=1, campaign_1=1)
    for wrong, text in (
        ({"campaign_0": good["campaign_0"]}, "actions must be of"),
        (good | {"campaign_2": good["campaign_0"]}, "actions must be of"),
        (good | {"campaign_1": np.zeros(3)}, "campaign_1: action must have shape"),
        (good | {"campaign_1": -good["campaign_1"]}, "bids must be in"),
    ):
        with pytest.raises(ValueError, match=text):
            env.step(wrong)
    with pytest.raises(RuntimeError, match="not over"):
        env.statement("campaign_0")


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.delitem(sys.modules, "scenarios.multi")
    with pytest.raises(ImportError, match=r"adsim\[multi\]"):
        importlib.import_module("scenarios.multi")
