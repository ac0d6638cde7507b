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

# sha256 of what a rollout returned, floats rounded to 9 significant digits (float32: to 5).
GOLDEN = {
    "adsim/Auction-v0": "c9f4787e80e0377e19416e581099de15cee542dd6fd4d39ec1ba1e6bd95b04af",
    "adsim/Pacing-v0": "6d55a588db897f77eb063564fcdd2c303fba25c6b78ebe1cdde7cc1cff4c6240",
}
HELP = (
    "{id} gives other results than before: if that is meant, bump the environment's version "
    "(-vN+1) and its Version History, note it under 'Changes results' in CHANGELOG.md with a "
    "before/after table, and put the hash printed by `python tests/test_golden.py` here."
)
NUM_TICKS = 200
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


def rollout_hash(env_id: str, folder: Path) -> str:
    """Plays the fixed actions; hashes observations, rewards, infos and the statement."""
    scenario = folder / "golden.toml"
    scenario.write_text("")  # nothing but the defaults
    made = gym.make(
        env_id, scenario=str(scenario), overrides=OVERRIDES, disable_env_checker=True
    ).unwrapped
    digest = hashlib.sha256()
    obs, info = made.reset(seed=2026)
    digest.update((rounded(obs) + rounded(info)).encode())
    for tick in range(NUM_TICKS):
        wave = 1.0 + 0.5 * (tick % 7 - 3) / 3  # factors 0.5 to 1.5 in a cycle of a week
        if env_id == "adsim/Auction-v0":
            bids = wave * obs["pctr"] * obs["pcvr"] * obs["list_price"] * 0.15
            action = np.minimum(bids, made.campaign.max_bid)
        else:
            action = np.array([0.4 * (wave - 1.5)])
        obs, reward, terminated, _, info = made.step(action)
        digest.update((rounded(obs) + rounded(reward) + rounded(info)).encode())
    assert terminated
    statement = made.statement()
    assert statement.wins > 500
    assert statement.refunds > 20
    digest.update(rounded(tuple(statement)).encode())
    return digest.hexdigest()


@pytest.mark.parametrize("env_id", sorted(GOLDEN))
def test_rollout_is_as_before(env_id, tmp_path):
    assert rollout_hash(env_id, tmp_path) == GOLDEN[env_id], HELP.format(id=env_id)


def test_every_environment_has_a_hash():
    assert {name for name in gym.registry if name.startswith("adsim/")} == set(GOLDEN)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for name in sorted(GOLDEN):
            print(f'    "{name}": "{rollout_hash(name, Path(place))}",')
