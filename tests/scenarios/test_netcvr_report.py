import numpy as np
import pandas as pd
from scipy import stats

from scenarios.intervals import cluster_interval, interval
from scenarios.netcvr import METHODS
from scenarios.netcvr_report import METRICS, Group, plot_stream, rows_of


def segments(values, seeds=(0,), *, is_file=False, **columns):
    """A table of segments: per method NetCVR AUCs, alike in every seed or by seed."""
    rows = []
    for method, aucs in values.items():
        for seed in seeds:
            for k, value in enumerate(aucs[seed] if isinstance(aucs, dict) else aucs):
                row = {"scenario": "s", "setup": "fair", "seed": seed, "method": method}
                row |= {"segment": k, "clicks": 9, "netcvr_auc": value, "cvr_auc": value}
                row["is_file"] = is_file
                row |= dict.fromkeys(("cvr_nll", "netcvr_nll", "cvr_prauc", "netcvr_prauc"), 0.5)
                for of in ("cvr", "netcvr", "refund"):
                    row |= {f"{of}_predicted": 2.0, f"{of}_observed": 1.0}
                rows.append(row)
    table = pd.DataFrame(rows)
    for name, by_method in columns.items():
        table[name] = [
            by_method.get(m, old) for m, old in zip(table.method, table[name], strict=True)
        ]
    return table


def run(method, rows, seconds):
    keys = {"scenario": "s", "setup": "fair", "method": method}
    return {**keys, "trained_rows": rows, "train": seconds}


def test_interval_of_equal_clusters_is_that_of_their_means():
    values = np.random.default_rng(0).normal(size=60)
    clusters = np.repeat(np.arange(6), 10)
    expected = interval(values.reshape(6, 10).mean(axis=1))
    np.testing.assert_allclose(cluster_interval(values, clusters), expected)


def test_interval_of_unequal_clusters_by_hand():
    # Mean 3, sums of deviations -3 and 3: s^2 = 2 x 18 / 9 = 4.
    found = cluster_interval(np.array([1.0, 2.0, np.nan, 6.0]), np.array([0, 0, 0, 1]))
    half = 2 * stats.t.ppf(0.975, 1)
    np.testing.assert_allclose(found, [3, 3 - half, 3 + half])


def test_interval_of_one_cluster_is_infinite_and_of_nothing_unknown():
    assert cluster_interval(np.array([1.0, 3.0]), np.zeros(2)) == (2.0, -np.inf, np.inf)
    assert np.isnan(cluster_interval(np.array([np.nan]), np.zeros(1))).all()


def test_clusters_are_days_below_three_seeds_and_seeds_from_there_on():
    values = {"tesla": np.arange(20.0), "bdl": np.zeros(20)}
    days = Group(segments(values, seeds=(0, 1)))
    assert np.unique(days.clusters).size == 4
    assert (
        Group(segments(values, seeds=(0, 1, 2))).clusters.tolist() == [0] * 20 + [1] * 20 + [2] * 20
    )
    mean, low, high = days.difference(METRICS[0], "tesla", "bdl")
    # Four days with means 4.5 and 14.5: s = 10 / sqrt(3), over sqrt(4).
    half = stats.t.ppf(0.975, 3) * 10 / np.sqrt(3) / 2
    np.testing.assert_allclose([mean, low, high], [9.5, 9.5 - half, 9.5 + half])


def test_relative_improvement_and_its_difference():
    table = segments(
        {
            "pre_trained": [0.6, 0.6, np.nan],
            "oracle": [0.8, 0.8, np.nan],
            "bdl": [0.6, 0.7, np.nan],
            "fnc": [0.5, 0.5, np.nan],
            "tesla": [0.7, 0.8, np.nan],
        }
    )
    group = Group(table)
    assert group.strongest(METRICS[0]) == "bdl"
    row = group.row("tesla")
    assert (row["segments"], row["segments_left_out"], row["test_clicks"]) == (2, 1, 27)
    assert row["strongest_baseline"] == "bdl"
    np.testing.assert_allclose(row["netcvr_ri_auc"], 75)
    np.testing.assert_allclose(row["netcvr_auc_diff"], 0.1)
    np.testing.assert_allclose(row["netcvr_ri_auc_diff"], 50)
    np.testing.assert_allclose(group.row("fnc")["tesla_netcvr_ri_auc_diff"], 125)
    assert group.row("pre_trained")["netcvr_ri_auc"] == 0
    assert group.row("bdl")["netcvr_auc_diff_high"] == 0


def test_differences_of_nll_and_refund_calibration_have_their_own_strongest_baseline():
    values = {name: [0.5] * 10 for name in ("bdl", "fnc", "tesla")}
    table = segments(
        values,
        seeds=(0, 1, 2),
        netcvr_nll={"bdl": 0.4, "fnc": 0.3, "tesla": 0.2},
        refund_predicted={"bdl": 0.25, "fnc": 3.0, "tesla": 2.0},
    )
    row = Group(table).row("tesla")
    assert (row["netcvr_nll_baseline"], row["refund_pcoc_baseline"]) == ("fnc", "fnc")
    np.testing.assert_allclose(row["netcvr_nll_diff"], -0.1)
    np.testing.assert_allclose(row["refund_pcoc_diff"], np.log(2) - np.log(3))
    assert row["rfr_pcoc"] == 2
    assert row["clusters"] == "seeds"


def test_seeds_of_a_data_file_share_its_days():
    values = {"tesla": np.arange(20.0), "bdl": np.zeros(20)}
    group = Group(segments(values, seeds=(0, 1, 2), is_file=True))
    assert group.clusters.tolist() == [*[0] * 10, *[1] * 10] * 3
    row = group.row("tesla")
    # Two days with means 4.5 and 14.5: s = 10 / sqrt(2), over sqrt(2).
    assert (row["seeds"], row["clusters"]) == (3, "days of the file")
    np.testing.assert_allclose(row["netcvr_auc_diff_high"], 9.5 + stats.t.ppf(0.975, 1) * 5)


def test_a_baseline_that_has_diverged_is_not_the_strongest():
    table = segments({"bdl": [0.9, np.nan], "fnc": [0.6, 0.6], "tesla": [0.7, 0.7]})
    broken = table.index[(table.method == "bdl") & (table.segment == 1)]
    table.loc[broken, ["netcvr_nll", "refund_predicted"]] = np.inf
    table.loc[broken, "netcvr_predicted"] = np.nan
    rows = {row["method"]: row for row in rows_of(table, [run("bdl", 1, 1), run("fnc", 1, 1)])}
    row = rows["tesla"]
    assert row["strongest_baseline"] == row["refund_pcoc_baseline"] == "fnc"
    assert rows["bdl"]["netcvr_nll"] == rows["bdl"]["netcvr_pcoc"] == np.inf
    assert np.isnan(rows["bdl"]["refund_pcoc_diff"])


def test_absent_methods_leave_unknown_numbers():
    row = rows_of(segments({"tesla": [0.5, 0.6]}), [run("tesla", 10, 2.0)])[0]
    assert row["strongest_baseline"] is None
    assert np.isnan(row["netcvr_ri_auc"])
    assert np.isnan(row["netcvr_auc_diff"])
    assert row["rows_per_s"] == 5


def test_figure_names_every_line_apart():
    rng = np.random.default_rng(1)
    values = {name: 0.7 + 0.02 * rng.random(70) for name in METHODS}
    group = Group(segments(values, seeds=(0, 1, 2)))
    ax = plot_stream(group, "title")
    heights = {text.get_text(): text.get_position()[1] for text in ax.texts}
    assert set(heights) == set(METHODS)
    low, high = ax.get_ylim()
    assert np.diff(sorted(heights.values())).min() > 0.0399 * (high - low)
    assert "pre_trained" in ax.get_ylabel()
    alone = Group(segments({"tesla": values["tesla"]}))
    assert plot_stream(alone, "title").get_ylabel() == "NetCVR AUC"
