"""TESLA's and READER's networks on MI-DPG's layers."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from small_scenes import trained_on
from torch import nn

from predictors.gmv_nets import Amounts, Router
from predictors.mi_dpg import InformationConfig, MiDpgConfig
from predictors.nets import Fields, Sizes, TwoTowers, adam, bce
from predictors.scene_backbone import BackboneConfig, SceneLinear, with_backbone
from predictors.scene_nets import LEAST_ROWS
from predictors.training import descend, seeded

SCENE = 2
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
                own = layer.bias[known.pooled].mean(0) if place == S else layer.bias[place]
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
    trained_on(net.backbone.scenes, LEAST_ROWS, LEAST_ROWS - 1, 300)  # too few of scene 1
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


@pytest.mark.parametrize("kind", NETS)
def test_a_scene_of_few_rows_answers_for_itself_in_training_only(kind):
    net, ids = build(kind), some(41)[:7]
    few = torch.from_numpy(raw(ids)[:, SCENE] == 1)
    known = trained_on(net.backbone.scenes, 100, 90, 0).train().known()
    assert known.own.tolist() == known.pooled.tolist() == [True, True, False]
    strange = raw(ids)
    strange[:, SCENE] = S
    strange = fields().encode(strange)
    with torch.no_grad():  # in training mode, as a predictor's network is between windows
        found = outputs(net, ids)
        torch.testing.assert_close(found[few], outputs(net, strange)[few])
    torch.testing.assert_close(outputs(net.eval(), ids), found)
    own = outputs(net.train(), ids)
    assert (own - found)[few].abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["towers", "amounts"])
def test_folded_weights_are_made_anew_when_anything_they_depend_on_has_changed(kind):
    net, ids = build(kind, layer_biases=True), some(60)
    optimiser, before = adam(net.parameters(), 0.1), deepcopy(net.state_dict())

    def check(net):
        with torch.no_grad():
            found = outputs(net, ids)
        torch.testing.assert_close(found, outputs(net.eval(), ids), rtol=1e-4, atol=1e-5)
        return found

    def train(net):
        descend(optimiser, outputs(net.train(), ids[:2]).square().mean())  # not all scenes
        return check(net)

    found = [check(net), train(net), train(net)]
    copy = deepcopy(net)
    assert check(copy).equal(found[-1])
    net.load_state_dict(before)
    found.append(check(net))
    assert found[-1].equal(found[0])
    with torch.no_grad():
        for weights in copy.parameters():  # one by one
            weights.mul_(0.9)
            check(copy)
    assert not found[1].allclose(found[0])
    assert not found[2].allclose(found[1])


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
    assert not net.backbone.scenes.trained.any()
    net.train()
    before = {name: weights.clone() for name, weights in net.named_parameters()}
    optimiser, draws = adam(net.parameters(), 0.01), torch.Generator().manual_seed(0)
    label = torch.arange(60.0)[:, None] % 2
    for _ in range(3):
        found = outputs(net, ids)
        loss = bce(found, label, torch.ones_like(found))
        descend(optimiser, net.backbone.objective(loss, draws))
    assert net.backbone.scenes.trained.tolist() == [60] * S  # three times 20 rows
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
        bound = backbone.bound(code, backbone.scene, same, known.pooled / known.pooled.sum())
        torch.testing.assert_close(backbone.objective(loss, draws), loss - weight * bound)
    assert int(backbone.steps) == 4
    none = build("amounts", information=0.0).backbone
    assert none.bound is None
    assert none.objective(loss, draws) is loss


def test_initial_weights_do_not_depend_on_whether_there_is_the_term():
    one, other = (build("towers", information=w).state_dict() for w in (0.0, 1.0))
    assert all(other[name].equal(weights) for name, weights in one.items())
