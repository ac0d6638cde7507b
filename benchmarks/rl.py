"""What reinforcement learning makes of a budget, and what delayed rewards cost it.

PPO with the settings of `adsim train`, trained with several seeds each: on `default` with the
rewards cash, estimated and accrual, and on `drift` with cash. Every policy is evaluated on 20 seeds
that no training meets; dual pacing and the constant multiplier play the same. Trainings that are
finished are not run again, and those interrupted go on.

Run it with `python -m benchmarks.rl`: two minutes a training on one core that is free, twelve
trainings. `--seeds 0` trains once each, `--out DIR`, `--steps N`, `--json`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from scenarios import console
from scenarios.cli import parse_seeds
from scenarios.commands import make_folder
from scenarios.intervals import interval
from scenarios.plots import save_figure
from scenarios.results import save_json
from scenarios.train import POLICY, Training, make_settings, summary
from scenarios.train_plots import learning_figure

HELD_OUT = tuple(range(1_000, 1_020))
SEEDS = (0, 1, 2)
STEPS = 200_000


class Case(NamedTuple):
    """Trainings that differ in their seed."""

    scenario: str
    reward: str


CASES = (
    *(Case("default", reward) for reward in ("accrual", "estimated", "cash")),
    Case("drift", "cash"),
)


def curve_of(given: dict[str, Any], folder: Path, advance: Any) -> pd.DataFrame:
    """The learning curve of a training, which is run as far as it is not there yet."""
    kept = make_folder(folder) / "train.json"
    settings = make_settings(given, folder, resume=kept.exists())
    save_json(settings.model_dump(mode="json"), kept)
    training = Training(settings, folder, resume=True)
    advance(training.model.num_timesteps, folder.name)
    training.run(advance)
    return training.curve


def row_of(case: Case, curves: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """Means over trainings of what the last policies get, paired by held-out seed.

    Intervals are over the held-out seeds, the policies given; `worst` and `best` are the trainings'
    shares of dual pacing's expected net value.
    """
    row: dict[str, Any] = {**case._asdict(), "trainings": len(curves)}
    own = [last_policy(curve) for curve in curves]
    shares = [summary(curve)[-1]["share_of_dual"] for curve in curves]
    row |= {"share_of_dual": float(np.mean(shares)), "worst": min(shares), "best": max(shares)}
    for name, column in (("expected", "expected_net_value"), ("realised", "net_value")):
        values = np.mean([part[column] for part in own], axis=0)
        row[name], row[f"{name}_low"], row[f"{name}_high"] = interval(values)
        for agent in ("dual", "linear"):
            rival = curves[0][curves[0]["agent"] == agent].set_index("seed")[column]
            key = f"{name}_vs_{agent}"
            difference = interval(values - np.asarray(rival[own[0].index]))
            row[key], row[f"{key}_low"], row[f"{key}_high"] = difference
    return row


def last_policy(curve: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last evaluation by seed, sorted."""
    own = curve[curve["agent"] == POLICY]
    return pd.DataFrame(own[own["steps"] == own["steps"].max()]).set_index("seed").sort_index()


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    """The table."""

    def cell(row: dict[str, Any], name: str) -> str:
        return console.with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])

    names = ("expected", "expected_vs_dual", "expected_vs_linear", "realised_vs_dual")
    console.print_table(
        f"PPO, {rows[0]['trainings']} trainings each, {len(HELD_OUT)} held-out seeds",
        ["scenario", "reward", "of dual", "worst", *names],
        [
            [
                *(row["scenario"], row["reward"]),
                *(f"{100 * row[name]:.1f} %" for name in ("share_of_dual", "worst")),
                *(cell(row, name) for name in names),
            ]
            for row in rows
        ],
        "Net value, means over trainings with 95 % intervals over seeds, differences paired.",
        text_columns=2,
    )


def main(out: Path, *, seeds: Sequence[int], steps: int, as_json: bool) -> None:
    """Trains what is missing, prints the table and writes it with the figure."""
    torch.set_num_threads(1)  # networks as small as these are slower on several
    curves: dict[Case, list[pd.DataFrame]] = {}
    with console.progress("bench rl", len(CASES) * len(seeds) * steps) as advance:
        for case in CASES:
            for seed in seeds:
                given = {"scenario": case.scenario, "overrides": {"reward": case.reward}}
                given |= {"steps": steps, "seed": seed, "held_out": HELD_OUT}
                folder = out / f"{case.scenario}_{case.reward}_{seed}"
                curves.setdefault(case, []).append(curve_of(given, folder, advance))
    rows = [row_of(case, tables) for case, tables in curves.items()]
    save_json({"steps": steps, "rows": rows}, out / "rl.json")
    panels: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for case, tables in curves.items():
        panels.setdefault(case.scenario, {})[case.reward] = tables
    save_figure(learning_figure(panels), out / "rl.png")
    if as_json:
        console.emit_json(rows, out=str(out))
    else:
        print_rows(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="PPO on Pacing-v0 against dual pacing.")
    parser.add_argument("--out", type=Path, default=Path("results/rl"), help="folder")
    parser.add_argument("--seeds", default="0-2", help="of the trainings")
    parser.add_argument("--steps", type=int, default=STEPS, help="of each training")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args()
    with console.user_errors():
        main(
            options.out,
            seeds=parse_seeds(options.seeds),
            steps=options.steps,
            as_json=options.json,
        )
