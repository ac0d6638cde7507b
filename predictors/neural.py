"""A predictor made of networks that learn from windows of delayed feedback.

`NeuralPredictor` has what all such methods share: pre-training, the rows that become due in a
window, batches, saving and loading. A family of methods states which clicks it keeps, how rows
become tensors and what a training step is (`netcvr.py`, `gmv.py`).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from adsim.types import Estimate, Impressions, Target, Window
from predictors.arrays import load_arrays, save_arrays
from predictors.base import PREDICTORS
from predictors.delivery import DAY_SECONDS
from predictors.nets import (
    Fields,
    adam,
    frozen,
    load_optimiser,
    load_state,
    optimiser_arrays,
    state_arrays,
)
from predictors.stream import Split, batches
from predictors.training import BasePretraining, History, NeuralConfig, Untrained

_LEAST_PART = 4  # of a batch: fewer rows are not trained on
_STREAM_SEED = 1  # of draws during the stream, apart from those of the pre-training


class TrainingRows(Protocol):
    """Training rows as a NamedTuple of tensors whose first axis they are."""

    @property
    def ids(self) -> Tensor:
        """(B, F) int64 rows of the embedding matrix."""
        ...

    def rows(self, part: slice | Tensor) -> Self:
        """Some of the rows."""
        ...

    def _asdict(self) -> dict[str, Tensor]: ...


RowsT = TypeVar("RowsT", bound=TrainingRows)


class NeuralPredictor(Generic[RowsT]):
    """Base of the predictors with networks.

    Args:
        cardinalities: (F,) sizes of the categorical fields; other ids count as unknown.
        config: settings.
        seed: of initial weights, the order of pre-training rows, and draws in the stream.
        device: torch device, such as "cpu" or "cuda".

    Attributes:
        losses: mean training loss of every batch of the stream so far.
        trained_rows: rows of these batches.
    """

    targets: ClassVar[frozenset[Target]]
    privileged = False
    name: ClassVar[str]  # in `PREDICTORS`
    rule: str  # which rows it trains on
    learning_rate: ClassVar[float]
    config_class: ClassVar[Any]  # of `config`, a `NeuralConfig`
    pretraining_class: ClassVar[type[BasePretraining]]
    untrained_class: ClassVar[type[Untrained]]
    rows_class: ClassVar[type]
    config: Any

    def __init__(
        self,
        cardinalities: tuple[int, ...],
        config: NeuralConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        settings = config.model_dump() if config else {}
        self.config = self.config_class.model_validate(settings)
        self.seed, self.device = seed, torch.device(device)
        self.fields = Fields(cardinalities)
        self.config.check_fields(self.fields)
        self._reset()

    def _reset(self) -> None:
        """As before `fit`."""
        self.nets, self.frozen = nn.ModuleDict(), nn.ModuleDict()
        self.optimisers: dict[str, torch.optim.AdamW] = {}
        self.generator = torch.Generator(self.device).manual_seed(self.seed + _STREAM_SEED)
        self.open = self._new_store()
        self.losses: list[float] = []
        self.trained_rows = 0
        self._held: dict[str, RowsT] = {}  # rows too few to train on, per delivery rule

    def _new_store(self) -> Any:
        """What is kept of the clicks whose feedback is still open.

        It has `follow(history, now)`, `update(window)`, `close()`, `get_state()` and `set_state()`,
        as `OpenClicks`.
        """
        raise NotImplementedError

    def _net(self) -> nn.Module:
        """The network that makes the estimates.

        Raises:
            RuntimeError: there is none yet.
        """
        if "main" not in self.nets:
            raise RuntimeError(f"{self.name}: call fit(history) or load(file) first")
        return self.nets["main"]

    def fit(
        self,
        history: History,
        split: Split | None = None,
        *,
        pretraining: BasePretraining | None = None,
        follow: bool = False,
    ) -> Self:
        """Pre-trains on the first days of a log and gets ready for the stream, forgetting all else.

        Args:
            history: as known when the stream starts.
            split: of the log; the published one by default.
            pretraining: of this history, if its networks are to be shared with other methods.
            follow: the windows to come go on with this very log, as those of a played-back log:
                click ids are its row numbers, and clicks still open bring rows. Otherwise the
                windows belong to another campaign, whose clicks start afresh.

        Raises:
            ValueError: other fields than the predictor's; or see the pre-training.
        """
        if tuple(history.cardinalities) != self.fields.cardinalities:
            raise ValueError(
                f"history must have cardinalities {self.fields.cardinalities}, "
                f"got {history.cardinalities}"
            )
        split = split or self._usual_split()
        if pretraining is None:
            device = str(self.device)
            pretraining = self.pretraining_class(history, split, seed=self.seed, device=device)
        self._reset()
        self._build(pretraining)
        if follow:
            self.open.follow(history, split.start_second - 1)
        return self

    def _usual_split(self) -> Split:
        return Split()

    def _build(self, pretraining: Any) -> None:
        """Takes over the pre-trained networks; methods add their own."""
        raise NotImplementedError

    def _freeze(self, name: str, net: nn.Module) -> None:
        """Adds a network that does not learn in the stream."""
        self.frozen[name] = frozen(net).to(self.device)

    def _add(self, name: str, net: nn.Module) -> None:
        """Adds a network that learns in the stream, with its optimiser."""
        rate = self.config.learning_rate or self.learning_rate
        self.nets[name] = net.to(self.device).train()
        learning = [weights for weights in net.parameters() if weights.requires_grad]
        self.optimisers[name] = adam(learning, rate, self.config.weight_decay)

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """Estimates for M impressions; their standard deviation is unknown (0)."""
        ids = self.fields.encode(impressions.features).to(self.device)
        means = {
            target: mean.double().cpu().numpy() for target, mean in self._estimates(ids).items()
        }
        return {target: Estimate(mean, np.zeros(mean.size)) for target, mean in means.items()}

    def _estimates(self, ids: Tensor) -> dict[Target, Tensor]:
        """Means (B,) of the targets."""
        raise NotImplementedError

    def partial_fit(self, window: Window) -> Self:
        """Trains one pass, in order of time, on the rows that have become due in a window."""
        self._net()
        self.open.update(window)
        self._learn()
        self.open.close()
        return self

    def _learn(self) -> None:
        self._train(self._due(self.rule), self.rule, self._step)

    def _step(self, batch: RowsT) -> float:
        """One training step; its loss."""
        raise NotImplementedError

    def _due(self, rule: str) -> RowsT:
        """Rows due, as tensors, after those held back earlier."""
        rows = self._new_rows(rule)
        held = self._held.pop(rule, None)
        if held is None:
            return rows
        pairs = zip(held._asdict().values(), rows._asdict().values(), strict=True)
        return self.rows_class(*(torch.cat(pair) for pair in pairs))

    def _new_rows(self, rule: str) -> RowsT:
        """Rows that have become due since the last window, as tensors."""
        raise NotImplementedError

    def _column(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values.astype(np.float32)).to(self.device)

    def _train(self, rows: RowsT, rule: str, step: Callable[[RowsT], float]) -> None:
        """One pass over rows in order.

        Less than a quarter of a batch waits for the next window. That is too few for the statistics
        of a batch; the rule holds for networks without them, too, so that methods are comparable.
        """
        count = len(rows.ids)
        if count < max(2, self.config.batch_size // _LEAST_PART):
            if count:
                self._held[rule] = rows
            return
        for part in batches(count, self.config.batch_size, drop_last=self._drops_last(count)):
            loss = step(rows.rows(part))
            if rule == self.rule:
                self.losses.append(loss)
                self.trained_rows += part.stop - part.start

    def _drops_last(self, count: int) -> bool:
        """Whether rows that do not fill a batch are left out."""
        return False

    def save(self, file: str | Path) -> None:
        """Writes everything that determines the predictor's future to an npz file."""
        about = {
            "name": self.name,
            "config": self.config.model_dump(mode="json"),
            "cardinalities": self.fields.cardinalities,
            "seed": self.seed,
            "device": self.device.type,
            "fitted": "main" in self.nets,
            "trained_rows": self.trained_rows,
        }
        parts = {
            "nets": state_arrays(self.nets),
            "frozen": state_arrays(self.frozen),
            "open": self.open.get_state(),
            "draws": {"generator": self.generator.get_state().numpy()},
            "curve": {"losses": np.array(self.losses)},
            **self._more_state(),
        }
        parts |= {f"adam_{name}": optimiser_arrays(o) for name, o in self.optimisers.items()}
        for rule, rows in self._held.items():
            parts[f"held_{rule}"] = {k: v.cpu().numpy() for k, v in rows._asdict().items()}
        arrays = {f"{part}/{k}": v for part, values in parts.items() for k, v in values.items()}
        texts = {"about": about, "shapes": _shapes(arrays)}
        encoded = {k: np.frombuffer(json.dumps(v).encode(), np.uint8) for k, v in texts.items()}
        save_arrays(Path(file), {**encoded, **arrays})

    def _more_state(self) -> dict[str, dict[str, np.ndarray]]:
        """Further arrays that determine a method's future."""
        return {}

    def _set_state(self, about: dict, parts: dict[str, dict[str, np.ndarray]]) -> None:
        """Restores what `save` wrote."""
        if about["fitted"]:
            self._build(self.untrained_class(self.fields, self.seed))
        load_state(self.nets, parts.get("nets", {}))
        load_state(self.frozen, parts.get("frozen", {}))
        for name, optimiser in self.optimisers.items():
            load_optimiser(optimiser, parts.get(f"adam_{name}", {}))  # absent before the first step
        self.open.set_state(parts["open"])
        if about["device"] == self.device.type:  # else draws go on from the seed
            self.generator.set_state(torch.from_numpy(parts["draws"]["generator"].copy()))
        self.losses, self.trained_rows = parts["curve"]["losses"].tolist(), about["trained_rows"]
        for part, arrays in parts.items():
            if part.startswith("held_"):
                columns = {k: torch.from_numpy(v).to(self.device) for k, v in arrays.items()}
                self._held[part.removeprefix("held_")] = self.rows_class(**columns)


class DailyLots(NeuralPredictor[RowsT]):
    """Trains once a day on the rows that became due in the past day, shuffled.

    The day's model is ready one window after the day has ended.
    """

    def _reset(self) -> None:
        super()._reset()
        self._day_end = -1  # second after which the running day's rows are trained on; -1: none

    def _learn(self) -> None:
        if self._day_end < 0:
            self._day_end = self.open.since + DAY_SECONDS
        if self.open.since >= self._day_end:
            self._day_end += DAY_SECONDS * (1 + (self.open.since - self._day_end) // DAY_SECONDS)
            rows = self._held.pop(self.rule)
            order = torch.randperm(len(rows.ids), generator=self.generator, device=self.device)
            self._train(rows.rows(order), self.rule, self._step)
        self._held[self.rule] = self._due(self.rule)

    def _more_state(self) -> dict[str, dict[str, np.ndarray]]:
        return {**super()._more_state(), "lots": {"day_end": np.array(self._day_end)}}

    def _set_state(self, about: dict, parts: dict[str, dict[str, np.ndarray]]) -> None:
        super()._set_state(about, parts)
        self._day_end = int(parts["lots"]["day_end"])


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    """Type and shape of each array."""
    return {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}


def load_predictor(file: str | Path, device: str = "cpu") -> NeuralPredictor:
    """A predictor as it was when `save` wrote it: on the same device it goes on as it would have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by `NeuralPredictor.save`; names what is wrong.
    """
    arrays = load_arrays(Path(file))
    if "about" not in arrays:
        raise ValueError(f"{file}: not a saved predictor (no entry 'about')")
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        part, _, name = key.partition("/")
        if name:
            parts.setdefault(part, {})[name] = array
    try:
        about, shapes = (json.loads(arrays.pop(name).tobytes()) for name in ("about", "shapes"))
        if shapes != _shapes(arrays):
            raise ValueError("arrays are missing, or have other shapes or types than were saved")
        cls = PREDICTORS[about["name"]]
        config = cls.config_class.model_validate(about["config"])
        predictor = cls(tuple(about["cardinalities"]), config, seed=about["seed"], device=device)
        predictor._set_state(about, parts)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        kind = type(error).__name__
        raise ValueError(f"{file}: not a saved predictor, or damaged ({kind}: {error})") from error
    return predictor
