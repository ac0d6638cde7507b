"""Online predictors for several scenes: MI-DPG and those that share in other ways.

A method is a network of `scene_peers.SCENE_NETS`. All train on the same rows in the same loop: of
clicks whose attribution window has closed (CVR), or of impressions shown (CTR).

Sources: MI-DPG, Cheng et al., CIKM 2023, arXiv:2603.21209; the papers named in `scene_peers.py` and
`scene_experts.py`. How they learn from a stream is ours: the papers train on logs at rest.
"""

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from adsim.types import BoolArray, FloatArray, Target, Window
from predictors.base import register_predictor
from predictors.delivery import RULES
from predictors.mi_dpg import MiDpg
from predictors.nets import load_state, probabilities, state_arrays
from predictors.neural import NeuralPredictor
from predictors.open_clicks import OpenClicks, last_second
from predictors.scene_nets import ParameterCount, SceneColumn
from predictors.scene_pretraining import (
    ApgConfig,
    MiDpgSettings,
    MmoeConfig,
    PepNetConfig,
    PleConfig,
    SceneConfig,
    SceneModel,
    ScenePretraining,
    StarConfig,
    UntrainedScenes,
    count_network,
    new_model,
)
from predictors.stream import Split

CVR_SPLIT = Split(pretrain_days=14, stream_start_day=17, stream_end_day=24, segment_days=0.1)
"""25 days of clicks: 14 to pre-train on, 3 until their windows have closed, a week of stream."""
CTR_SPLIT = Split(pretrain_days=17, stream_start_day=17, stream_end_day=24, segment_days=0.1)
"""The same stream of impressions, whose clicks are known at once."""

_SHOWN = "shown"  # instead of a delivery rule: impressions, with their clicks


class SceneRows(NamedTuple):
    """Training rows as tensors of one device."""

    ids: Tensor  # (B, F) int64 rows of the embeddings of all fields, the scene's included
    label: Tensor  # (B,) float32, 0 or 1

    def rows(self, part: slice | Tensor) -> "SceneRows":
        """Some of the rows."""
        return SceneRows(*(column[part] for column in self))


class ShownImpressions:
    """The impressions shown since the last `close`, and which were clicked."""

    def __init__(self, num_fields: int) -> None:
        self.since = self.now = -1  # seconds; rows of (since, now] are due
        self.features = np.empty((0, num_fields), np.int32)
        self.clicked = np.empty(0, np.bool_)

    def follow(self, history: object, now: int) -> None:
        """Goes on at `now`, seconds; nothing is open: a click is known with its impression."""
        self.since = self.now = now

    def update(self, window: Window) -> None:
        """Takes in the won impressions of a window.

        Raises:
            ValueError: there are some, or events, and the window ends before the one before it.
        """
        shown = window.result.won & (window.impressions.mask > 0)
        self.now = last_second(window, self.since, is_empty=not shown.any())
        features = window.impressions.features[shown]
        self.features = np.concatenate([self.features, features])
        self.clicked = np.concatenate([self.clicked, window.result.clicked[shown]])

    def due(self) -> tuple[BoolArray, NDArray[np.int32]]:
        """Clicks (N,) and features (N, F)."""
        return self.clicked, self.features

    def close(self) -> None:
        """Drops what was due."""
        self.clicked, self.features = self.clicked[:0], self.features[:0]
        self.since = self.now

    def get_state(self) -> dict[str, np.ndarray]:
        """Arrays that determine the future behaviour."""
        columns = {"clicked": self.clicked.copy(), "features": self.features.copy()}
        return {"moments": np.array([self.since, self.now]), **columns}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.since, self.now = (int(moment) for moment in state["moments"])
        self.clicked, self.features = state["clicked"].copy(), state["features"].copy()


class ScenePredictor(NeuralPredictor[SceneRows]):
    """Base of the methods; estimates CVR, or CTR with `target="ctr"`.

    The scene is the id in column `scene_field` of the features. A scene in which few rows were
    trained on, or an id outside the field, is answered for as `SceneNet` says.

    Args and attributes are those of `NeuralPredictor`; `losses` are cross-entropies.

    Raises:
        ValueError: no such column, or no other one.
    """

    targets = frozenset({Target.CVR})
    rule = "matured"
    # One rate for all: of 1e-3, 3e-3 and 1e-2 that with the best macro AUC (mi_dpg .7528, .7561 and
    # .7477) of all methods but shared_mlp (.5846 at 1e-3, .5844 at 3e-3) and one_per_scene (.7426,
    # .7410). In a world that no benchmark uses (multi_scene, CVR, truly different, seed 1000,
    # 20,000 clicks a day). All rates of all methods: docs/scenes.md, "Measured".
    learning_rate: ClassVar[float] = 3e-3
    config_class: ClassVar[Any] = SceneConfig
    pretraining_class = ScenePretraining
    untrained_class = UntrainedScenes
    rows_class = SceneRows

    def __init__(
        self,
        cardinalities: tuple[int, ...],
        config: SceneConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(cardinalities, config, seed=seed, device=device)
        self.column = SceneColumn(self.fields, self.config.scene_field)
        self.target = Target(self.config.target)
        self.targets = frozenset({self.target})  # pyright: ignore[reportAttributeAccessIssue]
        if self.target is Target.CTR:
            self.rule = _SHOWN

    def _new_store(self) -> OpenClicks | ShownImpressions:
        num_fields = len(self.fields.cardinalities)
        if self.config.target == "ctr":
            return ShownImpressions(num_fields)
        return OpenClicks(self.config.windows, num_fields)

    def _usual_split(self) -> Split:
        return CTR_SPLIT if self.target is Target.CTR else CVR_SPLIT

    @property
    def main(self) -> SceneModel:
        """The model that makes the estimates.

        Raises:
            RuntimeError: there is none yet.
        """
        net = self._net()
        assert isinstance(net, SceneModel)
        return net

    @property
    def num_parameters(self) -> ParameterCount:
        """Of the network; what is used in training only is left out."""
        return count_network(self.fields, self.config, self.name)

    def _build(self, pretraining: ScenePretraining) -> None:
        self._add("main", new_model(self.fields, self.config, self.seed, self.name))
        load_state(self.nets["main"], state_arrays(pretraining.model(self.name, self.config)))

    def _estimates(self, ids: Tensor) -> dict[Target, Tensor]:
        """CVR or CTR (B,)."""
        return {self.target: probabilities(self.main, self.main, ids)}

    def _new_rows(self, rule: str) -> SceneRows:
        if rule == _SHOWN:
            label, features = self.open.due()
        else:
            rows, features = self.open.due(RULES[rule])
            label = rows.pay_label
        return SceneRows(self.fields.encode(features).to(self.device), self._column(label))

    def _step(self, batch: SceneRows) -> float:
        entropy, _ = self._learn_batch(batch)
        return entropy

    def _learn_batch(self, batch: SceneRows) -> tuple[float, float | None]:
        """One training step; see `SceneModel.learn`."""
        return self.main.learn(batch.ids, batch.label, self.optimisers["main"], self.generator)


@register_predictor("mi_dpg")
class MiDpgPredictor(ScenePredictor):
    """MI-DPG: one backbone, whose weights are multiplied by a low-rank matrix made per scene.

    Attributes:
        bounds: the mutual-information bound in every training step of the stream, nats; at most
            `information_limit`. Empty without the term.
    """

    name = "mi_dpg"
    config_class = MiDpgSettings

    def _reset(self) -> None:
        super()._reset()
        self.bounds: list[float] = []

    @property
    def information_limit(self) -> float:
        """What the bound cannot exceed, log S nats."""
        return math.log(self.column.num_scenes)

    def departure(self) -> FloatArray:
        """Mean |M - 1| per layer and scene, (layers, S): how far weightings are from neutral."""
        net = self.main.net
        assert isinstance(net, MiDpg)
        return net.departure().double().cpu().numpy()

    def _step(self, batch: SceneRows) -> float:
        entropy, bound = self._learn_batch(batch)
        if bound is not None:
            self.bounds.append(bound)
        return entropy

    def _more_state(self) -> dict[str, dict[str, np.ndarray]]:
        return {**super()._more_state(), "information": {"bounds": np.array(self.bounds)}}

    def _set_state(self, about: dict, parts: dict[str, dict[str, np.ndarray]]) -> None:
        super()._set_state(about, parts)
        self.bounds = parts["information"]["bounds"].tolist()


@register_predictor("shared_mlp")
class SharedMlpPredictor(ScenePredictor):
    """One network that does not know the scene."""

    name = "shared_mlp"


@register_predictor("scene_input")
class SceneInputPredictor(ScenePredictor):
    """One network that reads an embedding of the scene, and a bias per scene."""

    name = "scene_input"


@register_predictor("shared_bottom")
class SharedBottomPredictor(ScenePredictor):
    """Shared lower layers and a tower per scene."""

    name = "shared_bottom"


@register_predictor("mmoe")
class MmoePredictor(ScenePredictor):
    """Shared experts, and per scene a gate over them and a tower."""

    name = "mmoe"
    config_class = MmoeConfig


@register_predictor("ple")
class PlePredictor(ScenePredictor):
    """Levels of shared experts and experts per scene, then a tower per scene."""

    name = "ple"
    config_class = PleConfig


@register_predictor("star")
class StarPredictor(ScenePredictor):
    """Shared weights times weights of the scene, and inputs normalised per scene."""

    name = "star"
    config_class = StarConfig


@register_predictor("apg")
class ApgPredictor(ScenePredictor):
    """Hidden layers of low-rank weights that are generated from the scene."""

    name = "apg"
    config_class = ApgConfig


@register_predictor("pepnet")
class PepNetPredictor(ScenePredictor):
    """One network; gates that know the scene scale embeddings and hidden units."""

    name = "pepnet"
    config_class = PepNetConfig


@register_predictor("one_per_scene")
class OnePerScenePredictor(ScenePredictor):
    """A network of its own for every scene, embeddings included."""

    name = "one_per_scene"
