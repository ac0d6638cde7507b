import numpy as np
import pytest

from adsim.types import PriceHistory
from agents.history import (
    Landscape,
    bisect,
    expected_spend,
    landscape,
    spend_elasticity,
    tuned_log_multiplier,
)

# four equally likely auctions; v / w = 4, 2, 4/3, 1/2
MARKET = Landscape(
    np.array([1.0, 2.0, 3.0, 4.0]),
    np.full(4, 0.25),
    np.array([4.0, 4.0, 4.0, 2.0]),
    np.full(4, 0.1),
)


def test_expected_spend_by_hand():
    # bids of 3 win the first three: second price (1 + 2 + 3) / 4, first price 9 / 4
    bid = np.array([3.0, 3.0, 3.0, 3.0])
    assert expected_spend(bid, MARKET, "second_price") == pytest.approx(1.5)
    assert expected_spend(bid, MARKET, "first_price") == pytest.approx(2.25)


def test_bisect_finds_where_a_falling_curve_meets_its_target():
    assert bisect(lambda x: 10.0 - x, 4.0, 0.0, 10.0) == pytest.approx(6.0)
    assert bisect(lambda x: 10.0 - x, 20.0, 0.0, 10.0) == 0.0


def test_tuned_multiplier_is_the_ratio_of_the_first_auction_that_is_too_much():
    # mean spend 0.75 buys auctions 1 and 2 but not 3: multiplier just below 3 / 4 = w / v of 3
    tuned = tuned_log_multiplier(MARKET, 0.75, "second_price", lambda x: x * MARKET.value)
    assert np.exp(tuned) == pytest.approx(0.75)


def test_tuned_multiplier_is_one_where_the_budget_does_not_bind():
    # value bidding spends (1 + 2 + 3) / 4 = 1.5
    assert tuned_log_multiplier(MARKET, 1.5, "second_price", lambda x: x * MARKET.value) == 0.0


def test_elasticity_of_a_proportional_market_is_one():
    # prices uniform on (0, 1): spend of a constant bid b is b^2 / 2, elasticity 2
    price = (np.arange(10_000) + 0.5) / 10_000
    market = Landscape(price, np.full(10_000, 1e-4), np.ones(10_000), np.ones(10_000))
    elasticity = spend_elasticity(market, np.log(0.5), "second_price", lambda x: x * market.value)
    assert elasticity == pytest.approx(2.0, rel=0.01)


def test_landscape_keeps_rows_of_known_value(market):
    history = PriceHistory(
        np.array([1.0, 2.0]), np.array([3.0, 1.0]), np.full(2, 0.1), np.array([5.0, np.nan]), 0.1, 1
    )
    rows = landscape(market.campaign(history=history), market.observation([1.0]))
    assert rows.price.tolist() == [1.0]
    assert rows.weight.tolist() == [1.0]


def test_landscape_rescales_to_the_agents_own_values(market):
    history = PriceHistory(np.ones(1), np.ones(1), np.full(1, 0.1), np.array([5.0]), 0.1, 1.0)
    obs = market.observation(np.ones(40)) | {"expected_net_value": np.full(40, 0.5)}
    assert landscape(market.campaign(history=history), obs).value == pytest.approx([2.5])


def test_landscape_crosses_prices_with_the_values_at_hand(market):
    unknown = np.full(2, np.nan)
    history = PriceHistory(np.array([1.0, 2.0]), np.array([3.0, 1.0]), unknown, unknown, 0.1, 1.0)
    rows = landscape(market.campaign(history=history), market.observation([6.0, 4.0]))
    assert rows.price.tolist() == [1.0, 2.0, 1.0, 2.0]
    assert rows.value == pytest.approx([4.0, 4.0, 6.0, 6.0])
    assert rows.weight == pytest.approx([0.375, 0.125, 0.375, 0.125])


def test_landscape_takes_the_average_ctr_where_one_impression_is_at_hand(market):
    unknown = np.full(1, np.nan)
    history = PriceHistory(np.ones(1), np.ones(1), unknown, unknown, 0.02, 1.0)
    # value per click 5 / 0.5 = 10, at the average CTR 0.2
    rows = landscape(market.campaign(history=history), market.observation([5.0], pctr=0.5))
    assert rows.value == pytest.approx([0.2])


def test_landscape_without_history_is_empty(market):
    assert len(landscape(market.campaign(), market.observation([1.0])).price) == 0


def test_landscape_compresses_long_price_lists(market):
    price = np.random.default_rng(0).exponential(1.0, 5000)
    unknown = np.full(5000, np.nan)
    history = PriceHistory(price, np.ones(5000), unknown, unknown, 0.1, 1.0)
    rows = landscape(market.campaign(history=history), market.observation(np.arange(1.0, 101.0)))
    assert len(rows.price) == 512 * 64
    assert np.sum(rows.weight * rows.price) == pytest.approx(price.mean(), rel=0.01)
