"""Charts of net value: numbers worked by hand from `small_results`."""

import numpy as np
import pytest
import small_results

from scenarios import results
from scenarios.charts_values import (
    MOST_ROWS,
    differences_chart,
    key_title,
    ladder_charts,
    leaderboard_chart,
    map_charts,
)
from scenarios.played import arrange, compared

AXES = ["campaign.budget"]
NOTHING_DRAWN = frozenset()
T2 = 4.302653 / np.sqrt(3)  # half width of three seeds whose values are 0, 1, 2 apart


def played_of(axes=AXES, **options):
    return arrange(results.concat(small_results.campaigns(**options)), axes)


def second_axis(tables, name, values):
    """The tables with another axis: all trials once for each value."""
    parts = [
        results.Tables(
            *(t.assign(**{name: v, "trial": t["trial"] + str(v)}) if len(t) else t for t in tables)
        )
        for v in values
    ]
    return results.concat(parts)


def test_leaderboard_has_the_best_row_on_top():
    played = played_of()
    board = results.leaderboard(played.trials, AXES)
    chart = leaderboard_chart(played, board)
    expected, realised = chart.series
    assert chart.y.labels == ("budget 10 · a", "budget 10 · b", "budget 20 · a", "budget 20 · b")
    assert expected.x == pytest.approx([206.0, 201.0, 106.0, 101.0])
    assert np.round(expected.y) == pytest.approx([3, 2, 1, 0])
    assert realised.x == pytest.approx([205.0, 200.0, 105.0, 100.0])
    assert expected.high - expected.x == pytest.approx([T2] * 4)
    assert "currency" in chart.x.title


def test_leaderboard_of_many_rows_says_how_many_there_are():
    played = played_of(budgets=tuple(range(1, 31)), agents=("a",), seeds=(0,))
    chart = leaderboard_chart(played, results.leaderboard(played.trials, AXES))
    assert len(chart.y.labels) == MOST_ROWS
    assert f"The best {MOST_ROWS} of 30 rows." in chart.caption
    assert chart.series[0].low is None  # one seed has no interval


def test_differences_are_paired():
    # Agent b earns 5 more on every seed: the interval has no width.
    played = played_of()
    board = results.leaderboard(played.trials, AXES)
    chart = differences_chart(played, compared(played, board), "a")
    assert chart.series[0].x == pytest.approx([5.0, 5.0])
    assert chart.series[0].low == pytest.approx([5.0, 5.0])
    assert chart.y.labels == ("budget 20 · b", "budget 10 · b")
    assert differences_chart(played, [], "a") is None


def test_one_axis_gives_a_line_of_each_player():
    played = played_of()
    chart = next(map_charts(played, np.arange(12), NOTHING_DRAWN))
    assert chart.metric == "expected_net_value"
    assert chart.x.title == "campaign.budget (currency for the whole campaign)"
    assert [one.name for one in chart.series] == ["a", "b"]
    assert [one.kind for one in chart.series] == ["line", "line"]
    assert chart.series[1].x.tolist() == [10.0, 20.0]
    assert chart.series[1].y == pytest.approx([106.0, 206.0])
    assert chart.series[1].high == pytest.approx([106.0 + T2, 206.0 + T2])


def test_drawn_values_are_not_joined():
    chart = next(map_charts(played_of(), np.arange(12), frozenset(AXES)))
    assert {one.kind for one in chart.series} == {"points"}


def test_words_as_values_are_places():
    tables = results.concat(small_results.campaigns(budgets=(10,)))
    tables = second_axis(tables, "reward", ["cash", "accrual"])
    played = arrange(tables, ["reward"])
    chart = next(map_charts(played, np.arange(12), NOTHING_DRAWN))
    assert chart.x.labels == ("cash", "accrual")
    assert chart.series[0].kind == "points"
    assert chart.series[0].x.tolist() == [0.0, 1.0]


def test_two_axes_give_a_heat_map_of_each_player_on_one_scale():
    tables = second_axis(results.concat(small_results.campaigns()), "noise", [0.5, 0.1])
    played = arrange(tables, [*AXES, "noise"])
    charts = list(map_charts(played, np.arange(24), NOTHING_DRAWN))
    first, second = [chart for chart in charts if chart.metric == "expected_net_value"]
    assert first.id == "map_expected_net_value_a_0"
    assert (first.x.labels, first.y.labels) == (("10", "20"), ("0.1", "0.5"))
    cells = first.series[0]
    assert list(zip(cells.x, cells.y, strict=True)) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert cells.z == pytest.approx([101.0, 201.0, 101.0, 201.0])
    assert cells.low == pytest.approx(cells.z - T2)
    assert first.z_range == second.z_range == pytest.approx((101.0, 206.0))


def many_players(count, axes):
    """Trials of agent a under so many names that differ in signs only."""
    tables = results.concat(small_results.campaigns(agents=("a",), seeds=(0, 1)))
    tables = second_axis(tables, "noise", axes)
    return arrange(
        second_axis(tables, "agent", ["a" + sign for sign in "./-+:@%=~"[:count]]), ["noise"]
    )


@pytest.mark.parametrize("noise", [(0.5,), (0.1, 0.5)], ids=["lines", "heat maps"])
def test_more_players_than_a_figure_holds_are_told_in_its_caption(noise):
    for count, note in ((8, ""), (9, " The first 8 of 9 players; the filter shows the others.")):
        played = many_players(count, noise)._replace(axes=("campaign.budget", "noise"))
        charts = list(map_charts(played, np.arange(len(played.trials)), NOTHING_DRAWN))
        assert all(chart.caption.endswith(f".{note}") for chart in charts)
        assert len({chart.id for chart in charts}) == len(charts)


def test_axes_that_vary_together_are_not_a_map():
    tables = results.concat(small_results.campaigns())
    tables = tables._replace(trials=tables.trials.assign(zipped=tables.trials["campaign.budget"]))
    played = arrange(tables, [*AXES, "zipped"])
    ids = [chart.id for chart in map_charts(played, np.arange(12), NOTHING_DRAWN)]
    assert ids[0] == "map_expected_net_value_campaign_budget"
    assert "map_expected_net_value_zipped" in ids


def test_no_axis_no_map():
    played = played_of(budgets=(10,))
    assert list(map_charts(played, np.arange(6), NOTHING_DRAWN)) == []


def test_ladder_shows_values_and_paired_steps():
    # Platform 100, 101, 102; oracle 100 more; hindsight twice the oracle's 200, 201, 202.
    played = played_of(budgets=(10,), agents=("a",), estimates=("platform", "oracle"))
    values, steps = ladder_charts(played, np.arange(6))
    assert values.y.labels == ("hindsight", "oracle", "platform")
    assert values.series[0].x == pytest.approx([101.0, 201.0, 402.0])
    assert values.series[0].y.tolist() == [2.0, 1.0, 0.0]
    assert steps.series[0].x == pytest.approx([100.0, 201.0])
    assert steps.series[0].low == pytest.approx([100.0, 201.0 - T2])
    assert steps.zero


def test_ladder_keeps_its_order_and_takes_no_step_over_a_rung_that_failed():
    failures = [
        small_results.failed(f"x{seed}", 10, "a", seed, "boom", "waiting") for seed in range(3)
    ]
    own = small_results.campaigns(budgets=(10,), agents=("a",), estimates=("platform", "oracle"))
    stacks = ("platform", "waiting", "oracle")
    other = small_results.campaigns(budgets=(10,), agents=("b",), estimates=stacks)
    played = arrange(results.concat([*own[:3], *failures, *own[3:], *other]), AXES)
    values, steps = ladder_charts(played, np.arange(len(played.trials)))
    assert values.y.labels == ("hindsight", "oracle", "waiting", "platform")
    assert values.series[0].x == pytest.approx([101.0, 201.0, 402.0])
    assert steps.y.labels == ("hindsight", "oracle", "waiting")
    assert steps.series[0].x == pytest.approx([201.0])  # not oracle - platform
    assert np.round(steps.series[0].y).tolist() == [0.0]
    assert steps.series[1].x == pytest.approx([0.0, 100.0, 206.0])


def test_one_stack_of_estimates_is_no_ladder():
    assert list(ladder_charts(played_of(), np.arange(12))) == []


@pytest.mark.parametrize(
    ("key", "title"),
    [
        ("world.campaign.budget", "world.campaign.budget (currency for the whole campaign)"),
        ("market", "market"),
        ("no.such.key", "no.such.key"),
    ],
)
def test_axis_titles_carry_the_description_of_the_key(key, title):
    assert key_title(key) == title
