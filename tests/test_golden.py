"""Hashes of fixed 200-tick rollouts, one per environment version.

A hash that changes means that results change: see `HELP`. New hashes are printed by
`.venv/bin/python tests/test_golden.py`.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import adsim  # noqa: F401 - registers the environments
from scenarios.build import make_auction_env
from scenarios.estimates import EstimatesWrapper
from scenarios.multi import make_campaigns_env
from scenarios.stacks import make_stack

# sha256 of what a rollout returned, floats rounded to 9 significant digits (float32: to 5).
GOLDEN = {
    "adsim/Auction-v0": "c9f4787e80e0377e19416e581099de15cee542dd6fd4d39ec1ba1e6bd95b04af",
    "adsim/Pacing-v0": "6d55a588db897f77eb063564fcdd2c303fba25c6b78ebe1cdde7cc1cff4c6240",
}
# The same of what is made of these environments: their versions go up with these hashes, too.
DERIVED = {
    "multi adsim/Auction-v0": "9b067ccf105cff47f10a03e5180861c400aaf4afde5faa6182d7757b01bbb908",
    "multi adsim/Pacing-v0": "c8668c02af02e0cd87d52deb2a3651658681637c7dafbf5bb66a4ebae2e0ff75",
    "estimates": "a8586c0c0e240bae71fa9855e04e32b394d92b5490252392bdaa3bdb00f89e21",
    "vector adsim/Auction-v0": "636430c7033209a4665a69b98941171d04944ba8986fa7f8ad54fce28114a78d",
    "vector adsim/Pacing-v0": "f1482fc6edd1e6a6e0b95f5a51ea23ac941f7a541bc541ebc52c9839607947a0",
}
HELP = (
    "{id} gives other results than before: if that is meant, bump the environment's version "
    "(-vN+1) and its Version History, note it under 'Changes results' in CHANGELOG.md with a "
    "before/after table, and put the hash printed by `python tests/test_golden.py` here."
)
NUM_TICKS = 200
MAX_BID = 100.0  # the default of campaign.max_bid
# A scenario of its own on top of the configuration's defaults, so that tuning the scenarios of
# this package does not count as a change of the environment.
OVERRIDES = {
    "time.num_ticks": NUM_TICKS,
    "traffic.impressions_per_tick": 20,
    "traffic.slots_per_tick": 96,
    "entities.num_users": 500,
    "entities.num_contexts": 128,
    "click.ctr": 0.2,
    "conversion.cvr": 0.3,
    "campaign.budget": 900.0,
    "campaign.history_auctions": 500,
    "market.landscape.median": 0.5,
    "market.landscape.second_share": 0.2,
    "platform_noise.ctr_sd": 0.2,
    "shocks": [{"start_hours": 24.0, "end_hours": 30.0, "cvr": 1.5, "price": 1.2}],
}


def rounded(value: Any) -> str:
    """Text of a value in which noise of the last digits is gone."""
    if isinstance(value, dict):
        return "".join(f"{name}:{rounded(value[name])}" for name in sorted(value))
    if isinstance(value, tuple):
        return "".join(rounded(part) for part in value)
    array = np.asarray(value)
    if array.dtype.kind != "f":
        return str(array.tolist())
    digits = 4 if array.dtype == np.float32 else 8
    return ",".join(f"{x + 0.0:.{digits}e}" for x in array.ravel().tolist())


def golden_scenario(folder: Path) -> str:
    """A scenario file with nothing but the defaults."""
    (folder / "golden.toml").write_text("")
    return str(folder / "golden.toml")


def factor_of(tick: int) -> float:
    """Factors 0.5 to 1.5 in a cycle of seven ticks."""
    return 1.0 + 0.5 * (tick % 7 - 3) / 3


def bids_of(obs: Any, tick: int) -> np.ndarray:
    """The fixed action of Auction-v0: bids below the highest."""
    return np.minimum(
        factor_of(tick) * obs["pctr"] * obs["pcvr"] * obs["list_price"] * 0.15, MAX_BID
    )


def multiplier_of(tick: int) -> np.ndarray:
    """The fixed action of Pacing-v0."""
    return np.array([0.4 * (factor_of(tick) - 1.5)])


def rollout_hash(env_id: str, folder: Path) -> str:
    """Plays the fixed actions; hashes observations, rewards, infos and the statement."""
    scenario = golden_scenario(folder)
    made = gym.make(
        env_id, scenario=scenario, overrides=OVERRIDES, disable_env_checker=True
    ).unwrapped
    act = bids_of if env_id == "adsim/Auction-v0" else lambda obs, tick: multiplier_of(tick)
    return hash_of(made, act)


def hash_of(made: Any, act: Any) -> str:
    """The hash of one campaign of a single environment."""
    digest = hashlib.sha256()
    obs, info = made.reset(seed=2026)
    digest.update((rounded(obs) + rounded(info)).encode())
    for tick in range(NUM_TICKS):
        obs, reward, terminated, _, info = made.step(act(obs, tick))
        digest.update((rounded(obs) + rounded(reward) + rounded(info)).encode())
    assert terminated
    statement = made.unwrapped.statement()
    assert statement.wins > 500
    assert statement.refunds > 20
    digest.update(rounded(tuple(statement)).encode())
    return digest.hexdigest()


def wrapped_hash(folder: Path) -> str:
    """Auction-v0 with exact estimates, learning and exploration on; bids on what they say."""
    env = make_auction_env(golden_scenario(folder), OVERRIDES)
    wrapper = EstimatesWrapper(env, make_stack("oracle"), explore_share=0.2)
    return hash_of(
        wrapper,
        lambda obs, tick: np.minimum(0.5 * factor_of(tick) * obs["expected_net_value"], MAX_BID),
    )


def vector_hash(env_id: str, folder: Path) -> str:
    """Two worlds of a vector environment, through the reset after the first campaign."""
    scenario = golden_scenario(folder)
    envs = gym.make_vec(env_id, num_envs=2, scenario=scenario, overrides=OVERRIDES)
    digest = hashlib.sha256()
    returned = envs.reset(seed=2026)
    for tick in range(NUM_TICKS + 2):
        digest.update("".join(rounded(part) for part in returned).encode())
        if env_id == "adsim/Auction-v0":
            action = bids_of(returned[0], tick)
        else:
            action = np.tile(multiplier_of(tick), (2, 1))
        returned = envs.step(action)
    return digest.hexdigest()


def campaigns_hash(folder: Path, pacing: bool) -> str:
    """Three campaigns in one auction of a population market."""
    more = {"market.kind": "population", "market.population.n_advertisers": 6}
    env = make_campaigns_env(3, golden_scenario(folder), OVERRIDES | more, pacing=pacing)
    digest = hashlib.sha256()
    returned: Any = env.reset(seed=2026)
    for tick in range(NUM_TICKS):
        digest.update("".join(rounded(part) for part in returned).encode())
        actions = {}
        for place, agent in enumerate(env.agents):
            obs, shifted = returned[0][agent], tick + place
            actions[agent] = multiplier_of(shifted) if pacing else bids_of(obs, shifted)
        returned = env.step(actions)
    digest.update("".join(rounded(part) for part in returned).encode())
    for agent in env.possible_agents:
        assert env.statement(agent).wins > 100
        digest.update(rounded(tuple(env.statement(agent))).encode())
    return digest.hexdigest()


def derived_hash(name: str, folder: Path) -> str:
    """The hash of an entry of `DERIVED`."""
    if name == "estimates":
        return wrapped_hash(folder)
    kind, _, env_id = name.partition(" ")
    if kind == "vector":
        return vector_hash(env_id, folder)
    return campaigns_hash(folder, pacing=env_id == "adsim/Pacing-v0")


@pytest.mark.parametrize("env_id", sorted(GOLDEN))
def test_rollout_is_as_before(env_id, tmp_path):
    assert rollout_hash(env_id, tmp_path) == GOLDEN[env_id], HELP.format(id=env_id)


@pytest.mark.parametrize("name", sorted(DERIVED))
def test_derived_rollout_is_as_before(name, tmp_path):
    assert derived_hash(name, tmp_path) == DERIVED[name], HELP.format(id=name)


def test_every_environment_has_a_hash():
    assert {name for name in gym.registry if name.startswith("adsim/")} == set(GOLDEN)
    assert {f"{kind} {name}" for kind in ("vector", "multi") for name in GOLDEN} < set(DERIVED)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for name in sorted(GOLDEN):
            print(f'    "{name}": "{rollout_hash(name, Path(place))}",')
        for name in sorted(DERIVED):
            print(f'    "{name}": "{derived_hash(name, Path(place))}",')
