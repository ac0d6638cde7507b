"""Estimates of a stack as the value source of an environment: frozen, or learning.

Frozen estimates are those of the warm-up, a pure function of what is shown: nothing that happens in
a campaign changes them. The corrector of the platform's CTR, which elsewhere is fitted on the
requests of the campaign, is fitted on requests of the time before it.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from adsim.kernels import PCTR, PCTR_STD, PCVR, PCVR_STD
from adsim.oracle import Oracle
from adsim.outcome import TickOutcome
from adsim.rng import ID_STRIDE, Stream, derive
from adsim.types import FloatArray, Impressions, IntArray
from adsim.value_source import ValueSource
from adsim.world import World
from predictors.logit_mixture import evenly_spaced
from scenarios.cache import cache_folder
from scenarios.online import LIMITS, OnlineEstimates
from scenarios.stack import Estimates, Stack
from scenarios.stacks import RUNGS, make_stack
from scenarios.warmup import WarmUp

_VISITED_TICKS = 48  # of the time before the campaign: its days and hours are all in it
_REQUESTS = 4_000  # of that time on which a corrector is fitted
_REQUESTED = {"pctr": PCTR, "pctr_std": PCTR_STD, "pcvr": PCVR, "pcvr_std": PCVR_STD}


class FrozenValues:
    """Estimates of E worlds by one stack that does not learn: one call for all of them.

    Products of matrices are rounded in a way that depends on the number of rows. Estimates by
    networks of an impression in one batch with those of other worlds agree with those of its world
    alone to about 1e-6, not bit for bit; to ask world by world takes twice the time.

    Args:
        stack: ready for the campaign; its corrector is fitted, if it has one. Privileged ones are
            asked world by world.
        world: whose impressions it is asked about.
    """

    limits: Mapping[str, float] = LIMITS

    def __init__(self, stack: Stack, world: World) -> None:
        self.stack, self.privileged = stack, stack.privileged
        self._margin = world.config.campaign.margin
        self._oracles = [Oracle(world, e) for e in range(world.num_worlds)]

    def restart(self, worlds: IntArray) -> None:
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

    def estimate(self, obs: Mapping[str, Any], tick: IntArray) -> dict[str, FloatArray]:
        """Estimates (1, M) by their names; the requests of a tick are taken note of once."""
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
    if learn and name not in RUNGS:
        raise ValueError(f"learn must be False unless estimates is one of {', '.join(RUNGS)}")
    warm_up = WarmUp(world.config, cache=cache_folder()) if name in RUNGS else None
    stack = make_stack(name, warm_up)
    if learn:
        return LearningValues(stack, world)
    rehearse(stack, world)
    return FrozenValues(stack, world)


def rehearse(stack: Stack, world: World) -> None:
    """Fits the corrector of a stack on bid requests of the time before the campaign.

    They are of the traffic of which the agent is told the prices (`Campaign.price_history`). A
    corrector that they do not suffice for leaves the platform's CTR as it is.
    """
    if stack.corrector is None:
        return
    seeds, tick, parts = world.seeds.copy(), np.zeros_like(world.tick), []
    seeds[0] = derive(world.config.structure_seed, Stream.HISTORY)
    ticks = evenly_spaced(world.num_ticks, _VISITED_TICKS)
    with world.source.rehearsal(0, int(seeds[0])):
        for tick[0] in np.arange(world.num_ticks)[ticks]:
            drawn = world.empty_draw()
            world.source.draw(np.array([0]), seeds, tick, drawn)
            parts.append(drawn.floats[list(_REQUESTED.values()), 0, : drawn.filled[0]])
    requests = np.concatenate(parts, axis=1)
    requests = requests[:, evenly_spaced(requests.shape[1], _REQUESTS)]
    stack.see({"mask": np.ones(requests.shape[1]), **dict(zip(_REQUESTED, requests, strict=True))})
