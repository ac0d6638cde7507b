import numpy as np
import pytest

from adsim.types import Estimate, Impressions, Target
from predictors import PREDICTORS, OraclePredictor
from predictors.base import compose_net_value, register_predictor
from scenarios.build import make_auction_env

CTR, CVR, GMV, NET_CVR = Target.CTR, Target.CVR, Target.GMV, Target.NET_CVR
RATE, SHARE = Target.REFUND_RATE, Target.REFUND_VALUE_SHARE
SMALL = {"traffic.impressions_per_tick": 40.0, "time.num_ticks": 4, "entities.num_users": 200}


def estimates(**means):
    """Of the given targets, by lower-case name; `std` is not 0, and plays no part."""
    arrays = {Target(name): np.array(mean, float) for name, mean in means.items()}
    return {target: Estimate(mean, np.full(mean.shape, 0.5)) for target, mean in arrays.items()}


# Two impressions: of 1,000 shown, 100 and 20 clicks; 5 and 10 buy, for 100 and 40 each.
TWO = {"ctr": [0.1, 0.02], "cvr": [0.05, 0.5], "gmv": [100.0, 40.0]}


@pytest.mark.parametrize(
    ("refund", "expected"),
    [
        # Margin .3: .3 x .1 x .05 x 100 = .15 and .3 x .02 x .5 x 40 = .12, less what comes back.
        ({"refund_value_share": [0.5, 0.25]}, [0.075, 0.09]),
        ({"refund_rate": [0.2, 0.0]}, [0.12, 0.12]),
        ({"net_cvr": [0.04, 0.125]}, [0.12, 0.03]),  # 4 of 5 are kept, and a quarter
        # The share goes before the rate, the rate before NetCVR.
        ({"refund_value_share": [0.5, 0.25], "refund_rate": [0.2, 0.0]}, [0.075, 0.09]),
        ({"refund_rate": [0.2, 0.0], "net_cvr": [0.05, 0.5]}, [0.12, 0.12]),
        ({"refund_rate": [1.0, 0.0]}, [0.0, 0.12]),
    ],
)
def test_net_value_by_hand(refund, expected):
    found = compose_net_value(estimates(**TWO, **refund), margin=0.3)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_net_value_needs_no_cvr_where_net_cvr_says_it():
    found = compose_net_value(estimates(ctr=[0.1], gmv=[100.0], net_cvr=[0.04]), margin=1.0)
    assert found == pytest.approx(0.4)


def test_net_value_of_no_impressions():
    nothing = estimates(ctr=[], cvr=[], gmv=[], refund_rate=[])
    assert compose_net_value(nothing, margin=0.5).shape == (0,)


def test_estimates_stay_as_they_are():
    given = estimates(**TWO, refund_rate=[0.2, 0.0])
    compose_net_value(given, margin=0.3)
    assert given[CTR].mean.tolist() == TWO["ctr"]
    assert given[RATE].mean.tolist() == [0.2, 0.0]


@pytest.mark.parametrize("scenario", ["default", "heavy_refund", "repurchase", "price_refunds"])
def test_exact_estimates_compose_to_the_exact_value(scenario):
    env, model = make_auction_env(scenario, SMALL), OraclePredictor()
    obs, _ = env.reset(seed=3)
    model.attach(env.oracle())
    ids = np.arange(obs["mask"].size)
    shown = Impressions(ids, obs["time_hours"], obs["features"], obs["scene"], obs["mask"])
    exact, truth = model.predict(shown), env.oracle().truth()
    found = compose_net_value(exact, margin=env.campaign.margin)
    real = obs["mask"] > 0
    expected = env.campaign.margin * truth.p_click * truth.net_gmv
    np.testing.assert_allclose(found[real], expected[real], rtol=1e-12)
    assert (found[~real] == 0).all()
    np.testing.assert_allclose(found, env.oracle().expected_net_value(), rtol=1e-12)
    # With the refund rate instead it is about right, but too high where dear goods come back.
    del exact[SHARE]
    fallback = compose_net_value(exact, margin=env.campaign.margin)[real]
    ratio = fallback.sum() / expected[real].sum()
    assert 1.2 < ratio < 1.35 if scenario == "price_refunds" else 0.97 < ratio < 1.03
    del exact[RATE]
    again = compose_net_value(exact, margin=env.campaign.margin)[real]
    np.testing.assert_allclose(again, fallback, rtol=1e-12)


@pytest.mark.parametrize("margin", [0.0, -0.1, 1.01, np.nan])
def test_margin_out_of_range_is_refused(margin):
    with pytest.raises(ValueError, match=r"margin must be in \(0, 1\], got"):
        compose_net_value(estimates(**TWO, refund_rate=[0.2, 0.0]), margin=margin)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("cvr", "gmv", "refund_rate"), "must have ctr; got cvr, gmv, refund_rate"),
        (("ctr", "refund_value_share"), "must have cvr, gmv; got"),
        (("ctr", "cvr", "net_cvr"), "must have gmv; got"),
        (("ctr", "cvr", "gmv"), "must have refund_value_share or refund_rate or net_cvr; got"),
        (("ctr", "gmv"), "must have cvr, refund_value_share or refund_rate or net_cvr; got"),
    ],
)
def test_missing_estimates_are_named(names, missing):
    given = estimates(**{name: [0.5] for name in names})
    with pytest.raises(ValueError, match=missing):
        compose_net_value(given, margin=0.3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gmv": [100.0]}, r"gmv must have shape \(2,\) as ctr, got \(1,\)"),
        ({"refund_rate": 0.2}, r"refund_rate must have shape \(2,\) as ctr, got \(\)"),
        ({"ctr": [[0.1, 0.02]]}, r"ctr must have shape \(M,\), got \(1, 2\)"),
        ({"cvr": [0.05, 1.5]}, r"cvr must be in \[0, 1\], got 1.5 at place 1"),
        ({"refund_rate": [-0.1, 0.0]}, r"refund_rate must be in \[0, 1\], got -0.1 at place 0"),
        ({"gmv": [100.0, np.inf]}, "gmv must be finite and >= 0, got inf at place 1"),
        ({"ctr": [np.nan, 0.0]}, r"ctr must be in \[0, 1\], got nan at place 0"),
    ],
)
def test_wrong_estimates_are_named(change, said):
    given = estimates(**(TWO | {"refund_rate": [0.2, 0.0]} | change))
    with pytest.raises(ValueError, match=said):
        compose_net_value(given, margin=0.3)


def test_a_name_is_registered_once():
    before = dict(PREDICTORS)
    try:
        again = register_predictor("twice")
        assert again(object) is object
        assert PREDICTORS["twice"] is object
        with pytest.raises(ValueError, match="'twice' is registered already"):
            again(object)
    finally:
        PREDICTORS.pop("twice", None)
    assert before == PREDICTORS
