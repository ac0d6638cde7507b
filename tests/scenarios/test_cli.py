import json
import subprocess
import sys

import pandas as pd
import pytest
from command_line import adsim

from scenarios.bench_cli import parse_seeds
from scenarios.cli import parse_overrides
from scenarios.trial import play_trial

SMALL = (
    *("--set", "time.num_ticks=12", "--set", "traffic.impressions_per_tick=40"),
    *("--set", "entities.num_users=200", "--set", "entities.num_contexts=64"),
)


def test_seeds_are_ranges_and_lists():
    assert parse_seeds("0-3") == [0, 1, 2, 3]
    assert parse_seeds("7,1, 3-4,1") == [7, 1, 3, 4]
    for wrong in ("", "a", "3-1", "-2", "1-", "1.5"):
        with pytest.raises(ValueError, match="--seeds"):
            parse_seeds(wrong)


def test_overrides_are_pairs():
    assert parse_overrides(["a.b=1", "c = x=y"]) == {"a.b": "1", "c": "x=y"}
    with pytest.raises(ValueError, match="KEY=VALUE"):
        parse_overrides(["a.b"])


@pytest.mark.parametrize(
    "command", [(), ("run",), ("replay", "ipinyou"), ("bench",), ("list",), ("show",), ("schema",)]
)
def test_every_command_has_help_with_an_example(command):
    status, out, _ = adsim(*command, "--help")
    assert status == 0
    assert "Usage" in out
    if command:
        assert "Example: adsim" in out


def test_run_writes_tables_figures_and_json(tmp_path):
    status, out, _ = adsim(
        *("run", "default", "--agent", "dual", "--agent", "value", "--seeds", "0,1"),
        *(*SMALL, "--out", tmp_path, "--json"),
    )
    assert status == 0
    rows = json.loads(out)["rows"]
    assert [row["agent"] for row in rows] == ["dual", "value"]
    assert {"expected_net_value", "ci_low", "diff_high", "share_of_hindsight"} <= set(rows[0])
    folder = tmp_path / "default"
    trials = pd.read_parquet(folder)
    assert len(trials) == 4
    assert (pd.read_parquet(folder / "_events.parquet")["delay_hours"] >= 0).all()
    description = json.loads((folder / "_run.json").read_text())
    assert description["seeds"] == [0, 1]
    assert description["scenario"]["world"]["time"]["num_ticks"] == 12
    for name in ("overview", "pacing", "net_value", "delays", "prices", "leaderboard"):
        assert (folder / "_figures" / f"{name}.png").stat().st_size > 5_000


def test_run_prints_a_table(tmp_path):
    options = ("--agent", "all", "--seeds", "0", "--no-plots", "--out", tmp_path)
    status, out, _ = adsim("run", *SMALL, *options)
    assert status == 0
    for text in ("expected net value", "share of hindsight", "dual", "value", "net ROAS"):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nothing"), "does not exist"),
        (("run", "--set", "market.reserves=1"), "unknown key"),
        (("run", "--set", "click.ctr=2"), "less than 1"),
        (("run", "--set", "oops"), "KEY=VALUE"),
        (("run", "--seeds", "x"), "--seeds"),
        (("run", "--agent", "nobody"), "agent 'nobody' does not exist"),
        (("run", "--agent", "no_module:Thing"), "cannot be made: ModuleNotFoundError"),
        (("show", "missing.toml"), "cannot be read"),
        (("replay", "ipinyou", "--data", "/nowhere"), "/nowhere"),
        (("bench", "nothing"), "does not exist"),
        (("run", "--set", "traffic.slots_per_tick=3"), "slots_per_tick"),
        (("run", "--out", "/proc/nowhere"), "--out: cannot write to /proc/nowhere/default"),
    ],
)
def test_user_errors_exit_with_2_and_one_line(arguments, message, tmp_path):
    extra = ("--out", tmp_path) if arguments[0] == "run" and "--out" not in arguments else ()
    status, _, err = adsim(*arguments, *extra)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_list_and_show_and_schema():
    _, out, _ = adsim("list", "--json")
    listed = json.loads(out)
    assert {"default", "auctionnet"} <= {row["scenario"] for row in listed["rows"]}
    assert "dual" in listed["agents"]
    _, out, _ = adsim("show", "population", "--set", "market.population.n_advertisers=24")
    assert json.loads(out)["world"]["market"]["population"]["n_advertisers"] == 24
    _, out, _ = adsim("schema")
    assert json.loads(out)["title"] == "Scenario"


def test_import_and_make_load_nothing_heavy():
    code = (
        "import sys, adsim, gymnasium; "
        "env = gymnasium.make('adsim/Pacing-v0'); env.reset(seed=0); "
        "heavy = {'torch', 'pandas', 'matplotlib', 'scipy.stats', 'pyarrow', 'rich'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_interrupted_run_keeps_the_finished_campaigns_and_goes_on(tmp_path, monkeypatch):
    from scenarios import trial

    played = []

    def interrupted(folder, trial):
        if len(played) == 2:
            raise KeyboardInterrupt
        played.append(trial.agent)
        return play_trial(folder, trial)

    command = ("run", "-a", "value", "-a", "dual", "--seeds", "0,1", *SMALL, "--no-plots")
    command += ("--out", tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(trial, "play_trial", interrupted)
        assert adsim(*command)[0] == 130
    assert len(pd.read_parquet(tmp_path / "default")) == 2
    status, _, err = adsim(*command)
    assert status == 0
    assert "2 of 4 trials taken" in err
    assert pd.read_parquet(tmp_path / "default")["agent"].tolist() == ["value", "dual"] * 2


AGENT = """
class {name}:
    privileged = {privileged}
    def reset(self, campaign, *, seed=None): pass
    def act(self, obs): return 0.5 * obs["pctr"]
    def observe(self, info): pass
"""


def test_run_plays_an_agent_of_the_user_on_several_structures(tmp_path):
    (tmp_path / "mine.py").write_text(AGENT.format(name="Mine", privileged=False))
    status, out, _ = adsim(
        *("run", "default", "-a", "value", "-a", f"{tmp_path / 'mine.py'}:Mine", *SMALL),
        *("--seeds", "0-1", "--structures", "0-2", "--no-plots", "--json", "--out", tmp_path),
    )
    assert status == 0
    assert [(row["structures"], row["seeds"]) for row in json.loads(out)["rows"]] == [(3, 2)] * 2
    assert len(pd.read_parquet(tmp_path / "default")) == 12


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (AGENT.format(name="Mine", privileged="None"), "lacks privileged"),
        ("class Mine:\n    privileged = False\n", "lacks reset, act, observe"),
        ("class Mine:\n    def __init__(self, needed): pass\n", "cannot be made: TypeError"),
        ("def :", "cannot be made: SyntaxError"),
    ],
)
def test_faulty_agent_of_the_user_is_named(text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    status, _, err = adsim("run", "-a", f"{tmp_path / 'mine.py'}:Mine", "--out", tmp_path)
    assert status == 2
    assert message in err.replace("\n", " ")
