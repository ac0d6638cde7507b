import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "refund_share.py"


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(BENCHMARK))


def test_surplus_of_a_bid_by_integration(benchmark):
    prices = np.exp(np.log(3.0) + 0.5 * np.linspace(-9, 9, 200_001))
    density = np.exp(-0.5 * np.linspace(-9, 9, 200_001) ** 2)
    density /= density.sum()
    bid, value = np.array([2.0, 5.0]), np.array([4.0, 4.0])
    expected = [(density * (value[0] - prices) * (prices <= b)).sum() for b in bid]
    found = benchmark["surplus"](bid, value, np.full(2, 3.0), 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_scores_by_hand(benchmark):
    gmv, net_gmv = np.array([100.0, 200.0]), np.array([50.0, 50.0])
    exact = benchmark["scores"](gmv, net_gmv, np.array([0.5, 0.75]), 0.5)
    np.testing.assert_allclose(exact, [1.0, 0.0, 0.0], atol=1e-12)
    # 60 and 80 instead of 50 and 50: 140 / 100, and errors of .2 and .6.
    wrong = benchmark["scores"](gmv, net_gmv, np.array([0.4, 0.6]), 0.5)
    np.testing.assert_allclose(wrong[:2], [1.4, 0.4])
    assert 0 < wrong[2] < 1


def test_differences_are_paired(benchmark):
    # Differences of the first score: .1 and .3, mean .2, sd .1 sqrt(2): half width 12.706 x .1.
    measured = [
        {"refund share": np.full(3, a), "truth": np.full(3, b)} for a, b in [(1, 1.1), (5, 5.3)]
    ]
    row = benchmark["rows_of"](measured)[1]
    assert (row["method"], row["seeds"], row["pcoc"]) == ("truth", 2, pytest.approx(3.2))
    assert row["pcoc_diff"] == pytest.approx(0.2)
    assert row["pcoc_diff_high"] == pytest.approx(0.2 + 1.2706, abs=1e-4)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seeds", "0,x", "--seeds: expected numbers >= 0 such as 0-9 or 1,4,7, got '0,x'"),
        ("--scenario", "nothing", "scenario 'nothing' does not exist"),
    ],
)
def test_user_errors_exit_with_2(monkeypatch, capsys, option, value, message):
    monkeypatch.setattr(sys, "argv", ["refund_share", option, value])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(BENCHMARK), run_name="__main__")
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
