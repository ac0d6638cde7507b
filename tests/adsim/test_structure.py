import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import chisquare

from adsim.config import WorldConfig
from adsim.effects import alias_table, refund_curve, solve_bias, zipf_weights
from adsim.funnel import expectation, lookup, make_funnel
from adsim.kernels import alias_draw
from adsim.rng import words
from adsim.structure import HEADS, LATENT_DIM, NOISE_DIM, Structure

SMALL = {
    "num_users": 3_000,
    "num_contexts": 512,
    "user_cardinalities": (128, 64, 32, 16, 8, 8, 4),
    "context_cardinalities": (64, 32, 16, 8, 8, 4, 4),
}
ARRAYS = (
    *("user_ids", "item_ids", "context_ids", "user_weights", "context_weights", "item_weights"),
    *("user_latent", "user_noise", "context_noise", "weight", "list_price", "rival_noise"),
    *("scene_price", "rival_draws", "bias"),
)


def make(seed=0, **sections):
    return Structure(WorldConfig(entities=SMALL, **sections), seed)


@pytest.fixture(scope="module")
def default():
    """The structure of the default world."""
    return Structure(WorldConfig(), 0)


@pytest.fixture(scope="module")
def small():
    return make()


def test_structure_is_a_function_of_the_seed(small):
    again, other = make(), make(1)
    for name in ARRAYS:
        assert (getattr(small, name) == getattr(again, name)).all(), name
    # Item weights are the Zipf law itself and user ids start with the row number.
    for name in set(ARRAYS) - {"item_weights", "user_weights"}:
        assert (getattr(small, name) != getattr(other, name)).any(), name
    for ours, theirs in zip(small.tables(0), again.tables(0), strict=True):
        np.testing.assert_array_equal(np.hstack(ours), np.hstack(theirs))


def test_default_structure_has_22_fields_within_their_cardinalities(default):
    ids = (default.user_ids, default.item_ids, default.context_ids)
    assert [table.shape[1] for table in ids] == [8, 6, 8]
    assert default.cardinalities == (
        *(20_000, 2_048, 512, 128, 64, 32, 16, 8),
        *(20, 64, 32, 16, 8, 4),
        *(4, 256, 128, 64, 32, 16, 8, 4),
    )
    highest = np.concatenate([table.max(axis=0) for table in ids])
    lowest = np.concatenate([table.min(axis=0) for table in ids])
    assert (highest < default.cardinalities).all()
    assert (lowest >= 0).all()
    assert default.user_ids.dtype == np.int32
    np.testing.assert_array_equal(default.user_ids[:, 0], np.arange(20_000))
    np.testing.assert_array_equal(default.item_ids[:, 0], np.arange(20))


def test_zipf_weights_by_hand():
    # 1, 1/2, 1/3, 1/4 sum to 25/12.
    np.testing.assert_allclose(zipf_weights(4, 1.0), np.array([12, 6, 4, 3]) / 25, rtol=1e-15)
    np.testing.assert_allclose(zipf_weights(3, 0.0), 1 / 3, rtol=1e-15)


def test_scene_shares_follow_the_zipf_law(default):
    share = np.bincount(default.context_ids[:, 0], default.context_weights)
    np.testing.assert_allclose(share, zipf_weights(4, 0.8), rtol=1e-12)


@pytest.mark.parametrize(
    "weights", [[1.0], [1.0, 1.0], [0.2, 3.0, 0.0, 1.5, 0.3], np.arange(1, 200) ** -1.1]
)
def test_alias_table_holds_the_weights(weights):
    # P(i) = (accept_i + sum of what the others give to i) / n, to 32 bits.
    weights = np.array(weights, dtype=np.float64)
    table, n = alias_table(weights), weights.size
    keep = table.accept / 2.0**32
    mass = keep + np.bincount(table.other, 1.0 - keep, minlength=n)
    np.testing.assert_allclose(mass / n, weights / weights.sum(), atol=1e-9)


def test_alias_draw_follows_the_weights():
    weights = zipf_weights(50, 1.0)
    table = alias_table(weights)
    draws = [
        alias_draw.py_func(table.accept, table.other, word)
        for word in words(5, 2, np.arange(5_000)).ravel()
    ]
    observed = np.bincount(draws, minlength=50)
    assert chisquare(observed, 20_000 * weights).pvalue > 1e-3


def test_solve_bias_gives_the_rate():
    z = np.array([-1.0, 0.0, 2.0])
    weights = np.array([1.0, 2.0, 1.0])
    b = solve_bias(z, 0.3, weights)
    assert np.average(expit(z + b), weights=weights) == pytest.approx(0.3, abs=1e-12)
    assert solve_bias(np.zeros(3), 0.5) == pytest.approx(0.0, abs=1e-12)


def draw_responses(structure, n, seed=0):
    """Logits (n, 5) without hourly effects of n impressions of the controlled campaign."""
    rng = np.random.default_rng(seed)
    user = rng.choice(structure.user_weights.size, n, p=structure.user_weights)
    context = rng.choice(structure.context_weights.size, n, p=structure.context_weights)
    item = rng.choice(structure.item_weights.size, n, p=structure.item_weights)
    main = structure.main_effects(0)
    z = main[0][user] + main[1][item] + main[2][context] + structure.bias
    weight = structure.weight[item, structure.context_ids[context, 0]].astype(np.float64)
    weight = weight.reshape(n, 2, LATENT_DIM)
    z[:, :2] += np.einsum("nd,nkd->nk", structure.user_latent[user], weight)
    return z, rng


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mean_rates_are_the_configured_ones(seed):
    config = WorldConfig(drift={"share": 0.0})  # else the mean over the drift steps is right
    structure, law = Structure(config, seed), make_funnel(config)
    z, rng = draw_responses(structure, 200_000, seed)
    effects, intent = config.effects, rng.standard_normal(200_000)
    click = expit(z[:, 0])
    # 20 000 calibration draws and logits of sd about 1: relative standard errors of about 1 %.
    assert click.mean() == pytest.approx(config.click.ctr, rel=0.05)
    buy = expit(z[:, 1] + effects.unseen_intent_conversion * intent)
    assert np.average(buy, weights=click) == pytest.approx(config.conversion.cvr, rel=0.05)
    p_convert = np.array([lookup.py_func(law.p_convert, x) for x in z[:, 1]])
    z_r = z[:, 2] + refund_curve(config, p_convert) + effects.unseen_intent_refund * intent
    bought = click * buy
    assert np.average(expit(z_r), weights=bought) == pytest.approx(config.refund.rate, rel=0.05)
    several = expit(z[:, 4] + effects.unseen_intent_repurchase * intent)
    rate = config.purchase.repurchase_rate
    assert np.average(several, weights=bought) == pytest.approx(rate, rel=0.05)


@pytest.mark.parametrize("rate", [0.245, 0.5])
@pytest.mark.parametrize("amount_dependence", [0.0, 1.0, -1.0])
def test_mean_refund_rate_does_not_depend_on_the_amount_knob(rate, amount_dependence):
    # The level of the refund rate and its dependence on amounts are separate knobs.
    config = WorldConfig(refund={"rate": rate, "amount_dependence": amount_dependence})
    structure, law = Structure(config, 0), make_funnel(config)
    z, _ = draw_responses(structure, 40_000)
    results = np.array([expectation(law, v, r, g, q) for _, v, r, g, q in z])
    bought = expit(z[:, 0]) * results[:, 0]
    assert np.average(results[:, 1], weights=bought) == pytest.approx(rate, rel=0.04)


@pytest.mark.parametrize("loading", [0.5, 2.0])
def test_mean_refund_rate_does_not_depend_on_the_unseen_intent(loading):
    # The curve is read at the CVR that integrates the intent, here and in the funnel.
    effects = {"unseen_intent_conversion": loading}
    config = WorldConfig(conversion={"cvr": 0.4}, effects=effects)
    structure, law = Structure(config, 0), make_funnel(config)
    z, _ = draw_responses(structure, 40_000)
    results = np.array([expectation(law, v, r, g, q) for _, v, r, g, q in z])
    bought = expit(z[:, 0]) * results[:, 0]
    rate = config.refund.rate
    assert np.average(results[:, 1], weights=bought) == pytest.approx(rate, rel=0.03)


def test_a_field_with_a_single_value_has_no_effect():
    # Effects have mean 0 over impressions: one scene, and one value of the second user field.
    entities = SMALL | {"num_scenes": 1, "user_cardinalities": (1, 8)}
    structure = Structure(WorldConfig(entities=entities), 0)
    np.testing.assert_allclose(structure.context_effects.fixed[0], 0.0, atol=1e-12)
    np.testing.assert_allclose(structure.user_effects.fixed[3_000], 0.0, atol=1e-12)


@pytest.mark.parametrize(("key", "head"), [("refund", 2), ("repurchase", 4)])
def test_rate_0_gives_a_logit_of_minus_infinity(key, head):
    config = {
        "refund": {"refund": {"rate": 0.0}},
        "repurchase": {"purchase": {"repurchase_rate": 0.0}},
    }
    assert make(**config[key]).bias[head] == -np.inf


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_user_and_context_effects_have_the_configured_variance(seed):
    # Each field is scaled to unit variance over impressions; what the sum adds to it is the
    # correlation of the fields over 20 000 users of unequal activity: a few percent.
    config = WorldConfig(drift={"share": 0.0}, effects={"scene_sd": 0.0})
    structure = Structure(config, seed)
    main = structure.main_effects(0)
    sd = np.array([getattr(config.effects, head).sd for head in HEADS])
    for sums, weights, share in (
        (main[0], structure.user_weights, 0.45),
        (main[2], structure.context_weights, 0.35),
    ):
        mean = np.average(sums, axis=0, weights=weights)
        variance = np.average((sums - mean) ** 2, axis=0, weights=weights)
        np.testing.assert_allclose(mean, 0.0, atol=1e-9)
        np.testing.assert_allclose(variance, share * sd**2, rtol=0.25)


def test_main_effects_have_the_configured_variance_on_average():
    # Twenty items only: the variance of one catalogue is far from its mean. Over 24 structures
    # the relative standard error is about 8 %.
    ratios = []
    for seed in range(24):
        structure = make(seed, drift={"share": 0.0}, effects={"scene_sd": 0.0})
        sums = structure.main_effects(0)[1]
        mean = np.average(sums, axis=0, weights=structure.item_weights)
        ratios.append(np.average((sums - mean) ** 2, axis=0, weights=structure.item_weights))
    sd = np.array([getattr(structure.config.effects, head).sd for head in HEADS])
    np.testing.assert_allclose(np.mean(ratios, axis=0), 0.2 * sd**2, rtol=0.25)


def test_user_latents_are_standardised(default):
    weights = default.user_weights
    np.testing.assert_allclose(
        np.average(default.user_latent, axis=0, weights=weights), 0, atol=1e-9
    )
    second = np.average(default.user_latent**2, axis=0, weights=weights)
    np.testing.assert_allclose(second, 1.0, rtol=1e-9)


def test_interaction_has_the_configured_sd():
    # Over users of unit latents: sum_d w_d^2 on average, over items, scenes and 12 structures.
    squares = []
    for seed in range(12):
        weight = make(seed).weight.reshape(20, 4, 2, LATENT_DIM)
        squares.append((weight.astype(np.float64) ** 2).sum(axis=3).mean(axis=(0, 1)))
    expected = np.array([0.4, 0.5]) ** 2  # effects.click, effects.conversion
    np.testing.assert_allclose(np.mean(squares, axis=0), expected, rtol=0.15)


@pytest.mark.parametrize(("mixing", "same"), [(0.0, True), (0.5, False)])
def test_scene_heterogeneity_separates_the_scenes(mixing, same):
    weight = make(effects={"scene_heterogeneity": mixing}).weight
    assert (weight == weight[:, :1]).all() == same


def test_drift_is_a_stationary_ornstein_uhlenbeck_process(small):
    # All V x 5 values are independent N(0, 1) at every step: means over V x 5 = 3 500 x 5 values
    # have a standard error of about 17 500 ** -0.5 = 7.6e-3 (variance: sqrt(2) more).
    steps = {step: small.drift_state(step) for step in (0, 1, 7, 30)}
    size = steps[0].size
    tolerance = 4 * size**-0.5
    for state in steps.values():
        assert state.mean() == pytest.approx(0.0, abs=tolerance)
        assert state.var() == pytest.approx(1.0, abs=2**0.5 * tolerance)
    for a, b in ((0, 1), (1, 7), (0, 7), (7, 30)):
        # 24 h per step, time constant 168 h.
        expected = np.exp(-(b - a) * 24.0 / 168.0)
        assert (steps[a] * steps[b]).mean() == pytest.approx(expected, abs=2 * tolerance)


def test_drift_values_of_the_heads_are_independent(small):
    correlation = np.corrcoef(small.drift_state(3).T)
    assert np.abs(correlation - np.eye(5)).max() < 4 * small.drift_state(3).shape[0] ** -0.5


def test_drift_state_does_not_depend_on_the_order_of_calls():
    forward, backward = make(), make()
    ahead = [forward.drift_state(step) for step in (0, 1, 2, 5)]
    behind = [backward.drift_state(step) for step in (5, 2, 1, 0)][::-1]
    for a, b in zip(ahead, behind, strict=True):
        np.testing.assert_array_equal(a, b)


def test_drift_changes_effects_only_if_it_has_a_share():
    fixed, drifting = make(drift={"share": 0.0}), make(drift={"share": 0.5})
    for a, b in zip(fixed.main_effects(0), fixed.main_effects(9), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(drifting.main_effects(0), drifting.main_effects(9), strict=True):
        assert np.abs(a - b).max() > 0.1


def with_drift(**shares):
    """The default effects with these drift shares of their main effects."""
    heads = WorldConfig().effects.model_dump()
    return {head: heads[head] | {"drift_share": share} for head, share in shares.items()}


def test_a_drift_share_that_is_not_given_is_that_of_the_world():
    # To the bit: None, and the share of the world given for every response.
    plain = make(drift={"share": 0.3})
    named = make(drift={"share": 0.3}, effects=with_drift(**dict.fromkeys(HEADS, 0.3)))
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(plain, name), getattr(named, name))
    for a, b in zip(plain.main_effects(5), named.main_effects(5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_response_can_drift_alone():
    still = make(drift={"share": 0.0})
    alone = make(drift={"share": 0.0}, effects=with_drift(amount=0.5))
    all_of_them = make(drift={"share": 0.5})
    others = [k for k, head in enumerate(HEADS) if head != "amount"]
    for before, after, fixed, usual in zip(
        *(alone.main_effects(0), alone.main_effects(9), still.main_effects(0)),
        all_of_them.main_effects(9),
        strict=True,
    ):
        np.testing.assert_array_equal(after[:, others], fixed[:, others])
        assert np.abs(after[:, 3] - before[:, 3]).max() > 0.1
        # What drifts moves as it does if everything drifts.
        np.testing.assert_array_equal(after[:, 3], usual[:, 3])
    # And one can stand still alone.
    frozen = make(drift={"share": 0.5}, effects=with_drift(amount=0.0))
    for a, b in zip(frozen.main_effects(0), frozen.main_effects(9), strict=True):
        np.testing.assert_array_equal(a[:, 3], b[:, 3])
        assert np.abs(a[:, others] - b[:, others]).max() > 0.1


def test_drift_keeps_the_variance_of_the_main_effects():
    # Half of the variance drifts. Over 30 steps of 168 h (correlation e^-1) the user effects'
    # variance, relative to sd^2 x user_share, averages 1.
    config = WorldConfig(entities=SMALL, drift={"share": 0.5, "step_hours": 168.0})
    structure = Structure(config, 0)
    sd = np.array([getattr(config.effects, head).sd for head in HEADS])
    variances = []
    for step in range(30):
        user = structure.main_effects(step)[0]
        mean = np.average(user, axis=0, weights=structure.user_weights)
        variances.append(np.average((user - mean) ** 2, axis=0, weights=structure.user_weights))
    ratio = np.mean(variances, axis=0) / (0.45 * sd**2)
    np.testing.assert_allclose(ratio, 1.0, rtol=0.2)


@pytest.mark.parametrize(("hours", "step"), [(0.0, 0), (23.99, 0), (24.0, 1), (167.5, 6)])
def test_drift_step_counts_days(small, hours, step):
    assert small.drift_step(hours) == step


def test_cached_tables_equal_recomputed_ones():
    structure = make()
    order = [*range(20), 3, 0, 19, 18]  # 16 are kept
    seen = {step: structure.tables(step) for step in order}
    fresh = make()
    for step in reversed(range(20)):
        for ours, theirs in zip(seen[step], fresh.tables(step), strict=True):
            np.testing.assert_array_equal(np.hstack(ours), np.hstack(theirs))


def test_tables_hold_effects_latents_and_noise(small):
    tables = small.tables(2)
    user, item, context = small.main_effects(2)
    # float32 of the partial sums, 8 latents and 3 noise components.
    expected = np.hstack([user, small.user_latent, small.user_noise])
    np.testing.assert_allclose(tables.user, expected, rtol=1e-6, atol=1e-6)
    assert tables.user.shape == (3_000, 5 + LATENT_DIM + NOISE_DIM)
    np.testing.assert_allclose(tables.item, item, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        tables.context, np.hstack([context, small.context_noise]), rtol=1e-6, atol=1e-6
    )


def test_population_structure_has_a_catalogue_per_advertiser():
    structure = make(market={"kind": "population", "population": {"n_advertisers": 5}})
    assert structure.num_items == 5 * 20
    assert structure.item_ids.shape == (100, 6)
    assert structure.item_weights.shape == (20,)
    assert structure.rival_draws.shape == (4, 5)


def test_refund_curve_by_hand():
    # Logits of .499 .423 .349 .315 .347 relative to the first; half way between CVR .1 and .3.
    logit = np.log(np.array([0.499, 0.423, 0.315]) / (1 - np.array([0.499, 0.423, 0.315])))
    expected = [0.0, 0.0, 0.5 * (logit[1] - logit[0]), logit[2] - logit[0]]
    found = refund_curve(WorldConfig(), np.array([0.02, 0.1, 0.2, 0.7]))
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_repurchase_logit_follows_the_list_price():
    # A slope of -.8 per standard deviation of the log list price, which is .6, and no other change.
    entities = SMALL | {"items_per_advertiser": 400}
    plain, sloped = (
        Structure(WorldConfig(entities=entities, purchase={"price_dependence": slope}), 0)
        for slope in (0.0, -0.8)
    )
    np.testing.assert_array_equal(plain.list_price, sloped.list_price)
    _, before, _ = plain.main_effects(3)
    _, after, _ = sloped.main_effects(3)
    np.testing.assert_array_equal(after[:, :4], before[:, :4])
    change = after[:, 4] - before[:, 4]
    np.testing.assert_allclose(change, -0.8 * np.log(sloped.list_price / 100.0) / 0.6, atol=1e-12)
    for entity in (0, 2):  # users and contexts
        np.testing.assert_array_equal(plain.main_effects(3)[entity], sloped.main_effects(3)[entity])


@pytest.mark.parametrize("slope", [-1.0, 1.0])
def test_mean_repurchase_share_does_not_depend_on_the_price_knob(slope):
    config = WorldConfig(drift={"share": 0.0}, purchase={"price_dependence": slope})
    z, rng = draw_responses(Structure(config, 0), 200_000)
    effects, intent = config.effects, rng.standard_normal(200_000)
    bought = expit(z[:, 0]) * expit(z[:, 1] + effects.unseen_intent_conversion * intent)
    several = expit(z[:, 4] + effects.unseen_intent_repurchase * intent)
    rate = config.purchase.repurchase_rate
    assert np.average(several, weights=bought) == pytest.approx(rate, rel=0.05)
