import json
import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_worlds import SMALL_WORLD

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "rl.py"


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(BENCHMARK))


def curve(policy, rival):
    """Evaluations of seeds 1 and 2: one before the training, one after."""
    rows = [("dual", 0, seed, value) for seed, value in zip((1, 2), rival, strict=True)]
    rows += [("linear", 0, seed, value - 4.0) for _, _, seed, value in rows]
    rows += [("policy", 0, seed, 0.0) for seed in (1, 2)]
    rows += [("policy", 9, seed, value) for seed, value in zip((1, 2), policy, strict=True)]
    table = pd.DataFrame(rows, columns=["agent", "steps", "seed", "expected_net_value"])
    return table.assign(net_value=2 * table["expected_net_value"], spend=1.0)


def test_policies_are_averaged_over_trainings_and_paired_by_seed(benchmark):
    # Means over trainings: 11 and 22; less dual's 10 and 20: 1 and 2, of mean 1.5; shares 33 / 30.
    curves = [curve((10, 20), (10, 20)), curve((12, 24), (10, 20))]
    row = benchmark["row_of"](benchmark["Case"]("default", "cash"), curves)
    assert (row["expected"], row["realised"]) == (16.5, 33.0)
    assert (row["expected_vs_dual"], row["expected_vs_linear"]) == (1.5, 5.5)
    assert row["realised_vs_dual"] == 3.0
    np.testing.assert_allclose((row["worst"], row["best"]), (1.0, 1.2))
    assert row["share_of_dual"] == pytest.approx(1.1)


def test_trainings_that_are_finished_are_not_run_again(benchmark, tmp_path):
    small = {"scenario": "default", "overrides": SMALL_WORLD, "num_envs": 2, "steps": 32}
    given = {**small, "held_out": (50, 51)}
    first = benchmark["curve_of"](given, tmp_path / "a", lambda *_, **__: None)
    weights = (tmp_path / "a" / "policy.npz").read_bytes()
    second = benchmark["curve_of"](given, tmp_path / "a", lambda *_, **__: None)
    pd.testing.assert_frame_equal(first, second)
    assert (tmp_path / "a" / "policy.npz").read_bytes() == weights
    assert json.loads((tmp_path / "a" / "train.json").read_text())["steps"] == 32
    with pytest.raises(ValueError, match="only the steps may change, not seed"):
        benchmark["curve_of"]({**given, "seed": 3}, tmp_path / "a", None)


def test_main_writes_table_and_figure(benchmark, tmp_path, monkeypatch, capsys):
    table = curve((10, 20), (10, 20))
    monkeypatch.setitem(benchmark["main"].__globals__, "curve_of", lambda *_: table)
    for as_json in (False, True):
        benchmark["main"](tmp_path, seeds=(0, 1), steps=9, as_json=as_json)
    printed = capsys.readouterr().out
    assert "100.0 %" in printed
    rows = json.loads((tmp_path / "rl.json").read_text())["rows"]
    assert [row["reward"] for row in rows] == ["accrual", "estimated", "cash", "cash"]
    assert (tmp_path / "rl.png").stat().st_size > 10_000
