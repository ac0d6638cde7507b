"""Estimates of a stack as the value source of an environment: frozen, or learning.

Frozen estimates are those of the warm-up, a pure function of what is shown: nothing that happens in
a campaign changes them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adsim.oracle import Oracle
from adsim.outcome import TickOutcome
from adsim.rng import ID_STRIDE
from adsim.types import FloatArray, Impressions, IntArray
from adsim.value_source import ValueSource
from adsim.world import World
from scenarios.cache import cache_folder
from scenarios.online import LIMITS, OnlineEstimates
from scenarios.rungs import RUNGS, needs_warm_up
from scenarios.stack import Estimates, Stack
from scenarios.stacks import make_stack
from scenarios.warmup import WarmUp


class FrozenValues:
    """Estimates of E worlds by one stack that does not learn: one call for all of them.

    Products of matrices are rounded in a way that depends on the number of rows. Estimates by
    networks of an impression in one batch with those of other worlds agree with those of its world
    alone to about 1e-6, not bit for bit; to ask world by world takes twice the time.

    Args:
        stack: ready for the campaign. Privileged ones are asked world by world.
        world: whose impressions it is asked about.
    """

    limits: Mapping[str, float] = LIMITS

    def __init__(self, stack: Stack, world: World) -> None:
        self.stack, self.privileged = stack, stack.privileged
        self._margin = world.config.campaign.margin
        self._oracles = [Oracle(world, e) for e in range(world.num_worlds)]

    def restart(self, worlds: IntArray) -> None:
        """Nothing is remembered."""

    def resume(self, tick: IntArray) -> None:
        """Nothing is remembered."""

    def note(self, outcome: TickOutcome, tick: IntArray) -> None:
        """Nothing is learned."""

    def estimate(self, obs: Mapping[str, Any], tick: IntArray) -> dict[str, FloatArray]:
        """Estimates (E, M) by their names; see `ValueSource`."""
        if self.privileged:
            worlds = [self._of_world(e, obs, tick) for e in range(tick.size)]
            return {name: np.stack([getattr(w, name) for w in worlds]) for name in LIMITS}
        real = obs["mask"] > 0
        flat = {n: column[real] for n, column in obs.items() if column.shape[:2] == real.shape}
        said = self.stack.estimate(flat, _impressions(obs, tick, real), self._margin)
        out = {name: np.zeros(real.shape) for name in LIMITS}
        for name, column in said._asdict().items():
            out[name][real] = column
        return out

    def _of_world(self, e: int, obs: Mapping[str, Any], tick: IntArray) -> Estimates:
        """Estimates (M,) of one world by a stack that knows the truth."""
        self.stack.attach(self._oracles[e])
        impressions = _impressions(obs, tick, e)
        return self.stack.estimate({n: c[e] for n, c in obs.items()}, impressions, self._margin)


def _impressions(obs: Mapping[str, Any], tick: IntArray, rows: Any) -> Impressions:
    """Those of the given rows of (E, M)."""
    ids = tick[:, None] * ID_STRIDE + np.arange(obs["mask"].shape[1])
    columns = (obs[name][rows] for name in ("time_hours", "features", "scene", "mask"))
    return Impressions(ids[rows], *columns)


class LearningValues:
    """Estimates of one world by a stack that learns, exactly as `EstimatesWrapper` has it.

    What was learned is not part of the environment's state: restoring one leaves it as it is.

    Args:
        stack: ready for the campaign; never modified.
        world: the one of a single environment.
    """

    limits: Mapping[str, float] = LIMITS
    privileged = False

    def __init__(self, stack: Stack, world: World) -> None:
        self.online = OnlineEstimates(stack, world.config)
        self._asked = False

    def restart(self, worlds: IntArray) -> None:
        """Starts from the stack as it was handed over."""
        self.online.restart()
        self._asked = False

    def resume(self, tick: IntArray) -> None:
        """Goes on from a saved tick with what has been learned since."""
        self.online.tick = int(tick[0])
        self._asked = False

    def estimate(self, obs: Mapping[str, Any], tick: IntArray) -> dict[str, FloatArray]:
        """Estimates (1, M) by their names; a tick is asked about once."""
        if not self._asked:
            self.online.estimate({name: column[0] for name, column in obs.items()})
            self._asked = True
        return {name: column[None] for name, column in self.online.said._asdict().items()}

    def note(self, outcome: TickOutcome, tick: IntArray) -> None:
        """Learns from a tick if it is time."""
        explored = np.zeros(outcome.won.shape[1], bool)
        feedback = outcome.events(0, int(tick[0]))
        self.online.follow(outcome.result(0), feedback, explored, bool(outcome.done[0]))
        self._asked = False


def make_values(name: str, world: World, *, learn: bool = False) -> ValueSource:
    """The value source of an environment by the name of a stack.

    The warm-up, about a minute, is done once per world, and kept in `cache_folder()`.

    Args:
        name: in `scenarios.stacks.STACKS`, but for "platform", which needs no source.
        world: of the environment.
        learn: from the campaign, which is that of a single environment.

    Raises:
        ValueError: no such stack, one that cannot learn, or a world without warm-up.
    """
    if learn and not needs_warm_up(name):
        raise ValueError(f"learn must be False unless estimates is one of {', '.join(RUNGS)}")
    warm_up = WarmUp(world.config, cache=cache_folder()) if needs_warm_up(name) else None
    stack = make_stack(name, warm_up)
    if learn:
        return LearningValues(stack, world)
    return FrozenValues(stack, world)
