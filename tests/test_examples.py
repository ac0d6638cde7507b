"""Every script of examples/ runs as it stands, in little time, and says what it should."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from threads import one_thread

from scenarios.build import make_agent
from scenarios.sweep_plan import grid, load_plan

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"

# Arguments that make a script short, and what its output must match (whole lines).
CASES = {
    "env_loop.py": (
        ["--ticks", "24"],
        r"\d+ impressions won for \d+, \d+ clicks\n"
        r"\d+ purchases, \d+ of them refunded\n"
        r"net value (-?\d+\.\d\d) = sum of the rewards \1\n",
    ),
    "custom_agent.py": (
        ["--ticks", "24"],
        r"spent \d+ of \d+\nnet value -?\d+, expected -?\d+\n",
    ),
    "custom_predictor.py": (
        ["--ticks", "24"],
        r"CVR of \d+ clicks: \d+ predicted, \d+ converted\nnet value -?\d+, expected -?\d+\n",
    ),
    "ppo_cleanrl_style.py": (
        ["--steps", "96", "--ticks", "24", "--envs", "2"],
        r"48 steps: net value -?\d+\n96 steps: net value -?\d+\n",
    ),
    "train_sb3.py": (
        ["--steps", "96", "--ticks", "24", "--num-envs", "2"],
        r"before: expected net value \d+\nafter 96 steps: \d+\n",
    ),
    "two_campaigns.py": (
        ["--ticks", "12"],
        r"(campaign_[01], (dual|value): \d+ impressions for \d+, net value -?\d+, "
        r"expected -?\d+\n){4}((dual|value): expected net value -?\d+ in both places\n){2}",
    ),
}


def test_every_example_is_run():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_example_runs(name, capsys, monkeypatch):
    arguments, output = CASES[name]
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    with one_thread(), pytest.raises(SystemExit) as end:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert not end.value.code
    printed = capsys.readouterr().out
    assert re.fullmatch(output, printed), printed


@pytest.mark.parametrize("name", CASES)
def test_example_says_how_to_run_it(name):
    assert f"\nRun: python examples/{name}" in (EXAMPLES / name).read_text()


def test_own_agent_is_found_on_the_command_line():
    agent = make_agent(f"{EXAMPLES / 'custom_agent.py'}:SteadyAgent")
    assert type(agent).__name__ == "SteadyAgent"


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.name)
def test_example_sweep_says_how_to_run_it_and_has_trials(file):
    assert f"\n# Run: adsim sweep examples/{file.name}" in file.read_text()
    plan = load_plan(file)
    assert plan.trials(grid(plan.sweep)[:1])
