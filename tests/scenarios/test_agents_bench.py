"""Campaigns of the bench on small worlds: which are played, found targets, tables, command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import adsim
from small_stacks import SIZE
from small_worlds import write_scenario

from adsim.env import AuctionEnv
from agents import AGENTS
from scenarios import agents_tasks
from scenarios.agents_bench import PRESETS, choose_plays
from scenarios.agents_tasks import BOUND, CONSTRAINTS, PLAYERS, TARGET_OF, Play, Targets
from scenarios.build import make_agent, make_world
from scenarios.estimates import EstimatesWrapper
from scenarios.run import play
from scenarios.schema import load
from scenarios.stacks import make_stack

TARGETS = Targets(cpc=3.0, net_cpa=12.0, net_roas=20.0)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_scenario(tmp_path_factory.mktemp("scenarios") / "small.toml")


def test_every_agent_is_played_or_left_out_for_a_reason():
    assert set(PLAYERS) == set(AGENTS) - {"ss_mdp", "rlb"}  # they need whole-numbered prices
    assert {a for name in PRESETS for a in PRESETS[name].players} <= set(PLAYERS)


def test_campaigns_are_played_once_for_all_targets_that_do_not_matter(small):
    plays = choose_plays(scenarios=[small], seeds=[4])
    assert [(p.agent, p.constraint) for p in plays] == [
        ("dual", "budget"),
        *((name, target) for name, target in TARGET_OF.items()),
        ("shading", "budget"),
        *((BOUND, constraint) for constraint in CONSTRAINTS),
    ]


@pytest.mark.parametrize("name", sorted(set(PLAYERS) - {BOUND}))
def test_only_agents_with_a_target_bid_by_targets(small, name):
    bids = []
    for targets in (None, TARGETS):
        ask = Play(small, "platform", name, "budget", 0)
        world = agents_tasks.scenario_of(ask, None).world
        env = AuctionEnv(make_world(world))
        obs, _ = env.reset(seed=0)
        terms = env.campaign
        if targets is not None:
            terms = terms._replace(targets=terms.targets._replace(**targets._asdict()))
        agent = make_agent(name)
        agent.reset(terms)
        bids.append(agent.act(obs))
    assert np.array_equal(*bids) == (name not in TARGET_OF)


def test_targets_are_tighter_than_what_pacing_reaches():
    rows = [{"scenario": "s", "spend": 60.0, "expected_clicks": 10.0, "expected_kept": 2.0}] * 2
    rows = [row | {"expected_net_gmv": 600.0} for row in rows]
    # 120 / 20 x .8; 120 / 4 x .8; 1200 / 120 / .8
    assert agents_tasks.found_targets(rows) == Targets(4.8, 24.0, 12.5)
    with pytest.raises(ValueError, match="scenario s: no targets, as pacing spends 0"):
        agents_tasks.found_targets([rows[0] | {"spend": 0.0}])


def test_credit_by_hand():
    sums = {"clicks": 10, "kept": 2, "net_gmv": 600}
    credits = [TARGETS.credit(name, sums) for name in CONSTRAINTS[1:]]
    assert credits == [30, 24, 30]


def test_one_loop_plays_wrapped_environments(small):
    plain = AuctionEnv(make_world(load(small).world))
    wrapped = EstimatesWrapper(AuctionEnv(make_world(load(small).world)), make_stack("platform"))
    first, second = (play(env, make_agent("dual"), 3)[0] for env in (plain, wrapped))
    # The platform's estimates, once in its own words and once in those of the wrapper.
    assert first == second


def test_a_result_is_read_with_the_same_settings_only(small, tmp_path):
    ask = Play(small, "oracle", "dual_cpa", "net_cpa", 2)
    agents_tasks.run(ask, TARGETS, tmp_path, tmp_path)
    found = agents_tasks.read(ask, TARGETS, tmp_path)
    assert found is not None
    row = found["row"]
    assert row["scenario"] == "small"
    assert 0 < row["kept"] <= row["clicks"]
    assert row["expected_kept"] == pytest.approx(row["kept"], abs=4 * row["kept"] ** 0.5)
    assert agents_tasks.read(ask, TARGETS._replace(net_cpa=13.0), tmp_path) is None
    ask.file(tmp_path).write_text("{}")
    assert agents_tasks.read(ask, TARGETS, tmp_path) is None


def test_the_bound_exceeds_every_agent_that_keeps_the_target(small, tmp_path):
    for agent, constraint in (("dual", "budget"), *TARGET_OF.items()):
        rows = []
        for name in (agent, BOUND):
            ask = Play(small, "oracle", name, constraint, 1)
            agents_tasks.run(ask, TARGETS, tmp_path, tmp_path)
            rows.append(agents_tasks.read(ask, TARGETS, tmp_path)["row"])
        played, bound = rows
        if constraint == "budget":
            assert bound["expected_net_value"] >= played["expected_net_value"]
        else:
            expected = {k: bound[f"expected_{k}"] for k in ("clicks", "kept", "net_gmv")}
            assert bound["spend"] <= TARGETS.credit(constraint, expected) * (1 + 1e-6)
        assert bound["spend"] <= bound["budget"] * (1 + 1e-9)


def test_command_writes_tables_and_a_figure_and_goes_on(small, tmp_path):
    out, cache = tmp_path / "out", tmp_path / "cache"
    options = ["bench", "agents", "--scenario", small, "--seeds", "0-1", "--jobs", 1]
    options += ["--estimates", "platform", "--out", out, "--cache", cache, "--json"]
    status, text, _ = adsim(*options)
    assert status == 0
    rows = json.loads(text)["rows"]
    agents = [row["agent"] for row in rows if row["constraint"] == "net_cpa"]
    assert agents == ["dual", "dual_cpa", "shading", BOUND]
    for row in rows:
        assert row["seeds"] == 2
        assert 0 < row["spend_share"] <= 1 + 1e-9
        assert (row["target"] is None) == (row["constraint"] == "budget")
    assert len(pd.read_parquet(out / "table.parquet")) == len(rows)
    assert len(pd.read_parquet(out / "trials.parquet")) == 2 * (2 + 3 + 4)
    assert (out / "shares.png").stat().st_size > 10_000
    status, again, errors = adsim(*options)
    assert (status, json.loads(again)["rows"]) == (0, rows)
    assert "bench agents: 18 of 18 taken from" in errors
    assert json.loads((out / "table.json").read_text())["settings"]["played"] == 0


def test_command_prints_a_table_per_constraint(small, tmp_path):
    options = ["--scenario", small, "--seeds", "0", "--jobs", 1, "--estimates", "platform"]
    folders = ["--out", tmp_path, "--cache", tmp_path / "cache"]
    options += ["--constraint", "cpc", "-a", "dual", "-a", "dual_cpc", *folders]
    status, text, _ = adsim("bench", "agents", *options)
    assert status == 0
    assert "small, cap on CPC" in text
    assert "net CPA" not in text
    assert "dual_cpc" in text


def test_a_population_has_the_bound_of_its_budget(tmp_path):
    path = tmp_path / "rivals.toml"
    many = write_scenario(path, **{"market.kind": "population"})
    options = ["--scenario", many, "--seeds", "0", "--jobs", 1, "--estimates", "platform"]
    folders = ["--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    status, text, _ = adsim("bench", "agents", *options, *folders, "--json")
    assert status == 0
    rows = json.loads(text)["rows"]
    assert {row["bound"] for row in rows} == {"budget only"}
    assert BOUND not in {row["agent"] for row in rows}
    assert all(row["share_of_hindsight"] is not None for row in rows)


def test_learned_estimates_are_warmed_up_once(small, tmp_path, monkeypatch):
    monkeypatch.setattr(agents_tasks, "SIZE", SIZE)
    options = ["--scenario", small, "--seeds", "0", "--jobs", 1, "--estimates", "fnc"]
    options += ["--constraint", "budget", "-a", "dual"]
    folders = ["--out", tmp_path / "out", "--cache", tmp_path / "cache"]
    assert adsim("bench", "agents", *options, *folders)[0] == 0
    trained = {file: file.stat().st_mtime_ns for file in Path(tmp_path / "cache").iterdir()}
    assert {file.name.partition("-")[0] for file in trained} == {"fnc", "gmv_factor", "cvr_line"}
    ask = Play(small, "fnc", "linear", "budget", 0)
    agents_tasks.run(ask, None, tmp_path / "out", tmp_path / "cache")
    assert {file: file.stat().st_mtime_ns for file in trained} == trained


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preset", "x"], "preset 'x' does not exist: one of quick, full"),
        (["--constraint", "x"], "constraint 'x' does not exist: one of budget, cpc"),
        (["--agent", "rlb"], "agent 'rlb' does not exist: one of dual"),
        (["--estimates", "x"], "estimates 'x' does not exist: one of platform"),
        (["--scenario", "x"], "scenario 'x' does not exist"),
        (["--seeds", "1000"], r"--seeds: must be in \[0, 1000\), got 1000"),
        (["--jobs", "0"], "--jobs: must be >= 1, got 0"),
        (["--agent", "dual_cpc", "--constraint", "budget"], "nothing to play"),
    ],
)
def test_faults_of_the_user_end_with_status_2(options, message, tmp_path):
    status, _, errors = adsim("bench", "agents", *options, "--out", tmp_path)
    assert status == 2
    assert pd.Series([errors]).str.contains(message).all()
