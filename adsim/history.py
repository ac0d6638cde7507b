"""What an agent is told before the campaign: its terms and a sample of past auctions."""

from collections.abc import Iterator, Sequence

import numpy as np

from adsim.kernels import PCTR, PRICE, VALUE, Draw
from adsim.rng import Stream, campaign_seeds, derive
from adsim.types import Campaign, FloatArray, PriceHistory, Targets
from adsim.world import World

_VISITED_TICKS = 48  # of the period before: its days and hours are all in it


def sample_history(world: World, seed: int, index: int = 0) -> PriceHistory:
    """Auctions of the period before the campaign, spread over its ticks.

    No controlled campaign bids in them. In a population market the whole period is played, so that
    the rivals' budgets and pacing have their effect on prices, and the world is left in need of a
    reset; elsewhere prices do not depend on what came before, and the world is left as it is.

    Args:
        world: what is played.
        seed: of the traffic of that period.
        index: which of the worlds.
    """
    return _sample_histories(world, seed, [index])[0]


def _sample_histories(world: World, seed: int, indices: Sequence[int]) -> list[PriceHistory]:
    """The same for several worlds; more than one must be campaigns that share their auctions."""
    wanted, source = world.config.campaign.history_auctions, world.source
    visits = min(_VISITED_TICKS, world.num_ticks, wanted)
    told = np.unique(np.linspace(0, world.num_ticks - 1, visits).astype(np.int64)).tolist()
    played = _played_ticks if world.config.market.kind == "population" else _drawn_ticks
    parts, weights = [np.zeros((len(indices), 3, 0))], [np.zeros(0)]
    with source.rehearsal(indices[0], seed):
        for drawn in played(world, indices[0], seed, told):
            count = int(drawn.filled[indices[0]])
            keep = np.linspace(0, count - 1, min(count, wanted // visits)).astype(np.int64)
            shown = drawn.floats[[PRICE, PCTR, VALUE]][:, indices]
            parts.append(shown[:, :, keep].swapaxes(0, 1))
            # A row stands for the auctions of its tick that are not told.
            weights.append(np.full(keep.size, count / max(keep.size, 1)))
    weight = np.concatenate(weights)
    return [_history(columns, weight) for columns in np.concatenate(parts, axis=2)]


def _history(columns: FloatArray, weight: FloatArray) -> PriceHistory:
    """The history of auctions with its averages; `columns` (3, H) are price, pCTR and value."""
    price, pctr, value = columns
    if not weight.size:
        return PriceHistory(price, weight, pctr, value, float("nan"), float("nan"))
    ctr = float(np.average(pctr, weights=weight))
    cpc = float(np.average(price, weights=weight)) / ctr if ctr > 0 else float("nan")
    return PriceHistory(price, weight, pctr, value, ctr, cpc)


def _drawn_ticks(world: World, index: int, seed: int, ticks: list[int]) -> Iterator[Draw]:
    """Impressions and prices of the given ticks, on scratch arrays."""
    seeds, tick = world.seeds.copy(), np.zeros_like(world.tick)
    seeds[index] = seed
    for tick[index] in ticks:
        drawn = world.empty_draw()
        world.source.draw(np.array([index]), seeds, tick, drawn)
        yield drawn


def _played_ticks(world: World, index: int, seed: int, ticks: list[int]) -> Iterator[Draw]:
    """The same after playing all ticks of a campaign that never bids."""
    rows = np.arange(world.num_worlds) if world.source.shared else np.array([index])
    no_bids = np.zeros((world.num_worlds, world.num_slots))
    world.reset(rows, campaign_seeds(seed, rows.size))
    for t in range(world.num_ticks if ticks else 0):
        drawn = world.drawn
        world.play(no_bids, rows)
        if t in ticks:
            yield drawn
    world.tick[index] = world.num_ticks


def episode_campaign(world: World, terms: Campaign, index: int = 0) -> Campaign:
    """The terms with the price history of a world's current episode.

    Constant rules are tuned on the history, so that its luck must vary between episodes as it
    would in reality. In a population market a period takes too long to play for every episode:
    there, and in a replay, the history is the same for all.
    """
    if world.config.market.kind != "landscape":
        return terms
    seed = derive(int(world.seeds[index]), Stream.HISTORY)
    return terms._replace(price_history=sample_history(world, seed, index))


def make_campaign(world: World) -> Campaign:
    """The terms of the controlled campaign, and a price history of its structure."""
    return make_campaigns(world, 1)[0]


def make_campaigns(world: World, count: int) -> list[Campaign]:
    """The terms of the first campaigns of a world, each with the price history of its structure."""
    logged = world.source.price_history
    if logged is not None:
        return [_terms(world, logged)] * count
    seed = derive(world.config.structure_seed, Stream.HISTORY)
    return [_terms(world, history) for history in _sample_histories(world, seed, range(count))]


def _terms(world: World, history: PriceHistory) -> Campaign:
    config = world.config
    terms, targets = config.campaign, config.campaign.targets
    traffic = world.source.expected_traffic.copy()
    for array in (traffic, *history[:4]):
        array.flags.writeable = False
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
        price_history=history,
        expected_traffic=traffic,
        max_bid=terms.max_bid,
        mechanism=config.market.mechanism,
        charge=config.market.charge,
    )
