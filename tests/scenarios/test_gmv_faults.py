"""What is told of files that are no logs and scenarios that do not suit; infinite metrics."""

import math
from importlib.resources import files

import numpy as np
import pytest
from command_line import adsim
from trace_logs import DAY, NAMES, SMALL, make_records, once, store

from adsim.datasets import trace
from scenarios import tasks


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ((1.0, math.nan, 3.0), 2.0),
        ((1.0, math.inf, math.nan), math.inf),
        ((-math.inf, 1.0, -math.inf), -math.inf),
        ((-math.inf, math.inf), math.nan),
        ((math.nan,), math.nan),
    ],
)
def test_means_over_segments_keep_infinity_and_its_sign(values, mean):
    assert tasks.mean_of(np.array(values)) == pytest.approx(mean, nan_ok=True)


def test_a_log_that_is_too_short_is_refused(tmp_path):
    file, records = tmp_path / "log.txt", make_records(50)
    click = records.click_time % DAY
    earlier = np.repeat(records.click_time - click, np.diff(records.offset))
    bought = records.purchase_time - earlier
    trace.write(file, records._replace(click_time=click, purchase_time=bought), SMALL)
    status, _, err = adsim(
        *("bench", "gmv", "--data", file, "--methods", "reader", "--jobs", 1),
        *("--out", tmp_path / "out"),
    )
    assert status == 2
    assert "begin before day 50 and go on after day 81.875, they span days 0.0" in err
    assert "reader in" not in err  # before the first task


def test_faults_of_a_file_are_told_before_the_first_task(monkeypatch, tmp_path):
    monkeypatch.setattr(tasks, "run_task", lambda *_: pytest.fail("run"))
    trace.write(tmp_path / "none.txt", make_records(0), SMALL)
    (tmp_path / "empty.txt").touch()
    store(tmp_path, once(), names=NAMES[1:], name="narrow.txt")
    faults = {
        "none": "none.txt: has no clicks",
        "empty": "empty.txt has no clicks",
        "narrow": "narrow.txt:1: 21 feature columns, must be 22",
    }
    for name, message in faults.items():
        options = ("--data", tmp_path / f"{name}.txt", "--jobs", 1, "--out", tmp_path / "out")
        status, _, err = adsim("bench", "gmv", "--methods", "reader", *options)
        assert status == 2
        assert message in err


def test_amounts_of_another_window_are_refused(tmp_path):
    text = (files("scenarios") / "trace.toml").read_text()
    text = text.replace("[world.windows]\n", "[world.windows]\ngmv_hours = 200.0\n")
    (tmp_path / "long.toml").write_text(text)
    status, _, err = adsim(
        *("bench", "gmv", "--scenario", tmp_path / "long.toml", "--out", tmp_path / "out")
    )
    assert status == 2
    assert "scenario long: world.windows.gmv_hours must be 168, got 200" in err
