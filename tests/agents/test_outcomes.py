"""Three clicks by hand: predicted, then converted, then kept or refunded."""

import numpy as np
import pytest

from adsim.types import AttributionWindows, AuctionResult, EventBatch, EventKind
from agents.history import Landscape
from agents.outcomes import OutcomeBook, Predictions, history_prospects, predictions

WINDOWS = AttributionWindows(conversion_hours=2.0, gmv_hours=3.0, refund_hours=2.0)
# Each click: CVR .5, kept .8, net GMV 10 (per impression .1 x 10).
SHOWN = Predictions(*(np.full(4, x) for x in (0.1, 0.5, 0.8, 1.0)), own=False)
NOTHING = Predictions(*(np.zeros(4) for _ in range(4)), own=False)


def events(*rows):
    """Of (hours, kind, click, order, amount)."""
    hours, kind, click, order, amount = np.array(rows, np.float64).reshape(-1, 5).T
    types = (np.int64, np.float64, np.int8, np.int64, np.int16, np.float64)
    columns = (np.zeros(hours.size), hours, kind, click, order, amount)
    return EventBatch(*(c.astype(t) for c, t in zip(columns, types, strict=True)))


def result(clicked):
    clicked = np.array(clicked, bool)
    return AuctionResult(np.ones(4, bool), np.zeros(4), clicked, np.zeros(4, np.int8))


def quiet():
    return AuctionResult(*(np.zeros(4, t) for t in (bool, np.float64, bool, np.int8)))


@pytest.fixture
def book(market):
    """After the first hour: four impressions, three clicks, one purchase seen at once."""
    terms = market.campaign()._replace(windows=WINDOWS, tick_hours=1.0)
    book = OutcomeBook(terms)
    clicks = [(0.5, EventKind.CLICK, i, -1, 0.0) for i in range(3)]
    bought = (0.75, EventKind.PURCHASE, 0, 0, 30.0)
    book.update(SHOWN, result([1, 1, 1, 0]), events(*clicks, bought))
    return book


def test_predictions_stand_while_windows_are_open(book):
    # clicks: (20 + 3) / (20 + .4)
    factors = book.ratios()
    assert factors.clicks == pytest.approx(23 / 20.4)
    assert factors.kept == pytest.approx(23 / 20.4)
    found = book.outcomes()
    assert found.clicks.tolist() == [1, 1, 1]
    assert found.kept == pytest.approx([0.4] * 3)  # the one seen is not counted ahead of time
    assert found.net_gmv == pytest.approx([10.0] * 3)


def test_conversions_count_when_their_window_has_closed(book):
    for _ in range(2):  # hour 3: windows closed at 2.5; the refund window of 0 closes at 2.75
        book.update(NOTHING, quiet(), events())
    # conversions: (20 + 1) / (20 + 1.5); kept: (20 + 1) / (20 + .8)
    assert book.ratios().kept == pytest.approx(23 / 20.4 * 21 / 21.5 * 21 / 20.8)
    found = book.outcomes()
    assert found.kept.tolist() == [1, 0, 0]
    assert found.net_gmv == pytest.approx([10 / 0.4, 0, 0])  # GMV is final at .5 + 3 + 2 hours


def test_estimates_that_learn_are_not_corrected_for_conversions_twice(book):
    for _ in range(2):
        book.update(NOTHING._replace(own=True), quiet(), events())
    # clicks alone: (20 + 3) / (20 + .4); what has matured takes its place all the same
    assert np.array(book.ratios()) == pytest.approx([23 / 20.4] * 3)
    assert book.outcomes().kept.tolist() == [1, 0, 0]


def test_a_refund_counts_when_the_refund_window_has_closed(market):
    book = OutcomeBook(market.campaign()._replace(windows=WINDOWS, tick_hours=1.0))
    first = [(0.5, EventKind.CLICK, 0, -1, 0.0), (0.75, EventKind.CLICK, 1, -1, 0.0)]
    book.update(SHOWN, result([1, 1, 0, 0]), events(*first, (0.9, EventKind.PURCHASE, 0, 0, 30.0)))
    later = [(1.5, EventKind.REFUND, 0, 0, 30.0), (1.75, EventKind.PURCHASE, 1, 0, 25.0)]
    book.update(NOTHING, quiet(), events(*later))
    book.update(NOTHING, quiet(), events())
    # hour 3: both have converted; the refund of 0 is final (2.9), 1 may come back until 3.75
    assert book.outcomes().kept == pytest.approx([0, 0.8])
    book.update(NOTHING, quiet(), events((3.5, EventKind.PURCHASE, 1, 1, 5.0)))
    assert book.outcomes().kept.tolist() == [0, 1]
    for _ in range(2):
        book.update(NOTHING, quiet(), events())
    assert book.outcomes().net_gmv.tolist() == [0, 30]  # hour 6: what was seen


def test_without_windows_nothing_ever_matures(market):
    book = OutcomeBook(market.campaign())
    book.update(SHOWN, result([1, 0, 0, 0]), events((0.1, EventKind.CLICK, 0, -1, 0.0)))
    for _ in range(9):
        book.update(NOTHING, quiet(), events())
    assert book.outcomes().kept == pytest.approx([0.4])


def test_predictions_are_those_of_the_platform_where_there_are_no_others(market):
    obs = market.observation([2.0], pctr=0.1, list_price=50.0)
    # value 2 at margin 1: CVR 2 / .1 / 50 = .4, no refunds; at margin .5 the value is 1
    assert np.concatenate(predictions(obs, 0.5)[:4]) == pytest.approx([0.1, 0.4, 1.0, 2.0])


def test_history_prospects_are_in_the_proportions_of_the_impressions_at_hand(market):
    obs = market.observation([2.0] * 15 + [4.0] * 15 + [9.0], pctr=0.1, mask=[1] * 30 + [0])
    cvr = np.repeat([0.2, 0.4, 0.9], [15, 15, 1])
    obs |= {"ctr": np.repeat([0.05, 0.9], [30, 1]), "cvr": cvr}
    own = Landscape(np.ones(2), np.full(2, 0.5), np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    found = history_prospects(own, obs, 1.0)
    assert found.clicks == pytest.approx([0.05, 0.1])  # half of the platform's CTR
    # kept at hand 15 x (.05 x .2 + .05 x .4) = .45 for net GMV 90
    assert found.kept == pytest.approx([0.005, 0.01])
    assert found.net_gmv.tolist() == [1.0, 2.0]


def test_few_impressions_at_hand_leave_the_constraint_to_feedback(market):
    own = Landscape(np.ones(2), np.full(2, 0.5), np.array([1.0, 2.0]), np.array([0.1, 0.2]))
    for mask in ([0, 0], [1, 1]):
        found = history_prospects(own, market.observation([2.0, 4.0], pctr=0.3, mask=mask), 1.0)
        assert found.clicks.tolist() == [0.1, 0.2]
        assert (found.kept > 1e6).all()
