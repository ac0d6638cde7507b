import numpy as np
import pytest
from scipy.stats import chisquare, poisson

from adsim.config import WorldConfig
from adsim.curves import DAILY_TRAFFIC, HOURLY_TRAFFIC
from adsim.rng import Stream, uniforms
from adsim.traffic import (
    OVERFLOW_PROBABILITY,
    draw_arrivals,
    make_clock,
    slots_per_tick,
    tick_hours_of_week,
    weekly_profile,
)

NO_BIAS = np.zeros(5)


def clock_of(bias=NO_BIAS, **sections):
    return make_clock(WorldConfig(**sections), bias)


@pytest.fixture
def monday_only(tmp_path):
    """A traffic file with 1/24 in the hours 0..23 of Monday (dow 1) and 0 otherwise."""
    rows = ["region_id,dow,hour,traffic_share"]
    rows += [f"1,{dow},{hour},{(dow == 1) / 24!r}" for dow in range(1, 8) for hour in range(24)]
    path = tmp_path / "traffic.csv"
    path.write_text("\n".join(rows) + "\n")
    return str(path)


@pytest.mark.parametrize("profile", ["weekly", "flat"])
def test_weekly_profile_has_mean_1(profile):
    hours = weekly_profile(WorldConfig(traffic={"profile": profile}))
    assert hours.shape == (168,)
    assert hours.mean() == pytest.approx(1.0, rel=1e-12)


def test_weekly_profile_is_the_product_of_day_and_hour():
    hours = weekly_profile(WorldConfig())
    product = np.array([d * h for d in DAILY_TRAFFIC for h in HOURLY_TRAFFIC])
    np.testing.assert_allclose(hours, product / product.mean(), rtol=1e-12)
    # Tuesday 20 h to Monday 0 h: .96 x 1.68 / (.97 x .55).
    assert hours[44] / hours[0] == pytest.approx(0.96 * 1.68 / (0.97 * 0.55), rel=1e-12)


@pytest.mark.parametrize("tick_hours", [0.5, 1.0, 0.3, 2.5, 7.0, 24.0, 168.0, 400.0])
@pytest.mark.parametrize("start", [0.0, 30.25, 167.9])
def test_expected_traffic_is_the_profile_integrated_over_the_tick(tick_hours, start):
    time = {"num_ticks": 20, "tick_hours": tick_hours, "start_hour_of_week": start}
    config = WorldConfig(time=time)
    expected = make_clock(config, NO_BIAS).expected_traffic
    profile, cumulative = weekly_profile(config), []
    for hours in start + np.arange(21) * tick_hours:  # integral of a step function, by hand
        whole = int(hours)
        weeks, rest = divmod(whole, 168)
        total = weeks * profile.sum() + profile[:rest].sum()
        cumulative.append(total + (hours - whole) * profile[rest])
    mean = np.diff(cumulative) / tick_hours
    mean *= config.traffic.impressions_per_tick
    np.testing.assert_allclose(expected, mean, rtol=1e-9)


@pytest.mark.parametrize("start", [0.0, 100.0])
def test_expected_traffic_of_a_week_is_the_mean(start):
    time = {"num_ticks": 336, "tick_hours": 0.5, "start_hour_of_week": start}
    expected = clock_of(time=time, traffic={"impressions_per_tick": 70.0}).expected_traffic
    assert expected.mean() == pytest.approx(70.0, rel=1e-12)


def test_start_hour_of_week_shifts_the_week():
    monday = clock_of(time={"num_ticks": 168, "tick_hours": 1.0})
    friday = clock_of(time={"num_ticks": 168, "tick_hours": 1.0, "start_hour_of_week": 96.0})
    for ours, theirs in zip(friday[:3], monday[:3], strict=True):
        np.testing.assert_allclose(ours, np.roll(theirs, -96, axis=0), rtol=1e-12, atol=1e-15)


def test_tick_hours_of_week_are_the_middles_and_wrap():
    time = {"num_ticks": 4, "tick_hours": 1.0, "start_hour_of_week": 166.0}
    assert tick_hours_of_week(WorldConfig(time=time)).tolist() == [166.5, 167.5, 0.5, 1.5]


def test_clock_offsets_add_the_hourly_curves_to_the_bias():
    bias = np.array([-4.0, -3.0, -1.0, 0.5, 0.25])
    config = WorldConfig(time={"num_ticks": 48})
    clock = make_clock(config, bias)
    assert (clock.offset[:, [0, 2, 4]] == bias[[0, 2, 4]]).all()
    # CVR 2 h and 19 h, TESLA fig. 2: .0631 and .0721 (relative to the mean of the curve, x .066).
    mean = np.mean(config.conversion.hourly)
    low, high = (0.066 * x / mean for x in (0.0631, 0.0721))
    difference = np.log(high / (1 - high)) - np.log(low / (1 - low))
    assert clock.offset[38, 1] - clock.offset[4, 1] == pytest.approx(difference, rel=1e-9)
    # Centred over the traffic of the campaign.
    mean = np.average(clock.offset[:, 1], weights=clock.expected_traffic)
    assert mean == pytest.approx(-3.0, abs=1e-12)
    # READER, fig. 2: GMV 421.5 at 0 h, 340.5 at 23 h; the traffic-weighted mean factor is 1.
    factor = np.exp(clock.offset[:, 3] - 0.5)
    assert factor[0] / factor[46] == pytest.approx(421.5 / 340.5, rel=1e-12)
    assert np.average(factor, weights=clock.expected_traffic) == pytest.approx(1.0, rel=1e-12)


def test_competition_peaks_at_20_hours():
    market = {"landscape": {"hour_amplitude": 0.15}}
    log_price = clock_of(time={"num_ticks": 24, "tick_hours": 1.0}, market=market).log_price
    assert np.argmax(log_price) in (19, 20)  # the middles 19.5 h and 20.5 h tie
    assert log_price.mean() == pytest.approx(0.0, abs=1e-12)
    assert log_price.max() == pytest.approx(0.15 * np.cos(np.pi / 24), rel=1e-12)


def test_a_shock_changes_exactly_the_ticks_it_covers():
    shock = {"start_hours": 2.0, "end_hours": 4.0, "traffic": 3.0, "ctr": 1.5, "cvr": 2.0}
    shock |= {"amount": 0.5, "refund": 1.2, "price": 4.0}
    plain = clock_of(time={"num_ticks": 12})
    shocked = clock_of(time={"num_ticks": 12}, shocks=(shock,))
    covered = np.zeros(12, dtype=bool)
    covered[4:8] = True  # half-hour ticks
    ratio = np.where(covered, 3.0, 1.0)
    np.testing.assert_allclose(shocked.expected_traffic / plain.expected_traffic, ratio, rtol=1e-12)
    factors = np.exp(shocked.offset - plain.offset)
    expected = np.where(covered[:, None], [1.5, 2.0, 1.2, 0.5, 1.0], 1.0)
    np.testing.assert_allclose(factors, expected, rtol=1e-12)
    prices = np.exp(shocked.log_price - plain.log_price)
    np.testing.assert_allclose(prices, np.where(covered, 4.0, 1.0), rtol=1e-12)
    assert (shocked.drift_step == plain.drift_step).all()


def test_shocks_that_overlap_multiply():
    shocks = [{"start_hours": 0.0, "end_hours": 1.0, "cvr": 2.0}]
    shocks += [{"start_hours": 0.5, "end_hours": 2.0, "cvr": 3.0}]
    plain = clock_of(time={"num_ticks": 4})
    shocked = clock_of(time={"num_ticks": 4}, shocks=tuple(shocks))
    ratio = np.exp(shocked.offset[:, 1] - plain.offset[:, 1])
    np.testing.assert_allclose(ratio, [2.0, 6.0, 3.0, 3.0], rtol=1e-12)


@pytest.mark.parametrize("tick_hours", [0.1, 0.5, 0.7, 1.2])
def test_drift_steps_change_on_the_day(tick_hours):
    # Tick k starts at k x tick_hours: with 0.1 h, tick 240 starts day 1 exactly, and so on.
    num_ticks = round(168 / tick_hours)
    clock = clock_of(time={"num_ticks": num_ticks, "tick_hours": tick_hours})
    tenths = np.arange(num_ticks) * round(10 * tick_hours)
    assert (clock.drift_step == tenths // 240).all()


@pytest.mark.parametrize("mean", [0.5, 20.0, 500.0, 20_000.0])
def test_slots_overflow_with_less_than_the_stated_probability(mean):
    config = WorldConfig(traffic={"impressions_per_tick": mean})
    expected = make_clock(config, NO_BIAS).expected_traffic
    slots = slots_per_tick(config, expected)
    assert slots % 64 == 0
    assert poisson.sf(slots, expected.max()) < OVERFLOW_PROBABILITY
    # The 64 slots fewer would not do, up to the reserve of a factor 10.
    assert poisson.sf(slots - 64, expected.max()) >= 0.1 * OVERFLOW_PROBABILITY


def test_slots_may_be_chosen_as_small_as_the_probability_allows():
    expected = np.array([3.0, 100.0])
    enough = int(poisson.isf(OVERFLOW_PROBABILITY, 100.0))  # smallest with P(X > M) <= 1e-6
    chosen = WorldConfig(traffic={"slots_per_tick": enough})
    assert slots_per_tick(chosen, expected) == enough
    too_small = WorldConfig(traffic={"slots_per_tick": enough - 1})
    with pytest.raises(ValueError, match=r"traffic.slots_per_tick = \d+ is too small"):
        slots_per_tick(too_small, expected)


def test_slots_error_names_the_smallest_that_is_accepted():
    expected = np.array([100.0])
    enough = int(poisson.isf(OVERFLOW_PROBABILITY, 100.0))
    with pytest.raises(ValueError, match=f"must be >= {enough}$"):
        slots_per_tick(WorldConfig(traffic={"slots_per_tick": 10}), expected)


def test_arrivals_are_the_inverse_cdf_of_the_ticks_uniform():
    expected = np.random.default_rng(0).uniform(0.01, 800.0, 5_000)
    u = uniforms(4, Stream.ARRIVALS, np.arange(5_000))[:, 0]
    counts = draw_arrivals(4, expected, 2_000)
    assert (counts == poisson.ppf(u, expected)).all()


@pytest.mark.parametrize("mean", [0.3, 4.0, 300.0])
def test_arrivals_are_poisson(mean):
    n = 40_000
    counts = draw_arrivals(1, np.full(n, mean), 10_000)
    # Standard errors: mean sqrt(m / n), variance sqrt((m + 2 m^2) / n); four of each.
    assert counts.mean() == pytest.approx(mean, abs=4 * (mean / n) ** 0.5)
    assert counts.var() == pytest.approx(mean, abs=4 * ((mean + 2 * mean**2) / n) ** 0.5)
    edges = np.unique(poisson.ppf(np.linspace(0.05, 0.95, 10), mean))
    mass = np.diff(np.concatenate([[0.0], poisson.cdf(edges, mean), [1.0]]))
    observed = np.bincount(np.searchsorted(edges, counts), minlength=edges.size + 1)
    assert chisquare(observed, n * mass).pvalue > 1e-3


def test_arrivals_do_not_depend_on_other_ticks():
    expected = np.linspace(1.0, 200.0, 50)
    whole = draw_arrivals(8, expected, 500)
    assert (draw_arrivals(8, expected[:20], 500) == whole[:20]).all()


def test_arrivals_of_an_hour_without_traffic_are_0():
    counts = draw_arrivals(0, np.array([0.0, 5.0, 0.0]), 100)
    assert counts[[0, 2]].tolist() == [0, 0]
    assert counts[1] > 0


def test_arrivals_that_overflow_raise():
    with pytest.raises(ValueError, match=r"overflows traffic.slots_per_tick = 50"):
        draw_arrivals(0, np.full(10, 500.0), 50)


def test_traffic_file_replaces_the_profile(monday_only):
    config = WorldConfig(
        time={"num_ticks": 168, "tick_hours": 1.0},
        traffic={"traffic_share": monday_only, "impressions_per_tick": 500.0},
    )
    expected = make_clock(config, NO_BIAS).expected_traffic
    # All of a week's 168 x 500 impressions within the 24 hours of Monday: 3 500 an hour.
    np.testing.assert_allclose(expected[:24], 3_500.0, rtol=1e-9)
    np.testing.assert_allclose(expected[24:], 0.0, atol=1e-9)
