"""MI-DPG: one backbone whose weights are weighted per scene, and its mutual-information term.

An auxiliary network turns the embedding of a scene into small matrices C_l(s). With low-rank
factors U_l, V_l that all scenes share they make a weighting matrix per backbone layer,
M_l(s) = 1 + U_l C_l(s) V_l, and the layer's weights are W_l * M_l(s), element by element. A bound
on the mutual information of scene and weighting is maximised, so that scenes differ.

Source: MI-DPG, Cheng et al., CIKM 2023, arXiv:2603.21209. No code is published, and of the paper
only the abstract is used here: backbone, auxiliary network, scene-specific and scene-shared
low-rank matrices that make a dynamic weighting matrix, and a mutual-information regulariser are
stated there; every formula below is a reconstruction. It resembles the layer of alipay/MMLRec's APG
(shared factors around a generated core), used as a factor of the weights instead of in their place.
"""

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, linear

from predictors.nets import Fields
from predictors.scene_nets import Mlp, SceneNet, SceneSizes, activate, grouped
from predictors.training import Size

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]

TINY = 1e-12  # added to squares: the root of 0 has no gradient


class MiDpgConfig(BaseModel):
    """Settings of the weighting."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: Size = 4
    """r of the factors; at least the rank of what the scenes' weights differ by."""
    auxiliary_widths: Annotated[tuple[Size, ...], Field(min_length=1)] = (32,)
    """Hidden layers of the auxiliary network; the last is h."""
    gate: Literal["residual", "sigmoid"] = "residual"
    """M = 1 + R, or M = 2 sigmoid(R), which stays in (0, 2) but has no low rank."""
    core: Literal["full", "diagonal"] = "full"
    """C has r x r or r generated numbers: (h + 1) r^2 or (h + 1) r parameters a layer."""
    core_cap: Positive | None = None
    """Largest Frobenius norm of a C; None: no cap."""
    head_sd: NonNegative = 0.02
    """Standard deviation of the initial weights that generate C; 0: M = 1 exactly at first."""
    layer_biases: bool = False
    """Scenes have biases of the hidden layers, too: sum of the widths more parameters a scene."""


class WeightedLinear(nn.Module):
    """A linear layer whose weights (inputs, outputs) are multiplied by a matrix per scene.

    Args:
        inputs: columns.
        outputs: columns.
        hidden: h of the auxiliary network.
        config: settings.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int, config: MiDpgConfig) -> None:
        super().__init__()
        rank = config.rank
        self.config = config
        self.linear = nn.Linear(inputs, outputs)
        # Reconstruction: variance 1 / r, so that entries of U C V are spread as those of C.
        self.left = nn.Parameter(torch.randn(inputs, rank) / math.sqrt(rank))
        self.right = nn.Parameter(torch.randn(rank, outputs) / math.sqrt(rank))
        self.head = nn.Linear(hidden, rank**2 if config.core == "full" else rank)
        # Reconstruction: nearly 0, so that training starts from the shared network, but not 0, so
        # that factors and embeddings of scenes learn from the first step.
        nn.init.normal_(self.head.weight, std=config.head_sd)
        nn.init.zeros_(self.head.bias)

    def code(self, hidden: Tensor) -> Tensor:
        """The generated numbers of C, (N, r^2) or (N, r), of hidden units (N, h)."""
        code, cap = self.head(hidden), self.config.core_cap
        if cap is None:
            return code
        norm = torch.sqrt(code.square().sum(1, keepdim=True) + TINY)
        return code * (cap / norm).clamp(max=1.0)

    def columns(self, code: Tensor) -> Tensor:
        """U C, (N, inputs, r), of codes (N, r^2) or (N, r)."""
        if self.config.core == "diagonal":
            return self.left * code.unsqueeze(1)
        return self.left @ code.unflatten(1, (self.config.rank, self.config.rank))

    def weighting(self, code: Tensor) -> Tensor:
        """M, (N, inputs, outputs), one matrix per code."""
        residual = self.columns(code) @ self.right  # R = U C V
        # Reconstruction: the neutral element of a product is 1, so a weighting departs from it.
        return 1 + residual if self.config.gate == "residual" else 2 * torch.sigmoid(residual)

    def forward(self, units: Tensor, code: Tensor, place: Tensor) -> Tensor:
        """H (W * M) + b, (B, outputs), of units h (B, inputs) at places (B,) of codes (N, .).

        No matrix per row is built: with A = U C, the residual form is
        h W + sum_k [(h * A_k) W] * V_k, r + 1 products with W.
        """
        weight, bias = self.linear.weight, self.linear.bias  # weight: (outputs, inputs)
        if not len(place):
            return linear(units, weight, bias)
        if self.config.gate == "residual":
            scaled = units.unsqueeze(1) * self.columns(code).mT[place]  # (B, r, inputs)
            return linear(units, weight, bias) + (linear(scaled, weight) * self.right).sum(1)
        factors = self.weighting(code).mT
        return grouped(place, lambda s, rows: linear(units[rows], weight * factors[s], bias))


class MiDpg(SceneNet):
    """A shared backbone with a generated weighting of every layer, and a bias per scene.

    One more scene costs scene_dim + outputs parameters (and the widths with `layer_biases`).
    Args and errors are those of `SceneNet`; `config` are settings of the weighting.
    """

    def __init__(
        self,
        fields: Fields,
        sizes: SceneSizes,
        num_scenes: int,
        outputs: int = 1,
        *,
        config: MiDpgConfig | None = None,
    ) -> None:
        super().__init__(fields, sizes, num_scenes, outputs)
        self.config = config = config or MiDpgConfig()
        self.scene = self.scene_table()
        # Reconstruction: the scene-aware input is an embedding of the scene, and nothing else: the
        # weighting is the same for all rows of a scene, and can be folded into the weights.
        self.auxiliary = Mlp(sizes.scene_dim, config.auxiliary_widths, None)
        widths, hidden = [self.inputs, *sizes.widths, outputs], config.auxiliary_widths[-1]
        self.layers = nn.ModuleList(
            WeightedLinear(*pair, hidden, config) for pair in pairwise(widths)
        )
        extra = sizes.widths if config.layer_biases else ()
        self.layer_biases = nn.ParameterList(torch.zeros(num_scenes, width) for width in extra)
        self.bias = self.scene_bias()

    def _layers(self) -> list[WeightedLinear]:
        return [layer for layer in self.layers if isinstance(layer, WeightedLinear)]

    def codes(self) -> list[Tensor]:
        """The generated numbers of each layer's C, (S + 1, r^2) or (S + 1, r), by place."""
        hidden = self.auxiliary(self.rows(self.scene))  # once per batch, not per row
        return [layer.code(hidden) for layer in self._layers()]

    def code(self) -> Tensor:
        """All generated numbers of the S scenes, (S, code_size)."""
        return torch.cat(self.codes(), dim=1)[:-1]

    @property
    def code_size(self) -> int:
        """Generated numbers of a scene."""
        return sum(layer.head.out_features for layer in self._layers())

    def weightings(self) -> list[Tensor]:
        """M of each layer, (S + 1, inputs, outputs), by place."""
        pairs = zip(self._layers(), self.codes(), strict=True)
        return [layer.weighting(code) for layer, code in pairs]

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs) of embeddings (B, inputs) at places (B,)."""
        units, last = inputs, len(self.layers) - 1
        for i, (layer, code) in enumerate(zip(self._layers(), self.codes(), strict=True)):
            units = layer(units, code, place)
            if len(self.layer_biases) and i < last:
                units = units + self.rows(self.layer_biases[i])[place]
            if i < last:
                units = activate(units, self.sizes.normalise)
        # A bias per scene: base rates differ, and weightings of the last layer cannot shift them.
        return units + self.rows(self.bias)[place]

    @torch.no_grad()
    def folded(self, place: int) -> Mlp:
        """A plain network over the embeddings (B, inputs) that equals this one in one scene.

        It is what this network says in eval mode, whatever its mode is now.

        Args:
            place: scene in 0..S-1, or S for one never seen.
        """
        sizes, training = self.sizes, self.training
        self.eval()
        plain = Mlp(self.inputs, sizes.widths, self.outputs, normalise=sizes.normalise)
        extra = [self.rows(bias)[place] for bias in [*self.layer_biases, self.bias]]
        extra = [torch.zeros(())] * (len(self.layers) - len(extra)) + extra
        parts = zip(plain.layers, self._layers(), self.weightings(), extra, strict=True)
        for to, layer, factors, bias in parts:
            assert isinstance(to, nn.Linear)
            to.weight.copy_(layer.linear.weight * factors[place].mT)
            to.bias.copy_(layer.linear.bias + bias)
        self.train(training)
        return plain.to(self.bias.device)

    @torch.no_grad()
    def departure(self) -> Tensor:
        """Mean |M - 1| per layer and scene, (layers, S): how far weightings are from neutral."""
        return torch.stack([(m[:-1] - 1).abs().mean((1, 2)) for m in self.weightings()])

    @torch.no_grad()
    def spread(self) -> float:
        """Mean over pairs of scenes of the Frobenius norm of M(s) - M(s'), all layers; S >= 2."""
        flat = torch.cat([m[:-1].flatten(1) for m in self.weightings()], dim=1)
        return torch.pdist(flat).mean().item()


class InformationConfig(BaseModel):
    """Settings of the mutual-information term."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    estimator: Literal["classifier", "infonce"] = "classifier"
    """A classifier of the scene, or a critic of pairs of scene embedding and code."""
    weight: NonNegative = 0.05
    """Of the bound (nats) against the cross-entropy (nats a row); the loss has it subtracted."""
    warm_up_steps: Annotated[int, Field(ge=0)] = 1000
    """Training steps in which the weight rises from 0."""
    noise: NonNegative = 0.3
    """Standard deviation of the noise on the code, in root mean squares of the code."""
    draws: Size = 4
    """Draws of the noise a step."""
    temperature: Positive = 0.1
    """Of the critic."""
    critic_dim: Size = 16
    """Columns of the critic's projections."""

    def weight_at(self, step: int) -> float:
        """Weight in a training step, counted from 0: linear from 0 in the warm-up."""
        if step >= self.warm_up_steps:
            return self.weight
        return self.weight * step / self.warm_up_steps


class InformationBound(nn.Module):
    """A lower bound, in nats, on the mutual information of the scene and its noisy weighting code.

    H(s) + E[log q(s | y)] <= I(s; y), y = c_s / rms(c) + noise. Its weights are apart from those of
    the network for several scenes: they are not needed once it is trained.

    Sources: Barber and Agakov, NIPS 2003 (the bound, and q as a classifier); van den Oord et al.,
    arXiv:1807.03748 (InfoNCE: q is a softmax over the candidates' critic values).

    Args:
        num_scenes: S >= 1.
        code_size: of a code.
        scene_dim: of an embedding of a scene; used by the critic.
        config: settings.
    """

    def __init__(
        self,
        num_scenes: int,
        code_size: int,
        scene_dim: int,
        config: InformationConfig | None = None,
    ) -> None:
        super().__init__()
        self.config = config = config or InformationConfig()
        critic = config.estimator == "infonce"
        # Reconstruction: linear, which is exact for Gaussians of one variance (as the noise is),
        # and limits what differences the term can be satisfied with.
        self.classifier = None if critic else nn.Linear(code_size, num_scenes)
        self.scene_side = nn.Linear(scene_dim, config.critic_dim) if critic else None
        self.code_side = nn.Linear(code_size, config.critic_dim) if critic else None

    def noisy(self, code: Tensor, generator: torch.Generator, used: Tensor) -> Tensor:
        """y, (draws, S, code_size), of codes (S, code_size); `used` (S,): bool, in the unit."""
        # Reconstruction: without noise a weighting that differs by anything at all tells its scene,
        # and the bound is at its maximum. In units of the root mean square over the scenes, what
        # they have in common included, the code cannot outgrow the noise, and must differ. The unit
        # is not trained: else the term would shrink the common part rather than part the scenes.
        scale = torch.sqrt(code.detach()[used].square().mean() + TINY)
        shape = (self.config.draws, *code.shape)
        draws = torch.randn(shape, generator=generator, device=code.device, dtype=code.dtype)
        return code / scale + self.config.noise * draws

    def _scores(self, noisy: Tensor, scene: Tensor) -> Tensor:
        """Logits of q before the shares of the scenes, (draws, S, candidates S)."""
        if self.classifier is not None:
            return self.classifier(noisy)
        assert self.scene_side is not None
        assert self.code_side is not None
        code, candidates = self.code_side(noisy).unsqueeze(2), self.scene_side(scene)
        return cosine_similarity(code, candidates, dim=-1) / self.config.temperature

    def forward(
        self,
        code: Tensor,
        scene: Tensor,
        generator: torch.Generator,
        share: Tensor | None = None,
    ) -> Tensor:
        """The bound (), at most H(s) <= log S; to be maximised.

        Args:
            code: (S, code_size).
            scene: (S, scene_dim), embeddings of the scenes.
            generator: of the noise.
            share: (S,) of the scenes, sum 1; those of 0 are left out. None: all alike.
        """
        alike = torch.full_like(code[:, 0], 1 / len(code))
        share = alike if share is None else share
        used = share > 0
        scores = self._scores(self.noisy(code, generator, used), scene) + share.log()
        log_q = scores.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(0)  # (S,)
        return torch.special.entr(share).sum() + (share[used] * log_q[used]).sum()
