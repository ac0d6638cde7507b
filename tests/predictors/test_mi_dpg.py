"""MI-DPG: the weighting of a backbone's weights, and the bound on its mutual information."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_scenes import FIELDS, SIZES, S, build, mi_dpg, random_scenes, some, trained_on
from torch import tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from predictors.mi_dpg import (
    InformationBound,
    InformationConfig,
    MiDpgConfig,
    WeightedLinear,
)
from predictors.nets import adam
from predictors.scene_nets import Mlp
from predictors.training import descend, seeded


def explicit(net, ids, scene):
    """MI-DPG with a matrix of weights for every row."""
    units = net.table[ids].flatten(1)
    for i, (layer, factors) in enumerate(zip(net.layers, net.weightings(), strict=True)):
        weights = layer.linear.weight.T * factors[scene]  # (B, inputs, outputs)
        units = torch.einsum("bi,bio->bo", units, weights) + layer.linear.bias
        if i < len(net.layers) - 1:
            if len(net.layer_biases):
                units = units + net.layer_biases[i][scene]
            units = torch.relu(units)
    return units + net.bias[scene]


# --- the weighting -----------------------------------------------------------------------------
@pytest.mark.parametrize("gate", ["residual", "sigmoid"])
@pytest.mark.parametrize("core", ["full", "diagonal"])
@pytest.mark.parametrize("layer_biases", [False, True])
def test_efficient_form_equals_explicit_matrices(gate, core, layer_biases):
    net = mi_dpg(gate=gate, core=core, layer_biases=layer_biases, outputs=2)
    net, (ids, scene) = random_scenes(net).double(), some(40)
    found, expected = net(ids, scene), explicit(net, ids, scene)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weights = list(net.parameters())
    for one, two in zip(
        torch.autograd.grad(found.sum(), weights),
        torch.autograd.grad(expected.sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, two, rtol=1e-8, atol=1e-8)


def test_no_matrix_per_row_is_built(monkeypatch):
    # The largest tensor of a layer 40 -> 30 at rank 2 for 500 rows: (500, 2, 40), not (., 40, 30).
    layer = seeded(0, lambda: WeightedLinear(40, 30, 5, MiDpgConfig(rank=2)))
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: sizes.append(t.numel()) or t, lambda t: t
    ):
        layer(torch.randn(500, 40), layer.code(torch.randn(3, 5)), torch.arange(500) % 3)
    assert max(sizes) <= 500 * 2 * 40


def test_weightings_have_low_rank_and_weighted_weights_full_rank():
    # W * (a b^T) = diag(a) W diag(b): the rank of W * R is not that of R.
    net = mi_dpg(rank=3).double()
    for layer, factors in zip(net.layers, net.weightings(), strict=True):
        weight = layer.linear.weight.T
        for matrix in factors.detach():
            small = min(matrix.shape)
            assert torch.linalg.matrix_rank(matrix - 1, rtol=1e-5) == min(3, small)
            assert torch.linalg.matrix_rank(weight * (matrix - 1), rtol=1e-5) == small


@pytest.mark.parametrize("place", [0, 2, 3])
def test_folded_weights_give_the_same_logits(place):
    net, (ids, scene) = random_scenes(mi_dpg(layer_biases=True)).double(), some(20)
    trained_on(net, 100, 200, 99)
    plain, inputs = net.folded(place).double(), net.table[ids].flatten(1)
    assert net.training  # as before
    expected = net.eval()(ids, torch.full_like(scene, place))
    torch.testing.assert_close(plain(inputs), expected, rtol=1e-5, atol=1e-5)


def test_a_single_scene_is_a_plain_network():
    net, (ids, scene) = mi_dpg(1), some(20, scenes=1)
    plain = net.folded(0)
    assert isinstance(plain, Mlp)
    torch.testing.assert_close(plain(net.table[ids].flatten(1)), net(ids, scene))


def test_normalised_units_are_so_in_every_form():
    net, (ids, scene) = trained_on(mi_dpg(sizes=SIZES._replace(normalise=True))), some(20)
    other = torch.stack([net.folded(s)(net.table[ids].flatten(1)) for s in range(S)])
    torch.testing.assert_close(net(ids, scene), other[scene, torch.arange(20)])


def test_weightings_start_near_one():
    assert build("mi_dpg").departure().max() < 0.2  # entries of R have spread .02 |hidden units|
    assert not mi_dpg(head_sd=0).departure().any()
    assert build("mi_dpg").departure().shape == (3, S)


def test_factors_learn_from_the_first_step():
    net, (ids, scene) = build("mi_dpg"), some(30)
    net(ids, scene).sum().backward()
    for layer in net.layers:
        assert layer.left.grad.any()
        assert layer.right.grad.any()
    assert net.scene.grad.any(dim=1).all()
    zero = build("mi_dpg", config=MiDpgConfig(head_sd=0))  # the generator learns before the factors
    zero(ids, scene).sum().backward()
    assert zero.layers[0].head.weight.grad.any()
    assert not zero.layers[0].left.grad.any()


def test_capped_codes_have_their_largest_norm():
    free, capped = mi_dpg(head_sd=1.0), mi_dpg(head_sd=1.0, core_cap=0.5)
    norms = [code.norm(dim=1) for code in free.codes()]
    for code, norm, before in zip(capped.codes(), norms, free.codes(), strict=True):
        expected = before * (0.5 / norm).clamp(max=1)[:, None]
        torch.testing.assert_close(code, expected)
    assert min(norm.max() for norm in norms) > 0.5


def test_bounded_gate_stays_between_zero_and_two():
    for factors in mi_dpg(head_sd=3.0, gate="sigmoid").weightings():
        assert factors.min() >= 0
        assert factors.max() <= 2


def test_codes_of_scenes_are_joined():
    net = mi_dpg(rank=2)
    assert net.code_size == 3 * 4
    assert net.code().shape == (S, 12)
    torch.testing.assert_close(net.code()[:, 4:8], net.codes()[1][:S])


def test_spread_is_the_mean_distance_of_weightings():
    net = mi_dpg()
    flat = [torch.cat([m[s].flatten() for m in net.weightings()]) for s in range(S)]
    pairs = [(flat[i] - flat[j]).norm().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert net.spread() == pytest.approx(sum(pairs) / 3, rel=1e-5)


@pytest.mark.parametrize("bad", [{"rank": 0}, {"gate": "tanh"}, {"core_cap": 0}, {"depth": 2}])
def test_bad_settings_of_the_weighting_are_rejected(bad):
    with pytest.raises(ValidationError, match=next(iter(bad))):
        MiDpgConfig(**bad)


# --- mutual information ------------------------------------------------------------------------
def bound_of(code, scene=None, *, seed=0, share=None, **settings):
    """An untrained bound and its value."""
    scene = torch.eye(len(code)) if scene is None else scene
    config = InformationConfig(**settings)
    make = lambda: InformationBound(len(code), code.shape[1], scene.shape[1], config)  # noqa: E731
    module = seeded(seed, make)
    return module, module(code, scene, torch.Generator().manual_seed(seed), share)


def information(share, sd):
    """I(s; y) in nats of y = +-1 + N(0, sd^2), s = + with probability `share`, by quadrature."""
    y = np.linspace(-1 - 12 * sd, 1 + 12 * sd, 200_001)
    densities = [
        np.exp(-((y - m) ** 2) / (2 * sd**2)) / (sd * math.sqrt(2 * math.pi)) for m in (1, -1)
    ]
    mixture = share * densities[0] + (1 - share) * densities[1]
    parts = [
        p * d * np.log(np.maximum(d, 1e-300) / np.maximum(mixture, 1e-300))
        for p, d in zip((share, 1 - share), densities, strict=True)
    ]
    return float(sum(parts).sum() * (y[1] - y[0]))


@pytest.mark.parametrize("sd", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_bound_is_tight_where_the_classifier_is_exact(sd, share):
    # Two scenes at +-3: in units of their root mean square, +-1. The exact log odds are
    # log(share / (1 - share)) + 2 y / sd^2.
    module, _ = bound_of(tensor([[3.0], [-3.0]]), noise=sd, draws=200_000)
    with torch.no_grad():
        module.classifier.weight.copy_(tensor([[1.0], [-1.0]]) / sd**2)
        module.classifier.bias.zero_()
    shares = tensor([share, 1 - share])
    generator = torch.Generator().manual_seed(0)
    found = module(tensor([[3.0], [-3.0]]), torch.eye(2), generator, shares).item()
    assert found == pytest.approx(information(share, sd), abs=0.006)  # over 4 standard errors
    with torch.no_grad():  # and looser with any other
        module.classifier.weight.mul_(2)
    assert module(tensor([[3.0], [-3.0]]), torch.eye(2), generator, shares).item() < found


def test_information_of_known_distributions():
    # Binary input, Gaussian noise at signal-to-noise ratio 1: .4859 bit.
    assert information(0.5, 1.0) == pytest.approx(0.4859 * math.log(2), abs=1e-4)
    assert information(0.5, 0.05) == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("estimator", ["classifier", "infonce"])
@pytest.mark.parametrize("scenes", [1, 2, 7])
def test_bound_is_at_most_the_entropy_of_the_scenes(estimator, scenes):
    code = 5 * torch.randn(scenes, 4, generator=torch.Generator().manual_seed(1))
    module, _ = bound_of(code, estimator=estimator, noise=0.1)
    optimiser, generator = adam(module.parameters(), 0.1), torch.Generator().manual_seed(2)
    for _ in range(100):
        bound = module(code, torch.eye(scenes), generator)
        assert bound.item() <= math.log(scenes) + 1e-6
        descend(optimiser, -bound)
    assert bound.item() == pytest.approx(math.log(scenes), abs=0.05)  # nearly told apart


@pytest.mark.parametrize("estimator", ["classifier", "infonce"])
def test_a_single_scene_carries_no_information(estimator):
    _, bound = bound_of(torch.ones(1, 3), estimator=estimator)
    assert bound.item() == 0


@pytest.mark.parametrize("seed", range(5))
def test_bound_of_equal_codes_is_not_positive(seed):
    # Without noise, E[log q] is largest, -log S, where q is uniform.
    _, bound = bound_of(torch.ones(4, 3), noise=0, seed=seed)
    assert bound.item() <= 1e-6
    _, bound = bound_of(torch.ones(4, 3), noise=0.3, seed=seed, draws=20_000)
    assert bound.item() <= 0.01
    _, bound = bound_of(torch.ones(4, 3), torch.ones(4, 2), seed=seed, estimator="infonce")
    assert bound.item() == pytest.approx(0, abs=1e-6)  # candidates cannot be told apart


def test_bound_does_not_depend_on_the_scale_of_the_code():
    code = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    found = [bound_of(scale * code)[1].item() for scale in (1, 100)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_gradients_of_zero_codes_are_finite():
    code = torch.zeros(3, 2, requires_grad=True)
    bound_of(code)[1].backward()
    assert torch.isfinite(code.grad).all()


@pytest.mark.parametrize("estimator", ["classifier", "infonce"])
def test_scenes_without_a_share_are_left_out(estimator):
    code = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    share = tensor([0.5, 0.0, 0.5])
    _, bound = bound_of(code, share=share, estimator=estimator)
    assert bound.item() <= math.log(2)
    bound.backward()
    assert torch.isfinite(code.grad).all()


def test_the_unit_of_the_noise_is_that_of_the_scenes_with_a_share():
    # Root mean squares of 3 and 1 are sqrt 5; the scene of code 100 plays no part.
    module, _ = bound_of(tensor([[3.0], [1.0], [100.0]]), noise=0)
    code, used = tensor([[3.0], [1.0], [100.0]]), tensor([True, True, False])
    found = module.noisy(code, torch.Generator(), used)[0].flatten()
    assert found.tolist() == pytest.approx([3 / 5**0.5, 1 / 5**0.5, 100 / 5**0.5])


def test_infonce_by_hand():
    # Critic values cos / .5: both codes (1, 0), candidates (1, 0) and (0, 1).
    # log q: 2 - log(e^2 + 1) for scene 0, 0 - log(e^2 + 1) for scene 1.
    module, _ = bound_of(torch.ones(2, 2), estimator="infonce", temperature=0.5, critic_dim=2)
    with torch.no_grad():
        for side in (module.scene_side, module.code_side):
            side.bias.zero_()
        module.scene_side.weight.copy_(torch.eye(2))
        module.code_side.weight.copy_(tensor([[1.0, 0.0], [0.0, 0.0]]))
    module.config = module.config.model_copy(update={"noise": 0.0})
    found = module(torch.ones(2, 2), torch.eye(2), torch.Generator())
    expected = math.log(2) + 0.5 * 2 - math.log(math.exp(2) + 1)
    assert found.item() == pytest.approx(expected, rel=1e-5)


def trained(weight, estimator, seed, scenes=8, steps=200):
    """MI-DPG trained on scenes that all have the same weights: separation, spread, bound."""
    net, (ids, scene) = build("mi_dpg", scenes, seed=seed), some(512, scenes, seed)
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=FIELDS.size)[ids.numpy()].sum(1)
    label = torch.from_numpy((rng.random(512) < 1 / (1 + np.exp(-logit))).astype(np.float32))
    config = InformationConfig(estimator=estimator)
    bound = seeded(seed, lambda: InformationBound(scenes, net.code_size, 8, config))
    generator = torch.Generator().manual_seed(seed)
    optimiser = adam([*net.parameters(), *bound.parameters()], 0.003)
    for _ in range(steps):
        nats = bound(net.code(), net.scene, generator)
        loss = binary_cross_entropy_with_logits(net(ids, scene).squeeze(1), label)
        descend(optimiser, loss - weight * nats)
    code = net.code().detach()
    return torch.pdist(code).mean() / code.norm(dim=1).mean(), net.spread(), nats.item()


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["classifier", "infonce"])
def test_the_term_drives_scenes_apart(estimator):
    # Separation is the distance of codes over their size. InfoNCE sees angles only and makes codes
    # smaller, so that the distances of weightings (spread) need not grow with it.
    off, on = (
        np.mean([trained(weight, estimator, seed) for seed in range(3)], axis=0)
        for weight in (0, 0.05)
    )
    assert on[0] > off[0]
    assert on[1] > off[1] or estimator == "infonce"
    assert 0.9 * math.log(8) < on[2] <= math.log(8) + 1e-6


def test_weight_of_the_term_warms_up():
    config = InformationConfig(weight=0.1, warm_up_steps=4)
    assert [config.weight_at(step) for step in (0, 1, 2, 4, 99)] == pytest.approx(
        [0, 0.025, 0.05, 0.1, 0.1]
    )
    assert InformationConfig(weight=0.1, warm_up_steps=0).weight_at(0) == 0.1
