"""Networks for several scenes with a tower per scene: over shared layers, or mixtures of experts.

Sources: the papers named at each network, and the public code of two benchmarks of them
(alipay/MMLRec, Xiaopengli1/Scenario-Wise-Rec). Unlike there, a row is computed in its own scene
only (but for the lower levels of PLE), which changes no output.
"""

from typing import Any

import torch
from torch import Tensor, nn

from predictors.scene_nets import Mlp, SceneNet, SceneSizes, check_least


class SharedBottom(SceneNet):
    """Shared lower layers and a tower per scene (Caruana, Machine Learning 28, 1997)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        sizes = self.sizes
        self.bottom = Mlp(self.inputs, sizes.bottom, None, normalise=sizes.normalise)
        self.towers = _towers(self, self.bottom.width)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        units = self.bottom(inputs)
        return self.by_scene(place, lambda s, rows: self.towers[s](units[rows]))


def _towers(net: SceneNet, inputs: int) -> nn.ModuleList:
    """A tower per scene."""
    sizes = net.sizes
    return nn.ModuleList(
        Mlp(inputs, sizes.tower, net.outputs, normalise=sizes.normalise)
        for _ in range(net.num_scenes)
    )


def _experts(inputs: int, sizes: SceneSizes, count: int) -> nn.ModuleList:
    return nn.ModuleList(
        Mlp(inputs, sizes.bottom, None, normalise=sizes.normalise) for _ in range(count)
    )


def _mixed(gate: nn.Module, inputs: Tensor, experts: Tensor) -> Tensor:
    """Outputs of experts (B, K, width), weighted by a softmax over a gate's (B, K): (B, width)."""
    weight = gate(inputs).softmax(1)
    return torch.bmm(weight.unsqueeze(1), experts).squeeze(1)


class Mmoe(SceneNet):
    """Shared experts, and per scene a gate over them and a tower (Ma et al., KDD 2018).

    Args:
        args: see `SceneNet`.
        experts: number of experts, each with the lower layers; >= 1.
        options: see `SceneNet`.
    """

    def __init__(self, *args: Any, experts: int = 4, **options: Any) -> None:
        super().__init__(*args, **options)
        check_least(1, experts=experts)
        self.experts = _experts(self.inputs, self.sizes, experts)
        width = ([self.inputs, *self.sizes.bottom])[-1]
        scenes = range(self.num_scenes)
        self.gates = nn.ModuleList(nn.Linear(self.inputs, experts, bias=False) for _ in scenes)
        self.towers = _towers(self, width)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        experts = torch.stack([expert(inputs) for expert in self.experts], dim=1)

        def one(scene: int, rows: Tensor) -> Tensor:
            units = _mixed(self.gates[scene], inputs[rows], experts[rows])
            return self.towers[scene](units)

        return self.by_scene(place, one)


class _Extraction(nn.Module):
    """A level of PLE: experts and gates of S scenes, and shared ones."""

    def __init__(
        self, inputs: int, sizes: SceneSizes, scenes: int, counts: tuple[int, int], *, last: bool
    ) -> None:
        super().__init__()
        own, shared = counts
        self.shared = _experts(inputs, sizes, shared)
        self.own = nn.ModuleList(_experts(inputs, sizes, own) for _ in range(scenes))
        self.gates = nn.ModuleList(
            nn.Linear(inputs, own + shared, bias=False) for _ in range(scenes)
        )
        every = scenes * own + shared
        self.gate = None if last else nn.Linear(inputs, every, bias=False)

    def own_experts(self, scene: int, inputs: Tensor) -> list[Tensor]:
        """Outputs (B, width) of a scene's experts."""
        experts = self.own[scene]
        assert isinstance(experts, nn.ModuleList)
        return [expert(inputs) for expert in experts]

    def scene(self, scene: int, inputs: Tensor, own: list[Tensor], shared: list[Tensor]) -> Tensor:
        """What a scene makes of its own experts and the shared ones, (B, width)."""
        return _mixed(self.gates[scene], inputs, torch.stack([*own, *shared], dim=1))

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        """Of S scenes and the shared part, S + 1 of (B, inputs), to S + 1 of (B, width)."""
        assert self.gate is not None
        shared = [expert(inputs[-1]) for expert in self.shared]
        own = [self.own_experts(scene, each) for scene, each in enumerate(inputs[:-1])]
        found = [self.scene(s, inputs[s], own[s], shared) for s in range(len(own))]
        every = [output for outputs in own for output in outputs] + shared
        return [*found, _mixed(self.gate, inputs[-1], torch.stack(every, dim=1))]


class Ple(SceneNet):
    """Levels of shared experts and experts per scene, then towers (Tang et al., RecSys 2020).

    Below the last level every row passes through all scenes: time and memory grow with S.

    Args:
        args: see `SceneNet`.
        own: experts of a scene and level, >= 1.
        shared: shared experts of a level, >= 1.
        levels: each with the lower layers, >= 1; 1 is the paper's CGC.
        options: see `SceneNet`.
    """

    def __init__(
        self, *args: Any, own: int = 1, shared: int = 2, levels: int = 2, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        check_least(1, own=own, shared=shared, levels=levels)
        width = ([self.inputs, *self.sizes.bottom])[-1]
        self.levels = nn.ModuleList(
            _Extraction(
                width if level else self.inputs,
                self.sizes,
                self.num_scenes,
                (own, shared),
                last=level == levels - 1,
            )
            for level in range(levels)
        )
        self.towers = _towers(self, width)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs)."""
        units = [inputs] * (self.num_scenes + 1)
        *lower, last = self.levels
        assert isinstance(last, _Extraction)
        for level in lower:
            units = level(units)
        shared = [expert(units[-1]) for expert in last.shared]

        def one(scene: int, rows: Tensor) -> Tensor:
            own = units[scene][rows]
            parts = [expert[rows] for expert in shared]
            mixed = last.scene(scene, own, last.own_experts(scene, own), parts)
            return self.towers[scene](mixed)

        return self.by_scene(place, one)
