"""Every scenario, every agent that it names, one seed, small."""

import numpy as np
import pytest

from scenarios import load, names
from scenarios.results import concat, summarise
from scenarios.run import run

SMALL = {
    "time.num_ticks": 16,
    "time.tick_hours": 6.0,
    "traffic.impressions_per_tick": 60.0,
    "entities.num_users": 300,
    "entities.num_contexts": 128,
    "campaign.budget": 20.0,
}


@pytest.mark.parametrize("name", names())
def test_scenario_runs_and_adds_up(name):
    scenario = load(name, SMALL)
    tables = concat(list(run(scenario, list(scenario.agents), [0])))
    assert len(tables.trials) == len(scenario.agents)
    trials = tables.trials.set_index("agent")
    ticks = tables.ticks.groupby("agent")
    np.testing.assert_allclose(ticks["reward"].sum(), trials["net_value"].sort_index(), atol=1e-9)
    np.testing.assert_allclose(ticks["spend"].sum(), trials["spend"].sort_index(), atol=1e-9)
    assert (trials["spend"] <= trials["budget"] + 1e-9).all()
    assert (tables.events["delay_hours"] >= 0).all()
    assert (tables.events["tick"] >= tables.events["decision_tick"]).all()
    rows = summarise(tables.trials)
    assert [row["agent"] for row in rows] == list(scenario.agents)


def test_agents_of_a_seed_meet_the_same_traffic():
    tables = concat(list(run(load("default", SMALL), ["dual", "value"], [0, 1])))
    for _, part in tables.trials.groupby("seed"):
        assert part["impressions"].nunique() == 1
        assert part["hindsight"].nunique() == 1
    both = tables.auctions.pivot_table(
        index=["seed", "tick", "price"], columns="agent", values="bid"
    )
    assert both.notna().all().all()
