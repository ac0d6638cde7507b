"""Every neural predictor on a small stream: estimates, reproducibility, no use of the future."""

import numpy as np
import pytest
import torch
from click_logs import A
from small_predictors import (
    LEARNING,
    NAMES,
    SPLIT,
    TARGETS,
    differing,
    fitted,
    impressions,
    means,
    new_predictor,
    small_log,
    some_ids,
    state,
    stream,
)

from adsim.clicklog import MISSING
from predictors import PREDICTORS, Pretraining, load_predictor
from predictors.delivery import RULES, Windows, deliver
from predictors.open_clicks import OpenClicks
from predictors.stream import LogStream, run_stream

ALL = pytest.mark.parametrize("name", NAMES)
BOTH = pytest.mark.parametrize("quirks", [False, True], ids=["papers", "published"])
NEVER = np.iinfo(np.int32).max


# --- estimates ---------------------------------------------------------------------------------
@ALL
@BOTH
def test_stream_gives_probabilities_again_and_again(name, quirks):
    runs = []
    for _ in range(2):
        predictor = fitted(name, official_quirks=quirks)
        runs.append((predictor, run_stream(predictor, stream(), Windows())))
    (predictor, result), (other, again) = runs
    for column, same in zip(result[:-1], again[:-1], strict=True):  # but for the seconds
        np.testing.assert_array_equal(column, same)
    assert predictor.losses == other.losses
    assert np.isfinite(predictor.losses).all()
    assert (len(predictor.losses) > 0) == (name in LEARNING)
    for values in (result.cvr, result.refund_rate, result.net_cvr):
        assert values.dtype == np.float64
        assert ((values >= 0) & (values <= 1)).all()  # no NaN, either
        assert np.unique(values).size > 50
    np.testing.assert_allclose(result.net_cvr, result.cvr * (1 - result.refund_rate), rtol=1e-6)


@ALL
def test_targets_and_registry(name):
    predictor = fitted(name)
    assert type(predictor) is PREDICTORS[name]
    assert predictor.name == name
    assert predictor.rule in RULES
    estimates = predictor.predict(some_ids(7))
    assert estimates.keys() == set(predictor.targets) == set(TARGETS)
    assert all((std == 0).all() and std.shape == (7,) for _, std in estimates.values())


def test_only_the_trained_oracle_is_privileged():
    assert {name for name in NAMES if PREDICTORS[name].privileged} == {"trained_oracle"}
    assert all(
        RULES[new_predictor(name).rule].privileged == PREDICTORS[name].privileged for name in NAMES
    )


@pytest.mark.parametrize("name", LEARNING)
def test_every_row_is_trained_on_once(name):
    predictor, log = fitted(name), small_log()
    run_stream(predictor, stream(), Windows())
    rows = deliver(log, Windows(), RULES[predictor.rule])
    end = SPLIT.start_second + (4 if name == "bdl" else 6) * SPLIT.segment_seconds
    due = (rows.time >= SPLIT.start_second) & (rows.time <= end)
    assert predictor.trained_rows == due.sum() > 100


def test_published_batches_are_whole():
    predictor = fitted("es_dfm", official_quirks=True, batch_size=50)
    trained = []
    for k in range(SPLIT.num_segments):
        before = predictor.trained_rows
        predictor.partial_fit(stream().window(k))
        trained.append(predictor.trained_rows - before)
    assert all(count % 50 == 0 and count > 0 for count in trained)
    assert predictor.trained_rows == 50 * len(predictor.losses)


@BOTH
def test_the_pretrained_model_stays_as_it_is(quirks, tmp_path):
    predictor = fitted("pre_trained", official_quirks=quirks)
    before, first = state(predictor, tmp_path), means(predictor, some_ids())
    run_stream(predictor, stream(), Windows())
    assert differing(before, state(predictor, tmp_path)) <= {
        *("open/click_id", "open/times", "open/features", "open/moments", "shapes")
    }
    np.testing.assert_array_equal(means(predictor, some_ids()), first)


@ALL
def test_methods_start_from_the_pretrained_estimates(name):
    start, found = (means(fitted(each), some_ids()) for each in ("pre_trained", name))
    np.testing.assert_array_equal(found[1], start[1])
    if name == "fnc":  # its correction is for what it learns in the stream
        np.testing.assert_allclose(found[0], np.minimum(start[0] / (1 - start[0]), 1), rtol=1e-5)
    else:
        np.testing.assert_allclose(found[0], start[0], rtol=1e-4)


def test_bdl_trains_once_a_day_on_the_rows_of_the_day():
    predictor, trained = fitted("bdl"), []
    for k in range(SPLIT.num_segments):  # four windows are a day
        predictor.partial_fit(stream().window(k))
        trained.append(predictor.trained_rows)
    rows = deliver(small_log(), Windows(), RULES["bdl"])
    first_day = (rows.time >= SPLIT.start_second) & (rows.time <= SPLIT.start_second + 86_400)
    assert trained == [0, 0, 0, 0, first_day.sum(), first_day.sum()]


@pytest.mark.parametrize("name", ["es_dfm", "tesla", "trained_oracle", "miss", "dfsn"])
@pytest.mark.parametrize(
    "settings", [{"head": "direct"}, {"tables": "separate"}, {"tables": "shared"}]
)
def test_variants_give_probabilities(name, settings):
    predictor = fitted(name, **settings)
    result = run_stream(predictor, stream(), Windows())
    for values in (result.cvr, result.refund_rate, result.net_cvr):
        assert ((values >= 0) & (values <= 1)).all()
    assert np.isfinite(predictor.losses).all()


def test_direct_head_estimates_net_cvr():
    predictor = fitted("es_dfm", head="direct")
    ids = predictor.fields.encode(small_log().features[:50])
    cvr, refund, net = means(predictor, some_ids(50))
    with torch.no_grad():
        first, second = (torch.sigmoid(logit).double() for logit in predictor.main.eval()(ids))
    np.testing.assert_allclose(cvr, first, rtol=1e-5)
    np.testing.assert_allclose(net, second, rtol=1e-5)
    np.testing.assert_allclose(refund, np.clip(1 - net / cvr, 0, 1), atol=1e-5)


# --- networks of several parts -----------------------------------------------------------------
@BOTH
def test_dfsn_estimates_the_larger_of_its_feature_satellite_and_its_sum(quirks):
    predictor = fitted("dfsn", official_quirks=quirks)
    for k in range(2):
        predictor.partial_fit(stream().window(k))
    found = means(predictor, some_ids())[0]
    nets = predictor.nets.eval()
    main, feature, unbias = nets["main"], nets["feature"], nets["unbias"]
    ids = predictor.fields.encode(some_ids().features)
    with torch.no_grad():
        inputs = [net.cvr_inputs(ids) for net in (main, feature, unbias)]
        mixed = sum(rows @ matrix for rows, matrix in zip(inputs, main.mix, strict=True))
        total = torch.sigmoid(main.cvr(mixed).squeeze(1) + unbias.cvr_logit(ids)).numpy()
        alone = torch.sigmoid(feature.cvr_logit(ids)).numpy()
    assert (total > alone).any()
    assert (alone > total).any()
    np.testing.assert_allclose(found, np.maximum(total, alone), rtol=1e-5)


def test_dfsn_trains_each_network_on_its_own_rows():
    predictor = fitted("dfsn")
    main, satellites = predictor.main, [predictor.nets[name] for name in ("feature", "unbias")]
    before = [{k: v.clone() for k, v in net.named_parameters()} for net in satellites]
    main.cvr_logit(predictor.fields.encode(some_ids(9).features)).sum().backward()
    assert main.cvr[-1].weight.grad.any()  # all else follows it, which starts at 0
    assert all(weight.grad is None for net in satellites for weight in net.parameters())
    predictor.partial_fit(stream().window(0))
    for net, old in zip(satellites, before, strict=True):
        changed = {k for k, v in net.named_parameters() if not v.equal(old[k])}
        assert "cvr.0.weight" in changed
        assert not any(name.startswith(("refund.", "private_refund")) for name in changed)


def test_miss_mixes_the_probabilities_of_its_heads():
    predictor = fitted("miss")
    predictor.partial_fit(stream().window(0))
    ids = predictor.fields.encode(some_ids().features)
    mixture = predictor.main.eval().cvr[-1]
    with torch.no_grad():
        *heads, mixed = torch.sigmoid(predictor.main.cvr_logit(ids)).T
        each = torch.stack(heads, 1)
        both = torch.cat([each, torch.softmax(each, 1)], 1)
        weights = torch.softmax(mixture.weigh(both), 1)
    torch.testing.assert_close(mixed, (weights * each).sum(1))
    np.testing.assert_allclose(means(predictor, some_ids())[0], mixed, rtol=1e-5)


@BOTH
def test_published_miss_does_not_train_its_refund_tower(quirks):
    predictor = fitted("miss", official_quirks=quirks)
    before = {name: weight.clone() for name, weight in predictor.main.named_parameters()}
    predictor.partial_fit(stream().window(0))
    after = dict(predictor.main.named_parameters())
    names = [name for name in before if name.startswith(("refund.", "private_refund"))]
    assert all(before[name].equal(after[name]) for name in names) == quirks


# --- predict, partial_fit ----------------------------------------------------------------------
@ALL
@BOTH
def test_predict_is_pure(name, quirks, tmp_path):
    predictor = fitted(name, official_quirks=quirks)
    predictor.partial_fit(stream().window(0))
    before = state(predictor, tmp_path)
    first = means(predictor, some_ids())
    np.testing.assert_array_equal(means(predictor, some_ids()), first)
    np.testing.assert_allclose(means(predictor, some_ids(9)), first[:, :9], rtol=1e-5)
    assert means(predictor, some_ids(0)).shape == (3, 0)
    assert differing(before, state(predictor, tmp_path)) == set()
    assert all(net.training for net in predictor.nets.values())


@ALL
def test_unknown_ids_have_estimates(name):
    predictor = fitted(name)
    features = small_log().features[:6].copy()
    for row, bad in enumerate((NEVER, -1, -NEVER - 1, 10**6)):
        features[row] = bad
    features[4, 3] = small_log().cardinalities[3]
    found = means(predictor, impressions(features))
    assert ((found >= 0) & (found <= 1)).all()
    assert (found[:, :4] == found[:, :1]).all()  # unknown is unknown
    with pytest.raises(ValueError, match=r"features must have shape \(B, 22\)"):
        predictor.predict(impressions(features[:, :5]))


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
    predictor = new_predictor(name)
    predictor.fit(stream().history(), SPLIT)
    predictor.partial_fit(stream().window(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_own_pretraining_equals_a_shared_one_and_seeds_matter():
    shared = means(fitted("tesla"), some_ids())
    history = stream().history()
    own = means(new_predictor("tesla").fit(history, SPLIT), some_ids())
    np.testing.assert_array_equal(own, shared)
    other = PREDICTORS["tesla"](small_log().cardinalities, new_predictor("tesla").config, seed=1)
    assert (means(other.fit(history, SPLIT), some_ids()) != shared).any()


def test_networks_shared_by_methods_are_not_trained_by_them():
    history = stream().history()
    shared = Pretraining(history, SPLIT)
    one, two = (
        new_predictor("tesla", official_quirks=True).fit(
            history, SPLIT, pretraining=shared, follow=True
        )
        for _ in range(2)
    )
    frozen = {name: value.clone() for name, value in one.frozen.state_dict().items()}
    first = means(two, some_ids())
    run_stream(one, stream(), Windows())
    np.testing.assert_array_equal(means(two, some_ids()), first)
    for name, value in one.frozen.state_dict().items():
        assert torch.equal(value, frozen[name])


# --- the future --------------------------------------------------------------------------------
def rewritten(log, seconds, rng):
    """The same up to a moment; then other clicks, and events that vanish, move or appear."""
    size = log.click_time.size
    known = log.click_time <= seconds
    click = np.where(known, log.click_time, seconds + np.sort(rng.integers(1, 2 * A, size)))
    features = np.where(known[:, None], log.features, rng.permuted(log.features, axis=0))
    future = np.maximum(click, seconds + rng.integers(1, A, size))
    seen = known & (log.conversion_time != MISSING) & (log.conversion_time <= seconds)
    invented = np.where(rng.random(size) < 0.5, future + 1, MISSING)
    conversion = np.where(seen, log.conversion_time, invented)
    seen &= (log.refund_time != MISSING) & (log.refund_time <= seconds)
    paid = conversion != MISSING
    invented = np.maximum(conversion, future) + rng.integers(1, A, size)
    refund = np.where(paid & (rng.random(size) < 0.5), invented, MISSING)
    return log._replace(
        click_time=click,
        features=features,
        conversion_time=conversion,
        refund_time=np.where(seen, log.refund_time, refund),
    )


@ALL
@BOTH
def test_nothing_later_than_the_window_is_used(name, quirks, tmp_path):
    log, k = small_log(), 4 if name == "bdl" else 2  # BDL trains in window 4
    end = SPLIT.start_second + (k + 1) * SPLIT.segment_seconds
    found = []
    for seen in (log, rewritten(log, end, np.random.default_rng(0))):
        predictor, plays = fitted(name, official_quirks=quirks), LogStream(seen, SPLIT)
        for j in range(k + 1):
            predictor.partial_fit(plays.window(j, privileged=predictor.privileged))
        found.append((means(predictor, some_ids()), state(predictor, tmp_path), predictor.losses))
    (one, before, losses), (two, after, again) = found
    if name == "trained_oracle":
        assert (one != two).any()
    else:
        np.testing.assert_array_equal(one, two)
        assert losses == again
        assert differing(before, after) == set()


def test_estimates_of_a_segment_do_not_depend_on_what_follows_it():
    log, s = small_log(), SPLIT.start_second + 3 * SPLIT.segment_seconds
    results = [
        run_stream(fitted("tesla"), LogStream(each, SPLIT), Windows())
        for each in (log, rewritten(log, s, np.random.default_rng(1)))
    ]
    early = [result.segment < 2 for result in results]  # scored on clicks up to s
    for column in ("click", "cvr", "refund_rate", "net_cvr"):
        one, two = (
            getattr(result, column)[rows] for result, rows in zip(results, early, strict=True)
        )
        assert one.size > 50
        np.testing.assert_array_equal(one, two)


# --- before and besides the stream -------------------------------------------------------------
@ALL
def test_untrained_predictors_ask_for_fit(name):
    predictor = new_predictor(name)
    with pytest.raises(RuntimeError, match=rf"{name}: call fit\(history\)"):
        predictor.partial_fit(stream().window(0))
    with pytest.raises(RuntimeError, match=rf"{name}: call fit\(history\)"):
        predictor.predict(some_ids(3))


def test_other_fields_are_rejected():
    predictor = new_predictor("tesla", (3, 4))
    with pytest.raises(ValueError, match=r"history must have cardinalities \(3, 4\), got \(200,"):
        predictor.fit(stream().history(), SPLIT)


def test_clicks_of_before_the_stream_bring_rows_only_if_followed():
    counts = []
    for follow in (True, False):
        predictor = fitted("es_dfm", follow=follow)
        predictor.partial_fit(stream().window(0))
        counts.append(predictor.trained_rows)
    clicks = OpenClicks(Windows(), 22)
    clicks.update(stream().window(0))
    assert counts[1] == clicks.due(RULES["es_dfm"])[0].time.size < counts[0]


@pytest.mark.gpu
def test_tesla_trains_on_a_cuda_device(tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    history, found = stream().history(), []
    for device in ("cpu", "cuda"):
        base = new_predictor("tesla", ranking="none")
        predictor = type(base)(base.fields.cardinalities, base.config, device=device)
        predictor.fit(history, SPLIT, follow=True)
        for k in range(3):
            predictor.partial_fit(stream().window(k))
        found.append(means(predictor, some_ids()))
    np.testing.assert_allclose(found[0], found[1], atol=0.05)
    predictor.save(tmp_path / "kept.npz")
    predictor.partial_fit(stream().window(3))
    for device in ("cpu", "cuda"):
        loaded = load_predictor(tmp_path / "kept.npz", device)
        loaded.partial_fit(stream().window(3))
        same = means(loaded, some_ids()), means(predictor, some_ids())
        np.testing.assert_allclose(*same, atol=0.05)
    dar = type(base)(base.fields.cardinalities, seed=1, device="cuda")  # with its draws
    dar.fit(history, SPLIT, follow=True).partial_fit(stream().window(0))
    assert np.isfinite(dar.losses).all()
    assert dar.losses
