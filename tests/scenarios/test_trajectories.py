"""Logged campaigns: what is logged is what was played, and Minari's own loader reads it."""

import json
import math
import os
import sys

import gymnasium as gym
import minari
import numpy as np
import pytest
from command_line import adsim
from small_worlds import SMALL_WORLD

from adsim.types import Campaign
from scenarios.build import make_agent, make_auction_env
from scenarios.run import play as play_auctions
from scenarios.trajectories import collect, log_factor, summary, write_dataset

SETS = [word for key, value in SMALL_WORLD.items() for word in ("--set", f"{key}={value}")]
OBS = {"mask": np.array([1, 1, 1, 0]), "budget_left": np.array([10.0]), "pctr": np.full(4, 0.5)}
VALUES = np.array([1.0, 2.0, 0.0, 0.0])


def make(**overrides):
    return gym.make("adsim/Pacing-v0", overrides=SMALL_WORLD | overrides)


def terms(**changes):
    usual = {"max_bid": 100.0, "charge": "impression"}
    return Campaign._make(usual.get(name) for name in Campaign._fields)._replace(**changes)


@pytest.mark.parametrize(
    ("bids", "changes", "factor"),
    [
        ([0.5, 1.0, 0.0, 9.0], {}, 0.5),  # padding counts for nothing
        ([1.0, 2.0, 0.0, 0.0], {"charge": "click"}, 0.5),  # 1 per click = 0.5 per impression
        ([3.0, 3.0, 0.0, 0.0], {"max_bid": 3.0}, None),  # both may have been cut
        ([2.5, 3.0, 0.0, 0.0], {"max_bid": 3.0}, 2.5),  # 5 would have been the second
        ([0.0, 0.0, 0.0, 0.0], {}, 0.0),
    ],
)
def test_factor_of_bids_by_hand(bids, changes, factor):
    found = log_factor(np.array(bids), OBS, VALUES, terms(**changes))
    if factor is None:
        assert found is None
    else:
        assert found == pytest.approx(math.log(factor) if factor else -math.inf)


def test_factor_of_nothing_is_unknown():
    nothing = {**OBS, "mask": np.zeros(4)}, {**OBS, "budget_left": np.zeros(1)}
    assert [log_factor(VALUES, obs, VALUES, terms()) for obs in nothing] == [None, None]
    with pytest.raises(ValueError, match="one multiple"):
        log_factor(np.array([0.5, 1.5, 0.0, 0.0]), OBS, VALUES, terms())


def test_minari_reads_what_was_played(tmp_path, monkeypatch):
    env = make()
    played = collect(env, ["dual", "value"], [3, 4], noise=0.3)
    folder = write_dataset(env, played, "adsim/small-v0", tmp_path)
    assert folder.is_dir()
    assert "MINARI_DATASETS_PATH" not in os.environ
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = minari.load_dataset("adsim/small-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (4, 4 * 8)
    told = list(dataset.storage.get_episode_metadata(range(4)))
    assert [(one["agent"], one["seed"]) for one in told] == [
        *(("dual", 3), ("dual", 4), ("value", 3), ("value", 4))
    ]
    # The actions, played again in the environment that the dataset names, give what it holds.
    again = dataset.recover_environment()
    for episode, one, trajectory in zip(dataset.iterate_episodes(), told, played, strict=True):
        obs, _ = again.reset(seed=one["seed"])
        seen, rewards = [obs], []
        for action in episode.actions:
            assert again.action_space.contains(action)
            obs, reward, over, _, info = again.step(action)
            seen.append(obs)
            rewards.append(reward)
        assert over
        np.testing.assert_array_equal(np.stack(seen), episode.observations)
        np.testing.assert_array_equal(rewards, episode.rewards)
        assert episode.terminations.tolist() == [False] * 7 + [True]
        assert not episode.truncations.any()
        assert sum(rewards) == one["net_value"] == trajectory.statement.net_value
        assert one["expected_net_value"] == trajectory.statement.expected_net_value
        assert episode.infos["net_value"].shape == (9,)
        assert episode.infos["net_value"][-1] == info["net_value"]


@pytest.mark.parametrize("charge", ["impression", "click"])
@pytest.mark.parametrize("name", ["value", "linear", "pid", "adaptive", "dual"])
def test_campaigns_are_those_of_the_agent(name, charge):
    # Actions are float32: bids differ in the seventh digit, hardly ever a win.
    keys = {"market.charge": charge, "campaign.budget": 60.0, "campaign.max_multiplier": 50.0}
    (one,) = collect(make(**keys), [name], [5])
    env = make_auction_env(overrides=SMALL_WORLD | keys)
    statement, _ = play_auctions(env, make_agent(name), 5)
    assert abs(one.statement.wins - statement.wins) <= 1
    assert one.statement.spend == pytest.approx(statement.spend, rel=0.01)
    assert one.clipped == 0
    assert statement.wins > 0


def test_factors_out_of_range_are_clipped_and_counted():
    (one,) = collect(
        make(**{"campaign.budget": 5.0, "campaign.max_multiplier": 1.2}), ["dual"], [0]
    )
    assert one.clipped > 0
    assert summary(one)["clipped_ticks"] == one.clipped
    assert min(action.item() for action in one.actions) == -1


def test_noise_tries_other_actions_and_repeats():
    plain, noisy, again, other = (
        np.ravel(collect(make(), ["value"], [seed], noise)[0].actions)
        for seed, noise in ((1, 0.0), (1, 0.2), (1, 0.2), (2, 0.2))
    )
    assert not plain.any()  # value bids the value: factor 1
    np.testing.assert_array_equal(noisy, again)
    assert 0.05 < noisy.std() < 0.5
    assert not np.array_equal(noisy, other)


def test_command_writes_a_dataset_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ("data", "trajectories", "--seeds", "0,1", *SETS)
    status, out, _ = adsim(*line, "--agent", "pid", "--noise", "0.1", "--json")
    assert status == 0
    told = json.loads(out)
    assert told["dataset"] == "adsim/default-v0"
    assert [row["agent"] for row in told["rows"]] == ["pid", "pid"]
    monkeypatch.setenv("MINARI_DATASETS_PATH", "datasets")
    assert minari.load_dataset("adsim/default-v0").total_episodes == 2
    status, _, err = adsim(*line)
    assert (status, "exists" in err) == (2, True)
    status, out, _ = adsim(*line, "--out", "other")
    assert status == 0
    assert "2 campaigns of 8 ticks" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--agent", "ortb1"), "agent 'ortb1' cannot play Pacing-v0"),
        (("--agent", "hindsight"), "agent 'hindsight' is privileged"),
        (("--agent", "nobody"), "does not exist"),
        (("--noise", "-1"), "noise must be >= 0"),
        (("--scenario", "nothing"), "does not exist"),
        (("--seeds", "x"), "--seeds"),
    ],
)
def test_mistakes_exit_with_2(arguments, message, tmp_path):
    status, _, err = adsim("data", "trajectories", *SETS, *arguments, "--out", tmp_path / "new")
    assert status == 2
    assert message in err
    assert not (tmp_path / "new").exists()


def test_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "minari", None)
    status, _, err = adsim("data", "trajectories", "--out", tmp_path)
    assert status == 2
    assert 'pip install "adsim[offline]"' in err
