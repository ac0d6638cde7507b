"""What selection does to estimates, and the benchmark of exploration."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_stacks import SMALL

from adsim.types import Target
from predictors import OraclePredictor
from scenarios.build import make_agent, make_auction_env
from scenarios.estimates import EstimatesWrapper
from scenarios.run import play
from scenarios.selection import GROUPS, KINDS, SelectionMeter
from scenarios.stack import SOURCES, Stack

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "exploration.py"
NOISY = {"platform_noise.ctr_sd": 1.0, "platform_noise.cvr_sd": 1.0}


def met(stack, **options):
    meter = SelectionMeter(
        EstimatesWrapper(make_auction_env(overrides=SMALL | NOISY), stack, **options)
    )
    play(meter, make_agent("dual"), 0)
    return meter


def test_true_estimates_are_true_everywhere():
    oracle = OraclePredictor()
    meter = met(Stack({t: oracle for t in SOURCES if t in oracle.targets}), explore_share=0.5)
    np.testing.assert_allclose(meter.sums[..., 0], meter.sums[..., 1], rtol=1e-12)
    assert meter.totals()["won_ctr_true"] == meter.sums[1, 0, 1]
    assert (meter.sums[0] >= meter.sums[1]).all()
    assert (meter.sums[1] >= meter.sums[2]).all()


def test_winning_selects_overestimates():
    estimated, true = np.moveaxis(met(Stack()).sums, 2, 0)
    requests, won = (estimated / np.maximum(true, 1e-12))[:2]
    assert (won[:2] > 1.1 * requests[:2]).all()  # CTR and CVR
    assert not true[2].any()  # no bid was explored


def test_sums_by_hand():
    oracle = OraclePredictor()
    meter = SelectionMeter(
        EstimatesWrapper(make_auction_env(overrides=SMALL | NOISY), Stack({Target.CVR: oracle}))
    )
    obs, _ = meter.reset(seed=1)
    truth = meter.unwrapped.oracle().truth()
    _, _, _, _, info = meter.step(np.minimum(obs["expected_net_value"], 100.0))
    real, won = obs["mask"] > 0, info["result"].won
    assert meter.sums[0, 0, 0] == pytest.approx(obs["pctr"][real].sum())
    assert meter.sums[1, 1, 1] == pytest.approx((truth.p_click * truth.p_convert)[won].sum())
    assert meter.sums[1, 2, 1] == pytest.approx(truth.net_value[won].sum())


@pytest.fixture
def exploration():
    spec = spec_from_file_location("exploration", BENCHMARK)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_by_hand(exploration):
    names = [f"{group}_{kind}" for group in GROUPS for kind in KINDS]

    def sums(ratio, size):
        estimated = {f"{name}_estimated": ratio * size for name in names}
        return estimated | {f"{name}_true": size for name in names}

    trials = [
        {"explore": share, "seed": seed, "expected_net_value": value, **sums(ratio, 1.0 + seed)}
        for share, ratio, values in ((0.0, 1.2, (100.0, 104.0)), (0.1, 1.1, (90.0, 96.0)))
        for seed, value in enumerate(values)
    ]
    plain, explored = exploration.rows_of(pd.DataFrame(trials))
    assert plain["paired_diff"] == 0.0
    assert explored["expected_net_value"] == 93.0
    assert explored["paired_diff"] == -9.0  # -10 and -8
    assert explored["won_cvr"] == pytest.approx(1.1)


@pytest.mark.parametrize("text", ["", "a", "0.1,2", "-0.1"])
def test_bad_shares_are_named(exploration, text):
    with pytest.raises(ValueError, match="--shares: expected numbers in"):
        exploration.parse_shares(text)


def test_benchmark_prints_rows(exploration, monkeypatch, capsys, tmp_path):
    # The oracle's estimates need no warm-up; four ticks instead of a week.
    tiny = tmp_path / "tiny.toml"
    keys = {**SMALL, "time.num_ticks": 4}
    tiny.write_text("".join(f"world.{key} = {json.dumps(value)}\n" for key, value in keys.items()))
    options = ["--scenario", str(tiny), "--estimates", "oracle", "--seeds", "0"]
    options += ["--shares", "0.5", "--out", str(tmp_path), "--json"]
    monkeypatch.setattr(exploration, "JOBS", 1)
    monkeypatch.setattr(sys, "argv", ["exploration", *options])
    exploration.main()
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["explore"] for row in rows] == [0.0, 0.5]
    assert rows[0]["paired_diff"] == 0.0
    assert rows[1]["explored_ctr"] == pytest.approx(1.0)  # the oracle's estimates are true
