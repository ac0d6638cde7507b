"""What `adsim bench denoise` does: choose, run, print, write."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scenarios import console, results
from scenarios.commands import make_folder, written_by
from scenarios.comparison import choose
from scenarios.denoise import PRESETS, REGIMES, Step, Trial, plan, run_step
from scenarios.denoise_report import print_rows, rows_of, save_figures
from scenarios.noisy_auctions import SYNTHETIC, Prices, read_prices

MAX_SIGMA = 100.0  # log-odds; far beyond, predictions are 0 or 1


def parse_sigmas(text: str) -> tuple[float, ...]:
    """Standard deviations of noise from "0.1,1,2.154", in their order.

    Raises:
        ValueError: anything else than numbers in (0, 100].
    """
    try:
        sigmas = [float(part) for part in text.split(",")]
    except ValueError:
        sigmas = []
    if not sigmas or not all(0 < sigma <= MAX_SIGMA for sigma in sigmas):
        allowed = f"numbers in (0, {MAX_SIGMA:g}] such as 0.1,1,2.154"
        raise ValueError(f"--sigmas: expected {allowed}, got {text!r}")
    return tuple(sorted(set(sigmas)))


def choose_steps(
    preset: str = "quick",
    regimes: Sequence[str] = (),
    sigmas: Sequence[float] = (),
    seeds: Sequence[int] = (),
) -> list[Step]:
    """The steps of a preset; every argument that is given replaces that part of it.

    Raises:
        ValueError: an unknown name.
    """
    (preset,) = choose("preset", [preset], PRESETS)
    wanted = choose("regime", regimes, REGIMES) or list(REGIMES)
    usual = PRESETS[preset]
    noises = {name: tuple(sigmas) or usual.sigmas[name] for name in usual.sigmas}
    return plan(wanted, noises, list(seeds) or range(usual.seeds))


def compare(
    *,
    preset: str = "quick",
    data: Path | None = None,
    regimes: Sequence[str] = (),
    sigmas: Sequence[float] = (),
    seeds: Sequence[int] = (),
    as_json: bool = False,
    out: Path,
) -> None:
    """Runs the comparison, prints its table and writes table, trials and figures.

    Args:
        preset: of seeds and noises, in `PRESETS`.
        data: iPinYou folder whose prices take the place of the synthetic ones.
        regimes: in `REGIMES`; all by default.
        sigmas: log-odds, > 0; the preset's by default.
        seeds: the preset's by default.
        as_json: print rows as JSON instead of tables.
        out: folder, created if needed.

    Raises:
        ValueError: an argument is out of range, or a data file is malformed.
        FileNotFoundError: a data file is missing.
    """
    steps = choose_steps(preset, regimes, sigmas, seeds)
    prices = [SYNTHETIC] if data is None else read_prices(data)
    make_folder(out)
    began, trials = time.monotonic(), run_steps(steps, prices)
    rows = rows_of(trials)
    settings = {
        "preset": preset,
        "regimes": list(dict.fromkeys(step.regime for step in steps)),
        "seeds": sorted({seed for step in steps for seed in step.seeds}),
        "zero_prices_left_out": {f"{p.source} {p.name}": p.left_out for p in prices},
        "seconds": time.monotonic() - began,
    }
    _write(rows, trials, settings, out)
    if as_json:
        console.emit_json(rows, out=str(out))
    else:
        print_rows(rows)


def run_steps(steps: Sequence[Step], prices: Sequence[Prices]) -> list[Trial]:
    """All trials, with a progress bar."""
    trials: list[Trial] = []
    with console.progress("bench denoise", sum(len(step.seeds) for step in steps)) as advance:
        for step in steps:
            trials += run_step(step, prices)
            advance(len(step.seeds), note=f"{step.regime}, sigma {step.sigma:.3g}")
    return trials


def _write(
    rows: list[dict[str, Any]], trials: list[Trial], settings: dict[str, Any], out: Path
) -> None:
    results.save_json({**written_by(), "settings": settings, "rows": rows}, out / "table.json")
    for name, frame in {"table": pd.DataFrame(rows), "trials": pd.DataFrame(trials)}.items():
        results.save_table(frame, out / f"{name}.parquet")
    save_figures(rows, out)
