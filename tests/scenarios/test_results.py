import json

import numpy as np
import pandas as pd
import pytest

from scenarios.intervals import clustered, interval, paired
from scenarios.results import Tables, jsonable, load, save, summarise


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


def test_tables_round_trip_and_leave_no_partial_file(tmp_path):
    tables = Tables(trials(), trials(), trials(), trials())
    written = save(tables, tmp_path, {"rows": [1]})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    pd.testing.assert_frame_equal(load(tmp_path).trials, tables.trials)
    assert json.loads((tmp_path / "run.json").read_text()) == {"rows": [1]}


def test_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    save(Tables(*[trials()] * 4), tmp_path, {"rows": [1]})
    before = (tmp_path / "trials.parquet").read_bytes()

    def broken(self, path, **_):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_parquet", broken)
    with pytest.raises(KeyboardInterrupt):
        save(Tables(*[trials()] * 4), tmp_path, {"rows": [2]})
    assert (tmp_path / "trials.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".*partial"))


def test_interval_is_clustered_by_structure():
    # Structure means 2 and 6: mean 4, sd 2.828, half width 12.706 x 2.828 / sqrt(2) = 25.412.
    values = {(0, 0): 1.0, (0, 1): 3.0, (1, 0): 6.0, (1, 1): 6.0}
    assert clustered(values) == pytest.approx((4.0, -21.412, 29.412), abs=1e-3)
    one = {(0, 0): 1.0, (0, 1): 2.0, (0, 2): 3.0}
    assert clustered(one) == interval(np.array([1.0, 2.0, 3.0]))
