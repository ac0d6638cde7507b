"""What layers weighted per scene are for: TESLA's CVR in scenes that truly differ."""

from functools import cache

import numpy as np
import pytest
from small_predictors import impressions

from adsim.clicklog import generate
from adsim.types import Target
from predictors import PREDICTORS
from predictors.grouped_metrics import auc_by_group
from predictors.stream import Split
from scenarios.schema import load

SCENE = 6  # after four user and item fields and the ids of both
SPLIT = Split(pretrain_days=4, stream_start_day=10, stream_end_day=11, segment_days=0.25)
WORLD = {
    "entities.cold_scenes": 0,
    "entities.scene_exponent": 0.0,  # 16 scenes of equal traffic
    "entities.num_users": 2_000,
    **{f"entities.{who}_cardinalities": [8, 4] for who in ("user", "item", "context")},
    "click.ctr": 0.3,
    "conversion.cvr": 0.3,
    "effects.conversion.sd": 0.3,
    "effects.conversion.interaction_sd": 3.0,
    "time.num_ticks": 132,
    "time.tick_hours": 2.0,
    "traffic.impressions_per_tick": 1_000,
    "traffic.slots_per_tick": 8_192,
}


@cache
def log():
    """Some 131,000 clicks of 11 days."""
    return generate(load("multi_scene", WORLD).world, 0)


def macro_auc(**settings):
    """Expected AUC of CVR, mean over scenes, on the clicks of the last day; and parameters."""
    clicks = log()
    assert clicks.cardinalities[SCENE] == 16
    cls = PREDICTORS["tesla"]
    config = cls.config_class(scene_field=SCENE, batch_size=128, **settings)
    predictor = cls(clicks.cardinalities, config).fit(clicks, SPLIT)
    rest = clicks.click_time >= SPLIT.start_second
    features = clicks.features[rest]
    cvr = predictor.predict(impressions(features))[Target.CVR].mean
    scores = auc_by_group(clicks.p_convert[rest], cvr, features[:, SCENE])
    assert np.isfinite(scores.auc).all()
    return scores.auc.mean(), predictor.num_parameters.total


# Slow, 10 s: three networks learn from 47,000 clicks each.
@pytest.mark.slow
def test_scenes_that_differ_are_ranked_better_than_by_plain_layers_of_as_many_parameters():
    mine, size = macro_auc(backbone="mi_dpg", widths=(16, 8))
    plain, least = macro_auc(widths=(16, 8))
    other, most = macro_auc(widths=(40, 20))
    assert least < size < most
    assert mine > plain + 0.01
    assert mine > other + 0.005
