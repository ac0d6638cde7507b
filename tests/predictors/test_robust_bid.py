import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit as sigmoid

from predictors.bid_programme import Limits, plain_bids, score_bids
from predictors.robust_bid import RobustBid, ball_radius, joint_worst_case
from scenarios.noisy_auctions import draw

INF = float("inf")


def small(seed, count=8):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 2, count), rng.uniform(0.01, 0.1, count), rng.uniform(0.1, 0.9, count)


def by_general_solver(price, ctr, cvr, limits, radii, seed=0):
    """The robust programme by sequential quadratic programming from several starts."""
    rng = np.random.default_rng(seed)

    def loss(x):
        lost = radii[0] * np.linalg.norm(cvr * x) + radii[1] * np.linalg.norm(ctr * x)
        return lost - x @ (ctr * cvr)

    def slack(x):
        cost = x @ (price - limits.cpc * ctr)
        return -(cost + limits.cpc * radii[0] * np.linalg.norm(x))

    rules = [{"type": "ineq", "fun": lambda x: limits.budget - x @ price}]
    rules += [{"type": "ineq", "fun": slack}] if limits.cpc < INF else []
    starts = rng.uniform(0.05, 1, (6, price.size))
    options = {"ftol": 1e-13, "maxiter": 500}
    found = [
        minimize(loss, x, bounds=[(0, 1)] * x.size, constraints=rules, options=options)
        for x in starts
    ]
    return -min((one.fun for one in found if one.success), default=0.0)


@pytest.mark.parametrize(
    ("limits", "radii"),
    [
        (Limits(4.0), (0.02, 0.0)),
        (Limits(6.0, 20.0), (0.005, 0.0)),
        (Limits(100.0, 25.0), (0.01, 0.0)),
        (Limits(3.0), (0.0, 0.3)),
        (Limits(6.0, 25.0), (0.0, 0.2)),
        (Limits(4.0), (0.01, 0.1)),
        (Limits(6.0, 25.0), (0.005, 0.1)),
    ],
)
@pytest.mark.parametrize("seed", [3, 4])
def test_purchase_equals_that_of_a_general_solver(limits, radii, seed):
    price, ctr, cvr = small(seed)
    found = RobustBid(*radii).fit(price, ctr, cvr, limits).solution
    expected = by_general_solver(price, ctr, cvr, limits, radii)
    assert found.duals.objective == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found.share @ price <= limits.budget * (1 + 1e-9)
    if limits.cpc < INF:
        cost = found.share @ (price - limits.cpc * ctr)
        assert cost + limits.cpc * radii[0] * found.share_norm <= 1e-8 * price.sum()


def test_bid_is_the_price_at_which_the_purchase_turns():
    # KKT: won in full exactly where the bid, which prices a full win, is at least the price.
    drawn = draw(400, 0)
    limits = drawn.limits(0.2, 0.2)
    model = RobustBid(0.1).fit(drawn.price, drawn.ctr, drawn.cvr, limits)
    bids, share = model.bids(drawn.ctr, drawn.cvr), model.solution.share
    clear = np.abs(bids - drawn.price) > 1e-3 * drawn.price
    np.testing.assert_array_equal((bids >= drawn.price)[clear], (share >= 1 - 1e-9)[clear])


def test_radius_zero_is_the_plain_bidder():
    drawn = draw(300, 1)
    limits = drawn.limits()
    model = RobustBid().fit(drawn.price, drawn.ctr, drawn.cvr, limits)
    plain, duals = plain_bids(drawn.truth, limits)
    np.testing.assert_array_equal(model.bids(drawn.ctr, drawn.cvr), plain)
    assert model.solution.duals == duals
    near = RobustBid(1e-7).fit(drawn.price, drawn.ctr, drawn.cvr, limits)
    assert near.solution.duals.objective == pytest.approx(duals.objective, rel=1e-4)


@pytest.mark.parametrize("radii", [(50.0, 0.0), (0.0, 50.0), (50.0, 50.0)])
def test_wide_balls_win_nothing(radii):
    drawn = draw(100, 2)
    model = RobustBid(*radii).fit(drawn.price, drawn.ctr, drawn.cvr, drawn.limits())
    assert (model.solution.share == 0).all()
    assert model.solution.duals.objective == 0
    assert (model.bids(drawn.ctr, drawn.cvr) == 0).all()


@pytest.mark.parametrize(("radius", "bought"), [(0.09, True), (0.11, False), (0.2, False)])
def test_cap_that_no_purchase_keeps_in_the_worst_case(radius, bought):
    # C a = (2, 1) at prices of 1: -x_1 + 10 r ||x|| <= 0 asks for r <= .1, or for nothing.
    found = RobustBid(radius).fit([1.0, 1.0], [0.2, 0.1], [0.5, 0.5], Limits(10.0, 10.0))
    assert (found.solution.share_norm > 0) == bought
    assert (found.bids([0.2, 0.1], [0.5, 0.5]) > 0).any() == bought


@pytest.mark.parametrize("share", [0.275, 0.525, 0.575])
def test_small_purchases_beyond_the_cap_are_none(share):
    # Between buying nothing and the next purchase within the cap lies none: no root to find.
    for seed in (6, 9, 11):
        drawn = draw(20, seed)
        model = RobustBid(share * float(np.linalg.norm(drawn.ctr)))
        found = model.fit(drawn.price, drawn.ctr, drawn.cvr, drawn.limits()).solution
        cap = drawn.limits().cpc
        cost = found.share @ (drawn.price - cap * drawn.ctr)
        excess = cost + cap * model.ctr_radius * found.share_norm
        assert excess <= 1e-8 * drawn.price.sum()


@pytest.mark.parametrize(
    ("noise", "value", "worst"),
    [(0.046, 0.959, 0.905), (0.215, 0.797, 0.626), (0.464, 0.525, 0.308), (1.0, 0.0, 0.0)],
)
def test_synthetic_table_with_the_true_radius(noise, value, worst):
    rows = []
    for seed in range(20):  # sd over seeds up to .07
        drawn = draw(1000, seed)
        limits, a = drawn.limits(), sigmoid(drawn.noisy_logit(noise))
        best = score_bids(plain_bids(drawn.truth, limits)[0], drawn.truth).conversions
        radius = float(np.linalg.norm(a - drawn.ctr))
        found = RobustBid(radius).fit(drawn.price, a, drawn.cvr, limits).solution
        rows.append((found.share @ drawn.truth.value / best, found.duals.objective / best))
        # The promise: the truth is in the ball, so it is at least as good as the worst case.
        assert found.share @ drawn.truth.value >= found.duals.objective - 1e-9
    np.testing.assert_allclose(np.mean(rows, axis=0), [value, worst], atol=0.02)


@pytest.mark.parametrize("radii", [(0.1, 0.2), (0.3, 0.3), (0.02, 0.5)])
def test_joint_worst_case_equals_brute_force(radii):
    rng = np.random.default_rng(5)
    a, b, x = rng.uniform(0.1, 0.5, 6), rng.uniform(0.1, 0.9, 6), rng.uniform(0, 1, 6)
    found = joint_worst_case(x, a, b, *radii)
    rules = [
        {"type": "ineq", "fun": lambda d: radii[0] ** 2 - d[:6] @ d[:6]},
        {"type": "ineq", "fun": lambda d: radii[1] ** 2 - d[6:] @ d[6:]},
    ]
    brute = min(
        minimize(
            lambda d: (x * (a + d[:6]) * (b + d[6:])).sum(),
            rng.normal(0, 0.05, 12),
            constraints=rules,
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for _ in range(5)
    )
    assert found.value == pytest.approx(brute, rel=1e-6)
    at = (x * (a + found.ctr_shift) * (b + found.cvr_shift)).sum()
    assert at == pytest.approx(brute, rel=1e-5)
    np.testing.assert_allclose(
        [np.linalg.norm(found.ctr_shift), np.linalg.norm(found.cvr_shift)], radii, rtol=1e-5
    )


def test_joint_worst_case_of_one_ball_is_closed():
    x, a, b = np.array([1.0, 0.5]), np.array([0.2, 0.4]), np.array([0.6, 0.4])
    # nominal .12 + .08; ||x b|| = sqrt(.36 + .04)
    found = joint_worst_case(x, a, b, 0.1, 0.0)
    assert found.value == pytest.approx(0.2 - 0.1 * 0.4**0.5)
    assert (x * (a + found.ctr_shift) * b).sum() == pytest.approx(found.value)
    assert joint_worst_case(0 * x, a, b, 0.1, 0.1).value == 0.0


def test_joint_correction_is_the_derivative_of_the_dual():
    drawn = draw(200, 3)
    model = RobustBid(0.05, 0.2).fit(drawn.price, drawn.ctr, drawn.cvr, drawn.limits(0.2, INF))
    la, lb = model.worst.ctr_multiplier, model.worst.cvr_multiplier
    a, b, step = drawn.ctr[:5], drawn.cvr[:5], 1e-5

    def taken(x):
        return x**2 * (la * a**2 + lb * b**2 - x * a * b) / (4 * la * lb - x**2)

    slope = (taken(1 + step) - taken(1 - step)) / (2 * step)
    expected = np.maximum(a * b - slope, 0) / model.solution.duals.budget
    np.testing.assert_allclose(model.bids(a, b), expected, rtol=1e-6)
    # First-order bound: below the worst case by at most r_a r_b.
    assert 0 <= model.worst.value - model.solution.duals.objective <= 0.05 * 0.2


def test_radius():
    assert ball_radius(0.02) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="eps must be finite"):
        ball_radius(-1.0)


def test_wrong_input_is_named():
    one, model = np.ones(1), RobustBid(0.1)
    with pytest.raises(ValueError, match="cvr_radius must be finite and >= 0, got -1"):
        RobustBid(0.1, -1.0)
    with pytest.raises(ValueError, match="call fit"):
        model.bids(one, one)
    with pytest.raises(ValueError, match="price must be > 0"):
        model.fit(0 * one, one, one, Limits(1.0))
    with pytest.raises(ValueError, match="price must be one-dimensional and not empty"):
        model.fit([], [], [], Limits(1.0))
    with pytest.raises(ValueError, match="budget must be >= 0"):
        model.fit(one, one, one, Limits(-1.0))
    with pytest.raises(ValueError, match="max_bid must be > 0"):
        RobustBid(0.01).fit(one, one, one, Limits(1.0)).bids(one, one, max_bid=0.0)
