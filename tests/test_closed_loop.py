"""The whole stack in the loop: correct, predict, learn, and see nothing of the future."""

import pytest
from small_stacks import GMV, NETCVR, SMALL, small_warm_up
from threads import one_thread

from adsim.checks import check_no_leak
from adsim.types import Target
from scenarios.build import make_auction_env
from scenarios.estimates import EstimatesWrapper
from scenarios.requests import sample_requests
from scenarios.schema import load
from scenarios.stack import Estimates
from scenarios.stacks import make_stack

NOISY = {
    "platform_noise.ctr_sd": 0.5,
    "platform_noise.cvr_sd": 0.3,
    "traffic.impressions_per_tick": 60,
}


NARROW = {
    "tesla": NETCVR,
    "reader": GMV,
    "refund_share": {"embedding_dim": 2, "batch_size": 16},
    None: {},
}


class NarrowWarmUp:
    """The warm-up of the small world with networks of a few units instead of the deployed ones."""

    requests = sample_requests(load("default", SMALL | NOISY).world, 300)

    def predictor(self, name, **settings):
        return small_warm_up().predictor(name, **NARROW[name], **settings)

    def cvr_line(self, name, **settings):
        return small_warm_up().cvr_line(name, **NARROW[name], **settings)

    def gmv_factor(self, name=None, **settings):
        return small_warm_up().gmv_factor(name, **NARROW[name], **settings)


@pytest.fixture(scope="module")
def full():
    """Rung 5: TESLA and READER with MI-DPG layers, and DenoiseBid of what the platform shows."""
    with one_thread():
        stack = make_stack("full", NarrowWarmUp())
    for target in (Target.CVR, Target.REFUND_RATE, Target.GMV):
        assert stack.sources[target].config.backbone == "mi_dpg"
    assert stack.correctors.keys() == {Target.CTR, Target.CVR}
    return stack


@pytest.mark.parametrize("market", [{}, {"market.kind": "population"}])
def test_nothing_leaks_through_the_whole_stack(full, market):
    made, shown = [], []

    def make():
        made.append(
            EstimatesWrapper(
                make_auction_env(overrides=SMALL | NOISY | market),
                full,
                learn_every=1,
                explore_share=0.2,
            )
        )
        return made[-1]

    def estimates(obs, info):
        shown.append({name: obs[name] for name in Estimates._fields})
        return shown[-1]

    with one_thread():
        assert check_no_leak(make, estimates=estimates) > 30  # pending events rewritten
    assert len(shown) == 2 * 8  # every tick of both
    for wrapper in made:  # it did learn
        assert wrapper.stack is not full
        assert all(p.trained_rows > 0 for p in wrapper.stack.predictors)


def test_oracle_stack_leaks_and_is_noticed():
    # What privileged estimates show does depend on hidden values: the check must find it.
    def make():
        return EstimatesWrapper(make_auction_env(overrides=SMALL), make_stack("oracle"))

    with pytest.raises(AssertionError, match="shows the future"):
        check_no_leak(make, estimates=lambda obs, info: obs["expected_net_value"])
