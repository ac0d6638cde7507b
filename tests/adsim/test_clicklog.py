import numpy as np
import pytest

from adsim.checks import find_difference
from adsim.clicklog import MISSING, generate
from adsim.config import WorldConfig

DAY = 86_400


def config(**sections):
    base = {
        "time": {"num_ticks": 96, "tick_hours": 1.0},
        "traffic": {"impressions_per_tick": 400.0},
        "effects": {"click": {"sd": 0.0}},
    }
    return WorldConfig(**(base | sections))


@pytest.fixture(scope="module")
def log():
    return generate(config(), 3)


def test_clicks_are_ordered_and_in_their_ticks(log):
    assert (np.diff(log.click_time) >= 0).all()
    assert 0 <= log.click_time[0] <= log.click_time[-1] < 4 * DAY
    # Poisson with mean 400 x 96 x the traffic of Monday to Thursday (.97 of the week's mean)
    assert log.click_time.size == pytest.approx(400 * 96 * 0.97, rel=0.02)
    assert (
        log.features.shape
        == (log.click_time.size, len(log.cardinalities))
        == (
            *(log.click_time.size,),
            22,
        )
    )
    assert (log.features >= 0).all()
    assert (log.features.max(axis=0) < log.cardinalities).all()


def test_events_come_in_order_and_within_their_windows(log):
    bought, returned = log.conversion_time != MISSING, log.refund_time != MISSING
    delay = (log.conversion_time - log.click_time)[bought]
    assert 0 <= delay.min() <= delay.max() < 3 * DAY  # strictly below the window
    assert bought[returned].all()
    delay = (log.refund_time - log.conversion_time)[returned]
    assert 0 <= delay.min() <= delay.max() < 3 * DAY


def test_outcomes_agree_with_the_truth(log):
    bought, returned = log.conversion_time != MISSING, log.refund_time != MISSING
    # Sums of independent indicators with known probabilities: within 4 standard deviations.
    for happened, chance in (
        (bought, log.p_convert),
        (returned[bought], log.p_refund[bought]),
    ):
        error = happened.sum() - chance.sum()
        assert abs(error) < 4 * np.sqrt((chance * (1 - chance)).sum())
    assert bought.mean() == pytest.approx(0.066, rel=0.1)


def test_a_log_is_a_function_of_its_seed_and_can_stop_early(log):
    assert find_difference(generate(config(), 3), log) is None
    part = generate(config(), 3, num_ticks=10)
    assert find_difference(part.features, log.features[: part.click_time.size]) is None
    assert find_difference(part.refund_time, log.refund_time[: part.click_time.size]) is None
    other = generate(config(), 4, num_ticks=10)
    assert not np.array_equal(other.conversion_time[:500], log.conversion_time[:500])
