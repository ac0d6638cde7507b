"""docs/results.md says what is in a folder of results."""

import re
from pathlib import Path

import pandas as pd
from command_line import adsim
from pages import python_blocks, section
from small_sweeps import sweep_file

from scenarios.results import file_of, load, load_about

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results.md"
TINY = ("--set=time.num_ticks=4", "--set=traffic.impressions_per_tick=40")
WHO = ["trial", "scenario", "agent", "estimates", "structure", "seed", "explore"]


def first_cells(name):
    rows = [row.split("|")[1] for row in section(PAGE.read_text(), name).splitlines() if "|" in row]
    return {column for cell in rows for column in re.findall(r"`(\w+)`", cell)}


def test_every_column_is_described(tmp_path):
    status, _, _ = adsim("run", "-a", "dual", "--seeds", "0", *TINY, "--out", tmp_path)
    assert status == 0
    folder = tmp_path / "default"
    tables = load(folder)
    for name, table in tables._asdict().items():
        columns = [*table.columns]
        assert columns[: len(WHO)] == WHO
        described = first_cells(file_of(folder, name).name)
        assert described | {*WHO} == {*columns}
    assert first_cells("_run.json") - {"sweep"} == load_about(folder).keys()
    names = {path.name for path in folder.iterdir()}
    listed = PAGE.read_text().partition("| file |")[2].partition("\n## ")[0]
    assert {name.partition("/")[0] for name in re.findall(r"`(_?\w[\w.]*)", listed)} >= names


def test_every_key_of_the_rows_is_described(tmp_path):
    file = sweep_file(tmp_path, "seeds = 1\n[axes]\ncampaign.budget = [100, 200]")
    assert adsim("sweep", file, "--out", tmp_path)[0] == 0
    about = load_about(tmp_path / "sweep")
    text = section(PAGE.read_text(), "Tables and intervals")
    named = {"expected_low", "ci_low", "expected_diff", "diff", "net_roas", "share_of_hindsight"}
    assert named <= about["rows"][0].keys()
    assert [name for name in named if f"`{name}`" not in text] == []


def test_example_reads_a_folder_as_a_dataset(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (example,) = python_blocks(PAGE.read_text())
    exec(compile(example, "results.md", "exec"), {})
    assert capsys.readouterr().out.startswith("{'dual': ")
    assert len(pd.read_parquet("results/mine")) == 4
