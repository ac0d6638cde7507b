import json

import numpy as np
import pandas as pd
import pytest

from scenarios.intervals import clustered, interval, paired
from scenarios.results import (
    Tables,
    claim,
    jsonable,
    leaderboard,
    load,
    load_about,
    save,
    summarise,
)


def trials():
    rows = []
    for agent, values in (("a", [1.0, 2.0, 3.0]), ("b", [2.0, 4.0, 3.0])):
        for seed, value in enumerate(values):
            row = dict.fromkeys(
                (
                    *("spend", "impressions", "wins", "clicks", "purchases", "refunds"),
                    *("gmv", "refunded", "hindsight"),
                ),
                1.0,
            )
            row |= {"agent": agent, "seed": seed, "net_value": value, "expected_net_value": value}
            row |= {"gmv": 6.0, "refunded": 2.0, "spend": 2.0, "hindsight": 4.0}
            rows.append(row)
    return pd.DataFrame(rows)


def test_interval_is_student_t():
    # mean 2, sd 1, n 3: t(.975, 2) = 4.302653; half width 4.302653 / sqrt(3) = 2.484138
    assert interval(np.array([1.0, 2.0, 3.0])) == pytest.approx(
        (2.0, -0.484138, 4.484138), abs=1e-6
    )
    assert interval(np.array([5.0])) == (5.0, -np.inf, np.inf)


def of(agent):
    return trials().query("agent == @agent")


def test_paired_difference_uses_the_seeds_of_both():
    # differences 1, 2, 0: mean 1, sd 1
    assert paired(of("b"), of("a"), "net_value") == pytest.approx((1.0, -1.484138, 3.484138))
    assert paired(of("b"), of("a").query("seed != 1"), "net_value").mean == 0.5


def test_summary_rows_are_per_agent_and_against_the_first():
    first, second = summarise(trials())
    assert (first["agent"], first["net_value"], first["diff"]) == ("a", 2.0, 0.0)
    assert (second["agent"], second["diff"], second["diff_low"]) == (
        *("b", pytest.approx(1.0)),
        pytest.approx(-1.484138),
    )
    assert second["net_roas"] == pytest.approx((6 - 2) / 2)
    assert second["share_of_hindsight"] == pytest.approx(3.0 / 4.0)


def test_json_has_no_nan():
    assert json.dumps(jsonable({"x": [np.float64("nan"), np.int64(3), float("inf")]})) == (
        '{"x": [null, 3, null]}'
    )


def campaign(seed, **columns):
    labels = {"agent": "a", "seed": seed}
    ticks = pd.DataFrame({**labels, "tick": [0, 1], "spend": [1.0, 2.0 + seed]})
    row = {**labels, "status": "done", "net_value": 1.0 + seed, **columns}
    return Tables(pd.DataFrame([row]), ticks, *[pd.DataFrame()] * 3)


def test_folder_is_a_dataset_of_trials(tmp_path):
    written = save(map(campaign, range(3)), tmp_path, {"rows": [float("nan")]})
    names = ["_run.json", "_ticks.parquet", "trials.parquet"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert sorted(path.name for path in written) == names
    (tmp_path / "_report").mkdir()
    (tmp_path / "_report" / "index.html").write_text("no table")
    trials = pd.read_parquet(tmp_path)
    assert trials["net_value"].tolist() == [1.0, 2.0, 3.0]
    tables = load(tmp_path)
    pd.testing.assert_frame_equal(tables.trials, trials)
    assert tables.ticks["spend"].tolist() == [1.0, 2.0, 1.0, 3.0, 1.0, 4.0]
    assert tables.events.empty
    assert load_about(tmp_path) == {"rows": [None]}


def test_failed_trials_have_rows_without_figures(tmp_path):
    row = pd.DataFrame([{"agent": "a", "seed": 0, "status": "failed"}])
    save([Tables(row, *[pd.DataFrame()] * 4), campaign(1)], tmp_path, {})
    trials = load(tmp_path).trials
    assert trials.columns.tolist() == ["agent", "seed", "status", "net_value"]
    assert trials["status"].tolist() == ["failed", "done"]
    assert np.isnan(trials["net_value"].iloc[0])


def test_tables_without_rows_replace_those_of_before(tmp_path):
    save([campaign(0)], tmp_path, {})
    save([campaign(0)._replace(ticks=pd.DataFrame())], tmp_path, {})
    assert load(tmp_path).ticks.empty


def test_no_results_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no results"):
        load(tmp_path)


def test_interrupted_write_keeps_the_old_files(tmp_path, monkeypatch):
    save([campaign(0)], tmp_path, {"rows": [1]})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken():
        yield campaign(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(broken(), tmp_path, {"rows": [2]})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_rows_of_a_sweep_are_compared_with_the_first_player_of_their_point():
    rows = [
        {**row, "x": x, "estimates": "platform", "net_value": row["net_value"] * x}
        for x in (1, 10)
        for row in trials().to_dict("records")
    ]
    board = leaderboard(pd.DataFrame(rows), ["x"])
    assert [(row["x"], row["agent"], row["diff"]) for row in board] == [
        *((1, "a", 0.0), (1, "b", pytest.approx(1.0))),
        *((10, "a", 0.0), (10, "b", pytest.approx(10.0))),
    ]


def test_a_rival_that_failed_is_no_reason_to_take_another():
    rows = [
        {**row, "x": x, "estimates": "platform", "status": "done"}
        for x in (1, 10)
        for row in trials().to_dict("records")
    ]
    for row in rows:  # the first player fails wholly at the first point, once at the second
        failed = row["agent"] == "a" and (row["x"] == 1 or row["seed"] == 0)
        row["status"] = "failed" if failed else "done"
    board = leaderboard(pd.DataFrame(rows), ["x"])
    assert [(row["x"], row["agent"], row["seeds"]) for row in board] == [
        *((1, "b", 3), (10, "a", 2), (10, "b", 3)),
    ]
    assert np.isnan(board[0]["diff"])  # nobody to compare with
    assert [row["diff"] for row in board[1:]] == [0.0, 1.0]  # seeds 1 and 2: 4 - 2 and 3 - 3


def test_a_folder_with_other_results_is_not_overwritten(tmp_path):
    save([campaign(0)], tmp_path, {"kind": "sweep"})
    claim(tmp_path, "sweep")
    with pytest.raises(ValueError, match=r"holds results of another kind \(sweep\)"):
        claim(tmp_path, "agents")


def test_rows_of_one_player_are_compared_with_the_first_point():
    rows = [
        {**row, "x": x, "estimates": "platform", "net_value": row["net_value"] * x}
        for x in (1, 10)
        for row in of("a").to_dict("records")
    ]
    board = leaderboard(pd.DataFrame(rows), ["x"])
    # 10 (1, 2, 3) - (1, 2, 3) = 9, 18, 27
    assert [(row["x"], row["diff"]) for row in board] == [(1, 0.0), (10, pytest.approx(18.0))]


def test_interval_is_clustered_by_structure():
    # Structure means 2 and 6: mean 4, sd 2.828, half width 12.706 x 2.828 / sqrt(2) = 25.412.
    values = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 6.0, (1, 1): 6.0}
    assert clustered(values) == pytest.approx((4.0, -21.412, 29.412), abs=1e-3)
    one = {(0, 0): 1.0, (0, 1): 2.0, (0, 2): 3.0}
    assert clustered(one) == interval(np.array([1.0, 2.0, 3.0]))
