"""Windows to learn from, and labels when they mature."""

import numpy as np
import pytest
from small_worlds import SMALL_WORLD

from adsim.config import WindowsConfig
from adsim.types import AuctionResult, EventBatch, Impressions
from scenarios.build import make_auction_env
from scenarios.observed import LabelBook, Recorder, shown_impressions
from scenarios.stack import Estimates


def test_recorder_gives_empty_windows_and_forgets_old_clicks():
    obs, _ = make_auction_env(overrides=SMALL_WORLD).reset(seed=0)
    recorder, shown = Recorder(obs, kept_hours=24.0), shown_impressions(obs, 0)
    empty = recorder.window(0.0)
    assert [len(part[0]) for part in empty[1:]] == [0, 0, 0, 0]
    won = shown.mask > 0
    result = AuctionResult(won, np.ones(won.size), won, np.zeros(won.size, np.int8))
    nothing = EventBatch(*(column[:0] for column in empty.events))
    recorder.add(shown, {"result": result, "feedback": nothing})
    first = recorder.window(12.0)
    assert first.impressions.mask.sum() == won.sum()
    assert first.clicks.mask.size == 0  # no event refers to them

    def purchase(hours):
        one = (np.zeros(1, int), np.array([hours]), np.ones(1, np.int8), np.zeros(1, int))
        events = EventBatch(*one, np.zeros(1, np.int16), np.ones(1))
        none = AuctionResult(won & False, result.price, won & False, result.slot)
        recorder.add(shown_impressions(obs, 1), {"result": none, "feedback": events})
        return recorder.window(hours)

    known = purchase(20.0)
    np.testing.assert_array_equal(known.clicks.features, shown.features[:1])
    assert known.impressions.mask.size == 0
    purchase(40.0)  # 24 h after the last click of the first 12 h: forgotten from now on
    assert purchase(41.0).clicks.mask.size == 0


def events(*rows):
    """(click, hours, kind, order, amount) each."""
    click, hours, kind, order, amount = (np.array(column) for column in zip(*rows, strict=True))
    tick = np.zeros(click.size, int)
    return EventBatch(tick, hours * 1.0, kind, click, order, amount * 1.0)


def test_labels_are_scored_when_they_mature():
    # Windows of 10 h to the first purchase, 20 h to any, 5 h to a refund. Four wins, three clicks
    # at 0, 1 and 2 h. The first buys at 3 h for 50 (back at 6 h) and at 12 h for 30, the second at
    # 9 h for 20, the third nothing.
    book = LabelBook(WindowsConfig(conversion_hours=10, gmv_hours=20, refund_hours=5))
    ids, hours = np.arange(4), np.array([0.0, 1.0, 2.0, 3.0])
    yes, slot = np.ones(4, bool), np.zeros(4, np.int8)
    shown = Impressions(ids, hours, np.zeros((4, 1), np.int32), np.zeros(4, np.int32), slot + 1)
    said = Estimates(
        ctr=np.array([0.5, 0.5, 0.5, 0.3]),
        cvr=np.array([0.4, 0.3, 0.2, 0.9]),
        refund_rate=np.array([0.3, 0.1, 0.0, 0.0]),
        gmv=np.array([60.0, 50.0, 40.0, 1.0]),
        expected_net_value=np.zeros(4),
    )
    result = AuctionResult(yes, np.ones(4), np.array([True, True, True, False]), slot)
    explored = np.array([False, True, False, False])
    book.add(shown, said, np.array([10.0, 20.0, 30.0, 0.0]), result, explored)
    book.update(events((0, 3, 1, 0, 50), (0, 6, 2, 0, 50), (1, 9, 1, 0, 20)))
    book.update(events((0, 12, 1, 1, 30)))

    def found(now, explored=None):
        scores = book.calibration(now, explored)
        return {name: (s.count, s.predicted, s.observed) for name, s in scores.items()}

    assert found(0)["ctr"] == (4, pytest.approx(1.8), 3)  # known at once
    assert [found(now)["cvr"][0] for now in (9.9, 10, 11, 12)] == [0, 1, 2, 3]
    assert found(12)["cvr"] == (3, pytest.approx(0.9), 2)
    assert [found(now)["refund_rate"][0] for now in (7.9, 8, 13.9, 14)] == [0, 1, 1, 2]
    assert found(14)["refund_rate"] == (2, pytest.approx(0.4), 1)
    assert found(20)["gmv"] == (1, 60, 80)
    assert found(21)["gmv"] == (2, 110, 100)
    assert found(24.9)["net_gmv"] == (0, 0, 0)
    assert found(25)["net_gmv"] == (1, 10, 30)  # 50 of 80 have come back
    assert found(np.inf)["net_gmv"] == (3, 60, 50)
    assert found(np.inf, True)["cvr"] == (1, 0.3, 1)
    assert found(np.inf, True)["ctr"] == (1, 0.5, 1)
    assert found(np.inf, False)["gmv"] == (1, 60, 80)
    assert book.calibration(np.inf)["net_gmv"].pcoc == pytest.approx(60 / 50)
    assert np.isnan(book.calibration(0)["cvr"].pcoc)
