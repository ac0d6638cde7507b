"""Competition: the price landscape, or a population of rival advertisers."""

import numpy as np

from adsim.clearing import FIRST_PRICE, GSP, MAX_SLOTS, VCG, Field
from adsim.config import WorldConfig
from adsim.datasets.ipinyou import read_info
from adsim.effects import Alias, alias_table
from adsim.kernels import Landscape, Noise
from adsim.structure import LATENT_DIM, NOISE_DIM, Structure, Tables
from adsim.types import FloatArray

_NO_ALIAS = Alias(np.zeros(0, np.uint32), np.zeros(0, np.int32))


def mechanism_code(name: str) -> int:
    """The compiled loops' code of a payment rule; second price is GSP with one slot."""
    return {"first_price": FIRST_PRICE, "second_price": GSP, "gsp": GSP, "vcg": VCG}[name]


def make_landscape(config: WorldConfig, structure: Structure) -> Landscape:
    """The distribution of the price to beat; empty unless the market is a landscape."""
    land = config.market.landscape
    values, counts = np.zeros(0), _NO_ALIAS
    medians = np.zeros(0)
    if config.market.kind == "landscape":
        medians = np.log(land.median) + structure.scene_price
        if land.price_counts is not None:
            histogram = read_info(land.price_counts).price_counts
            values = land.price_scale * np.flatnonzero(histogram).astype(np.float64)
            counts = alias_table(histogram[histogram > 0].astype(np.float64))
    return Landscape(
        medians,
        land.log_sd,
        land.second_share,
        float(np.log(land.second_ratio)),
        land.second_log_sd,
        land.quality_slope,
        values,
        counts,
    )


def make_noise(config: WorldConfig) -> Noise:
    """The platform's estimation noise."""
    noise = config.platform_noise
    return Noise(noise.ctr_sd, noise.cvr_sd, noise.high_factor, noise.high_share)


def mean_value_per_click(config: WorldConfig, structure: Structure) -> float:
    """Rough mean of margin x E[net GMV | click], currency: the scale of rivals' values.

    Free choice: independent factors at their means; only the rivals' scale depends on it.
    """
    purchase = config.purchase
    spread = config.effects.amount.sd**2
    single, first = (
        np.exp(m + 0.5 * (spread + purchase.first_log_sd**2))
        for m in (purchase.single_log_ratio, purchase.first_log_ratio)
    )
    later = np.exp(purchase.later_log_ratio + 0.5 * (spread + purchase.later_log_sd**2))
    exact, again = purchase.exact_share, purchase.repurchase_rate
    baskets = (1 - again) * (exact + (1 - exact) * single) + again * (
        first + later / (1 - purchase.continuation)
    )
    prices = structure.list_price[: config.entities.items_per_advertiser]
    list_price = float(np.average(prices, weights=structure.item_weights))
    kept = config.conversion.cvr * (1 - config.refund.rate)
    return float(config.campaign.margin * kept * baskets * list_price)


def rival_values(config: WorldConfig, structure: Structure) -> FloatArray:
    """Mean value per click of each advertiser (A,), currency."""
    population = config.market.population
    u = structure.rival_draws[0]
    if population.cpa_range is not None:
        low, high = population.cpa_range
        return (low + (high - low) * u) * config.conversion.cvr
    low, high = np.log(population.value_range)
    return mean_value_per_click(config, structure) * np.exp(low + (high - low) * u)


def advertiser_budgets(config: WorldConfig, structure: Structure) -> FloatArray:
    """Budgets (A,), currency; the controlled campaign's is first."""
    low, high = config.market.population.budget_range
    budgets = low + (high - low) * structure.rival_draws[1]
    budgets[0] = config.campaign.budget
    return budgets


def make_field(config: WorldConfig, structure: Structure, tables: Tables) -> Field:
    """The advertisers' tables in the layout of the clearing loop."""
    num_ads = config.market.population.n_advertisers
    positions = config.entities.items_per_advertiser
    scenes = config.entities.num_scenes
    weight = tables.weight[:, :, :LATENT_DIM].reshape(num_ads, positions, scenes, LATENT_DIM)
    noise = structure.rival_noise * config.market.population.noise_sd / np.sqrt(2 * NOISE_DIM)
    noise[:, 0] = 0.0
    worth = rival_values(config, structure)[:, None] * np.exp(
        tables.item[:, 1].reshape(num_ads, positions).clip(-3, 3)
    )
    return Field(
        np.ascontiguousarray(tables.item[:, 0].reshape(num_ads, positions).T),
        np.ascontiguousarray(weight.transpose(2, 1, 3, 0)),
        noise.astype(np.float32),
        np.ascontiguousarray(worth.T.astype(np.float32)),
    )


def check_slots(config: WorldConfig) -> FloatArray:
    """Slot exposures (S,).

    Raises:
        ValueError: more slots than the clearing loop supports.
    """
    exposure = np.array(config.market.exposure)
    if exposure.size > MAX_SLOTS:
        raise ValueError(f"market.exposure has {exposure.size} slots: at most {MAX_SLOTS}")
    return exposure
