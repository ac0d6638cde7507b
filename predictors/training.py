"""What the training of neural predictors shares: settings, epochs before the stream, a cache.

Methods that are compared start from the same networks: a `BasePretraining` trains each one it is
asked for once, and keeps it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from adsim.types import IntArray
from predictors.arrays import load_arrays, save_arrays
from predictors.nets import Fields, adam, frozen, load_state, state_arrays
from predictors.stream import Split, batches

LEAST_STEPS, MIN_BATCH = 100, 32  # of an epoch

Net = TypeVar("Net", bound=nn.Module)
Rate = Annotated[float, Field(gt=0, le=1)]
Size = Annotated[int, Field(ge=1)]


class NeuralConfig(BaseModel):
    """Settings that all neural predictors have."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    embedding_dim: Size = 8
    """Columns of an embedding set."""
    embedding_sd: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of initial embeddings."""
    batch_size: Annotated[int, Field(ge=4)] = 256
    """Rows of a training step."""
    learning_rate: Rate | None = None
    """Of the stream; None: the method's own."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Of the stream."""
    pretrain_learning_rate: Rate = 1e-2
    """Of all networks trained before the stream."""
    official_quirks: bool = False
    """Do what the published code does where it differs from the methods' papers."""

    def check_fields(self, fields: Fields) -> None:
        """Raises ValueError if the settings do not suit the fields of the ids."""


class History(Protocol):
    """What a log of clicks has at least."""

    @property
    def click_time(self) -> IntArray:
        """(C,) seconds, non-decreasing."""
        ...

    @property
    def features(self) -> NDArray[np.int32]:
        """(C, F) categorical ids."""
        ...

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """(F,) sizes of the fields."""
        ...


def seeded(seed: int, make: Callable[[], Net]) -> Net:
    """A network with weights drawn from a seed; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        return make()


class BasePretraining:
    """Trains networks on the clicks of the first days of a history, each once.

    Args:
        history: known before the stream starts; its first days have their final labels.
        split: which days these are.
        seed: of initial weights and of the order of the rows.
        device: torch device.
        cache: folder in which trained networks are kept (npz) and looked up; for one history.

    Raises:
        ValueError: no click to train on.
    """

    def __init__(
        self,
        history: History,
        split: Split,
        *,
        seed: int = 0,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> None:
        self.split, self.seed = split, seed
        self.device, self._cache = torch.device(device), cache
        if cache is not None:
            cache.mkdir(parents=True, exist_ok=True)
        self.fields = Fields(history.cardinalities)
        self._rows = split.pretrain(history.click_time)
        if self._rows.stop == 0:
            raise ValueError(f"history must have clicks before day {split.pretrain_days}")
        self._ids = self.fields.encode(history.features[self._rows]).to(self.device)
        self._made: dict[str, nn.Module] = {}

    def _trained(
        self, name: str, settings: dict, net: nn.Module, fit: Callable[[nn.Module], None]
    ) -> nn.Module:
        """Looks a network up by the settings that determine it, or trains it; frozen."""
        split = {"pretrain_days": self.split.pretrain_days}
        settings = {"name": name, "seed": self.seed, **split, **settings}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
        key = f"{name}_{digest}"
        if key not in self._made:
            net = net.to(self.device)
            file = self._cache / f"{key}.npz" if self._cache else None
            if file is not None and file.is_file():
                load_state(net, load_arrays(file))
            else:
                fit(net)
                if file is not None:
                    save_arrays(file, state_arrays(net))
            self._made[key] = frozen(net)
        return self._made[key]

    def _epoch(
        self,
        net: nn.Module,
        count: int,
        config: NeuralConfig,
        *,
        settling: bool,
        epochs: int = 1,
        rate: float | None = None,
    ) -> Iterator[tuple[Tensor, torch.optim.Optimizer]]:
        """Rows of the batches of one epoch or more, with the optimiser; a lone row is left out.

        `settling`: the learning rate falls to 0, and few rows are cut in smaller batches, so that
        the last steps' noise does not spoil the calibration of networks that will not learn again.
        The published codes do neither.
        """
        size = config.batch_size
        if settling:
            size = min(size, max(MIN_BATCH, count // LEAST_STEPS))
        generator = torch.Generator().manual_seed(self.seed)
        rate = rate or config.pretrain_learning_rate
        optimiser = adam(net.parameters(), rate)
        parts = list(batches(count, size))
        for epoch in range(epochs):
            order = torch.randperm(count, generator=generator)
            for step, part in enumerate(parts):
                if settling:
                    done = (epoch + step / len(parts)) / epochs
                    set_rate(optimiser, rate * (1 - done))
                if part.stop - part.start > 1:
                    yield order[part].to(self.device), optimiser


class Untrained(BasePretraining):
    """Networks of the shapes that a pre-training makes, to be filled from a file."""

    def __init__(self, fields: Fields, seed: int) -> None:
        self.fields, self.seed = fields, seed

    def _trained(
        self, name: str, settings: dict, net: nn.Module, fit: Callable[[nn.Module], None]
    ) -> nn.Module:
        return frozen(net)


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One optimiser step; parameters that the loss does not reach stay as they are."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Changes the learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate
