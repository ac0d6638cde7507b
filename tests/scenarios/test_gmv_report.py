import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from predictors.purchase_stream import GmvResult
from scenarios.gmv import METHODS, TRUTH
from scenarios.gmv_report import (
    METRICS,
    Group,
    calibration,
    plot,
    plot_calibration,
    plot_stream,
    print_rows,
    rows_of,
    save_figures,
)

COLUMNS = ("auc", "acc", "alpr", "log_mae", "mae", "rmse", "mape", "log_bias")


def segments(values, seeds=(0,), *, is_file=False, **columns):
    """A table of segments, eight a day: per method AUCs by segment, alike in every seed.

    `columns` give other values by method: numbers for all segments, or one per segment.
    """
    rows = []
    for method, aucs in values.items():
        for seed in seeds:
            for k, auc in enumerate(aucs):
                row = {"scenario": "s", "setup": "fair", "seed": seed, "method": method}
                row |= {"segment": k, "clicks": 9, "is_file": is_file} | dict.fromkeys(COLUMNS, 0.5)
                row |= {"auc": auc, "gmv_predicted": 2.0, "gmv_observed": 1.0}
                for name, by_method in columns.items():
                    if method in by_method:
                        row[name] = np.broadcast_to(by_method[method], len(aucs))[k]
                rows.append(row)
    return pd.DataFrame(rows)


def run(method, rows=10, seconds=2.0, seed=0, predicted=(10.0, 100.0)):
    keys = {"scenario": "s", "setup": "fair", "method": method, "seed": seed}
    bins = {"predicted": list(predicted), "low": [5.0, 50.0]}
    bins |= {"median": [10.0, 90.0], "high": [20.0, 200.0]}
    pooled = dict.fromkeys(COLUMNS, 0.25 + seed)
    return {**keys, "trained_rows": rows, "train": seconds, "pooled": pooled, "calibration": bins}


def test_every_metric_has_its_own_strongest_single_tower():
    aucs = {"pre_single": 5, "offline_single": 6, "online_single": 7, "online_dual": 9, "reader": 8}
    table = segments(
        {name: [auc] * 16 for name, auc in aucs.items()},
        alpr={"pre_single": 0.9, "offline_single": 0.7, "online_single": 0.8, "reader": 0.63},
        gmv_predicted={"pre_single": 1.2, "offline_single": 0.5, "online_single": 3, "reader": 0.9},
    )
    row = Group(table).row("reader")
    assert row["auc_baseline"] == "online_single"  # not online_dual, which has two towers
    assert row["alpr_baseline"] == "offline_single"
    assert row["pcoc_baseline"] == "pre_single"
    assert row["auc_diff"] == pytest.approx(1)
    assert row["alpr_diff"] == pytest.approx(-0.07)
    assert row["alpr_diff_percent"] == pytest.approx(-10)
    assert row["pcoc"] == pytest.approx(0.9)
    assert row["pcoc_diff"] == pytest.approx(-math.log(0.9) - math.log(1.2))
    assert row["auc_diff_low"] == row["auc_diff_high"] == pytest.approx(1)
    assert row["clusters"] == "days"


def test_differences_of_days_and_their_interval_by_hand():
    # Day means .1 and .3 above the baseline: mean .2, s = .2 / sqrt 2, over sqrt 2 days.
    aucs = [0.6] * 8 + [0.8] * 8
    row = Group(segments({"online_single": [0.5] * 16, "reader": aucs})).row("reader")
    half = stats.t.ppf(0.975, 1) * 0.1
    found = [row[f"auc_diff{end}"] for end in ("", "_low", "_high")]
    np.testing.assert_allclose(found, [0.2, 0.2 - half, 0.2 + half])
    found = [row[f"auc_diff_percent{end}"] for end in ("", "_low", "_high")]
    np.testing.assert_allclose(found, [40, 40 - 200 * half, 40 + 200 * half])


def test_reader_is_compared_with_every_method():
    table = segments({"online_single": [0.5] * 16, "oracle_dual": [0.9] * 16, "reader": [0.6] * 16})
    group = Group(table)
    assert group.row("oracle_dual")["reader_auc_diff"] == pytest.approx(-0.3)
    assert group.row("oracle_dual")["auc_diff"] == pytest.approx(0.4)
    assert group.row("reader")["reader_auc_diff"] == 0
    assert (
        group.row("online_single")["auc_diff"] == group.row("online_single")["auc_diff_high"] == 0
    )


def test_seeds_are_the_clusters_from_three_on():
    table = segments({"online_single": [0.5] * 16, "reader": [0.6] * 16}, seeds=(0, 1, 2))
    row = Group(table).row("reader")
    assert (row["seeds"], row["segments"], row["test_clicks"]) == (3, 48, 432)
    assert row["clusters"] == "seeds"


def test_seeds_of_a_data_file_are_no_clusters():
    # Noise of the clicks, common to all seeds: more seeds do not make it smaller.
    auc = 0.6 + 0.1 * np.random.default_rng(0).normal(size=40)
    values = {"online_single": [0.5] * 40, "reader": auc}
    alone = Group(segments(values)).row("reader")
    group = Group(segments(values, seeds=range(5), is_file=True))
    row = group.row("reader")
    assert (row["seeds"], row["segments"], row["clusters"]) == (5, 200, "days of the file")
    assert alone["clusters"] == "days"
    for end in ("", "_low", "_high"):
        assert row[f"auc_diff{end}"] == pytest.approx(alone[f"auc_diff{end}"])
    assert np.unique(group.clusters).tolist() == [0, 1, 2, 3, 4]
    lines = [
        plot_stream(Group(segments(values, seeds, is_file=True, alpr={"reader": auc})))
        for seeds in ((0,), range(5))
    ]
    bands = [ax.collections[0].get_paths()[0].vertices for ax in lines]
    np.testing.assert_allclose(*bands)


def test_segments_without_auc_are_left_out_and_counted():
    row = Group(segments({"online_single": [0.5, math.nan, 0.7]})).row("online_single")
    assert (row["segments"], row["segments_left_out"]) == (2, 1)
    assert row["auc"] == pytest.approx(0.6)


def test_infinite_errors_stay_infinite_and_are_never_the_best():
    alpr = {"offline_single": [1.0, math.inf], "pre_single": 2.0}
    group = Group(segments({"offline_single": [0.5] * 2, "pre_single": [0.5] * 2}, alpr=alpr))
    row = group.row("offline_single")
    assert row["alpr"] == math.inf
    assert row["alpr_baseline"] == "pre_single"
    assert math.isnan(row["alpr_diff"])


DIVERGED = {"auc": [0.9, math.nan], "alpr": [0.1, math.inf], "gmv_predicted": [1.0, math.nan]}


@pytest.mark.parametrize("predicted", [math.nan, math.inf, -math.inf])
def test_a_single_tower_that_has_diverged_is_not_the_best(predicted, capsys, tmp_path):
    names = ("pre_single", "online_single", "reader")
    broken = DIVERGED | {"gmv_predicted": [1.0, predicted], "log_bias": [0.0, math.nan]}
    columns = {name: {"online_single": values} for name, values in broken.items()}
    table = segments({name: [0.5, 0.5] for name in names}, **columns)
    runs = [run(name) for name in names]
    rows = {row["method"]: row for row in rows_of(table, runs)}
    for name in ("auc", "alpr", "pcoc"):
        assert {row[f"{name}_baseline"] for row in rows.values()} == {"pre_single"}
    own = rows["online_single"]
    assert (own["auc"], own["alpr"], own["pcoc"]) == (0.9, math.inf, math.inf)
    assert own["auc_diff"] == pytest.approx(0.4)  # of the segment before
    assert math.isnan(own["alpr_diff"])
    assert math.isnan(own["pcoc_diff"])
    print_rows(list(rows.values()))
    text = " ".join(capsys.readouterr().out.split())
    assert "Means over 2 segments of 1 seed, 18 test clicks (of online_single 1 left out)." in text
    assert save_figures(table, runs, tmp_path)[0].is_file()


def test_a_diverged_reader_is_shown_as_far_as_it_is_known(capsys, tmp_path):
    names = ("pre_single", "online_single", "reader")
    columns = {name: {"reader": values} for name, values in DIVERGED.items()}
    table = segments({name: [0.5, math.nan] for name in names}, **columns)
    runs = [run(name) for name in names]
    print_rows(rows_of(table, runs))
    text = " ".join(capsys.readouterr().out.split())
    assert "(1 segments without AUC left out)" in text
    assert "reader, relative: AUC +80.00 %, ACC +0.00 %." in text
    ax = plot_stream(Group(table))
    (line,) = [line for line in ax.lines if line.get_lw() == 2.4]
    assert line.get_ydata() == pytest.approx([0.1 - 0.5])  # of the day's first segment
    assert save_figures(table, runs, tmp_path)[0].is_file()


def test_absent_baselines_leave_unknown_numbers():
    (row,) = rows_of(segments({"reader": [0.5, 0.6]}), [run("reader")])
    assert row["auc_baseline"] is None
    assert math.isnan(row["auc_diff"])
    assert math.isnan(row["auc_diff_percent"])
    assert row["rows_per_s"] == 5


def test_pooled_metrics_are_means_over_seeds():
    table = segments({"reader": [0.5] * 16}, seeds=(0, 1))
    (row,) = rows_of(table, [run("reader"), run("reader", seed=1)])
    assert row["pooled_alpr"] == 0.75
    assert row["rows_per_s"] == 5


def test_table_names_the_best_and_keeps_what_the_truth_is_no_bound_of(capsys):
    names = ("online_single", "reader", TRUTH)
    table = segments(dict(zip(names, ([0.5] * 16, [0.75] * 16, [0.875] * 16), strict=True)))
    print_rows(rows_of(table, [run(name) for name in names]))
    text = " ".join(capsys.readouterr().out.split())
    assert "0.8750 │ - │ - │ 2.000" in text
    assert "best │ best │ best" in text
    assert "AUC: online_single" in text
    assert "reader, relative: AUC +50.00 %, ACC +0.00 %, ALPR +0.00 %." in text


def test_calibration_bins_hold_tenths_of_the_clicks():
    order = np.random.default_rng(0).permutation(40)
    predicted = np.arange(1.0, 41.0)[order]
    result = GmvResult(
        *(np.zeros(40, int), np.arange(40), predicted, 2 * predicted, np.ones(40), np.ones((1, 2)))
    )
    found = calibration(result)
    assert found["predicted"] == [2.5 + 4 * k for k in range(10)]
    assert found["median"] == [5.0 + 8 * k for k in range(10)]
    assert (found["low"][0], found["high"][0]) == (3.5, 6.5)  # of 2, 4, 6, 8
    few = GmvResult(*(column[:9] for column in result))
    assert calibration(few)["median"] == []


def test_calibration_is_a_geometric_mean_over_seeds():
    runs = [run("reader", predicted=(10, 100)), run("reader", seed=1, predicted=(40, 400))]
    ax = plot_calibration([*runs, run("pre_single")])
    lines = {line.get_label(): line for line in ax.lines}
    assert set(lines) == {"reader", "predicted = final"}
    np.testing.assert_allclose(lines["reader"].get_xdata(), [20, 200])
    np.testing.assert_allclose(lines["reader"].get_ydata(), [10, 90])
    assert ax.get_xlim() == ax.get_ylim()


def test_figure_names_every_line_apart_but_those_off_the_scale():
    rng = np.random.default_rng(1)
    names = [*METHODS, "oracle_frozen"]
    table = segments({name: [0.5] * 199 for name in names}, seeds=(0, 1, 2))
    table["alpr"] = rng.random(len(table))
    group = Group(table)
    ax = plot_stream(group)
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert set(heights) == {*METHODS} - {"oracle_dual"}
    low, high = ax.get_ylim()
    assert np.diff(sorted(heights.values())).min() > 0.0399 * (high - low)
    assert "pre_single" in ax.get_ylabel()
    assert "not shown, mean: oracle_dual" in ax.get_xlabel()
    assert "oracle_frozen" in ax.get_xlabel()
    assert len(ax.get_xticks()) <= 13
    assert len(plot(group, [run("reader")], "title").axes) == 2


def test_figure_of_the_told_oracles_alone_shows_them():
    ax = plot_stream(Group(segments({"oracle_dual": [0.5] * 16})))
    assert [text.get_text() for text in ax.texts] == ["oracle_dual"]
    assert ax.get_xlabel() == "day of the stream"
    assert Group(segments({"oracle_dual": [0.5] * 16})).strongest(METRICS[0]) == ""


def test_figures_are_written_without_the_truth(tmp_path):
    names = ("pre_single", "reader", TRUTH)
    table = segments({name: [0.5] * 16 for name in names})
    (path,) = save_figures(table, [run(name) for name in names], tmp_path)
    assert path.name == "s-fair.png"
    assert path.stat().st_size > 5_000
