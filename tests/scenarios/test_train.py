"""`adsim train`: what it learns, writes, resumes and refuses; in worlds of milliseconds."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import adsim
from small_worlds import SMALL_WORLD
from threads import one_thread

from scenarios import train_cli
from scenarios.build import make_auction_env
from scenarios.policy import load_policy, policy_input
from scenarios.rl_algorithms import ALGORITHMS, load_checkpoint, save_checkpoint
from scenarios.train import Training, TrainSettings, summary, tuned_action
from scenarios.train_plots import learning_figure

TICKS = SMALL_WORLD["time.num_ticks"]
KEYS = [f"{key}={json.dumps(value)}" for key, value in SMALL_WORLD.items()]
SMALL = tuple(part for key in KEYS for part in ("--set", key))
OPTIONS = ("--num-envs", 2, "--held-out", "50,51", "--evaluations", 1, *SMALL)
STEPS = 4 * 2 * TICKS  # four campaigns of two


@pytest.fixture(autouse=True)
def _one_thread():
    with one_thread():
        yield


def settings(**changes):
    small = {"num_envs": 2, "held_out": (50, 51), "evaluations": 1, "overrides": SMALL_WORLD}
    return TrainSettings(**({"steps": STEPS} | small | changes))


def silent(*_, **__):
    """No progress."""


def test_train_writes_policy_curve_checkpoint_and_logs(tmp_path):
    folder = tmp_path / "ppo"
    status, out, err = adsim("train", "--steps", STEPS, "--out", folder, "--json", *OPTIONS)
    assert status == 0, err
    rows = json.loads(out)["rows"]
    assert [row["steps"] for row in rows] == [0, STEPS // 2, STEPS]
    assert {"expected_net_value_low", "vs_dual", "vs_linear_high", "net_value"} <= set(rows[0])
    assert json.loads((folder / "curve.json").read_text())["rows"] == rows
    curve = pd.read_parquet(folder / "curve.parquet")
    assert list(curve.groupby("agent").size()) == [2, 2, 6]  # dual, linear, policy
    for name in ("curve.png", "checkpoint.pt", "policy.npz", "policy.json", "train.json"):
        assert (folder / name).stat().st_size > 0
    assert any((folder / "tensorboard").rglob("events.*"))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_trained_policy_is_an_agent_of_run(algo, tmp_path):
    training = Training(settings(algo=algo), tmp_path)
    training.run(silent)
    status, out, err = adsim(
        *("run", "default", "--agent", f"sb3:{tmp_path}", "--seeds", "50,51", *SMALL),
        *("--out", tmp_path / "run", "--no-plots", "--json"),
    )
    assert status == 0, err
    (row,) = json.loads(out)["rows"]
    # Played in Auction-v0, it gets what its evaluation in Pacing-v0 said.
    assert row["expected_net_value"] == summary(training.curve)[-1]["expected_net_value"]


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_policy_in_files_is_that_of_the_library(algo, tmp_path):
    training = Training(settings(algo=algo), tmp_path)
    training.run(silent)
    inputs = policy_input(np.random.default_rng(0).uniform(-1, 1, (50, 22)).astype(np.float32))
    own = load_policy(tmp_path).action(inputs)
    theirs, _ = training.model.predict(inputs, deterministic=True)
    np.testing.assert_allclose(own, theirs, atol=1e-6)
    assert own.std() > 1e-4


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_first_policy_bids_the_tuned_multiplier_nearly(algo, tmp_path):
    training = Training(settings(algo=algo), tmp_path)
    first = tuned_action(make_auction_env("default", SMALL_WORLD))
    inputs = policy_input(np.random.default_rng(0).uniform(-1, 1, (50, 22)).astype(np.float32))
    assert -1 < first < 0  # the budget binds
    np.testing.assert_allclose(training.policy().action(inputs), first, atol=0.05)


def test_resume_goes_on_where_it_stopped(tmp_path):
    folder = tmp_path / "a"
    arguments = ("train", "--out", folder, "--json")
    assert adsim(*arguments, "--steps", STEPS, *OPTIONS)[0] == 0
    before = load_policy(folder)
    status, out, err = adsim(*arguments, "--steps", 2 * STEPS, "--resume")
    assert status == 0, err
    steps = [row["steps"] for row in json.loads(out)["rows"]]
    assert steps == [0, STEPS // 2, STEPS, 2 * STEPS]
    assert json.loads((folder / "train.json").read_text())["steps"] == 2 * STEPS
    assert not np.array_equal(before.weights[0], load_policy(folder).weights[0])


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_checkpoint_brings_back_weights_optimisers_and_transitions(algo, tmp_path):
    first = Training(settings(algo=algo), tmp_path)
    first.run(silent)
    second = Training(settings(algo=algo, seed=1), tmp_path / "other")
    load_checkpoint(second.model, tmp_path / "checkpoint.pt")
    for model in (first.model, second.model):
        save_checkpoint(model, tmp_path / f"{model is first.model}.pt")
    one, two = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in (True, False))
    assert one["steps"] == two["steps"] == STEPS
    assert_equal(one, two)


def assert_equal(one, two):
    """Of nested dictionaries and lists of tensors and numbers."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_equal(one[key], two[key])
    elif isinstance(one, list):
        for first, second in zip(one, two, strict=True):
            assert_equal(first, second)
    elif isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    else:
        assert one == two


class Payload:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("content", ["code", "damage", "other"])
def test_checkpoints_that_are_none_are_refused(content, tmp_path, capsys):
    training = Training(settings(), tmp_path)
    training.run(silent)
    path = tmp_path / "checkpoint.pt"
    if content == "code":
        torch.save({"steps": 1, "parameters": Payload(), "variables": {}}, path)
    elif content == "damage":
        path.write_bytes(path.read_bytes()[:100])
    else:
        torch.save({"steps": 1, "parameters": {}, "variables": {}}, path)
    with pytest.raises(ValueError, match=r"checkpoint\.pt: damaged, or of other settings"):
        Training(settings(), tmp_path, resume=True)
    assert "executed" not in capsys.readouterr().out


def test_interrupted_training_keeps_what_was_learned(tmp_path):
    training = Training(settings(), tmp_path)

    def interrupt(steps=1, note=""):
        if training.model.num_timesteps >= STEPS // 2 + 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run(interrupt)
    again = Training(settings(), tmp_path, resume=True)
    assert again.model.num_timesteps == training.model.num_timesteps < STEPS
    again.run(silent)
    steps = [row["steps"] for row in summary(again.curve)]
    assert steps[:2] == [0, STEPS // 2]
    assert steps[-1] >= STEPS - 2 * TICKS


def test_training_campaigns_are_not_those_of_the_evaluation(tmp_path):
    # Seeds 0 and 1 of `adsim run`, and a training with seed 0 of two campaigns.
    training = Training(settings(), tmp_path)
    training.model.env.reset()
    trained = set(training.model.env.env.world.seeds.tolist())
    env = make_auction_env("default", SMALL_WORLD)
    for seed in (0, 1, 50, 51):
        env.reset(seed=seed)
        assert env.world.seeds[0] not in trained


@pytest.mark.parametrize("changes", [{"reward": "accrual"}, {"reward": "estimated"}, {}])
def test_every_reward_and_estimate_can_be_trained_on(changes, tmp_path):
    estimates = "platform" if changes else "oracle"
    overrides = SMALL_WORLD | changes
    training = Training(settings(overrides=overrides, estimates=estimates, steps=16), tmp_path)
    training.run(silent)
    assert len(summary(training.curve)) == 2


def test_differences_are_paired_by_seed():
    # Policy - dual: 12 - 10 and 23 - 20: mean 2.5; shares of the means 17.5 / 15.
    rows = [("dual", 0, 1, 10.0), ("dual", 0, 2, 20.0), ("linear", 0, 1, 9.0)]
    rows += [("linear", 0, 2, 19.0), ("policy", 8, 1, 12.0), ("policy", 8, 2, 23.0)]
    curve = pd.DataFrame(rows, columns=["agent", "steps", "seed", "expected_net_value"])
    curve["net_value"] = curve["spend"] = 1.0
    (row,) = summary(curve)
    assert (row["steps"], row["seeds"], row["expected_net_value"]) == (8, 2, 17.5)
    assert row["vs_dual"] == 2.5
    assert row["vs_linear"] == 3.5
    assert row["share_of_dual"] == pytest.approx(17.5 / 15)
    figure = learning_figure({"one": {"cash": [curve, curve]}, "two": {"policy": [curve]}})
    lines = figure.axes[0].get_lines()
    np.testing.assert_allclose(lines[0].get_ydata(), [100 * 17.5 / 15])
    assert lines[1].get_ydata()[0] == 100.0  # dual pacing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--algo", "dqn"), "algo: Input should be 'ppo' or 'sac' (got 'dqn')"),
        (("--reward", "gold"), "reward: Input should be"),
        (("--scenario", "nowhere"), "scenario 'nowhere' does not exist"),
        (("--steps", 0), "steps: Input should be greater than or equal to 1"),
        (("--held-out", "x"), "--held-out: expected numbers"),
        (("--resume",), "holds no training"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(arguments, message, tmp_path):
    status, _, err = adsim("train", "--out", tmp_path / "new", *arguments)
    assert status == 2
    assert message in err
    assert not (tmp_path / "new").exists()


def test_trainings_are_not_overwritten_nor_changed(tmp_path):
    (tmp_path / "train.json").write_text(settings().model_dump_json())
    status, _, err = adsim("train", "--out", tmp_path)
    assert (status, "add --resume" in err) == (2, True)
    status, _, err = adsim("train", "--out", tmp_path, "--resume", "--seed", 5, "--algo", "sac")
    assert (status, "only the steps may change, not algo, seed" in err) == (2, True)
    (tmp_path / "train.json").write_text("{")
    status, _, err = adsim("train", "--out", tmp_path, "--resume")
    assert (status, "train.json: damaged" in err) == (2, True)


def test_missing_library_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(train_cli, "_PARTS", ("stable_baselines3", "no_such_library"))
    status, _, err = adsim("train", "--out", tmp_path / "new")
    assert status == 2
    assert 'no_such_library not installed: pip install "adsim[rl]"' in err
