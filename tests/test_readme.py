"""The documentation says what is there: examples run, commands parse, links and names exist."""

import re

import gymnasium as gym
import pytest
from documentation import ADSIM_LINES, MAKE_LINES, PAGES, ROOT, parse, run_examples
from pages import command_lines, python_blocks, section
from threads import one_thread

import adsim  # noqa: F401 - registers the environments
from adsim.observation import PacingFeatures
from adsim.source import SyntheticSource
from agents import AGENTS
from predictors import (
    CORRECTORS,
    PREDICTORS,
    ReaderConfig,
    RefundShareConfig,
    ScenePredictor,
    TeslaConfig,
)
from predictors.delivery import RULES
from scenarios import (
    agents_bench,
    agents_tasks,
    denoise,
    denoise_report,
    gmv,
    load,
    names,
    netcvr,
    scenes,
)

README = ROOT / "README.md"
PREDICTORS_PAGE = ROOT / "docs" / "predictors.md"
GMV_PAGE = ROOT / "docs" / "gmv.md"
CORRECTORS_PAGE = ROOT / "docs" / "correctors.md"
SCENES_PAGE = ROOT / "docs" / "scenes.md"
TINY = {
    "time.num_ticks": 4,
    "traffic.impressions_per_tick": 40,
    "entities.num_users": 200,
    "entities.num_contexts": 64,
}

_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
_NAMED_TEST = re.compile(r"\btest_\w+(?:\.py)?")


def test_first_example_is_short_and_ends_with_the_statement(capsys):
    example = python_blocks(README.read_text())[0]
    assert len(example.splitlines()) <= 15
    space = {}
    exec(compile(example, "README.md, example 1", "exec"), space)
    statement = space["statement"]
    assert capsys.readouterr().out.startswith(f"{statement.net_value:.0f} net, ")
    assert space["over"]
    assert min(statement.wins, statement.clicks, statement.purchases) > 0
    assert 0 < statement.spend <= statement.budget == 300


def test_second_example_plays_four_campaigns(capsys):
    example = python_blocks(README.read_text())[1]
    space = {}
    exec(compile(example, "README.md, example 2", "exec"), space)
    assert space["terminated"].all()
    assert len(set(space["infos"]["net_value"].tolist())) == 4
    assert capsys.readouterr().out.strip()


def test_third_example_runs_a_stream(capsys):
    example = python_blocks(README.read_text())[2]
    assert len(example.splitlines()) <= 12
    space = {}
    with one_thread():
        exec(compile(example, "README.md, example 3", "exec"), space)
    assert capsys.readouterr().out.startswith("AUC of the net conversion rate: 0.")
    assert space["result"].y.sum() > 100


@pytest.mark.slow
def test_examples_on_predictors_run_in_their_order(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space, printed, new = run_examples(PREDICTORS_PAGE, capsys)
    assert new == {"retract"}
    timeline = [line.split() for line in printed[0]]
    assert ["tesla", "8064", "refund", "0"] in timeline
    assert timeline[-2:] == [["bdl", "259200", "conversion", "1"], ["bdl", "266400", "refund", "1"]]
    assert len(timeline) == 12
    assert re.fullmatch(r"CVR: AUC 0\.6\d\d, PCOC [01]\.\d\d", printed[1][0])
    assert space["online"].trained_rows > 1_000
    assert space["stream"].log.click_time.size == space["log"].click_time.size


# Slow, 10 s: two methods of two towers are pre-trained on some 20,000 clicks.
@pytest.mark.slow
def test_examples_on_gmv_run_in_their_order(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space, printed, new = run_examples(GMV_PAGE, capsys)
    assert new == {"ends"}
    assert printed[0] == [
        "26 5206200 PURCHASE 1 80.0 0.000992",
        "38 5335200 PURCHASE 2 130.0 0.214286",
        "74 5724000 PURCHASE 3 160.0 0.857143",
        "82 5810400 WINDOW_END 3 160.0 0.857143",
    ]
    bias = {line.split(":")[0]: float(line.split("bias ")[1].split(",")[0]) for line in printed[1]}
    assert bias["online_single"] < -0.1  # partial amounts as labels
    assert bias["reader"] > bias["online_single"] + 0.1
    assert space["amounts"].trained_rows > 0
    assert (space["value"][space["impressions"].mask > 0] > 0).all()
    assert space["own"].trained_rows > 1_000
    assert space["stream"].log.click_time.size == space["log"].click_time.size


# Slow, 5 s: two networks are pre-trained on some 27,000 rows each, one on 38,000.
@pytest.mark.slow
def test_examples_on_scenes_run_in_their_order(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space, printed, _ = run_examples(SCENES_PAGE, capsys)
    assert [line.split(":")[0] for line in printed[0]] == ["scene_input", "mi_dpg"]
    assert all(line.endswith(", 9 a scene") for line in printed[0])
    assert 0 < space["online"].bounds[-1] <= space["online"].information_limit
    assert len(printed[1]) == 1 + 3  # layers
    predicted, observed = (int(word) for word in printed[2][0].split() if word.isdigit())
    assert 0.5 < predicted / observed < 2
    assert space["clicks"].trained_rows > 5_000


def test_examples_on_correctors_run_in_their_order(capsys):
    space, printed, _ = run_examples(CORRECTORS_PAGE, capsys)
    means = {line.split()[0]: float(line.split()[3].rstrip(",")) for line in printed[0]}
    best = {line.split()[0]: float(line.split()[-1]) for line in printed[0]}
    assert means["corrected"] == pytest.approx(means["true"], rel=0.03)
    assert best["corrected"] == pytest.approx(best["true"], rel=0.05)
    assert best["predicted"] > 2 * best["true"]  # the winner's curse
    assert 0.9 < float(printed[1][0].split()[-1]) < 1.1  # the cap is about met
    assert space["won"].sum() > 1_000
    by_outcomes, by_members = (float(line.split()[-1]) for line in printed[2])
    assert by_outcomes == pytest.approx(1.0, abs=0.1)
    assert by_members == pytest.approx(0.4, abs=0.05)


def test_every_corrector_is_described():
    assert row_names(CORRECTORS_PAGE.read_text(), "Which one when") >= CORRECTORS.keys()


def test_every_regime_method_and_column_of_the_denoise_benchmark_is_described():
    text = section((ROOT / "docs" / "benchmarks.md").read_text(), "Correcting noisy estimates")
    rows = denoise_report.rows_of(denoise.run_step(denoise.Step("heteroscedastic", 1.4, (0,))))
    methods = {name for names in denoise.METHODS_OF.values() for name in names}
    for name in (*denoise.METHODS_OF, *methods, *denoise.PRESETS, *rows[0]):
        assert f"`{name}`" in text


def test_every_setup_and_method_of_the_scenes_benchmark_is_described():
    text = section((ROOT / "docs" / "benchmarks.md").read_text(), "Many scenes")
    for name in (*scenes.SETUPS, *scenes.PRESETS, *scenes.METHODS, *scenes.EXTRAS):
        assert f"`{name}`" in text


def test_loop_closes_in_its_example(capsys):
    (example,) = python_blocks((ROOT / "docs" / "closed_loop.md").read_text())
    space = {}
    exec(compile(example, "closed_loop.md", "exec"), space)
    assert capsys.readouterr().out.count("[") == 3
    assert space["obs"]["expected_net_value"].any()


def test_every_python_block_is_run():
    blocks = {page.name: len(python_blocks(page.read_text())) for page in PAGES}
    assert {name: count for name, count in blocks.items() if count} == {
        "README.md": 3,
        "closed_loop.md": 1,
        "correctors.md": 3,
        "data_formats.md": 3,
        "faq.md": 3,
        "getting_started.md": 2,
        "gmv.md": 6,
        "predictors.md": 7,
        "reports.md": 1,
        "results.md": 1,
        "scenes.md": 4,
    }


@pytest.mark.parametrize(("page", "line"), ADSIM_LINES)
def test_command_line_parses(page, line):
    path, parameters = parse(line)
    if parameters.get("scenario") is not None:
        assert parameters["scenario"] in names()
    for agent in parameters.get("agent") or []:
        assert agent in AGENTS or agent == "all" or ":" in agent
    if path[0] == "bench":
        assert (ROOT / "benchmarks" / f"{path[1]}.py").is_file()


def test_documentation_shows_every_command():
    shown = {tuple(parse(line)[0]) for _, line in ADSIM_LINES}
    assert shown == {
        *(("run",), ("replay", "ipinyou"), ("data", "describe"), ("data", "trajectories")),
        *(("sweep",), ("report",), ("train",), ("list",), ("show",), ("schema",)),
        *(("bench", name) for name in ("speed", "netcvr", "gmv", "scenes", "denoise", "agents")),
    }


def test_benchmarks_without_a_command_are_shown_as_modules():
    lines = {line for page in PAGES for line in command_lines(page.read_text(), "python")}
    modules = {line.split()[2] for line in lines}
    assert all(line.split()[:2] == ["python", "-m"] for line in lines)
    assert modules == {
        f"benchmarks.{name}" for name in ("refund_share", "exploration", "rl", "sweep")
    }
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_wrong_command_lines_are_noticed():
    for wrong in ("adsim fly", "adsim run --agents dual", "adsim replay ipinyou"):
        with pytest.raises(Exception):  # noqa: B017, PT011 - the parser's own kinds
            parse(wrong)


@pytest.mark.parametrize(("page", "line"), MAKE_LINES)
def test_make_target_exists(page, line):
    targets = [word for word in line.split()[1:] if "=" not in word]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = [link for link in _LINK.findall(page.read_text()) if "://" not in link]
    missing = [link for link in targets if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_that_are_named_exist(page):
    files = [*ROOT.glob("tests/**/test_*.py")]
    known = {path.name for path in files}
    for path in files:
        known |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE))
    named = {name for name in _NAMED_TEST.findall(page.read_text()) if name != "test_"}
    assert named - known == set()


@pytest.mark.parametrize(
    ("page", "heading", "known"),
    [("README.md", "Scenarios", names()), ("README.md", "Agents", AGENTS)],
)
def test_tables_of_names_are_complete(page, heading, known):
    rows = [
        line for line in section((ROOT / page).read_text(), heading).splitlines() if "|" in line
    ]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(known)


def test_every_agent_is_described():
    text = (ROOT / "docs" / "agents.md").read_text()
    assert [name for name in AGENTS if f"`{name}`" not in text] == []


def row_names(text, *headings):
    """Names in the first column of the tables below headings of second level."""
    rows = [row for heading in headings for row in section(text, heading).splitlines()]
    cells = [row.split("|")[1] for row in rows if row[:1] == "|"]
    return {name for cell in cells for name in re.findall(r"`([a-z_]+)`", cell)}


def test_every_predictor_is_described_on_one_page():
    pages = [
        row_names(page.read_text(), "Methods") for page in (PREDICTORS_PAGE, GMV_PAGE, SCENES_PAGE)
    ]
    assert set.union(*pages) == PREDICTORS.keys()
    assert sum(map(len, pages)) == len(PREDICTORS)


def test_every_rule_and_setting_is_described():
    text = PREDICTORS_PAGE.read_text()
    assert row_names(text, "Delivery") - {"trained_oracle"} == RULES.keys()
    settings = TeslaConfig.model_fields.keys()
    assert row_names(text, "TESLA") <= settings
    assert [name for name in settings if f"`{name}`" not in section(text, "TESLA")] == []


def test_every_setting_of_gmv_predictors_is_described():
    settings = ReaderConfig.model_fields.keys() | RefundShareConfig.model_fields.keys()
    assert row_names(GMV_PAGE.read_text(), "Settings") == settings


def scene_predictors():
    return {name: cls for name, cls in PREDICTORS.items() if issubclass(cls, ScenePredictor)}


def test_every_setting_of_predictors_for_scenes_is_described():
    settings = {
        name for cls in scene_predictors().values() for name in cls.config_class.model_fields
    }
    assert row_names(SCENES_PAGE.read_text(), "Settings") == settings
    choices = section(SCENES_PAGE.read_text(), "MI-DPG")
    parts = PREDICTORS["mi_dpg"].config_class()
    names = parts.weighting.model_dump().keys() | parts.information.model_dump().keys()
    assert [name for name in names if not re.search(rf"`{name}\b", choices)] == []


def test_parameters_of_predictors_for_scenes_are_those_described():
    table = section(SCENES_PAGE.read_text(), "Parameters")
    fields = SyntheticSource(load("multi_scene").world, 1).cardinalities
    for name, cls in scene_predictors().items():
        found = cls(fields).num_parameters
        row = f"| `{name}` | {found.total - found.tables:,} | {found.per_scene:,} |"
        assert row in table


@pytest.mark.parametrize(("study", "heading"), [(netcvr, "NetCVR"), (gmv, "GMV")])
def test_presets_and_extras_of_benchmarks_are_described(study, heading):
    text = section((ROOT / "docs" / "benchmarks.md").read_text(), heading)
    for name, preset in study.PRESETS.items():
        assert f"| `{name}` | {preset.clicks:,} |" in text
        assert all(f"`{scenario}`" in text for scenario, _ in preset.seeds)
    assert [name for name in study.EXTRAS if f"`{name}`" not in text] == []


def test_every_entry_of_the_environments_is_described():
    text = (ROOT / "docs" / "environments.md").read_text()
    auction = gym.make("adsim/Auction-v0", overrides=TINY)
    _, info = auction.reset(seed=0)
    for name in (*auction.observation_space, *info):
        assert f"`{name}`" in section(text, "Auction-v0")
    _, info = gym.make("adsim/Pacing-v0", overrides=TINY).reset(seed=0)
    for name in (*PacingFeatures._fields, *info):
        assert f"`{name}`" in section(text, "Pacing-v0")


def test_every_constraint_agent_and_preset_of_the_agents_benchmark_is_described():
    text = section((ROOT / "docs" / "benchmarks.md").read_text(), "Agents")
    names_of = {name for preset in agents_bench.PRESETS.values() for name in preset.scenarios}
    for name in (*agents_tasks.CONSTRAINTS, *agents_bench.PRESETS, *agents_tasks.TARGET_OF):
        assert f"`{name}`" in text
    assert [name for name in names_of if f"`{name}`" not in text] == []
