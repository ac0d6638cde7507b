"""The command `adsim train`."""

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import typer

from scenarios.bench_cli import JsonOption, parse_seeds

_PARTS = ("stable_baselines3", "tensorboard")  # of the extra `rl`


def require_rl() -> None:
    """Checks that the extra `rl` is installed.

    Raises:
        ValueError: it is not; says how to install it.
    """
    lacking = [name for name in _PARTS if importlib.util.find_spec(name) is None]
    if lacking:
        raise ValueError(f'{" and ".join(lacking)} not installed: pip install "adsim[rl]"')


def train(
    algo: Annotated[str | None, typer.Option(help="ppo (default) or sac.")] = None,
    scenario: Annotated[
        str | None, typer.Option(help="Name (see `adsim list`) or .toml file; default: default.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Ticks to play, over all campaigns; default: 200000.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the training.")] = Path("results/train"),
    seed: Annotated[int | None, typer.Option(help="Seed of the training; default: 0.")] = None,
    num_envs: Annotated[
        int | None, typer.Option(help="Campaigns side by side; default: 16.")
    ] = None,
    reward: Annotated[
        str | None, typer.Option(help="cash (default), accrual or estimated.")
    ] = None,
    estimates: Annotated[
        str | None, typer.Option(help="Whose estimates are bid on; default: platform.")
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(help="Seeds of the evaluations; default: 1000-1009.")
    ] = None,
    evaluations: Annotated[
        int | None, typer.Option(help="Evaluations on the way; default: 8.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a scenario key; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in the folder.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Train a bidding policy with stable-baselines3 (extra `rl`).

    What is trained is one multiplier on the value estimates per tick (Pacing-v0). The folder keeps
    the policy, checkpoints, TensorBoard logs and the learning curve; Ctrl-C loses nothing.

    Example: adsim train --algo ppo --scenario drift --steps 200000 --out results/ppo
    """
    from scenarios import console
    from scenarios.cli import parse_overrides

    with console.user_errors():
        require_rl()
        from scenarios.train import train_command

        given: dict[str, Any] = {"algo": algo, "scenario": scenario, "steps": steps, "seed": seed}
        given |= {"num_envs": num_envs, "estimates": estimates, "evaluations": evaluations}
        if held_out is not None:
            given["held_out"] = parse_seeds(held_out, "--held-out")
        overrides = parse_overrides(set_) | ({} if reward is None else {"reward": reward})
        if overrides:
            given["overrides"] = overrides
        given = {name: value for name, value in given.items() if value is not None}
        train_command(given, out, resume=resume, as_json=json_)
