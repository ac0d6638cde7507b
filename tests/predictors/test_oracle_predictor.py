import numpy as np
import pytest

from adsim.types import Impressions, Target
from predictors import OraclePredictor
from scenarios.build import make_auction_env


@pytest.fixture
def env():
    env = make_auction_env(
        "default",
        {"traffic.impressions_per_tick": 30.0, "time.num_ticks": 4, "entities.num_users": 200},
    )
    env.reset(seed=3)
    return env


def test_oracle_predictor_composes_to_the_expected_net_value(env):
    model, obs = OraclePredictor(), env.reset(seed=3)[0]
    model.attach(env.oracle())
    ids = np.arange(obs["mask"].size)
    impressions = Impressions(ids, obs["time_hours"], obs["features"], obs["scene"], obs["mask"])
    mean = {target: estimate.mean for target, estimate in model.predict(impressions).items()}
    # margin x CTR x CVR x E[GMV | conversion] x (1 - refunded share of GMV)
    net = env.campaign.margin * mean[Target.CTR] * mean[Target.CVR] * mean[Target.GMV]
    net *= 1 - mean[Target.REFUND_VALUE_SHARE]
    np.testing.assert_allclose(net, env.oracle().expected_net_value(), rtol=1e-12, atol=1e-12)


def test_oracle_predictor_needs_an_oracle_and_the_current_tick(env):
    model = OraclePredictor()
    empty = Impressions(
        np.zeros(0, np.int64),
        np.zeros(0),
        np.zeros((0, 22), np.int32),
        np.zeros(0, np.int32),
        np.zeros(0, np.int8),
    )
    with pytest.raises(RuntimeError, match="attach"):
        model.predict(empty)
    model.attach(env.oracle())
    with pytest.raises(ValueError, match="current tick"):
        model.predict(empty)
