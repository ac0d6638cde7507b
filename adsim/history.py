"""What an agent is told before the campaign: its terms and a sample of past auctions."""

import numpy as np

from adsim.kernels import PCTR, PRICE, VALUE
from adsim.rng import Stream, derive
from adsim.types import Campaign, PriceHistory, Targets
from adsim.world import World


def sample_history(world: World) -> PriceHistory:
    """Auctions of an earlier week of the same structure, spread over its ticks.

    The controlled campaign does not bid in them. In a population market the ticks are visited
    with full rival budgets, so prices are those of rivals who are not yet short of money.
    The world is left in need of a reset.
    """
    config = world.config
    wanted, mean = config.campaign.history_auctions, max(world.source.expected_traffic.mean(), 1.0)
    visits = min(max(round(wanted / mean), 1), world.num_ticks) if wanted else 0
    ticks = np.linspace(0, world.num_ticks - 1, visits).astype(np.int64)
    first = np.array([0])
    seed = derive(config.structure_seed, Stream.HISTORY)
    parts, weights = [np.zeros((3, 0))], [np.zeros(0)]
    for tick in ticks:
        world.reset(first, [seed])
        world.tick[0] = tick
        world.redraw(first)
        drawn, count = world.drawn, int(world.drawn.filled[0])
        if config.market.kind == "population":
            world.play(np.zeros((world.num_worlds, world.num_slots)), first)
        keep = min(count, max(wanted // max(visits, 1), 1))
        parts.append(drawn.floats[[PRICE, PCTR, VALUE], 0, :keep])
        # A tick stands for all its auctions, of which `keep` are told.
        weights.append(np.full(keep, count / max(keep, 1)))
    world.tick[0] = world.num_ticks
    price, pctr, value = np.concatenate(parts, axis=1)
    weight = np.concatenate(weights)
    if not weight.size:
        return PriceHistory(price, weight, pctr, value, float("nan"), float("nan"))
    ctr = float(np.average(pctr, weights=weight))
    cpc = float(np.average(price, weights=weight)) / ctr if ctr > 0 else float("nan")
    return PriceHistory(price, weight, pctr, value, ctr, cpc)


def make_campaign(world: World) -> Campaign:
    """The terms of the controlled campaign, and its price history."""
    config = world.config
    terms, targets = config.campaign, config.campaign.targets
    history = getattr(world.source, "price_history", None)
    return Campaign(
        budget=terms.budget,
        num_ticks=world.num_ticks,
        tick_hours=config.time.tick_hours,
        margin=terms.margin,
        targets=Targets(
            cpc=targets.cpc or float("inf"),
            net_cpa=targets.net_cpa or float("inf"),
            net_roas=targets.net_roas or 0.0,
        ),
        price_history=history if history is not None else sample_history(world),
        expected_traffic=world.source.expected_traffic.copy(),
        max_bid=terms.max_bid,
        mechanism=config.market.mechanism,
        charge=config.market.charge,
    )
