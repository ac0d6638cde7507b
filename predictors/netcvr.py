"""Online NetCVR predictors: two towers that learn from windows of delayed feedback.

`NetCVRPredictor` has what all methods share: pre-training, the rows that become due in a window,
batches, the training step, estimates, saving and loading. A method states its delivery rule and its
losses (`tesla.py`, `netcvr_baselines.py`).

Source: TESLA, arXiv:2601.19965, and its published code (alimama-tech/NetCVR, commit 2a8b78a).
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from adsim.clicklog import ClickLog
from adsim.types import Estimate, Impressions, Target, Window
from predictors.base import PREDICTORS
from predictors.delivery import RULES, Rows, refund_targets
from predictors.nets import (
    Fields,
    TwoTowers,
    adam,
    bce,
    frozen,
    load_optimiser,
    load_state,
    optimiser_arrays,
    probabilities,
    state_arrays,
)
from predictors.open_clicks import HOUR_SECONDS, OpenClicks
from predictors.pretraining import (
    DelayModel,
    NetCVRConfig,
    Pretraining,
    descend,
    load_arrays,
    new_delay_net,
    new_towers,
    save_arrays,
)
from predictors.stream import Split, batches

_LEAST_PART = 4  # of a batch: fewer rows are not trained on
_STREAM_SEED = 1  # of draws during the stream, apart from those of the pre-training


class Batch(NamedTuple):
    """Training rows as tensors of one device; (B,) float32 unless stated."""

    ids: Tensor  # (B, F) int64 rows of the embedding matrix
    pay: Tensor  # pay label, 0 or 1
    net: Tensor  # net label, 0 or 1
    conversion: Tensor  # 1 on conversion rows, 0 on refund rows
    flag: Tensor  # 1 where the row carries the final conversion label (DDFM)
    delay: Tensor  # hours from cause to event; < 0 without event
    refund: Tensor  # refund label, 0 or 1
    refund_mask: Tensor  # 1 where the refund tower reads the row
    constants: Tensor  # (B, k) weights and labels of the method, without gradient

    def rows(self, part: slice | Tensor) -> "Batch":
        """Some of the rows."""
        return Batch(*(column[part] for column in self))


class NetCVRPredictor:
    """Base of the online methods; estimates CVR, refund rate and NetCVR.

    Args:
        cardinalities: (F,) sizes of the categorical fields; other ids count as unknown.
        config: settings.
        seed: of initial weights, the order of pre-training rows, and draws in the stream.
        device: torch device, such as "cpu" or "cuda".

    Attributes:
        losses: mean training loss of every batch of the stream so far.
        trained_rows: rows of these batches.
    """

    targets = frozenset({Target.CVR, Target.REFUND_RATE, Target.NET_CVR})
    privileged = False
    name: ClassVar[str]  # in `PREDICTORS`
    rule: ClassVar[str]  # in `RULES`
    # Of 3e-4, 1e-3, 3e-3 and 1e-2 that with the best NetCVR AUC, on average over two worlds that no
    # benchmark uses (cascade, seed 1001; cascade_high_refund, seed 1000; 14,000 clicks a day).
    learning_rate: ClassVar[float] = 3e-3
    refund_first: ClassVar[bool] = False  # order of alternating steps
    config_class: ClassVar[type[NetCVRConfig]] = NetCVRConfig

    def __init__(
        self,
        cardinalities: tuple[int, ...],
        config: NetCVRConfig | None = None,
        *,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        settings = config.model_dump() if config else {}
        self.config = self.config_class.model_validate(settings)
        self.seed, self.device = seed, torch.device(device)
        self.fields = Fields(cardinalities)
        self._reset()

    def _reset(self) -> None:
        """As before `fit`."""
        self.nets, self.frozen = nn.ModuleDict(), nn.ModuleDict()
        self.optimisers: dict[str, torch.optim.AdamW] = {}
        self.generator = torch.Generator(self.device).manual_seed(self.seed + _STREAM_SEED)
        self.open = OpenClicks(self.config.windows, len(self.fields.cardinalities))
        self.losses: list[float] = []
        self.trained_rows = 0
        self._held: dict[str, Batch] = {}  # rows too few to train on, per delivery rule

    @property
    def main(self) -> TwoTowers:
        """The network that makes the estimates.

        Raises:
            RuntimeError: there is none yet.
        """
        if "main" not in self.nets:
            raise RuntimeError(f"{self.name}: call fit(history) or load(file) first")
        net = self.nets["main"]
        assert isinstance(net, TwoTowers)
        return net

    def fit(
        self,
        history: ClickLog,
        split: Split | None = None,
        *,
        pretraining: Pretraining | None = None,
        follow: bool = False,
    ) -> Self:
        """Pre-trains on the first days of a log and gets ready for the stream, forgetting all else.

        Args:
            history: as known when the stream starts.
            split: of the log; the published one by default.
            pretraining: of this history, if its networks are to be shared with other methods.
            follow: the windows to come go on with this very log, as those of a `LogStream`: click
                ids are its row numbers, and clicks still open bring rows. Otherwise the windows
                belong to another campaign, whose clicks start afresh.

        Raises:
            ValueError: other fields than the predictor's; or see `Pretraining`.
        """
        if tuple(history.cardinalities) != self.fields.cardinalities:
            raise ValueError(
                f"history must have cardinalities {self.fields.cardinalities}, "
                f"got {history.cardinalities}"
            )
        split = split or Split()
        if pretraining is None:
            pretraining = Pretraining(history, split, seed=self.seed, device=str(self.device))
        self._reset()
        self._build(pretraining)
        if follow:
            self.open.follow(history, split.start_second - 1)
        return self

    def _build(self, pretraining: "Pretraining | Untrained") -> None:
        """Takes over the pre-trained networks; methods add their own."""
        self._add("main", self._new_main())
        load_state(self.nets["main"], state_arrays(pretraining.main(self.config)))

    def _freeze(self, name: str, net: nn.Module) -> None:
        """Adds a network that does not learn in the stream."""
        self.frozen[name] = frozen(net).to(self.device)

    def _new_main(self) -> nn.Module:
        return new_towers(self.fields, self.config, self.seed)

    def _add(self, name: str, net: nn.Module) -> None:
        """Adds a network that learns in the stream, with its optimiser."""
        rate = self.config.learning_rate or self.learning_rate
        self.nets[name] = net.to(self.device).train()
        self.optimisers[name] = adam(net.parameters(), rate, self.config.weight_decay)

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """Estimates for M impressions; their standard deviation is unknown (0)."""
        ids = self.fields.encode(impressions.features).to(self.device)
        targets = (Target.CVR, Target.REFUND_RATE, Target.NET_CVR)
        means = (mean.double().cpu().numpy() for mean in self._estimates(ids))
        pairs = zip(targets, means, strict=True)
        return {target: Estimate(mean, np.zeros(mean.size)) for target, mean in pairs}

    def _estimates(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """CVR, refund rate and NetCVR (B,)."""
        both = probabilities(self.main, self._logits, ids)
        cvr, second = self._conversion_probability(both[:, 0], ids), both[:, 1]
        if self.config.head == "direct":
            ratio = second / torch.clamp(cvr, min=torch.finfo(cvr.dtype).tiny)
            return cvr, torch.clamp(1 - ratio, 0, 1), second
        return cvr, second, cvr * (1 - second)

    def _logits(self, ids: Tensor) -> Tensor:
        """Of both towers, (B, 2)."""
        return torch.stack(self.main(ids), dim=1)

    def _conversion_probability(self, output: Tensor, ids: Tensor) -> Tensor:
        """CVR (B,) from the conversion tower's output; methods may correct it."""
        return output

    def partial_fit(self, window: Window) -> Self:
        """Trains one pass, in order of time, on the rows that have become due in a window."""
        _ = self.main
        self.open.update(window)
        self._learn()
        self.open.close()
        return self

    def _learn(self) -> None:
        self._train(self._due(self.rule), self.rule, self._step)

    def _due(self, rule: str) -> Batch:
        """Rows due, as tensors, after those held back earlier."""
        rows, features = self.open.due(RULES[rule])
        batch = self._tensors(rows, features, rule)
        held = self._held.pop(rule, None)
        if held is None:
            return batch
        return Batch(*(torch.cat(pair) for pair in zip(held, batch, strict=True)))

    def _tensors(self, rows: Rows, features: np.ndarray, rule: str) -> Batch:
        def column(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(self.device)

        ids = self.fields.encode(features).to(self.device)
        refund, mask = refund_targets(rows, RULES[rule])
        columns = (rows.pay_label, rows.net_label, rows.conversion_row, rows.flag)
        hours = np.where(rows.delay < 0, -1.0, rows.delay / HOUR_SECONDS)
        tensors = [column(values) for values in (*columns, hours, refund, mask)]
        batch = Batch(ids, *tensors, constants=ids[:, :0].float())
        return batch._replace(constants=self._constants(batch, rows))

    def _constants(self, batch: Batch, rows: Rows) -> Tensor:
        """What the losses need per row from networks that do not learn, (N, k)."""
        return batch.constants

    def _train(self, rows: Batch, rule: str, step: Callable[[Batch], float]) -> None:
        """One pass over rows in order.

        Too few for the statistics of a batch, less than a quarter of one, wait for the next window.
        """
        count = len(rows.pay)
        if count < max(2, self.config.batch_size // _LEAST_PART):
            if count:
                self._held[rule] = rows
            return
        # The published code fails where a segment is smaller than a batch: train on it as it is.
        drop_last = self.config.official_quirks and count >= self.config.batch_size
        for part in batches(count, self.config.batch_size, drop_last=drop_last):
            loss = step(rows.rows(part))
            if rule == self.rule:
                self.losses.append(loss)
                self.trained_rows += part.stop - part.start

    def _step(self, batch: Batch) -> float:
        """One training step; its loss."""
        net, optimiser = self.main, self.optimisers["main"]
        if not self.config.official_quirks:
            cvr, second = net(batch.ids)
            loss = self.pay_loss(cvr, batch) + self.second_loss(second, batch)
            descend(optimiser, loss)
            return float(loss.detach())
        total = 0.0
        for refund in (self.refund_first, not self.refund_first):
            if refund:
                loss = self.second_loss(net.refund_logit(batch.ids), batch)
            else:
                loss = self.pay_loss(net.cvr_logit(batch.ids), batch)
            descend(optimiser, loss)
            total += float(loss.detach())
        return total

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Loss of the conversion tower, from its logits (B,): a scalar."""
        return bce(logit, batch.pay, batch.conversion)

    def second_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Loss of the second tower: `refund_loss`, or of direct NetCVR on every row."""
        if self.config.head == "direct":
            return bce(logit, batch.net, torch.ones_like(batch.net))
        return self.refund_loss(logit, batch)

    def refund_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Loss of the refund tower, from its logits (B,): a scalar."""
        return bce(logit, batch.refund, batch.refund_mask)

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
        for rule, batch in self._held.items():
            parts[f"held_{rule}"] = {k: v.cpu().numpy() for k, v in batch._asdict().items()}
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
            self._build(Untrained(self.fields, self.seed))
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
                self._held[part.removeprefix("held_")] = Batch(**columns)


def _shapes(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    """Type and shape of each array."""
    return {name: [str(array.dtype), *array.shape] for name, array in arrays.items()}


class Untrained:
    """Networks of the shapes that `Pretraining` trains, to be filled from a file."""

    def __init__(self, fields: Fields, seed: int) -> None:
        self.fields, self.seed = fields, seed

    def main(self, config: NetCVRConfig) -> nn.Module:
        """As `Pretraining.main`, untrained."""
        return frozen(new_towers(self.fields, config, self.seed))

    def delays(self, model: DelayModel, config: NetCVRConfig) -> nn.Module:
        """As `Pretraining.delays`, untrained."""
        return frozen(new_delay_net(self.fields, model, config, self.seed))


def load_predictor(file: str | Path, device: str = "cpu") -> NetCVRPredictor:
    """A predictor as it was when `save` wrote it: on the same device it goes on as it would have.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file was not written by `NetCVRPredictor.save`; names what is wrong.
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
