"""Every `adsim` command line of the documentation is run, at a small size.

A line is run as it stands but for what its command's rule in `RULES` changes. Whoever documents a
new command adds a rule: a function from the words of a line to those that are run, most often the
words with some more behind them (of two values of one option the later one counts). Files that a
line reads are made by `FILES`.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import small_results
from auction_logs import write_ipinyou
from command_line import adsim
from documentation import ADSIM_LINES, PAGES, ROOT, parse
from small_stacks import SIZE
from small_worlds import SMALL_WORLD, write_scenario
from threads import one_thread
from typer.main import get_command

from adsim.datasets import cascade, trace
from scenarios import agents_tasks, bench_cli, gmv_tasks, netcvr_tasks, trial
from scenarios.cli import app
from scenarios.comparison import World

SMALL = [part for key, value in SMALL_WORLD.items() for part in ("--set", f"{key}={value}")]
STEPS = 2 * 2 * SMALL_WORLD["time.num_ticks"]  # two campaigns of two
TRAINING = ["--steps", STEPS, "--num-envs", 2, "--held-out", "50,51", "--evaluations", 1, *SMALL]


def without(words, *options):
    """The words without some options and their values."""
    pairs = zip([None, *words], words, strict=False)
    return [word for before, word in pairs if word not in options and before not in options]


def small_run(words):
    """A tiny world and few seeds; without agents a ladder of small networks."""
    plays_agents = "-a" in words or "--agent" in words
    structures = ["--structures", "0,1"] if "--structures" in words else []
    alone = [] if plays_agents else ["--jobs", 1, "--cache", "cache"]
    return [*words, *SMALL, "--seeds", "0,1", *structures, *alone, "--no-plots"]


def small_sweep(words):
    """A tiny world, but for the axes, in this process; clusters have tests of their own."""
    text = (ROOT / words[1]).read_text()
    pairs = [pair for pair in SMALL[1::2] if pair.partition("=")[0] not in text]
    small = [part for pair in pairs for part in ("--set", pair)]
    return [*without(words, "--engine", "--address", "--jobs"), *small]


def small_training(words):
    """A few campaigns; one that is resumed keeps its settings."""
    return [*words, "--steps", 2 * STEPS] if "--resume" in words else [*words, *TRAINING]


def short_log(words):
    """Fewer days."""
    days = ["--set", "time.num_ticks=240"] if words[2].startswith("trace") else []
    return [*words, "--clicks", 10_000, *days]


def few_clicks(clicks, scenario, setup, methods):
    """A rule of benchmarks of predictors: one world, few clicks, some methods."""

    def rule(words):
        # Absolute: the process keeps what it has prepared in a folder of this name.
        words = [*without(words, "--out"), "--out", Path("results").resolve(), "--jobs", 1]
        if "--data" in words:
            return words
        for option, usual in (("--scenario", scenario), ("--setup", setup)):
            words += [] if option in words else [option, usual]
        return [*words, "--seeds", 0, "--clicks", clicks, "--methods", methods]

    return rule


def little_noise(words):
    """One seed, two sizes of noise."""
    return [*words, "--seeds", 0, "--sigmas", "0.1,2"]


def small_campaigns(words):
    """A tiny scenario; what the platform shows instead of networks."""
    estimates = [] if "--estimates" in words else ["--estimates", "platform"]
    options = ["--scenario", write_scenario(Path("small.toml")), "--seeds", 0, "--jobs", 1]
    return [*without(words, "--scenario"), *options, *estimates, "--cache", "cache"]


def as_it_is(words):
    """Takes no time."""
    return words


RULES = {
    ("run",): small_run,
    ("sweep",): small_sweep,
    ("report",): lambda words: [word for word in words if word != "--open"],
    ("train",): small_training,
    ("replay", "ipinyou"): as_it_is,
    ("data", "describe"): short_log,
    ("data", "trajectories"): lambda words: [*words, *SMALL, "--seeds", "0,1"],
    ("list",): as_it_is,
    ("show",): as_it_is,
    ("schema",): as_it_is,
    ("bench", "speed"): as_it_is,  # one of its cases: see `_small`
    ("bench", "netcvr"): few_clicks(250, "cascade_high_refund", "fair", "pre_trained,oracle,tesla"),
    ("bench", "gmv"): few_clicks(60, "trace", "fair", "online_single,reader"),
    ("bench", "scenes"): few_clicks(120, "multi_scene", "different", "scene_input,mi_dpg"),
    ("bench", "denoise"): little_noise,
    ("bench", "agents"): small_campaigns,
}
SLOW = {("train",), ("replay", "ipinyou"), *(path for path in RULES if path[0] == "bench")}

AGENT = """
class MyAgent:
    privileged = False
    def reset(self, campaign, *, seed=None): pass
    def act(self, obs): return 0.5 * obs["pctr"]
    def observe(self, info): pass
"""


def write_clicks(path):
    stream, _ = netcvr_tasks.prepare(World("cascade_high_refund", "fair", 0, 250), Path("made"))
    cascade.write(path, cascade.ClickRecords(*stream.log[:4]), stream.log.cardinalities)


def write_purchases(path):
    log = gmv_tasks.prepare(World("trace", "fair", 0, 60), Path("made"))[0].log
    columns = (log.click_time, log.features, log.offset, log.purchase_time, log.amount)
    trace.write(path, trace.PurchaseRecords(*columns), log.cardinalities)


def write_auctions(path):
    path.mkdir()
    write_ipinyou(path)


def copy_examples(path):
    shutil.copytree(ROOT / "examples", path)


def train_policy(path):
    assert adsim("train", "--out", path, *TRAINING)[0] == 0


def write_results(path):
    small_results.save(path)


FILES = {  # a word of a line -> the file it reads, and what makes it
    "DIR": ("DIR", write_auctions),
    "examples/custom_agent.py:SteadyAgent": ("examples", copy_examples),
    "my_agent.py:MyAgent": ("my_agent.py", lambda path: path.write_text(AGENT)),
    "examples/budget_sweep.toml": ("examples", copy_examples),
    "examples/search.toml": ("examples", copy_examples),
    "results/default": ("results/default", write_results),
    "results/budget_sweep": ("results/budget_sweep", write_results),
    "cascade_log.txt.gz": ("cascade_log.txt.gz", write_clicks),
    "trace.txt.gz": ("trace.txt.gz", write_purchases),
    "sb3:results/ppo": ("results/ppo", train_policy),
    "--resume": ("results/ppo", train_policy),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch, tmp_path):
    """Folder, sizes and threads of all lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trial, "SIZE", SIZE)
    monkeypatch.setattr(agents_tasks, "SIZE", SIZE)
    load = bench_cli._benchmark

    def with_one_case(name):
        module = load(name)
        if name == "speed":
            module.CASES = module.CASES[:1]
        return module

    monkeypatch.setattr(bench_cli, "_benchmark", with_one_case)
    with one_thread():
        yield


def case(line):
    """Slow, more than a second or two: what trains networks or plays many auctions."""
    path, parameters = parse(line)
    slow = tuple(path) in SLOW or (path == ["run"] and not parameters["agent"])
    return pytest.param(line, marks=[pytest.mark.slow] if slow else [], id=line)


@pytest.mark.parametrize("line", [case(line) for line in dict.fromkeys(x for _, x in ADSIM_LINES)])
def test_documented_command_runs(line):
    path = tuple(parse(line)[0])
    assert path in RULES, f"a rule for `adsim {' '.join(path)}` is missing in RULES of {__file__}"
    words = shlex.split(line)[1:]
    for name, make in {FILES[word] for word in words if word in FILES}:
        make(Path(name))
    status, out, err = adsim(*RULES[path](words))
    assert status == 0, err
    assert out.strip()
    if "--json" in words:
        json.loads(out)


def mentions():
    """Commands in the running text, between backticks."""
    texts = (re.findall(r"`(adsim [^`|<]+)`", page.read_text()) for page in PAGES)
    return sorted({" ".join(line.split()) for found in texts for line in found})


@pytest.mark.parametrize("line", mentions())
def test_commands_and_options_that_are_mentioned_exist(line):
    _, *words = line.split()
    command = get_command(app)
    while words and hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words if word[:1] == "-"} <= known


def test_every_rule_is_of_a_documented_command():
    assert {tuple(parse(line)[0]) for _, line in ADSIM_LINES} == RULES.keys()


def test_options_are_left_out_with_their_values():
    words = ["bench", "gmv", "--scenario", "trace", "--seeds", "0-2"]
    assert without(words, "--scenario", "--setup") == ["bench", "gmv", "--seeds", "0-2"]
