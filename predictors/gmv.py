"""Online GMV predictors: what a converted click will have been worth when its window closes.

`GmvPredictor` has what all methods share: the rows that become due in a window, the training step
and the estimates. A method states which rows it trains on and with which targets (`reader.py`,
`gmv_baselines.py`).

The training loss is the mean absolute error of log1p(GMV), natural: what is estimated is a median.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837).
"""

from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from adsim.types import Target
from predictors.gmv_nets import Amounts
from predictors.gmv_pretraining import (
    GmvConfig,
    GmvPretraining,
    UntrainedGmv,
    count_amounts,
    new_amounts,
)
from predictors.nets import load_state, probabilities, state_arrays
from predictors.neural import NeuralPredictor
from predictors.purchase_rows import OpenPurchases, PurchaseRows, RowKind
from predictors.purchase_stream import READER_SPLIT
from predictors.scene_nets import ParameterCount
from predictors.stream import Split
from predictors.training import descend, set_rate

Rule = Literal["none", "purchases", "ends", "purchases_and_ends", "first"]
"""Which rows a method trains on: none, every purchase, ends of windows, both, or (privileged)
first purchases, whose labels are final."""


class GmvRows(NamedTuple):
    """Training rows as tensors of one device; (B,) float32 unless stated."""

    ids: Tensor  # (B, F) int64 rows of the embedding matrix
    target: Tensor  # log1p of the label, natural
    several: Tensor  # share of the repurchase tower in the prediction, in [0, 1]; of 1 tower unused
    window_end: Tensor  # 1 on window ends, 0 on purchases
    unlearn: Tensor  # log1p of what the last purchase was taught; on window ends

    def rows(self, part: slice | Tensor) -> "GmvRows":
        """Some of the rows."""
        return GmvRows(*(column[part] for column in self))


class GmvPredictor(NeuralPredictor[GmvRows]):
    """Base of the online methods; estimates the GMV of a converted click.

    Args and attributes are those of `NeuralPredictor`.
    """

    targets = frozenset({Target.GMV})
    rule: str  # a `Rule`
    towers: ClassVar[int]  # 1, or 2: one for single purchases and one for repurchases
    # Of 1e-4, 3e-4 and 1e-3 the lowest whose ALPR is within .001 of the best, in a world that no
    # benchmark uses (trace, seed 1000).
    learning_rate: ClassVar[float] = 3e-4
    config_class = GmvConfig
    pretraining_class = GmvPretraining
    untrained_class = UntrainedGmv
    rows_class = GmvRows

    def _reset(self) -> None:
        super()._reset()
        self._passes = 0  # over the rows of a window, or of a daily lot

    def _new_store(self) -> OpenPurchases:
        return OpenPurchases(self.config.attribution_seconds, len(self.fields.cardinalities))

    def _usual_split(self) -> Split:
        return READER_SPLIT

    @property
    def main(self) -> Amounts:
        """The network that makes the estimates.

        Raises:
            RuntimeError: there is none yet.
        """
        net = self._net()
        assert isinstance(net, Amounts)
        return net

    def _build(self, pretraining: GmvPretraining) -> None:
        net = new_amounts(self.fields, self.config, self.seed, self.towers)
        load_state(net, state_arrays(pretraining.amounts(self.config, self.towers)))
        if self.towers == 2:
            if self.config.bottom == "frozen":
                net.encoders.requires_grad_(False)
                net.backbone.requires_grad_(False)  # the encoder's weights depend on it
            self._freeze("router", pretraining.router(self.config))
        self._add("main", net)

    @property
    def num_parameters(self) -> ParameterCount:
        """Of the networks that make the estimates; what is used in training only is left out.

        Raises:
            ValueError: the setting `scene_field` is no field.
        """
        return count_amounts(self.fields, self.config, self.towers)

    def _estimates(self, ids: Tensor) -> dict[Target, Tensor]:
        """GMV (B,), currency."""
        with torch.no_grad():
            found = self.main(ids)
            share = self.shares(self.repurchase_probability(ids))
            return {Target.GMV: torch.expm1(self.mixture(found, share))}

    def repurchase_probability(self, ids: Tensor) -> Tensor:
        """The frozen router's P(more than one purchase) (B,), at its temperature."""
        if self.towers == 1:
            return torch.zeros(len(ids), device=self.device)
        router = self.frozen["router"]
        return probabilities(router, lambda x: router(x) / self.config.temperature, ids)

    def shares(self, several: Tensor) -> Tensor:
        """Share (B,) of the repurchase tower for probabilities (B,) of several purchases.

        r <= low: 0; r >= high: 1; between them r itself (READER, section 4.1: hybrid routing).
        Hard routing: 1 from one half on.
        """
        config = self.config
        if config.routing == "hard":
            return (several >= 0.5).float()
        sure = torch.where(several >= config.router_high, 1.0, several)
        return torch.where(several <= config.router_low, 0.0, sure)

    def mixture(self, found: Tensor, several: Tensor) -> Tensor:
        """log1p (B,) of predictions, from log1p of the towers' amounts; see `mixed`."""
        return mixed(found, several, in_logs=self.config.mixes_logs)

    def _new_rows(self, rule: str) -> GmvRows:
        rows, features = self.open.due()
        kept = {
            "none": np.zeros(rows.click.size, np.bool_),
            "purchases": rows.kind == RowKind.PURCHASE,
            "ends": rows.kind == RowKind.WINDOW_END,
            "purchases_and_ends": np.ones(rows.click.size, np.bool_),
            "first": (rows.kind == RowKind.PURCHASE) & (rows.count == 1),
        }[rule]
        return self.tensors(PurchaseRows._make(column[kept] for column in rows), features[kept])

    def tensors(self, rows: PurchaseRows, features: np.ndarray) -> GmvRows:
        """Training rows with their targets, which carry no gradient.

        Args:
            rows: N rows of this predictor's rule.
            features: (N, F) categorical ids.
        """
        return self.labelled(self.unlabelled(rows, features), rows)

    def unlabelled(self, rows: PurchaseRows, features: np.ndarray) -> GmvRows:
        """Rows as tensors, with the amounts seen as targets, before any network is asked."""
        ids = self.fields.encode(features).to(self.device)
        nothing = torch.zeros(len(ids), device=self.device)
        return GmvRows(
            ids,
            target=torch.log1p(self._column(rows.gmv)),
            several=nothing,
            window_end=self._column(rows.kind == RowKind.WINDOW_END),
            unlearn=nothing,
        )

    def labelled(self, batch: GmvRows, rows: PurchaseRows) -> GmvRows:
        """The rows with shares of the towers and targets, from networks that do not learn."""
        router = self.repurchase_probability(batch.ids)
        batch = batch._replace(several=self.shares(self._known_kind(router, rows)))
        return self._with_targets(batch, rows, router)

    def _known_kind(self, router: Tensor, rows: PurchaseRows) -> Tensor:
        """P(several purchases) (N,) as far as it is known when the row is due.

        1 from the second purchase on; at the end of the window the truth; else the router's.
        """
        if self.towers == 1:
            return router
        known = (rows.count > 1) | (rows.kind == RowKind.WINDOW_END)
        return torch.where(self._mask(known), self._column(rows.count > 1), router)

    def _mask(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self.device)

    def _with_targets(self, batch: GmvRows, rows: PurchaseRows, router: Tensor) -> GmvRows:
        """The rows with the targets of the method; that they have are the amounts seen so far.

        `router`: (N,) its P(several purchases), at its temperature.
        """
        return batch

    def _train(self, rows: GmvRows, rule: str, step: Callable[[GmvRows], float]) -> None:
        super()._train(rows, rule, step)
        self._passes += 1
        self._let_rate_fall()

    def _let_rate_fall(self) -> None:
        rate = self.config.learning_rate or self.learning_rate
        for optimiser in self.optimisers.values():
            set_rate(optimiser, rate * self.config.rate_decay ** (self._passes / 2))

    def _step(self, batch: GmvRows) -> float:
        loss = self.loss(self.mixture(self.main(batch.ids), batch.several), batch)
        descend(self.optimisers["main"], self.main.backbone.objective(loss, self.generator))
        return float(loss.detach())

    def loss(self, predicted: Tensor, batch: GmvRows) -> Tensor:
        """Mean |log1p(predicted) - log1p(target)|, natural, from log1p of predictions (B,)."""
        return (predicted - batch.target).abs().mean()

    def _more_state(self) -> dict[str, dict[str, np.ndarray]]:
        return {**super()._more_state(), "rate": {"passes": np.array(self._passes)}}

    def _set_state(self, about: dict[str, Any], parts: dict[str, dict[str, np.ndarray]]) -> None:
        super()._set_state(about, parts)
        self._passes = int(parts["rate"]["passes"])
        self._let_rate_fall()


def mixed(found: Tensor, several: Tensor, *, in_logs: bool = False) -> Tensor:
    """log1p (B,) of the mixture of two towers' amounts, given log1p of these (B, 1 or 2).

    Amounts are mixed in currency (READER, section 4.1): (1 - r) single + r repurchase; with
    `in_logs`, which is ours, their log1p. Where r is 0 or 1 the other tower has no part, not even
    a gradient.
    """
    if found.shape[1] == 1:
        return found[:, 0]
    if in_logs:
        return (1 - several) * found[:, 0] + several * found[:, 1]
    single, repurchase = torch.expm1(found).unbind(1)
    return torch.log1p((1 - several) * single + several * repurchase)
