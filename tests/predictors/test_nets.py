import numpy as np
import pytest
import torch
from torch import nn, tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from predictors.nets import (
    Backbone,
    Fields,
    Sizes,
    TowerNet,
    TwoTowers,
    adam,
    bce,
    frozen,
    load_optimiser,
    load_state,
    optimiser_arrays,
    probabilities,
    state_arrays,
    tower,
    weighted_bce,
)
from predictors.training import descend, seeded

FIELDS, SIZES = Fields((3, 2)), Sizes(4, 1.0, (8, 6), 0.1)
NEVER = np.iinfo(np.int32).max


def ids(*rows):
    return np.array(rows, np.int32)


def two_towers(tables="hybrid", detach_refund=False, seed=0):
    return seeded(seed, lambda: TwoTowers(FIELDS, SIZES, tables, detach_refund=detach_refund))


def some_ids(count, seed=0):
    rng = np.random.default_rng(seed)
    return FIELDS.encode(np.stack([rng.integers(0, 3, count), rng.integers(0, 2, count)], 1))


# --- ids ---------------------------------------------------------------------------------------
def test_fields_number_their_ids_through():
    # Field 0: ids 0 1 2, unknown 3; field 1: ids 4 5, unknown 6.
    assert FIELDS.size == 7
    assert FIELDS.unknown.tolist() == [3, 6]
    assert FIELDS.encode(ids([0, 0], [2, 1], [1, 0])).tolist() == [[0, 4], [2, 5], [1, 4]]


@pytest.mark.parametrize("bad", [-1, 3, -NEVER - 1, NEVER])
def test_ids_outside_their_field_are_unknown(bad):
    assert FIELDS.encode(ids([bad, 1])).tolist() == [[3, 5]]
    assert FIELDS.encode(ids([0, bad])).tolist() == [[0, 6]]


def test_no_rows_have_no_ids():
    assert FIELDS.encode(np.zeros((0, 2), np.int32)).shape == (0, 2)
    assert FIELDS.encode(np.zeros((0, 2), np.int32)).dtype == torch.int64


@pytest.mark.parametrize("shape", [(4, 1), (4, 3), (2,), (0,), (1, 2, 1)])
def test_fields_reject_other_shapes(shape):
    with pytest.raises(ValueError, match=r"features must have shape \(B, 2\), got"):
        FIELDS.encode(np.zeros(shape, np.int32))


@pytest.mark.parametrize("sizes", [(), (3, 0), (-1,)])
def test_fields_reject_empty_fields(sizes):
    with pytest.raises(ValueError, match="cardinalities must be >= 1 each"):
        Fields(sizes)


def test_new_tables_are_normal_and_zero_where_unknown():
    table = FIELDS.table(5, 0.1)
    assert table.shape == (7, 5)
    assert not table[[3, 6]].any()
    assert table[[0, 1, 2, 4, 5]].all()
    large = seeded(0, lambda: Fields((20_000,)).table(2, 0.3))
    assert large.mean().item() == pytest.approx(0, abs=0.006)  # 4 standard errors
    assert large.std().item() == pytest.approx(0.3, abs=0.005)


def test_unknown_rows_are_never_trained():
    net = two_towers()
    optimiser = adam(net.parameters(), 0.1)
    known = some_ids(20)
    for _ in range(3):
        cvr, refund = net(known)
        descend(optimiser, (cvr - 1).square().sum() + (refund + 1).square().sum())
    for table in (net.private_cvr, net.private_refund, net.shared):
        assert not table[[3, 6]].any()


# --- towers ------------------------------------------------------------------------------------
def test_tower_is_linear_normalised_rectified_per_width():
    layers = tower(10, SIZES._replace(momentum=0.19), 2, Backbone(FIELDS))
    kinds = [nn.Linear, nn.BatchNorm1d, nn.LeakyReLU] * 2 + [nn.Linear]
    assert [type(layer) for layer in layers] == kinds
    assert [(layer.in_features, layer.out_features) for layer in layers[::3]] == [
        (10, 8),
        (8, 6),
        (6, 2),
    ]
    assert layers[1].momentum == layers[4].momentum == 0.19
    assert len(tower(10, SIZES._replace(widths=()), 1, Backbone(FIELDS))) == 1


def test_tower_net_has_its_outputs():
    net = TowerNet(FIELDS, SIZES, 2)
    assert net(some_ids(9)).shape == (9, 2)


@pytest.mark.parametrize(
    ("tables", "names", "inputs"),
    [
        ("separate", {"private_cvr", "private_refund"}, 8),
        ("shared", {"shared"}, 8),
        ("hybrid", {"private_cvr", "private_refund", "shared"}, 16),
    ],
)
def test_two_towers_have_the_tables_of_their_kind(tables, names, inputs):
    net = two_towers(tables)
    found = dict(net.named_parameters())
    assert {name for name in found if "." not in name} == names
    assert all(found[name].shape == (7, 4) for name in names)
    assert net.cvr[0].in_features == net.refund[0].in_features == inputs
    assert net.cvr_inputs(some_ids(5)).shape == (5, inputs)
    for logit in (*net(some_ids(5)), net.cvr_logit(some_ids(5)), net.refund_logit(some_ids(5))):
        assert logit.shape == (5,)


@pytest.mark.parametrize("tables", ["separate", "shared", "hybrid"])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("detach_refund", [False, True])
def test_both_logits_equal_each_alone(tables, training, detach_refund):
    net, rows = two_towers(tables, detach_refund).train(training), some_ids(6)
    for both, alone in zip(net(rows), (net.cvr_logit(rows), net.refund_logit(rows)), strict=True):
        assert torch.equal(both, alone)


def test_two_towers_reject_unknown_tables():
    with pytest.raises(ValueError, match=r"tables must be one of .*'hybrid'.* got 'both'"):
        two_towers("both")


@pytest.mark.parametrize("tables", ["separate", "shared", "hybrid"])
@pytest.mark.parametrize("both", [False, True])
def test_a_detached_refund_tower_trains_no_table(tables, both):
    net = two_towers(tables, detach_refund=True)
    refund = net(some_ids(6))[1] if both else net.refund_logit(some_ids(6))
    refund.sum().backward()
    for table in (net.private_cvr, net.private_refund, net.shared):
        assert table is None or table.grad is None
    assert net.refund[0].weight.grad is not None
    net = two_towers(tables)
    net.refund_logit(some_ids(6)).square().sum().backward()
    read = net.shared if tables == "shared" else net.private_refund
    assert read.grad.any()
    assert net.private_cvr is None or net.private_cvr.grad is None


def test_same_seed_same_weights_and_the_global_generator_is_left_alone():
    before = torch.get_rng_state()
    one, two, other = (state_arrays(two_towers(seed=seed)) for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name])
    assert any((array != other[name]).any() for name, array in one.items())


# --- losses ------------------------------------------------------------------------------------
LOGIT = tensor([-90.0, -3.0, -0.5, 0.0, 2.0, 90.0, 1e4, -1e4])
LABEL = tensor([0.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0])
MASK = tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0])


@pytest.mark.parametrize("label", [LABEL, 1 - LABEL])
def test_cross_entropies_equal_those_of_torch(label):
    w1, w0 = torch.linspace(0.5, 2, 8), torch.linspace(1.5, 1, 8)
    each = binary_cross_entropy_with_logits(LOGIT, label, reduction="none")
    expected = (each * MASK).sum() / 8  # masked rows count in the mean
    assert bce(LOGIT, label, MASK).item() == pytest.approx(expected.item(), rel=1e-6)
    one = torch.ones(8)
    unweighted = weighted_bce(LOGIT, label, MASK, one, one)
    assert unweighted.item() == pytest.approx(expected.item(), rel=1e-6)
    weight = label * w1 + (1 - label) * w0
    expected = (each * MASK * weight).sum() / 8
    found = weighted_bce(LOGIT, label, MASK, w1, w0)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_weighted_cross_entropy_by_hand():
    # ln 2 at logit 0: (2 ln 2 + 3 ln 2) / 4; rows 2 and 3 are masked.
    zero, label = torch.zeros(4), tensor([1.0, 0.0, 1.0, 0.0])
    mask = tensor([1.0, 1.0, 0.0, 0.0])
    loss = weighted_bce(zero, label, mask, torch.full((4,), 2.0), torch.full((4,), 3.0))
    assert loss.item() == pytest.approx(5 / 4 * np.log(2))


def test_gradients_of_large_logits_are_finite():
    for loss in (
        lambda logit: bce(logit, LABEL, MASK),
        lambda logit: weighted_bce(logit, LABEL, MASK, 2 * MASK, 3 * MASK),
    ):
        logit = LOGIT.clone().requires_grad_()
        loss(logit).backward()
        assert torch.isfinite(logit.grad).all()
        assert (logit.grad[MASK == 0] == 0).all()


# --- probabilities -----------------------------------------------------------------------------
@pytest.mark.parametrize("training", [False, True])
def test_probabilities_are_those_of_eval_mode(training):
    net, rows = two_towers(), some_ids(10)
    net(some_ids(50, seed=1))  # moves the running statistics
    net.train(training)
    state = state_arrays(net)
    found = probabilities(net, net.cvr_logit, rows)
    assert net.training is training
    assert net.cvr[1].training is training
    assert not found.requires_grad
    for name, array in state_arrays(net).items():
        np.testing.assert_array_equal(array, state[name])
    expected = torch.sigmoid(net.eval().cvr_logit(rows)).detach()
    assert torch.equal(found, expected)


def test_probabilities_of_parts_equal_those_of_the_whole():
    net, rows = two_towers(), some_ids(11)
    whole = probabilities(net, net.refund_logit, rows)
    torch.testing.assert_close(probabilities(net, net.refund_logit, rows, rows=4), whole)


@pytest.mark.parametrize("training", [False, True])
def test_probabilities_of_no_rows(training):
    none = FIELDS.encode(np.zeros((0, 2), np.int32))
    net = two_towers().train(training)
    assert probabilities(net, net.cvr_logit, none).shape == (0,)
    many = TowerNet(FIELDS, SIZES, 2).train(training)
    assert probabilities(many, many, none).shape == (0, 2)


def test_frozen_copies_do_not_follow_their_original():
    net = two_towers()
    copy = frozen(net)
    assert not copy.training
    assert net.training
    assert not any(weight.requires_grad for weight in copy.parameters())
    with torch.no_grad():
        net.shared.add_(1.0)
    assert not torch.equal(copy.shared, net.shared)


# --- optimiser, state --------------------------------------------------------------------------
def test_adam_without_decay_by_hand():
    weight, rate, slopes = nn.Parameter(tensor([1.0, -2.0])), 0.1, [(0.5, -3.0), (0.1, 4.0)]
    optimiser = adam([weight], rate)
    expected, first, second = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step, slope in enumerate(slopes, start=1):
        descend(optimiser, (weight * tensor(slope)).sum())
        first = 0.9 * first + 0.1 * np.array(slope)
        second = 0.999 * second + 0.001 * np.square(slope)
        spread = np.sqrt(second / (1 - 0.999**step)) + 1e-8
        expected -= rate * first / (1 - 0.9**step) / spread
        np.testing.assert_allclose(weight.detach(), expected, rtol=1e-5)
    assert optimiser.defaults["fused"]


def test_decay_shrinks_weights_by_its_share():
    weight = nn.Parameter(tensor([2.0]))
    descend(adam([weight], 0.1, decay=0.5), 0.0 * weight.sum())
    assert weight.item() == pytest.approx(2 * (1 - 0.1 * 0.5))


def test_descend_leaves_what_the_loss_does_not_reach():
    net = two_towers()
    optimiser, before = adam(net.parameters(), 0.1), state_arrays(frozen(net))
    descend(optimiser, net.refund_logit(some_ids(8)).square().sum())
    descend(optimiser, net.cvr_logit(some_ids(8)).square().sum())
    middle = state_arrays(frozen(net))
    descend(optimiser, net.cvr_logit(some_ids(8)).square().sum())
    after = state_arrays(frozen(net))
    assert (middle["private_refund"] != before["private_refund"]).any()
    np.testing.assert_array_equal(after["private_refund"], middle["private_refund"])
    np.testing.assert_array_equal(after["refund.0.weight"], middle["refund.0.weight"])


def test_state_and_optimiser_survive_a_round_trip():
    def step(net, optimiser, seed):
        cvr, refund = net(some_ids(16, seed))
        descend(optimiser, (cvr - 1).square().mean() + refund.square().mean())

    net, other = two_towers(seed=0), two_towers(seed=1)
    optimiser, another = (adam(each.parameters(), 0.05) for each in (net, other))
    for seed in range(3):
        step(net, optimiser, seed)
    step(other, another, 9)
    arrays = {name: array.copy() for name, array in state_arrays(net).items()}
    moments = {name: array.copy() for name, array in optimiser_arrays(optimiser).items()}
    load_state(other, arrays)
    load_optimiser(another, moments)
    step(net, optimiser, 5)
    step(other, another, 5)
    for name, array in state_arrays(net).items():
        np.testing.assert_array_equal(array, state_arrays(other)[name])
    for name, array in optimiser_arrays(optimiser).items():
        np.testing.assert_array_equal(array, optimiser_arrays(another)[name])
    assert {name.split(".")[1] for name in moments} == {"step", "exp_avg", "exp_avg_sq"}


def test_loaded_state_is_a_copy():
    net, other = two_towers(seed=0), two_towers(seed=1)
    arrays = state_arrays(net)
    load_state(other, arrays)
    with torch.no_grad():
        other.shared.zero_()
    assert net.shared.any()
    assert arrays["shared"].any()


def test_state_of_other_networks_is_rejected():
    arrays = state_arrays(two_towers("hybrid"))
    for tables in ("separate", "shared"):
        with pytest.raises(ValueError, match="weights do not fit the networks"):
            load_state(two_towers(tables), arrays)
    with pytest.raises(ValueError, match="weights do not fit the networks"):
        load_state(two_towers(), {})
