import json

import numpy as np
import pytest
from command_line import adsim

from adsim.clicklog import MISSING, ClickLog, generate
from scenarios import cascade_facts as facts
from scenarios import load
from scenarios.describe import BINS, GROUPS, PANELS, describe, has_truth

HOUR, DAY = 3_600, 86_400
SEEDS = (0, 1, 2)  # 1.3 M clicks together: 85 or more with a true CVR above .8


def make_log(click, conversion, refund, p_convert=None, p_refund=None):
    """A log without features; delays in hours after the click and the conversion, None = never."""
    click_time = np.array(click, np.int64)
    bought = np.array([c is not None for c in conversion])
    returned = np.array([r is not None for r in refund])
    conversion_time = click_time + np.array([int((c or 0) * HOUR) for c in conversion])
    refund_time = conversion_time + np.array([int((r or 0) * HOUR) for r in refund])
    unknown = np.full(click_time.size, np.nan)
    return ClickLog(
        *(click_time, np.where(bought, conversion_time, MISSING)),
        *(np.where(returned, refund_time, MISSING), np.zeros((click_time.size, 0), np.int32), ()),
        unknown if p_convert is None else np.array(p_convert),
        unknown if p_refund is None else np.array(p_refund),
    )


def by_figure(log):
    """{figure: {at: row}}."""
    figures = {}
    for row in describe(log):
        figures.setdefault(row.figure, {})[row.at] = row
    return figures


def simulated(figures, name):
    return np.array([row.simulated for row in figures[name].values()])


def published(figures, name):
    return np.array([row.published for row in figures[name].values()])


# Five clicks: at 00:00, 00:30, 01:00, 13:00 of day 0 and at 01:00 of day 1. Conversions after
# .1 h, 4 h, 71 h and 80 h, the last one too late; refunds after .2 h, and after 90 h, too late.
FIVE = make_log(
    [0, HOUR // 2, HOUR, 13 * HOUR, DAY + HOUR],
    [0.1, 4.0, 71.0, 80.0, None],
    [0.2, 90.0, None, None, None],
)


def test_rates_are_those_within_the_windows():
    rows = by_figure(FIVE)["rate"]
    # 3 conversions in time, 1 of them refunded in time; 2 of 5 clicks are kept.
    assert [rows[at].simulated for at in rows] == pytest.approx([3 / 5, 1 / 3, 2 / 5])
    assert list(rows) == ["CVR", "RFR", "NetCVR"]
    # A third is nearer to .245 than to .5.
    assert [rows[at].published for at in rows] == [0.066, 0.245, 0.050]
    assert rows["CVR"].deviation == pytest.approx(0.6 - 0.066)


def test_rates_by_hour_come_from_outcomes_without_a_truth():
    figures = by_figure(FIVE)
    cvr = figures["CVR by hour / mean"]
    assert len(cvr) == 24
    # Hour 00: 2 of 2 clicks, 01: 1 of 2, 13: 0 of 1; the mean over these hours is .5.
    assert [cvr[at].simulated for at in ("00", "01", "13")] == pytest.approx([2.0, 1.0, 0.0])
    assert np.isnan(cvr["02"].simulated)
    net = figures["NetCVR by hour / mean"]
    # Kept: 1 of 2, 1 of 2, 0 of 1; mean 1/3.
    assert [net[at].simulated for at in ("00", "01", "13")] == pytest.approx([1.5, 1.5, 0.0])
    # TESLA, fig. 2, hour 13: .0689 of a mean of .0683, and .0349 of .0338.
    assert cvr["13"].published == pytest.approx(0.0689 / 0.0683, rel=2e-3)
    assert net["13"].published == pytest.approx(0.0349 / 0.0338, rel=2e-3)


def test_delay_curves_count_delays_up_to_the_limit():
    figures = by_figure(FIVE)
    assert list(figures["conversion delay cdf"])[:4] == ["0.0167", "0.15", "0.24", "0.5"]
    conversion = figures["conversion delay cdf"]
    limits = ("0.0167", "0.15", "3.9", "6", "48", "72")
    shares = [conversion[at].simulated for at in limits]
    assert shares == pytest.approx([0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 1])
    assert [conversion[at].published for at in limits] == [0.03, 0.225, 0.50, 0.54, 0.89, 1.0]
    refund = figures["refund delay cdf"]
    assert (refund["0.15"].simulated, refund["0.24"].simulated) == (0.0, 1.0)


def test_figures_that_need_the_truth_are_left_out_without_it():
    assert not has_truth(FIVE)
    assert set(by_figure(FIVE)) == {
        *("rate", "CVR by hour / mean", "NetCVR by hour / mean"),
        *("conversion delay cdf", "refund delay cdf"),
    }


def test_bins_weight_refund_rates_by_conversions():
    # Bin [0, .2): four clicks of CVR .1, refund rates .6 .2 .2 .2 -> (.06 + 3 x .02) / .4 = .3 of
    # conversions, NetCVR (.04 + 3 x .08) / 4 = .07. Bin [.8, 1]: CVR 1, .75 refunded: NetCVR .25.
    conversion, refund = [1, 1, 1, None, 1], [1, None, 1, None, None]
    log = make_log([0] * 5, conversion, refund, [*[0.1] * 4, 1.0], [0.6, *[0.2] * 3, 0.75])
    figures = by_figure(log)
    assert figures["rate"]["RFR"].published == 0.5  # 2 of 4: the regime of the figures
    assert simulated(figures, "RFR by CVR")[[0, 4]] == pytest.approx([0.3, 0.75])
    assert simulated(figures, "NetCVR by CVR")[[0, 4]] == pytest.approx([0.07, 0.25])
    assert simulated(figures, "RFR by CVR / first")[[0, 4]] == pytest.approx([1.0, 2.5])
    assert np.isnan(simulated(figures, "RFR by CVR")[1:4]).all()
    assert tuple(figures["RFR by CVR"]) == BINS
    assert published(figures, "RFR by CVR").tolist() == [0.499, 0.423, 0.349, 0.315, 0.347]
    # AUC of CVR: the click of CVR 1 converts; of 4 equal others 3 do. (4 pairs: 1 won, 3 tied.)
    assert figures["AUC"]["CVR"].simulated == pytest.approx((1 + 3 * 0.5) / 4)


def test_groups_are_quarters_of_the_events():
    # Eight conversions of rising CVR, delays 8 7 6 5 4 3 2 1 h: quarters of mean 7.5 5.5 3.5 1.5 h
    # and sd .5; the mean of all is 4.5. The clicks that do not convert do not count.
    cvr = [*np.linspace(0.1, 0.8, 8), *[0.05] * 8]
    log = make_log(
        [0] * 16, [*range(8, 0, -1), *[None] * 8], [*[1.0, 3.0] * 4, *[None] * 8], cvr, cvr[::-1]
    )
    figures = by_figure(log)
    assert simulated(figures, "conversion delay mean") == pytest.approx([7.5, 5.5, 3.5, 1.5])
    assert simulated(figures, "conversion delay sd") == pytest.approx([0.5] * 4)
    relative = simulated(figures, "conversion delay mean / all")
    assert relative == pytest.approx(np.array([7.5, 5.5, 3.5, 1.5]) / 4.5)
    # Published: 15.1 h of a mean over the groups of 10.625 h.
    assert figures["conversion delay mean / all"][GROUPS[0]].published == pytest.approx(
        1.4212, 1e-4
    )


def test_a_log_without_events_is_refused():
    with pytest.raises(ValueError, match="has 1 and 0 in 1 clicks"):
        describe(make_log([0], [1.0], [None]))


def test_the_regime_is_that_of_the_nearest_refund_rate():
    assert facts.nearest_regime(0.0).name == facts.nearest_regime(0.37).name == "tables"
    assert facts.nearest_regime(0.38).name == facts.nearest_regime(0.9).name == "figures"


# The calibration of the two scenarios.


@pytest.fixture(scope="module", params=["cascade", "cascade_high_refund"])
def calibrated(request):
    """Figures of a scenario's logs of SEEDS, taken together, and the published regime."""
    world = load(request.param).world
    logs = [generate(world, seed) for seed in SEEDS]
    columns = [np.concatenate(parts) for parts in zip(*(log[:3] for log in logs), strict=True)]
    truth = [np.concatenate(parts) for parts in zip(*(log[-2:] for log in logs), strict=True)]
    pooled = ClickLog(*columns, logs[0].features[:0], logs[0].cardinalities, *truth)
    return by_figure(pooled), facts.REGIMES[request.param == "cascade_high_refund"]


def test_calibrated_rates_are_published(calibrated):
    figures, regime = calibrated
    rows = figures["rate"]
    assert rows["RFR"].published == regime.refund_rate
    # Standard errors .3 and .5 %; over five seeds each within 1 and 2 %.
    assert rows["CVR"].simulated == pytest.approx(regime.cvr, rel=0.03)
    assert rows["RFR"].simulated == pytest.approx(regime.refund_rate, rel=0.03)


def test_calibrated_cvr_follows_the_hours(calibrated):
    figures, _ = calibrated
    name = "CVR by hour / mean"
    assert np.abs(simulated(figures, name) - published(figures, name)).max() < 0.06
    # NetCVR less well: the published refund rate is higher after midnight, the simulated is not.
    name = "NetCVR by hour / mean"
    assert np.abs(simulated(figures, name) - published(figures, name)).max() < 0.12


@pytest.mark.parametrize("event", ["conversion", "refund"])
def test_calibrated_delays_follow_the_published_curves(calibrated, event):
    figures, _ = calibrated
    name = f"{event} delay cdf"
    assert np.abs(simulated(figures, name) - published(figures, name)).max() < 0.03


@pytest.mark.parametrize(("event", "least"), [("conversion", 1.5), ("refund", 2.0)])
def test_calibrated_delays_fall_from_group_to_group(calibrated, event, least):
    figures, _ = calibrated
    means = simulated(figures, f"{event} delay mean")
    assert (np.diff(means) < 0).all()
    assert means[0] / means[3] > least  # published: 1.96 and 3.3
    spread = simulated(figures, f"{event} delay sd")
    assert (np.diff(spread) < 0).all()


def test_calibrated_refund_rate_falls_with_cvr_and_turns_up(calibrated):
    figures, _ = calibrated
    ratio = simulated(figures, "RFR by CVR / first")
    # The top bin has 85 clicks or more: standard error of its ratio about .04.
    assert np.abs(ratio - published(figures, "RFR by CVR / first")).max() < 0.1
    assert (np.diff(ratio[:4]) < 0).all()
    assert ratio[4] > ratio[3]


def test_calibrated_truth_ranks_better_than_the_published_models(calibrated):
    figures, _ = calibrated
    cvr, net_cvr = simulated(figures, "AUC")
    assert 0.78 < cvr < 0.80
    assert cvr < net_cvr < cvr + 0.05


# The command.


def test_command_has_help_with_an_example():
    for command in (("data",), ("data", "describe")):
        status, out, _ = adsim(*command, "--help")
        assert status == 0
        assert "Usage" in out
    assert "Example: adsim data describe" in out


def test_command_prints_a_table_per_panel():
    status, out, _ = adsim("data", "describe", "cascade_high_refund", "--clicks", "20000")
    assert status == 0
    for panel in PANELS:
        assert panel.title.split(",")[0] in out
    assert "[.2, .4)" in out
    assert "regime of its figures" in " ".join(out.split())


def test_command_emits_rows_as_json():
    arguments = ("data", "describe", "--clicks", 20_000, "--seed", 3, "--json")
    status, out, _ = adsim(*arguments)
    assert status == 0
    emitted = json.loads(out)
    assert (emitted["scenario"], emitted["regime"]) == ("cascade", "tables")
    # Poisson: 20,000 +- 141; the fifth week ends on Thursday, before its busy days (.2 %).
    assert emitted["clicks"] == pytest.approx(20_000, rel=0.03)
    rows = emitted["rows"]
    assert {tuple(row) for row in rows} == {("figure", "at", "published", "simulated", "deviation")}
    # Rates, hours, curves, bins relative to the first, groups, AUC.
    assert len(rows) == 3 + 2 * 24 + 2 * 12 + 2 * 5 + 6 * 4 + 2
    again = json.loads(adsim(*arguments)[1])
    assert again == emitted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "does not exist"),
        (("--clicks", "0"), "--clicks: must be >= 1, got 0"),
        (("--seed", "-1"), "--seed: must be >= 0, got -1"),
        (("--set", "refund.rate=2"), "less than 1"),
        (("--clicks", "2"), "needs conversions and refunds"),
    ],
)
def test_wrong_arguments_exit_with_2_and_one_line(arguments, message):
    status, _, err = adsim("data", "describe", *arguments)
    assert status == 2
    assert message in err
