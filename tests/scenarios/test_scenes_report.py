import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from scenarios.scenes import EXTRAS, METHODS
from scenarios.scenes_figures import (
    parameters_figure,
    plot_parameters,
    plot_scenes,
    save_figures,
    scenes_figure,
)
from scenarios.scenes_report import METRICS, Group, print_rows, rows_of
from scenarios.scenes_tasks import BEST, OBSERVED, SCORES

COLUMNS = (*SCORES, *OBSERVED, *BEST)
MACRO, COLD = METRICS[0], METRICS[3]


def segments(values, seeds=(0,), *, setup="different", scenes=2, **columns):
    """A table of days: per method macro AUCs by day, alike in every seed.

    `columns` give other values by method: numbers for all days, or one per day.
    """
    rows = []
    for method, aucs in values.items():
        for seed in seeds:
            for k, auc in enumerate(aucs):
                row = {"scenario": "s", "setup": setup, "seed": seed, "method": method}
                row |= {"segment": 10 * k, "clicks": 9, "is_file": False}
                row |= dict.fromkeys(COLUMNS, 0.5) | {"macro_auc": auc}
                for name in ("all", "cold", *(f"scene{s}" for s in range(scenes))):
                    row |= {f"{name}_predicted": 2.0, f"{name}_observed": 1.0}
                for name, by_method in columns.items():
                    if method in by_method:
                        row[name] = np.broadcast_to(by_method[method], len(aucs))[k]
                rows.append(row)
    return pd.DataFrame(rows)


def run(method, parameters=1_000, seed=0, setup="different", gap=0.1):
    keys = {"scenario": "s", "setup": setup, "method": method, "seed": seed}
    keys |= {"trained_rows": 10, "train": 2.0, "parameters": 9_000 + parameters}
    keys |= {"parameters_without_ids": parameters, "parameters_per_scene": 9}
    rows = [50_000, 7_000, 300, 500]
    truth = [0.9, 0.8, 0.7, 0.9]
    return keys | {
        "scene_rows": rows,
        "scene_auc_truth": truth,
        "scene_auc": [x - gap * (1 + seed) for x in truth],
    }


def test_differences_of_days_and_their_interval_by_hand():
    # Days .1 and .3 above scene_input: mean .2, s = .2 / sqrt 2, over sqrt 2 days.
    group = Group(segments({"scene_input": [0.5, 0.5], "mi_dpg": [0.6, 0.8]}))
    row = group.row("scene_input")
    half = stats.t.ppf(0.975, 1) * 0.1
    found = [row[f"mi_dpg_macro_auc_diff{end}"] for end in ("", "_low", "_high")]
    np.testing.assert_allclose(found, [0.2, 0.2 - half, 0.2 + half])
    assert row["clusters"] == "days"
    assert row["macro_auc_baseline"] == "scene_input"
    assert group.row("mi_dpg")["macro_auc_diff"] == pytest.approx(0.2)


def test_variants_of_mi_dpg_are_no_peers():
    group = Group(segments({"star": [0.6], "mi_dpg_r8": [0.9], "mi_dpg": [0.7]}, seeds=(0, 1, 2)))
    row = group.row("mi_dpg")
    assert row["macro_auc_baseline"] == "star"
    assert (row["seeds"], row["clusters"]) == (3, "seeds")
    assert row["macro_auc_diff_low"] == pytest.approx(0.1)


def test_calibration_of_scenes_is_the_mean_of_their_errors():
    # PCOC 2 and 1/2 in the scenes: |ln| is ln 2 in both, though all rows together are calibrated.
    table = segments(
        {"star": [0.5, 0.5], "mi_dpg": [0.5, 0.5]},
        scene1_predicted={"star": 0.5},
        all_predicted={"star": 1.0},
        scene0_predicted={"mi_dpg": [1.0, 1.0]},
        scene1_observed={"mi_dpg": [2.0, 2.0], "star": [1.0, 1.0]},
    )
    group = Group(table)
    assert group.row("star")["pcoc"] == 1
    assert group.row("star")["macro_log_pcoc"] == pytest.approx(math.log(2))
    own = group.row("mi_dpg")
    assert own["macro_log_pcoc"] == 0
    assert own["macro_log_pcoc_diff"] == pytest.approx(-math.log(2))
    assert own["macro_log_pcoc_diff_high"] == pytest.approx(-math.log(2))


def test_calibration_of_scenes_is_over_the_clusters_of_its_intervals():
    # PCOC 2 on one day, 1/2 on the other: |ln| is ln 2 on both, and 0 over both together.
    table = segments(
        {"star": [0.5, 0.5], "mi_dpg": [0.5, 0.5]},
        scene0_predicted={"star": [2.0, 1.0], "mi_dpg": [1.0, 2.0]},
        scene0_observed={"star": [1.0, 2.0], "mi_dpg": [1.0, 2.0]},
        scene1_predicted={"star": [2.0, 1.0], "mi_dpg": [1.0, 2.0]},
        scene1_observed={"star": [1.0, 2.0], "mi_dpg": [1.0, 2.0]},
    )
    group = Group(table)
    row = group.row("star")
    assert row["clusters"] == "days"
    assert row["macro_log_pcoc"] == pytest.approx(math.log(2))
    assert row["mi_dpg_macro_log_pcoc_diff"] == pytest.approx(-row["macro_log_pcoc"])


def test_scenes_without_rows_have_no_calibration():
    table = segments({"star": [0.5]}, scene1_observed={"star": 0.0}, scene1_predicted={"star": 0.0})
    assert Group(table).row("star")["macro_log_pcoc"] == pytest.approx(math.log(2))


def test_scenarios_may_have_other_numbers_of_scenes():
    few = segments({"star": [0.5], "mi_dpg": [0.5]})
    many = segments({"star": [0.5], "mi_dpg": [0.6]}, scenes=3).assign(scenario="t")
    runs = [run(name) | {"scenario": s} for name in ("star", "mi_dpg") for s in ("s", "t")]
    rows = rows_of(pd.concat([few, many], ignore_index=True), runs)
    assert [row["macro_auc_baseline"] for row in rows] == ["star"] * 4  # has not diverged
    assert [row["macro_log_pcoc"] for row in rows] == [pytest.approx(math.log(2))] * 4


def test_a_peer_that_has_diverged_is_not_the_best(capsys, tmp_path):
    table = segments(
        {"scene_input": [0.5, 0.5], "star": [0.9, math.nan], "mi_dpg": [0.6, 0.6]},
        nll={"star": [0.1, math.inf]},
        scene0_predicted={"star": [1.0, math.nan]},
    )
    names = ("scene_input", "star", "mi_dpg")
    runs = [run(name) for name in names]
    rows = {row["method"]: row for row in rows_of(table, runs)}
    assert {row["macro_auc_baseline"] for row in rows.values()} == {"scene_input"}
    assert (rows["star"]["nll"], rows["star"]["macro_log_pcoc"]) == (math.inf, math.inf)
    print_rows(list(rows.values()))
    assert "of star 1 left out" in " ".join(capsys.readouterr().out.split())
    assert len(save_figures(table, runs, tmp_path)) == 2


def test_table_has_parameters_and_paired_differences(capsys):
    table = segments({"scene_input": [0.5, 0.5], "mi_dpg": [0.625, 0.625]}, macro_auc_truth={})
    rows = rows_of(table, [run("scene_input", 3_121), run("mi_dpg", 5_733)])
    assert [row["parameters"] for row in rows] == [12_121, 14_733]
    print_rows(rows)
    text = " ".join(capsys.readouterr().out.split())
    assert "12,121 │ 3,121 │ 9 │ 5 │ 0.1250 ± 0.0000" in text
    assert "Means over 2 days of 1 seed, 18 test clicks." in text
    assert "Best peer (macro AUC: scene_input, cold AUC: scene_input, NLL: scene_input)" in text
    assert "mi_dpg less the method" in text


def test_absent_methods_leave_unknown_numbers(capsys):
    rows = rows_of(segments({"mi_dpg": [0.5, 0.6]}), [run("mi_dpg")])
    assert rows[0]["macro_auc_baseline"] is None
    assert math.isnan(rows[0]["macro_auc_diff"])
    rows = rows_of(segments({"star": [0.5, 0.6]}), [run("star")])
    assert math.isnan(rows[0]["mi_dpg_macro_auc_diff"])
    print_rows(rows)
    assert "less the method" not in capsys.readouterr().out


def drawn(values, **options):
    """Panel of the macro AUC: its points by name, (x, y)."""
    group = Group(segments(values, **options))
    runs = [run(name, 1_000 * (1 + i)) for i, name in enumerate(values)]
    ax = plot_parameters(group, runs, MACRO)
    lines = {box.get_label(): box.lines[0] for box in ax.containers}
    return ax, {name: tuple(line.get_xydata()[0]) for name, line in lines.items()}


def test_points_are_paired_differences_to_scene_input():
    ax, points = drawn({"star": [0.6, 0.7], "scene_input": [0.5, 0.5], "mi_dpg": [0.7, 0.7]})
    assert points["scene_input"] == (2_000, 0)
    assert points["mi_dpg"] == (3_000, pytest.approx(0.2))
    assert "that of scene_input" in ax.get_ylabel()
    bar = ax.containers[0].lines[2][0].get_segments()[0]
    half = stats.t.ppf(0.975, 1) * 0.05
    np.testing.assert_allclose(bar[:, 1], [0.15 - half, 0.15 + half])
    _, points = drawn({"star": [0.6, 0.7], "mi_dpg": [0.7, 0.7]})
    assert points["star"] == (1_000, pytest.approx(0.65))


def test_a_point_far_below_is_an_arrow_with_its_number():
    values = {name: [0.51, 0.5, 0.5] for name in ("star", "mmoe", "ple", "pepnet")}
    values |= {"scene_input": [0.5] * 3, "mi_dpg": [0.52, 0.5, 0.5], "apg": [0.3] * 3}
    ax, points = drawn(values)
    assert "apg \N{MINUS SIGN}0.200" in points
    assert ax.get_ylim()[0] > -0.05


def texts_of(ax):
    return {text.get_text(): text.get_window_extent() for text in ax.texts}


def test_all_methods_are_named_apart_in_every_panel():
    rng = np.random.default_rng(3)
    names = [*METHODS, *EXTRAS]
    values = {name: 0.7 + 0.01 * rng.normal(size=7) for name in names}
    cold = {name: 0.6 + 0.03 * rng.normal(size=7) for name in names}
    group = Group(segments(values, seeds=(0, 1, 2), cold_auc=cold))
    sizes = np.geomspace(1_000, 60_000, len(names))
    runs = [run(name, int(size)) for name, size in zip(names, sizes, strict=True)]
    figure = parameters_figure({"different": (group, runs), "half": (group, runs)}, "title")
    assert len(figure.axes) == 4
    for ax in figure.axes:
        boxes = list(texts_of(ax).values())
        assert texts_of(ax).keys() == METHODS.keys()  # extras would crowd the panel
        shared = [a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i]]
        assert sum(shared) <= 2
    assert "3 seeds" in figure.axes[0].get_title()


def test_scenes_are_shown_by_traffic_and_cold_ones_as_one():
    runs = [run("scene_input"), run("mi_dpg", gap=0.05), run("mi_dpg", gap=0.05, seed=1)]
    ax = plot_scenes(runs)
    names = [text.get_text() for text in ax.texts]
    assert sorted(names) == ["mi_dpg", "scene_input"]
    line = next(line for line in ax.lines if line.get_marker() == "D")
    np.testing.assert_allclose(line.get_xdata(), np.log10([400, 7_000, 50_000]))
    np.testing.assert_allclose(line.get_ydata(), [-0.075] * 3)
    assert not plot_scenes([run("star")]).lines


def test_scenes_are_cold_run_by_run():
    # Scene 2 is cold in seed 0 only, scene 3 in both. Below the truth: the mean of each seed's cold
    # ones, (.1 + .3) / 2 and .5, then of the seeds.
    one, two = run("mi_dpg"), run("mi_dpg", seed=1)
    one |= {"scene_rows": [50_000, 7_000, 900, 500], "scene_auc": [0.9, 0.8, 0.6, 0.6]}
    two |= {"scene_rows": [70_000, 9_000, 1_100, 300], "scene_auc": [0.9, 0.7, 0.6, 0.4]}
    line = next(line for line in plot_scenes([one, two]).lines if line.get_marker() == "D")
    np.testing.assert_allclose(line.get_xdata(), np.log10([500, 1_100, 8_000, 60_000]))
    np.testing.assert_allclose(line.get_ydata(), [-0.35, -0.1, -0.05, 0.0], atol=1e-12)


def test_figures_are_written_per_target(tmp_path):
    names = ("scene_input", "mi_dpg")
    setups = ("different", "alike", "ctr_alike")
    table = pd.concat([segments({n: [0.5, 0.6] for n in names}, setup=s) for s in setups])
    runs = [run(name, setup=setup) for name in names for setup in setups]
    paths = save_figures(table, runs, tmp_path)
    assert [path.name for path in paths] == [
        *("s-cvr.png", "s-cvr-scenes.png", "s-ctr.png", "s-ctr-scenes.png"),
    ]
    assert all(path.stat().st_size > 5_000 for path in paths)
    group = Group(segments({"mi_dpg": [0.5, 0.6]}))
    warm = run("mi_dpg") | {"scene_rows": [5_000, 7_000, 3_000, 2_000]}
    title = scenes_figure({"half": (group, [warm])}, "title").axes[0].get_title()
    assert title == "half, 1 seed"
