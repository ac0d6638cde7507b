"""The one door to privileged knowledge: exact expectations, prices to beat, the hindsight bound."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from adsim.kernels import PRICE
from adsim.scores import Knapsack, fractional_knapsack
from adsim.types import FloatArray

if TYPE_CHECKING:
    from adsim.world import World


class Truth(NamedTuple):
    """Expectations given what is observable; the unseen intent is integrated out."""

    p_click: FloatArray  # (M,) if shown
    p_convert: FloatArray  # (M,) given a click
    p_refund: FloatArray  # (M,) of the first purchase, given a conversion
    gmv: FloatArray  # (M,) expected GMV of a click, currency
    net_gmv: FloatArray  # (M,) expected GMV - refunds of a click, currency
    net_value: FloatArray  # (M,) margin x p_click x net_gmv: of a shown impression, currency


class EpisodeMarket(NamedTuple):
    """All auctions of an episode: expectations of winning each of them."""

    value: FloatArray  # (N,) net value before the price, currency
    cost: FloatArray  # (N,) what winning costs at the price to beat, currency
    clicks: FloatArray  # (N,) clicks
    kept: FloatArray  # (N,) conversions that are not refunded


class Oracle:
    """Privileged view of one world.

    Args:
        world: the simulated worlds.
        index: which one.
    """

    def __init__(self, world: "World", index: int = 0) -> None:
        self._world, self._index = world, index
        self._bound: Knapsack | None = None
        self._bound_seed = -1

    def truth(self) -> Truth:
        """Exact expectations of the current tick; padding is 0."""
        world, rows = self._world, np.array([self._index])
        values = world.source.truth(rows, world.tick, world.drawn)[:, self._index]
        margin = world.config.campaign.margin
        p_click, p_convert, p_refund, gmv, net_gmv = values
        net_value = margin * p_click * net_gmv
        return Truth(p_click, p_convert, p_refund, gmv, net_gmv, net_value)

    def expected_net_value(self) -> FloatArray:
        """Margin x E[net GMV] of each impression if shown (M,), currency."""
        return self.truth().net_value

    def click_probability(self) -> FloatArray:
        """P(click) of each impression if shown (M,)."""
        return self.truth().p_click

    def price_to_beat(self) -> FloatArray:
        """Highest competing bid of each auction of the current tick (M,), currency.

        NaN in a population market, where it depends on the bids still to come.
        """
        world = self._world
        if world.config.market.kind == "population":
            return np.full(world.num_slots, np.nan)
        reserve = world.config.market.reserve
        return np.maximum(world.drawn.floats[PRICE, self._index], reserve)

    def hindsight(self) -> Knapsack:
        """The fractional knapsack on exact expectations at the episode's prices.

        Maximises expected net value under the budget, knowing every price in advance: the bound
        of every campaign on this seed (in expectation if charged per click, or if an ad may not be
        seen). In a population market rivals react to the bids: the
        prices are those recorded in the run so far, with one slot only.

        Raises:
            ValueError: population market without recorded prices, or with several slots.
        """
        world = self._world
        if world.config.market.kind == "population":
            return self._recorded_bound()
        seed = int(world.seeds[self._index])
        if self._bound is None or self._bound_seed != seed:
            self._bound, self._bound_seed = self._planned_bound(), seed
        return self._bound

    def hindsight_multiplier(self) -> float:
        """lambda* of the bound: the best constant bid is v / (1 + lambda*).

        Raises:
            ValueError: population market, where prices are not known in advance.
        """
        if self._world.config.market.kind == "population":
            raise ValueError(
                "the hindsight multiplier is not known in advance in a population market, whose "
                "prices depend on the bids: use a landscape or a replay"
            )
        return self.hindsight().multiplier

    def episode_market(self) -> EpisodeMarket:
        """All auctions of the episode, known in advance: drawn ahead, on scratch arrays.

        Raises:
            ValueError: population market, whose prices depend on the bids.
        """
        world, rows = self._world, np.array([self._index])
        config = world.config
        if config.market.kind == "population":
            raise ValueError("the auctions of a population market are not known in advance")
        exposure = float(np.max(config.market.exposure))  # of the one slot there is
        tick, parts = world.tick.copy(), []
        for t in range(world.num_ticks):
            drawn = world.empty_draw()
            tick[self._index] = t
            world.source.draw(rows, world.seeds, tick, drawn)
            n = int(drawn.filled[self._index])
            p_click, p_convert, p_refund, _, net_gmv = world.source.truth(rows, tick, drawn)[
                :, self._index, :n
            ]
            price = np.maximum(drawn.floats[PRICE, self._index, :n], config.market.reserve)
            cost = world.cost_ratio(drawn, self._index) * price
            kept = p_click * p_convert * (1.0 - p_refund)
            value = config.campaign.margin * p_click * net_gmv
            parts.append(np.stack([value, cost, p_click, kept]))
        return EpisodeMarket(*(exposure * np.concatenate(parts, axis=1)))

    def _planned_bound(self) -> Knapsack:
        market = self.episode_market()
        return fractional_knapsack(market.value, market.cost, self._world.config.campaign.budget)

    def _recorded_bound(self) -> Knapsack:
        world, recorded = self._world, self._world.recorded[self._index]
        if len(world.config.market.exposure) > 1:
            raise ValueError("hindsight in a population market is defined for one slot only")
        if not recorded.price or len(recorded.price) < world.tick[self._index]:
            raise ValueError(
                "hindsight in a population market needs the prices of every tick so far: "
                "build the world with record_prices=True"
            )
        net_gmv, prices, ratio = (np.concatenate(part) for part in recorded)
        return self._solve(net_gmv, prices[:, 0], ratio)

    def _solve(self, net_gmv: FloatArray, prices: FloatArray, ratio: FloatArray) -> Knapsack:
        """Value and cost of winning each auction, given that the ad is seen."""
        config = self._world.config
        exposure = float(np.max(config.market.exposure))  # of the one slot there is
        value = config.campaign.margin * exposure * net_gmv
        cost = exposure * ratio * np.maximum(prices, config.market.reserve)
        return fractional_knapsack(value, cost, config.campaign.budget)
