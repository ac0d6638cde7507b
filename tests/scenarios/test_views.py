"""Views: which charts a choice of filters shows, and how many choices a page can hold."""

import numpy as np
import pytest
import small_results

from scenarios import results, views
from scenarios.played import arrange
from scenarios.views import ALL, choices_of, chosen, filters_of, make_views, rival_of

AXES = ["campaign.budget"]


def views_of(**options):
    played = arrange(results.concat(small_results.campaigns(**options)), AXES)
    board = results.leaderboard(played.trials, list(played.axes))
    return played, make_views(played, board, frozenset())


def chart(found, choice, name):
    return next(one for one in found.charts[choice] if one.id == name)


def test_filters_are_the_columns_with_several_values():
    played, found = views_of()
    assert [one.column for one in found.filters] == ["campaign.budget", "agent"]
    assert found.filters[0].labels == ["10", "20"]
    assert chosen(played, found.filters, (1, 0)).tolist() == [6, 7, 8]


def test_every_combination_has_the_charts_of_its_trials():
    _, found = views_of()
    assert found.combined
    assert len(found.charts) == 9
    board = chart(found, (ALL, 1), "leaderboard")
    assert board.y.labels == ("budget 10 · b", "budget 20 · b")
    assert board.series[0].x == pytest.approx([206.0, 106.0])
    # Budget 20 only, both agents: the axis has one value, and is no chart any more.
    assert not [one for one in found.charts[1, ALL] if one.metric]
    lines = chart(found, (ALL, 1), "map_expected_net_value_campaign_budget").series
    assert [one.name for one in lines] == ["b"]


def test_differences_stay_those_to_the_first_player_when_it_is_filtered_out():
    _, found = views_of()
    assert chart(found, (ALL, 1), "differences").series[0].x == pytest.approx([5.0, 5.0])
    assert not [one for one in found.charts[ALL, 0] if one.id == "differences"]


def test_too_many_combinations_are_made_one_filter_at_a_time(monkeypatch):
    monkeypatch.setattr(views, "MOST_VIEWS", 8)
    _, found = views_of()
    assert not found.combined
    assert set(found.charts) == {(ALL, ALL), (0, ALL), (1, ALL), (ALL, 0), (ALL, 1)}


def test_too_large_views_are_made_one_filter_at_a_time():
    played, found = views_of()
    assert choices_of(found.filters, views.MOST_BYTES // 9)[0]
    assert not choices_of(found.filters, views.MOST_BYTES // 9 + 1)[0]
    assert len(choices_of(filters_of(played), views.MOST_BYTES)[1]) == 4


def test_axes_with_many_values_are_no_filter():
    played, found = views_of(budgets=tuple(range(1, 18)), agents=("a",), seeds=(0, 1))
    assert found.filters == ()
    assert list(found.charts) == [()]
    assert rival_of(played) == "the first point"


def test_players_can_always_be_chosen():
    part = small_results.campaign("x", 10, "a", "platform", 0)
    names = [f"a{k}" for k in range(17)]
    parts = [
        results.Tables(*(t.assign(agent=n, trial=n) if len(t) else t for t in part)) for n in names
    ]
    (found,) = filters_of(arrange(results.concat(parts), AXES))
    assert found.labels == names


def test_progress_is_told():
    played = arrange(results.concat(small_results.campaigns()), AXES)
    told = []
    board = results.leaderboard(played.trials, AXES)
    make_views(played, board, frozenset(), lambda done, total: told.append((done, total)))
    assert told[0] == (1, 8)
    assert told[-1] == (8, 8)
    assert np.all(np.diff([done for done, _ in told]) == 1)
