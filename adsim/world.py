"""World: one tick = draw, clear, charge, realise, schedule, release; E worlds side by side.

The single and the vector environments are thin adapters of this class, so there is one copy of
the dynamics. All randomness is counter-based (rng.py): a world's future depends on its episode
seed, its bids and nothing else.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from adsim.clearing import clear_population
from adsim.config import WorldConfig
from adsim.credit import CreditBook, predicted
from adsim.feedback import FeedbackQueue, Released
from adsim.kernels import (
    ACCRUED,
    CONTEXT,
    ITEM,
    NUM_TOTALS,
    P_CLICK,
    PCTR,
    SPEND,
    TIME,
    USER,
    WINS,
    Draw,
    clear_prices,
)
from adsim.ledger import Ledger, NetValueStatement
from adsim.log import EventLog
from adsim.market import advertiser_budgets, check_slots, mechanism_code
from adsim.outcome import Recorded, TickOutcome
from adsim.rng import ID_STRIDE
from adsim.source import Source, SyntheticSource
from adsim.types import FloatArray, IntArray, Rivals

# Waking a thread costs about a tenth of a millisecond: worth it from this many slots on.
_MIN_SHARED_SLOTS = 4096
_NO_CLICKS, _NO_TIMES = np.zeros((3, 0), dtype=np.int64), np.zeros(0)


class World:
    """E campaigns in as many worlds of one configuration.

    Args:
        config: the world.
        num_worlds: E.
        source: impressions and outcomes; synthetic by default.
        rivals: bidding policy of the other advertisers; needed by a population market.
        num_threads: threads that share the worlds of a batch.
        record_prices: keep the rivals' scores of every auction (population market), which the
            hindsight bound needs; memory grows with the number of impressions.

    Raises:
        ValueError: a population market without rivals, or inconsistent configuration.
    """

    def __init__(
        self,
        config: WorldConfig,
        num_worlds: int = 1,
        *,
        source: Source | None = None,
        rivals: Rivals | None = None,
        num_threads: int = 1,
        record_prices: bool = False,
    ) -> None:
        self.config, self.num_worlds = config, num_worlds
        self.source: Any = source if source is not None else SyntheticSource(config, num_worlds)
        self.num_ticks, self.num_slots = config.time.num_ticks, self.source.num_slots
        self._population = config.market.kind == "population"
        self._campaigns = num_worlds if self.source.shared else 1  # of an auction, not scripted
        if self.source.shared and (record_prices or num_threads > 1):
            raise ValueError("campaigns that share auctions record no prices and use one thread")
        if self._population != (rivals is not None):
            raise ValueError(
                "rivals must be given in a population market, and only there: see scenarios.build"
            )
        self.rivals = rivals
        self._exposure = check_slots(config)
        self._mechanism = mechanism_code(config.market.mechanism)
        self._budgets = self._initial_budgets()
        refund_ticks = int(-(-config.windows.refund_hours // config.time.tick_hours))
        self.ledger = Ledger(
            *(num_worlds, self.num_ticks, config.campaign.margin, config.campaign.budget),
            refund_ticks,
        )
        self.credits = CreditBook(config, num_worlds)
        self.queue = FeedbackQueue(num_worlds, self.num_ticks)
        self.log = EventLog(self.source.entity_features)
        self.seeds = np.zeros(num_worlds, dtype=np.uint64)
        self.tick = np.full(num_worlds, self.num_ticks, dtype=np.int64)  # all over until reset
        self.budget_left = np.tile(self._budgets, (num_worlds, 1))
        self.drawn = self.empty_draw()
        self.record_prices = record_prices
        self.recorded = [Recorded([], [], []) for _ in range(num_worlds)]
        self._num_threads = num_threads
        self._start_threads()

    def _initial_budgets(self) -> FloatArray:
        if self._population:
            return advertiser_budgets(self.config, self.source.structures[0])
        return np.array([self.config.campaign.budget])

    def empty_draw(self) -> Draw:
        """Arrays of a tick without impressions."""
        shape = (self.num_worlds, self.num_slots)
        return Draw(
            np.zeros((9, *shape)),
            np.zeros((3, *shape), dtype=np.int32),
            np.zeros(self.num_worlds, dtype=np.int64),
        )

    def _share(self, work: Callable[[IntArray], object], worlds: IntArray) -> None:
        """Runs work(worlds), split over the threads if there are any and enough to do."""
        if self._pool is None or worlds.size * self.num_slots < _MIN_SHARED_SLOTS:
            work(worlds)
            return
        own, *parts = np.array_split(worlds, self._num_threads)
        futures = [self._pool.submit(work, part) for part in parts]
        work(own)  # this thread is one of them
        for future in futures:
            future.result()

    def reset(self, worlds: IntArray, seeds: Sequence[int]) -> None:
        """Starts new episodes.

        Args:
            worlds: (W,) which ones.
            seeds: (W,) episode seeds in [0, 2**63).
        """
        self.seeds[worlds] = np.array(seeds, dtype=np.uint64)
        self.tick[worlds] = 0
        self.budget_left[worlds] = self._budgets
        self.ledger.reset(worlds)
        self.credits.reset(worlds)
        self.queue.clear(worlds)
        self.log.forget(worlds, self.num_worlds)
        self.source.reset(worlds, self.seeds)
        if self._population and self.source.config.randomize_structure:
            for world in worlds:
                structure = self.source.structures[world]
                self.budget_left[world] = advertiser_budgets(self.config, structure)
        if self.rivals is not None:
            self.rivals.reset(worlds, self.budget_left[worlds])
        for world in worlds:
            self.recorded[world] = Recorded([], [], [])
        self.redraw(worlds)

    def redraw(self, worlds: IntArray) -> None:
        """Replaces the impressions of the given worlds by those of their current tick."""
        self._recent: FloatArray | None = None
        old, self.drawn = self.drawn, self.empty_draw()
        if worlds.size < self.num_worlds:
            others = np.setdiff1d(np.arange(self.num_worlds), worlds)
            self.drawn.floats[:, others] = old.floats[:, others]
            self.drawn.ints[:, others] = old.ints[:, others]
            self.drawn.filled[others] = old.filled[others]
        playing = worlds[self.tick[worlds] < self.num_ticks]
        if playing.size:
            self._share(lambda w: self.source.draw(w, self.seeds, self.tick, self.drawn), playing)

    def play(
        self, bids: FloatArray, worlds: IntArray, click_values: FloatArray | None = None
    ) -> TickOutcome:
        """Plays the current tick of the given worlds.

        Args:
            bids: (E, M) currency >= 0 per impression (per click if charged per click).
            worlds: (W,) worlds that play, increasing; their ticks must be < T.
            click_values: (E, M) predicted net value of a click, currency, that estimated rewards
                credit; the platform's by default.
        """
        shape = bids.shape
        won, clicked = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
        price, slot = np.full(shape, np.inf), np.full(shape, -1, dtype=np.int8)
        totals = np.zeros((self.num_worlds, NUM_TOTALS))
        clear = self._clear_population if self._population else self._clear_prices

        def auction(part: IntArray) -> None:
            clear(part, bids, won, price, clicked, slot, totals)
            self.source.appraise(part, self.tick, self.drawn, won, totals)

        if self.rivals is None:
            self._share(auction, worlds)
        else:
            before = self.budget_left.copy()
            self._multipliers = self.rivals.multipliers(self.tick, self.budget_left)
            self._share(auction, worlds)
            self.rivals.observe(self.tick, before - self.budget_left)
        click_rows = np.ascontiguousarray(np.argwhere(clicked))
        if click_rows.size:
            self.queue.reserve(click_rows.shape[0] * self.source.max_events_per_click)
            self.source.schedule(
                click_rows, self.seeds, self.tick, self.drawn, self.queue.pool, totals
            )
        seen = self._release(worlds, click_rows)
        counted = self.ledger.post(worlds, self.tick, self.drawn.filled, totals, seen)
        credit = np.zeros((2, self.num_worlds))
        if self.config.reward == "estimated":
            value = predicted(self.drawn, click_rows, click_values)
            credit = self.credits.post(worlds, self.tick, click_rows[:, 0], value, seen)
        reward = self._reward(counted, totals, credit)
        self.ledger.net_value[worlds] += reward[worlds]
        self.tick[worlds] += 1
        done = self.tick >= self.num_ticks
        self.redraw(worlds)
        return TickOutcome(
            won=won,
            price=price,
            clicked=clicked,
            slot=slot,
            seen=seen,
            counted=counted,
            wins=totals[:, WINS],
            spend=totals[:, SPEND],
            reward=reward,
            credit=credit,
            done=done,
        )

    def recent(self) -> FloatArray:
        """(E, 3, columns) of the ledger for the last three played ticks, newest first."""
        if self._recent is None:
            self._recent = self.ledger.recent(self.tick)
        return self._recent

    def _reward(self, counted: FloatArray, totals: FloatArray, credit: FloatArray) -> FloatArray:
        """What the tick brings on the configured basis (E,), less its spend."""
        if self.config.reward == "estimated":
            return credit.sum(axis=0) - totals[:, SPEND]
        margin = self.config.campaign.margin
        if self.config.reward == "accrual":
            return margin * totals[:, ACCRUED] - totals[:, SPEND]
        return margin * (counted[1] - counted[3]) - totals[:, SPEND]

    def _clear_prices(
        self,
        worlds: IntArray,
        bids: FloatArray,
        *outputs: Any,
    ) -> None:
        market = self.config.market
        clear_prices(
            *(worlds, self.seeds, self.tick, self.drawn.filled, self.drawn.floats, bids),
            *(self.budget_left[:, 0], market.reserve, market.mechanism == "first_price"),
            *(market.charge == "click", float(self._exposure[0]), market.reveal == "all"),
            *outputs,
        )

    def _clear_population(self, worlds: IntArray, bids: FloatArray, *outputs: Any) -> None:
        market, source = self.config.market, self.source
        shape = (*bids.shape, self._exposure.size) if self.record_prices else (1, 1, 1)
        scores = np.zeros(shape)
        auctions = worlds[:1] if source.shared else worlds
        for s, step, group in source.groups(auctions, self.tick):
            clock = source.clocks[s]
            shift = np.ascontiguousarray(clock.offset[:, 0])
            worth = clock.offset[:, 1] - source.structures[s].bias[1]
            clear_population(
                *(group, self.seeds, self.tick, self.drawn.filled, self.drawn.floats),
                *(self.drawn.ints, source.structures[s].tables(step), source.field(s, step)),
                *(shift, worth, bids, self._multipliers, self.budget_left, self._campaigns),
                *(market.reserve, self._mechanism, market.charge == "click", self._exposure),
                *(market.reveal == "all", scores, self.record_prices),
                *outputs,
            )
        if self.record_prices:
            truth = source.truth(worlds, self.tick, self.drawn)
            for world in worlds:
                n = int(self.drawn.filled[world])
                self.recorded[world].net_gmv.append(truth[0, world, :n] * truth[4, world, :n])
                self.recorded[world].price.append(scores[world, :n].copy())
                self.recorded[world].ratio.append(self.cost_ratio(self.drawn, int(world)))

    def cost_ratio(self, drawn: Draw, world: int) -> FloatArray:
        """Expected cost of winning over the price to beat (n,), of real impressions.

        1 per impression; per click the price / pCTR is due with probability P(click).
        """
        n = int(drawn.filled[world])
        if self.config.market.charge == "impression":
            return np.ones(n)
        pctr = drawn.floats[PCTR, world, :n]
        p_click = drawn.floats[P_CLICK, world, :n]
        return np.divide(p_click, pctr, out=np.full(n, np.inf), where=pctr > 0)

    def _release(self, worlds: IntArray, click_rows: IntArray) -> Released:
        """Takes from the queue what became observable in the tick, and logs it."""
        first = self.tick[worlds]
        last = np.where(first == self.num_ticks - 1, self.num_ticks, first)
        clicks, time = _NO_CLICKS, _NO_TIMES
        if click_rows.size:
            clicks, time = self._log_clicks(click_rows)
        seen = self.queue.release(worlds, first, last, clicks, time)
        if seen.world.size:
            self.log.record_events(
                world=seen.world,
                tick=self.tick[seen.world],
                time_hours=seen.time_hours,
                kind=seen.kind,
                click_id=seen.click_id,
                order_id=seen.order_id,
                amount=seen.amount,
            )
        return seen

    def _log_clicks(self, click_rows: IntArray) -> tuple[IntArray, FloatArray]:
        """Logs the tick's clicks; returns (3, C) world, click_id and tick, and (C,) hours."""
        world, slot = click_rows[:, 0], click_rows[:, 1]
        tick = self.tick[world]
        click_id, time = tick * ID_STRIDE + slot, self.drawn.floats[TIME, world, slot]
        ints = self.drawn.ints
        self.log.record_clicks(
            world=world,
            click_id=click_id,
            time_hours=time,
            tick=tick,
            user=ints[USER, world, slot],
            context=ints[CONTEXT, world, slot],
            item=ints[ITEM, world, slot],
        )
        return np.stack([world, click_id, tick]), time

    def __getstate__(self) -> dict[str, Any]:
        """Threads are started again after unpickling."""
        return {**self.__dict__, "_pool": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_threads()

    def close(self) -> None:
        """Ends the threads; the world goes on with one."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None

    def _start_threads(self) -> None:
        several = self._num_threads > 1
        self._pool = ThreadPoolExecutor(self._num_threads - 1) if several else None

    def statement(self, world: int = 0) -> NetValueStatement:
        """The closing statement of a finished world.

        Raises:
            RuntimeError: the campaign is not over.
        """
        if self.tick[world] < self.num_ticks:
            raise RuntimeError("statement: the campaign is not over yet")
        return self.ledger.statement(world)

    def get_state(self) -> dict[str, np.ndarray]:
        """Arrays that determine the future, copied."""
        state = {
            "seeds": self.seeds.copy(),
            "tick": self.tick.copy(),
            "budget_left": self.budget_left.copy(),
        }
        parts: dict[str, Any] = {"ledger": self.ledger, "queue": self.queue, "log": self.log}
        parts |= {"credits": self.credits, "source": self.source}
        if self.rivals is not None:
            parts["rivals"] = self.rivals
        for prefix, part in parts.items():
            state |= {f"{prefix}.{name}": array for name, array in part.get_state().items()}
        for name in Recorded._fields if self.record_prices else ():
            for world, recorded in enumerate(self.recorded):
                for tick, array in enumerate(getattr(recorded, name)):
                    state[f"recorded.{name}.{world}.{tick}"] = array.copy()
        return state

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned; the next tick is the same bit for bit."""
        worlds = np.arange(self.num_worlds)
        self.seeds, self.tick = state["seeds"].copy(), state["tick"].copy()
        self.budget_left = state["budget_left"].copy()
        self.source.reset(worlds, self.seeds)

        def part(prefix: str) -> dict[str, np.ndarray]:
            return {
                k.removeprefix(f"{prefix}."): v
                for k, v in state.items()
                if k.startswith(f"{prefix}.")
            }

        recorded = part("recorded")
        for world in worlds:
            ticks = range(sum(key.startswith(f"price.{world}.") for key in recorded))
            self.recorded[world] = Recorded(
                *(
                    [recorded[f"{name}.{world}.{tick}"] for tick in ticks]
                    for name in Recorded._fields
                )
            )
        for name in ("ledger", "credits", "queue", "log"):
            getattr(self, name).set_state(part(name))
        if self.rivals is not None:
            self.rivals.set_state(part("rivals"))
        self.source.set_state(part("source"))
        self.redraw(worlds)
