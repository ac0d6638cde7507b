"""Every GMV predictor on a small stream: estimates, training rows, no use of the future."""

import numpy as np
import pytest
import torch
from purchase_logs import DAY
from small_gmv import (
    DUAL,
    LEARNING,
    NAMES,
    PRIVILEGED,
    SPLIT,
    attached,
    fitted,
    gmv,
    learned,
    new_predictor,
    played,
    pretraining,
    small_log,
    some_ids,
    stream,
    table_log,
)
from small_predictors import differing, impressions, state

from adsim.types import Target
from predictors import PREDICTORS, GmvPretraining
from predictors.purchase_rows import final_gmv, num_purchases
from predictors.purchase_stream import run_gmv_stream

ALL = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("quirks", [False, True], ids=["paper", "published"])
NEVER = np.iinfo(np.int32).max
PER_DAY = 8  # segments


# --- estimates ---------------------------------------------------------------------------------
@ALL
@BOTH
def test_stream_gives_amounts_again_and_again(name, quirks):
    head = "absolute" if quirks else "log"
    runs = []
    for _ in range(2):
        predictor = fitted(name, official_quirks=quirks, head=head)
        runs.append((predictor, run_gmv_stream(predictor, stream())))
    (predictor, result), (other, again) = runs
    for column, same in zip(result[:-1], again[:-1], strict=True):  # but for the seconds
        np.testing.assert_array_equal(column, same)
    assert predictor.losses == other.losses
    assert np.isfinite(predictor.losses).all()
    assert (len(predictor.losses) > 0) == (name in LEARNING)
    assert result.gmv.dtype == np.float64
    assert (np.isfinite(result.gmv) & (result.gmv >= 0)).all()
    assert np.unique(result.gmv).size > 100
    # Every click after the first segment is scored once, with what it bought in the end.
    log = small_log()
    assert (
        result.click.tolist()
        == np.flatnonzero((log.click_time >= 4.125 * DAY) & (log.click_time < 5.625 * DAY)).tolist()
    )
    np.testing.assert_array_equal(result.label, final_gmv(log)[result.click])
    np.testing.assert_array_equal(result.purchases, num_purchases(log)[result.click])


@ALL
def test_targets_and_registry(name):
    predictor = fitted(name)
    assert type(predictor) is PREDICTORS[name]
    assert predictor.name == name
    assert predictor.privileged == (name in PRIVILEGED)
    assert (name in DUAL) == (predictor.towers == 2)
    estimates = predictor.predict(some_ids(7))
    assert estimates.keys() == set(predictor.targets) == {Target.GMV}
    mean, std = estimates[Target.GMV]
    assert mean.shape == std.shape == (7,)
    assert (std == 0).all()


def test_there_are_nine_methods():
    assert set(NAMES) == {
        *("pre_single", "pre_dual", "offline_single", "offline_dual", "online_single"),
        *("online_dual", "oracle_single", "oracle_dual", "reader"),
    }


@ALL
def test_methods_start_from_the_pretrained_estimates(name):
    towers = "dual" if name in DUAL else "single"
    start, found = (gmv(fitted(each), some_ids()) for each in (f"pre_{towers}", name))
    if name == "oracle_dual":  # it knows the kinds
        net, ids = fitted(name).main, pretraining().fields.encode(some_ids().features)
        several = torch.from_numpy(num_purchases(small_log())[:200] > 1).long()
        with torch.no_grad():
            start = torch.expm1(net(ids).gather(1, several[:, None])).squeeze(1).numpy()
    np.testing.assert_allclose(found, start, rtol=1e-5)


@pytest.mark.parametrize("name", ["pre_single", "pre_dual"])
def test_the_pretrained_model_stays_as_it_is(name, tmp_path):
    predictor = fitted(name)
    before, first = learned(state(predictor, tmp_path)), gmv(predictor, some_ids())
    run_gmv_stream(predictor, stream())
    assert differing(before, learned(state(predictor, tmp_path))) == set()
    np.testing.assert_array_equal(gmv(predictor, some_ids()), first)
    assert predictor.trained_rows == 0


@pytest.mark.parametrize("name", ["online_dual", "oracle_dual", "reader"])
@pytest.mark.parametrize("bottom", ["shared", "independent", "frozen"])
def test_what_two_towers_share(name, bottom):
    predictor = fitted(name, bottom=bottom)
    assert len(predictor.main.encoders) == (2 if bottom == "independent" else 1)
    before = {key: value.clone() for key, value in predictor.main.named_parameters()}
    played(predictor, range(2))
    changed = {
        key.split(".")[0]
        for key, value in predictor.main.named_parameters()
        if not value.equal(before[key])
    }
    assert changed == ({"towers"} if bottom == "frozen" else {"towers", "encoders"})


# --- training rows -----------------------------------------------------------------------------
def rows_due(name, log):
    """How many rows a method trains on in the whole stream."""
    click, end = log.click_time, 5.5 * DAY
    bought, first = log.purchase_time, log.purchase_time[log.offset[:-1]]

    def inside(time, end=end):
        return int(((time >= 4 * DAY) & (time < end)).sum())

    if name in PRIVILEGED:
        return inside(first)
    if name.startswith("online"):
        return inside(bought)
    if name.startswith("offline"):  # those of the second day come too late
        return inside(click + DAY, end=5 * DAY)
    return inside(bought) + inside(click + DAY)


@pytest.mark.parametrize("name", LEARNING)
def test_every_row_is_trained_on_once(name):
    predictor = fitted(name)
    run_gmv_stream(predictor, stream())
    assert predictor.trained_rows == rows_due(name, small_log()) > 250
    assert not predictor._held or name.startswith("offline")


@pytest.mark.parametrize("name", ["offline_single", "offline_dual"])
def test_offline_methods_train_once_a_day_on_the_rows_of_the_day(name):
    predictor, trained = fitted(name), []
    for k in range(SPLIT.num_segments):
        predictor.partial_fit(stream().window(k))
        trained.append(predictor.trained_rows)
    # The lot of a day is trained on when the window after it is over.
    assert trained == [0] * PER_DAY + [rows_due(name, small_log())] * (SPLIT.num_segments - PER_DAY)


def test_clicks_of_before_the_stream_bring_rows_only_if_followed():
    log, counts = small_log(), []
    for follow in (True, False):
        predictor = fitted("reader", follow=follow)
        predictor.partial_fit(stream().window(0))
        counts.append(predictor.trained_rows)
    now, first = 4.125 * DAY, log.purchase_time[log.offset[:-1]]
    due = (log.purchase_time >= 4 * DAY) & (log.purchase_time < now)
    ends = (log.click_time >= 3 * DAY) & (log.click_time < 3.125 * DAY)
    assert counts[0] == due.sum() + ends.sum()
    fresh = np.repeat(first >= 4 * DAY, num_purchases(log))
    assert counts[1] == (due & fresh).sum() + (ends & (first >= 4 * DAY)).sum() < counts[0]


@pytest.mark.parametrize("name", sorted(set(LEARNING) - {"offline_single", "offline_dual"}))
def test_the_rate_falls_window_by_window(name):
    predictor = fitted(name, rate_decay=0.81, learning_rate=0.5)
    rates = []
    for k in range(3):
        rates.append(predictor.optimisers["main"].param_groups[0]["lr"])
        predictor.partial_fit(stream().window(k, privileged=predictor.privileged))
    assert rates == pytest.approx([0.5, 0.45, 0.405])


def test_the_rate_of_offline_methods_falls_lot_by_lot():
    predictor, rates = fitted("offline_single", rate_decay=0.81, learning_rate=0.5), []
    for k in range(SPLIT.num_segments):
        predictor.partial_fit(stream().window(k))
        rates.append(predictor.optimisers["main"].param_groups[0]["lr"])
    assert rates == pytest.approx([0.5] * PER_DAY + [0.45] * (SPLIT.num_segments - PER_DAY))


@ALL
def test_own_learning_rate_and_decay_reach_the_optimiser(name):
    plain = fitted(name).optimisers["main"].param_groups[0]
    assert plain["lr"] == PREDICTORS[name].learning_rate
    other = fitted(name, learning_rate=0.5, weight_decay=0.2).optimisers["main"].param_groups[0]
    assert (other["lr"], other["weight_decay"]) == (0.5, 0.2)


# --- predict, partial_fit ----------------------------------------------------------------------
@ALL
def test_predict_is_pure(name, tmp_path):
    predictor = fitted(name)
    played(predictor, [0])
    before = state(predictor, tmp_path)
    first = gmv(predictor, some_ids())
    np.testing.assert_array_equal(gmv(predictor, some_ids()), first)
    np.testing.assert_allclose(gmv(predictor, some_ids(9)), first[:9], rtol=1e-5)
    assert differing(before, state(predictor, tmp_path)) == set()


@ALL
def test_unknown_ids_have_estimates(name):
    predictor = fitted(name)
    features = np.repeat(small_log().features[:1], 6, axis=0)
    for row, bad in enumerate((NEVER, -1, -NEVER - 1, 10**6)):
        features[row] = bad
    features[4, 1] = small_log().cardinalities[1]
    found = predictor.predict(impressions(features)._replace(impression_id=np.zeros(6, np.int64)))
    mean = found[Target.GMV].mean
    assert (np.isfinite(mean) & (mean >= 0)).all()
    assert (mean[:4] == mean[0]).all()  # unknown is unknown
    with pytest.raises(ValueError, match=r"features must have shape \(B, 3\)"):
        predictor.predict(impressions(features[:, :2]))


@ALL
def test_windows_are_left_alone(name):
    predictor = fitted(name)
    window = stream().window(1, privileged=predictor.privileged)
    parts = [np.copy(column) for part in window[1:] for column in part]
    assert predictor.partial_fit(window) is predictor
    for column, copy in zip((c for part in window[1:] for c in part), parts, strict=True):
        np.testing.assert_array_equal(column, copy)


@ALL
def test_seeds_and_fits_leave_the_global_generator_alone(name):
    before = torch.get_rng_state()
    predictor = new_predictor(name).fit(stream().history(), SPLIT)
    predictor.partial_fit(stream().window(0, privileged=predictor.privileged))
    assert torch.equal(torch.get_rng_state(), before)


def test_own_pretraining_equals_a_shared_one_and_seeds_matter():
    shared, history = gmv(fitted("reader"), some_ids()), stream().history()
    own = new_predictor("reader").fit(history, SPLIT)
    np.testing.assert_array_equal(gmv(own, some_ids()), shared)
    other = PREDICTORS["reader"](small_log().cardinalities, own.config, seed=1)
    assert (gmv(other.fit(history, SPLIT), some_ids()) != shared).any()


def test_networks_shared_by_methods_are_not_trained_by_them():
    shared = GmvPretraining(stream().history(), SPLIT)
    one, two = (
        new_predictor("reader").fit(shared.history, SPLIT, pretraining=shared, follow=True)
        for _ in range(2)
    )
    frozen = {name: value.clone() for name, value in one.frozen.state_dict().items()}
    assert {name.split(".")[0] for name in frozen} == {"router", "calibrator"}
    first = gmv(two, some_ids())
    run_gmv_stream(one, stream())
    np.testing.assert_array_equal(gmv(two, some_ids()), first)
    for name, value in one.frozen.state_dict().items():
        assert torch.equal(value, frozen[name])


def test_pretrained_networks_are_kept_in_a_folder(tmp_path):
    first = new_predictor("reader")
    expected = gmv(fitted("reader"), some_ids())
    files = set()
    for _ in range(2):
        shared = GmvPretraining(stream().history(), SPLIT, cache=tmp_path)
        predictor = first.fit(shared.history, SPLIT, pretraining=shared)
        np.testing.assert_array_equal(gmv(predictor, some_ids()), expected)
        files |= {file.name.split("_")[0] for file in tmp_path.iterdir()}
    assert files == {"amounts", "router", "calibrator"}
    assert len(list(tmp_path.iterdir())) == 3


@ALL
def test_fitting_again_forgets_all_that_was_learned(name, tmp_path):
    fresh, used = fitted(name, rate_decay=0.9), fitted(name, rate_decay=0.9)
    played(used, range(10))  # offline methods train in window 8
    shared = pretraining()
    assert used.fit(shared.history, SPLIT, pretraining=shared, follow=True) is used
    attached(used)
    assert differing(state(used, tmp_path), state(fresh, tmp_path)) == set()
    for predictor in (fresh, used):
        played(predictor, [0])
    assert used.losses == fresh.losses
    assert differing(state(used, tmp_path), state(fresh, tmp_path)) == set()


# --- the future --------------------------------------------------------------------------------
def rewritten(log, second, rng):
    """The same before a second; from it on other clicks, and other purchases of all clicks."""
    number = num_purchases(log)
    click_of = np.repeat(np.arange(number.size), number)
    known = log.click_time < second
    click = np.where(known, log.click_time, second + np.sort(rng.integers(0, DAY, number.size)))
    features = np.where(known[:, None], log.features, rng.permuted(log.features, axis=0))
    old = log.purchase_time < second
    rank = np.arange(click_of.size) - log.offset[click_of]
    delay, amount = np.full((2, number.size, 5), np.nan)
    seen = np.where(old, log.purchase_time - click[click_of], 0)
    delay[click_of[old], rank[old]] = seen[old]
    amount[click_of[old], rank[old]] = log.amount[old]
    # Clicks that had no purchase yet get one to four, the others none to three more.
    had = np.bincount(click_of[old], minlength=number.size)
    more = np.maximum(rng.integers(0, 4, number.size), had == 0)
    start = np.clip(second - click, 0, DAY)
    more = np.where(start < DAY, more, 0)
    places = np.arange(5)
    new = (places >= had[:, None]) & (places < np.minimum(had + more, 5)[:, None])
    moments = np.sort(rng.uniform(start[:, None], DAY, (number.size, 5)), axis=1)
    delay = np.where(new, np.floor(moments), delay)
    amount = np.where(new, rng.uniform(1, 900, amount.shape), amount)
    return table_log(click, features, log.cardinalities, delay, amount)


@pytest.mark.parametrize("name", sorted(set(NAMES) - PRIVILEGED))
@BOTH
def test_nothing_later_than_the_window_is_used(name, quirks, tmp_path):
    last = PER_DAY if name.startswith("offline") else 2  # offline methods train in window 8
    end, found = SPLIT.last_second(last) + 1, []
    for seen in (small_log(), rewritten(small_log(), end, np.random.default_rng(0))):
        predictor = fitted(name, official_quirks=quirks)
        estimates = played(predictor, range(last + 1), stream(seen))
        found.append((estimates, state(predictor, tmp_path), predictor.losses))
    (one, before, losses), (two, after, again) = found
    np.testing.assert_array_equal(one, two)
    assert losses == again
    assert differing(before, after) == set()
    assert bool(losses) == (name in LEARNING)


@pytest.mark.parametrize("name", sorted(PRIVILEGED))
def test_oracles_use_the_future(name):
    other = rewritten(small_log(), SPLIT.last_second(2) + 1, np.random.default_rng(0))
    one, two = (
        played(fitted(name, log=seen), range(3), stream(seen)) for seen in (small_log(), other)
    )
    assert (one[-1] != two[-1]).any()


@pytest.mark.parametrize("name", ["online_single", "online_dual", "reader"])
def test_a_purchase_at_the_end_of_a_segment_is_not_known_in_it(name):
    log, k = small_log(), 3
    second = SPLIT.last_second(k) + 1  # from which on a model trained up to segment k is tested
    clicked = np.repeat(log.click_time, num_purchases(log))
    later = (log.purchase_time >= second) & (clicked < second)
    place = int(np.argmin(np.where(later, log.purchase_time, NEVER)))
    time, dear = log.purchase_time.copy(), log.amount.copy()
    time[place], dear[place] = second, 1e6
    one = log._replace(purchase_time=time)
    results = [
        run_gmv_stream(fitted(name, log=each), stream(each))
        for each in (one, one._replace(amount=dear))
    ]
    before, after = (result.gmv[result.segment <= k] for result in results)
    assert before.size > 100
    np.testing.assert_array_equal(before, after)
    before, after = (result.gmv[result.segment == k + 1] for result in results)
    assert (before != after).all()
