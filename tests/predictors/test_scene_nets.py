"""Networks for several scenes: interface, what is shared, parameter counts, scenes never seen."""

from itertools import pairwise

import pytest
import torch
from small_scenes import BY_EMBEDDING, FIELDS, NAMES, S, build, random_scenes, some, trained_on
from torch import tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from predictors.mi_dpg import (
    MiDpg,
    MiDpgConfig,
)
from predictors.nets import adam, frozen, load_state, state_arrays
from predictors.scene_nets import LEAST_ROWS, Known, count_parameters, grouped, with_mean
from predictors.scene_peers import SCENE_NETS
from predictors.training import descend


# --- every network -----------------------------------------------------------------------------
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_logits_have_one_row_per_impression(name, outputs):
    net, (ids, scene) = build(name, outputs=outputs), some(10)
    for mode in (True, False):
        found = net.train(mode)(ids, scene.int())
        assert found.shape == (10, outputs)
        assert torch.isfinite(found).all()
        assert net(ids[:0], scene[:0]).shape == (0, outputs)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_does_not_depend_on_its_batch(name):
    net, (ids, scene) = random_scenes(build(name)), some(12)
    net(ids, scene)
    trained_on(net).eval()
    alone = torch.cat([net(ids[i : i + 1], scene[i : i + 1]) for i in range(12)])
    torch.testing.assert_close(net(ids, scene), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_scenes_of_another_shape_or_type_are_rejected(name):
    net, (ids, scene) = build(name), some(6)
    for bad in (scene[:5], scene[:, None], scene.float()):
        with pytest.raises(ValueError, match=r"scene must be integers of shape \(6,\), got"):
            net(ids, bad)


@pytest.mark.parametrize(("scenes", "outputs", "bad"), [(0, 1, "num_scenes"), (2, 0, "outputs")])
def test_networks_without_scenes_or_outputs_are_rejected(scenes, outputs, bad):
    with pytest.raises(ValueError, match=f"{bad} must be >= 1, got 0"):
        build("mi_dpg", scenes, outputs=outputs)


@pytest.mark.parametrize("name", NAMES)
def test_all_parameters_learn_when_all_scenes_are_in_the_batch(name):
    net, (ids, scene) = random_scenes(build(name)), some(200)
    net(ids, scene).square().sum().backward()
    idle = [key for key, weight in net.named_parameters() if not weight.grad.any()]
    assert idle == []


@pytest.mark.parametrize("name", NAMES)
def test_a_scene_trains_no_parameters_of_other_scenes(name):
    net = random_scenes(build(name))
    ids, scene = some(30)
    net(ids, scene).square().sum().backward()
    own = {"scene", "bias", "biases", "weights", "nets", "towers", "gates", "own", "scales"}
    net.zero_grad()
    net(ids, torch.zeros_like(scene)).square().sum().backward()
    for key, weight in net.named_parameters():
        parts = key.split(".")
        if name == "pepnet" and parts[0] == "gates":
            continue  # shared
        stacked = weight.shape[0] == S and parts[-1] in own | {parts[0]}
        if parts[0] in own and stacked:
            assert not weight.grad[1:].any(), key
        listed = [
            int(after) for at, after in pairwise(parts) if at in {"nets", "towers", "gates", "own"}
        ]
        if listed and listed[0] > 0 and name != "ple":
            assert weight.grad is None or not weight.grad.any(), key


@pytest.mark.parametrize("name", NAMES)
def test_rare_scenes_train_what_is_shared(name):
    if name == "one_per_scene":
        pytest.skip("shares nothing")
    net, (ids, _) = random_scenes(build(name)), some(8)
    net(ids, torch.full((8,), 1)).sum().backward()
    assert net.table.grad.any()


@pytest.mark.parametrize("name", NAMES)
def test_permuted_scenes_permute_the_outputs(name):
    net, (ids, scene) = random_scenes(build(name)), some(12)
    net(ids, scene)
    trained_on(net, 200, 300, 100)
    expected, order = net.eval()(ids, scene), [2, 0, 1]  # new scene i is the old order[i]
    other, state = build(name, seed=1).eval(), net.state_dict()
    for key, value in net.state_dict().items():
        parts = key.split(".")
        listed = name != "pepnet" and any(
            at in {"nets", "towers", "gates", "own"} for at in parts[:-1]
        )
        stacked = parts[0] in {"scene", "bias", "biases", "weights", "layer_biases", "trained"}
        stacked |= key in {"norm.scales", "norm.shifts", "norm.mean", "norm.var"}
        if stacked:
            state[key] = value[order]
        elif listed:
            at = next(i for i, p in enumerate(parts) if p in {"nets", "towers", "gates", "own"}) + 1
            parts[at] = str(order[int(parts[at])])
            state[key] = net.state_dict()[".".join(parts)]
        elif key == "levels.0.gate.weight":  # one expert a scene, then two shared ones
            state[key] = value[[*order, 3, 4]]
    other.load_state_dict(state)
    new = tensor([order.index(s) for s in scene.tolist()])
    torch.testing.assert_close(other(ids, new), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_networks_learn_a_scene_that_contradicts_another(name):
    # Label: whether field 3 is 1 in scenes 0 and 2, whether it is 0 in scene 1.
    net, (ids, scene) = build(name), some(240)
    field = ids[:, 3] - FIELDS.unknown[2] - 1  # numbered from 0
    label = (field ^ (scene == 1).long()).float()
    optimiser = adam(net.parameters(), 0.02)
    for _ in range(150):
        loss = binary_cross_entropy_with_logits(net(ids, scene).squeeze(1), label)
        descend(optimiser, loss)
    knows = name != "shared_mlp"
    assert (loss.item() < 0.1) == knows


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_rows_of_scenes_survive_a_round_trip(name):
    net, (ids, scene) = random_scenes(build(name)), some(9, scenes=2)
    trained_on(net, 200, 99, 0)
    net(ids, scene)
    other = build(name, seed=1)
    load_state(other, state_arrays(net))
    assert other.trained.tolist() == [205, 103, 0]
    assert torch.equal(other.eval()(ids, scene + 1), net.eval()(ids, scene + 1))


# --- scenes never seen -------------------------------------------------------------------------
@pytest.mark.parametrize("name", NAMES)
def test_scenes_never_seen_are_alike_and_finite(name):
    # Scenes 0 and 1 are trained on. Scene 2 has parameters of its own, but no training.
    net, (ids, scene) = random_scenes(build(name)), some(20, scenes=2)
    net(ids, scene)
    trained_on(net, 100, 100, 0).eval()
    first, *others = [net(ids, torch.full((20,), s)) for s in (2, 3, -1, 10**9)]
    assert torch.isfinite(first).all()
    for other in others:
        assert torch.equal(other, first)


@pytest.mark.parametrize("name", BY_EMBEDDING)
def test_a_new_scene_has_the_mean_of_the_embeddings_and_biases_of_others(name):
    net, (ids, _) = random_scenes(build(name)), some(20)
    trained_on(net, 100, 300, 99)
    found = net.eval()(ids, torch.full((20,), 7))
    with torch.no_grad():
        net.scene[0] = net.scene[:2].mean(0)
        net.bias[0] = net.bias[:2].mean(0)
    trained_on(net, 100, 99, 0)
    torch.testing.assert_close(net(ids, torch.zeros(20, dtype=torch.int64)), found)


@pytest.mark.parametrize("name", ["shared_bottom", "mmoe", "ple", "one_per_scene"])
def test_a_new_scene_has_the_mean_of_the_logits_where_scenes_have_layers(name):
    net, (ids, _) = build(name), some(20)
    trained_on(net, 100, 300, 99).eval()
    each = [net(ids, torch.full((20,), s)) for s in (0, 1)]
    for new in (2, 5):
        found = net(ids, torch.full((20,), new))
        torch.testing.assert_close(found, (each[0] + each[1]) / 2)


@pytest.mark.parametrize(
    ("rows", "answers"),
    [
        # Logits of the scenes are 1, 2 and 6.
        ((0, 0, 0), [3, 3, 3, 3]),
        ((99, 0, 0), [1, 1, 1, 1]),
        ((99, 1, 0), [1.5, 1.5, 1.5, 1.5]),
        ((100, 0, 0), [1, 1, 1, 1]),
        ((100, 99, 0), [1, 1, 1, 1]),
        ((100, 99, 500), [1, 3.5, 6, 3.5]),
        ((100, 100, 100), [1, 2, 6, 3]),
    ],
)
@pytest.mark.parametrize("name", ["shared_bottom", "scene_input"])
def test_a_scene_answers_for_itself_from_its_hundredth_row_on(name, rows, answers):
    net, (ids, _) = build(name), some(1)
    with torch.no_grad():
        for weight in net.parameters():
            weight.zero_()
        for scene, logit in enumerate((1.0, 2.0, 6.0)):
            bias = net.towers[scene].layers[-1].bias if name == "shared_bottom" else net.bias[scene]
            bias.fill_(logit)
    trained_on(net, *rows).eval()
    found = [net(ids, tensor([scene])).item() for scene in range(4)]
    assert found == pytest.approx(answers)
    net.train()  # from its first row on, which is that of this very batch
    assert [net(ids, tensor([scene])).item() for scene in range(3)] == [1, 2, 6]


def test_only_rows_of_training_are_counted():
    net, (ids, _) = build("mi_dpg"), some(4)
    net.eval()(ids, tensor([0, 1, 2, 9]))
    assert not net.trained.any()
    net.train()(ids, tensor([0, 2, 9, -1]))
    net(ids, tensor([2, 2, 2, 3]))
    net(ids[:0], tensor([], dtype=torch.int64))
    assert net.trained.tolist() == [1, 0, 4]
    assert frozen(net).trained.tolist() == [1, 0, 4]


@pytest.mark.parametrize("name", NAMES)
def test_the_first_rows_of_a_new_scene_leave_its_estimate_where_it_was(name):
    net, (ids, scene) = random_scenes(build(name)), some(200, scenes=2)
    net(ids, scene)
    new = torch.full((200,), 2)
    before = net.eval()(ids, new)
    net.train()(ids[:1], new[:1])
    torch.testing.assert_close(net.eval()(ids, new), before, rtol=0, atol=0)
    net.train()(ids[: LEAST_ROWS - 1], new[: LEAST_ROWS - 1])
    assert net.trained.tolist() == [100, 100, 100]
    assert (net.eval()(ids, new) == before).all() == (name == "shared_mlp")


def test_means_of_what_is_known_by_hand():
    weight, mask = tensor([[2.0], [9.0], [4.0]]), tensor([True, False, True])
    assert with_mean(weight, Known(mask, mask)).tolist() == [[2], [3], [4], [3]]
    none = torch.zeros(3, dtype=torch.bool)
    assert with_mean(weight, Known(none, mask)).tolist() == [[3], [3], [3], [3]]


def test_grouped_rows_keep_their_order():
    place = tensor([2, 0, 2, 1, 0])
    found = grouped(place, lambda each, rows: 10 * each + rows.float())
    assert found.tolist() == [20, 1, 22, 13, 4]


# --- equality of scenes ------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mi_dpg", {"config": MiDpgConfig(head_sd=0)}),
        ("mi_dpg", {"config": MiDpgConfig(head_sd=0, gate="sigmoid")}),
        ("pepnet", {}),
        ("star", {"partitioned": False, "auxiliary": 0}),
    ],
)
def test_networks_start_as_the_shared_one(name, options):
    net, (ids, scene) = build(name, **options), some(12)
    plain = build("shared_mlp", seed=1)
    state = plain.state_dict()
    state["table"] = net.table.detach()
    for key in ("layers.0", "layers.1", "layers.2"):
        source = f"{key}.linear" if name == "mi_dpg" else f"mlp.{key}"
        for part in ("weight", "bias"):
            state[f"mlp.{key}.{part}"] = net.state_dict()[f"{source}.{part}"]
    plain.load_state_dict(state)
    torch.testing.assert_close(net(ids, scene), plain(ids, scene), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [*BY_EMBEDDING, "star"])
def test_scenes_with_equal_parameters_are_equal(name):
    net, (ids, scene) = build(name), some(12)
    with torch.no_grad():
        net.scene.copy_(net.scene[:1].expand(S, -1))
    trained_on(net).eval()
    zero, other = (net(ids, torch.full_like(scene, s)) for s in (0, 1))
    torch.testing.assert_close(zero, other)
    assert zero.std() > 0


# --- parameters --------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "options", "total", "per_scene"),
    [
        # 32-16-8-1: 528 + 136 + 9 = 673. Scene embedding and bias: 8 + 1.
        ("shared_mlp", {}, 673, 0),
        ("scene_input", {}, 673 + 16 * 8 + 16 * 9, 9),
        # Tower 16-8-1: 145.
        ("shared_bottom", {}, 528 + 16 * 145, 145),
        # Four experts, gates 32 x 4.
        ("mmoe", {}, 4 * 528 + 16 * (128 + 145), 273),
        # 16 + 2 experts a level, gates over 3 of them; below, one over all 18; then 16 columns.
        ("ple", {"levels": 1}, 18 * 528 + 16 * (96 + 145), 528 + 96 + 145),
        (
            "ple",
            {},
            18 * (528 + 272) + 16 * (96 + 48 + 145) + 32 * 18,
            528 + 272 + 96 + 48 + 145 + 32,
        ),
        ("star", {"partitioned": False, "auxiliary": 0}, 17 * 673, 673),
        # Normalisation: 2 x 32, shared and per scene. Auxiliary 40-16-1.
        ("star", {}, 17 * (673 + 64) + 16 * 8 + 673, 673 + 64 + 8),
        # k = 1; p = 4, 2: (32 4 + 4 + 4 + 64 + 16 + 18) + (16 2 + 2 + 2 + 16 + 8 + 18) + 9.
        ("apg", {"rank": None}, 234 + 78 + 9 + 16 * 9, 9),
        # k = p = 8: 256 + 64 + 64 + 144 + 576 + 72 and 128 + 64 + 64 + 72 + 576 + 72.
        ("apg", {}, 1176 + 976 + 9 + 16 * 9, 9),
        # Gates 40-16-(32, 16, 8).
        ("pepnet", {}, 673 + 3 * 656 + 17 * 56 + 16 * 9, 9),
        ("one_per_scene", {}, 16 * 673, 673),
        # Factors r (48 + 24 + 9), heads 3 x 33 r^2, auxiliary network 8-32.
        ("mi_dpg", {}, 673 + 4 * 81 + 3 * 33 * 16 + 288 + 16 * 9, 9),
        ("mi_dpg", {"rank": 12}, 673 + 12 * 81 + 3 * 33 * 144 + 288 + 16 * 9, 9),
        ("mi_dpg", {"core": "diagonal"}, 673 + 4 * 81 + 3 * 33 * 4 + 288 + 16 * 9, 9),
        ("mi_dpg", {"layer_biases": True}, 673 + 4 * 81 + 1584 + 288 + 16 * 33, 33),
        ("mi_dpg", {"gate": "sigmoid"}, 3013, 9),
    ],
)
def test_parameter_counts_by_hand(name, options, total, per_scene):
    table = FIELDS.size * 8
    options = {"config": MiDpgConfig(**options)} if name == "mi_dpg" else options
    found = count_parameters(lambda scenes: build(name, scenes, **options), 16)
    copies = 16 if name == "one_per_scene" else 1
    assert found.tables == copies * table
    assert found.total - found.tables == total
    assert found.per_scene == per_scene + table * (name == "one_per_scene")


def test_outputs_add_a_bias_per_scene_each():
    found = count_parameters(lambda scenes: build("mi_dpg", scenes, outputs=3), 4)
    assert found.per_scene == 8 + 3


def test_mi_dpg_is_among_the_networks():
    assert SCENE_NETS["mi_dpg"] is MiDpg
    assert len(SCENE_NETS) == 10
