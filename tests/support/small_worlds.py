"""Configuration keys of a world so small that a test plays it in milliseconds."""

import json

SMALL_WORLD = {
    "platform_noise.ctr_sd": 0.0,
    "platform_noise.cvr_sd": 0.0,
    "market.landscape.quality_slope": 0.3,
    "time.num_ticks": 8,
    "time.tick_hours": 12.0,
    "traffic.impressions_per_tick": 30,
    "traffic.slots_per_tick": 128,
    "entities.num_users": 200,
    "entities.num_contexts": 64,
    "click.ctr": 0.4,
    "conversion.cvr": 0.5,
    "campaign.budget": 300.0,
    "campaign.history_auctions": 100,
    "market.landscape.median": 4.0,
    "market.population.n_advertisers": 5,
    "market.population.budget_range": [50.0, 400.0],
    "market.population.value_range": [0.02, 0.2],
}


def write_scenario(path, **more):
    """A small scenario file."""
    keys = {**SMALL_WORLD, "campaign.budget": 150.0, **more}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("[world]\n" + "\n".join(lines))
    return str(path)
