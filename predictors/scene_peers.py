"""Networks that several scenes share in other ways than `MiDpg`, to compare it with.

From nothing shared to everything: `OnePerScene`; those of `scene_experts.py`, with towers; `Star`,
`Apg`, `PepNet`, `SceneInput`, `SharedMlp`. All have the embeddings, hidden layers and activation of
`scene_nets`, so that they differ in what is shared, and in nothing else.

Sources: the papers named at each network, and the public code of two benchmarks of them
(alipay/MMLRec, Xiaopengli1/Scenario-Wise-Rec).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from predictors.mi_dpg import MiDpg
from predictors.nets import Fields
from predictors.scene_experts import Mmoe, Ple, SharedBottom
from predictors.scene_nets import (
    Known,
    Mlp,
    SceneNet,
    SceneSizes,
    activate,
    check_least,
    with_mean,
)


class SharedMlp(SceneNet):
    """One network that does not know the scene."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        sizes = self.sizes
        self.mlp = Mlp(self.inputs, sizes.widths, self.outputs, normalise=sizes.normalise)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        return self.mlp(inputs)


class SceneInput(SceneNet):
    """One network that reads an embedding of the scene, and a bias per scene."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        sizes = self.sizes
        self.scene, self.bias = self.scene_table(), self.scene_bias()
        inputs = self.inputs + sizes.scene_dim
        self.mlp = Mlp(inputs, sizes.widths, self.outputs, normalise=sizes.normalise)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        units = torch.cat([inputs, self.rows(self.scene)[place]], dim=1)
        return self.mlp(units) + self.rows(self.bias)[place]


class PartitionedNorm(nn.Module):
    """Normalises columns with the statistics of the row's scene: (B, width) to (B, width).

    (gamma gamma_s) (x - mean_s) / sqrt(var_s + 1e-6) + beta + beta_s, STAR, section 3.3. Scenes
    with one row in a batch, and rows of no known scene, use the running statistics.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, scenes: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.scales = nn.Parameter(torch.ones(scenes, width))
        self.shifts = nn.Parameter(torch.zeros(scenes, width))
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(scenes, width))
        self.register_buffer("var", torch.ones(scenes, width))

    def _of_batch(self, units: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts (S, 1), means and variances (S, width) of the scenes in a batch."""
        rows = len(self.mean) + 1
        sums, count = units.new_zeros(rows, units.shape[1]), place.bincount(minlength=rows)
        per = count.clamp(min=1).unsqueeze(1)
        mean = sums.index_add(0, place, units) / per
        var = sums.index_add(0, place, (units - mean[place]).square()) / per
        return count[:-1].unsqueeze(1), mean[:-1], var[:-1]

    def forward(self, units: Tensor, place: Tensor, known: Known) -> Tensor:
        """(B, width), of places (B,) in 0..S; `known`: see `with_mean`."""
        mean, var = self.mean.clone(), self.var.clone()
        if self.training:
            count, now, spread = self._of_batch(units, place)
            many = count > 1
            # Unbiased, as `nn.BatchNorm1d` keeps it: a rare scene has two or three rows in a batch.
            unbiased = torch.where(many, spread * count / (count - 1).clamp(min=1), var)
            mean, var = torch.where(many, now, mean), torch.where(many, spread, var)
            self.mean.lerp_(mean.detach(), self.momentum)  # no change where there are no such rows
            self.var.lerp_(unbiased.detach(), self.momentum)
        mean, var, scales, shifts = (
            with_mean(each, known)[place] for each in (mean, var, self.scales, self.shifts)
        )
        return self.scale * scales * (units - mean) / torch.sqrt(var + 1e-6) + self.shift + shifts


class Star(SceneNet):
    """Shared weights times a scene's, element by element (Sheng et al., CIKM 2021).

    STAR, arXiv:2101.11427, sections 3.3 to 3.5.

    Args:
        args: see `SceneNet`.
        partitioned: the input is normalised per scene.
        auxiliary: hidden units of a network that reads scene and input, and whose logit is added;
            0: no such network.
        options: see `SceneNet`.
    """

    def __init__(
        self, *args: Any, partitioned: bool = True, auxiliary: int = 16, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        check_least(0, auxiliary=auxiliary)
        sizes = self.sizes
        self.norm = PartitionedNorm(self.inputs, self.num_scenes) if partitioned else None
        self.mlp = Mlp(self.inputs, sizes.widths, self.outputs, normalise=sizes.normalise)
        shapes = [_weight(layer).shape for layer in self.mlp.layers]
        # Ones and zeros: all scenes start as the shared network. (A public re-implementation draws
        # them, and rectifies the logit: it cannot be negative there.)
        self.weights = nn.ParameterList(torch.ones(self.num_scenes, *shape) for shape in shapes)
        self.biases = nn.ParameterList(torch.zeros(self.num_scenes, shape[0]) for shape in shapes)
        self.scene = self.scene_table() if auxiliary else None
        read = self.inputs + sizes.scene_dim
        self.auxiliary = Mlp(read, (auxiliary,), self.outputs) if auxiliary else None

    def _one(self, scene: int, units: Tensor) -> Tensor:
        """Logits (n, outputs) in one scene."""
        for i, layer in enumerate(self.mlp.layers):
            weight = _weight(layer) * self.weights[i][scene]
            units = linear(units, weight, layer.bias + self.biases[i][scene])  # pyright: ignore
            if i < self.mlp.hidden:
                units = activate(units, self.sizes.normalise)
        return units

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        units = inputs if self.norm is None else self.norm(inputs, place, self.known())
        found = self.by_scene(place, lambda s, rows: self._one(s, units[rows]))
        if self.scene is None or self.auxiliary is None:
            return found
        read = torch.cat([inputs, self.rows(self.scene)[place]], dim=1)
        return found + self.auxiliary(read)


def _weight(layer: nn.Module) -> Tensor:
    assert isinstance(layer, nn.Linear)
    return layer.weight


class GeneratedLinear(nn.Module):
    """x P K S(s) K' P' + b, where a linear layer generates S (k x k) from the scene's embedding.

    APG, Yan et al., NeurIPS 2022, arXiv:2203.16218, with the sizes of alipay/MMLRec:
    k = ceil(m / 16) and p = ceil(m / 4), m the smaller of inputs and outputs.

    Args:
        inputs: columns.
        outputs: columns.
        scene_dim: of an embedding of a scene.
        rank: k >= 1; None: as above.
    """

    def __init__(self, inputs: int, outputs: int, scene_dim: int, rank: int | None) -> None:
        super().__init__()
        small = min(inputs, outputs)
        self.rank = math.ceil(small / 16) if rank is None else rank
        check_least(1, rank=self.rank)
        wide = max(math.ceil(small / 4), self.rank)
        self.enter = nn.Sequential(
            nn.Linear(inputs, wide, bias=False), nn.Linear(wide, self.rank, bias=False)
        )
        self.leave = nn.Sequential(nn.Linear(self.rank, wide, bias=False), nn.Linear(wide, outputs))
        self.core = nn.Linear(scene_dim, self.rank**2)
        self.bias = nn.Linear(scene_dim, self.rank)
        with torch.no_grad():
            # Reconstruction: S starts near 1, not near 0, where nothing would pass.
            self.core.bias.copy_(torch.eye(self.rank).flatten())
            self.bias.bias.zero_()

    def forward(self, units: Tensor, scenes: Tensor, place: Tensor) -> Tensor:
        """(B, outputs), of units (B, inputs), embeddings (S + 1, scene_dim), places (B,)."""
        cores = self.core(scenes).unflatten(1, (self.rank, self.rank))[place]  # (B, k, k)
        low = torch.bmm(self.enter(units).unsqueeze(1), cores).squeeze(1)
        return self.leave(low + self.bias(scenes)[place])


class Apg(SceneNet):
    """Hidden layers of generated low-rank weights, a shared last layer, a bias per scene.

    Args:
        args: see `SceneNet`.
        rank: see `GeneratedLinear`.
        options: see `SceneNet`.
    """

    def __init__(self, *args: Any, rank: int | None = 8, **options: Any) -> None:
        super().__init__(*args, **options)
        sizes = self.sizes
        self.scene, self.bias = self.scene_table(), self.scene_bias()
        pairs = zip([self.inputs, *sizes.widths], sizes.widths, strict=False)
        self.layers = nn.ModuleList(GeneratedLinear(*p, sizes.scene_dim, rank) for p in pairs)
        self.output = nn.Linear([self.inputs, *sizes.widths][-1], self.outputs)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        units, scenes = inputs, self.rows(self.scene)
        for layer in self.layers:
            units = activate(layer(units, scenes, place), self.sizes.normalise)
        return self.output(units) + self.rows(self.bias)[place]


class Gate(nn.Module):
    """2 sigmoid(MLP(inputs, scene)), in (0, 2): factors (B, width), PEPNet section 3.2."""

    def __init__(self, inputs: int, hidden: int, width: int) -> None:
        super().__init__()
        self.mlp = Mlp(inputs, (hidden,), width)
        output = self.mlp.layers[-1]
        assert isinstance(output, nn.Linear)
        # Reconstruction: all factors start at 1, so that training starts from the shared network.
        nn.init.zeros_(output.weight)
        nn.init.zeros_(output.bias)

    def forward(self, units: Tensor) -> Tensor:
        """(B, inputs) to (B, width)."""
        return 2 * torch.sigmoid(self.mlp(units))


class PepNet(SceneNet):
    """Factors of embeddings and of hidden units, from the scene and the embeddings; a scene's bias.

    PEPNet, Chang et al., KDD 2023, arXiv:2302.01115. Gates read the embeddings of ids, and do not
    train them. Reconstruction: its gates of hidden units read user, item and author, too; here the
    ids among the features stand for them.

    Args:
        args: see `SceneNet`.
        gate_width: hidden units of a gate, >= 1.
        options: see `SceneNet`.
    """

    def __init__(self, *args: Any, gate_width: int = 16, **options: Any) -> None:
        super().__init__(*args, **options)
        check_least(1, gate_width=gate_width)
        sizes = self.sizes
        self.scene, self.bias = self.scene_table(), self.scene_bias()
        self.mlp = Mlp(self.inputs, sizes.widths, self.outputs, normalise=sizes.normalise)
        read = self.inputs + sizes.scene_dim
        self.gates = nn.ModuleList(
            Gate(read, gate_width, width) for width in (self.inputs, *sizes.widths)
        )

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        read = torch.cat([inputs.detach(), self.rows(self.scene)[place]], dim=1)
        units = inputs
        for gate, layer in zip(self.gates, self.mlp.layers, strict=True):
            units = layer(gate(read) * units)
            if layer is not self.mlp.layers[-1]:
                units = activate(units, self.sizes.normalise)
        return units + self.rows(self.bias)[place]


class OnePerScene(SceneNet):
    """A network of its own for every scene, embeddings included."""

    def __init__(
        self, fields: Fields, sizes: SceneSizes, num_scenes: int, outputs: int = 1
    ) -> None:
        super().__init__(fields, sizes, num_scenes, outputs, table=False)
        nets = (SharedMlp(fields, sizes, 1, outputs) for _ in range(num_scenes))
        self.nets = nn.ModuleList(nets)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs), of ids (B, F)."""
        none = torch.zeros_like(place)
        return self.by_scene(place, lambda s, rows: self.nets[s](inputs[rows], none[rows]))


SCENE_NETS: dict[str, type[SceneNet]] = {
    "mi_dpg": MiDpg,
    "shared_mlp": SharedMlp,
    "scene_input": SceneInput,
    "shared_bottom": SharedBottom,
    "mmoe": Mmoe,
    "ple": Ple,
    "star": Star,
    "apg": Apg,
    "pepnet": PepNet,
    "one_per_scene": OnePerScene,
}
"""Networks for several scenes by name; all take (fields, sizes, num_scenes, outputs)."""
