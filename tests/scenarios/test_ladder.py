"""The ladder of estimates at small size: what is played, kept, compared and drawn."""

import json

import numpy as np
import pandas as pd
import pytest
from command_line import adsim
from small_stacks import SIZE, SMALL

from scenarios import playing, trial
from scenarios.ladder_report import plot, rows_of

NAMES = ["fnc", "tesla", "reader", "scenes", "full", "oracle", "hindsight"]
KEYS = {"rung", "expected_net_value", "net_value", "ci_low", "ci_high", "paired_diff"}
KEYS |= {"paired_low", "paired_high", "share_of_oracle", "share_of_hindsight"}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(trial, "SIZE", SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ladder")


def small_run(folder, *options):
    pairs = [f"--set={key}={value}" for key, value in SMALL.items()]
    out = ("--out", folder / "out", "--cache", folder / "cache", "--jobs", "1", "--json")
    return adsim("run", "default", *pairs, "--seeds", "0,1", *out, *options)


def test_every_rung_is_a_row(folder):
    status, out, _ = small_run(folder)
    assert status == 0
    rows = json.loads(out)["rows"]
    assert [row["rung"] for row in rows] == NAMES
    assert all(row.keys() >= KEYS for row in rows)
    assert rows[5]["share_of_oracle"] == 1.0
    assert rows[6]["share_of_hindsight"] == 1.0
    assert rows[6]["net_value"] is None
    assert rows[0]["paired_diff"] is None
    step = rows[1]["expected_net_value"] - rows[0]["expected_net_value"]
    assert rows[1]["paired_diff"] == pytest.approx(step)
    assert rows[0]["pcoc_refund_rate"] is None  # FNC says nothing of refunds
    written = {path.name for path in (folder / "out" / "default_ladder").iterdir()}
    assert written == {
        *("trials.parquet", "_ticks.parquet", "_curves.parquet", "_run.json"),
        *("_trials", "_figures", "_sweep.log"),
    }
    trials = pd.read_parquet(folder / "out" / "default_ladder")
    assert trials["estimates"].tolist() == [name for name in NAMES[:-1] for _ in range(2)]


def test_what_was_played_is_taken_from_the_folder(folder, monkeypatch):
    first = json.loads(small_run(folder)[1])["rows"]  # played, or taken from the test above
    monkeypatch.setattr(playing, "play_trial", lambda *_: pytest.fail("played again"))
    status, out, err = small_run(folder)
    assert status == 0
    assert json.loads(out)["rows"] == first
    assert "12 of 12 trials taken from" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--preset", "huge"), "preset 'huge' does not exist: one of quick, full"),
        (("--jobs", "0"), "--jobs: must be >= 1"),
        (("--set", "randomize_structure=true"), "randomize_structure must be False"),
    ],
)
def test_bad_options_are_named(folder, options, text):
    status, _, err = small_run(folder, *options)
    assert status == 2
    assert text in " ".join(err.split())


def campaign(rung, seed, expected, bound=float("nan"), **columns):
    base = {"estimates": rung, "structure": 0, "seed": seed, "expected_net_value": expected}
    sums = {f"{t}_{k}": 1.0 for t in ("ctr", "cvr", "gmv", "net_gmv") for k in _KINDS}
    sums |= {f"refund_rate_{k}": 1.0 for k in _KINDS}
    return {**base, "net_value": expected + 1.0, "hindsight": bound, **sums, **columns}


_KINDS = ("predicted", "observed")


def test_rows_by_hand():
    trials = [
        campaign("fnc", 0, 80.0, cvr_predicted=3.0),
        campaign("fnc", 1, 90.0, cvr_observed=3.0),
    ]
    trials += [campaign("oracle", 0, 100.0, 104.0), campaign("oracle", 1, 100.0, 106.0)]
    rows = rows_of(pd.DataFrame(trials))
    assert [row["rung"] for row in rows] == ["fnc", "oracle", "hindsight"]
    assert [row["expected_net_value"] for row in rows] == [85.0, 100.0, 105.0]
    assert rows[0]["share_of_oracle"] == 0.85
    assert rows[0]["share_of_hindsight"] == pytest.approx(170 / 210)
    assert rows[0]["pcoc_cvr"] == 1.0  # (3 + 1) / (1 + 3): sums over campaigns
    # Differences 20 and 10: mean 15, half width t(.975, 1 df) * 5 = 63.5.
    assert rows[1]["paired_diff"] == 15.0
    assert rows[1]["paired_low"] == pytest.approx(15 - 63.53, abs=0.01)
    assert np.isnan(rows[2]["net_value"])


def test_one_seed_has_no_interval_and_is_drawn():
    trials = [campaign("fnc", 0, 80.0), campaign("oracle", 0, 100.0, 104.0)]
    rows = rows_of(pd.DataFrame(trials))
    assert rows[1]["paired_low"] == -np.inf
    assert len(plot(rows, "one seed").axes) == 3
