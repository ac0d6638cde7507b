"""Where impressions and outcomes come from: the synthetic generator, behind one interface.

A source draws the impressions of a tick, appraises what was won, schedules the future of clicks,
and tells the truth to privileged callers. `replay.ReplaySource` does the same from a log.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from adsim.clearing import Field
from adsim.config import WorldConfig
from adsim.feedback import Pool
from adsim.funnel import make_funnel
from adsim.kernels import Draw, appraise, draw, gather_features, schedule, truth
from adsim.market import make_field, make_landscape, make_noise
from adsim.rng import Stream, derive
from adsim.structure import CACHED_STEPS, Structure
from adsim.traffic import Clock, draw_arrivals, make_clock, slots_per_tick
from adsim.types import BoolArray, FloatArray, IntArray, PriceHistory

Int32Array = NDArray[np.int32]


class Source(Protocol):
    """Impressions and outcomes of E worlds."""

    num_slots: int  # M
    cardinalities: tuple[int, ...]  # (F,) sizes of the categorical fields
    num_scenes: int
    max_events_per_click: int
    shared: bool  # whether the worlds are campaigns that bid for the same impressions
    price_history: PriceHistory | None  # of the log; None if it is to be sampled
    expected_traffic: FloatArray  # (T,) expected impressions

    def choose(self, world: int, options: dict[str, Any]) -> None:
        """Applies the options of the next episode of a world."""
        ...

    def reset(self, worlds: IntArray, seeds: NDArray[np.uint64]) -> None:
        """New episodes for the given worlds; `seeds` (E,)."""
        ...

    def draw(self, worlds: IntArray, seeds: NDArray[np.uint64], tick: IntArray, out: Draw) -> None:
        """Fills the impressions of tick[e] of the given worlds."""
        ...

    def appraise(
        self, worlds: IntArray, tick: IntArray, drawn: Draw, won: BoolArray, totals: FloatArray
    ) -> None:
        """Adds expected outcomes of what was won to `totals`."""
        ...

    def schedule(
        self,
        clicks: IntArray,
        seeds: NDArray[np.uint64],
        tick: IntArray,
        drawn: Draw,
        pool: Pool,
        totals: FloatArray,
    ) -> None:
        """Pushes the future of `clicks` (C, 2: world, slot)."""
        ...

    def truth(self, worlds: IntArray, tick: IntArray, drawn: Draw) -> FloatArray:
        """(5, E, M): see `kernels.truth`. Privileged."""
        ...

    def features(self, worlds: IntArray, drawn: Draw) -> tuple[Int32Array, Int32Array]:
        """Field ids (E, M, F) and scenes (E, M)."""
        ...

    def entity_features(
        self, world: int, user: IntArray, context: IntArray, item: IntArray
    ) -> tuple[Int32Array, Int32Array]:
        """Field ids (C, F) and scenes (C,) of given entities."""
        ...

    def list_prices(self, item: Int32Array) -> FloatArray:
        """List prices (E, M) of items (E, M), currency."""
        ...

    def scenes(self, context: Int32Array) -> Int32Array:
        """Scenes (E, M) of contexts (E, M)."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """What the episode seeds do not determine."""
        ...

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        ...


class SyntheticSource:
    """The generative model of docs/model.md.

    Args:
        config: the world.
        num_worlds: E.
        shared: the worlds are the advertisers 0..E-1 of one population, each with its catalogue:
            they are shown the same users, contexts and moments, those of the first world's seed.

    Raises:
        ValueError: shared by more campaigns than there are advertisers.
    """

    price_history: PriceHistory | None = None

    def __init__(self, config: WorldConfig, num_worlds: int, *, shared: bool = False) -> None:
        self.config, self.shared = config, shared
        advertisers = config.market.population.n_advertisers
        if shared and not (config.market.kind == "population" and num_worlds <= advertisers):
            raise ValueError(
                "campaigns must be in one market.kind = 'population' with at least as many "
                f"market.population.n_advertisers, got {num_worlds} in a {config.market.kind} "
                f"market of {advertisers}"
            )
        self.structures: list[Structure] = []
        self.clocks: list[Clock] = []
        self._of_world = np.zeros(num_worlds, dtype=np.int64)
        catalogue = config.entities.items_per_advertiser if shared else 0
        self._first_item = catalogue * np.arange(num_worlds)
        # Structures that change with every episode are not worth much memory.
        self._cached_steps = 2 if config.randomize_structure else CACHED_STEPS
        self._lock = Lock()
        self._plain = config.model_copy(update={"shocks": ()})
        self._add(config.structure_seed)
        clock = self.clocks[0]
        self.num_slots = slots_per_tick(config, clock.expected_traffic)
        # What is known in advance: the usual week, without the shocks.
        self.expected_traffic = make_clock(self._plain, np.zeros(5)).expected_traffic
        self.cardinalities = self.structures[0].cardinalities
        self.num_scenes = config.entities.num_scenes
        self.max_events_per_click = 2 * config.purchase.max_purchases
        self.law = make_funnel(config)
        self.noise = make_noise(config)
        self.landscapes = [make_landscape(config, self.structures[0])]
        self._counts = np.zeros((num_worlds, config.time.num_ticks), dtype=np.int64)
        self._fields: dict[tuple[int, int], Field] = {}
        if config.randomize_structure:
            for _ in range(1, num_worlds):
                self.structures.append(self.structures[0])
                self.clocks.append(clock)
                self.landscapes.append(self.landscapes[0])
            self._of_world = np.arange(num_worlds)

    def _add(self, seed: int) -> None:
        structure = Structure(self.config, seed, self._cached_steps)
        self.structures.append(structure)
        self.clocks.append(make_clock(self.config, structure.bias))

    def choose(self, world: int, options: dict[str, Any]) -> None:
        """Applies the options of an episode: there are none.

        Raises:
            ValueError: an unknown option.
        """
        if options:
            raise ValueError(f"options: unknown {sorted(options)}; this market has none")

    def reset(self, worlds: IntArray, seeds: NDArray[np.uint64]) -> None:
        """Arrivals of the new episodes (and their structures, if randomised)."""
        for world in worlds:
            seed = int(self._traffic_seeds(seeds)[world])
            self._counts[world] = draw_arrivals(
                seed, self.clocks[0].expected_traffic, self.num_slots
            )
            if self.config.randomize_structure:
                structure_seed = derive(seed, Stream.WORLD_STRUCTURE)
                structure = Structure(self.config, structure_seed, self._cached_steps)
                self.structures[world] = structure
                self.clocks[world] = make_clock(self.config, structure.bias)
                self.landscapes[world] = make_landscape(self.config, structure)
                self._fields = {k: v for k, v in self._fields.items() if k[0] != world}

    def _traffic_seeds(self, seeds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Seeds (E,) of who arrives when."""
        return np.full_like(seeds, seeds[0]) if self.shared else seeds

    @contextmanager
    def rehearsal(self, world: int, seed: int) -> Iterator[None]:
        """Until it is left, the given world is in the period before the campaign.

        Arrivals are those of `seed`, hidden effects stand where they are when the campaign
        starts, and there are no shocks: nothing of the campaign's own future is in it.
        """
        clocks, counts = self.clocks, self._counts[world].copy()
        self.clocks = [
            make_clock(self._plain, structure.bias)._replace(
                drift_step=np.zeros_like(clock.drift_step)
            )
            for clock, structure in zip(clocks, self.structures, strict=True)
        ]
        traffic = self.clocks[0].expected_traffic
        self._counts[world] = draw_arrivals(seed, traffic, self.num_slots)
        try:
            yield
        finally:
            self.clocks, self._counts[world] = clocks, counts

    def groups(self, worlds: IntArray, tick: IntArray) -> list[tuple[int, int, IntArray]]:
        """(structure, drift step, worlds) with equal tables; one group if all play in step."""
        if worlds.size == 1:
            world = int(worlds[0])
            step = int(self.clocks[0].drift_step[tick[world]])
            return [(int(self._of_world[world]), step, worlds)]
        steps = self.clocks[0].drift_step[tick[worlds]]
        structures = self._of_world[worlds]
        if steps.size and (steps == steps[0]).all() and (structures == structures[0]).all():
            return [(int(structures[0]), int(steps[0]), worlds)]
        keys, inverse = np.unique(np.stack([structures, steps]), axis=1, return_inverse=True)
        return [
            (int(keys[0, g]), int(keys[1, g]), worlds[inverse.ravel() == g])
            for g in range(keys.shape[1])
        ]

    def draw(self, worlds: IntArray, seeds: NDArray[np.uint64], tick: IntArray, out: Draw) -> None:
        """Fills the impressions of tick[e] of the given worlds."""
        out.filled[worlds] = self._counts[worlds, tick[worlds]]
        for s, step, group in self.groups(worlds, tick):
            clock = self.clocks[s]
            draw(
                *(group, self._traffic_seeds(seeds), seeds, self._first_item, tick, out.filled),
                *(self.structures[s].tables(step), clock.offset, clock.log_price),
                *(clock.tick_hours, self.landscapes[s]),
                *(self.noise, self.law.p_convert, self.config.campaign.margin),
                *(out.floats, out.ints),
            )

    def appraise(
        self, worlds: IntArray, tick: IntArray, drawn: Draw, won: BoolArray, totals: FloatArray
    ) -> None:
        """Adds expected outcomes of what was won to `totals`."""
        for s, step, group in self.groups(worlds, tick):
            tables, offset = self.structures[s].tables(step), self.clocks[s].offset
            appraise(
                *(group, tick, drawn.floats, drawn.ints, drawn.filled, won, tables, offset),
                *(self.law, totals),
            )

    def schedule(
        self,
        clicks: IntArray,
        seeds: NDArray[np.uint64],
        tick: IntArray,
        drawn: Draw,
        pool: Pool,
        totals: FloatArray,
    ) -> None:
        """Pushes the future of `clicks` (C, 2: world, slot)."""
        worlds = np.unique(clicks[:, 0]) if self._counts.shape[0] > 1 else clicks[:1, 0]
        groups = self.groups(worlds, tick)
        for s, step, group in groups:
            part = clicks if len(groups) == 1 else clicks[np.isin(clicks[:, 0], group)]
            clock = self.clocks[s]
            schedule(
                *(part, seeds, tick, drawn.floats, drawn.ints, self.structures[s].tables(step)),
                *(clock.offset, self.law, clock.tick_hours, pool, totals),
            )

    def truth(self, worlds: IntArray, tick: IntArray, drawn: Draw) -> FloatArray:
        """(5, E, M): see `kernels.truth`. Privileged."""
        out = np.zeros((5, *drawn.floats.shape[1:]))
        for s, step, group in self.groups(worlds, tick):
            tables, offset = self.structures[s].tables(step), self.clocks[s].offset
            truth(
                group, tick, drawn.floats, drawn.ints, drawn.filled, tables, offset, self.law, out
            )
        return out

    def features(self, worlds: IntArray, drawn: Draw) -> tuple[Int32Array, Int32Array]:
        """Field ids (E, M, F) and scenes (E, M)."""
        shape = drawn.floats.shape[1:]
        features = np.zeros((*shape, len(self.cardinalities)), dtype=np.int32)
        scene = np.zeros(shape, dtype=np.int32)
        randomised = self.config.randomize_structure
        for s, group in (
            [(int(w), worlds[i : i + 1]) for i, w in enumerate(worlds)]
            if randomised
            else [(0, worlds)]
        ):
            structure = self.structures[s]
            gather_features(
                *(group, drawn.ints, drawn.filled, structure.user_ids, structure.item_ids),
                *(structure.context_ids, structure.scene_of, features, scene),
            )
        return features, scene

    def entity_features(
        self, world: int, user: IntArray, context: IntArray, item: IntArray
    ) -> tuple[Int32Array, Int32Array]:
        """Field ids (C, F) and scenes (C,) of given entities."""
        structure = self.structures[self._of_world[world]]
        parts = (structure.user_ids[user], structure.item_ids[item], structure.context_ids[context])
        return np.concatenate(parts, axis=1), structure.context_ids[context, 0]

    def list_prices(self, item: Int32Array) -> FloatArray:
        """List prices (E, M) of items (E, M), currency."""
        return self._gather([structure.list_price for structure in self.structures], item)

    def scenes(self, context: Int32Array) -> Int32Array:
        """Scenes (E, M) of contexts (E, M)."""
        return self._gather([structure.context_ids[:, 0] for structure in self.structures], context)

    def _gather(self, tables: list[np.ndarray], index: Int32Array) -> np.ndarray:
        """tables[structure of world e][index[e]]."""
        if len(tables) == 1:
            return tables[0][index]
        return np.stack([table[row] for table, row in zip(tables, index, strict=True)])

    def field(self, s: int, step: int) -> Field:
        """The advertisers' tables of a structure at a drift step (population market)."""
        with self._lock:
            if (s, step) not in self._fields:
                if len(self._fields) >= self._cached_steps * len(self.structures):
                    self._fields.clear()
                structure = self.structures[s]
                self._fields[s, step] = make_field(self.config, structure, structure.tables(step))
            return self._fields[s, step]

    def __getstate__(self) -> dict[str, Any]:
        """Without the lock."""
        return {**self.__dict__, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = Lock()

    def get_state(self) -> dict[str, np.ndarray]:
        """Nothing that the seeds do not determine."""
        return {}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Nothing to restore."""
