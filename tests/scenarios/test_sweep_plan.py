"""Sweep files: what they may say, and the trials that follow."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_sweeps import sweep_file
from small_worlds import SMALL_WORLD

from scenarios.schema import ScenarioError
from scenarios.sweep_config import Distribution, RandomAxes, Range, Sweep
from scenarios.sweep_plan import grid, load_plan


def sweep(**entries):
    return Sweep.model_validate({"name": "s", **entries})


def points(**entries):
    return [tuple(point.values()) for point in grid(sweep(**entries))]


def test_ranges_by_hand():
    assert Range(start=0, stop=1, num=3).values() == [0.0, 0.5, 1.0]
    assert Range(start=1, stop=2, step=0.3).values() == [1.0, 1.3, 1.6, 1.9]
    assert Range(start=1, stop=100, num=3, log=True).values() == [1, 10, 100]
    assert Range(start=2, stop=6, step=2).values() == [2, 4, 6]
    assert all(isinstance(value, int) for value in Range(start=2, stop=6, step=2).values())


def test_grid_is_the_product_of_axes_zips_and_draws():
    axes = {"campaign.budget": [100, 200], "market.reserve": {"start": 0, "stop": 0.1, "num": 2}}
    assert points(axes=axes) == [(100, 0.0), (100, 0.1), (200, 0.0), (200, 0.1)]
    zipped = {"time.num_ticks": [24, 48], "time.tick_hours": [1.0, 0.5]}
    assert points(axes={"a": [1, 2]}, zip=[zipped]) == [
        *((1, 24, 1.0), (1, 48, 0.5), (2, 24, 1.0), (2, 48, 0.5)),
    ]
    random = {"draws": 3, "axes": {"b": {"uniform": [0, 1]}}}
    drawn = points(axes={"a": [1, 2]}, random=random)
    assert [a for a, _ in drawn] == [1, 1, 1, 2, 2, 2]
    assert [b for _, b in drawn[:3]] == [b for _, b in drawn[3:]]
    assert points() == [()]


def test_nested_tables_are_dotted_keys():
    nested = sweep(
        axes={
            "campaign": {"budget": [1, 2]},
            "market": {"reserve": {"start": 0, "stop": 1, "num": 2}},
        }
    )
    assert nested.axis_names == ["campaign.budget", "market.reserve"]


def test_a_column_holds_values_of_one_type():
    found = points(axes={"campaign.budget": [100, 150.5]})
    assert found == [(100.0,), (150.5,)]
    assert all(isinstance(value, float) for (value,) in found)


def test_repeated_values_are_played_once():
    assert points(axes={"campaign.budget": [100, 200, 100]}) == [(100,), (200,)]
    random = {"draws": 20, "axes": {"campaign.budget": {"choice": [20, 30]}}}
    assert sorted(points(random=random)) == [(20,), (30,)]
    assert sweep(seeds=[0, 0, 1], structures=[2, 2]).seeds == (0, 1)
    assert sweep(estimates=["oracle", "oracle"]).estimates == ("oracle",)


def test_keys_have_one_name():
    # A single word could be that of another column of the results.
    named = sweep(axes={"world.campaign.budget": [1], "reward": ["cash"]})
    assert named.axis_names == ["campaign.budget", "world.reward"]


def test_keys_that_vary_are_not_set(tmp_path):
    file = sweep_file(tmp_path, "[axes]\ncampaign.budget = [100, 200]")
    with pytest.raises(ScenarioError, match=r"--set: campaign\.budget varies in"):
        load_plan(file, {"world.campaign.budget": 50})


def test_agent_is_found_beside_the_sweep_file(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.py").write_text("from agents.value import ValueAgent as Mine\n")
    file = sweep_file(tmp_path / "there", 'agents = ["mine.py:Mine"]')
    monkeypatch.chdir(tmp_path)
    assert load_plan(file).agents == (f"{tmp_path}/there/mine.py:Mine",)


def test_seeds_and_structures_are_counts_or_lists():
    assert sweep(seeds=3).seeds == (0, 1, 2)
    assert sweep(seeds=[4, 2], structures=2).structures == (0, 1)


@pytest.mark.parametrize(
    ("law", "mean", "sd"),
    [
        ({"uniform": [2.0, 4.0]}, 3.0, 2 / 12**0.5),
        ({"normal": [1.0, 0.5]}, 1.0, 0.5),
        ({"integers": [1, 3]}, 2.0, (2 / 3) ** 0.5),
        ({"choice": [0, 10]}, 5.0, 5.0),
    ],
)
def test_draws_follow_their_law(law, mean, sd):
    # 4,000 draws: standard error of the mean sd / 63.
    axes = RandomAxes(draws=4_000, axes={"x": Distribution(**law)})
    drawn = np.array([point["x"] for point in axes.points()])
    assert drawn.mean() == pytest.approx(mean, abs=4 * sd / 63)
    assert drawn.std() == pytest.approx(sd, rel=0.05)


def test_logarithms_are_drawn_evenly():
    axes = {"u": {"log_uniform": [0.01, 1.0]}, "n": {"log_normal": [5.0, 0.3]}}
    drawn = RandomAxes(draws=4_000, axes={k: Distribution(**v) for k, v in axes.items()}).points()
    u, n = (np.array([point[key] for point in drawn]) for key in ("u", "n"))
    assert np.mean(u < 0.1) == pytest.approx(0.5, abs=0.03)
    assert np.median(n) == pytest.approx(5.0, rel=0.03)
    assert np.log(n).std() == pytest.approx(0.3, rel=0.05)


def test_more_draws_leave_the_first_as_they_are():
    axes = {"x": Distribution(uniform=(0, 1)), "y": Distribution(uniform=(0, 1))}
    few, many = (RandomAxes(draws=n, axes=axes).points() for n in (3, 9))
    assert many[:3] == few
    assert RandomAxes(draws=3, seed=1, axes=axes).points() != few
    assert few[0]["x"] != few[0]["y"]


def test_trials_of_a_world_stand_together(tmp_path):
    text = (
        'agents = ["dual", "value"]\nseeds = 2\nstructures = 2\nestimates = ["platform", "oracle"]'
    )
    plan = load_plan(sweep_file(tmp_path, f"{text}\n[axes]\ncampaign.budget = [100, 200]"))
    trials = plan.trials(grid(plan.sweep))
    assert len(trials) == 2 * 2 * 2 * 2 * 2
    assert len({trial.world for trial in trials[:8]}) == 1
    assert [trial.agent for trial in trials[:4]] == ["dual", "value"] * 2
    assert json.loads(trials[-1].axes) == {"campaign.budget": 200}
    world = json.loads(trials[-1].world.overrides)
    assert world == {**SMALL_WORLD, "time.num_ticks": 4, "campaign.budget": 200}
    assert len(set(trials)) == len(trials)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[axes]\ncampaign.budgt = [1]", r"budgt: unknown key .*at campaign\.budgt = 1"),
        ("[axes]\nclick.ctr = [0.1, 2.0]", r"click\.ctr: .*less than 1.*at click\.ctr = 2\.0"),
        ("[axes]\ncampaign.budget = []", r"axes\.campaign\.budget: must have at least one value"),
        ("[axes]\nseeds = [1, 2]", "seeds: not an axis: use"),
        ("[axes]\nstructure_seed = [1, 2]", "structure_seed: not an axis: use"),
        ("[axes]\nx = {start = 2, stop = 1, num = 3}", "stop must be >= start"),
        ("[axes]\nx = {start = 0, stop = 1}", "a range needs `num` or `step`"),
        ("[axes]\nx = {start = 0, stop = 1, num = 3, log = true}", "start > 0"),
        ("[[zip]]\na.x = [1, 2]\nb.x = [1]", r"must be of one length, got a\.x 2, b\.x 1"),
        ("[axes]\na.x = [1]\n[[zip]]\na.x = [1]", r"a\.x: given more than once"),
        ("[axes]\na.x = [1]\nworld.a.x = [2]", r"a\.x: given more than once"),
        ("[[zip]]\ncampaign.budget = []", r"zip\.campaign\.budget: must have at least one value"),
        ("[axes]\ncampaign.budget = [20, '30']", "must be of one type, got int, str"),
        ("[axes]\ncampaign.budget = 5", r"axes\.campaign\.budget: must be a list of values or"),
        ("[axes]\nx.y = {start = 1, stop = 3, nun = 3}", r"axes\.x\.y: nun: unknown key"),
        ("[random]\ndraws = 2\n[random.axes]\na = {uniform = [2, 1]}", "uniform: the first"),
        ("[random]\ndraws = 2\n[random.axes]\na = {log_uniform = [0, 1]}", "must be > 0"),
        ('estimates = ["best"]', "estimates: must be of platform, fnc"),
        ('agents = ["nobody"]', "agent 'nobody' does not exist"),
        ("agent = 3", "agent: unknown key"),
        ("seeds = 0", "seeds"),
        ('scenario = "nowhere"', "scenario 'nowhere' does not exist"),
        ("[search]\ntrials = 3", "search: needs `axes`"),
    ],
)  # fmt: skip
def test_faults_of_a_file_are_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        trials_of(sweep_file(tmp_path, text))


def trials_of(file):
    plan = load_plan(file)
    return plan.trials(grid(plan.sweep))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(ScenarioError, match=r"none\.toml: cannot be read"):
        load_plan(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("seeds = = 3")
    with pytest.raises(ScenarioError, match=r"bad\.toml: not valid TOML"):
        load_plan(tmp_path / "bad.toml")


def test_scenario_file_is_found_beside_the_sweep_file(tmp_path):
    (tmp_path / "mine.toml").write_text("[world.campaign]\nbudget = 77\n")
    file = sweep_file(tmp_path, 'scenario = "mine.toml"')
    assert load_plan(file).scenario.world.campaign.budget == 300  # of the overrides
    file.write_text('scenario = "mine.toml"')
    assert load_plan(file).scenario.world.campaign.budget == 77
    assert load_plan(file, {"campaign.budget": 5}).scenario.world.campaign.budget == 5


def test_worlds_without_a_past_have_no_learned_estimates(tmp_path):
    file = sweep_file(tmp_path, 'estimates = ["fnc"]\n[axes]\nrandomize_structure = [true]')
    plan = load_plan(file)
    with pytest.raises(ValueError, match="randomize_structure must be False"):
        plan.trials(grid(plan.sweep))


def test_documented_sweep_file_is_one(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "sweeps.md").read_text()
    (block,) = re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("my_agent.py").write_text("from agents.value import ValueAgent as MyAgent\n")
    Path("documented.toml").write_text(block)
    plan = load_plan(Path("documented.toml"))
    points = grid(plan.sweep)
    assert len(points) == 3 * 3 * 3 * 2 * 4
    assert len(plan.trials(points[:1])) == 2 * 2 * 5 * 3
