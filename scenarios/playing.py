"""Trials played, and the estimates trained that they bid on."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from scenarios import trial as trials_
from scenarios.build import make_agent
from scenarios.run import make_metered_env, play_campaign
from scenarios.rungs import STACKS, needs_warm_up
from scenarios.selection import SelectionMeter
from scenarios.stack import Stack
from scenarios.stacks import make_stack
from scenarios.trial import DONE, Training, Trial, World, about, encode, labels_of, scenario_of
from scenarios.warmup import WarmUp

_TRAINED_APART = (("reader", "tesla", "fnc"), ("full", "full_ctr", "scenes"))
"""Stacks whose warm-ups share networks with those of their group only."""


def play_trial(cache_folder: Path, trial: Trial, labels: Mapping[str, Any] | None = None) -> bytes:
    """Plays a campaign.

    Args:
        cache_folder: of trained estimates.
        trial: to be played.
        labels: of its tables; default: `labels_of(trial)`.

    Returns:
        Content of its file, see `decode`.
    """
    began = time.perf_counter()
    env = _environment(trial.world, trial.estimates, trial.explore, cache_folder)
    tables = play_campaign(env, make_agent(trial.agent), trial.seed)
    ended = about(DONE, time.perf_counter() - began)
    tables = tables._replace(trials=tables.trials.assign(**ended))
    if not trial.raw:
        tables = tables._replace(events=pd.DataFrame(), auctions=pd.DataFrame())
    return encode(tables, labels or labels_of(trial))


@lru_cache(maxsize=1)
def _environment(world: World, estimates: str, explore: float, kept: Path) -> SelectionMeter:
    config = scenario_of(world).world
    return make_metered_env(config, stack_of(world, estimates, kept), explore_share=explore)


@lru_cache(maxsize=len(STACKS))
def stack_of(world: World, estimates: str, kept: Path) -> Stack:
    """Of a world, trained or from the folder `kept`; never modified, so that campaigns share it."""
    return make_stack(estimates, _warm_up(world, kept) if needs_warm_up(estimates) else None)


@lru_cache(maxsize=1)
def _warm_up(world: World, kept: Path | None) -> WarmUp:
    return WarmUp(scenario_of(world).world, trials_.SIZE, cache=kept)


def trainings(trials: Sequence[Trial]) -> list[Training]:
    """What has to be trained for the trials, in parts that share no network."""
    found: dict[tuple[str, int], Training] = {}
    for world, estimates in dict.fromkeys((trial.world, trial.estimates) for trial in trials):
        for place, names in enumerate(_TRAINED_APART):
            if estimates in names:
                key = _warm_up(world, None).digest, place
                stacks = found[key].stacks if key in found else ()
                world = found[key].world if key in found else world
                found[key] = Training(world, tuple(dict.fromkeys([*stacks, estimates])))
    return list(found.values())


def train(cache_folder: Path, training: Training) -> None:
    """Trains stacks, unless the cache has them."""
    for name in training.stacks:
        stack_of(training.world, name, cache_folder)


def trained_files(cache_folder: Path, world: World) -> list[Path]:
    """What the cache has of the estimates of a world."""
    return _warm_up(world, cache_folder).files()
