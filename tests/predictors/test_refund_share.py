from functools import cache

import numpy as np
import pytest
import torch
from purchase_logs import DAY, WEEK
from pydantic import ValidationError
from refund_logs import make_log, make_window
from small_predictors import differing, impressions, state
from small_worlds import SMALL_WORLD

from adsim.checks import check_predictor, collect_windows
from adsim.clicklog import MISSING
from adsim.purchaselog import generate_purchases
from adsim.types import (
    EventKind,
    Target,
)
from predictors import load_predictor
from predictors.purchase_stream import PurchaseStream
from predictors.refund_share import (
    PendingPurchases,
    RefundShare,
    RefundShareConfig,
    RefundSharePretraining,
    share_loss,
)
from predictors.stream import Split
from scenarios.build import make_auction_env
from scenarios.schema import load

SPLIT = Split(pretrain_days=2, stream_start_day=7, stream_end_day=12, segment_days=0.25)
THREE_DAYS = 3 * DAY
BOUGHT = EventKind.PURCHASE


# --- The law that is learned ---------------------------------------------------------------------


def two_amounts(size=4_000, days=2.0):
    """Purchases of 10 and of 90; what comes back of either, as shares, depends on the only field.

    Field 0: 1/5 of the tens, 3/5 of the nineties. E[refunded] / E[amount] = (2 + 54) / 100 = .56.
    Field 1: 3/5 of the tens, 1/5 of the nineties: (6 + 18) / 100 = .24.
    In both, 2 of 5 purchases come back.
    """
    place = np.arange(size)
    field, dear, turn = place % 2, (place // 2) % 2, (place // 4) % 5
    back = turn < np.where(field == dear, 1, 3)
    click = (place * days * DAY / size).astype(int)
    amount, lag = np.where(dear, 90.0, 10.0), np.where(back, 3_600, None)
    purchases = [[(60, *each)] for each in zip(amount, lag, strict=True)]
    return make_log(
        *and_later(click, purchases), features=np.append(field, 0)[:, None], cardinalities=(2,)
    )


def and_later(click, purchases):
    """Clicks and purchases with one more, in the stream."""
    return [*click.tolist(), 8 * DAY], [*purchases, [(60, 10.0, None)]]


def test_loss_is_least_at_the_refunded_share():
    # Tens (1/5 refunded) and nineties (3/5): dL/dp = 0 at p = 56 / 100.
    refunded = torch.tensor([1.0, 0, 0, 0, 0, 1, 1, 1, 0, 0], dtype=torch.float64)
    amount = torch.tensor([10.0] * 5 + [90.0] * 5, dtype=torch.float64)
    for scale in (1.0, 50.0):
        logit = torch.full((10,), np.log(0.56 / 0.44), dtype=torch.float64, requires_grad=True)
        share_loss(logit, refunded, amount / scale).backward()
        assert logit.grad is not None
        assert float(logit.grad.sum()) == pytest.approx(0.0, abs=1e-12)
    # By hand, at p = 1/2: mean of weight x log 2 = 50 log 2.
    half = torch.zeros(10, dtype=torch.float64)
    assert float(share_loss(half, refunded, amount)) == pytest.approx(50 * np.log(2))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weight_cap": 1.0}, [0.56, 0.24]),
        ({}, [0.56, 0.24]),  # the cap is the higher amount
        ({"weight_cap": 0.4}, [0.4, 0.4]),  # the cap is the lower one: all weigh the same
        ({"weights": "first_purchase"}, [0.4, 0.4]),
    ],
)
def test_pretraining_finds_the_share_of_two_amounts(settings, expected):
    config = RefundShareConfig(pretrain_epochs=3, pretrain_learning_rate=3e-3, **settings)
    log = two_amounts()
    method = RefundShare(log.cardinalities, config).fit(log, SPLIT)
    found = method.predict(impressions(np.array([[0], [1]], np.int32)))
    np.testing.assert_allclose(found[Target.REFUND_VALUE_SHARE].mean, expected, atol=0.03)
    assert method.scale.cap == {1.0: np.inf, 0.4: 10.0}.get(settings.get("weight_cap"), 90.0)


def test_several_purchases_of_a_click_count_by_their_amounts():
    # Each click buys for 10 and keeps it, then for 30 and returns it: 30 / 40 of its GMV. Of its
    # first purchases none comes back.
    click = np.arange(1_000) * 120
    log = make_log(*and_later(click, [[(60, 10.0, None), (600, 30.0, 60)]] * click.size))
    for weights, expected in (("amount", 0.75), ("first_purchase", 0.0)):
        method = RefundShare(log.cardinalities, RefundShareConfig(weights=weights)).fit(log, SPLIT)
        found = method.predict(impressions(np.array([[0]], np.int32)))
        mean = found[Target.REFUND_VALUE_SHARE].mean
        np.testing.assert_allclose(mean, expected, atol=0.02)


# --- A stream ------------------------------------------------------------------------------------

SMALL = SMALL_WORLD | {
    "time.num_ticks": 26,
    "traffic.impressions_per_tick": 80,
    "traffic.slots_per_tick": 512,
}
SIZES = {"embedding_dim": 2, "batch_size": 16}


@cache
def small_log():
    """Some 80 converted clicks a day for 13 days."""
    return generate_purchases(load("price_refunds", SMALL).world, 0)


@cache
def small_stream():
    return PurchaseStream(small_log(), SPLIT)


def fitted(stream=None, *, follow=True, **settings):
    stream = stream or small_stream()
    config = RefundShareConfig(**(SIZES | settings))
    method = RefundShare(stream.log.cardinalities, config)
    return method.fit(stream.history(), SPLIT, follow=follow)


def shares(method):
    held = impressions(small_log().features[:100])
    return method.predict(held)[Target.REFUND_VALUE_SHARE].mean


def test_rows_of_windows_are_those_of_the_whole_log():
    log, stream = small_log(), small_stream()
    click = np.repeat(np.arange(log.click_time.size), np.diff(log.offset))
    due = log.purchase_time + THREE_DAYS
    # In the log, all purchases come in time, all refunds in theirs; ids are those of the stream.
    store = PendingPurchases(WEEK, THREE_DAYS, log.features.shape[1])
    store.follow(stream.history(), SPLIT.start_second - 1)
    total = 0
    for k in range(SPLIT.num_segments):
        store.update(stream.window(k))
        rows, features = store.due()
        wanted = (due > SPLIT.last_second(k - 1)) & (due <= SPLIT.last_second(k))
        if k == 0:
            wanted = (due >= SPLIT.start_second) & (due <= SPLIT.last_second(0))
        order = np.lexsort((log.amount[wanted], log.purchase_time[wanted]))
        found = np.lexsort((rows.amount, rows.time))
        for column, truth in (
            (rows.time, log.purchase_time),
            (rows.amount, log.amount),
            (rows.refunded, log.refund_time != MISSING),
            (features, log.features[click]),
        ):
            np.testing.assert_array_equal(column[found], truth[wanted][order])
        total += rows.time.size
        store.close()
    assert total > 300


def test_pretraining_reads_matured_purchases_of_the_first_days():
    log = small_log()
    pretraining = RefundSharePretraining(small_stream().history(), SPLIT)
    rows = pretraining.matured(RefundShareConfig())
    number = np.diff(log.offset)
    click = np.repeat(log.click_time, number)
    wanted = (click < 2 * DAY) & (log.purchase_time + THREE_DAYS < 7 * DAY)
    assert rows.time.size == wanted.sum() < (click < 2 * DAY).sum()
    assert rows.amount.sum() == pytest.approx(log.amount[wanted].sum())
    assert rows.refunded.sum() == (log.refund_time[wanted] != MISSING).sum()
    longer = RefundShareConfig(refund_seconds=5 * DAY)
    assert 0 < pretraining.matured(longer).time.size < rows.time.size


def test_a_refund_that_comes_later_is_never_used():
    # All that happens after the end of segment 9 is altered: other amounts, nothing comes back.
    log, end = small_log(), SPLIT.last_second(9)
    late = log.purchase_time > end
    altered = log._replace(
        amount=np.where(late, 3 * log.amount, log.amount),
        refund_time=np.where(log.refund_time > end, MISSING, log.refund_time),
    )
    assert (altered.refund_time != log.refund_time).sum() > 50
    one, two = fitted(), fitted(PurchaseStream(altered, SPLIT))
    for k in range(14):
        for method, stream in ((one, small_stream()), (two, PurchaseStream(altered, SPLIT))):
            method.partial_fit(stream.window(k))
        if k <= 9:
            np.testing.assert_array_equal(shares(one), shares(two))
    assert not np.array_equal(shares(one), shares(two))


def test_the_stream_does_not_reach_the_pretraining():
    log, start = small_log(), SPLIT.start_second
    altered = log._replace(refund_time=np.where(log.refund_time >= start, MISSING, log.refund_time))
    np.testing.assert_array_equal(shares(fitted()), shares(fitted(PurchaseStream(altered, SPLIT))))


def test_windows_and_predictions_change_nothing_else():
    method, stream = fitted(), small_stream()
    window = stream.window(0)
    before = [column.copy() for column in window.events]
    assert method.partial_fit(window) is method
    for column, old in zip(window.events, before, strict=True):
        np.testing.assert_array_equal(column, old)
    again = shares(method)
    np.testing.assert_array_equal(again, shares(method))
    assert ((again > 0) & (again < 1)).all()


def test_weights_are_relative_to_earlier_rows():
    method, stream = fitted(weight_cap=1.0), small_stream()
    pretrained = RefundSharePretraining(stream.history(), SPLIT).matured(method.config)
    assert method.scale.mean == pytest.approx(pretrained.amount.mean())
    method.open.update(stream.window(0))
    rows, _ = method.open.due()
    batch = method._due("matured")
    expected = rows.amount / pretrained.amount.mean()
    np.testing.assert_allclose(batch.weight.numpy(), expected, rtol=1e-6)
    both = np.concatenate([pretrained.amount, rows.amount])
    assert method.scale.mean == pytest.approx(both.mean())


def test_weights_are_capped_at_the_level_before_the_stream():
    method, stream = fitted(weight_cap=0.5), small_stream()
    pretrained = RefundSharePretraining(stream.history(), SPLIT).matured(method.config)
    assert method.scale.cap == pytest.approx(np.median(pretrained.amount))
    method.open.update(stream.window(0))
    rows, _ = method.open.due()
    mean = np.minimum(pretrained.amount, method.scale.cap).mean()
    expected = np.minimum(rows.amount, method.scale.cap) / mean
    np.testing.assert_allclose(method._due("matured").weight.numpy(), expected, rtol=1e-6)


def test_free_purchases_bring_no_rows():
    log = two_amounts()
    method = RefundShare(log.cardinalities, RefundShareConfig(batch_size=4)).fit(log, SPLIT)
    bought = [(BOUGHT, i, 0, 8 * DAY, 10.0 * (i % 2)) for i in range(20)]
    clicks = dict.fromkeys(range(20), 8 * DAY)
    method.partial_fit(make_window(9 * DAY, clicks, bought))
    method.partial_fit(make_window(12 * DAY, {}, []))
    assert method.trained_rows == 10


def test_saved_predictor_goes_on_as_it_would_have(tmp_path):
    method, stream = fitted(), small_stream()
    for k in range(5):
        method.partial_fit(stream.window(k))
    method.save(tmp_path / "share.npz")
    again = load_predictor(tmp_path / "share.npz")
    assert isinstance(again, RefundShare)
    assert again.config == method.config
    for k in range(5, 9):
        for each in (method, again):
            each.partial_fit(stream.window(k))
        np.testing.assert_array_equal(shares(method), shares(again))
    assert differing(state(method, tmp_path), state(again, tmp_path)) == set()
    assert method.trained_rows == again.trained_rows > 100


def test_unfitted_predictor_can_be_saved_but_not_used(tmp_path):
    method = RefundShare((3, 4))
    method.save(tmp_path / "new.npz")
    again = load_predictor(tmp_path / "new.npz")
    for each in (method, again):
        with pytest.raises(RuntimeError, match="refund_share: call fit"):
            each.predict(impressions(np.zeros((1, 2), np.int32)))


def test_predictor_keeps_its_contract_in_a_campaign():
    env = {"overrides": SMALL_WORLD}
    check_predictor(lambda: fitted(follow=False), lambda: make_auction_env(**env))


def test_windows_of_an_environment_bring_rows():
    world = SMALL_WORLD | {"time.num_ticks": 16, "campaign.budget": 10_000.0}
    env, method = make_auction_env(overrides=world), fitted(follow=False)
    windows = [window for _, window in collect_windows(env, seed=1)]
    bought = [
        (e.click_id[i], e.order_id[i], e.time_hours[i])
        for e in (window.events for window in windows)
        for i in np.flatnonzero(e.kind == EventKind.PURCHASE)
    ]
    for window in windows:
        method.partial_fit(window)
    now = windows[-1].now_hours
    held = sum(len(rows.ids) for rows in method._held.values())
    assert len(set(bought)) == len(bought)
    assert method.trained_rows + held == sum(hours + 72 <= now for *_, hours in bought) > 30
    assert method.open.key.size == sum(hours + 72 > now for *_, hours in bought)


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight_cap": 0.0},
        {"weight_cap": 1.1},
        {"weights": "gmv"},
        {"refund_seconds": 0},
        {"attribution_seconds": -1},
        {"embeding_dim": 4},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RefundShareConfig(**wrong)


def test_history_without_matured_purchases_is_refused():
    log = make_log([100, 8 * DAY], [[(6 * DAY, 10.0, None)], [(1, 10.0, None)]])
    with pytest.raises(ValueError, match="matured purchases of clicks before day 2"):
        RefundShare(log.cardinalities).fit(log, SPLIT)


def test_history_with_other_fields_is_refused():
    with pytest.raises(ValueError, match=r"history must have cardinalities \(3,\), got \(2,\)"):
        RefundShare((3,)).fit(two_amounts(20), SPLIT)
