import numpy as np
import pytest

from adsim.feedback import Released
from adsim.kernels import NUM_TOTALS
from adsim.ledger import COLUMN, COLUMNS, Ledger
from adsim.types import EventKind

CLICK, PURCHASE, REFUND = EventKind.CLICK, EventKind.PURCHASE, EventKind.REFUND
WORLD = np.array([0])


def released(*rows):
    """Rows are (world, time, kind, click, order, amount, origin tick)."""
    dtypes = (np.int64, np.float64, np.int8, np.int64, np.int16, np.float64, np.int64)
    table = list(zip(*rows, strict=True)) if rows else [()] * 7
    return Released(*(np.array(c, dtype=d) for c, d in zip(table, dtypes, strict=True)))


# Three ticks of an hour, refund window of one tick. Two clicks in tick 0; click 1 buys for 100 in
# tick 0 (kept) and for 40 in tick 1 (refunded in tick 2); click 2 buys for 60 in tick 1 (refunded
# at once) and for 25 after the horizon (refunded even later): drained in tick 2.
EVENTS = (
    [
        (0, 0.2, CLICK, 1, -1, 0.0, 0),
        (0, 0.5, CLICK, 2, -1, 0.0, 0),
        (0, 0.8, PURCHASE, 1, 0, 100.0, 0),
    ],
    [
        (0, 1.1, PURCHASE, 2, 0, 60.0, 1),
        (0, 1.2, REFUND, 2, 0, 60.0, 1),
        (0, 1.4, PURCHASE, 1, 1, 40.0, 1),
    ],
    [
        (0, 2.3, REFUND, 1, 1, 40.0, 1),
        (0, 3.5, PURCHASE, 2, 1, 25.0, 3),
        (0, 4.0, REFUND, 2, 1, 25.0, 3),
    ],
)
COUNTS = (10, 12, 8)
# Kernel totals: wins, spend, clicks, E[GMV], E[net GMV], accrued, E[clicks], E[conversions].
TOTALS = (
    (5, 20.0, 2, 90.0, 70.0, 100.0, 1.5, 0.5),
    (3, 10.0, 0, 30.0, 25.0, 0.0, 0.4, 0.1),
    (0, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0),
)
MARGIN = 0.3


def play(ledger, tick, worlds=WORLD, num_worlds=1):
    totals = np.tile(TOTALS[tick], (num_worlds, 1))
    counted = ledger.post(
        worlds,
        np.full(num_worlds, tick),
        np.full(num_worlds, COUNTS[tick]),
        totals,
        released(*EVENTS[tick]),
    )
    ledger.net_value[worlds] += (MARGIN * (counted[1] - counted[3]) - totals[:, 1])[worlds]
    return counted


@pytest.fixture
def ledger():
    return Ledger(1, 3, MARGIN, 500.0, refund_ticks=1)


def test_totals_of_the_kernels_fill_the_columns_after_impressions():
    assert COLUMNS.index("purchases") == 1 + NUM_TOTALS


def test_post_counts_purchases_and_refunds(ledger):
    # number and amount of purchases, number and amount of refunds
    assert play(ledger, 0).ravel().tolist() == [1, 100, 0, 0]
    assert play(ledger, 1).ravel().tolist() == [2, 100, 1, 60]
    assert play(ledger, 2).ravel().tolist() == [1, 25, 2, 65]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("impressions", [10, 12, 8]),
        ("wins", [5, 3, 0]),
        ("spend", [20, 10, 0]),
        ("clicks", [2, 0, 0]),
        ("expected_gmv", [90, 30, 0]),
        ("expected_net_gmv", [70, 25, 0]),
        ("accrued_net_gmv", [100, 0, 0]),
        ("expected_clicks", [1.5, 0.4, 0]),
        ("expected_conversions", [0.5, 0.1, 0]),
        ("purchases", [1, 2, 1]),
        ("gmv", [100, 100, 25]),
        ("refunds", [0, 1, 2]),
        ("refunded", [0, 60, 65]),
        # Tick 1: the purchase of tick 0 can no longer be refunded. Tick 2 closes the books: 40 of
        # tick 1 came back, 25 too: nothing is left.
        ("matured_net_gmv", [0, 100, 0]),
    ],
)
def test_series_of_three_ticks_by_hand(ledger, column, values):
    for tick in range(3):
        play(ledger, tick)
    assert ledger.series[0, :, COLUMN[column]].tolist() == pytest.approx(values)
    assert ledger.total(column) == pytest.approx(sum(values))


def test_every_column_is_covered_by_hand():
    assert len(COLUMNS) == 14  # as many as in the test above


def test_pending_net_gmv_by_hand(ledger):
    # 100 bought; then 100 matured and 60 - 60 + 40 open; then all closed.
    pending = []
    for tick in range(3):
        play(ledger, tick)
        pending.append(float(ledger.pending_net_gmv()[0]))
    assert pending == pytest.approx([100.0, 40.0, 0.0])


def test_matured_and_pending_add_up_to_net_gmv(ledger):
    for tick in range(3):
        play(ledger, tick)
        net = ledger.total("gmv") - ledger.total("refunded")
        matured = ledger.total("matured_net_gmv") + ledger.pending_net_gmv()[0]
        assert matured == pytest.approx(net)


def test_statement_by_hand(ledger):
    for tick in range(3):
        play(ledger, tick)
    statement = ledger.statement()
    assert statement._asdict() == pytest.approx(
        {
            **{"impressions": 30, "wins": 8, "clicks": 2, "purchases": 4, "refunds": 3},
            **{"gmv": 225.0, "refunded": 125.0, "net_gmv": 100.0},
            **{"margin": 0.3, "spend": 30.0, "budget": 500.0},
            "net_value": 0.3 * 100.0 - 30.0,
            "expected_gmv": 120.0,
            "expected_net_value": 0.3 * 95.0 - 30.0,
        }
    )
    assert isinstance(statement.purchases, int)


def test_refund_window_of_two_ticks_matures_later():
    ledger = Ledger(1, 3, MARGIN, 500.0, refund_ticks=2)
    for tick in range(3):
        play(ledger, tick)
    # Tick 2 is the last: 100 of tick 0 and the rest (0) together.
    assert ledger.series[0, :, COLUMN["matured_net_gmv"]].tolist() == pytest.approx([0, 0, 100])


def test_worlds_keep_separate_books():
    ledger = Ledger(2, 3, MARGIN, 500.0, refund_ticks=1)
    play(ledger, 0, worlds=np.array([0]), num_worlds=2)
    assert ledger.series[1].any() == False  # noqa: E712 - an array
    assert ledger.pending_net_gmv().tolist() == [100.0, 0.0]
    seen = released((0, 1.5, PURCHASE, 4, 0, 7.0, 1), (1, 0.3, PURCHASE, 9, 0, 8.0, 0))
    totals = np.array([TOTALS[1], TOTALS[0]])
    counted = ledger.post(np.array([0, 1]), np.array([1, 0]), np.array([3, 4]), totals, seen)
    assert counted.tolist() == [[1, 1], [7, 8], [0, 0], [0, 0]]
    assert ledger.series[:, :, 0].tolist() == [[10, 3, 0], [4, 0, 0]]
    assert ledger.pending_net_gmv().tolist() == [7.0, 8.0]


def test_reset_opens_new_books_of_the_given_worlds():
    ledger = Ledger(2, 3, MARGIN, 500.0, refund_ticks=1)
    for world in (0, 1):
        seen = released((world, 0.3, PURCHASE, 9, 0, 8.0, 0))
        ledger.post(np.array([world]), np.zeros(2, int), np.array([4, 4]), np.ones((2, 8)), seen)
    kept = ledger.series[1].copy()
    ledger.reset(np.array([0]))
    assert not ledger.series[0].any()
    np.testing.assert_array_equal(ledger.series[1], kept)
    assert ledger.pending_net_gmv().tolist() == [0.0, 8.0]


def test_recent_shows_the_last_three_ticks(ledger):
    for tick in range(3):
        play(ledger, tick)
    spend = COLUMN["spend"]
    assert ledger.recent(np.array([3]))[0, :, spend].tolist() == [0, 10, 20]
    assert ledger.recent(np.array([1]))[0, :, spend].tolist() == [20, 0, 0]
    assert not ledger.recent(np.array([0])).any()


def test_state_round_trip_is_a_copy(ledger):
    play(ledger, 0)
    state = ledger.get_state()
    play(ledger, 1)
    again = Ledger(1, 3, MARGIN, 500.0, refund_ticks=1)
    again.set_state(state)
    assert again.total("gmv") == 100.0
    play(again, 1)
    for name, array in ledger.get_state().items():
        np.testing.assert_array_equal(array, again.get_state()[name])
