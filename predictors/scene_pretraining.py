"""Settings of the predictors for several scenes, and their networks before a stream.

Of the ids of an impression one is its scene. A `SceneModel` takes it out and gives it to a network
of `scene_peers.SCENE_NETS`; MI-DPG's has the bound on the mutual information beside it, which
learns with it.

Sources: MI-DPG, Cheng et al., CIKM 2023, arXiv:2603.21209, and those of `scene_peers.py`.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from adsim.clicklog import ClickLog
from adsim.impressionlog import ImpressionLog
from predictors.delivery import Windows, final_labels
from predictors.mi_dpg import InformationBound, InformationConfig, MiDpg, MiDpgConfig
from predictors.nets import Fields, bce
from predictors.scene_nets import (
    ParameterCount,
    SceneColumn,
    SceneNet,
    SceneSizes,
    count_parameters,
)
from predictors.scene_peers import SCENE_NETS
from predictors.stream import Split
from predictors.training import (
    BasePretraining,
    NeuralConfig,
    Size,
    Untrained,
    descend,
    seeded,
)

_OF_STREAM = {"learning_rate", "weight_decay"}  # settings that no pre-trained network depends on


class SceneConfig(NeuralConfig):
    """Settings that all predictors for several scenes have."""

    target: Literal["cvr", "ctr"] = "cvr"
    """Conversion of a click, or click of an impression."""
    scene_field: Annotated[int, Field(ge=0)] = 14
    """Column of the features that is the scene."""
    windows: Windows = Windows()
    """Of conversions: labels are final when the attribution window has closed."""
    bottom: tuple[Size, ...] = (16,)
    """Hidden layers that scenes share, where they share some."""
    tower: tuple[Size, ...] = (8,)
    """Hidden layers of a scene, where it has its own; else they follow `bottom`."""
    scene_dim: Size = 8
    """Columns of an embedding of a scene."""
    scene_sd: Annotated[float, Field(ge=0)] = 1.0
    """Standard deviation of initial embeddings of scenes."""
    normalise: bool = False
    """Hidden units over their layer, without weights, before the ReLU."""
    pretrain_epochs: Size = 1
    """Passes over the days before the stream."""

    @field_validator("official_quirks")
    @classmethod
    def _no_published_code(cls, value: bool) -> bool:
        if value:
            raise ValueError("official_quirks must be False: no code of MI-DPG is published")
        return value

    @property
    def sizes(self) -> SceneSizes:
        """Of the network."""
        return SceneSizes(
            dim=self.embedding_dim,
            sd=self.embedding_sd,
            bottom=self.bottom,
            tower=self.tower,
            scene_dim=self.scene_dim,
            scene_sd=self.scene_sd,
            normalise=self.normalise,
        )

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {}

    def new_bound(self, net: SceneNet) -> InformationBound | None:
        """The term that is maximised besides, if any."""
        return None


class MmoeConfig(SceneConfig):
    """Settings of `mmoe`."""

    experts: Size = 4
    """Each with the layers of `bottom`."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {"experts": self.experts}


class PleConfig(SceneConfig):
    """Settings of `ple`."""

    own: Size = 1
    """Experts of a scene and level, each with the layers of `bottom`."""
    shared: Size = 2
    """Shared experts of a level."""
    levels: Size = 2
    """Of experts; 1: the paper's CGC."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {"own": self.own, "shared": self.shared, "levels": self.levels}


class StarConfig(SceneConfig):
    """Settings of `star`."""

    partitioned: bool = True
    """The input is normalised per scene."""
    auxiliary: Annotated[int, Field(ge=0)] = 16
    """Hidden units of the network that reads scene and input; 0: no such network."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {"partitioned": self.partitioned, "auxiliary": self.auxiliary}


class ApgConfig(SceneConfig):
    """Settings of `apg`."""

    rank: Size | None = 8
    """Of the generated matrices; None: a sixteenth of a layer's smaller side, rounded up, as
    published: of layers as narrow as the default ones that is 1, with which nothing is learned."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {"rank": self.rank}


class PepNetConfig(SceneConfig):
    """Settings of `pepnet`."""

    gate_width: Size = 16
    """Hidden units of a gate."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {"gate_width": self.gate_width}


class MiDpgSettings(SceneConfig):
    """Settings of `mi_dpg`."""

    weighting: MiDpgConfig = MiDpgConfig()
    """Of the matrices that weight the backbone."""
    information: InformationConfig = InformationConfig()
    """Of the mutual-information term; weight 0: there is none."""

    @property
    def options(self) -> dict[str, Any]:
        """Further arguments of the network."""
        return {"config": self.weighting}

    def new_bound(self, net: SceneNet) -> InformationBound | None:
        """The term that is maximised besides, if any."""
        assert isinstance(net, MiDpg)
        if self.information.weight == 0:
            return None
        return InformationBound(net.num_scenes, net.code_size, self.scene_dim, self.information)


class SceneModel(nn.Module):
    """A network for several scenes, as one of the ids of all fields: (B, F) to logits (B,).

    Attributes:
        net: the network.
        bound: of the mutual information, if it is to be maximised; learns with the network.
        steps: () training steps so far; saved with the weights.
    """

    steps: Tensor

    def __init__(self, column: SceneColumn, net: SceneNet, bound: InformationBound | None) -> None:
        super().__init__()
        self.column, self.net, self.bound = column, net, bound
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B,) of ids (B, F)."""
        return self.net(*self.column.split(ids)).squeeze(1)

    def information(self, generator: torch.Generator) -> Tensor:
        """The bound (), nats, with the scenes trained on so far alike; at most log S."""
        assert self.bound is not None
        assert isinstance(self.net, MiDpg)
        # Reconstruction: a rare scene is to differ as much as a frequent one. One never seen has
        # no weighting of its own.
        known = self.net.known().pooled
        return self.bound(self.net.code(), self.net.scene, generator, known / known.sum())

    def learn(
        self,
        ids: Tensor,
        label: Tensor,
        optimiser: torch.optim.Optimizer,
        generator: torch.Generator,
    ) -> tuple[float, float | None]:
        """One training step on rows: its cross-entropy, nats a row, and the bound, nats, if any.

        Args:
            ids: (B, F).
            label: (B,), 0 or 1.
            optimiser: of all weights.
            generator: of the bound's noise.
        """
        loss = entropy = bce(self(ids), label, torch.ones_like(label))
        bound = None
        if self.bound is not None:
            information = self.information(generator)
            loss = entropy - self.bound.config.weight_at(int(self.steps)) * information
            bound = float(information.detach())
        descend(optimiser, loss)
        self.steps += 1
        return float(entropy.detach()), bound


def new_model(fields: Fields, config: SceneConfig, seed: int, name: str) -> SceneModel:
    """The untrained model of a method.

    Args:
        fields: all, the scene included.
        config: of the method.
        seed: of initial weights; those of the network do not depend on whether there is a bound.
        name: in `SCENE_NETS`.
    """
    column = SceneColumn(fields, config.scene_field)

    def make() -> SceneModel:
        net = SCENE_NETS[name](column.others, config.sizes, column.num_scenes, **config.options)
        return SceneModel(column, net, config.new_bound(net))

    return seeded(seed, make)


def count_network(fields: Fields, config: SceneConfig, name: str) -> ParameterCount:
    """Parameters of a method's network; those of a bound, used in training only, are left out."""
    column = SceneColumn(fields, config.scene_field)

    def build(num_scenes: int) -> SceneNet:
        return SCENE_NETS[name](column.others, config.sizes, num_scenes, **config.options)

    return count_parameters(build, column.num_scenes)


class ScenePretraining(BasePretraining):
    """Trains networks on the first days of a log of clicks or of impressions, each once.

    Args and errors are those of `BasePretraining`.
    """

    def __init__(
        self,
        history: ClickLog | ImpressionLog,
        split: Split,
        *,
        seed: int = 0,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> None:
        super().__init__(history, split, seed=seed, device=device, cache=cache)
        self.history = history

    def model(self, name: str, config: SceneConfig) -> nn.Module:
        """The pre-trained model of a method; frozen.

        Raises:
            ValueError: a history of another kind than the target needs, or windows that are open
                when the stream starts.
        """
        model = new_model(self.fields, config, self.seed, name)
        settings = config.model_dump(mode="json", exclude=_OF_STREAM | {"windows"})
        if config.target == "cvr":
            settings["attribution"] = config.windows.conversion_attribution
        return self._trained(name, settings, model, lambda model: self._fit(model, config))

    def _labels(self, config: SceneConfig) -> np.ndarray:
        """Final labels of the whole history, 0 or 1."""
        log = self.history
        needed = ImpressionLog if config.target == "ctr" else ClickLog
        if not isinstance(log, needed):
            raise ValueError(
                f"history must be a {needed.__name__} for target {config.target!r}, "
                f"got a {type(log).__name__}"
            )
        if isinstance(log, ImpressionLog):
            return log.clicked
        self.split.check_gap(config.windows.conversion_attribution)
        return final_labels(log, config.windows).y

    def _fit(self, model: nn.Module, config: SceneConfig) -> None:
        assert isinstance(model, SceneModel)
        found = self._labels(config)[self._rows].astype(np.float32)
        label = torch.from_numpy(found).to(self.device)
        draws = torch.Generator(self.device).manual_seed(self.seed)
        epochs = config.pretrain_epochs
        # At a constant rate: settled, the stream's macro AUC is .748 instead of .755 with mi_dpg,
        # .628 instead of .714 with scene_input (in the world of `learning_rate`); with seed 1001
        # .681 instead of .687, .615 instead of .639.
        parts = self._epoch(model, len(label), config, settling=False, epochs=epochs)
        for rows, optimiser in parts:
            model.learn(self._ids[rows], label[rows], optimiser, draws)


class UntrainedScenes(Untrained, ScenePretraining):
    """Networks of the shapes that `ScenePretraining` trains, to be filled from a file."""
