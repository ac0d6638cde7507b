import numpy as np
import pytest
from numba import njit
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import chisquare, kstest, norm

from adsim.config import WorldConfig
from adsim.effects import refund_curve
from adsim.funnel import (
    click_outcome,
    delay_exponent,
    expectation,
    lookup,
    make_funnel,
    normal_nodes,
    refund_logit,
)

NODES, WEIGHTS = normal_nodes(200)
# Linear interpolation in steps h = 1/64 of a function like e^z: h^2 / 8 = 3.05e-5, relative.
TABLE_ERROR = 3.06e-5
INTENT = ("unseen_intent_conversion", "unseen_intent_refund", "unseen_intent_repurchase")
# (z_v, r, g, q): logits of conversion, refund and repurchase, log effect on amounts.
POINT = (0.3, -1.0, 0.2, -0.4)
CASES = {
    "default": {},
    "amount_dependence": {"refund": {"amount_dependence": 0.7}},
    "negative_dependence": {"refund": {"amount_dependence": -0.5}},
    "exact_share_0": {"purchase": {"exact_share": 0.0}},
    "exact_share_1": {"purchase": {"exact_share": 1.0}, "refund": {"amount_dependence": 0.7}},
    "one_purchase": {"purchase": {"max_purchases": 1}},
    "two_purchases": {"purchase": {"max_purchases": 2}},
    "many_purchases": {"purchase": {"max_purchases": 4, "continuation": 0.8}},
    "no_intent": {"effects": dict.fromkeys(INTENT, 0.0)},
    "strong_intent": {"effects": dict(zip(INTENT, (1.0, -1.0, 1.0), strict=True))},
}
every_case = pytest.mark.parametrize("sections", CASES.values(), ids=CASES)


def mean_later(purchase):
    """Expected purchases after the first of a click with several: sum of (k - 1) P(k)."""
    c, most = purchase.continuation, purchase.max_purchases
    if most == 1:
        return 0.0
    mass = {k: (1 - c) * c ** (k - 2) for k in range(2, most)} | {most: c ** (most - 2)}
    assert sum(mass.values()) == pytest.approx(1.0)
    return sum((k - 1) * p for k, p in mass.items())


def reference(config, z_v, r, g, q):
    """P(convert), P(first refunded | convert), E[GMV], E[net GMV] by numerical integration."""
    effects, purchase, refund = config.effects, config.purchase, config.refund
    a_v, a_r, a_n = (getattr(effects, name) for name in INTENT)
    over_intent = lambda f: quad(lambda e: norm.pdf(e) * f(e), -9, 9, epsabs=1e-12)[0]  # noqa: E731
    p_convert = over_intent(lambda e: expit(z_v + a_v * e))
    z_r = r + float(refund_curve(config, p_convert))
    ratio = (purchase.single_log_ratio, purchase.first_log_ratio, purchase.later_log_ratio)
    spread = (purchase.first_log_sd, purchase.first_log_sd, purchase.later_log_sd)
    amounts = [np.exp(m + g + sd * NODES) for m, sd in zip(ratio, spread, strict=True)]

    def terms(e):
        buy = expit(z_v + a_v * e)
        several = expit(q + a_n * e) if purchase.max_purchases > 1 else 0.0
        back = expit(z_r + a_r * e + refund.amount_dependence * NODES)  # of a purchase with x
        at_list = expit(z_r + a_r * e)
        exact = purchase.exact_share
        mean = [float(WEIGHTS @ amount) for amount in amounts]
        kept = [float(WEIGHTS @ (amount * (1 - back))) for amount in amounts]
        later = mean_later(purchase)
        single = (1 - several) * exact
        refunded = single * at_list + (1 - single) * float(WEIGHTS @ back)
        gmv = single + (1 - several) * (1 - exact) * mean[0] + several * (mean[1] + later * mean[2])
        net = single * (1 - at_list) + (1 - several) * (1 - exact) * kept[0]
        return buy * np.array([refunded, gmv, net + several * (kept[1] + later * kept[2])])

    refunded, gmv, net = (over_intent(lambda e, j=j: terms(e)[j]) for j in range(3))
    return np.array([p_convert, refunded / p_convert, gmv, net])


@every_case
@pytest.mark.parametrize("point", [POINT, (-2.65, -0.5, -0.3, 0.5)])
def test_expectation_equals_numerical_integration(sections, point):
    config = WorldConfig(**sections)
    found = np.array(expectation(make_funnel(config), *point))
    expected = reference(config, *point)
    assert found[0] == pytest.approx(expected[0], rel=TABLE_ERROR)
    # The refund curve is read at the tabulated P(convert): not much better than the table.
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-5)


@every_case
def test_quadrature_error_is_below_1e_6(sections):
    # The same law with 41 nodes for both integrals; ten times as much at loadings of 1.
    tolerance = 1e-5 if sections == CASES["strong_intent"] else 1e-6
    law = make_funnel(WorldConfig(**sections))
    nodes, weights = normal_nodes(41)
    amount = (nodes, weights) if law.amount_dependence else normal_nodes(1)
    odds = np.exp(-law.intent[:, None] * nodes)
    intent = {"nodes": nodes, "weights": weights, "odds": odds}
    fine = law._replace(**intent, amount_nodes=amount[0], amount_weights=amount[1])
    for point in (POINT, (-2.65, -0.5, -0.3, 0.5), (-5.0, 1.0, 1.0, -2.0), (2.0, -3.0, 0.0, 2.0)):
        np.testing.assert_allclose(
            expectation(law, *point), expectation(fine, *point), rtol=tolerance
        )


def test_expectation_by_hand_without_randomness_in_rates():
    # No intent, no spread, no curve: P(convert) = 1/2, refund = 1/4, several = 1/5 (one more),
    # amounts 1 (list price), 2 for the first of several, 3 for the later one.
    config = WorldConfig(
        effects=dict.fromkeys(INTENT, 0.0),
        refund={"curve_strength": 0.0},
        purchase={
            **{"exact_share": 0.3, "single_log_ratio": 0.0, "first_log_ratio": np.log(2.0)},
            **{"later_log_ratio": np.log(3.0), "first_log_sd": 0.0, "later_log_sd": 0.0},
            **{"max_purchases": 2, "continuation": 0.5},
        },
    )
    point = (0.0, np.log(1 / 3), 0.0, np.log(1 / 4))
    gmv = 0.5 * (0.8 * 1 + 0.2 * (2 + 3))
    found = expectation(make_funnel(config), *point)
    assert found == pytest.approx((0.5, 0.25, gmv, 0.75 * gmv), rel=1e-9)


@njit
def simulate(law, n, seed, z_v, r, g, q, when, amount, back, count):
    for i in range(n):
        count[i] = click_outcome(
            law, seed, np.uint64(i), 10.0, z_v, r, g, q, 50.0, when[i], amount[i], back[i]
        )


def outcomes(config, point, n=200_000, seed=5):
    """(n, K) when, amount and refund_at, (n,) count of n clicks at 10 h on an item of 50."""
    size = config.purchase.max_purchases
    when, amount = np.full((n, size), np.nan), np.zeros((n, size))
    back, count = np.full((n, size), np.inf), np.zeros(n, dtype=np.int64)
    simulate(make_funnel(config), n, np.uint64(seed), *point, when, amount, back, count)
    return when, amount, back, count


def assert_mean(sample, expected):
    """The sample mean is within four standard errors of the expected one."""
    error = sample.std() / sample.size**0.5
    assert sample.mean() == pytest.approx(expected, abs=4 * error + 1e-12)


@every_case
def test_expectation_equals_the_mean_of_click_outcome(sections):
    config = WorldConfig(**sections)
    _, amount, back, count = outcomes(config, POINT)
    p_convert, p_refund, gmv, net = expectation(make_funnel(config), *POINT)
    bought = count > 0
    assert_mean(bought.astype(float), p_convert)
    assert_mean((back[bought, 0] < np.inf).astype(float), p_refund)
    assert_mean(amount.sum(axis=1), 50.0 * gmv)
    assert_mean(np.where(back < np.inf, 0.0, amount).sum(axis=1), 50.0 * net)


@pytest.mark.parametrize(("head", "logits"), [("refund", (0.3, -np.inf, 0.2, -0.4))])
def test_refund_rate_0_means_no_refunds(head, logits):
    config = WorldConfig(refund={"rate": 0.0, "amount_dependence": 0.7})
    _, amount, back, _ = outcomes(config, logits, n=20_000)
    assert not (back[amount > 0] < np.inf).any()
    _, p_refund, gmv, net = expectation(make_funnel(config), *logits)
    assert p_refund == 0.0
    assert gmv == net > 0.0


def test_repurchase_rate_0_means_single_purchases():
    config = WorldConfig(purchase={"repurchase_rate": 0.0})
    point = (0.3, -1.0, 0.2, -np.inf)
    count = outcomes(config, point, n=20_000)[3]
    assert set(count.tolist()) == {0, 1}
    single = WorldConfig(purchase={"max_purchases": 1})
    assert expectation(make_funnel(config), *point) == expectation(make_funnel(single), *POINT)


@pytest.mark.parametrize(("most", "continuation"), [(2, 0.5), (4, 0.5), (8, 0.25), (3, 0.0)])
def test_number_of_purchases_follows_its_law(most, continuation):
    # Given several: k = 2.. with P = (1 - c) c^(k - 2), the rest at the maximum.
    purchase = {"max_purchases": most, "continuation": continuation}
    config = WorldConfig(purchase=purchase, effects=dict.fromkeys(INTENT, 0.0))
    count = outcomes(config, POINT)[3]
    assert_mean((count[count > 0] > 1).astype(float), expit(POINT[3]))
    several = count[count > 1]
    mass = np.array([(1 - continuation) * continuation ** (k - 2) for k in range(2, most + 1)])
    mass[-1] = continuation ** (most - 2)
    observed = np.bincount(several, minlength=most + 1)[2:]
    assert (observed[mass == 0] == 0).all()
    observed, mass = observed[mass > 0], mass[mass > 0]
    if mass.size > 1:
        assert chisquare(observed, several.size * mass).pvalue > 1e-3
    assert_mean(several - 1.0, mean_later(config.purchase))


def test_purchases_are_ordered_and_within_their_windows():
    config = WorldConfig(purchase={"continuation": 0.7})
    when, amount, back, count = outcomes(config, (1.0, 0.5, 0.0, 1.0))
    real = np.arange(8) < count[:, None]
    assert (count == 8).any()
    gaps = np.diff(when, axis=1)[real[:, 1:]]
    assert (gaps >= 0).all()
    first = when[count > 0, 0] - 10.0
    assert first.min() > 0
    assert first.max() <= 72.0
    assert first.max() > 71.0
    last = when[real] - 10.0
    assert last.max() <= 168.0
    delay = (back - when)[real & (back < np.inf)]
    assert delay.min() >= 0
    assert 71.0 < delay.max() <= 72.0
    assert (amount[real] > 0).all()


def test_amounts_are_log_normal_around_the_list_price():
    config = WorldConfig(purchase={"max_purchases": 3, "continuation": 0.5})
    _, amount, _, count = outcomes(config, POINT)
    g, p = POINT[2], config.purchase
    single = amount[count == 1, 0]
    assert_mean((single == 50.0).astype(float), p.exact_share)
    samples = (
        (single[single != 50.0], p.single_log_ratio, p.first_log_sd),
        (amount[count > 1, 0], p.first_log_ratio, p.first_log_sd),
        (amount[count > 1, 1], p.later_log_ratio, p.later_log_sd),
        (amount[count == 3, 2], p.later_log_ratio, p.later_log_sd),
    )
    for sample, ratio, sd in samples:
        x = (np.log(sample / 50.0) - ratio - g) / sd
        assert kstest(x[:20_000], "norm").pvalue > 1e-3


def test_amount_dependence_raises_refunds_of_dear_purchases():
    config = WorldConfig(refund={"amount_dependence": 0.7}, purchase={"max_purchases": 1})
    _, amount, back, count = outcomes(config, POINT)
    real = (count > 0) & (amount[:, 0] != 50.0)
    dear = amount[:, 0] > np.median(amount[real, 0])
    refunded = back[:, 0] < np.inf
    assert refunded[real & dear].mean() > 1.5 * refunded[real & ~dear].mean()


def test_intent_links_conversion_and_refund():
    # Loadings +.5 and -.3: among clicks with equal logits buyers have more intent, so the refund
    # rate given a purchase is below the rate without selection.
    config = WorldConfig(refund={"curve_strength": 0.0})
    unselected = WEIGHTS @ expit(POINT[1] - 0.3 * NODES)
    assert expectation(make_funnel(config), *POINT)[1] < unselected - 0.01


def test_outcome_is_a_function_of_seed_and_impression():
    config = WorldConfig()
    first, again = (outcomes(config, POINT, n=500, seed=8) for _ in range(2))
    for ours, theirs in zip(first, again, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (outcomes(config, POINT, n=500, seed=9)[3] != first[3]).any()


def test_uniforms_are_common_between_logits():
    # Potential outcomes: whoever converts at a low logit converts at a higher one too.
    config = WorldConfig()
    low, high = (outcomes(config, (z, *POINT[1:]), n=20_000) for z in (-1.0, 1.0))
    assert (high[3] >= low[3]).all()
    both = low[3] > 0
    np.testing.assert_array_equal(low[1][both], high[1][both])  # amounts


def test_refund_logit_equals_the_curve_of_the_structure():
    config = WorldConfig(refund={"curve_strength": 1.3})
    law = make_funnel(config)
    cvr = np.concatenate([np.linspace(0.001, 0.999, 333), [0.1, 0.3, 0.5, 0.7, 0.9]])
    compiled = [refund_logit.py_func(law, -0.7, p) for p in cvr]
    np.testing.assert_allclose(compiled, -0.7 + refund_curve(config, cvr), atol=1e-12)


@pytest.mark.parametrize("loading", [0.0, 0.5, 1.0])
def test_lookup_integrates_the_intent(loading):
    config = WorldConfig(effects={"unseen_intent_conversion": loading})
    law = make_funnel(config)
    for z in np.linspace(-12.0, 12.0, 97) + 0.0061:
        expected = WEIGHTS @ expit(z + loading * NODES)
        assert lookup.py_func(law.p_convert, z) == pytest.approx(expected, rel=TABLE_ERROR)


@pytest.mark.parametrize("z", [-1e3, -16.0, 16.0, 1e3])
def test_lookup_is_clamped_to_the_grid(z):
    law = make_funnel(WorldConfig())
    end = law.p_convert[0] if z < 0 else law.p_convert[-1]
    assert lookup.py_func(law.p_convert, z) == pytest.approx(end, rel=1e-6)


@pytest.mark.parametrize(
    ("z", "expected"), [(2.0, 1.0), (3.0, np.e**0.25), (100.0, np.e), (-100.0, 1 / np.e)]
)
def test_delay_exponent_is_bounded(z, expected):
    # exp(.25 x shift) with the shift from the mean logit 2 within +-4.
    assert delay_exponent.py_func(0.25, z, 2.0) == pytest.approx(expected, rel=1e-12)
