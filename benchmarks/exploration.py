"""What selection does to estimates, and what exploration costs and brings.

A campaign sees the outcomes of what it has won, and it wins what it overestimates. With
exploration a share of the bids is multiplied by a random factor, log-uniform in [1/2, 2]: some of
what is won was not chosen by the estimate alone. Dual pacing with estimates `full` (or
`--estimates`), which learn on-line, in the scenario `default` (or `--scenario`).

Columns: expected net value with a 95 % interval over seeds, the paired difference to no
exploration, and estimated over true, summed over all bid requests, over what was won, and over the
wins of explored bids: of CTR, of CVR (weighted by true CTR) and of the expected net value.

Run it with `python -m benchmarks.exploration`, three minutes on two cores once the estimates are
trained; `--shares 0,0.05,0.2`, `--seeds 0-4`, `--out DIR`, `--json`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenarios import console, ladder, results
from scenarios.cli import parse_seeds
from scenarios.commands import make_folder
from scenarios.intervals import clustered, interval
from scenarios.schema import load
from scenarios.selection import GROUPS, KINDS
from scenarios.stacks import STACKS
from scenarios.sweep import Options, play_all, save_dataset

JOBS = 2  # processes


def parse_shares(text: str) -> list[float]:
    """Shares from "0,0.05,0.2"; 0 is always among them, first.

    Raises:
        ValueError: anything else than numbers in [0, 1].
    """
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        shares = []
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"--shares: expected numbers in [0, 1] such as 0,0.05,0.2, got {text!r}")
    return sorted({0.0, *shares})


def rows_of(trials: Any) -> list[dict[str, Any]]:
    """One row per share of explored bids."""
    rows = []
    value = "expected_net_value"
    plain = trials[trials["explore"] == 0].set_index("seed")
    for share, part in trials.groupby("explore"):
        own = part.set_index("seed")
        found = clustered({(0, seed): own[value][seed] for seed in own.index})
        paired = interval((own[value] - plain[value]).to_numpy())
        row = {"explore": share, "seeds": len(own), value: found.mean}
        row |= {"expected_low": found.low, "expected_high": found.high}
        row |= {"paired_diff": paired.mean, "paired_low": paired.low, "paired_high": paired.high}
        for name in (f"{group}_{kind}" for group in GROUPS for kind in KINDS):
            true = float(own[f"{name}_true"].sum())
            row[name] = float(own[f"{name}_estimated"].sum()) / true if true else float("nan")
        rows.append(row)
    return rows


def measure(
    scenario: str, estimates: str, shares: Sequence[float], seeds: Sequence[int], out: Path
) -> list[dict[str, Any]]:
    """Plays all campaigns that are not in the folder yet.

    Raises:
        ValueError: an unknown name, or a scenario without a past.
    """
    if estimates not in STACKS:
        raise ValueError(f"--estimates: must be one of {', '.join(STACKS)}, got {estimates!r}")
    plain = ladder.plan(load(scenario), scenario, {}, [], seeds, rungs=[estimates])
    steps = [step._replace(explore=share) for share in shares for step in plain]
    folder = make_folder(out)
    play_all("exploration", steps, folder, Options(jobs=JOBS, retries=0, keep_going=False))
    save_dataset(folder, steps, {"kind": "exploration"})
    trials = results.load_trials(folder)
    return rows_of(trials.fillna({"explore": 0.0}))


def print_rows(title: str, rows: Sequence[dict[str, Any]]) -> None:
    """The table."""
    groups = {"requests": "of requests", "won": "of wins", "explored": "of explored wins"}
    kinds = {"ctr": "CTR", "cvr": "CVR", "net_value": "value"}
    header = ["explored bids", "expected net value", "vs none, paired"]
    header += [f"{kinds[kind]} {groups[group]}" for group in GROUPS for kind in KINDS]
    cells = []
    for row in rows:
        cell = [f"{100 * row['explore']:g} %"]
        ends = ("expected_net_value", "expected_low", "expected_high")
        cell.append(console.with_interval(*(row[end] for end in ends)))
        ends = ("paired_diff", "paired_low", "paired_high")
        cell.append(console.with_interval(*(row[end] for end in ends)) if row["explore"] else "-")
        cells.append(cell + [console.number(row[f"{g}_{k}"], 3) for g in GROUPS for k in KINDS])
    console.print_table(title, header, cells, "Estimated over true: sums over all seeds.")


def main() -> None:
    """Entry point of `python -m benchmarks.exploration`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scenario", default="default")
    parser.add_argument("--estimates", default="full")
    parser.add_argument("--shares", default="0,0.05,0.2")
    parser.add_argument("--seeds", default="0-4")
    parser.add_argument("--out", type=Path, default=Path("results/exploration"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with console.user_errors():
        shares, seeds = parse_shares(given.shares), parse_seeds(given.seeds)
        rows = measure(
            given.scenario, given.estimates, shares, seeds, given.out / load(given.scenario).name
        )
        if given.json:
            console.emit_json(rows)
            return
        print_rows(f"Exploration in {given.scenario}, estimates {given.estimates}", rows)


if __name__ == "__main__":
    main()
