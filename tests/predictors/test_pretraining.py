from dataclasses import replace

import numpy as np
import pytest
import torch
from click_logs import A, W, make_log, random_log
from small_predictors import SIZES, SPLIT, small_log
from small_worlds import SMALL_WORLD
from torch import nn

from adsim.clicklog import MISSING, generate
from predictors import NetCVRConfig, Pretraining, TeslaConfig, pretraining
from predictors.delivery import Windows
from predictors.nets import Fields, probabilities, state_arrays
from predictors.pretraining import new_delay_net, new_towers, settle
from predictors.stream import LogStream, Split, batches
from scenarios.schema import load

DAY = 86_400
MODELS = ["pay_late", "refund_late", "pay", "refund", "tn_dp"]
CONFIG = NetCVRConfig(**SIZES)


@pytest.fixture(scope="module")
def history():
    return LogStream(small_log(), SPLIT).history()


def trained(history, name, config=CONFIG, split=SPLIT, **options):
    """Weights of the main network or of a delay model."""
    made = Pretraining(history, split, **options)
    net = made.main(config) if name == "main" else made.delays(name, config)
    return state_arrays(net)


def same(one, two):
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


# --- each network once -------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["main", *MODELS])
def test_same_seed_same_weights(history, name):
    one = trained(history, name)
    assert same(one, trained(history, name))
    assert not same(one, trained(history, name, seed=1))
    new = new_towers if name == "main" else lambda *args: new_delay_net(args[0], name, *args[1:])
    untrained = new(Pretraining(history, SPLIT).fields, CONFIG, 0)
    assert not same(one, state_arrays(untrained))


def test_networks_are_trained_once_and_frozen(history, monkeypatch):
    made = Pretraining(history, SPLIT)
    fits = []
    for name in ("_fit_main", "_fit_delays"):
        plain = getattr(made, name)
        monkeypatch.setattr(made, name, lambda *a, plain=plain: fits.append(a) or plain(*a))
    nets = [made.main(CONFIG), *(made.delays(model, CONFIG) for model in MODELS)]
    assert len(fits) == len(nets) == len(set(map(id, nets))) == 6
    again = [made.main(CONFIG), *(made.delays(model, CONFIG) for model in MODELS)]
    assert len(fits) == 6
    for net, other in zip(nets, again, strict=True):
        assert net is other
        assert not net.training
        assert not any(weight.requires_grad for weight in net.parameters())


OF_STREAM = [{"learning_rate": 0.5}, {"weight_decay": 0.1}]
OF_ALL = [
    {"embedding_dim": 3},
    {"embedding_sd": 0.2},
    {"widths": (4,)},
    {"batch_size": 40},
    {"pretrain_learning_rate": 0.02},
    {"official_quirks": True},
    {"windows": Windows(conversion_observation=600)},
]
OF_MAIN = [
    {"tables": "shared"},
    {"head": "direct"},
    {"train_refund_embeddings": False},
    {"pretrain_attribution": DAY},
]


@pytest.mark.parametrize("changes", [*OF_STREAM, *OF_ALL, *OF_MAIN, {"delay_attribution": DAY}])
def test_networks_are_shared_by_settings_that_do_not_concern_them(history, changes):
    made = Pretraining(history, SPLIT)
    other = NetCVRConfig(**(SIZES | changes))
    assert (made.main(CONFIG) is made.main(other)) == (changes not in [*OF_ALL, *OF_MAIN])
    affected = changes in OF_ALL or "delay_attribution" in changes
    assert (made.delays("pay", CONFIG) is made.delays("pay", other)) == (not affected)
    assert made.main(CONFIG) is made.main(TeslaConfig(**SIZES, ranking="none"))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("main", {"pretrain_attribution": DAY}),
        ("main", {"head": "direct"}),
        ("main", {"official_quirks": True}),
        *((model, {"delay_attribution": DAY}) for model in MODELS),
        ("tn_dp", {"windows": Windows(conversion_observation=20_000)}),
        ("refund_late", {"windows": Windows(refund_observation=20_000)}),
    ],
)
def test_settings_change_what_is_learned(history, name, changes):
    assert not same(
        trained(history, name), trained(history, name, NetCVRConfig(**SIZES, **changes))
    )


def test_networks_are_kept_on_disk(history, tmp_path, monkeypatch):
    kept = {name: trained(history, name, cache=tmp_path) for name in ("main", *MODELS)}
    files = sorted(tmp_path.iterdir())
    assert len(files) == 6
    assert {file.suffix for file in files} == {".npz"}
    assert same(kept["main"], trained(history, "main"))

    def fail(*arguments):
        raise AssertionError("trained again")

    with monkeypatch.context() as patch:
        patch.setattr(Pretraining, "_fit_main", fail)
        patch.setattr(Pretraining, "_fit_delays", fail)
        for name, weights in kept.items():
            assert same(weights, trained(history, name, cache=tmp_path))
        with pytest.raises(AssertionError, match="trained again"):
            trained(history, "main", cache=tmp_path, seed=1)
    trained(history, "main", NetCVRConfig(**SIZES, head="direct"), cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 7


def test_the_cache_is_made_and_tells_apart_what_differs(history, tmp_path):
    folder = tmp_path / "new" / "cache"
    splits = SPLIT, replace(SPLIT, pretrain_days=1.0)
    nets = [trained(history, "main", split=split, cache=folder) for split in splits]
    assert len(list(folder.iterdir())) == 2
    assert not same(*nets)
    for split, weights in zip(splits, nets, strict=True):
        assert same(weights, trained(history, "main", split=split))
        assert same(weights, trained(history, "main", split=split, cache=folder))


def test_an_interrupted_write_keeps_no_half_network(history, tmp_path, monkeypatch):
    def interrupted(out, **arrays):
        out.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(history, "main", cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


# --- labels ------------------------------------------------------------------------------------
def of_hand(conversion_delays, refund_delays):
    """Clicks at second 0 with these delays (None: no event), and a Pretraining on them."""
    conversion = [MISSING if delay is None else delay for delay in conversion_delays]
    refund = [
        MISSING if delay is None else start + delay
        for start, delay in zip(conversion, refund_delays, strict=True)
    ]
    return Pretraining(make_log([0] * len(conversion), conversion, refund), SPLIT)


PAYS = of_hand([None, 0, W - 1, W, W + 1, A - 1, A], [None] * 7)
REFUNDS = of_hand([None, 5, 5, 5, 5, 5, A, 5], [None, None, W - 1, W, W + 1, A, 5, A - 1])


@pytest.mark.parametrize(
    ("made", "model", "rows", "positive", "in_window", "delayed"),
    [
        # Event in the attribution window; before, at (neither) and after the end of observation.
        *(
            (PAYS, model, [0, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5], [1, 2], [4, 5])
            for model in ("pay", "tn_dp")
        ),
        (PAYS, "pay_late", [1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 2], [4, 5]),
        (REFUNDS, "refund", [1, 2, 3, 4, 5, 7], [2, 3, 4, 7], [2], [4, 7]),
        (REFUNDS, "refund_late", [2, 3, 4, 7], [2, 3, 4, 7], [2], [4, 7]),
    ],
)
def test_labels_of_delay_models_by_hand(made, model, rows, positive, in_window, delayed):
    found = made._delay_labels(model, Windows())
    assert found[0].tolist() == rows
    assert [np.flatnonzero(label).tolist() for label in found[1:]] == [positive, in_window, delayed]


@pytest.mark.parametrize("model", MODELS)
def test_observation_as_long_as_attribution_leaves_no_late_event(model):
    log = random_log(2_000, 7, p_v=0.5, p_r=0.5, span=2 * DAY, late=0.1)
    made = Pretraining(log, SPLIT)
    rows, positive, in_window, delayed = made._delay_labels(model, Windows(A, A, A, A))
    assert not delayed.any()
    np.testing.assert_array_equal(in_window, positive)
    assert positive[rows].any()
    late = made._delay_labels(model, Windows())[3]
    assert late.any()


def test_labels_of_one_day_cut_at_the_day():
    made = of_hand([DAY - 1, DAY], [None, None])
    windows = NetCVRConfig(delay_attribution=DAY).attributed(DAY)
    assert windows == Windows(DAY, DAY, W, W)
    assert made._delay_labels("pay_late", windows)[0].tolist() == [0]
    assert NetCVRConfig().attributed(None) == Windows()


def test_networks_learn_the_rates_of_their_events():
    # Ids say nothing: all that can be learned are the chances, those of `random_log`.
    p_v, f_v, p_r, f_r = 0.4, 0.27, 0.5, 0.545
    log = random_log(6_000, 3, p_v=p_v, p_r=p_r, f_v=f_v, f_r=f_r, span=2 * DAY)
    ids = np.random.default_rng(4).integers(0, 8, (6_000, 2), np.int32)
    made = Pretraining(log._replace(features=ids, cardinalities=(8, 8)), SPLIT)
    ids = made.fields.encode(ids)
    truth = {
        "pay_late": [1 - f_v],
        "refund_late": [1 - f_r],
        "pay": [p_v * f_v, (1 - p_v) / (1 - p_v * f_v)],
        "refund": [p_r * f_r, (1 - p_r) / (1 - p_r * f_r)],
        "tn_dp": [(1 - p_v) / (1 - p_v * f_v), p_v * (1 - f_v)],
    }
    for model, expected in truth.items():
        net = made.delays(model, CONFIG)
        assert probabilities(net, net, ids).mean(0).tolist() == pytest.approx(expected, abs=0.05)
    for head, second in (("cascade", p_r), ("direct", p_v * (1 - p_r))):
        net = made.main(CONFIG.model_copy(update={"head": head}))
        both = probabilities(net, lambda ids, net=net: torch.stack(net(ids), 1), ids)
        assert both.mean(0).tolist() == pytest.approx([p_v, second], abs=0.05)


# --- steps and statistics ----------------------------------------------------------------------
def steps(made, count, config, *, settling):
    """Sizes and learning rates of the batches of an epoch; the network has one weight."""
    net, found, rows = nn.Linear(1, 1), [], []
    for part, optimiser in made._epoch(net, count, config, settling=settling):
        found.append((len(part), optimiser.param_groups[0]["lr"]))
        rows += part.tolist()
    assert len(set(rows)) == len(rows)
    return found


@pytest.mark.parametrize(
    ("count", "batch_size", "settled", "plain"),
    [
        (640, 64, [32] * 20, [64] * 10),
        (640, 16, [16] * 40, [16] * 40),  # settings may ask for less than 32
        (12_800, 256, [128] * 100, [256] * 50),
        (51_200, 256, [256] * 200, [256] * 200),
        (20, 64, [20], [20]),
        (1, 64, [], []),  # a lone row is left out
    ],
)
def test_steps_of_an_epoch(history, count, batch_size, settled, plain):
    made, config = Pretraining(history, SPLIT), NetCVRConfig(batch_size=batch_size)
    found = steps(made, count, config, settling=False)
    assert found == [(size, config.pretrain_learning_rate) for size in plain]
    found = steps(made, count, config, settling=True)
    assert [size for size, _ in found] == settled
    falling = config.pretrain_learning_rate * (1 - np.arange(len(settled)) / max(len(settled), 1))
    assert [rate for _, rate in found] == pytest.approx(falling.tolist())


@pytest.mark.parametrize(
    ("name", "quirks", "settling"),
    [
        ("main", False, False),
        ("main", True, False),
        ("tn_dp", False, True),
        ("tn_dp", True, False),
    ],
)
def test_delay_models_settle_but_for_the_published_code(
    history, name, quirks, settling, monkeypatch
):
    made, settled, asked = Pretraining(history, SPLIT), [], []
    plain = made._epoch

    def epoch(*arguments, settling):
        asked.append(settling)
        return plain(*arguments, settling=settling)

    monkeypatch.setattr(made, "_epoch", epoch)
    monkeypatch.setattr(pretraining, "settle", lambda net, ids: settled.append(len(ids)))
    config = NetCVRConfig(**SIZES, official_quirks=quirks)
    _ = made.main(config) if name == "main" else made.delays(name, config)
    assert asked == [settling]
    assert settled == [made._rows.stop] * settling


def by_hand(net, ids):
    """Statistics of the batch normalisations of a `TowerNet`, layer by layer, in float64."""
    values, found = net.table.detach().double()[ids].flatten(1).numpy(), []
    for layer in net.tower:
        if isinstance(layer, nn.Linear):
            weight, bias = (each.detach().double().numpy() for each in (layer.weight, layer.bias))
            values = values @ weight.T + bias
        elif isinstance(layer, nn.BatchNorm1d):
            found.append((values.mean(0), values.var(0, ddof=1)))
            values = (values - values.mean(0)) / np.sqrt(values.var(0) + layer.eps)
            values = values * layer.weight.detach().numpy() + layer.bias.detach().numpy()
        else:
            values = np.where(values > 0, values, layer.negative_slope * values)
    return found


@pytest.mark.parametrize("rows", [40, 100, 20, 13])
def test_settled_statistics_are_those_of_all_rows(rows):
    rng, config = np.random.default_rng(0), NetCVRConfig(embedding_dim=3, widths=(4, 3))
    fields = Fields((5, 7))
    net = new_delay_net(fields, "tn_dp", config, 0)
    ids = fields.encode(rng.integers(0, (5, 7), (40, 2)))
    with torch.no_grad():
        net.tower[1].weight.copy_(torch.tensor([1.0, 2.0, 0.5, -1.0]))
        net(ids[:9])  # statistics of something else
    net.eval()
    before = {name: value.clone() for name, value in net.named_parameters()}
    settle(net, ids, rows)
    norms = [module for module in net.tower if isinstance(module, nn.BatchNorm1d)]
    parts = [by_hand(net, ids[part]) for part in batches(40, min(rows, 40))]
    assert len(parts) == max(round(40 / rows), 1)
    for layer, norm in enumerate(norms):
        mean, variance = (np.mean([part[layer][k] for part in parts], 0) for k in (0, 1))
        np.testing.assert_allclose(norm.running_mean, mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(norm.running_var, variance, rtol=1e-5)
        assert norm.momentum == config.sizes.momentum
    assert all(torch.equal(before[name], value) for name, value in net.named_parameters())


def test_a_settled_network_is_calibrated_on_its_rows_as_in_training():
    # One batch: in eval mode the network gives what it gave in train mode, but for n / (n - 1).
    config, fields = NetCVRConfig(embedding_dim=3, widths=(4, 3)), Fields((5, 7))
    net = new_delay_net(fields, "pay", config, 0)
    ids = fields.encode(np.random.default_rng(0).integers(0, (5, 7), (2_000, 2)))
    settle(net, ids)
    with torch.no_grad():
        torch.testing.assert_close(net.train()(ids), net.eval()(ids), rtol=2e-3, atol=2e-3)


def test_delay_models_are_calibrated_on_the_rows_they_were_trained_on():
    more = {"time.num_ticks": 20, "traffic.impressions_per_tick": 600}
    world = load("default", SMALL_WORLD | more | {"traffic.slots_per_tick": 2_048}).world
    made = Pretraining(generate(world, 0), SPLIT)
    config = NetCVRConfig(embedding_dim=4, widths=(64, 32), batch_size=64)
    for model in MODELS:
        rows, positive, in_window, delayed = made._delay_labels(model, Windows())
        net, none = made.delays(model, config), ~positive | delayed  # none in the window
        found = probabilities(net, net, made._ids[rows]).numpy()
        first = (in_window if model in ("pay", "refund") else delayed)[rows].mean()
        second = (~positive)[rows][none[rows]].mean()
        if model.endswith("late"):
            calibrated = [(found[:, 0].mean(), first)]
        else:
            event, negative = (0, 1) if model in ("pay", "refund") else (1, 0)
            negatives = found[none[rows], negative].mean()
            calibrated = [(found[:, event].mean(), first), (negatives, second)]
        # Labels of n rows alone have a standard deviation of at most .5 / sqrt(n): .027 to .01.
        for mean, share in calibrated:
            assert mean == pytest.approx(share, abs=0.03 if rows.size > 1_000 else 0.06)


# --- what is known -----------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["main", *MODELS])
def test_the_stream_does_not_reach_the_pretraining(history, name):
    later = small_log()
    assert later.click_time.size > history.click_time.size
    assert same(trained(history, name), trained(later, name))


def test_labels_must_be_final_when_the_stream_starts(history):
    split = Split(pretrain_days=2.5, stream_start_day=8, stream_end_day=9, segment_days=1)
    with pytest.raises(ValueError, match=r"stream_start_day - pretrain_days must be >= 6.0"):
        trained(history, "main", split=split)
    with pytest.raises(ValueError, match=r"stream_start_day - pretrain_days must be >= 6.0"):
        trained(history, "pay", NetCVRConfig(**SIZES, pretrain_attribution=DAY), split)
    trained(history, "main", NetCVRConfig(**SIZES, pretrain_attribution=DAY), split)
    trained(history, "pay", NetCVRConfig(**SIZES, delay_attribution=DAY), split)


def test_a_history_needs_clicks_to_train_on():
    late = make_log([3 * DAY], [MISSING], [MISSING])
    for log in (late, make_log([], [], [])):
        with pytest.raises(ValueError, match="history must have clicks before day 2"):
            Pretraining(log, SPLIT)


@pytest.mark.parametrize("model", ["pay_late", "refund_late", "refund"])
def test_models_of_events_need_events(model):
    made = of_hand([None, None, None], [None, None, None])
    with pytest.raises(ValueError, match=f"history must have events .* {model!r}"):
        made.delays(model, CONFIG)
    for name in ("pay", "tn_dp"):
        made.delays(name, CONFIG)
    made.main(CONFIG)


def test_a_lone_row_is_left_out():
    made = of_hand([None], [None])
    untrained = state_arrays(new_towers(made.fields, CONFIG, 0))
    assert same(state_arrays(made.main(CONFIG)), untrained)
