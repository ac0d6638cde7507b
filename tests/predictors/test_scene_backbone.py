"""TESLA's and READER's networks on MI-DPG's layers."""

from functools import partial

import numpy as np
import pytest
import small_gmv
import small_predictors
import torch
from pydantic import ValidationError
from small_predictors import differing, impressions, state
from torch import nn

from predictors import PREDICTORS, load_predictor
from predictors.gmv_nets import Amounts, Router
from predictors.gmv_pretraining import GmvConfig, GmvPretraining
from predictors.mi_dpg import InformationConfig, MiDpgConfig
from predictors.nets import Fields, Sizes, TwoTowers, adam, bce
from predictors.pretraining import NetCVRConfig, Pretraining
from predictors.scene_backbone import BackboneConfig, SceneLinear, with_backbone
from predictors.training import descend, seeded

CARDINALITIES, SCENE = (6, 5, 3, 4), 2
OTHERS = Fields((6, 5, 4))
S = 3
SIZES = Sizes(2, 1.0, (6, 4), 0.1)
NETS = ("towers", "shared_towers", "amounts", "independent", "router")
MAKE = {
    "towers": lambda b: TwoTowers(b.fields, SIZES, "hybrid", detach_refund=False, backbone=b),
    "shared_towers": lambda b: TwoTowers(b.fields, SIZES, "shared", detach_refund=True, backbone=b),
    "amounts": lambda b: Amounts(
        b.fields, (2, 1.0), ((6,), (5, 4)), 2, head="absolute", backbone=b
    ),
    "independent": lambda b: Amounts(
        b.fields, (2, 1.0), ((6,), (4,)), 2, head="log", independent=True, backbone=b
    ),
    "router": lambda b: Router(b.fields, (2, 1.0), (6, 4), b),
}


def fields(scenes=S):
    return Fields((6, 5, scenes, 4))


def build(kind, scenes=S, *, information=0.05, **weighting):
    """A network whose weightings, and biases per scene, are far from neutral."""
    config = BackboneConfig(
        backbone="mi_dpg",
        scene_field=SCENE,
        weighting=MiDpgConfig(head_sd=0.3, **weighting),
        information=InformationConfig(weight=information, warm_up_steps=2),
    )
    net = seeded(0, lambda: with_backbone(fields(scenes), config, MAKE[kind]))
    generator = torch.Generator().manual_seed(0)
    for layer in layers(net):
        if layer.bias is not None:
            with torch.no_grad():
                layer.bias.normal_(0, 0.5, generator=generator)
    return net


def layers(net):
    return [layer for layer in net.modules() if isinstance(layer, SceneLinear)]


def some(count, scenes=S, seed=0):
    """Rows (count, 4), every scene among them."""
    rng = np.random.default_rng(seed)
    ids = np.stack([rng.integers(0, size, count) for size in fields(scenes).cardinalities], 1)
    ids[:, SCENE] = rng.permutation(np.arange(count) % scenes)
    return fields(scenes).encode(ids)


def outputs(net, ids):
    """All outputs (B, .)."""
    found = net(ids)
    if isinstance(found, tuple):
        return torch.stack(found, 1)
    return found if found.dim() == 2 else found.unsqueeze(1)


def folded(net, kind, place):
    """A plain network without scenes that equals the network in one of them."""
    plain = with_backbone(OTHERS, BackboneConfig(), MAKE[kind]).to(torch.float64).eval()
    backbone = net.backbone
    known = backbone.scenes.known()
    hidden = backbone.auxiliary(backbone.scenes.rows(backbone.scene))[place : place + 1]
    with torch.no_grad():
        for to, layer in zip(
            (m for m in plain.modules() if isinstance(m, nn.Linear)), layers(net), strict=True
        ):
            (factors,) = layer.weighted.weighting(layer.weighted.code(hidden))
            to.weight.copy_(layer.weighted.linear.weight * factors.T)
            to.bias.copy_(layer.weighted.linear.bias)
            if layer.bias is not None:
                own = layer.bias[known].mean(0) if place == S else layer.bias[place]
                to.bias.add_(own)
    state = net.state_dict()
    for name, weights in plain.state_dict().items():
        if name.split(".")[-1] in {"table", "private_cvr", "private_refund", "shared", "slope"}:
            weights.copy_(state[name])
    for norm in (m for m in plain.modules() if isinstance(m, nn.BatchNorm1d)):
        norm.eps = 0.0  # with its first statistics, 0 and 1, it changes nothing
    return plain


# --- the layers --------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("core", ["full", "diagonal"])
@pytest.mark.parametrize("gate", ["residual", "sigmoid"])
def test_a_network_of_one_scene_is_a_plain_one_of_folded_weights(kind, core, gate):
    net = build(kind, 1, core=core, gate=gate, layer_biases=core == "full").double()
    ids = some(9, 1)
    plain = OTHERS.encode(np.delete(raw(ids, 1), SCENE, 1))
    expected = outputs(folded(net, kind, 0), plain)
    torch.testing.assert_close(outputs(net, ids), expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 1e-3


def raw(ids, scenes=S):
    """Ids (B, F) of rows of embeddings."""
    sizes = np.array(fields(scenes).cardinalities) + 1
    return ids.numpy() - (np.cumsum(sizes) - sizes)


@pytest.mark.parametrize("kind", NETS)
def test_rows_of_every_scene_get_its_weights_with_and_without_gradient(kind):
    net, ids = build(kind).double(), some(41)
    outputs(net, ids[raw(ids)[:, SCENE] != 1])  # scene 1 has not been trained on
    net.eval()
    ids = torch.cat([ids, fields().encode(np.array([[1, 2, S, 3], [0, 0, -5, 0]]))])
    scene = np.r_[raw(ids)[:-2, SCENE], S, S]
    scene[scene == 1] = S
    others = OTHERS.encode(np.delete(raw(ids), SCENE, 1))
    with torch.no_grad():
        expected = torch.empty_like(outputs(net, ids))
        for place in (0, 2, S):
            rows = torch.from_numpy(scene == place)
            expected[rows] = outputs(folded(net, kind, place), others[rows])
        assert net.backbone.split(ids)[1].groups is not None  # weights are folded
        torch.testing.assert_close(outputs(net, ids), expected, rtol=1e-10, atol=1e-10)
        few = ids[[0, 3, 42]]  # fewer rows than make it worth while
        assert net.backbone.split(few)[1].groups is None
        torch.testing.assert_close(outputs(net, few), expected[[0, 3, 42]], rtol=1e-9, atol=1e-9)
        assert outputs(net, ids[:0]).shape == (0, expected.shape[1])
    torch.testing.assert_close(outputs(net, ids), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("method", ["cvr_logit", "refund_logit"])
def test_single_towers_are_those_of_both(method):
    net, ids = build("towers").eval(), some(30)
    one = getattr(net, method)(ids)
    torch.testing.assert_close(one, net(ids)[method == "refund_logit"])


@pytest.mark.parametrize("kind", NETS)
def test_training_reaches_every_parameter_and_only_it_makes_scenes_known(kind):
    net, ids = build(kind), some(60)
    with torch.no_grad():
        outputs(net, ids)  # in training mode, as a predictor's network is between windows
    net.eval()
    outputs(net, ids)
    assert not net.backbone.scenes.seen.any()
    net.train()
    before = {name: weights.clone() for name, weights in net.named_parameters()}
    optimiser, draws = adam(net.parameters(), 0.01), torch.Generator().manual_seed(0)
    label = torch.arange(60.0)[:, None] % 2
    for _ in range(3):
        found = outputs(net, ids)
        loss = bce(found, label, torch.ones_like(found))
        descend(optimiser, net.backbone.objective(loss, draws))
    assert net.backbone.scenes.seen.all()
    fixed = {name for name, weights in net.named_parameters() if weights.equal(before[name])}
    assert fixed == set()


def test_an_unseen_scene_is_answered_for_before_and_after_training():
    net = build("towers")
    strange = fields().encode(np.array([[1, 2, 99, 3]]))
    for _ in range(2):
        net.eval()
        assert torch.isfinite(outputs(net, strange)).all()
        net.train()
        outputs(net, some(9))


# --- the mutual information --------------------------------------------------------------------
def test_the_term_rises_with_training_steps_as_mi_dpgs():
    net, draws = build("amounts", information=0.5), torch.Generator().manual_seed(3)
    backbone, loss = net.backbone, torch.tensor(2.0)
    outputs(net, some(9)[[0, 1, 2]])
    for weight in (0.0, 0.25, 0.5, 0.5):  # warm-up of two steps
        same = torch.Generator()
        same.set_state(draws.get_state())
        known = backbone.scenes.known()
        code = torch.cat(
            [
                layer.weighted.code(backbone.auxiliary(backbone.scenes.rows(backbone.scene)))
                for layer in layers(net)
            ],
            dim=1,
        )[:S]
        bound = backbone.bound(code, backbone.scene, same, known / known.sum())
        torch.testing.assert_close(backbone.objective(loss, draws), loss - weight * bound)
    assert int(backbone.steps) == 4
    none = build("amounts", information=0.0).backbone
    assert none.bound is None
    assert none.objective(loss, draws) is loss


def test_initial_weights_do_not_depend_on_whether_there_is_the_term():
    one, other = (build("towers", information=w).state_dict() for w in (0.0, 1.0))
    assert all(other[name].equal(weights) for name, weights in one.items())


# --- settings ----------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["tesla", "reader"])
def test_wrong_settings_are_refused(name):
    cls = PREDICTORS[name]
    with pytest.raises(ValidationError, match="backbone must be 'plain' with official_quirks"):
        cls.config_class(backbone="mi_dpg", official_quirks=True)
    with pytest.raises(ValidationError, match="'plain' or 'mi_dpg'"):
        cls.config_class(backbone="star")
    config = cls.config_class(backbone="mi_dpg", scene_field=4)
    with pytest.raises(ValueError, match=r"scene_field must be in \[0, 4\)"):
        cls(CARDINALITIES, config)
    cls(CARDINALITIES, cls.config_class(scene_field=4))  # plain layers do not need it


@pytest.mark.parametrize("name", ["miss", "dfsn"])
def test_methods_with_towers_of_their_own_have_plain_layers_only(name):
    with pytest.raises(ValueError, match="backbone"):
        PREDICTORS[name](CARDINALITIES, NetCVRConfig(backbone="mi_dpg"))


def test_parameters_are_counted():
    settings = {"scene_field": SCENE, "embedding_dim": 2}
    netcvr = partial(PREDICTORS["tesla"], CARDINALITIES)
    make = PREDICTORS["tesla"].config_class
    # 18 + 4 rows of 4 fields with their unknown ids, 3 sets of 2 columns; towers 16-4-1 with
    # normalisations: 68 + 8 + 5 each.
    plain = netcvr(make(widths=(4,), **settings)).num_parameters
    assert plain == (3 * 22 * 2 + 2 * 81, 3 * 22 * 2, 6)
    # Without the scene 18 rows, towers 12-4-1: 52 + 5. Scenes: 3 x 8; auxiliary: 8-32. Layers:
    # factors (12 + 4) r and (4 + 1) r at r = 4, heads (32 + 1) r^2; biases of 3 scenes. For one
    # more scene: 8 and 2 biases.
    found = netcvr(make(widths=(4,), backbone="mi_dpg", **settings)).num_parameters
    towers = 2 * (57 + 4 * 21 + 2 * 33 * 16 + 3)
    assert found == (3 * 18 * 2 + towers + 24 + 288, 3 * 18 * 2, 10)
    predictor = small_gmv.new_predictor("reader", CARDINALITIES, **settings)
    weights = [predictor_net.parameters() for predictor_net in gmv_nets(predictor)]
    assert predictor.num_parameters.total == sum(w.numel() for each in weights for w in each)


def gmv_nets(predictor):
    untrained = predictor.untrained_class(predictor.fields, 0)
    return untrained.amounts(predictor.config, 2), untrained.router(predictor.config)


def test_networks_are_kept_apart_by_their_backbone(tmp_path):
    log = small_predictors.small_log()
    pretraining = Pretraining(log, small_predictors.SPLIT, cache=tmp_path)
    small = NetCVRConfig(**small_predictors.SIZES)
    more = [
        {"backbone": "mi_dpg"},
        {"backbone": "mi_dpg", "scene_field": 3},
        {"backbone": "mi_dpg", "weighting": MiDpgConfig(rank=2)},
        {"backbone": "mi_dpg", "information": InformationConfig(weight=0)},
        {},
    ]
    for settings in more:
        pretraining.main(small.model_copy(update=settings))
    assert len(list(tmp_path.glob("main_*.npz"))) == 5
    # Of plain layers no other setting matters: not to the network, nor to its name.
    pretraining.main(small.model_copy(update={"scene_field": 3}))
    pretraining.delays("pay_late", small)
    pretraining.delays("pay_late", small.model_copy(update=more[0]))
    names = {file.stem for file in tmp_path.glob("*.npz")}
    assert len(names) == 6
    assert names >= {"main_20bbeb18d097f4f4", "pay_late_9d50b70558c857b6"}
    again = Pretraining(log, small_predictors.SPLIT, cache=tmp_path)
    for settings in more:
        config = small.model_copy(update=settings)
        one, other = (each.main(config).state_dict() for each in (pretraining, again))
        assert all(one[key].equal(other[key]) for key in one)


def test_gmv_networks_are_kept_apart_by_their_backbone():
    config = GmvConfig(**small_gmv.SIZES)
    pretraining = GmvPretraining(small_gmv.stream().history(), small_gmv.SPLIT)
    modulated = config.model_copy(update={"backbone": "mi_dpg", "scene_field": 2})
    for each in (config, modulated):
        for net in (pretraining.amounts(each, 2), pretraining.router(each)):
            assert bool(layers(net)) == (each is modulated)
        assert not layers(pretraining.calibrator(each))
    assert sorted(name.rsplit("_", 1)[0] for name in pretraining._made) == [
        *["amounts_2"] * 2,
        "calibrator",
        *["router"] * 2,
    ]


# --- predictors --------------------------------------------------------------------------------
KINDS = {
    "tesla": (small_predictors, {"backbone": "mi_dpg"}),
    "reader": (small_gmv, {"backbone": "mi_dpg", "scene_field": 2}),
}
BOTH = pytest.mark.parametrize("name", sorted(KINDS))


def played(predictor, windows):
    """Trains on windows; all estimates after each."""
    support, _ = KINDS[predictor.name]
    plays, held, found = support.stream(), support.some_ids(), []
    for k in windows:
        predictor.partial_fit(plays.window(k))
        found.append([each.mean for each in predictor.predict(held).values()])
    return found


@BOTH
def test_a_saved_predictor_goes_on_as_if_not_interrupted(name, tmp_path):
    support, settings = KINDS[name]
    whole, broken = (support.fitted(name, **settings) for _ in range(2))
    expected = played(whole, range(4))
    found = played(broken, range(2))
    broken.save(tmp_path / "kept.npz")
    broken = load_predictor(tmp_path / "kept.npz")
    found += played(broken, range(2, 4))
    np.testing.assert_array_equal(found, expected)
    assert broken.losses == whole.losses
    assert len(whole.losses) > 0
    assert differing(state(broken, tmp_path), state(whole, tmp_path)) == set()
    assert whole.nets["main"].backbone.steps > len(whole.losses)  # and those before the stream


@BOTH
def test_estimates_are_those_of_the_scene_and_do_not_change_the_predictor(name, tmp_path):
    support, settings = KINDS[name]
    predictor = support.fitted(name, **settings)
    predictor.nets["main"].backbone.scenes.seen[0] = False
    before = state(predictor, tmp_path)
    features = support.small_log().features[:60].copy()
    place = settings.get("scene_field", 14)
    found = {}
    for scene in (0, 1, 2, 1_000, -1):
        features[:, place] = scene
        estimates = predictor.predict(impressions(features))
        found[scene] = np.stack([each.mean for each in estimates.values()])
        assert np.isfinite(found[scene]).all()
    assert differing(state(predictor, tmp_path), before) == set()
    assert np.abs(found[1] - found[2]).max() > 1e-4
    np.testing.assert_array_equal(found[1_000], found[-1])
    if name == "tesla":  # READER's router has a memory of scenes of its own
        np.testing.assert_allclose(found[0], found[-1], rtol=1e-5)
    nothing = predictor.predict(impressions(features[:0]))
    assert all(each.mean.shape == (0,) for each in nothing.values())


def test_a_frozen_encoder_stays_what_it_is():
    predictor = small_gmv.fitted("reader", bottom="frozen", **KINDS["reader"][1])
    main, ids = predictor.main, predictor.fields.encode(small_gmv.small_log().features[:50])

    def hidden():
        with torch.no_grad():
            others, rows = main.backbone.split(ids)
            return main.encoders[0](others, rows)

    before, output = hidden(), main(ids)
    played(predictor, range(3))
    torch.testing.assert_close(hidden(), before, rtol=0, atol=0)
    assert not main(ids).allclose(output)


# Before there were other layers than plain ones.
GOLDEN = {
    "tesla": (
        [0.8926089, 0.8142442, 0.7169384],
        [
            [0.5116007, 0.4851403, 0.4937184],
            [0.3603345, 0.3695166, 0.3601075],
            [0.3272533, 0.3058729, 0.3159268],
        ],
    ),
    "reader": ([0.7966763, 0.8909166, 0.8346916], [[119.8209, 120.6074, 120.5158]]),
}


@BOTH
def test_plain_layers_are_what_they_were(name):
    support, _ = KINDS[name]
    predictor = support.fitted(name)
    *_, last = played(predictor, range(3))
    losses, means = GOLDEN[name]
    np.testing.assert_allclose(predictor.losses[:3], losses, rtol=2e-5)
    np.testing.assert_allclose(np.array(last)[:, :3], means, rtol=2e-5)
