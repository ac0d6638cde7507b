import numpy as np
import pytest

from agents.rivals import ScriptedRivals

KINDS = ["value", "linear", "pid", "dual"]


def rivals(num_worlds=1, ticks=4, **kwargs):
    share = np.full(ticks, 1.0 / ticks)
    return ScriptedRivals(KINDS, np.full(4, 40.0), share, num_worlds, **kwargs)


def test_first_multipliers_are_those_of_the_kinds():
    crowd = rivals(2, linear_multiplier=0.4, initial_multiplier=0.8)
    first = crowd.multipliers(np.zeros(2, np.int64), np.full((2, 4), 40.0))
    assert first == pytest.approx(np.tile([1.0, 0.4, 0.8, 0.8], (2, 1)))


def test_pacing_rivals_move_by_the_error_of_their_spend():
    crowd = rivals(proportional=1.0, initial_multiplier=0.8, linear_multiplier=0.4)
    tick, budget = np.zeros(1, np.int64), np.full((1, 4), 40.0)
    crowd.multipliers(tick, budget)
    crowd.observe(tick, np.full((1, 4), 12.0))
    # target 40 / 4 = 10, error -0.2, eta = 1 / 2: dual 0.8 exp(-0.1), PID twice that step
    after = crowd.multipliers(tick + 1, budget - 12.0)
    assert after == pytest.approx(np.array([[1.0, 0.4, 0.8 * np.exp(-0.2), 0.8 * np.exp(-0.1)]]))


def test_worlds_do_not_touch_each_other():
    tick, budget = np.array([0, 1]), np.full((2, 4), 40.0)
    spend = np.array([[3.0, 5.0, 7.0, 9.0], [30.0, 1.0, 2.0, 40.0]])
    both = rivals(2)
    both.multipliers(tick, budget)
    both.observe(tick, spend)
    for world in range(2):
        alone = rivals(1)
        alone.multipliers(tick[[world]], budget[[world]])
        alone.observe(tick[[world]], spend[[world]])
        assert np.array_equal(
            alone.multipliers(tick[[world]], budget[[world]])[0],
            both.multipliers(tick, budget)[world],
        )


def test_reset_restores_the_given_worlds_only():
    tick, budget = np.zeros(3, np.int64), np.full((3, 4), 40.0)
    crowd = rivals(3)
    first = crowd.multipliers(tick, budget)
    crowd.observe(tick, np.full((3, 4), 30.0))
    moved = crowd.multipliers(tick + 1, budget - 30.0)
    crowd.reset(np.array([1]), np.full((1, 4), 40.0))
    again = crowd.multipliers(np.array([1, 0, 1]), budget)
    assert np.array_equal(again[1], first[1])
    assert np.array_equal(again[[0, 2]], moved[[0, 2]])


def test_state_round_trip_continues_exactly():
    rng = np.random.default_rng(0)
    crowd, budget = rivals(2, ticks=20), np.full((2, 4), 40.0)
    states, path = None, []
    for t in range(12):
        tick = np.full(2, t)
        path.append(crowd.multipliers(tick, budget))
        if t == 5:
            states = crowd.get_state()
        crowd.observe(tick, rng.uniform(0, 5, (2, 4)))
    rng = np.random.default_rng(0)
    rng.uniform(0, 5, (5, 2, 4))
    copy = rivals(2, ticks=20)
    copy.set_state(states)
    for t in range(5, 12):
        tick = np.full(2, t)
        assert np.array_equal(copy.multipliers(tick, budget), path[t])
        copy.observe(tick, rng.uniform(0, 5, (2, 4)))


def test_pacing_rivals_spend_their_budget():
    # demand grows with the square of the multiplier: at 1 it is four times the budget
    ticks, budget = 200, 40.0
    crowd = rivals(1, ticks=ticks, initial_multiplier=1.0)
    left = np.full((1, 4), budget)
    for t in range(ticks):
        tick = np.array([t])
        factor = crowd.multipliers(tick, left)
        spend = np.minimum(4 * budget / ticks * factor**2, left)
        left = left - spend
        crowd.observe(tick, spend)
    assert np.all(left[0, 2:] <= 0.03 * budget)
    assert np.all(factor[0, 2:] == pytest.approx([0.5, 0.5], abs=0.1))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kinds": ["magic"] * 4}, "kinds"),
        ({"budgets": np.array([1.0, 2.0])}, "budgets"),
        ({"budgets": np.array([1.0, 2.0, 0.0, 1.0])}, "budgets"),
        ({"expected_traffic_share": np.zeros(4)}, "expected_traffic_share"),
        ({"num_worlds": 0}, "num_worlds"),
        ({"linear_multiplier": 1.5}, "linear_multiplier"),
        ({"gain": -1.0}, "gain"),
        ({"proportional": -1.0}, "proportional"),
    ],
)
def test_rivals_refuse_arguments_out_of_range(change, field):
    arguments = {
        "kinds": KINDS,
        "budgets": np.full(4, 40.0),
        "expected_traffic_share": np.full(4, 0.25),
    }
    with pytest.raises(ValueError, match=field):
        ScriptedRivals(**(arguments | change))


def test_set_state_refuses_arrays_of_another_shape():
    with pytest.raises(ValueError, match="log_multiplier"):
        rivals().set_state(rivals(2).get_state())
