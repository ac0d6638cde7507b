"""Trials arranged for figures: sums over time, bins, means over the points of a campaign."""

import numpy as np
import pandas as pd
import pytest
import small_results

from scenarios import results
from scenarios.curves import MONEY_EDGES, PROBABILITY_EDGES
from scenarios.played import arrange, band, by_player, column, compared, cumulative, plain

AXES = ["campaign.budget"]


def played_of(parts=None, axes=AXES):
    return arrange(results.concat(small_results.campaigns() if parts is None else parts), axes)


def board_of(played):
    return results.leaderboard(played.trials, AXES)


def test_cumulative_sums_each_path_and_carries_on_after_its_end():
    # Path 0 has ticks at 0 and 12 h, path 1 only at 0 h.
    days, table = cumulative(
        np.array([0.0, 12.0, 0.0]), np.array([0, 0, 1]), np.array([1.0, 2.0, 5.0]), 2
    )
    assert days == pytest.approx([0.0, 0.5, 1.0])
    assert table.tolist() == [[0.0, 0.0], [1.0, 5.0], [3.0, 5.0]]


def test_arrange_gives_cumulative_values_by_trial():
    played = played_of()
    assert played.days == pytest.approx([0.0, 0.5, 1.0, 1.5])
    first = played.paths["spend"][:, 0]  # of budget 10
    assert first == pytest.approx([0.0, 5.0, 5.0 + 10 / 3, 10.0])
    # margin .5: cash .5 x (30 + 10 - 10) - 10; matured the same at the end.
    assert played.paths["seen"][:, 0] == pytest.approx([0, -5, -25 / 3 + 15, 5])
    assert played.paths["matured"][:, 0] == pytest.approx([0, -5, -25 / 3, 5])
    assert played.paths["realised"][:, 0] == pytest.approx([0, 10, 15 - 25 / 3, 5])


def test_arrange_puts_curves_into_their_bins():
    played = played_of()
    cvr = played.bins["calibration", "cvr"]
    assert cvr.edges is PROBABILITY_EDGES
    filled = np.flatnonzero(cvr.counts[:, 0])
    assert PROBABILITY_EDGES[filled] == pytest.approx([10**-0.4, 10**-0.2])
    assert cvr.counts[filled, 0].tolist() == [40.0, 60.0]
    assert cvr.observed[filled, 11].tolist() == [10.0, 60.0]
    won = played.bins["price", "won"]
    assert MONEY_EDGES[np.flatnonzero(won.counts[:, 0])] == pytest.approx([1.0])


def test_arrange_leaves_out_failed_trials_and_axes_of_one_value():
    failed = small_results.failed("x", 10, "a", 3, "boom")
    played = played_of([*small_results.campaigns(budgets=(10,)), failed])
    assert len(played.trials) == 6
    assert played.axes == ()
    assert played.players == (("a", "platform"), ("b", "platform"))


def test_the_first_player_stays_first_if_its_first_trials_fail():
    parts = small_results.campaigns()
    failures = [small_results.failed(f"x{seed}", 10, "a", seed, "boom") for seed in range(3)]
    played = played_of([*failures, *parts[3:]])
    assert played.players == (("a", "platform"), ("b", "platform"))
    assert [len(rows) for rows in by_player(played, np.arange(9)).values()] == [3, 6]


def test_axes_stay_if_all_but_one_value_fail():
    failed = small_results.failed("x", 10, "a", 0, "boom")
    assert played_of([failed, *small_results.campaigns(budgets=(20,))]).axes == tuple(AXES)


def test_nothing_finished_is_no_error():
    played = played_of([small_results.failed("x", 10, "a", 3, "boom")])
    assert len(played.trials) == 0
    assert played.bins == {}


def test_band_is_over_campaigns_of_the_means_over_points():
    # Agent a: budgets 10 and 20, seeds 0 to 2: campaign means 150, 151, 152. t(2) = 4.302653,
    # standard error 1 / sqrt(3).
    played = played_of()
    rows = by_player(played, np.arange(12))[0]
    found = band(played, rows, column(played, "expected_net_value")[None])
    assert found.mean == pytest.approx([151.0])
    assert found.high - found.mean == pytest.approx([4.302653 / np.sqrt(3)], rel=1e-6)


def test_campaigns_that_lack_a_point_are_left_out():
    parts = small_results.campaigns()[:-1]  # budget 20, agent b, seed 2 is not there
    played = played_of(parts)
    rows = by_player(played, np.arange(11))[1]
    found = band(played, rows, column(played, "expected_net_value")[None])
    assert found.mean == pytest.approx([155.5])  # seeds 0 and 1: 155, 156


def test_band_clusters_by_structure():
    parts = [
        small_results.campaign(f"{structure}{seed}", 10, "a", "platform", seed, structure)
        for structure in (0, 1)
        for seed in (2 * structure, 2 * structure + 1)
    ]
    played = played_of(parts)
    found = band(played, np.arange(4), column(played, "expected_net_value")[None])
    # Means of the structures 100.5 and 102.5: standard error 1, t(1) = 12.7062.
    assert found.mean == pytest.approx([101.5])
    assert found.high == pytest.approx([101.5 + 12.7062], abs=1e-4)


def test_compared_are_players_beside_the_first_where_that_one_finished():
    parts = small_results.campaigns(seeds=(0,))[1:]  # agent a has no trial with budget 10
    played = played_of(parts)
    assert played.players[0] == ("b", "platform")
    board = board_of(played)
    assert [(row["campaign.budget"], row["agent"]) for row in compared(played, board)] == [
        (20, "a")
    ]


@pytest.mark.parametrize("agents", [("a", "b"), ("a",)])
def test_nobody_is_compared_with_what_failed(agents):
    # With two agents the first fails at the first point; with one, its first point fails.
    parts = small_results.campaigns(agents=agents, seeds=(0,))
    tables = results.concat([small_results.failed("x", 10, "a", 0, "boom"), *parts[1:]])
    found = compared(arrange(tables, AXES), results.leaderboard(tables.trials, AXES))
    assert [(row["campaign.budget"], row["agent"]) for row in found] == (
        [(20, "b")] if len(agents) > 1 else []
    )


def test_nobody_is_compared_with_what_was_not_played():
    parts = small_results.campaigns(seeds=(0,))
    del parts[2]  # agent a has no trial with budget 20
    played = played_of(parts)
    assert [row["campaign.budget"] for row in compared(played, board_of(played))] == [10]


def test_one_player_is_compared_with_the_first_point():
    played = played_of(small_results.campaigns(agents=("a",)))
    assert [row["campaign.budget"] for row in compared(played, board_of(played))] == [20]


def test_a_metric_that_is_not_there_is_unknown():
    assert np.isnan(column(played_of(), "nothing")).all()


@pytest.mark.parametrize(
    ("value", "shown"), [(0.123456, "0.1235"), (1650.5, "1650.5"), (3, "3"), ("x", "x")]
)
def test_plain_keeps_labels_short(value, shown):
    assert plain(value) == shown


def test_trials_without_series_have_no_paths():
    tables = results.concat(small_results.campaigns())._replace(ticks=pd.DataFrame())
    assert arrange(tables, AXES).paths == {}
