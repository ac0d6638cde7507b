import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from scipy.stats import kstest

from adsim.config import WorldConfig
from adsim.curves import CONVERSION_DELAY, REFUND_DELAY, REPURCHASE_DELAY
from adsim.delays import cdf, inverse_cdf, make_law, quantile, survival
from adsim.funnel import click_outcome, lookup, make_funnel, refund_logit

CURVES = {
    "conversion": CONVERSION_DELAY,
    "refund": REFUND_DELAY,
    "repurchase": REPURCHASE_DELAY,
    "one_knot": ((10.0, 1.0),),
}
every_law = pytest.mark.parametrize("knots", CURVES.values(), ids=CURVES)
deterministic = settings(deadline=None, derandomize=True, max_examples=200)


@njit
def compiled_quantile(times, shares, levels):
    out = np.empty_like(levels)
    for i in range(levels.size):
        out[i] = quantile(times, shares, levels[i])
    return out


@st.composite
def laws(draw):
    """A law of 1 to 6 knots: gaps of at least 1e-3 in time and share."""
    n = draw(st.integers(1, 6))
    gaps = draw(st.lists(st.floats(1e-3, 50.0), min_size=n, max_size=n))
    masses = draw(st.lists(st.floats(1e-3, 1.0), min_size=n, max_size=n))
    shares = np.cumsum(masses) / np.sum(masses)
    shares[-1] = 1.0
    return make_law(tuple(zip(np.cumsum(gaps).tolist(), shares.tolist(), strict=True)))


@every_law
def test_cdf_reproduces_the_published_knots(knots):
    law = make_law(knots)
    np.testing.assert_allclose(cdf(law, law.times), law.shares, rtol=1e-14)
    np.testing.assert_allclose(inverse_cdf(law, law.shares), law.times, rtol=1e-14)


def test_cdf_between_two_knots_is_linear_in_log_time():
    # Published: F(1 h) = .40, F(3 h) = .48; half way in log time is sqrt(3) h -> .44.
    law = make_law(CONVERSION_DELAY)
    assert cdf(law, 3**0.5) == pytest.approx(0.44, abs=1e-12)
    # Below the first knot (1 min, .03) linear in time: half a minute -> .015.
    assert cdf(law, 1 / 120) == pytest.approx(0.015, abs=1e-12)


def test_cdf_with_an_exponent_is_a_root_of_the_curve():
    # Exponent 2: F(1 h) = .40 ** (1/2); its quantile at u has level u**2: .4 ** .5 -> 1 h.
    law = make_law(CONVERSION_DELAY)
    assert cdf(law, 1.0, 2.0) == pytest.approx(0.4**0.5, rel=1e-12)
    assert inverse_cdf(law, 0.4**0.5, 2.0) == pytest.approx(1.0, rel=1e-12)


@every_law
def test_cdf_is_0_before_and_1_after(knots):
    law = make_law(knots)
    outside = np.array([-1.0, 0.0, law.times[-1], 1e9, np.inf])
    assert cdf(law, outside, 1.7).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]


@every_law
@pytest.mark.parametrize("exponent", [0.4, 1.0, 2.5])
def test_survival_is_one_minus_cdf(knots, exponent):
    law = make_law(knots)
    delays = np.geomspace(1e-4, 2 * law.times[-1], 50)
    total = survival(law, delays, exponent) + cdf(law, delays, exponent)
    np.testing.assert_allclose(total, 1.0, rtol=1e-15)


@given(law=laws(), u=st.floats(1e-6, 1 - 1e-6), exponent=st.floats(0.3, 3.0))
@deterministic
def test_cdf_inverts_inverse_cdf(law, u, exponent):
    assert cdf(law, inverse_cdf(law, u, exponent), exponent) == pytest.approx(u, rel=1e-9)


@given(law=laws(), a=st.floats(0.0, 1.2), b=st.floats(0.0, 1.2), exponent=st.floats(0.3, 3.0))
@deterministic
def test_cdf_increases_and_stays_within_0_and_1(law, a, b, exponent):
    delays = np.sort([a, b]) * law.times[-1]
    below, above = cdf(law, delays, exponent)
    assert 0.0 <= below <= above <= 1.0


@given(law=laws(), u=st.floats(0.01, 0.99), exponent=st.floats(0.3, 3.0))
@deterministic
def test_inverse_cdf_falls_with_the_exponent(law, u, exponent):
    assert inverse_cdf(law, u, 1.1 * exponent) <= inverse_cdf(law, u, exponent)


@given(law=laws())
@deterministic
def test_quantile_equals_inverse_cdf(law):
    levels = np.concatenate([np.linspace(1e-9, 1 - 1e-9, 101), law.shares])
    compiled = compiled_quantile(law.times, law.shares, levels)
    np.testing.assert_allclose(compiled, inverse_cdf(law, levels), rtol=1e-12)


@pytest.mark.parametrize("knots", [CONVERSION_DELAY, REFUND_DELAY])
def test_larger_exponent_is_sooner_with_less_spread(knots):
    # TESLA: clicks of high CVR convert sooner and with less spread.
    law = make_law(knots)
    u = (np.arange(10_000) + 0.5) / 10_000
    slow, fast = inverse_cdf(law, u, 0.7), inverse_cdf(law, u, 1.5)
    assert fast.mean() < slow.mean()
    assert fast.std() < slow.std()


@njit
def simulated_delays(law, n, time, z_v, r):
    """Delays of n clicks that differ in their uniforms only: first purchase, refund, later."""
    when, amount, back = np.empty(8), np.empty(8), np.empty(8)
    first, refund, share = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    for i in range(n):
        count = click_outcome(
            law, np.uint64(77), np.uint64(i), time, z_v, r, 0.0, 0.5, 1.0, when, amount, back
        )
        if count:
            first[i] = when[0] - time
            if back[0] < np.inf:
                refund[i] = back[0] - when[0]
        if count == 2:
            share[i] = (when[1] - when[0]) / (time + law.gmv_hours - when[0])
    return first, refund, share


# Mean CVR logit log(.066 / .934) = -2.65. The curve adds nothing below a CVR of .1.
@pytest.mark.parametrize("shift", [-1.5, 0.0, 2.0])
def test_simulated_delays_follow_the_laws(shift):
    config = WorldConfig()
    law = make_funnel(config)
    z_v, time = law.reference[0] + shift, 40.0
    r = law.reference[1] + shift
    z_r = refund_logit.py_func(law, r, lookup.py_func(law.p_convert, z_v))
    exponents = (
        np.exp(config.conversion.delay_dependence * shift),
        np.exp(config.refund.delay_dependence * (z_r - law.reference[1])),
        1.0,
    )
    curves = (config.conversion.delay, config.refund.delay, config.purchase.later_delay)
    for delays, curve, exponent in zip(
        simulated_delays(law, 200_000, time, z_v, r), curves, exponents, strict=True
    ):
        seen = delays[~np.isnan(delays)]
        assert seen.size > 100
        known = make_law(curve)
        result = kstest(seen, lambda t, k=known, x=exponent: cdf(k, t, x))
        assert result.pvalue > 1e-3
