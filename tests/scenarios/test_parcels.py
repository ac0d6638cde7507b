"""What trials read, on a machine where nothing is where it was."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from small_stacks import SIZE
from small_worlds import SMALL_WORLD

from scenarios import parcels, trial
from scenarios.parcels import pack, work_on
from scenarios.trial import Training, Trial, World, decode_row, key_of, play_trial
from scenarios.workers import attempt

_TIMES = ("seconds", "finished", "learn_seconds_per_hour", "predict_ms_per_tick")
_AGENT = """
import numpy as np
class Fixed:
    privileged = False
    def reset(self, campaign, *, seed=None): pass
    def act(self, obs): return np.full(len(obs["mask"]), 3.0)
    def observe(self, info): pass
"""


def small_trial(**changes):
    overrides = {**SMALL_WORLD, **changes.pop("overrides", {})}
    scenario = str(changes.pop("scenario", "default"))
    world = World(scenario, json.dumps(overrides), 0)
    return Trial(world, changes.pop("agent", "dual"), changes.pop("estimates", "platform"), 0)


def content(file):
    """Of a trial's file, but for times: labels and row."""
    with np.load(io.BytesIO(file)) as arrays:
        row = {k: v for k, v in decode_row(arrays).items() if k not in _TIMES}
        return json.loads(str(arrays["labels"])), row


def forget():
    """What the process remembers of files."""
    for kept in (trial._environment, trial.scenario_of, trial._world_digest, trial._warm_up):
        kept.cache_clear()
    trial.stack_of.cache_clear()


@pytest.fixture
def far(tmp_path, monkeypatch):
    """Folders of two machines: all that is `here` disappears where a parcel is worked on."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setattr(parcels.tempfile, "gettempdir", lambda: str(there))
    forget()
    yield here
    forget()


def played_far(item, here):
    """The value of an item where `here` is gone; it is back afterwards."""
    parcel = pack(item, here / "cache")
    store = {file.digest: Path(file.path).read_bytes() for file in parcel.files}
    gone = here.rename(here.with_name("gone"))
    forget()
    try:
        return work_on(parcel, store.__getitem__)
    finally:
        gone.rename(here)
        forget()


def counts(folder):
    file = folder / "info.json"
    totals = {"imp_train": 21, "cost_train": 44, "clk_train": 2}
    file.write_text(json.dumps({"price_counter_train": [0, 5, 10, 5, 1, *(0,) * 296], **totals}))
    return str(file)


def test_log_agent_and_scenario_travel(far):
    log = far / "log.txt"
    log.write_text("0 2 0.1\n1 5 0.2\n0 1 0.3\n" * 20)
    scenario = far / "mine.toml"
    scenario.write_text("description = 'mine'\n[world.campaign]\nmargin = 0.5\n")
    agent = far / "own.py"
    agent.write_text(_AGENT)
    replay = {"kind": "replay", "replay": {"log": str(log), "auctions_per_tick": 7}}
    one = small_trial(
        scenario=scenario, agent=f"{agent}:Fixed", overrides={"market": replay, "reward": "cash"}
    )
    expected = content(play_trial(far, one))
    assert content(played_far(one, far)) == expected
    labels, row = expected
    assert labels["scenario"] == "mine"
    assert labels["trial"] == key_of(one)
    assert row["wins"] > 0


def test_files_that_are_there_are_read_in_place(far):
    agent = far / "own.py"
    agent.write_text(_AGENT)
    parcel = pack(small_trial(agent=f"{agent}:Fixed"), far / "cache")
    assert len(parcel.files) == 1
    work_on(parcel, lambda digest: pytest.fail("fetched"))


def test_estimates_are_trained_far_away_and_travel_back(far, monkeypatch):
    monkeypatch.setattr(trial, "SIZE", SIZE)
    # Keys of estimates must not know the path either.
    one = small_trial(estimates="fnc", overrides={"market.landscape.price_counts": counts(far)})
    made = played_far(Training(one.world, ("fnc",)), far)
    assert sorted(name.split("-")[0] for name in made) == ["cvr_line", "fnc", "gmv_factor"]
    cache = far / "cache"
    cache.mkdir()
    for name, bytes_ in made.items():
        (cache / name).write_bytes(bytes_)
    expected = content(play_trial(cache, one))
    assert {file.name for file in cache.iterdir()} == made.keys()  # nothing was trained again
    monkeypatch.setattr(trial.WarmUp, "history", property(lambda _: pytest.fail("trained again")))
    assert content(played_far(one, far)) == expected
    assert played_far(Training(one.world, ("fnc",)), far) == {}


def test_key_does_not_tell_where_a_log_lies(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "log.txt").write_text("0 2 0.1\n1 5 0.2\n")
    keys = {
        key_of(small_trial(overrides={"market.kind": "replay", "market.replay.log": str(log)}))
        for log in tmp_path.glob("*/log.txt")
    }
    assert len(keys) == 1
    (tmp_path / "b" / "log.txt").write_text("0 2 0.1\n1 6 0.2\n")
    forget()
    changed = {"market.kind": "replay", "market.replay.log": str(tmp_path / "b" / "log.txt")}
    assert key_of(small_trial(overrides=changed)) not in keys


def test_missing_log_is_named(tmp_path):
    lost = {"market.kind": "replay", "market.replay.log": str(tmp_path / "lost.txt")}
    outcome = attempt(lambda item: pack(item, tmp_path), small_trial(overrides=lost))
    assert "market.replay.log" in str(outcome.error)
