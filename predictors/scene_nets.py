"""What networks for several scenes share: one interface, layers, routing, parameter counts.

A `SceneNet` maps ids (B, F) and scenes (B,) to logits (B, outputs). S is the number of scenes it
is built for. Every such network also answers for a scene that it has never been trained on.

Sources: the shape of the trunk (one set of embeddings, hidden layers that are shared and hidden
layers per scene) is that of the public multi-scene benchmarks alipay/MMLRec and
Xiaopengli1/Scenario-Wise-Rec; the answer for scenes never seen is a reconstruction.
"""

from collections.abc import Callable, Container, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm

from predictors.nets import Fields

LEAST_ROWS = 100
"""Trained rows from which on a scene answers for itself."""


class SceneSizes(NamedTuple):
    """Of embeddings and hidden layers; networks without towers have bottom + tower as layers."""

    dim: int  # columns of an embedding of an id
    sd: float  # of the initial embeddings
    bottom: tuple[int, ...]  # widths of the hidden layers that scenes share, where they share some
    tower: tuple[int, ...]  # widths of the hidden layers of a scene, where it has its own
    scene_dim: int  # columns of an embedding of a scene
    scene_sd: float  # of the initial embeddings of scenes
    normalise: bool = False  # hidden units over their layer, without weights, before the ReLU

    @property
    def widths(self) -> tuple[int, ...]:
        """Of all hidden layers."""
        return self.bottom + self.tower


def check_least(least: int, **values: int) -> None:
    """Raises ValueError if one of some named numbers is less than `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} must be >= {least}, got {value}")


def activate(units: Tensor, normalise: bool) -> Tensor:
    """ReLU of units (B, width).

    Normalised, if at all, within a row: statistics of a batch would mix the scenes.
    """
    return torch.relu(layer_norm(units, units.shape[-1:]) if normalise else units)


class Mlp(nn.Module):
    """Linear layers with `activate` between: (B, inputs) to (B, outputs).

    Args:
        inputs: columns.
        widths: of the hidden layers.
        outputs: of a last layer without activation; None: the last hidden layer is the output.
        normalise: see `activate`.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], outputs: int | None, *, normalise: bool = False
    ) -> None:
        super().__init__()
        sizes = [inputs, *widths] + ([] if outputs is None else [outputs])
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.hidden, self.width, self.normalise = len(widths), sizes[-1], normalise

    def forward(self, units: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        for place, layer in enumerate(self.layers):
            units = layer(units)
            if place < self.hidden:
                units = activate(units, self.normalise)
        return units


class Known(NamedTuple):
    """Of which scenes enough is known."""

    own: Tensor  # (S,) bool, those that answer for themselves
    pooled: Tensor  # (S,) bool, at least one: those whose mean answers for all others


def with_mean(weight: Tensor, known: Known) -> Tensor:
    """Rows of S scenes and one more, (S + 1, ...), of (S, ...); means where `known` says so."""
    mean = weight[known.pooled].mean(0, keepdim=True)
    mask = known.own.view(-1, *[1] * (weight.dim() - 1))
    return torch.cat([torch.where(mask, weight, mean), mean])


def grouped(place: Tensor, apply: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Outputs (B, ...) of rows that are computed scene by scene, in the order of the rows.

    Args:
        place: (B,) int64, >= 0, B >= 1.
        apply: to a place and the row numbers (n,) of that place, n >= 1; outputs (n, ...).
    """
    order = place.argsort(stable=True)
    groups = order.split(place.bincount().tolist())
    parts = [apply(each, rows) for each, rows in enumerate(groups) if len(rows)]
    return torch.cat(parts)[order.argsort()]


class SceneColumn:
    """Takes the scene out of the ids of all fields.

    Args:
        fields: all, F >= 2.
        field: of the scene, in [0, F).

    Attributes:
        others: the fields without the scene.
        num_scenes: S.

    Raises:
        ValueError: no such field, or no other one.
    """

    def __init__(self, fields: Fields, field: int) -> None:
        sizes = fields.cardinalities
        if not (len(sizes) > 1 and 0 <= field < len(sizes)):
            raise ValueError(
                f"scene_field must be in [0, {len(sizes)}) and not the only field, got {field}"
            )
        self.field, self.num_scenes = field, sizes[field]
        self.others = Fields(sizes[:field] + sizes[field + 1 :])
        self._first = sum(sizes[:field]) + field  # row of scene 0; each field has an unknown id

    def split(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Rows (B, F) of all fields as rows (B, F - 1) of the others, and scenes (B,) in 0..S.

        S is a scene outside its field.
        """
        before, scene, after = ids.tensor_split((self.field, self.field + 1), dim=1)
        others = torch.cat([before, after - (self.num_scenes + 1)], dim=1)
        return others, scene.squeeze(1) - self._first


class Scenes(nn.Module):
    """Which scenes have been trained on, and what the others get.

    In eval mode a scene answers for itself once it was trained on `LEAST_ROWS` rows: after its
    first ones its parameters are still as drawn, and worse than those of other scenes. Any other,
    whether its number is among 0..S-1 or not, gets the mean of the parameters that the scenes with
    so many rows select (embedding, bias, weighting). If no scene has so many, it is the mean of
    those with any; if none has any, of all. In training mode a scene answers for itself from its
    first row on, so that it learns.

    Args:
        num_scenes: S >= 1.

    Attributes:
        trained: (S,) int64, rows of each scene in batches in training mode so far, every pass over
            them counted; saved with the weights.

    Raises:
        ValueError: no scene.
    """

    trained: Tensor

    def __init__(self, num_scenes: int) -> None:
        super().__init__()
        check_least(1, num_scenes=num_scenes)
        self.num_scenes = num_scenes
        self.register_buffer("trained", torch.zeros(num_scenes, dtype=torch.int64))

    def places(self, scene: Tensor) -> Tensor:
        """Scenes (B,) as 0..S, where S is any other; in training mode they are counted."""
        known = (scene >= 0) & (scene < self.num_scenes)
        place = torch.where(known, scene, self.num_scenes).long()
        if self.training:
            self.trained += place.bincount(minlength=self.num_scenes + 1)[:-1]
        return place

    def known(self) -> Known:
        """Scenes that answer for themselves, and for others, in the module's mode."""
        # Reconstruction: no source says when a scene has been trained on enough.
        some = self.trained > 0
        some = some if some.any() else torch.ones_like(some)
        if self.training:
            return Known(some, some)
        enough = self.trained >= LEAST_ROWS
        return Known(enough, enough if enough.any() else some)

    def rows(self, weight: Tensor) -> Tensor:
        """Rows (S + 1, ...) of parameters (S, ...), by place."""
        # Reconstruction: no source says what a new scene gets. The mean adds no parameter, and is
        # where the shared layers expect their inputs.
        return with_mean(weight, self.known())


class SceneNet(Scenes):
    """Base of the networks for several scenes.

    A scene that was trained on too few rows gets what `Scenes` says; where a scene has layers of
    its own, the mean of their logits.

    Args:
        fields: of the ids.
        sizes: of the network.
        num_scenes: S >= 1.
        outputs: logits of a row, >= 1.
        table: whether there is one set of embeddings of ids; else `logits` gets the ids.

    Attributes are those of `Scenes`.

    Raises:
        ValueError: no scene, or no output.
    """

    def __init__(
        self,
        fields: Fields,
        sizes: SceneSizes,
        num_scenes: int,
        outputs: int = 1,
        *,
        table: bool = True,
    ) -> None:
        super().__init__(num_scenes)
        check_least(1, outputs=outputs)
        self.sizes, self.outputs = sizes, outputs
        self.inputs = len(fields.cardinalities) * sizes.dim
        self.table = fields.table(sizes.dim, sizes.sd) if table else None

    def forward(self, ids: Tensor, scene: Tensor) -> Tensor:
        """Logits (B, outputs) of ids (B, F) in scenes (B,), integers.

        Raises:
            ValueError: scenes of another shape, or not integers.
        """
        if scene.shape != ids.shape[:1] or scene.is_floating_point():
            raise ValueError(
                f"scene must be integers of shape ({len(ids)},), "
                f"got {scene.dtype} of shape {tuple(scene.shape)}"
            )
        place = self.places(scene)
        inputs = ids if self.table is None else embedding(ids, self.table).flatten(1)
        return self.logits(inputs, place)

    def logits(self, inputs: Tensor, place: Tensor) -> Tensor:
        """(B, outputs) of embeddings (B, inputs) at places (B,) in 0..S; S is no known scene."""
        raise NotImplementedError

    def by_scene(self, place: Tensor, apply: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Logits (B, outputs) where scenes have layers of their own.

        Args:
            place: (B,) in 0..S.
            apply: to a scene in 0..S-1 and row numbers (n,); logits (n, outputs).
        """
        if not len(place):
            return torch.zeros(0, self.outputs, device=place.device)
        own, pooled = (mask.nonzero().flatten().tolist() for mask in self.known())

        def mean(each: int, rows: Tensor) -> Tensor:
            scenes = [each] if each in own else pooled
            return torch.stack([apply(scene, rows) for scene in scenes]).mean(0)

        return grouped(place, mean)

    def scene_table(self) -> nn.Parameter:
        """New embeddings of the scenes (S, scene_dim)."""
        return nn.Parameter(
            self.sizes.scene_sd * torch.randn(self.num_scenes, self.sizes.scene_dim)
        )

    def scene_bias(self) -> nn.Parameter:
        """New biases of the scenes' logits (S, outputs), zero."""
        return nn.Parameter(torch.zeros(self.num_scenes, self.outputs))


class ParameterCount(NamedTuple):
    """Numbers of trainable parameters."""

    total: int  # all
    tables: int  # of these, embeddings of ids
    per_scene: int  # more for one more scene, embeddings of ids included


def num_parameters(net: nn.Module) -> int:
    """Trainable parameters."""
    return sum(weight.numel() for weight in net.parameters() if weight.requires_grad)


def count_parameters(
    build: Callable[[int], nn.Module], num_scenes: int, tables: Container[str] = ("table",)
) -> ParameterCount:
    """Parameters of a kind of network, in all and for one more scene.

    Args:
        build: makes the network for a number of scenes.
        num_scenes: S >= 1.
        tables: names of the attributes that are embeddings of ids.
    """
    net, more = build(num_scenes), build(num_scenes + 1)
    total = num_parameters(net)
    weights = net.named_parameters()
    of_ids = sum(w.numel() for name, w in weights if name.split(".")[-1] in tables)
    return ParameterCount(total, of_ids, num_parameters(more) - total)
