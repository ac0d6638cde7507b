import numpy as np
import pytest
from scipy import stats

from scenarios.intervals import UNKNOWN, Interval, bands, clustered, interval


def test_few_values_have_a_student_t_interval():
    # mean 2, sd 1, n 3: t(.975, 2) = 4.302653; half width 4.302653 / sqrt(3) = 2.484138
    found = interval(np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx((2.0, -0.484138, 4.484138), abs=1e-6)
    assert interval(np.array([5.0])) == (5.0, -np.inf, np.inf)
    assert interval(np.array([])) == pytest.approx(UNKNOWN, nan_ok=True)


def test_bootstrap_of_two_kinds_of_values_by_hand():
    # 0 and 1, five times each: a resampled mean is Binomial(10, 1/2) / 10. The quantiles asked for
    # are Phi(-+ sqrt(10 / 9) t(.975, 9)) = Phi(-+ 2.3845): 1.71 % lie further than the interval
    # reaches. |mean - 1/2| > .3 in 22 of 1,024 cases (2.15 %), > .4 in 2 (.2 %): it is .4.
    found = interval(np.repeat([0.0, 1.0], 5))
    assert found == pytest.approx((0.5, 0.1, 0.9))


def test_interval_is_symmetric_repeatable_and_moves_with_the_values():
    values = stats.expon.rvs(size=20, random_state=1)
    found = interval(values)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert interval(values) == found
    assert interval(-3 * values + 7) == pytest.approx(
        Interval(7 - 3 * found.mean, 7 - 3 * found.high, 7 - 3 * found.low)
    )


@pytest.mark.parametrize(("size", "least"), [(5, 0.92), (10, 0.93), (20, 0.93)])
def test_nineteen_of_twenty_intervals_hold_the_truth(size, least):
    # 1,000 samples: sd of the observed coverage .007.
    samples = stats.norm.rvs(size=(1_000, size), random_state=2)
    found = np.array([interval(sample) for sample in samples])
    assert least < np.mean((found[:, 1] <= 0) & (found[:, 2] >= 0)) < 0.965


def test_bootstrap_is_as_wide_as_student_t_for_many_normal_values():
    values = stats.norm.rvs(size=400, random_state=3)
    half = stats.t.ppf(0.975, 399) * stats.sem(values)
    assert interval(values).high - values.mean() == pytest.approx(half, rel=0.04)


@pytest.mark.parametrize("size", [1, 3, 6])
@pytest.mark.parametrize("num_structures", [1, 3])
def test_bands_are_the_clustered_intervals_of_every_quantity(size, num_structures):
    values = stats.norm.rvs(size=(size * num_structures, 11), random_state=4)
    structure = np.arange(size * num_structures) % num_structures
    found = np.array(bands(values, structure))  # (3, 11)
    for place, column in enumerate(values.T):
        campaigns = zip(structure.tolist(), range(len(column)), strict=True)
        alone = clustered(dict(zip(campaigns, column.tolist(), strict=True)))
        assert found[:, place] == pytest.approx(alone)


def test_a_quantity_that_is_not_known_leaves_the_others_alone():
    values = np.arange(12.0).reshape(6, 2)
    values[2, 1] = np.nan
    found = bands(values, np.zeros(6, np.int64))
    assert np.isfinite([found.low[0], found.high[0]]).all()
    assert np.isnan([found.low[1], found.high[1]]).all()
