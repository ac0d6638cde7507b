"""What an agent is told before the campaign: its terms and a sample of past auctions."""

import numpy as np

from adsim.kernels import PCTR, PRICE, VALUE
from adsim.rng import Stream, derive
from adsim.types import Campaign, PriceHistory, Targets
from adsim.world import World


def sample_history(world: World) -> PriceHistory:
    """Auctions of an earlier campaign period of the same structure, spread over its ticks.

    The controlled campaign does not bid in it. In a population market the whole period is played,
    so that the rivals' budgets and pacing have their effect on prices; elsewhere prices do not
    depend on what came before. The world is left in need of a reset.
    """
    config, first = world.config, np.array([0])
    wanted, mean = config.campaign.history_auctions, max(world.source.expected_traffic.mean(), 1.0)
    visits = min(max(round(wanted / mean), 1), world.num_ticks) if wanted else 0
    told = np.unique(np.linspace(0, world.num_ticks - 1, visits).astype(np.int64))
    population = config.market.kind == "population"
    no_bids = np.zeros((world.num_worlds, world.num_slots))
    parts, weights = [np.zeros((3, 0))], [np.zeros(0)]
    world.reset(first, [derive(config.structure_seed, Stream.HISTORY)])
    for tick in range(world.num_ticks) if population and wanted else told:
        if not population:
            world.tick[0] = tick
            world.redraw(first)
        drawn, count = world.drawn, int(world.drawn.filled[0])
        if population:
            world.play(no_bids, first)
        if tick not in told:
            continue
        keep = np.linspace(0, count - 1, min(count, max(wanted // visits, 1))).astype(np.int64)
        parts.append(drawn.floats[[PRICE, PCTR, VALUE], 0][:, keep])
        # A row stands for the auctions of its tick that are not told.
        weights.append(np.full(keep.size, count / max(keep.size, 1)))
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
