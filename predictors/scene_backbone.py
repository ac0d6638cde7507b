"""Backbones of TESLA's and READER's networks whose weights are weighted per scene, as MI-DPG's.

The layers are those of `mi_dpg.WeightedLinear`. All networks that make one estimate (both towers
of TESLA; encoder and towers of READER) share the embeddings of the scenes and the auxiliary
network; every output has a bias per scene. The scene is not among the ids that are embedded.

Sources: MI-DPG, Cheng et al., CIKM 2023, arXiv:2603.21209 (abstract only: see `mi_dpg.py`). That
other networks than its own have such layers is ours.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from predictors.mi_dpg import InformationBound, InformationConfig, MiDpgConfig, WeightedLinear
from predictors.nets import Backbone, Fields, RowLayer
from predictors.scene_nets import (
    Known,
    Mlp,
    ParameterCount,
    SceneColumn,
    Scenes,
    count_parameters,
    with_mean,
)
from predictors.training import NeuralConfig

SCENE_DIM, SCENE_SD = 8, 1.0  # of the embeddings of scenes, as in `SceneConfig`
State = tuple[tuple[int, int], ...]  # of some tensors: where they are, and how often changed
ROWS_PER_SCENE = 4  # from which on weights are folded, one layer per scene
_TABLES = ("table", "private_cvr", "private_refund", "shared")  # embeddings of ids

Net = TypeVar("Net", bound=nn.Module)


class InScenes(NamedTuple):
    """Where rows are, and what their layers are weighted by."""

    place: Tensor  # (B,) scenes 0..S-1, or S for any other
    hidden: Tensor  # (S + 1, h) of the auxiliary network, by place
    known: Known  # scenes that answer for themselves, and those whose mean answers for others
    groups: "Groups | None" = None  # if rows are in order of their scenes


class Groups(NamedTuple):
    """Rows in order of their scenes."""

    inverse: Tensor  # (B,) where each row was put
    scenes: list[int]  # (P,) places that occur
    sizes: list[int]  # (P,) rows of each
    state: State  # of the parameters that `InScenes` depends on


def _state(weights: Iterable[Tensor]) -> State:
    """Changes whenever one of the tensors does."""
    # The counter is that by which autograd finds tensors changed in place; a copy has its own.
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


class SceneLinear(RowLayer):
    """A `WeightedLinear`; to the outputs of a network with a bias per scene.

    Args:
        shape: inputs and outputs.
        num_scenes: S.
        config: of the weighting.
        last: to the outputs, which are in the order that the rows had at first.
    """

    def __init__(
        self, shape: tuple[int, int], num_scenes: int, config: MiDpgConfig, *, last: bool
    ) -> None:
        super().__init__()
        self.weighted = WeightedLinear(*shape, config.auxiliary_widths[-1], config)
        # A bias per scene: base rates differ, and weightings of the last layer cannot shift them.
        own = last or config.layer_biases
        self.bias = nn.Parameter(torch.zeros(num_scenes, shape[1])) if own else None
        self.last = last
        self._kept: tuple[State, list[tuple[Tensor, Tensor]]] | None = None

    def forward(self, units: Tensor, rows: InScenes) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        if rows.groups is None:
            out = self.weighted(units, self.weighted.code(rows.hidden), rows.place)
            if self.bias is None:
                return out
            return out + with_mean(self.bias, rows.known)[rows.place]
        plain = self._folded(rows, rows.groups.state)
        parts = zip(rows.groups.scenes, units.split(rows.groups.sizes), strict=True)
        out = torch.cat([torch.addmm(plain[s][0], part, plain[s][1]) for s, part in parts])
        return out[rows.groups.inverse] if self.last else out

    def _folded(self, rows: InScenes, state: State) -> list[tuple[Tensor, Tensor]]:
        """Biases (outputs,) and weights (inputs, outputs) of a plain layer per place.

        For estimates they are kept until the parameters change.
        """
        layer = self.weighted
        if torch.is_grad_enabled():
            return self._fold(rows)
        weights = [layer.linear.weight, layer.linear.bias, layer.left, layer.right]
        weights += [layer.head.weight, layer.head.bias]
        state = (*state, *_state(weights if self.bias is None else [*weights, self.bias]))
        if self._kept is None or self._kept[0] != state:
            self._kept = state, self._fold(rows)
        return self._kept[1]

    def _fold(self, rows: InScenes) -> list[tuple[Tensor, Tensor]]:
        layer = self.weighted
        factors = layer.weighting(layer.code(rows.hidden))
        # A contiguous copy: products of matrices of two layouts take several times as long.
        matrices = layer.linear.weight.T.contiguous() * factors
        biases = layer.linear.bias.expand(len(matrices), -1)
        if self.bias is not None:
            biases = biases + with_mean(self.bias, rows.known)
        return list(zip(biases, matrices, strict=True))


class SceneBackbone(Backbone):
    """What the weighted layers of one network share.

    Args:
        column: of the scene, among the ids of all fields.
        config: of the weighting.
        information: of the mutual-information term; weight 0: there is none.
        wide: see `Backbone`.

    Attributes:
        scenes: those trained on so far.
        scene: (S, scene_dim) embeddings of the scenes.
        bound: of the mutual information, if any; learns with the network.
        steps: () training steps so far; saved with the weights.
    """

    steps: Tensor

    def __init__(
        self,
        column: SceneColumn,
        config: MiDpgConfig,
        information: InformationConfig,
        wide: Fields | None = None,
    ) -> None:
        super().__init__(column.others, wide)
        self.column, self.config, self.information = column, config, information
        self.scenes = Scenes(column.num_scenes)
        self.scene = nn.Parameter(SCENE_SD * torch.randn(column.num_scenes, SCENE_DIM))
        self.auxiliary = Mlp(SCENE_DIM, config.auxiliary_widths, None)
        self.bound: InformationBound | None = None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._layers: list[SceneLinear] = []  # of the network; in a list: not its own

    def linear(self, inputs: int, outputs: int, *, last: bool = False) -> SceneLinear:
        """A new weighted layer of the network."""
        shape = inputs, outputs
        layer = SceneLinear(shape, self.column.num_scenes, self.config, last=last)
        self._layers.append(layer)
        return layer

    def norm(self, width: int, momentum: float) -> nn.Module:
        """Hidden units as they are, as MI-DPG's own."""
        # Statistics of a batch would mix the scenes: those of a frequent one would scale the units
        # of a rare one, by a share that changes from batch to batch. Macro AUC of TESLA's CVR in a
        # world of 16 scenes that differ, widths 64-64-32, two seeds: .793 and .796; with statistics
        # of the batch .793 and .796, normalised within a row .792 and .787, plain layers .786 both.
        return nn.Identity()

    def ready(self) -> None:
        """To be called when the network has all its layers."""
        if self.information.weight > 0:
            size = sum(layer.weighted.head.out_features for layer in self._layers)
            scenes = self.column.num_scenes
            self.bound = InformationBound(scenes, size, SCENE_DIM, self.information)

    def split(self, ids: Tensor) -> tuple[Tensor, InScenes]:
        """Ids (B, F) of all fields without the scene, (B, F - 1), and the scenes.

        Rows may be in another order, which the last layer undoes.
        """
        others, scene = self.column.split(ids)
        # Rows that are not learned from do not count, and get what estimates get.
        self.scenes.train(self.training and torch.is_grad_enabled())
        place, known = self.scenes.places(scene), self.scenes.known()
        hidden = self.auxiliary(with_mean(self.scene, known))  # once per batch, not per row
        # Measured: 512 rows of 15 scenes are estimated in less than half of the time, and one
        # product per scene replaces the r + 1 of each row in training.
        if len(place) < ROWS_PER_SCENE * self.scenes.num_scenes:
            return others, InScenes(place, hidden, known)
        order = place.argsort(stable=True)
        scenes, sizes = place.unique(return_counts=True)
        state = _state([self.scene, *self.auxiliary.parameters(), self.scenes.trained])
        groups = Groups(order.argsort(), scenes.tolist(), sizes.tolist(), state)
        return others[order], InScenes(place[order], hidden, known, groups)

    def objective(self, loss: Tensor, generator: torch.Generator) -> Tensor:
        """The loss of a training step less the bound on the mutual information, weighted.

        The term is that of `SceneModel.learn`: scenes trained on so far count alike, and the weight
        rises with the training steps.
        """
        if self.bound is None:
            return loss
        self.scenes.train()
        known = self.scenes.known()
        hidden = self.auxiliary(with_mean(self.scene, known))
        code = torch.cat([layer.weighted.code(hidden) for layer in self._layers], dim=1)[:-1]
        information = self.bound(code, self.scene, generator, known.pooled / known.pooled.sum())
        weight = self.bound.config.weight_at(int(self.steps))
        self.steps += 1
        return loss - weight * information


class BackboneConfig(NeuralConfig):
    """Settings of networks that make estimates, whose layers may be weighted per scene."""

    linear_terms: bool = False
    """Add a weight per id to each output of the networks that estimate (Wide & Deep): ids with few
    rows are learnt better."""
    pretrain_settling: bool = False
    """The learning rate falls to 0 over the days before the stream, for networks that estimate.
    They rank better then; streams that bring many rows go on better from a constant rate."""

    backbone: Literal["plain", "mi_dpg"] = "plain"
    """Layers that do not know the scene, or MI-DPG's, whose weights are weighted per scene; of what
    estimates. What is only asked in training (models of delays, the calibrator) is plain always: it
    has few rows to learn from."""
    scene_field: Annotated[int, Field(ge=0)] = 14
    """Column of the features that is the scene, with `backbone="mi_dpg"`."""
    weighting: MiDpgConfig = MiDpgConfig()
    """Of the matrices that weight the layers, with `backbone="mi_dpg"`."""
    information: InformationConfig = InformationConfig()
    """Of the mutual-information term, with `backbone="mi_dpg"`; weight 0: there is none."""

    @model_validator(mode="after")
    def _no_published_code(self) -> Self:
        if self.backbone != "plain" and self.official_quirks:
            raise ValueError("backbone must be 'plain' with official_quirks")
        return self

    def check_fields(self, fields: Fields) -> None:
        """Raises ValueError if there is no scene among the fields, or nothing else."""
        if self.backbone != "plain":
            SceneColumn(fields, self.scene_field)

    @property
    def of_backbone(self) -> dict[str, Any]:
        """The settings that a network depends on besides its own."""
        names = {name for name in ("linear_terms", "pretrain_settling") if getattr(self, name)}
        if self.backbone != "plain":
            names |= {"backbone", "scene_field", "weighting", "information"}
        return self.model_dump(mode="json", include=names)


def with_backbone(fields: Fields, config: BackboneConfig, make: Callable[[Backbone], Net]) -> Net:
    """A network with the backbone of a configuration."""
    wide = fields if config.linear_terms else None
    if config.backbone == "plain":
        return make(Backbone(fields, wide))
    column = SceneColumn(fields, config.scene_field)
    backbone = SceneBackbone(column, config.weighting, config.information, wide)
    net = make(backbone)
    backbone.ready()
    return net


def count_network(
    fields: Fields, config: BackboneConfig, make: Callable[[Backbone], nn.Module]
) -> ParameterCount:
    """Parameters of a network, in all and for one more scene; what only trains it is left out.

    Raises:
        ValueError: `scene_field` is no field, or the only one.
    """
    silent = config.information.model_copy(update={"weight": 0.0})
    config = config.model_copy(update={"information": silent})
    sizes, place = fields.cardinalities, config.scene_field

    def build(num_scenes: int) -> nn.Module:
        resized = Fields((*sizes[:place], num_scenes, *sizes[place + 1 :]))
        return with_backbone(resized, config, make)

    return count_parameters(build, SceneColumn(fields, place).num_scenes, _TABLES)
