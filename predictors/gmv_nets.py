"""Networks of the GMV predictors: amounts, the router between two towers, and the calibrator.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, section 4, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837), which decides on layers and activations.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, layer_norm, softplus

from predictors.nets import Backbone, Fields, Stack, passed
from predictors.scene_backbone import SceneLinear

Head = Literal["log", "absolute"]
"""How a tower's output z becomes an amount: log1p(amount) = softplus(z), or amount = |z|."""
Bottom = Literal["shared", "independent", "frozen"]
"""What two towers share: an encoder, nothing, or an encoder that does not learn in the stream."""

DICE_EPSILON, DICE_SLOPE = 1e-4, -0.25  # published code


class Dice(nn.Module):
    """Activation g u + (1 - g) alpha u with g = sigmoid(u normalised over its features).

    Without statistics of the batch: training and evaluation are the same function.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.full((width,), DICE_SLOPE))

    def forward(self, u: Tensor) -> Tensor:
        """(B, width) to (B, width)."""
        gate = torch.sigmoid(layer_norm(u, u.shape[-1:], eps=DICE_EPSILON))
        return u * (self.slope + gate * (1 - self.slope))


def layers(inputs: int, widths: Sequence[int], backbone: Backbone | None = None) -> Stack:
    """Linear and Dice per width; plain without a backbone."""
    linear = backbone.linear if backbone else nn.Linear
    stack: list[nn.Module] = []
    for width in widths:
        stack += [linear(inputs, width), Dice(width)]
        inputs = width
    return Stack(*stack)


class Encoder(nn.Module):
    """One set of embeddings and hidden layers: ids (B, F) to features (B, last width).

    Args:
        fields: of the ids.
        dim: columns of the embeddings.
        sd: of the initial embeddings.
        widths: of the hidden layers.
        backbone: of the network that it is a part of, which splits the ids; None: plain layers.
    """

    def __init__(
        self,
        fields: Fields,
        dim: int,
        sd: float,
        widths: Sequence[int],
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.table = fields.table(dim, sd)
        self.layers = layers(len(fields.cardinalities) * dim, widths, backbone)

    def forward(self, ids: Tensor, rows: Any = None) -> Tensor:
        """(B, F) to (B, last width); `rows` as from `Backbone.split`."""
        return self.layers(embedding(ids, self.table).flatten(1), rows)


def tower(inputs: int, widths: Sequence[int], backbone: Backbone) -> Stack:
    """Hidden layers and a linear output."""
    hidden = layers(inputs, widths, backbone)
    return Stack(hidden, backbone.linear([inputs, *widths][-1], 1, last=True))


class Amounts(nn.Module):
    """Predicted amounts of one tower, or of one for single purchases and one for repurchases.

    Args:
        fields: of the ids.
        embedding: columns and initial standard deviation of an embedding set.
        widths: hidden layers of the encoder, and of a tower.
        towers: 1 or 2.
        head: how outputs become amounts.
        independent: every tower has an encoder of its own.
        backbone: of encoders and towers; None: plain layers.
    """

    def __init__(
        self,
        fields: Fields,
        embedding: tuple[int, float],
        widths: tuple[Sequence[int], Sequence[int]],
        towers: int,
        *,
        head: Head,
        independent: bool = False,
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone = backbone or Backbone(fields)
        encoders = towers if independent else 1
        self.encoders = nn.ModuleList(
            Encoder(backbone.fields, *embedding, widths[0], backbone) for _ in range(encoders)
        )
        self.towers = nn.ModuleList(
            tower(widths[0][-1], widths[1], backbone) for _ in range(towers)
        )
        self.terms, self.head = backbone.terms(towers), head

    def start_at(self, level: float) -> None:
        """Lets the outputs begin near log1p(amount) = `level`; for the log head only."""
        bias = torch.log(torch.expm1(torch.tensor(level)))
        for each in self.towers:
            assert isinstance(each, Stack)
            last = each[-1]
            plain = last.weighted.linear if isinstance(last, SceneLinear) else last
            nn.init.constant_(plain.bias, float(bias))  # pyright: ignore[reportArgumentType]

    def forward(self, ids: Tensor) -> Tensor:
        """log1p of the amounts (B, towers), natural, >= 0."""
        terms = self.terms(ids) if self.terms else 0.0
        ids, rows = self.backbone.split(ids)
        hidden = [encoder(ids, rows) for encoder in self.encoders]
        if len(hidden) < len(self.towers):
            hidden *= len(self.towers)
        pairs = zip(self.towers, hidden, strict=True)
        out = torch.cat([each(features, rows) for each, features in pairs], dim=1) + terms
        return softplus(out) if self.head == "log" else torch.log1p(out.abs())


class Router(nn.Module):
    """Logit (B,) of P(more than one purchase | ids)."""

    def __init__(
        self,
        fields: Fields,
        embedding: tuple[int, float],
        widths: Sequence[int],
        backbone: Backbone | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone = backbone or Backbone(fields)
        self.encoder = Encoder(backbone.fields, *embedding, widths, backbone)
        self.output = backbone.linear(widths[-1], 1, last=True)
        self.terms = backbone.terms(1)

    def forward(self, ids: Tensor) -> Tensor:
        """(B, F) to (B,)."""
        terms = self.terms(ids) if self.terms else 0.0
        ids, rows = self.backbone.split(ids)
        return (passed(self.output, self.encoder(ids, rows), rows) + terms).squeeze(1)


class Calibrator(nn.Module):
    """delta = log1p(final GMV) - log1p(GMV seen so far) of a click that buys more than once, > 0.

    Elapsed time and number of purchases enter at the last layer (published code).
    """

    def __init__(self, fields: Fields, embedding: tuple[int, float], widths: Sequence[int]) -> None:
        super().__init__()
        self.encoder = Encoder(fields, *embedding, widths)
        self.output = nn.Linear(widths[-1] + 2, 1)

    def forward(self, ids: Tensor, elapsed: Tensor, count: Tensor) -> Tensor:
        """Ids (B, F), share of the window elapsed (B,), purchases seen (B,) to delta (B,)."""
        seen = torch.stack([elapsed, count], dim=1)
        return softplus(self.output(torch.cat([self.encoder(ids), seen], dim=1))).squeeze(1)
