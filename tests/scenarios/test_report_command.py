"""`adsim report`: the files it writes, and what it says of folders that it cannot use."""

import json

import pandas as pd
import pytest
import small_results
from command_line import adsim

from scenarios import results
from scenarios.report_command import random_axes
from scenarios.sweep import prepare

FIGURES = {
    *("leaderboard", "differences", "map_expected_net_value_campaign_budget", "pacing"),
    *("net_value", "calibration_cvr", "delays", "prices"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = small_results.save(tmp_path_factory.mktemp("results") / "small")
    assert adsim("report", made)[0] == 0
    return made


def page_of(folder):
    return (folder / "_report" / "index.html").read_text("utf-8")


def payload_of(folder):
    text = page_of(folder).split('id="payload">')[1].split("</script>")[0]
    return json.loads(text)


def test_report_writes_a_page_and_a_png_of_each_figure(folder):
    written = {path.name for path in (folder / "_report").iterdir()}
    assert written == {"index.html", *(f"{name}.png" for name in FIGURES)}
    assert (folder / "_report" / "pacing.png").read_bytes().startswith(b"\x89PNG")


def test_the_folder_stays_a_dataset_of_trials(folder):
    assert len(pd.read_parquet(folder)) == 12


def test_the_page_needs_nothing_else(folder):
    page = page_of(folder)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert "src=" not in page
    assert "default-src 'none'" in page


def test_names_of_the_user_do_not_end_the_data_of_the_page(tmp_path):
    name = "<!--<script></script>"
    parts = small_results.campaigns(agents=("a",))
    other = [part.trials.assign(agent=name, trial="b" + part.trials["trial"]) for part in parts]
    parts += [results.Tables(trials, *[pd.DataFrame()] * 4) for trials in other]
    folder = small_results.save(tmp_path / "small", parts)
    assert adsim("report", folder)[0] == 0
    assert payload_of(folder)["filters"][1]["labels"] == ["a", name]
    assert "<!--" not in page_of(folder)


def test_the_page_says_what_was_played_and_how_to_repeat_it(folder):
    page = page_of(folder)
    for text in ("sweep small", "two budgets &amp; two agents", "0123456789ab", "12"):
        assert text in page
    assert "adsim sweep small.toml</pre>" in page
    assert "scenario, all keys resolved" in page


def test_the_table_has_a_row_per_point_and_player_best_first(folder):
    rows = page_of(folder).split("<tbody>")[1].split("</tbody>")[0].strip().splitlines()
    assert len(rows) == 4
    assert 'data-at="1,1"' in rows[0]  # budget 20, agent b
    assert ">206 ± 2<" in rows[0]
    assert ">5 ± 0<" in rows[0]
    assert ">5 ± 0<" not in rows[1]


def test_the_payload_holds_the_numbers_of_every_view(folder):
    payload = payload_of(folder)
    assert [one["labels"] for one in payload["filters"]] == [["10", "20"], ["a", "b"]]
    assert len(payload["views"]) == 9
    (board,) = [one for one in payload["views"]["-1,0"] if one["id"] == "leaderboard"]
    assert board["series"][0]["x"] == [201, 101]


def test_out_and_json(folder, tmp_path):
    status, out, _ = adsim("report", folder, "--out", tmp_path / "page", "--json")
    assert status == 0
    told = json.loads(out)
    assert told["out"] == str(tmp_path / "page" / "index.html")
    assert set(told["figures"]) == FIGURES
    assert len(told["rows"]) == 4


def test_figures_of_an_earlier_report_are_removed_but_no_pictures_of_the_user(tmp_path):
    folder, own = small_results.save(tmp_path / "small"), tmp_path / "own"
    for place in (folder / "_report", own):
        place.mkdir()
        (place / "old.png").write_bytes(b"old")
    adsim("report", folder)
    adsim("report", folder, "--out", own)
    assert not (folder / "_report" / "old.png").exists()
    assert (own / "old.png").exists()


def test_failed_trials_show_their_tracebacks_as_text(tmp_path):
    error = "Traceback\nValueError: <b>bad</b> </script>"
    parts = [*small_results.campaigns(), small_results.failed("x", 10, "a", 3, error)]
    folder = small_results.save(tmp_path / "small", parts)
    assert adsim("report", folder)[0] == 0
    page = page_of(folder)
    assert "Failed trials (1)" in page
    assert "ValueError: &lt;b&gt;bad&lt;/b&gt; &lt;/script&gt;" in page
    assert "<b>bad" not in page


def test_players_are_compared_with_the_same_one_where_that_one_failed(tmp_path):
    failures = [small_results.failed(f"x{seed}", 10, "a", seed, "boom") for seed in range(3)]
    parts = [*failures, *small_results.campaigns()[3:]]
    folder = small_results.save(tmp_path / "small", parts)
    status, out, _ = adsim("report", folder, "--json")
    assert status == 0
    rows = json.loads(out)["rows"]
    found = {(row["campaign.budget"], row["agent"]): row["expected_diff"] for row in rows}
    assert set(found) == {(10, "b"), (20, "a"), (20, "b")}
    assert found[10, "b"] is None
    assert found[20, "b"] == 5.0
    page = page_of(folder)
    assert "expected, vs a" in page
    lines = page.split("<tbody>")[1].split("</tbody>")[0].strip().splitlines()
    shown = [line.split("</td>")[4].split(">")[1] for line in lines]
    assert shown == ["5 ± 0", "–", "–"]  # of b and a with budget 20, of b with budget 10


def test_a_folder_of_failed_trials_only_has_a_page_without_figures(tmp_path):
    parts = [small_results.failed("x", 10, "a", 3, "boom")]
    folder = small_results.save(tmp_path / "small", parts)
    status, out, _ = adsim("report", folder)
    assert status == 0
    assert "0 figures" in out
    assert "No trial has finished." in page_of(folder)


def test_one_trial_has_a_report(tmp_path):
    parts = small_results.campaigns(budgets=(10,), agents=("a",), seeds=(0,))
    folder = small_results.save(tmp_path / "small", parts)
    assert adsim("report", folder)[0] == 0
    assert "NaN" not in page_of(folder).split('id="payload">')[1].split("</script>")[0]


def test_results_of_another_kind_have_a_report(tmp_path):
    parts = small_results.campaigns(budgets=(10,), estimates=("platform", "oracle"))
    results.save(parts, tmp_path, {"kind": "ladder", "scenario": {"name": "small"}})
    assert adsim("report", tmp_path)[0] == 0
    assert {"ladder.png", "ladder_steps.png"} <= {p.name for p in (tmp_path / "_report").iterdir()}


def test_a_folder_without_results_is_an_error_of_the_user(tmp_path):
    status, _, err = adsim("report", tmp_path)
    assert status == 2
    assert "holds no results" in err


def test_a_sweep_that_was_stopped_is_told_apart(tmp_path):
    prepare(tmp_path)  # as a sweep begins
    status, _, err = adsim("report", tmp_path)
    assert status == 2
    assert "is not finished: run the sweep again" in " ".join(err.split())


def test_a_place_that_cannot_be_written_to_is_an_error_of_the_user(folder, tmp_path):
    (tmp_path / "file").write_text("")
    status, _, err = adsim("report", folder, "--out", tmp_path / "file" / "page")
    assert status == 2
    assert "--out" in err


def test_random_axes_are_those_that_were_drawn_or_searched_for():
    drawn = {"sweep": {"random": {"axes": {"y": {}}}}, "axes": ["x", "y"]}
    assert random_axes(drawn) == {"y"}
    assert random_axes({"sweep": {"search": {"trials": 3}}, "axes": ["x"]}) == {"x"}
    assert random_axes({"kind": "agents"}) == frozenset()
