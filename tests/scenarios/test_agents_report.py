import numpy as np
import pandas as pd
import pytest

from scenarios.agents_report import excess, is_violated, plot, rows_of
from scenarios.agents_tasks import BOUND, Targets

TARGETS = {"s": Targets(cpc=2.0, net_cpa=10.0, net_roas=5.0)}


def trial(agent, constraint, seed, spend, clicks, value):
    """A campaign whose outcomes are as expected."""
    return {
        **{"scenario": "s", "estimates": "full", "structure": 0, "budget": 100.0},
        **{"agent": agent, "constraint": constraint, "seed": seed, "spend": spend},
        **{"clicks": clicks, "kept": clicks / 5, "net_gmv": 5.0 * clicks, "gmv": 6.0 * clicks},
        **{"impressions": 9, "wins": 9, "purchases": 3, "refunds": 1, "refunded": 1.0 * clicks},
        **{"expected_clicks": clicks, "expected_kept": clicks / 5},
        **{"expected_net_gmv": 5.0 * clicks, "expected_net_value": value, "net_value": value},
    }


def trials():
    rows = []
    for seed in (0, 1):
        rows += [
            trial("linear", "budget", seed, 40.0, 40, 60.0),
            trial("dual", "budget", seed, 80.0, 30 + seed, 80.0 + seed),
            trial("dual_cpc", "cpc", seed, 60.0, 30, 70.0),
            trial(BOUND, "budget", seed, 100.0, 40, 100.0),
            trial(BOUND, "cpc", seed, 80.0, 40, 90.0),
        ]
    return pd.DataFrame(rows)


def test_excess_compares_sums():
    # 30 spent where 10 + 15 = 25 were allowed; a campaign without any allowance counts too
    assert excess(np.array([10.0, 20.0]), np.array([10.0, 15.0])).mean == pytest.approx(0.2)
    assert excess(np.array([10.0, 20.0]), np.array([25.0, 0.0])).mean == pytest.approx(0.2)
    assert excess(np.array([1.0]), np.array([0.0])).mean == np.inf
    # deviations 10 - 1.2 x 10 = -2 and 20 - 18 = 2 over 12.5: t(1) x sd 2.83 / sqrt(2) / 12.5
    one = excess(np.array([10.0, 20.0]), np.array([10.0, 15.0]))
    assert one.high - one.mean == pytest.approx(12.706 * 2 / 12.5, rel=1e-3)


def test_rows_by_hand():
    rows = {(row["constraint"], row["agent"]): row for row in rows_of(trials(), TARGETS)}
    assert [key for key in rows if key[0] == "budget"] == [
        *(("budget", name) for name in ("dual", "linear", BOUND))
    ]
    assert ("budget", "dual_cpc") not in rows  # it has been played with its target only
    own = rows["budget", "dual"]
    assert own["share_of_hindsight"] == pytest.approx(161 / 200)
    assert np.isnan(own["violation"])
    capped = rows["cpc", "dual"]  # the same campaigns, judged by the cap
    assert capped["share_of_hindsight"] == pytest.approx(161 / 180)
    assert capped["violation"] == pytest.approx(160 / (2 * 61) - 1)
    assert is_violated(capped)
    kept = rows["cpc", "dual_cpc"]
    assert (kept["violation"], kept["expected_diff"]) == pytest.approx((0.0, -10.5))
    assert not is_violated(kept)
    assert rows["cpc", "linear"]["spend_share"] == 0.4
    assert rows["cpc", BOUND]["expected_violation"] == pytest.approx(0.0)


def test_figure_has_a_panel_per_constraint():
    figure = plot(rows_of(trials(), TARGETS, ["budget", "cpc"]))
    titles = [ax.title.get_text() for ax in figure.axes]
    assert titles == ["budget only", "cap on CPC"]
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts == ["89×", "78", "67"]
