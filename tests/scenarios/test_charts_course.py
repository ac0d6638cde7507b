"""Charts of the course of campaigns: numbers worked by hand from `small_results`."""

import numpy as np
import pytest
import small_results

from scenarios import results
from scenarios.chart import REFERENCE, as_json
from scenarios.charts_course import (
    calibration_charts,
    course_charts,
    delay_charts,
    net_value_chart,
    pacing_chart,
    price_charts,
)
from scenarios.played import arrange

ROWS = np.arange(12)


def played_of(parts=None):
    parts = small_results.campaigns() if parts is None else parts
    return arrange(results.concat(parts), ["campaign.budget"])


def test_pacing_is_the_share_of_the_budget_over_time():
    chart = pacing_chart(played_of(), ROWS)
    a, b, plan = chart.series
    assert (a.name, b.name, plan.name) == ("a", "b", "plan")
    assert a.x == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert a.y == pytest.approx([0.0, 50.0, 250 / 3, 100.0])  # of budgets 10 and 20 alike
    assert a.low == pytest.approx(a.y)  # all seeds spend alike
    assert plan.y == pytest.approx([0.0, 100 / 3, 200 / 3, 100.0])
    assert plan.look == REFERENCE
    assert chart.y.title == "cumulative spend (% of budget)"


def test_more_lines_than_a_figure_holds_are_told_in_its_caption():
    base = results.concat(small_results.campaigns(budgets=(10,), agents=("a",)))
    for column, place, what in (("agent", 0, "players"), ("estimates", -1, "estimates")):
        parts = [
            results.Tables(
                *(
                    t.assign(**{column: f"p{k}", "trial": t["trial"] + f"/{k}"}) if len(t) else t
                    for t in base
                )
            )
            for k in range(9)
        ]
        chart = [
            pacing_chart(played_of(parts), np.arange(27)),
            *calibration_charts(played_of(parts), np.arange(27)),
        ][place]
        assert chart.caption.endswith(f" The first 8 of 9 {what}; the filter shows the others.")
        assert len(chart.series) == 9  # 8, and the reference


def test_pacing_without_a_budget_is_in_currency():
    played = played_of()
    played.trials["budget"] = np.inf
    chart = pacing_chart(played, ROWS)
    assert chart.y.title == "cumulative spend (currency)"
    assert chart.series[0].y[-1] == pytest.approx(15.0)  # mean of 10 and 20


def test_net_value_is_of_the_first_player():
    chart = net_value_chart(played_of(), ROWS[:6])  # budget 10
    lines = {one.name: one for one in chart.series}
    assert "of a" in chart.title
    assert lines["seen so far (cash)"].y == pytest.approx([0, -5, -25 / 3 + 15, 5])
    assert lines["matured"].y == pytest.approx([0, -5, -25 / 3, 5])
    assert lines["finally realised"].y == pytest.approx([0, 10, 15 - 25 / 3, 5])
    assert lines["matured"].low is None


def test_calibration_compares_means_of_bins():
    # Each of 6 trials of a: 40 clicks of .5 with 10 purchases, 60 of .8 with 60.
    (chart,) = calibration_charts(played_of(), ROWS)
    points, diagonal = chart.series
    assert chart.id == "calibration_cvr"
    assert points.name == "platform"
    assert points.x == pytest.approx([0.5, 0.8])
    assert points.y == pytest.approx([0.25, 1.0])
    assert points.low == pytest.approx(points.y)  # campaigns are alike
    assert points.notes == ("480 labels", "720 labels")
    assert points.size == pytest.approx([np.sqrt(2 / 3), 1.0])
    assert diagonal.x == pytest.approx(diagonal.y)
    assert chart.x.log
    assert chart.y.log


@pytest.mark.parametrize(
    ("first", "second", "half"),
    [
        # 19 and 21 of 40 buy: ratio 40 / 80, influences .475 and .525 with standard error .025;
        # t(1) = 12.7062.
        (19.0, 21.0, 12.7062 * 0.025),
        # 10 and 30: the interval, 3.2 to both sides, is cut at a tenth of the ratio and at 1.
        (10.0, 30.0, None),
    ],
)
def test_calibration_intervals_are_of_ratios_over_campaigns(first, second, half):
    parts = small_results.campaigns(budgets=(10,), agents=("a",), seeds=(0, 1))
    for part, bought in zip(parts, (first, second), strict=True):
        part.curves.loc[part.curves["low"].between(0.39, 0.4), "observed"] = bought
    (chart,) = calibration_charts(played_of(parts), np.arange(2))
    points = chart.series[0]
    ends = (0.05, 1.0) if half is None else (0.5 - half, 0.5 + half)
    assert points.y[0] == pytest.approx(0.5)
    assert (points.low[0], points.high[0]) == pytest.approx(ends, abs=1e-4)


def test_bins_with_few_expected_positives_are_joined():
    parts = small_results.campaigns(budgets=(10,), agents=("a",), seeds=(0, 1))
    for part in parts:
        cvr = part.curves["series"] == "cvr"
        part.curves.loc[cvr, ["count", "predicted", "observed"]] /= 20.0
    # Predicted positives of both seeds 2 and 4.8: one point, (2 + 4.8) / (4 + 6).
    (chart,) = calibration_charts(played_of(parts), np.arange(2))
    assert chart.series[0].x == pytest.approx([0.68])
    assert chart.series[0].y == pytest.approx([0.7])


def test_an_estimate_that_says_nothing_has_no_curve():
    parts = small_results.campaigns(budgets=(10,))
    for part in parts:
        part.curves["predicted"] *= 0.0
    assert list(calibration_charts(played_of(parts), np.arange(6))) == []


def test_delays_are_distribution_functions():
    (chart,) = delay_charts(played_of(), ROWS)
    (refund,) = chart.series
    # A quarter within the first minute, which is where the axis starts.
    assert refund.y[:2] == pytest.approx([25.0, 25.0])
    assert refund.y[-1] == pytest.approx(100.0)
    assert refund.x[0] == pytest.approx(1 / 60)
    assert refund.name == "refund since its purchase (n = 48)"


def test_prices_are_shares_of_all_auctions():
    (chart,) = price_charts(played_of(), ROWS)
    won, lost, paid = chart.series
    assert won.y == pytest.approx([75.0])
    assert lost.y == pytest.approx([25.0])
    assert paid.y == pytest.approx([75.0])
    assert won.edges == pytest.approx([1.0, 10**0.1])
    assert won.name == "price to beat, won (75 %)"


def test_every_chart_names_its_axes_and_is_json_of_few_digits():
    for chart in course_charts(played_of(), ROWS):
        assert chart.x.title
        assert chart.y.title
        assert any(unit in chart.y.title for unit in ("(", "probability", "currency"))
    pacing = as_json(pacing_chart(played_of(), ROWS))
    assert pacing["series"][0]["y"] == [0, 50, 83.333, 100]
