"""ReplaySource: a logged auction file played back through the same World.

Each auction of the log is an impression; its price to beat, predicted CTR and click are the
logged ones. A click is worth `click_value`, booked as one purchase at the moment of the click,
so that net value is margin x value of clicks - spend. One campaign is T ticks of
`auctions_per_tick` auctions from a chosen row; ticks after the end of the log are empty.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adsim.config import WorldConfig
from adsim.datasets.ipinyou import CampaignInfo, price_history, read_auction_log, read_info
from adsim.feedback import Pool, push
from adsim.kernels import (
    ACCRUED,
    EXPECTED_CLICKS,
    EXPECTED_GMV,
    EXPECTED_NET_GMV,
    P_CLICK,
    PCTR,
    PCVR,
    PRICE,
    TIME,
    VALUE,
    Draw,
)
from adsim.rng import ID_STRIDE
from adsim.types import BoolArray, EventKind, FloatArray, IntArray, PriceHistory

_NONE = np.zeros(0)
NO_HISTORY = PriceHistory(_NONE, _NONE, _NONE, _NONE, float("nan"), float("nan"))


class ReplaySource:
    """Impressions and clicks of a log, from row `first_auction` on.

    Args:
        config: a world with a replay market.
        num_worlds: E; every world plays the same log, possibly from another row.

    Raises:
        FileNotFoundError, ValueError: the files are missing or malformed.
    """

    max_events_per_click = 1
    num_scenes = 1
    cardinalities: tuple[int, ...] = (1,)  # one categorical field: the campaign

    shared = False

    def __init__(self, config: WorldConfig, num_worlds: int) -> None:
        replay = config.market.replay
        self.config, self.num_slots = config, replay.auctions_per_tick
        self.log = read_auction_log(Path(replay.log))
        self.info: CampaignInfo | None = read_info(replay.info) if replay.info else None
        # Without the training log's counts nothing is known: the log itself is the future.
        self.price_history: PriceHistory | None = (
            price_history(self.info) if self.info else NO_HISTORY
        )
        self.expected_traffic = np.full(config.time.num_ticks, float(self.num_slots))
        self._first = np.full(num_worlds, replay.first_auction, dtype=np.int64)
        self._check_start(replay.first_auction, "market.replay.first_auction")

    def _check_start(self, row: int, name: str) -> None:
        if not 0 <= row < self.log.price.size:
            raise ValueError(f"{name} must be in [0, {self.log.price.size - 1}], got {row}")

    def choose(self, world: int, options: dict[str, Any]) -> None:
        """Option "first_auction": row of the log at which the next episode of a world starts.

        Raises:
            ValueError: an unknown option, or a row outside the log.
        """
        unknown = set(options) - {"first_auction"}
        if unknown:
            raise ValueError(f"options: unknown {sorted(unknown)}; a replay knows first_auction")
        if "first_auction" in options:
            row = int(options["first_auction"])
            self._check_start(row, "options['first_auction']")
            self._first[world] = row

    def reset(self, worlds: IntArray, seeds: NDArray[np.uint64]) -> None:
        """Nothing to draw: the log is given."""

    def rows(self, world: int, tick: int) -> slice:
        """Rows of the log that are the impressions of a tick."""
        start = int(self._first[world]) + tick * self.num_slots
        return slice(
            min(start, self.log.price.size), min(start + self.num_slots, self.log.price.size)
        )

    def draw(self, worlds: IntArray, seeds: NDArray[np.uint64], tick: IntArray, out: Draw) -> None:
        """Copies the rows of tick[e] of the given worlds."""
        replay, margin = self.config.market.replay, self.config.campaign.margin
        for e in worlds:
            rows = self.rows(e, int(tick[e]))
            n = rows.stop - rows.start
            out.filled[e] = n
            if n == 0:
                continue
            theta, floats = self.log.theta[rows], out.floats
            offsets = (np.arange(n) + 0.5) / self.num_slots
            floats[TIME, e, :n] = (tick[e] + offsets) * self.config.time.tick_hours
            floats[P_CLICK, e, :n] = self.log.click[rows]
            floats[PCTR, e, :n] = theta
            floats[PCVR, e, :n] = 1.0
            floats[VALUE, e, :n] = theta * (replay.click_value * margin)
            floats[PRICE, e, :n] = self.log.price[rows]

    def appraise(
        self, worlds: IntArray, tick: IntArray, drawn: Draw, won: BoolArray, totals: FloatArray
    ) -> None:
        """Counts the logged clicks of what was won: nothing else is known."""
        for e in worlds:
            clicks = float(drawn.floats[P_CLICK, e] @ won[e])
            totals[e, EXPECTED_CLICKS] += clicks
            totals[e, EXPECTED_GMV] += clicks * self.config.market.replay.click_value
            totals[e, EXPECTED_NET_GMV] += clicks * self.config.market.replay.click_value

    def schedule(
        self,
        clicks: IntArray,
        seeds: NDArray[np.uint64],
        tick: IntArray,
        drawn: Draw,
        pool: Pool,
        totals: FloatArray,
    ) -> None:
        """One purchase of `click_value` at the moment of each click."""
        value = self.config.market.replay.click_value
        for e, i in clicks:
            t, time = int(tick[e]), float(drawn.floats[TIME, e, i])
            click_id = t * ID_STRIDE + int(i)
            push.py_func(pool, e, t, time, int(EventKind.PURCHASE), click_id, 0, value, t)
            totals[e, ACCRUED] += value

    def truth(self, worlds: IntArray, tick: IntArray, drawn: Draw) -> FloatArray:
        """(5, E, M): logged click, 1, 0, click value, click value."""
        out = np.zeros((5, *drawn.floats.shape[1:]))
        out[0] = drawn.floats[P_CLICK]
        out[1] = 1.0
        out[3:] = self.config.market.replay.click_value
        return out

    def features(
        self, worlds: IntArray, drawn: Draw
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The one field (E, M, 1) and scene (E, M), all 0."""
        shape = drawn.floats.shape[1:]
        return np.zeros((*shape, 1), np.int32), np.zeros(shape, np.int32)

    def entity_features(
        self, world: int, user: IntArray, context: IntArray, item: IntArray
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The one field (C, 1) and scene (C,), all 0."""
        return np.zeros((user.size, 1), np.int32), np.zeros(user.size, np.int32)

    def list_prices(self, item: NDArray[np.int32]) -> FloatArray:
        """The click value for every impression (E, M), currency."""
        return np.full(item.shape, self.config.market.replay.click_value)

    def scenes(self, context: NDArray[np.int32]) -> NDArray[np.int32]:
        """All 0 (E, M)."""
        return np.zeros_like(context)

    def get_state(self) -> dict[str, np.ndarray]:
        """First rows of the worlds' episodes."""
        return {"first": self._first.copy()}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self._first = state["first"].copy()
