"""Networks of the GMV predictors: sizes, activations, heads and the mixture of two towers."""

import math

import numpy as np
import pytest
import torch
from small_gmv import say
from torch import tensor

from predictors import GmvConfig
from predictors.gmv import mixed
from predictors.gmv_nets import Amounts, Calibrator, Dice, Encoder, Router, layers
from predictors.gmv_pretraining import masked_mean, new_amounts, new_calibrator, new_router
from predictors.nets import Fields
from predictors.training import seeded

FIELDS = Fields((3,) * 22)
PUBLISHED = GmvConfig(
    embedding_dim=16,
    embedding_sd=1.0,
    encoder_widths=(1024, 512),
    tower_widths=(256, 128, 64),
    router_widths=(256, 128, 64),
    calibrator_widths=(512, 256, 128, 64),
)
SMALL = GmvConfig(embedding_dim=2, encoder_widths=(6, 5), tower_widths=(4, 3))
IDS = FIELDS.encode(np.random.default_rng(0).integers(0, 3, (10, 22)))


def parameters(net):
    """Number of weights that are no embeddings."""
    return sum(w.numel() for name, w in net.named_parameters() if not name.endswith("table"))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


# --- sizes -------------------------------------------------------------------------------------
def test_published_sizes():
    # As counted in the published networks (alimama-tech/OnlineGMV), embeddings left out.
    assert parameters(new_amounts(FIELDS, PUBLISHED, 0, 1)) == 1_060_801
    assert parameters(new_amounts(FIELDS, PUBLISHED, 0, 2)) == 1_233_794
    assert parameters(new_router(FIELDS, PUBLISHED, 0)) == 132_033
    assert parameters(new_calibrator(FIELDS, PUBLISHED, 0)) == 354_243


def test_independent_towers_are_two_single_ones():
    independent = PUBLISHED.model_copy(update={"bottom": "independent"})
    assert parameters(new_amounts(FIELDS, independent, 0, 2)) == 2 * 1_060_801
    assert parameters(new_amounts(FIELDS, independent, 0, 1)) == 1_060_801


def test_every_encoder_has_embeddings_of_its_own():
    independent = SMALL.model_copy(update={"bottom": "independent"})
    tables = [
        [w.shape for name, w in net.named_parameters() if name.endswith("table")]
        for net in (
            *(new_amounts(FIELDS, SMALL, 0, towers) for towers in (1, 2)),
            new_amounts(FIELDS, independent, 0, 2),
            new_router(FIELDS, SMALL, 0),
            new_calibrator(FIELDS, SMALL, 0),
        )
    ]
    assert tables == [[(22 * 4, 2)] * count for count in (1, 1, 2, 1, 1)]


def test_initial_embeddings_have_the_given_spread_and_unknown_ids_are_zero():
    encoder = seeded(0, lambda: Encoder(FIELDS, 50, 0.3, (2,)))
    known = np.delete(np.arange(FIELDS.size), FIELDS.unknown)
    assert encoder.table[known].std().item() == pytest.approx(0.3, rel=0.05)
    assert not encoder.table[FIELDS.unknown].any()


# --- Dice --------------------------------------------------------------------------------------
def test_dice_by_hand():
    # (1, 2, 6): mean 3, variance (4 + 1 + 9) / 3.
    dice, u = Dice(3), (1.0, 2.0, 6.0)
    with torch.no_grad():
        dice.slope.copy_(tensor([-0.25, 0.5, 2.0]))
    scale = math.sqrt(14 / 3 + 1e-4)
    gates = [sigmoid((x - 3) / scale) for x in u]
    expected = [
        g * x + (1 - g) * a * x for g, x, a in zip(gates, u, (-0.25, 0.5, 2.0), strict=True)
    ]
    assert dice(tensor([u]))[0].tolist() == pytest.approx(expected, rel=1e-6)


def test_dice_starts_at_the_published_slope_and_takes_equal_features():
    dice = Dice(4)
    assert dice.slope.tolist() == [-0.25] * 4
    # Nothing differs: every gate is one half.
    assert dice(torch.full((2, 4), 8.0)).tolist() == [[3.0] * 4] * 2
    assert dice(torch.zeros(1, 4)).tolist() == [[0.0] * 4]


def test_slopes_of_dice_are_learned():
    dice, u = Dice(3), (1.0, 2.0, 6.0)
    dice(tensor([u])).sum().backward()
    scale = math.sqrt(14 / 3 + 1e-4)
    expected = [(1 - sigmoid((x - 3) / scale)) * x for x in u]
    assert dice.slope.grad.tolist() == pytest.approx(expected, rel=1e-6)


def test_dice_does_not_depend_on_the_batch_or_the_mode():
    dice, rows = Dice(5), torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([dice(rows[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(dice(rows), alone)
    assert torch.equal(dice.train()(rows), dice.eval()(rows))


def test_layers_are_linear_and_dice():
    stack = layers(7, (4, 3))
    assert [type(layer).__name__ for layer in stack] == ["Linear", "Dice"] * 2
    assert stack(torch.zeros(2, 7)).shape == (2, 3)


# --- heads -------------------------------------------------------------------------------------
def amounts(towers=2, *, head="log", independent=False):
    return seeded(
        0,
        lambda: Amounts(FIELDS, (2, 0.1), ((6,), (4,)), towers, head=head, independent=independent),
    )


@pytest.mark.parametrize("independent", [False, True])
def test_outputs_become_amounts(independent):
    for head, expected in (
        ("log", [math.log1p(math.exp(-1.0)), math.log1p(math.exp(5.0))]),
        ("absolute", [math.log1p(1.0), math.log1p(5.0)]),
    ):
        net = amounts(head=head, independent=independent)
        for tower, output in zip(net.towers, (-1.0, 5.0), strict=True):
            say(tower[-1], output)
        found = net(IDS)
        assert found.shape == (10, 2)
        np.testing.assert_allclose(found.detach(), [expected] * 10, rtol=1e-6)


@pytest.mark.parametrize("towers", [1, 2])
def test_outputs_can_start_near_a_level(towers):
    net = amounts(towers)
    net.start_at(4.7)
    for tower in net.towers:
        with torch.no_grad():
            tower[-1].weight.zero_()
    np.testing.assert_allclose(net(IDS).detach(), np.full((10, towers), 4.7), rtol=1e-6)


def test_shared_towers_read_one_encoder_and_independent_ones_their_own():
    for independent, reached in ((False, {0}), (True, {1})):
        net = amounts(independent=independent)
        net(IDS)[:, 1].sum().backward()
        gradients = [encoder.table.grad for encoder in net.encoders]
        assert {i for i, grad in enumerate(gradients) if grad is not None and grad.any()} == reached
        assert net.towers[0][-1].weight.grad is None or not net.towers[0][-1].weight.grad.any()


def test_networks_of_one_seed_are_the_same():
    for new in (new_router, new_calibrator):
        one, two, other = (new(FIELDS, SMALL, seed).state_dict() for seed in (3, 3, 4))
        assert all(torch.equal(one[name], two[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)


# --- router, calibrator ------------------------------------------------------------------------
def test_router_gives_logits():
    router = seeded(0, lambda: Router(FIELDS, (2, 0.1), (4,)))
    say(router.output, -1.5)
    assert router(IDS).tolist() == [-1.5] * 10


def test_calibrator_reads_time_and_count_at_its_last_layer():
    net = seeded(0, lambda: Calibrator(FIELDS, (2, 0.1), (4,)))
    say(net.output, 0.2)
    with torch.no_grad():
        net.output.weight[0, -2:] = tensor([-3.0, 0.5])  # elapsed, count
    elapsed, count = tensor([0.0, 0.5, 0.5]), tensor([1.0, 1.0, 4.0])
    found = net(IDS[:3], elapsed, count)
    expected = [math.log1p(math.exp(z)) for z in (0.7, -0.8, 0.7)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_calibrator_is_positive():
    net = seeded(0, lambda: Calibrator(FIELDS, (2, 0.1), (4,)))
    say(net.output, -80.0)
    found = net(IDS, torch.zeros(10), torch.ones(10))
    assert ((found > 0) & (found < 1e-30)).all()


# --- mixture -----------------------------------------------------------------------------------
def test_amounts_are_mixed_in_currency():
    found = torch.log1p(tensor([[100.0, 300.0]] * 3))
    several = tensor([0.0, 0.25, 1.0])
    assert torch.expm1(mixed(found, several)).tolist() == pytest.approx([100, 150, 300], rel=1e-5)
    # Mixed in logarithms, it would be about 132.
    assert mixed(found, several)[1].item() == pytest.approx(math.log(151), rel=1e-6)


def test_logarithms_can_be_mixed_instead():
    found = torch.log1p(tensor([[100.0, 300.0]] * 3)).requires_grad_()
    mixture = mixed(found, tensor([0.0, 0.25, 1.0]), in_logs=True)
    logs = math.log(101), math.log(301)
    expected = [logs[0], 0.75 * logs[0] + 0.25 * logs[1], logs[1]]
    assert mixture.tolist() == pytest.approx(expected, rel=1e-6)
    mixture.sum().backward()
    assert found.grad.tolist() == [[1.0, 0.0], [0.75, 0.25], [0.0, 1.0]]


def test_one_tower_is_what_it_is():
    found = tensor([[3.0], [0.0]])
    assert mixed(found, tensor([0.0, 1.0])).tolist() == [3.0, 0.0]


def test_amounts_of_zero_can_be_mixed():
    found = torch.zeros(2, 2, requires_grad=True)
    mixture = mixed(found, tensor([0.5, 1.0]))
    mixture.sum().backward()
    assert mixture.tolist() == [0.0, 0.0]
    assert found.grad.tolist() == [[0.5, 0.5], [0.0, 1.0]]


def test_gradients_of_a_mixture_by_hand():
    found = torch.log1p(tensor([[100.0, 300.0]] * 3)).requires_grad_()
    mixed(found, tensor([0.0, 0.25, 1.0])).sum().backward()
    # d log1p(150) / d log1p(100) = .75 x 101 / 151
    expected = [[1, 0], [0.75 * 101 / 151, 0.25 * 301 / 151], [0, 1]]
    np.testing.assert_allclose(found.grad, expected, rtol=1e-5)
    assert found.grad[0, 1] == found.grad[2, 0] == 0  # not even a small one


@pytest.mark.parametrize("in_logs", [False, True])
def test_a_tower_without_a_part_gets_no_gradient(in_logs):
    for share, silent, trained in ((0.0, 1, 0), (1.0, 0, 1)):
        net = amounts()
        mixed(net(IDS), torch.full((10,), share), in_logs=in_logs).sum().backward()
        assert not any(weight.grad.any() for weight in net.towers[silent].parameters())
        assert any(weight.grad.any() for weight in net.towers[trained].parameters())
        assert net.encoders[0].table.grad.any()


def test_means_of_no_rows_are_zero():
    values = tensor([1.0, 2.0, 6.0], requires_grad=True)
    assert masked_mean(values, tensor([1.0, 0.0, 1.0])).item() == 3.5
    nothing = masked_mean(values, torch.zeros(3))
    nothing.backward()
    assert nothing.item() == 0
    assert values.grad.tolist() == [0.0] * 3
    assert masked_mean(values, tensor([False, True, True])).item() == 4.0
