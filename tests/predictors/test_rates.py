import numpy as np
import pytest

from adsim.types import AuctionResult, EventBatch, Impressions, Target, Window
from predictors import PREDICTORS, RunningRatePredictor


def impressions(m):
    return Impressions(
        np.arange(m),
        np.zeros(m),
        np.zeros((m, 2), np.int32),
        np.zeros(m, np.int32),
        np.ones(m, np.int8),
    )


def window(won, clicked, kinds=(), orders=(), amounts=()):
    n = len(kinds)
    events = EventBatch(
        np.zeros(n, np.int64),
        np.zeros(n),
        np.array(kinds, np.int8),
        np.zeros(n, np.int64),
        np.array(orders, np.int16),
        np.array(amounts, float),
    )
    m = len(won)
    result = AuctionResult(
        np.array(won, bool), np.ones(m), np.array(clicked, bool), np.zeros(m, np.int8)
    )
    return Window(1.0, impressions(m), result, impressions(0), events)


def test_running_rate_counts_what_was_seen():
    model = RunningRatePredictor(10.0, ctr=0.1, cvr=0.2, refund_rate=0.5, gmv=50.0)
    # 4 shown, 2 clicked; one converts with purchases 100 and 20, the first is refunded.
    model.partial_fit(window([1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 2], [0, 1, 0], [100, 20, 100]))
    means = {target: estimate.mean[0] for target, estimate in model.predict(impressions(3)).items()}
    assert means[Target.CTR] == pytest.approx((1 + 2) / 14)
    assert means[Target.CVR] == pytest.approx((2 + 1) / 12)
    assert means[Target.REFUND_RATE] == pytest.approx((5 + 1) / 11)
    assert means[Target.GMV] == pytest.approx((500 + 120) / 11)
    assert means[Target.NET_CVR] == pytest.approx(3 / 12 * (1 - 6 / 11))


def test_running_rate_ignores_an_empty_window():
    model = RunningRatePredictor()
    before = model.predict(impressions(2))[Target.CVR].mean
    model.partial_fit(window([], []))
    np.testing.assert_array_equal(before, model.predict(impressions(2))[Target.CVR].mean)


@pytest.mark.parametrize(
    ("field", "value"), [("strength", 0.0), ("ctr", 1.5), ("cvr", -0.1), ("gmv", float("nan"))]
)
def test_running_rate_rejects_values_out_of_range(field, value):
    with pytest.raises(ValueError, match=field):
        RunningRatePredictor(**{field: value})


def test_registry_names_the_baseline_and_the_oracle():
    assert set(PREDICTORS) >= {"running_rate", "oracle"}
    assert PREDICTORS["oracle"].privileged
    assert not PREDICTORS["running_rate"].privileged
