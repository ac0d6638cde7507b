"""What a tick brings to E worlds, and what a run keeps for the hindsight bound."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from adsim.feedback import Released
from adsim.types import AuctionResult, BoolArray, EventBatch, FloatArray


class TickOutcome(NamedTuple):
    """What a tick brought to E worlds; rows of worlds that did not play are empty."""

    won: BoolArray  # (E, M)
    price: FloatArray  # (E, M) inf where not revealed
    clicked: BoolArray  # (E, M)
    slot: NDArray[np.int8]  # (E, M)
    seen: Released  # events of all worlds, ordered by world
    counted: FloatArray  # (4, E) purchases, their amount, refunds, their amount
    wins: FloatArray  # (E,)
    spend: FloatArray  # (E,)
    reward: FloatArray  # (E,)
    credit: FloatArray  # (2, E) credited for the tick's clicks, and corrected; 0 unless estimated
    done: BoolArray  # (E,)

    def result(self, world: int) -> AuctionResult:
        """What world `world` learned of its auctions."""
        return AuctionResult(
            self.won[world], self.price[world], self.clicked[world], self.slot[world]
        )

    def events(self, world: int, tick: int) -> EventBatch:
        """The events that world `world` saw in `tick`."""
        seen = self.seen
        if not seen.world.size:
            return EventBatch(seen.world, *seen[1:6])
        start, stop = np.searchsorted(seen.world, [world, world + 1])
        part = slice(start, stop)
        return EventBatch(
            np.full(stop - start, tick),
            *(seen.time_hours[part], seen.kind[part], seen.click_id[part]),
            *(seen.order_id[part], seen.amount[part]),
        )


class Recorded(NamedTuple):
    """What the hindsight bound of a population market needs; one array per played tick."""

    net_gmv: list[FloatArray]  # (n,) expected net GMV of each impression if shown, currency
    price: list[FloatArray]  # (n, S) highest rival scores of its auction, currency
    ratio: list[FloatArray]  # (n,) expected cost of winning over the price to beat
