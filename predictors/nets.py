"""Networks shared by the neural predictors: embeddings of categorical ids, towers, two of them.

A `Fields` object numbers the ids of all fields through, so that a set of embedding tables is one
matrix and one gather. Ids outside their field share one row per field, "unknown", which starts at
zero.

Source: TESLA, arXiv:2601.19965, section 4.1, and its published code (alimama-tech/NetCVR).
"""

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import embedding, softplus

Tables = Literal["separate", "shared", "hybrid"]
"""Embedding sets of two towers: one each, one for both, or one each and one for both."""

ADAM_BETAS = (0.9, 0.999)


class Fields:
    """Numbers the ids of F categorical fields through.

    Args:
        cardinalities: (F,) sizes of the fields, >= 1 each.
    """

    def __init__(self, cardinalities: Iterable[int]) -> None:
        self.cardinalities = tuple(int(size) for size in cardinalities)
        if not self.cardinalities or min(self.cardinalities) < 1:
            raise ValueError(f"cardinalities must be >= 1 each, got {self.cardinalities}")
        sizes = np.array(self.cardinalities) + 1  # and one unknown id
        self.size = int(sizes.sum())
        self._offset = np.cumsum(sizes) - sizes
        self.unknown = self._offset + self.cardinalities

    def encode(self, features: NDArray[np.integer]) -> Tensor:
        """Rows (B, F) int64 of the embedding matrix for ids (B, F).

        Raises:
            ValueError: not F columns.
        """
        if features.ndim != 2 or features.shape[1] != len(self.cardinalities):
            raise ValueError(
                f"features must have shape (B, {len(self.cardinalities)}), got {features.shape}"
            )
        known = (features >= 0) & (features < self.cardinalities)
        return torch.from_numpy(np.where(known, features + self._offset, self.unknown))

    def table(self, dim: int, sd: float) -> nn.Parameter:
        """A new embedding matrix (size, dim), N(0, sd^2)."""
        table = sd * torch.randn(self.size, dim)
        table[torch.from_numpy(self.unknown)] = 0.0
        return nn.Parameter(table)


class Sizes(NamedTuple):
    """Of embeddings and towers."""

    dim: int  # columns of an embedding set
    sd: float  # of the initial embeddings
    widths: tuple[int, ...]  # of the hidden layers
    momentum: float  # of the batch normalisations


class RowLayer(nn.Module):
    """A layer that reads of each row more than its units: `forward(units, rows)`."""


class Stack(nn.Sequential):
    """Layers one after the other; those that read more of the rows are given it."""

    def forward(self, input: Tensor, rows: Any = None) -> Tensor:
        """(B, inputs) to (B, outputs); `rows` as from `Backbone.split`."""
        for layer in self:
            input = passed(layer, input, rows)
        return input


def passed(layer: nn.Module, units: Tensor, rows: Any) -> Tensor:
    """What a layer of any kind makes of units (B, inputs); `rows` as from `Backbone.split`."""
    return layer(units, rows) if isinstance(layer, RowLayer | Stack) else layer(units)


class LinearTerms(nn.Module):
    """A weight per id and output, summed over the fields; all start at zero.

    Source: the wide part of H.-T. Cheng et al., "Wide & Deep Learning for Recommender Systems",
    DLRS 2016, arXiv:1606.07792.
    """

    def __init__(self, fields: Fields, outputs: int) -> None:
        super().__init__()
        self.table = fields.table(outputs, 0.0)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (B, F) to (B, outputs)."""
        return embedding(ids, self.table).sum(1)


class Backbone(nn.Module):
    """Makes the layers of a network: plain ones, whose weights are the same for all rows.

    Args:
        fields: of the ids that the network embeds.
        wide: of the ids that have linear terms beside the layers; None: there are no such terms.

    Attributes:
        fields: of the ids that the network embeds.
    """

    def __init__(self, fields: Fields, wide: Fields | None = None) -> None:
        super().__init__()
        self.fields, self._wide = fields, wide

    def terms(self, outputs: int) -> LinearTerms | None:
        """New linear terms of a network, which read the ids as they are before `split`."""
        return LinearTerms(self._wide, outputs) if self._wide else None

    def linear(self, inputs: int, outputs: int, *, last: bool = False) -> nn.Module:
        """A new linear layer; `last`: to the network's outputs."""
        return nn.Linear(inputs, outputs)

    def norm(self, width: int, momentum: float) -> nn.Module:
        """A new normalisation of hidden units."""
        return nn.BatchNorm1d(width, momentum=momentum)

    def split(self, ids: Tensor) -> tuple[Tensor, Any]:
        """Ids (B, F) as those of `fields`, and what else the layers read of the rows."""
        return ids, None

    def objective(self, loss: Tensor, generator: torch.Generator) -> Tensor:
        """What a training step descends: the loss () of the network's outputs, and its own terms.

        `generator`: of draws.
        """
        return loss


def tower(inputs: int, sizes: Sizes, outputs: int, backbone: Backbone) -> Stack:
    """Linear, normalisation, LeakyReLU per width, and a linear layer to the outputs."""
    layers: list[nn.Module] = []
    for width in sizes.widths:
        norm = backbone.norm(width, sizes.momentum)
        layers += [backbone.linear(inputs, width), norm, nn.LeakyReLU()]
        inputs = width
    return Stack(*layers, backbone.linear(inputs, outputs, last=True))


class TowerNet(nn.Module):
    """One set of embeddings and one tower: ids (B, F) to logits (B, outputs)."""

    def __init__(self, fields: Fields, sizes: Sizes, outputs: int) -> None:
        super().__init__()
        self.table = fields.table(sizes.dim, sizes.sd)
        self.tower = tower(len(fields.cardinalities) * sizes.dim, sizes, outputs, Backbone(fields))

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (B, outputs)."""
        return self.tower(embedding(ids, self.table).flatten(1))


class TwoTowers(nn.Module):
    """A conversion tower and a refund tower over private and shared embeddings.

    Args:
        fields: of the ids.
        sizes: of every embedding set and both towers.
        tables: which embedding sets there are.
        detach_refund: the refund tower does not train the embeddings it reads.
        backbone: of both towers; None: plain layers.
    """

    def __init__(
        self,
        fields: Fields,
        sizes: Sizes,
        tables: Tables,
        *,
        detach_refund: bool,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        if tables not in get_args(Tables):
            raise ValueError(f"tables must be one of {get_args(Tables)}, got {tables!r}")
        self.detach_refund = detach_refund
        self.backbone = backbone = backbone or Backbone(fields)
        fields = backbone.fields
        private, shared = tables != "shared", tables != "separate"
        dim, sd = sizes.dim, sizes.sd
        self.private_cvr = fields.table(dim, sd) if private else None
        self.private_refund = fields.table(dim, sd) if private else None
        self.shared = fields.table(dim, sd) if shared else None
        inputs = len(fields.cardinalities) * dim * (private + shared)
        self.cvr = tower(inputs, sizes, 1, backbone)
        self.refund = tower(inputs, sizes, 1, backbone)
        self.terms = backbone.terms(2)

    @staticmethod
    def _read(ids: Tensor, *tables: nn.Parameter | None) -> list[Tensor]:
        return [embedding(ids, table).flatten(1) for table in tables if table is not None]

    def cvr_inputs(self, ids: Tensor) -> Tensor:
        """Embeddings (B, input layer) of the conversion tower, of ids of the backbone's fields."""
        return torch.cat(self._read(ids, self.private_cvr, self.shared), dim=1)

    def _term(self, ids: Tensor, tower: int) -> Tensor | float:
        """Linear terms (B,) of a tower, if there are any."""
        return self.terms(ids)[:, tower] if self.terms else 0.0

    def cvr_logit(self, ids: Tensor) -> Tensor:
        """(B,) of the conversion tower."""
        term = self._term(ids, 0)
        ids, rows = self.backbone.split(ids)
        return self.cvr(self.cvr_inputs(ids), rows).squeeze(1) + term

    def refund_logit(self, ids: Tensor) -> Tensor:
        """(B,) of the refund tower."""
        term = self._term(ids, 1)
        ids, rows = self.backbone.split(ids)
        inputs = torch.cat(self._read(ids, self.private_refund, self.shared), dim=1)
        inputs = inputs.detach() if self.detach_refund else inputs
        return self.refund(inputs, rows).squeeze(1) + term

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Both logits (B,); the shared embeddings are read once."""
        terms = self.terms(ids).unbind(1) if self.terms else (0.0, 0.0)
        ids, rows = self.backbone.split(ids)
        shared = self._read(ids, self.shared)
        cvr = torch.cat([*self._read(ids, self.private_cvr), *shared], dim=1)
        refund = torch.cat([*self._read(ids, self.private_refund), *shared], dim=1)
        if self.detach_refund:
            refund = refund.detach()
        logits = self.cvr(cvr, rows).squeeze(1), self.refund(refund, rows).squeeze(1)
        return logits[0] + terms[0], logits[1] + terms[1]


def adam(parameters: Iterable[nn.Parameter], rate: float, decay: float = 0.0) -> torch.optim.AdamW:
    """AdamW with one fused step; without decay it is Adam."""
    return torch.optim.AdamW(parameters, lr=rate, betas=ADAM_BETAS, weight_decay=decay, fused=True)


def weighted_bce(logit: Tensor, label: Tensor, mask: Tensor, w1: Tensor, w0: Tensor) -> Tensor:
    """Mean over all B rows of mask x (label w1 softplus(-logit) + (1 - label) w0 softplus(logit)).

    The mean is over the whole batch, masked rows included (published code of TESLA).
    """
    loss = label * w1 * softplus(-logit) + (1 - label) * w0 * softplus(logit)
    return (mask * loss).mean()


def bce(logit: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """`weighted_bce` with weights 1."""
    return (mask * (softplus(logit) - label * logit)).mean()


@torch.no_grad()
def probabilities(
    net: nn.Module, logits: Callable[[Tensor], Tensor], ids: Tensor, rows: int = 4096
) -> Tensor:
    """Sigmoid of some logits of a network in eval mode, (B,) or (B, outputs), in float32.

    Args:
        net: put in eval mode meanwhile.
        logits: of the network, such as `net` itself or one of its methods.
        ids: (B, F), B >= 0.
        rows: computed at a time.
    """
    training = net.training
    net.eval()
    starts = range(0, max(len(ids), 1), rows)
    found = torch.cat([torch.sigmoid(logits(ids[start : start + rows])) for start in starts])
    net.train(training)
    return found


def frozen(net: nn.Module) -> nn.Module:
    """A copy in eval mode whose weights never change."""
    copy = deepcopy(net).eval()
    return copy.requires_grad_(False)


def state_arrays(modules: nn.Module) -> dict[str, np.ndarray]:
    """Weights and buffers as named arrays."""
    return {name: value.cpu().numpy() for name, value in modules.state_dict().items()}


def load_state(modules: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Restores what `state_arrays` returned.

    Raises:
        ValueError: names or shapes of other networks.
    """
    state = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    try:
        modules.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights do not fit the networks: {error}") from error


def optimiser_arrays(optimiser: torch.optim.Optimizer) -> dict[str, np.ndarray]:
    """Moments and step counts as named arrays, "<parameter>.<moment>"."""
    return {
        f"{index}.{name}": value.cpu().numpy()
        for index, moments in optimiser.state_dict()["state"].items()
        for name, value in moments.items()
    }


def load_optimiser(optimiser: torch.optim.Optimizer, arrays: dict[str, np.ndarray]) -> None:
    """Restores what `optimiser_arrays` returned."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, array in arrays.items():
        index, name = key.split(".")
        moments.setdefault(int(index), {})[name] = torch.from_numpy(array.copy())
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})
