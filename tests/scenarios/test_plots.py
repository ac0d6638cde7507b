"""Figures of results: what is drawn equals numbers worked by hand."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scenarios import plots
from scenarios.results import Tables

EMPTY = pd.DataFrame()
NAMES = ["pacing", "net_value", "delays", "prices", "leaderboard"]


def ticks_of(paths, **columns):
    """Three ticks of 12 hours per (agent, seed); `paths` maps these to the spend of each tick."""
    names = ("gmv", "refunded", "matured_net_gmv", "accrued_net_gmv", "target_spend")
    rows = [
        {
            **{"agent": agent, "seed": seed, "tick": t, "hours": 12.0 * t, "spend": spend[t]},
            **{name: columns.get(name, (0.0, 0.0, 0.0))[t] for name in names},
        }
        for (agent, seed), spend in paths.items()
        for t in range(3)
    ]
    return pd.DataFrame(rows)


def trials_of(values, hindsight=np.nan):
    """`values` maps (scenario, agent) to a list of (expected, realised) net values by seed."""
    rows = [
        {
            **{"scenario": scenario, "agent": agent, "seed": seed},
            **{"expected_net_value": expected, "net_value": realised},
            **{"hindsight": hindsight, "budget": 20.0, "margin": 0.5},
        }
        for (scenario, agent), pairs in values.items()
        for seed, (expected, realised) in enumerate(pairs)
    ]
    return pd.DataFrame(rows)


def events_of(*rows, agent="a"):
    table = pd.DataFrame(rows, columns=["kind", "order_id", "delay_hours"])
    return table.assign(agent=agent, seed=0)


def auctions_of(*rows, agent="a"):
    return pd.DataFrame(rows, columns=["price", "won", "paid"]).assign(agent=agent, seed=0)


TICKS = ticks_of({("a", 0): (1.0, 2.0, 3.0)}, target_spend=(4.0, 4.0, 4.0))
TRIALS = trials_of({("default", "a"): [(3.0, 5.0), (5.0, 1.0)]}, hindsight=8.0)
EVENTS = events_of(("click", -1, 0.0), ("purchase", 0, 2.0), ("purchase", 1, 30.0))
AUCTIONS = auctions_of((1.0, True, 1.0), (2.0, True, 2.0), (4.0, False, np.nan))
TABLES = Tables(TRIALS, TICKS, pd.DataFrame(), EVENTS, AUCTIONS)


def test_dollar_signs_in_names_are_no_formulas(tmp_path):
    name = "$a_$.py:Agent"
    plots.save_all(Tables(*(t.assign(agent=name) if len(t) else t for t in TABLES)), tmp_path)
    assert (tmp_path / "overview.png").is_file()


def draw(name, table, ax=None):
    if name == "net_value":
        return plots.plot_net_value(table, 0.5, ax)
    return getattr(plots, f"plot_{name}")(table, ax)


def table_of(name):
    own = {"pacing": TICKS, "net_value": TICKS, "delays": EVENTS, "prices": AUCTIONS}
    return own.get(name, TRIALS)


def line(ax, start):
    """The one line whose label starts so."""
    (found,) = [x for x in ax.get_lines() if str(x.get_label()).startswith(start)]
    return found


def colours(ax):
    return {x.get_label(): x.get_color() for x in ax.get_lines()}


def markers(ax):
    """(x, y) of the dots of a leaderboard, in drawing order."""
    return [(bar.lines[0].get_xdata()[0], bar.lines[0].get_ydata()[0]) for bar in ax.containers]


@pytest.mark.parametrize("name", NAMES)
def test_every_plot_returns_the_axes_it_was_given(name):
    ax = Figure().add_subplot()
    assert draw(name, table_of(name), ax) is ax


@pytest.mark.parametrize("name", NAMES)
def test_every_plot_names_its_content_and_its_units(name):
    ax = draw(name, table_of(name))
    assert isinstance(ax, Axes)
    assert ax.get_title()
    assert ax.get_xlabel()
    assert ax.get_ylabel() or name == "leaderboard"  # whose rows are labelled by agents
    assert ax.get_legend() is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_columns", [False, True])
def test_every_plot_of_an_empty_table_says_so(name, with_columns):
    ax = draw(name, table_of(name).iloc[:0] if with_columns else EMPTY)
    assert ax.texts[0].get_text().startswith("no ")
    assert not ax.get_lines()


@pytest.mark.parametrize("name", NAMES)
def test_no_plot_changes_its_table(name):
    before = table_of(name).copy(deep=True)
    draw(name, table_of(name))
    pd.testing.assert_frame_equal(table_of(name), before)


def test_plot_pacing_averages_cumulative_spend_over_seeds():
    # Seed 0: 1, 3, 6. Seed 1: 3, 7, 12. Mean: 2, 5, 9. Ticks end after 0.5, 1 and 1.5 days.
    spend = {("a", 0): (1.0, 2.0, 3.0), ("a", 1): (3.0, 4.0, 5.0)}
    ax = plots.plot_pacing(ticks_of(spend, target_spend=(4.0, 4.0, 2.0)))
    assert line(ax, "a").get_xdata() == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert line(ax, "a").get_ydata() == pytest.approx([0.0, 2.0, 5.0, 9.0])
    assert line(ax, "plan").get_ydata() == pytest.approx([0.0, 4.0, 8.0, 10.0])
    assert ax.get_ylabel() == "cumulative spend (currency)"
    band = ax.collections[0].get_paths()[0].vertices
    assert band[np.isclose(band[:, 0], 1.5), 1].min() == pytest.approx(6.0)
    assert band[np.isclose(band[:, 0], 1.5), 1].max() == pytest.approx(12.0)


def test_plot_pacing_from_ten_seeds_on_shows_the_10_to_90_percent_range():
    # Spend of seed s in the last tick: s = 0..10, whose deciles are 1 and 9.
    spend = {("a", seed): (0.0, 0.0, float(seed)) for seed in range(11)}
    ax = plots.plot_pacing(ticks_of(spend))
    band = ax.collections[0].get_paths()[0].vertices
    last = band[np.isclose(band[:, 0], 1.5), 1]
    assert [last.min(), last.max()] == pytest.approx([1.0, 9.0])
    assert "10-90 % range of 11 campaigns" in ax.get_title()


def test_plot_pacing_in_percent_of_the_budget():
    ax = plots.plot_pacing(TICKS, budget=20.0)
    assert line(ax, "a").get_ydata() == pytest.approx([0.0, 5.0, 15.0, 30.0])
    assert ax.get_ylabel() == "cumulative spend (% of budget)"


@pytest.mark.parametrize("target", [np.nan, 0.0])
def test_plot_pacing_without_a_plan_draws_none(target):
    ax = plots.plot_pacing(TICKS.assign(target_spend=target))
    assert [x.get_label() for x in ax.get_lines()] == ["a"]


def test_plot_pacing_tells_many_agents_apart():
    ax = plots.plot_pacing(ticks_of({(f"agent {k}", 0): (1.0, 1.0, float(k)) for k in range(20)}))
    looks = [(x.get_color(), str(x._dash_pattern)) for x in ax.get_lines()]
    assert len(set(looks)) == 20


def test_an_agent_keeps_its_colour_whoever_else_is_shown():
    both = plots.plot_pacing(ticks_of({("a", 0): (1.0, 1.0, 1.0), ("b", 0): (1.0, 1.0, 1.0)}))
    alone = plots.plot_pacing(ticks_of({("b", 0): (1.0, 1.0, 1.0)}), agents=["a", "b"])
    board = plots.plot_leaderboard(trials_of({("s", "b"): [(1.0, 1.0)]}), agents=["a", "b"])
    assert colours(both)["b"] == colours(alone)["b"] != colours(both)["a"]
    assert board.containers[0].lines[0].get_color() == colours(both)["b"]


def test_plot_net_value_shows_cash_matured_and_realised():
    ticks = ticks_of(
        {("a", 0): (1.0, 1.0, 0.0)},
        accrued_net_gmv=(8.0, 4.0, 0.0),
        gmv=(0.0, 10.0, 6.0),
        refunded=(0.0, 0.0, 4.0),
        matured_net_gmv=(0.0, 0.0, 12.0),
    )
    ax = plots.plot_net_value(ticks, 0.5)
    assert line(ax, "finally").get_ydata() == pytest.approx([0.0, 3.0, 4.0, 4.0])
    assert line(ax, "seen").get_ydata() == pytest.approx([0.0, -1.0, 3.0, 4.0])
    assert line(ax, "matured").get_ydata() == pytest.approx([0.0, -1.0, -2.0, 4.0])


def test_plot_net_value_is_of_one_agent_the_first_by_default():
    ticks = ticks_of({("b", 0): (1.0, 1.0, 1.0), ("a", 0): (2.0, 2.0, 2.0)})
    assert line(plots.plot_net_value(ticks, 0.5), "seen").get_ydata()[-1] == pytest.approx(-3.0)
    of_a = plots.plot_net_value(ticks, 0.5, agent="a")
    assert line(of_a, "seen").get_ydata()[-1] == pytest.approx(-6.0)
    assert "'a'" in of_a.get_title()


def test_unknown_agents_and_scenarios_are_named():
    with pytest.raises(ValueError, match=r"agent: must be one of \['a'\], got 'z'"):
        plots.plot_net_value(TICKS, 0.5, agent="z")
    with pytest.raises(ValueError, match=r"agent: must be one of \['a'\], got 'z'"):
        plots.plot_prices(AUCTIONS, agent="z")
    with pytest.raises(ValueError, match=r"scenario: must be one of \['default'\], got 'z'"):
        plots.plot_leaderboard(TRIALS, scenario="z")


def test_plot_delays_are_empirical_distribution_functions():
    events = events_of(
        *[("click", -1, 0.0)] * 3,
        *[("purchase", 0, delay) for delay in (4.0, 1.0, 2.0, 0.0)],
        *[("purchase", order, 40.0) for order in (1, 2)],
        ("refund", 0, 3.0),
    )
    ax = plots.plot_delays(events)
    first = line(ax, "first purchase")
    end = 168.0 * 1.15  # a little beyond 7 days
    # 0 hours stands at the left edge, one minute.
    assert first.get_xdata() == pytest.approx([1 / 60, 1 / 60, 1.0, 2.0, 4.0, end])
    assert first.get_ydata() == pytest.approx([0.0, 25.0, 50.0, 75.0, 100.0, 100.0])
    assert line(ax, "later purchases").get_ydata() == pytest.approx([0.0, 50.0, 100.0, 100.0])
    assert line(ax, "refund").get_xdata() == pytest.approx([3.0, 3.0, end])
    assert first.get_label() == "first purchase since click (n = 4)"


def test_plot_delays_counts_the_events_of_one_agent():
    other = events_of(*[("purchase", 0, 5.0)] * 3, agent="b")
    both = pd.concat([EVENTS, other], ignore_index=True)
    assert line(plots.plot_delays(both), "first purchase").get_label().endswith("(n = 1)")
    of_b = plots.plot_delays(both, agent="b")
    assert line(of_b, "first purchase").get_label().endswith("(n = 3)")
    assert of_b.get_title() == "Delay of the feedback that 'b' saw"


def test_plot_delays_has_ticks_from_a_minute_to_a_week():
    ax = plots.plot_delays(EVENTS)
    ax.figure.canvas.draw()
    shown = [label.get_text() for label in ax.get_xticklabels()]
    assert shown == ["≤ 1 min", "15 min", "1 h", "6 h", "1 d", "3 d", "7 d"]
    assert ax.get_xscale() == "log"


def test_plot_delays_with_clicks_only_says_so():
    ax = plots.plot_delays(events_of(("click", -1, 0.0)))
    assert ax.texts[0].get_text() == "no purchases"


def test_plot_prices_counts_won_and_lost_auctions_and_marks_the_median_paid():
    rows = [(1.0, True, 1.0), (2.0, True, 1.5), (8.0, True, 3.5), (4.0, False, np.nan)]
    ax = plots.plot_prices(auctions_of(*rows))
    won, lost = ax.containers
    assert sum(bar.get_height() for bar in won) == 3
    assert sum(bar.get_height() for bar in lost) == 1
    assert line(ax, "median paid 1.5").get_xdata() == pytest.approx([1.5, 1.5])
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert {"won (75%)", "lost (25%), stacked on won"} <= set(shown)
    assert ax.get_xscale() == "log"


@pytest.mark.parametrize("hidden", [np.nan, np.inf, 0.0])
def test_plot_prices_leaves_out_unknown_prices(hidden):
    ax = plots.plot_prices(auctions_of((1.0, True, 1.0), (hidden, False, np.nan)))
    assert "1 auctions" in ax.get_title()
    nothing = plots.plot_prices(auctions_of((hidden, False, np.nan)))
    assert nothing.texts[0].get_text() == "no known prices"


def test_plot_prices_without_a_win_marks_no_median():
    ax = plots.plot_prices(auctions_of((2.0, False, np.nan), (3.0, False, np.nan)))
    assert not ax.get_lines()


def test_plot_leaderboard_shows_means_and_t_intervals():
    # Expected 3 and 5: mean 4, standard error 1, t(1 degree of freedom) = 12.7062.
    ax = plots.plot_leaderboard(TRIALS)
    assert markers(ax) == [pytest.approx((4.0, 0.13)), pytest.approx((3.0, -0.13))]
    ends = ax.containers[0].lines[2][0].get_segments()[0][:, 0]
    assert ends == pytest.approx([4.0 - 12.7062, 4.0 + 12.7062], abs=1e-4)
    bound = ax.collections[-1].get_segments()[0]
    assert bound[:, 0] == pytest.approx([8.0, 8.0])


def test_plot_leaderboard_puts_the_best_expected_value_on_top():
    values = {("s", "a"): [(1.0, 9.0)], ("s", "b"): [(3.0, 0.0)], ("s", "c"): [(2.0, 0.0)]}
    ax = plots.plot_leaderboard(trials_of(values))
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "c", "b"]


def test_plot_leaderboard_of_one_seed_has_no_intervals_and_without_bound_no_line():
    ax = plots.plot_leaderboard(trials_of({("s", "a"): [(1.0, 2.0)]}))
    assert not ax.collections
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["expected", "realised"]


def test_plot_leaderboard_shows_one_scenario():
    trials = trials_of({("s", "a"): [(1.0, 2.0)], ("t", "a"): [(5.0, 6.0)]})
    assert markers(plots.plot_leaderboard(trials))[0][0] == pytest.approx(1.0)
    assert markers(plots.plot_leaderboard(trials, scenario="t"))[0][0] == pytest.approx(5.0)


def test_overview_holds_all_panels():
    figure = plots.overview(TABLES)
    assert len(figure.axes) == 5
    assert figure.axes[0].get_ylabel() == "cumulative spend (% of budget)"
    seen = line(figure.axes[1], "seen").get_ydata()  # margin .5 of no GMV, less the spend
    assert seen == pytest.approx([0.0, -1.0, -3.0, -6.0])


def test_overview_writes_the_file_it_is_given(tmp_path):
    plots.overview(TABLES, tmp_path / "all.png")
    assert [path.name for path in tmp_path.iterdir()] == ["all.png"]


@pytest.mark.parametrize("tables", [TABLES, Tables(*[EMPTY] * 5)])
def test_save_all_writes_png_files_and_nothing_else(tmp_path, tables):
    written = plots.save_all(tables, tmp_path / "figures")
    assert [path.stem for path in written] == [*NAMES, "overview"]
    assert set((tmp_path / "figures").iterdir()) == set(written)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_save_all_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    old = tmp_path / "pacing.png"
    old.write_bytes(b"old")

    def fail(self, file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.save_all(TABLES, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pacing.png"]
    assert old.read_bytes() == b"old"
