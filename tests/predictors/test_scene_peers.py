"""What is particular to each of the networks that MI-DPG is compared with."""

import pytest
import torch
from small_scenes import build, random_scenes, some
from torch import nn, tensor

from predictors.scene_nets import Known
from predictors.scene_peers import PartitionedNorm


def test_partitioned_norm_by_hand():
    # Scene 0: 1 and 3, mean 2, variance 1. Scene 1: one row, running statistics 0 and 1.
    norm, both = PartitionedNorm(1, 2, momentum=0.5), torch.ones(2, dtype=torch.bool)
    known = Known(both, both)
    found = norm(tensor([[1.0], [5.0], [3.0]]), tensor([0, 1, 0]), known)
    assert found.flatten().tolist() == pytest.approx([-1, 5, 1], abs=1e-5)
    assert norm.mean.flatten().tolist() == [1, 0]  # half way from 0 to 2
    assert norm.var.flatten().tolist() == [1.5, 1]  # from 1 to 2, the unbiased variance
    norm.eval()
    # A new scene: mean .5, variance 1.25.
    found = norm(tensor([[1.0], [1.0], [1.0]]), tensor([0, 1, 2]), known)
    assert found.flatten().tolist() == pytest.approx([0, 1, 0.5 / 1.25**0.5], abs=1e-5)
    with torch.no_grad():
        norm.scales[1], norm.shifts[1], norm.scale[0], norm.shift[0] = 3, 7, 2, 1
    found = norm(tensor([[4.0]]), tensor([1]), known)
    assert found.item() == pytest.approx(2 * 3 * 4 + 1 + 7, rel=1e-5)


def test_star_multiplies_weights():
    net, (ids, scene) = build("star", partitioned=False, auxiliary=0), some(10)
    random_scenes(net)
    units = net.table[ids].flatten(1)
    for i, layer in enumerate(net.mlp.layers):
        weight, bias = layer.weight * net.weights[i][scene], layer.bias + net.biases[i][scene]
        units = torch.einsum("bi,boi->bo", units, weight) + bias
        units = torch.relu(units) if i < 2 else units
    torch.testing.assert_close(net(ids, scene), units)


def test_gates_do_not_train_the_embeddings_they_read():
    net, (ids, scene) = random_scenes(build("pepnet")), some(10)
    with torch.no_grad():
        for layer in net.mlp.layers:
            layer.bias.fill_(1.0)  # so that units stay alive without their inputs
        net.mlp.layers[0].weight.zero_()
    net(ids, scene).sum().backward()
    assert not net.table.grad.any()
    assert all(weight.grad is not None for weight in net.gates[1].parameters())


def test_generated_weights_start_near_the_identity():
    net = build("apg", rank=3)
    for layer in net.layers:
        scenes = torch.zeros(1, 8)
        torch.testing.assert_close(layer.core(scenes).view(3, 3), torch.eye(3))
    assert isinstance(net.output, nn.Linear)


def test_experts_are_mixed_by_their_scenes_gate():
    net, (ids, scene) = build("mmoe", experts=2), some(9)
    with torch.no_grad():
        for gate in net.gates:
            gate.weight.zero_()
    inputs = net.table[ids].flatten(1)
    units = (net.experts[0](inputs) + net.experts[1](inputs)) / 2  # softmax of zeros
    expected = torch.stack([tower(units) for tower in net.towers])[scene, torch.arange(9)]
    torch.testing.assert_close(net(ids, scene), expected)
