"""Speed and memory of the environments, measured one configuration per process.

Every row plays whole campaigns through `env.step` with the full funnel and feedback on, after a
warm-up campaign, and reports the median over campaigns; auctions are real impressions, padding
does not count. Run it with `adsim bench speed`.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import pdtrc

import adsim

_LEAST_REPEATS, _MOST_REPEATS = 5, 41
_MEASURE_SECONDS = 3.0  # of each case: noisy machines need many campaigns for a median
_TICKS = 200
_BIG = 1e12  # budgets that never bind: every tick is played in full


class Case(NamedTuple):
    """One row: what is played, and the target it is held against."""

    env: str  # pacing, auction
    market: str  # landscape, population, auctionnet
    slots: int
    m: int  # slots per tick
    worlds: int = 1
    threads: int = 1
    advertisers: int = 48
    target: str = ""


CASES = (
    Case("pacing", "landscape", 1, 4096, target="2 M auctions/s"),
    Case("auction", "landscape", 1, 4096, target="1.5 M auctions/s"),
    Case("pacing", "landscape", 1, 512, target="1 M auctions/s"),
    Case("auction", "landscape", 1, 512, target="1 M auctions/s"),
    Case("pacing", "landscape", 1, 64, target="5,000 steps/s"),
    Case("auction", "landscape", 1, 64, target="5,000 steps/s"),
    Case("pacing", "population", 1, 4096, target="1.2 M auctions/s"),
    Case("pacing", "population", 3, 4096, target="0.8 M auctions/s"),
    Case("pacing", "population", 1, 4096, advertisers=96, target="linear in A"),
    Case("pacing", "population", 1, 1024, target="linear in M"),
    Case("pacing", "auctionnet", 3, 0, target="day < 2 s, 300 MB"),
    Case("pacing", "landscape", 1, 64, worlds=32, threads=2, target="40,000 steps/s"),
    Case("pacing", "campaign", 1, 0, target="10 M impressions, 400 MB"),
)


def highest_mean(m: int) -> float:
    """Largest mean arrivals that overflow m slots with probability < 1e-6."""
    low, high = 0.0, float(m)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if pdtrc(m, middle) < 1e-6 else (low, middle)
    return low


def overrides(case: Case) -> tuple[str, dict[str, Any]]:
    """Scenario and keys of a case."""
    if case.market == "auctionnet":
        return "auctionnet", {}
    if case.market == "campaign":  # a week of 10 M impressions, budget as in `default`
        scale = 10e6 / 168_000
        return "default", {
            "traffic.impressions_per_tick": 10e6 / 336,
            "campaign.budget": 1_650.0 * scale,
        }
    keys: dict[str, Any] = {
        "traffic.profile": "flat",
        "traffic.impressions_per_tick": highest_mean(case.m),
        "traffic.slots_per_tick": case.m,
        "time.num_ticks": _TICKS,
        "campaign.budget": _BIG,
        # Bids at which two fifths are won, as in `default`, where the budget binds.
        "campaign.margin": 0.165,
    }
    if case.market == "population":
        keys |= {
            "market.population.n_advertisers": case.advertisers,
            "market.exposure": [1.0, 0.8, 0.6][: case.slots],
            "market.mechanism": "gsp",
            "campaign.margin": 1.0,  # rich enough to win against 47 rivals
        }
        return "population", keys
    return "default", keys


def play(env: Any, action: np.ndarray, worlds: int) -> tuple[int, int, float]:
    """One campaign: auctions, steps, seconds of the steps alone."""
    env.reset(seed=0)
    world = env.unwrapped.world
    auctions, steps = 0, 0
    start = time.perf_counter()
    for _ in range(world.num_ticks):
        auctions += int(world.drawn.filled.sum())
        env.step(action)
        steps += worlds
    return auctions, steps, time.perf_counter() - start


def measure(case: Case) -> dict[str, Any]:
    """Plays one case in this process."""
    from scenarios.build import (
        make_auction_env,
        make_pacing_env,
        make_pacing_vector_env,
    )

    scenario, keys = overrides(case)
    if case.worlds > 1:
        env: Any = make_pacing_vector_env(case.worlds, scenario, keys, num_threads=case.threads)
        action = np.zeros((case.worlds, 1), np.float32)
    elif case.env == "pacing":
        env, action = make_pacing_env(scenario, keys), np.zeros(1, np.float32)
    else:
        env = make_auction_env(scenario, keys)
        action = np.full(env.world.num_slots, 0.02)
    once = case.market == "campaign"
    if not once:
        play(env, action, case.worlds)
    runs = [play(env, action, case.worlds)]
    while not once and len(runs) < _MOST_REPEATS:
        if len(runs) >= _LEAST_REPEATS and sum(run[2] for run in runs) > _MEASURE_SECONDS:
            break
        runs.append(play(env, action, case.worlds))
    seconds = statistics.median(run[2] for run in runs)
    auctions, steps = runs[0][:2]
    return {
        **case._asdict(),
        "m": env.world.num_slots,
        "auctions": auctions,
        "auctions_per_s": auctions / seconds,
        "steps_per_s": steps / seconds,
        "seconds": seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def profile_stages(m: int) -> list[tuple[str, float]]:
    """Share of each stage of a tick: (stage, nanoseconds per auction), Auction-v0, landscape."""
    import cProfile
    import pstats

    from scenarios.build import make_auction_env

    scenario, keys = overrides(Case("auction", "landscape", 1, m))
    env = make_auction_env(scenario, keys)
    action = np.full(env.world.num_slots, 0.02)
    play(env, action, 1)
    profiler = cProfile.Profile()
    profiler.enable()
    auctions, _, _ = play(env, action, 1)
    profiler.disable()
    stages = {
        "draw": "draw impressions",
        "_clear_prices": "auctions",
        "appraise": "expected value of wins",
        "schedule": "funnel of clicks",
        "_release": "release and log events",
        "post": "ledger",
        "observation": "observation",
        "info": "info",
        "step": "whole step",
    }
    wanted = {("source.py", n) for n in ("draw", "appraise", "schedule")} | {
        ("world.py", "_clear_prices"),
        ("world.py", "_release"),
        ("ledger.py", "post"),
        ("observation.py", "observation"),
        ("observation.py", "info"),
        ("env.py", "step"),
    }
    rows = []
    for (file, _, name), (_, _, _, cumulative, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        if (Path(file).name, name) in wanted:
            rows.append((stages[name], 1e9 * cumulative / auctions))
    return sorted(rows, key=lambda row: -row[1])


def run_cases() -> list[dict[str, Any]]:
    """All cases, each in a process of its own."""
    from scenarios import console

    rows = []
    with console.progress("bench speed", len(CASES)) as advance:
        for index, case in enumerate(CASES):
            # -P: without this folder on the path, whose agents.py would hide the package `agents`.
            command = [sys.executable, "-P", str(Path(__file__).resolve()), str(index)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"case {case}: {done.stderr}")
            rows.append(json.loads(done.stdout))
            advance(note=f"{case.env} {case.market} M={case.m}")
    return rows


def main(*, as_json: bool = False, out: Path | None = None) -> None:
    """Measures, prints, and writes if asked."""
    from scenarios import console, results

    rows = run_cases()
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        results.save_json({"adsim": adsim.__version__, "rows": rows}, out / "speed.json")
    if as_json:
        console.emit_json(rows)
        return
    number = console.number
    cells = [
        [
            f"{row['env']} {row['market']}",
            *(number(row[name]) for name in ("advertisers", "slots", "m", "worlds", "threads")),
            number(row["auctions_per_s"] / 1e6, 2),
            number(row["steps_per_s"]),
            number(row["seconds"], 2),
            number(row["peak_mb"]),
            row["target"],
        ]
        for row in rows
    ]
    header = ["case", "A", "slots", "M", "worlds", "threads", "M auctions/s", "steps/s"]
    console.print_table(
        *(
            "Speed: medians of whole campaigns through env.step",
            [*header, "s", "peak MB", "target"],
        ),
        cells,
        "A counts in population markets only.",
    )
    for m in (64, 4096):
        console.print_table(
            *(f"Profile of Auction-v0, landscape, M = {m}", ["stage", "ns per auction"]),
            [[stage, number(value)] for stage, value in profile_stages(m)],
        )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(CASES[int(sys.argv[1])])))
