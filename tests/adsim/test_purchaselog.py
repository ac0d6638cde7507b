import numpy as np
import pytest
from scipy.stats import norm

from adsim.checks import find_difference
from adsim.clicklog import MISSING, generate
from adsim.config import ShockConfig, WorldConfig
from adsim.effects import stretch
from adsim.funnel import make_funnel, several_rate
from adsim.purchaselog import generate_purchases
from adsim.structure import Structure

HOUR, DAY = 3_600, 86_400


def config(**sections):
    base = {
        "time": {"num_ticks": 96, "tick_hours": 1.0},
        "traffic": {"impressions_per_tick": 300.0},
        "effects": {"click": {"sd": 0.0}},
        "conversion": {"cvr": 0.5},
        "purchase": {"continuation": 0.5},
    }
    return WorldConfig(**(base | sections))


@pytest.fixture(scope="module")
def log():
    return generate_purchases(config(), 3)


def gmv(log):
    return np.add.reduceat(log.amount, log.offset[:-1])


def click_of(log):
    """The click of every purchase, (P,)."""
    return np.repeat(np.arange(log.click_time.size), np.diff(log.offset))


def assert_sum(found, chance, variance):
    """Independent outcomes add up to their expectations within 4 standard deviations."""
    assert abs(found.sum() - chance.sum()) < 4 * np.sqrt(variance)


def test_every_click_has_its_purchases_in_order(log):
    number = np.diff(log.offset)
    assert (log.offset[0], log.offset[-1]) == (0, log.amount.size)
    assert (number.min(), number.max()) == (1, 8)
    assert log.purchase_time.size == log.refund_time.size == log.amount.size
    assert (np.diff(log.click_time) >= 0).all()
    assert 0 <= log.click_time[0] <= log.click_time[-1] < 4 * DAY
    same = np.diff(click_of(log)) == 0
    assert (np.diff(log.purchase_time)[same] >= 0).all()
    assert log.features.shape == (log.click_time.size, len(log.cardinalities))
    assert (log.features.max(axis=0) < log.cardinalities).all()
    assert (log.amount > 0).all()


def test_events_come_before_the_end_of_their_windows(log):
    delay = log.purchase_time - log.click_time[click_of(log)]
    assert 0 <= delay.min() <= delay.max() < 7 * DAY
    first = delay[log.offset[:-1]]
    assert 2.5 * DAY < first.max() < 3 * DAY
    assert delay.max() > 6 * DAY  # later purchases come up to the end of the GMV window
    returned = log.refund_time != MISSING
    lag = (log.refund_time - log.purchase_time)[returned]
    assert 0 <= lag.min() <= lag.max() < 3 * DAY
    # The mean rate of the configuration is that of first purchases; of all it is about the same.
    assert returned.mean() == pytest.approx(0.245, abs=0.04)


def test_a_delay_that_rounds_up_to_the_window_stays_below_it():
    # All first purchases in the last instant of a window of the same length as the other.
    late = {"cvr": 0.5, "delay": [(168.0 - 1e-10, 1e-12), (168.0, 1.0)]}
    windows = {"conversion_hours": 168.0}
    short = {"num_ticks": 3, "tick_hours": 1.0}
    log = generate_purchases(config(time=short, conversion=late, windows=windows), 0)
    delay = log.purchase_time - log.click_time[click_of(log)]
    assert set(delay.tolist()) == {7 * DAY - 1}


def test_converted_clicks_are_those_of_the_click_log(log):
    clicks = generate(config(), 3)
    bought = clicks.conversion_time != MISSING
    np.testing.assert_array_equal(log.click_time, clicks.click_time[bought])
    np.testing.assert_array_equal(log.features, clicks.features[bought])
    first = log.offset[:-1]
    np.testing.assert_array_equal(log.purchase_time[first], clicks.conversion_time[bought])
    np.testing.assert_array_equal(log.refund_time[first], clicks.refund_time[bought])


def test_outcomes_agree_with_the_truth(log):
    several = np.diff(log.offset) > 1
    assert_sum(several, log.p_repurchase, (log.p_repurchase * (1 - log.p_repurchase)).sum())
    total = gmv(log)
    assert_sum(total, log.gmv_truth, ((total - log.gmv_truth) ** 2).sum())
    kept = np.add.reduceat(log.amount * (log.refund_time == MISSING), log.offset[:-1])
    assert_sum(kept, log.net_gmv_truth, ((kept - log.net_gmv_truth) ** 2).sum())
    # Refunds do not depend on amounts here: net GMV is about 1 - .245 of GMV, click by click less.
    assert (log.net_gmv_truth < log.gmv_truth).all()
    assert kept.sum() / total.sum() == pytest.approx(0.755, abs=0.04)
    assert several.mean() == pytest.approx(0.5355, abs=0.05)
    # It tells clicks apart: those of the highest quarter buy again more often and spend more.
    order = np.argsort(log.p_repurchase)
    low, high = order[: order.size // 4], order[-(order.size // 4) :]
    assert several[high].mean() > several[low].mean() + 0.4


def test_truth_of_repurchase_by_integration():
    # Intent moves both rates: P(several | convert) = E[buy x several] / E[buy].
    effects = {"unseen_intent_conversion": 0.8, "unseen_intent_repurchase": 0.6}
    law = make_funnel(WorldConfig(effects=effects))
    e = np.linspace(-9, 9, 20_001)
    weights = norm.pdf(e)
    buy, several = 1 / (1 + np.exp(1.0 - 0.8 * e)), 1 / (1 + np.exp(-0.2 - 0.6 * e))
    expected = (weights * buy * several).sum() / (weights * buy).sum()
    assert several_rate(law, -1.0, 0.2) == pytest.approx(expected, rel=1e-6)
    single = make_funnel(WorldConfig(purchase={"max_purchases": 1}))
    assert several_rate(single, -1.0, 0.2) == 0.0
    assert several_rate(law, -1.0, -np.inf) == 0.0


def test_first_purchases_differ_from_later_ones_as_configured():
    purchase = {"first_log_ratio": -0.5, "later_log_ratio": 0.1, "max_purchases": 2}
    log = generate_purchases(config(purchase=purchase), 0)
    several = np.diff(log.offset) > 1
    first = np.log(log.amount[log.offset[:-1][several]])
    later = np.log(log.amount[log.offset[:-1][several] + 1])
    error = (later - first).std() / np.sqrt(first.size)
    assert (later - first).mean() == pytest.approx(0.6, abs=4 * error)


def test_single_purchases_at_the_list_price():
    world = config()
    log, prices = generate_purchases(world, 3), Structure(world, 0).list_price
    single = log.amount[log.offset[:-1]][np.diff(log.offset) == 1]
    at_list = np.isin(single, prices)
    assert at_list.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / single.size))


def test_shocks_scale_what_does_not_cost_the_list_price(log):
    twice = ShockConfig(start_hours=0, end_hours=96, amount=2.0)
    more = generate_purchases(config().model_copy(update={"shocks": (twice,)}), 3)
    np.testing.assert_array_equal(more.click_time, log.click_time)
    ratio = more.amount / log.amount
    assert set(ratio.round(9).tolist()) == {1.0, 2.0}
    assert (more.gmv_truth < 2 * log.gmv_truth).all()


def test_a_log_is_a_function_of_its_seed_and_can_stop_early(log):
    assert find_difference(generate_purchases(config(), 3), log) is None
    part = generate_purchases(config(), 3, num_ticks=10)
    size = part.click_time.size
    np.testing.assert_array_equal(part.features, log.features[:size])
    np.testing.assert_array_equal(part.offset, log.offset[: size + 1])
    np.testing.assert_array_equal(part.purchase_time, log.purchase_time[: part.offset[-1]])
    other = generate_purchases(config(), 4, num_ticks=10)
    assert not np.array_equal(other.amount[:500], log.amount[:500])


def test_list_prices_have_longer_tails_on_demand():
    x = np.linspace(-3, 3, 7)
    assert stretch(x, 1.0) is x
    # sinh(1.5 asinh x) / 1.5: at 0 the same with slope 1, odd, at 3 by hand
    # asinh 3 = 1.8184, sinh(2.7277) / 1.5 = 7.6163 / 1.5.
    far = stretch(x, 1.5)
    assert far[3] == 0.0
    np.testing.assert_allclose(far, -far[::-1])
    assert far[-1] == pytest.approx(5.077, abs=1e-3)
    assert stretch(np.array([1e-4]), 1.5)[0] == pytest.approx(1e-4, rel=1e-6)
    plain, tailed = (
        np.log(Structure(WorldConfig(purchase=purchase), 0).list_price / 100.0) / 0.6
        for purchase in ({}, {"list_price_tail": 1.5})
    )
    np.testing.assert_allclose(stretch(plain, 1.5), tailed)
