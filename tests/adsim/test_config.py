import numpy as np
import pytest
from pydantic import BaseModel, ValidationError

from adsim.config import WorldConfig
from adsim.curves import (
    CONVERSION_DELAY,
    DAILY_TRAFFIC,
    HOURLY_CVR,
    HOURLY_GMV,
    HOURLY_TRAFFIC,
    REFUND_DELAY,
    REPURCHASE_DELAY,
)


def models(model=WorldConfig, seen=None):
    """All configuration models below `model`, itself included."""
    seen = {} if seen is None else seen
    seen[model.__name__] = model
    for field in model.model_fields.values():
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind.__name__ not in seen:
                models(kind, seen)
    return seen


every_model = pytest.mark.parametrize("model", models().values(), ids=models())


def test_models_finds_the_nested_ones():
    assert {
        "WorldConfig",
        "MarketConfig",
        "LandscapeConfig",
        "ShockConfig",
        "TargetsConfig",
    } <= set(models())


@every_model
def test_every_field_is_documented(model):
    assert [name for name, field in model.model_fields.items() if not _described(field)] == []


def _described(field):
    """A section documents itself."""
    kind = field.annotation
    section = isinstance(kind, type) and issubclass(kind, BaseModel)
    return bool(field.description) or section or "ShockConfig" in str(kind)


@every_model
def test_models_are_frozen_and_forbid_unknown_keys(model):
    assert model.model_config["frozen"] is True
    assert model.model_config["extra"] == "forbid"


def test_config_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        WorldConfig().time.num_ticks = 3


def test_config_round_trips_through_json():
    config = WorldConfig(shocks=({"start_hours": 1.0, "end_hours": 2.0, "ctr": 2.0},))
    assert WorldConfig.model_validate_json(config.model_dump_json()) == config


def test_horizon_hours():
    assert WorldConfig().time.horizon_hours == 168.0  # 336 ticks of half an hour


def test_default_rates_are_the_published_ones():
    config = WorldConfig()
    assert (config.conversion.cvr, config.refund.rate) == (0.066, 0.245)
    assert config.purchase.repurchase_rate == 0.5355
    windows = config.windows
    hours = (windows.conversion_hours, windows.gmv_hours, windows.refund_hours)
    assert hours == (72.0, 168.0, 72.0)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"time": {"num_ticks": 0}}, "time.num_ticks"),
        ({"time": {"tick_hours": 0.0}}, "time.tick_hours"),
        ({"time": {"tick_hours": float("inf")}}, "time.tick_hours"),
        ({"time": {"start_hour_of_week": 168.0}}, "time.start_hour_of_week"),
        ({"traffic": {"impressions_per_tick": float("nan")}}, "traffic.impressions_per_tick"),
        ({"traffic": {"profile": "daily"}}, "traffic.profile"),
        ({"entities": {"num_users": 0}}, "entities.num_users"),
        ({"entities": {"user_cardinalities": (8, 0)}}, "entities.user_cardinalities.1"),
        ({"entities": {"cold_scenes": -1}}, "entities.cold_scenes"),
        ({"entities": {"cold_share": 0.0}}, "entities.cold_share"),
        ({"entities": {"cold_share": 1.0}}, "entities.cold_share"),
        ({"entities": {"cold_share": float("nan")}}, "entities.cold_share"),
        ({"effects": {"click": {"sd": -1.0}}}, "effects.click.sd"),
        ({"click": {"ctr": 0.0}}, "click.ctr"),
        ({"click": {"ctr": 1.0}}, "click.ctr"),
        ({"conversion": {"hourly": (1.0,) * 23}}, "conversion.hourly"),
        ({"refund": {"rate": 1.0}}, "refund.rate"),
        ({"refund": {"curve": (0.5,) * 4}}, "refund.curve"),
        ({"purchase": {"continuation": 1.0}}, "purchase.continuation"),
        ({"purchase": {"max_purchases": 33}}, "purchase.max_purchases"),
        ({"campaign": {"margin": 1.5}}, "campaign.margin"),
        ({"campaign": {"budget": 0.0}}, "campaign.budget"),
        ({"structure_seed": -1}, "structure_seed"),
        ({"structure_seed": 2**63}, "structure_seed"),
        ({"market": {"kind": "auction"}}, "market.kind"),
        ({"market": {"exposure": ()}}, "market.exposure"),
        ({"market": {"exposure": (0.0,)}}, "market.exposure.0"),
        ({"market": {"reserve": -0.1}}, "market.reserve"),
        ({"market": {"population": {"n_advertisers": 0}}}, "market.population.n_advertisers"),
        ({"timing": {}}, "timing"),
        ({"time": {"ticks": 3}}, "time.ticks"),
    ],
)
def test_value_out_of_range_raises_naming_the_key(values, key):
    with pytest.raises(ValidationError) as caught:
        WorldConfig.model_validate(values)
    assert ".".join(str(part) for part in caught.value.errors()[0]["loc"]) == key


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"effects": {"user_share": 0.7, "item_share": 0.4}}, r"user_share \+ item_share"),
        (
            {"effects": {"refund": {"sd": 0.5, "interaction_sd": 0.1}}},
            r"refund.interaction_sd must be 0",
        ),
        ({"entities": {"cold_scenes": 4}}, r"cold_scenes must be < num_scenes = 4, got 4"),
        (
            {"entities": {"cold_scenes": 2, "cold_share": 0.5}},
            r"cold_share must be < 1 / cold_scenes = 0.5, got 0.5",
        ),
        ({"windows": {"conversion_hours": 80.0, "gmv_hours": 79.0}}, r"gmv_hours must be >="),
        ({"shocks": [{"start_hours": 2.0, "end_hours": 2.0}]}, r"end_hours must be >"),
        ({"windows": {"conversion_hours": 48.0}}, r"conversion.delay must end .* no more than 48"),
        ({"windows": {"refund_hours": 71.0}}, r"refund.delay must end .* no more than 71"),
        ({"conversion": {"delay": ((1.0, 0.5), (1.0, 1.0))}}, r"conversion.delay must increase"),
        ({"refund": {"delay": ((1.0, 0.9), (2.0, 0.8))}}, r"refund.delay must increase"),
        ({"purchase": {"later_delay": ((0.5, 0.5), (1.1, 1.0))}}, r"later_delay must end"),
        ({"conversion": {"delay": ((1.0, 0.0), (9.0, 1.0))}}, r"greater than 0"),
        ({"conversion": {"delay": ((1.0, 0.5), (9.0, 0.9))}}, r"conversion.delay must end"),
        ({"market": {"exposure": (1.0, 0.5)}}, r"exposure must have one slot in a landscape"),
        ({"market": {"mechanism": "vcg"}}, r"must not be vcg in a landscape market"),
        (
            {"market": {"kind": "population", "mechanism": "gsp", "exposure": (0.5, 0.6)}},
            r"exposure must be non-increasing",
        ),
        (
            {"market": {"kind": "population", "exposure": (1.0, 0.6)}},
            r"mechanism must be first_price, gsp or vcg with more than one slot",
        ),
        ({"market": {"kind": "replay"}}, r"replay.log must name"),
        ({"market": {"population": {"budget_range": (3.0, 2.0)}}}, r"budget_range must be"),
        ({"market": {"population": {"cpa_range": (3.0, 2.0)}}}, r"cpa_range must be"),
        # A CVR of .97 x 1.05 (TESLA's curve at its peak) would be a probability above 1.
        ({"conversion": {"cvr": 0.97}}, r"hourly"),
    ],
)
def test_inconsistent_values_raise(values, message):
    with pytest.raises(ValidationError, match=message):
        WorldConfig.model_validate(values)


@pytest.mark.parametrize(
    "values",
    [
        {"refund": {"rate": 0.0}},
        {"purchase": {"repurchase_rate": 0.0, "max_purchases": 1}},
        {"effects": {"user_share": 0.6, "item_share": 0.4}},
        {"market": {"kind": "population", "mechanism": "vcg", "exposure": (1.0, 0.5, 0.5)}},
        {"market": {"kind": "population", "mechanism": "second_price"}},
        {"conversion": {"delay": ((72.0, 1.0),)}},
        {"entities": {"cold_scenes": 3, "cold_share": 0.333}},
        {"campaign": {"margin": 1.0}},
        {"structure_seed": 2**63 - 1},
    ],
)
def test_values_at_the_border_are_accepted(values):
    assert WorldConfig.model_validate(values)


@pytest.mark.parametrize("knots", [CONVERSION_DELAY, REFUND_DELAY, REPURCHASE_DELAY])
def test_delay_curves_increase_to_1(knots):
    times, shares = np.array(knots).T
    assert (np.diff(times) > 0).all()
    assert (np.diff(shares) > 0).all()
    assert shares[-1] == 1.0


def test_hourly_cvr_has_the_published_mean():
    # TESLA fig. 2: the overall CVR is .0686; the mean of the 24 hours differs a little (.0683).
    assert np.mean(HOURLY_CVR) == pytest.approx(0.0686, rel=0.01)


@pytest.mark.parametrize(
    ("curve", "size"),
    [(HOURLY_CVR, 24), (HOURLY_GMV, 24), (HOURLY_TRAFFIC, 24), (DAILY_TRAFFIC, 7)],
)
def test_profiles_are_positive_and_complete(curve, size):
    assert len(curve) == size
    assert min(curve) > 0
