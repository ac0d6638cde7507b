"""Policies in files, and the agent that plays them in Auction-v0 as in Pacing-v0."""

import json

import numpy as np
import pytest
from small_worlds import SMALL_WORLD

from adsim.checks import check_agent
from adsim.pacing_features import PACING_SIZE
from adsim.rng import generator
from adsim.types import EventBatch
from scenarios.build import make_agent, make_auction_env, make_pacing_env
from scenarios.policy import (
    INPUT_SIZE,
    Policy,
    PolicyAgent,
    PolicySettings,
    PurchaseBooks,
    load_policy,
    policy_input,
    save_policy,
)

MARKETS = {
    "landscape": {"refund.rate": 0.5, "time.num_ticks": 16},  # refund windows close from tick 6 on
    "per_click": {"market.charge": "click", "time.start_hour_of_week": 30.0},
    "population": {"market.kind": "population", "campaign.budget": 50.0},
}


def make_policy(overrides=None, *, sd=0.4, **changes):
    """A policy with random weights that fits the campaign of `default` with these keys."""
    view = make_pacing_env("default", overrides or SMALL_WORLD).view
    config, rng = view.world.config, generator(5, 1)
    shapes = ((8, INPUT_SIZE), (8, 8), (1, 8))
    settings = {
        "activation": "tanh",
        "output": "clip",
        "value_scale": view.scales.value,
        "ctr_scale": view.scales.ctr,
        "max_multiplier": config.campaign.max_multiplier,
        "start_hour_of_week": config.time.start_hour_of_week,
        "refund_hours": config.windows.refund_hours,
    } | changes
    return Policy(
        PolicySettings(**settings),
        tuple(rng.normal(0, sd, shape).astype(np.float32) for shape in shapes),
        tuple(rng.normal(0, sd, shape[0]).astype(np.float32) for shape in shapes),
    )


@pytest.mark.parametrize(
    ("market", "estimates"),
    [*((market, "platform") for market in MARKETS), ("landscape", "oracle")],
)
def test_actions_in_auction_v0_are_those_in_pacing_v0(market, estimates, tmp_path):
    overrides = SMALL_WORLD | MARKETS[market]
    policy = make_policy(overrides)
    save_policy(policy, tmp_path)
    makers = (make_pacing_env, make_auction_env)
    pacing, auction = (make("default", overrides, estimates=estimates) for make in makers)
    agent = PolicyAgent(tmp_path)
    for seed in (1, 2):  # the second campaign starts afresh
        obs, _ = pacing.reset(seed=seed)
        shown, info = auction.reset(seed=seed)
        agent.reset(auction.campaign, seed=seed)
        agent.observe(info)
        over, actions = False, []
        while not over:
            actions.append(policy.action(policy_input(obs[None]))[0])
            bids = agent.act(shown)
            obs, reward, over, _, _ = pacing.step(actions[-1])
            shown, same, _, _, info = auction.step(bids)
            agent.observe(info)
            assert same == reward
        assert pacing.statement() == auction.statement()
        assert pacing.statement().purchases > 3
        assert np.std(actions) > 0.01


def test_policy_is_an_agent(tmp_path):
    save_policy(make_policy(), tmp_path)
    name = f"sb3:{tmp_path}"
    check_agent(lambda: make_agent(name), lambda: make_auction_env("default", SMALL_WORLD))


def test_action_of_one_layer_is_a_weighted_sum():
    # 0.5 x 1 - 0.2 = 0.3 of the first entry; 3 is clipped to 1, or becomes tanh 3.
    weight = np.zeros((1, INPUT_SIZE), np.float32)
    weight[0, 0] = 0.5
    inputs = np.zeros((2, INPUT_SIZE), np.float32)
    inputs[:, 0] = 1.0, 6.4
    for output, last in (("clip", 1.0), ("tanh", np.tanh(3.0))):
        settings = make_policy(output=output).settings
        policy = Policy(settings, (weight,), (np.array([-0.2], np.float32),))
        first = 0.3 if output == "clip" else np.tanh(0.3)
        np.testing.assert_allclose(policy.action(inputs)[:, 0], [first, last], rtol=1e-6)


def test_input_ends_with_budget_against_time():
    # log10 of .4 / .8, of 1 / .01 (bounded), and of nothing left at all: 0.
    obs = np.zeros((3, PACING_SIZE), np.float32)
    obs[:, 0] = 0.8, 0.01, 0.0
    obs[:, 1] = 0.4, 1.0, 0.0
    found = policy_input(obs)
    assert found.shape == (3, INPUT_SIZE)
    np.testing.assert_array_equal(found[:, :-1], obs)
    np.testing.assert_allclose(found[:, -1], [np.log10(0.5), 1.0, 0.0], rtol=1e-6)


def events(*rows):
    """Events of (hours, kind, click, order, amount)."""
    hours, kind, click, order, amount = zip(*rows, strict=True) if rows else [()] * 5
    return EventBatch(
        np.zeros(len(rows), np.int64),
        np.array(hours, float),
        np.array(kind, np.int8),
        np.array(click, np.int64),
        np.array(order, np.int16),
        np.array(amount, float),
    )


def test_net_gmv_matures_when_the_refund_window_of_its_purchase_closes():
    campaign = make_auction_env("default", SMALL_WORLD).terms._replace(tick_hours=1.0)
    books = PurchaseBooks(campaign, refund_hours=1.5)  # closes two ticks later
    books.post(0, events((0.2, 0, 7, -1, 0.0), (0.5, 1, 7, 0, 100.0)))
    books.post(1, events((1.1, 1, 7, 1, 30.0), (1.4, 2, 7, 0, 100.0), (1.5, 1, 9, 0, 50.0)))
    assert books.matured == 0.0
    books.post(2, events((2.9, 2, 9, 0, 50.0)))  # the first purchase is final, and came back
    assert books.matured == 0.0
    books.post(3, events())  # those of tick 1: 30 + 50 - 50
    assert books.matured == 30.0


def test_policy_is_the_same_after_saving(tmp_path):
    policy = make_policy()
    save_policy(policy, tmp_path)
    again = load_policy(tmp_path)
    assert again.settings == policy.settings
    for old, new in zip(policy.weights + policy.biases, again.weights + again.biases, strict=True):
        np.testing.assert_array_equal(old, new)


def damage(folder, what):
    """Spoils one of the files of a policy."""
    if what == "json":
        (folder / "policy.json").write_text("{")
    elif what == "key":
        content = json.loads((folder / "policy.json").read_text())
        (folder / "policy.json").write_text(json.dumps({**content, "value_scale": -1.0}))
    elif what == "npz":
        (folder / "policy.npz").write_bytes(b"PK no archive")
    else:
        arrays = dict(np.load(folder / "policy.npz"))
        if what == "shape":
            arrays["weight.1"] = arrays["weight.1"][:, :3]
        elif what == "nan":
            arrays["bias.0"][0] = np.nan
        elif what == "names":
            arrays["weight.7"] = arrays.pop("weight.1")
        elif what == "objects":
            arrays["bias.0"] = np.array([print] * 8, dtype=object)
        np.savez(folder / "policy.npz", **arrays)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("json", r"policy\.json: damaged"),
        ("key", "value_scale: Input should be greater than 0"),
        ("npz", r"policy\.npz: damaged"),
        ("shape", r"weight\.1 must be float32 of shape \(8, 8\)"),
        ("nan", r"bias\.0 must be finite"),
        ("names", r"must hold weight\.i and bias\.i"),
        ("objects", r"policy\.npz: damaged"),  # pickled: never loaded
    ],
)
def test_damaged_files_are_refused_by_name(what, message, tmp_path):
    save_policy(make_policy(), tmp_path)
    damage(tmp_path, what)
    with pytest.raises(ValueError, match=message):
        make_agent(f"sb3:{tmp_path}")


def test_missing_policy_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"policy\.json"):
        make_agent(f"sb3:{tmp_path}")
