"""Folders of results with numbers that can be checked by hand."""

import pandas as pd

from scenarios import results
from scenarios.results import Tables

EMPTY = pd.DataFrame()
TICKS = 3  # of 12 hours
BONUS = {"a": 0.0, "b": 5.0}  # of an agent; its share of seed differences is 0


def value_of(budget, agent, estimates, seed):
    """Expected net value: 10 per budget, 5 for agent b, 100 for the oracle, and the seed."""
    return 10.0 * budget + BONUS[agent] + (100.0 if estimates == "oracle" else 0.0) + seed


def campaign(name, budget, agent, estimates, seed, structure=0):
    """Tables of one trial: it spends a half, a third and a sixth of its budget."""
    label = {"trial": name, "scenario": "small", "campaign.budget": budget, "agent": agent}
    label |= {"estimates": estimates, "structure": structure, "seed": seed}
    value = value_of(budget, agent, estimates, seed)
    counts = dict.fromkeys(("impressions", "wins", "clicks", "purchases", "refunds"), 2)
    row = {**label, **counts, "gmv": 40.0, "refunded": 10.0, "net_gmv": 30.0, "margin": 0.5}
    row |= {"spend": float(budget), "budget": float(budget), "net_value": value - 1.0}
    row |= {"expected_net_value": value, "hindsight": 2 * value, "share_of_hindsight": 0.5}
    row |= {"net_roas": 30.0 / budget, "pacing_rmse": 0.1, "status": "done", "error": ""}
    ticks = pd.DataFrame(
        {
            "tick": range(TICKS),
            "hours": [0.0, 12.0, 24.0],
            "spend": [budget / 2, budget / 3, budget / 6],
            "target_spend": [budget / 3] * TICKS,
            "gmv": [0.0, 30.0, 10.0],
            "refunded": [0.0, 0.0, 10.0],
            "matured_net_gmv": [0.0, 0.0, 30.0],
            "accrued_net_gmv": [30.0, 0.0, 0.0],
        }
    )
    return Tables(pd.DataFrame([row]), ticks.assign(**label), curves(label), EMPTY, EMPTY)


def curves(label):
    """40 clicks of predicted CVR .5, of which 10 buy, and 60 of .8, of which 60 do; and so on."""
    rows = [
        ("calibration", "cvr", 10**-0.4, 10**-0.2, 40.0, 20.0, 10.0),
        ("calibration", "cvr", 10**-0.2, 1.0, 60.0, 48.0, 60.0),
        ("delay", "refund", 0.0, 1 / 60, 1.0, float("nan"), float("nan")),
        ("delay", "refund", 1 / 60, 0.02, 3.0, float("nan"), float("nan")),
        ("price", "won", 1.0, 10**0.1, 3.0, float("nan"), float("nan")),
        ("price", "lost", 1.0, 10**0.1, 1.0, float("nan"), float("nan")),
        ("price", "paid", 1.0, 10**0.1, 3.0, float("nan"), float("nan")),
    ]
    columns = ["curve", "series", "low", "high", "count", "predicted", "observed"]
    return pd.DataFrame(rows, columns=columns).assign(**label)


def failed(name, budget, agent, seed, error, estimates="platform"):
    """Tables of a trial that failed."""
    label = {"trial": name, "scenario": "small", "campaign.budget": budget, "agent": agent}
    label |= {"estimates": estimates, "structure": 0, "seed": seed}
    row = pd.DataFrame([{**label, "status": "failed", "error": error}])
    return Tables(row, EMPTY, EMPTY, EMPTY, EMPTY)


def campaigns(budgets=(10, 20), agents=("a", "b"), estimates=("platform",), seeds=(0, 1, 2)):
    """Tables of all combinations, one after the other."""
    return [
        campaign(f"{budget}{agent}{stack}{seed}", budget, agent, stack, seed)
        for budget in budgets
        for agent in agents
        for stack in estimates
        for seed in seeds
    ]


ABOUT = {
    "kind": "sweep",
    "command": "adsim sweep small.toml",
    "sweep": {"name": "small", "description": "two budgets & two agents"},
    "scenario": {"name": "small"},
    "axes": ["campaign.budget"],
    "agents": ["a", "b"],
    "estimates": ["platform"],
    "seeds": [0, 1, 2],
    "git": "0123456789abcdef",
    "adsim": "0.1.0",
}


def save(folder, parts=None, **about):
    """A folder of results; returns it."""
    results.save(campaigns() if parts is None else parts, folder, ABOUT | about)
    return folder
