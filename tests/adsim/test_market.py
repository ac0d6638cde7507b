import json

import numpy as np
import pytest
from scipy.stats import kstest, norm

from adsim.clearing import FIRST_PRICE, GSP, VCG
from adsim.config import WorldConfig
from adsim.kernels import PRICE, Draw
from adsim.market import (
    advertiser_budgets,
    check_slots,
    make_field,
    make_landscape,
    make_noise,
    mean_value_per_click,
    mechanism_code,
    rival_values,
)
from adsim.source import SyntheticSource
from adsim.structure import LATENT_DIM, NOISE_DIM, Structure

SMALL = {
    "num_users": 800,
    "num_contexts": 100,
    "user_cardinalities": (64, 16, 8, 4, 4, 4, 2),
    "context_cardinalities": (32, 16, 8, 4, 4, 4, 2),
    "items_per_advertiser": 3,
}
NUM_ADS = 7


def population(market=None, **numbers):
    """Config and structure of a small population market; `numbers` go to PopulationConfig."""
    market = {"kind": "population", **(market or {})}
    market["population"] = {"n_advertisers": NUM_ADS, **numbers}
    config = WorldConfig(entities=SMALL, market=market)
    return config, Structure(config, 4)


@pytest.mark.parametrize(
    ("name", "code"),
    [("first_price", FIRST_PRICE), ("second_price", GSP), ("gsp", GSP), ("vcg", VCG)],
)
def test_mechanism_code(name, code):
    assert mechanism_code(name) == code


def test_landscape_medians_are_the_configured_one_times_scene_factors():
    config = WorldConfig(entities=SMALL, market={"landscape": {"median": 0.2, "second_ratio": 2.5}})
    structure = Structure(config, 0)
    land = make_landscape(config, structure)
    np.testing.assert_allclose(np.exp(land.log_median - structure.scene_price), 0.2, rtol=1e-12)
    assert land.log_median.shape == (4,)
    assert land.values.size == 0
    assert land.second_log_ratio == pytest.approx(np.log(2.5))


def test_scene_price_factors_have_the_configured_sd():
    # 30 structures x 4 scenes: the relative standard error of an sd is 1 / sqrt(240) = 6.5 %.
    config = WorldConfig(entities=SMALL, market={"landscape": {"scene_sd": 0.5}})
    factors = [Structure(config, seed).scene_price for seed in range(30)]
    assert np.std(factors) == pytest.approx(0.5, rel=0.26)


def prices(**landscape):
    """Prices to beat of about 20 000 impressions."""
    config = WorldConfig(
        entities=SMALL,
        time={"num_ticks": 4},
        traffic={"impressions_per_tick": 20_000.0, "profile": "flat"},
        market={"landscape": landscape},
    )
    source = SyntheticSource(config, 1)
    world, seeds = np.array([0]), np.array([6], dtype=np.uint64)
    source.reset(world, seeds)
    shape = (1, source.num_slots)
    out = Draw(np.zeros((9, *shape)), np.zeros((3, *shape), np.int32), np.zeros(1, np.int64))
    source.draw(world, seeds, np.array([2]), out)
    return out.floats[PRICE, 0, : int(out.filled[0])], out, source


@pytest.mark.parametrize("share", [0.0, 0.35, 1.0])
def test_prices_follow_the_mixture(share):
    plain = {"scene_sd": 0.0, "quality_slope": 0.0, "hour_amplitude": 0.0}
    found, _, _ = prices(median=0.1, log_sd=0.4, second_share=share, second_ratio=3.0, **plain)

    def mixture_cdf(x):
        first = norm.cdf((np.log(x) - np.log(0.1)) / 0.4)
        second = norm.cdf((np.log(x) - np.log(0.3)) / 0.9)
        return (1 - share) * first + share * second

    assert kstest(found, mixture_cdf).pvalue > 1e-3


def test_prices_rise_with_the_quality_of_the_traffic():
    # All spread off: log price = log median + slope x (CTR and CVR effects of user and context).
    flat = {"log_sd": 0.0, "second_share": 0.0, "scene_sd": 0.0, "hour_amplitude": 0.0}
    found, out, source = prices(median=0.1, quality_slope=0.7, **flat)
    tables, n = source.structures[0].tables(0), found.size
    main = tables.user[out.ints[0, 0, :n], :2] + tables.context[out.ints[1, 0, :n], :2]
    np.testing.assert_allclose(np.log(found / 0.1), 0.7 * main.sum(axis=1), rtol=1e-4, atol=1e-5)


def test_price_counts_replace_the_mixture(tmp_path):
    # Winning prices 0..300 of the training log: 0 once, 2 three times, 5 six times.
    histogram = [1, 0, 3, 0, 0, 6, *(0,) * 295]
    totals = {"imp_train": 10, "cost_train": 36, "clk_train": 2}
    path = tmp_path / "info.json"
    path.write_text(json.dumps({"price_counter_train": histogram, **totals}))
    found, _, _ = prices(price_counts=str(path), price_scale=0.01)
    values, counts = np.unique(found, return_counts=True)
    np.testing.assert_allclose(values, [0.0, 0.02, 0.05], rtol=1e-12)
    # Shares .1, .3, .6 of about 20 000: standard errors below .0035.
    np.testing.assert_allclose(counts / found.size, [0.1, 0.3, 0.6], atol=0.014)


def test_noise_is_the_configured_one():
    noise = {"ctr_sd": 0.1, "cvr_sd": 0.2, "high_factor": 3.0, "high_share": 0.4}
    assert make_noise(WorldConfig(platform_noise=noise)) == (0.1, 0.2, 3.0, 0.4)


def test_mean_value_per_click_by_hand():
    # No spread: margin .5 x CVR .1 x (1 - .2) x list price 50 x basket. Basket: half of the
    # buyers buy once at list price (1), half buy 2 first and then 3 / (1 - .25) = 4 later.
    config = WorldConfig(
        entities=SMALL,
        campaign={"margin": 0.5},
        conversion={"cvr": 0.1},
        refund={"rate": 0.2},
        effects={"amount": {"sd": 0.0}},
        purchase={
            **{"list_price": 50.0, "list_price_sd": 0.0, "repurchase_rate": 0.5},
            **{"continuation": 0.25, "first_log_sd": 0.0, "later_log_sd": 0.0},
            **{"exact_share": 0.3, "single_log_ratio": 0.0, "first_log_ratio": np.log(2.0)},
            "later_log_ratio": np.log(3.0),
        },
    )
    basket = 0.5 * 1.0 + 0.5 * (2.0 + 4.0)
    expected = 0.5 * 0.1 * 0.8 * 50.0 * basket
    assert mean_value_per_click(config, Structure(config, 0)) == pytest.approx(expected, rel=1e-9)


def test_rival_values_lie_in_the_range():
    config, structure = population(value_range=(0.5, 2.0))
    ratio = rival_values(config, structure) / mean_value_per_click(config, structure)
    np.testing.assert_allclose(ratio, 0.5 * 4.0 ** structure.rival_draws[0], rtol=1e-9)
    assert ((ratio >= 0.5) & (ratio <= 2.0)).all()


def test_rival_values_from_a_cpa_range():
    # Value of a conversion uniform in (20, 60), per click x CVR .066.
    config, structure = population(cpa_range=(20.0, 60.0))
    expected = (20.0 + 40.0 * structure.rival_draws[0]) * 0.066
    np.testing.assert_allclose(rival_values(config, structure), expected, rtol=1e-12)


def test_budgets_lie_in_the_range_and_ours_is_first():
    config, structure = population(budget_range=(100.0, 300.0))
    budgets = advertiser_budgets(config, structure)
    assert budgets.shape == (NUM_ADS,)
    assert budgets[0] == config.campaign.budget
    np.testing.assert_allclose(budgets[1:], 100.0 + 200.0 * structure.rival_draws[1, 1:])


def test_budgets_do_not_change_the_structure():
    config, structure = population()
    before = structure.rival_draws.copy()
    advertiser_budgets(config, structure)
    rival_values(config, structure)
    np.testing.assert_array_equal(structure.rival_draws, before)


def test_field_holds_item_p_of_advertiser_a_at_p_a():
    config, structure = population()
    tables = structure.tables(1)
    field = make_field(config, structure, tables)
    worth = rival_values(config, structure)
    assert field.base.shape == field.value_per_click.shape == (3, NUM_ADS)
    assert field.weight.shape == (4, 3, LATENT_DIM, NUM_ADS)
    for a in range(NUM_ADS):
        for p in range(3):
            item = 3 * a + p  # catalogues follow each other
            assert field.base[p, a] == tables.item[item, 0]
            expected = worth[a] * np.exp(np.clip(tables.item[item, 1], -3, 3))
            assert field.value_per_click[p, a] == pytest.approx(expected, rel=1e-6)
            np.testing.assert_array_equal(field.weight[:, p, :, a], tables.weight[item, :, :8])


def test_rival_noise_has_the_configured_sd():
    # error = sum of 2 x 3 products of independent N(0, 1), each of variance sd^2 / 6: averaged
    # over 300 advertisers the relative standard error of the variance is below 10 %.
    config = WorldConfig(
        entities=SMALL,
        market={"kind": "population", "population": {"n_advertisers": 300, "noise_sd": 0.4}},
    )
    structure = Structure(config, 1)
    noise = make_field(config, structure, structure.tables(0)).noise
    assert noise.shape == (2 * NOISE_DIM, 300)
    assert not noise[:, 0].any()  # the controlled campaign bids without it
    user, context = structure.user_noise, structure.context_noise
    errors = user[:, None] @ noise[:3] + (context @ noise[3:])[:800, None].mean(axis=0)
    variance = errors[:, 0, 1:].var(axis=0).mean() * 2  # users carry half
    assert variance == pytest.approx(0.4**2, rel=0.2)


def test_check_slots_returns_the_exposures():
    config, _ = population({"mechanism": "gsp", "exposure": (1.0, 0.7, 0.2)})
    assert check_slots(config).tolist() == [1.0, 0.7, 0.2]


def test_check_slots_with_too_many_raises():
    market = {"kind": "population", "mechanism": "gsp", "exposure": (1.0,) * 9}
    with pytest.raises(ValueError, match=r"market.exposure has 9 slots: at most 8"):
        check_slots(WorldConfig(market=market))
