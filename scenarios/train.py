"""What `adsim train` does: trains a policy of Pacing-v0, and measures it as it learns. Extra `rl`.

A training is a folder:

    train.json         its settings
    policy.npz, .json  the policy so far: `--agent sb3:FOLDER` plays it
    checkpoint.pt      what resuming needs
    curve.parquet      one row per evaluation and held-out seed, and per seed of reference agents
    curve.json, .png   means with intervals, and their figure
    tensorboard/       the library's own logs

The campaigns of the training have seeds of a stream of their own: none is one of the evaluation.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field, ValidationError

from adsim.market_config import Model
from adsim.rng import derive
from agents.history import budget_rate, landscape, tuned_log_multiplier
from scenarios import console
from scenarios.build import make_agent, make_auction_env, make_pacing_vector_env
from scenarios.commands import make_folder
from scenarios.intervals import interval, paired
from scenarios.policy import Policy, policy_input, save_policy
from scenarios.results import save_json, write_atomically
from scenarios.rl import PacingVecEnv
from scenarios.rl_algorithms import (
    Between,
    export_policy,
    load_checkpoint,
    make_algorithm,
    save_checkpoint,
)
from scenarios.run import play
from scenarios.schema import Scenario, explain, load
from scenarios.train_plots import save_curve

TRAINING_STREAM = 120  # of rng: apart from every stream of a world
REFERENCES = ("dual", "linear")
POLICY = "policy"  # its name in the tables
_BOUND = 0.95  # of the first action: where tanh still reacts
_FIGURES = ("expected_net_value", "net_value", "spend")


class TrainSettings(Model):
    """Everything that determines a training, up to the machine's rounding."""

    format: Literal[1] = 1
    algo: Literal["ppo", "sac"] = "ppo"
    scenario: str = "default"
    """Name or .toml file."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Scenario keys to values, `reward` included."""
    estimates: str = "platform"
    """Whose estimates the bids are made of: a name of `scenarios.stacks.STACKS`."""
    steps: Annotated[int, Field(ge=1)] = 200_000
    """Ticks to play, over all campaigns; PPO stops at a whole number of rollouts."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    num_envs: Annotated[int, Field(ge=1, le=1024)] = 16
    """Campaigns side by side."""
    evaluations: Annotated[int, Field(ge=1)] = 8
    """Evaluations of the policy while it learns, besides those before and after."""
    held_out: Annotated[tuple[int, ...], Field(min_length=1)] = tuple(range(1_000, 1_010))
    """Episode seeds of the evaluations."""

    def world(self) -> Scenario:
        """The scenario, overrides applied."""
        return load(self.scenario, self.overrides)


class Training:
    """A training: its environments, its algorithm and the evaluations so far.

    Args:
        settings: what is trained.
        folder: where everything is written.
        resume: go on from the checkpoint in the folder, if there is one.

    Raises:
        ValueError: settings that do not fit, or a damaged checkpoint.
    """

    def __init__(self, settings: TrainSettings, folder: Path, *, resume: bool = False) -> None:
        self.settings, self.folder = settings, folder
        names = (settings.scenario, settings.overrides)
        values: dict[str, Any] = {"estimates": settings.estimates}
        self._auctions: Any = make_auction_env(*names, **values)
        self._held_out = make_pacing_vector_env(len(settings.held_out), *names, **values)
        first = tuned_action(self._auctions)
        # One more campaign: the reference.
        campaigns = make_pacing_vector_env(
            settings.num_envs + 1, *names, autoreset_mode="SameStep", **values
        )
        env = PacingVecEnv(campaigns, first)
        self.curve = pd.DataFrame()
        begun, checkpoint = 0, folder / "checkpoint.pt"
        resume = resume and checkpoint.exists()  # interrupted early, there is none
        if resume:
            self.curve = pd.read_parquet(folder / "curve.parquet")
            begun = int(np.max(self.curve["steps"]))
        self.model = make_algorithm(
            settings.algo,
            env,
            steps=settings.steps,
            seed=derive(settings.seed, TRAINING_STREAM, begun) >> 32,
            first_action=first,
            logs=folder / "tensorboard",
        )
        if resume:
            load_checkpoint(self.model, checkpoint)

    def run(self, advance: Callable[..., None]) -> None:
        """Learns until the steps are done; what was learned is kept if it is interrupted."""
        if self.curve.empty:
            self._add_references(advance)
        every = max(self.settings.steps // (self.settings.evaluations + 1), 1)

        def between(steps: int) -> None:
            if steps >= self._last_evaluation() + every:
                self.evaluate()
                latest = self.curve["expected_net_value"].tail(len(self.settings.held_out))
                self.model.logger.record("eval/expected_net_value", float(np.mean(latest)))

        rollout = getattr(self.model, "n_steps", 1) * self.settings.num_envs
        rounds = (self.settings.steps - self.model.num_timesteps) // rollout
        if self.model.num_timesteps == 0:
            rounds = max(rounds, 1)
        try:
            if rounds > 0:
                self.model.learn(
                    rounds * rollout,
                    callback=Between(advance, between),
                    reset_num_timesteps=False,
                )
            if self.model.num_timesteps > self._last_evaluation():
                self.evaluate()
        except KeyboardInterrupt:
            self.save()
            raise

    def _last_evaluation(self) -> int:
        """Steps that were done when the policy was evaluated last; below 0 if it was not."""
        own = np.asarray(self.curve["steps"])[np.asarray(self.curve["agent"]) == POLICY]
        return int(own.max()) if own.size else -self.settings.steps

    def policy(self) -> Policy:
        """The policy so far."""
        view: Any = self._held_out.view
        config, scales = view.world.config, view.scales
        return export_policy(
            self.model,
            value_scale=scales.value,
            ctr_scale=scales.ctr,
            max_multiplier=config.campaign.max_multiplier,
            start_hour_of_week=config.time.start_hour_of_week,
            refund_hours=config.windows.refund_hours,
            trained={**self.settings.model_dump(mode="json"), "done": self.model.num_timesteps},
        )

    def save(self) -> None:
        """Writes policy, checkpoint and evaluations."""
        save_policy(self.policy(), self.folder)
        save_checkpoint(self.model, self.folder / "checkpoint.pt")
        path = self.folder / "curve.parquet"
        write_atomically(path, lambda partial: self.curve.to_parquet(partial, index=False))

    def evaluate(self) -> None:
        """Plays the held-out seeds with the policy so far, and writes everything."""
        policy, env = self.policy(), self._held_out
        obs, _ = env.reset(seed=self.settings.held_out)
        over = False
        while not over:
            obs, _, ended, _, _ = env.step(policy.action(policy_input(obs)))
            over = bool(ended.all())
        self._add(POLICY, [env.statement(index) for index in range(env.num_envs)])
        self.save()

    def _add_references(self, advance: Callable[..., None]) -> None:
        """Plays the held-out seeds with the agents that the policy is compared with."""
        for name in REFERENCES:
            advance(0, f"{name} on {len(self.settings.held_out)} held-out seeds")
            agent = make_agent(name)
            seeds = self.settings.held_out
            self._add(name, [play(self._auctions, agent, seed)[0] for seed in seeds])

    def _add(self, agent: str, statements: list[Any]) -> None:
        rows = pd.DataFrame([{name: getattr(one, name) for name in _FIGURES} for one in statements])
        rows.insert(0, "agent", agent)
        rows.insert(1, "steps", self.model.num_timesteps)
        rows.insert(2, "seed", self.settings.held_out)
        self.curve = pd.concat([self.curve, rows], ignore_index=True)


def tuned_action(env: Any) -> float:
    """The action that spends the budget on the price history of Auction-v0, as `linear` does."""
    obs, _ = env.reset(seed=0)
    market, terms = landscape(env.terms, obs), env.terms
    log = tuned_log_multiplier(
        market, budget_rate(terms), terms.mechanism, lambda factor: factor * market.value
    )
    action = log / math.log(env.world.config.campaign.max_multiplier)
    return float(np.clip(action, -_BOUND, _BOUND))


def summary(curve: pd.DataFrame) -> list[dict[str, Any]]:
    """One row per evaluation: means over the held-out seeds, and paired differences."""
    others = {name: pd.DataFrame(curve[curve["agent"] == name]) for name in REFERENCES}
    rows = []
    for steps, part in curve[curve["agent"] == POLICY].groupby("steps"):
        row: dict[str, Any] = {"steps": int(np.asarray(steps)), "seeds": len(part)}
        for name in _FIGURES:
            row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(np.asarray(part[name]))
        for agent in REFERENCES:
            for key, column in (("vs", "expected_net_value"), ("realised_vs", "net_value")):
                difference = paired(pd.DataFrame(part), others[agent], column)
                key = f"{key}_{agent}"
                row[key], row[f"{key}_low"], row[f"{key}_high"] = difference
            other = others[agent]["expected_net_value"]
            row[f"share_of_{agent}"] = row["expected_net_value"] / float(np.mean(other))
        rows.append(row)
    return rows


def make_settings(given: dict[str, Any], folder: Path, *, resume: bool) -> TrainSettings:
    """Settings of a new training, or of the one in the folder with more steps.

    Raises:
        ValueError: a value out of range, a training where none should be, or none where one should.
    """
    path = folder / "train.json"
    if not resume:
        if path.exists():
            raise ValueError(f"--out: {folder} holds a training: add --resume, or choose another")
        return _validated(given, "adsim train")
    if not path.is_file():
        raise ValueError(f"--resume: {folder} holds no training (no train.json)")
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, not UTF-8
        raise ValueError(f"{path}: damaged: {error}") from error
    old = _validated(kept, str(path))
    new = _validated({**old.model_dump(), **given}, "adsim train")
    changed = [
        name
        for name in TrainSettings.model_fields
        if name != "steps" and getattr(new, name) != getattr(old, name)
    ]
    if changed:
        raise ValueError(f"--resume: only the steps may change, not {', '.join(changed)}")
    return new


def _validated(values: Any, origin: str) -> TrainSettings:
    try:
        return TrainSettings.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{origin}: {explain(error)}") from error


def train_command(given: dict[str, Any], out: Path, *, resume: bool, as_json: bool) -> None:
    """`adsim train`: trains, prints, writes. Interrupted, it keeps what was learned.

    Args:
        given: fields of `TrainSettings`; the others keep their defaults.
        out: folder of the training.
        resume: go on with the one that is there.
        as_json: print JSON instead of a table.
    """
    settings = make_settings(given, out, resume=resume)
    settings.world()  # its errors come before any file
    folder = make_folder(out)
    torch.set_num_threads(1)  # the networks are small: threads would only wait for each other
    training = Training(settings, folder, resume=resume)
    save_json(settings.model_dump(mode="json"), folder / "train.json")
    interrupted = False
    with console.progress(f"train {settings.algo} on {settings.scenario}", settings.steps) as bar:
        bar(training.model.num_timesteps)
        try:
            training.run(bar)
        except KeyboardInterrupt:
            interrupted = True
    rows = summary(training.curve)
    if not rows:  # interrupted before there was a policy
        raise KeyboardInterrupt
    save_json({"settings": settings.model_dump(mode="json"), "rows": rows}, folder / "curve.json")
    save_curve(training.curve, folder / "curve.png")
    if as_json:
        console.emit_json(rows, scenario=settings.scenario, algo=settings.algo, out=str(folder))
    else:
        _print(rows, settings)
    console.stderr.print(f"the policy is in {folder}: --agent sb3:{folder}", highlight=False)
    if interrupted:
        done = training.model.num_timesteps
        console.stderr.print(f"interrupted after {done} steps: add --resume to go on")
        raise KeyboardInterrupt


def _print(rows: list[dict[str, Any]], settings: TrainSettings) -> None:
    def cell(row: dict[str, Any], name: str) -> str:
        return console.with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])

    console.print_table(
        f"{settings.algo} on {settings.scenario}: {len(settings.held_out)} held-out seeds",
        ["steps", "expected net value", "vs dual, paired", "vs linear, paired", "realised"],
        [
            [
                f"{row['steps']:,}",
                *(cell(row, name) for name in ("expected_net_value", "vs_dual", "vs_linear")),
                cell(row, "net_value"),
            ]
            for row in rows
        ],
        "Means with 95 % intervals over seeds. Expected: given the impressions won.",
    )
