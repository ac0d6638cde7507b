"""The ladder of estimates: one scenario, one agent, the same seeds, rising quality of the estimate.

Every rung is a stack of `scenarios.stacks`; above them stand the oracle's estimates and the bound
of hindsight, which is computed beside the campaigns.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from scenarios.build import make_world
from scenarios.schema import Scenario
from scenarios.stacks import RUNGS
from scenarios.trial import Trial, World
from scenarios.warmup import WarmUp

AGENT = "dual"
PLAYED = (*RUNGS, "oracle")
"""Rungs that are campaigns."""
PRESETS = {"quick": 5, "full": 20}
"""Numbers of seeds."""


def plan(
    scenario: Scenario,
    name: str,
    overrides: Mapping[str, Any],
    structures: Sequence[int],
    seeds: Sequence[int],
    *,
    rungs: Sequence[str] = PLAYED,
) -> list[Trial]:
    """All campaigns of a ladder, structure by structure, rung by rung.

    Args:
        scenario: as loaded.
        name: that it was loaded by, with `overrides`.
        overrides: dotted keys and values.
        structures: seeds of structures; empty: the scenario's own.
        seeds: of episodes.
        rungs: in `STACKS`.

    Raises:
        ValueError: a world that cannot be made, or without a past that estimates could learn from.
    """
    WarmUp(scenario.world)
    make_world(scenario.world)
    given = json.dumps(dict(overrides), sort_keys=True)
    return [
        Trial(World(name, given, structure), AGENT, rung, seed)
        for structure in structures or [scenario.world.structure_seed]
        for rung in rungs
        for seed in seeds
    ]
