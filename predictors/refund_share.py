"""Refunded share of GMV: which part of what a converted click buys will come back.

`REFUND_VALUE_SHARE` is s(x) = E[refunded amount | x] / E[amount | x] of a converted click with
features x. It is not the refund rate where dear purchases come back more, or less, often.

Derivation (ours): every purchase with amount a > 0 and label z, 1 if it was refunded, is a training
row of weight a. For an output p, the purchases of the clicks with features x cost

    E[sum a (-z log p - (1 - z) log(1 - p)) | x] = -R log p - (G - R) log(1 - p)

with G = E[sum a | x] and R = E[sum a z | x], the sums over the purchases of a click. The derivative
-R / p + (G - R) / (1 - p) is 0 at p = R / G = s(x) only, and the cost is convex in p. So
cross-entropy weighted by amount finds the share; a factor common to all weights changes nothing.

A label is final when the refund window of its purchase is over. Rows come no earlier, none is ever
corrected, and every purchase gives one: the age of the rows, 3 days, is the price of no bias.

Amounts have heavy tails, a few purchases carry much of the weight. Capped weights b = min(a, cap)
find E[sum b z | x] / E[sum b | x] instead: less noise, and a bias towards the refund rate. Capping
at the default quantile .995 makes expected net GMV in scenario `price_refunds` 1.1 % higher, and
its mean relative error .225 instead of .228 (`benchmarks/refund_share.py`). Refund rates by bin of
the amount, with the bins' shares of GMV from a second output, had larger errors on two structures,
and net GMV was 5 to 13 % too high. Where refunds do not depend on amounts, weights only add noise:
in `heavy_refund` the relative error is .300, that of the refund rate .284.
"""

from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from adsim.clicklog import MISSING
from adsim.purchaselog import PurchaseLog
from adsim.types import BoolArray, EventKind, FloatArray, IntArray, Target, Window
from predictors.base import register_predictor
from predictors.nets import (
    Fields,
    Sizes,
    TowerNet,
    load_state,
    probabilities,
    state_arrays,
    weighted_bce,
)
from predictors.neural import NeuralPredictor
from predictors.open_clicks import last_second, whole_seconds
from predictors.purchase_rows import ATTRIBUTION_SECONDS, MAX_PURCHASES, num_purchases
from predictors.purchase_stream import READER_SPLIT
from predictors.stream import Split
from predictors.training import (
    BasePretraining,
    NeuralConfig,
    Size,
    Untrained,
    descend,
    seeded,
)

_NUMBERS = MAX_PURCHASES + 1  # keys of purchases: click id x _NUMBERS + number of the purchase
_COLUMNS = ("key", "time", "amount", "refunded", "features")
_NO_MOMENTUM = 0.1  # of batch normalisations; a net without hidden layers has none


class RefundShareConfig(NeuralConfig):
    """Settings of `RefundShare`."""

    attribution_seconds: Size = ATTRIBUTION_SECONDS
    """From a click to the end of its purchases."""
    refund_seconds: Size = 259_200
    """From a purchase to the end of its refund window."""
    weights: Literal["amount", "first_purchase"] = "amount"
    """Of a purchase. "first_purchase": 1 for the first of a click, else 0; what is estimated is
    then the refund rate of first purchases."""
    weight_cap: Annotated[float, Field(gt=0, le=1)] = 0.995
    """Amounts above this quantile of those before the stream weigh no more than it; 1: no cap."""
    batch_size: Annotated[int, Field(ge=4)] = 128
    """Rows of a training step."""
    pretrain_epochs: Size = 1
    """Passes over the days before the stream."""


class Matured(NamedTuple):
    """N purchases whose refund windows are over, in order of time and click."""

    click_id: IntArray  # (N,)
    first: BoolArray  # (N,) of the click
    time: IntArray  # (N,) seconds, of the purchase
    amount: FloatArray  # (N,) currency
    refunded: BoolArray  # (N,) within the window


class PendingPurchases:
    """Purchases seen whose refund windows are open, and which of them have come back.

    A purchase is due once a window holds the second in which its refund window is over, and leaves.
    Purchases at or after the end of the attribution window are ignored, and so are refunds after
    their window or of purchases that were not seen.

    Args:
        attribution_seconds: from a click to the end of its purchases.
        refund_seconds: from a purchase to the end of its refund window.
        num_fields: F, columns of the features.

    Attributes:
        since, now: seconds; what was due up to `since` has left, what is due up to `now` is due.
        key, time, amount, refunded: (N,) of the purchases, in order of click and number.
        features: (N, F) of their clicks.
    """

    def __init__(self, attribution_seconds: int, refund_seconds: int, num_fields: int) -> None:
        self.attribution_seconds, self.refund_seconds = attribution_seconds, refund_seconds
        self.since = self.now = -1
        self.key, self.time = np.empty((2, 0), np.int64)
        self.amount, self.refunded = np.empty(0), np.empty(0, np.bool_)
        self.features = np.empty((0, num_fields), np.int32)

    def follow(self, history: PurchaseLog, now: int) -> None:
        """Goes on from a log as known at `now`, seconds; click ids are its row numbers.

        Purchases whose refund window is over by then bring no rows.
        """
        self.take(history, now)
        self.close()

    def take(self, history: PurchaseLog, now: int) -> None:
        """Holds the purchases of a log, as known at `now`, and no others."""
        number = num_purchases(history)
        click = np.repeat(np.arange(number.size), number)
        order = np.arange(click.size) - np.repeat(history.offset[:-1], number)
        time, refund = history.purchase_time, history.refund_time
        seen = (time <= now) & (time < history.click_time[click] + self.attribution_seconds)
        back = (refund != MISSING) & (refund <= now) & (refund < time + self.refund_seconds)
        columns = (click * _NUMBERS + order, time, history.amount, back, history.features[click])
        for name, column in zip(_COLUMNS, columns, strict=True):
            setattr(self, name, column[seen])
        self.now = now

    def update(self, window: Window) -> None:
        """Takes in the purchases and refunds of a window.

        Raises:
            ValueError: the window has events and ends before the one before it.
        """
        events, self.now = window.events, last_second(window, self.since)
        key = events.click_id * _NUMBERS + events.order_id
        seconds = whole_seconds(events.time_hours)
        place = np.searchsorted(window.clicks.impression_id, events.click_id)
        bought = np.flatnonzero(events.kind == EventKind.PURCHASE)
        click_time = whole_seconds(window.clicks.time_hours[place[bought]])
        bought = bought[seconds[bought] < click_time + self.attribution_seconds]
        nothing = np.zeros(bought.size, np.bool_)
        features = window.clicks.features[place[bought]]
        self._enter(key[bought], seconds[bought], events.amount[bought], nothing, features)
        back = events.kind == EventKind.REFUND
        self._return(key[back], seconds[back])

    def _enter(self, *columns: np.ndarray) -> None:
        """Adds purchases, by their values of `_COLUMNS`."""
        order = np.argsort(np.concatenate([self.key, columns[0]]), kind="stable")
        for name, column in zip(_COLUMNS, columns, strict=True):
            setattr(self, name, np.concatenate([getattr(self, name), column])[order])

    def _return(self, key: IntArray, seconds: IntArray) -> None:
        """Marks the purchases of some refunds (N,), if they are known and the window was open."""
        place = np.searchsorted(self.key, key, side="right") - 1
        known = (place >= 0) & (np.concatenate([self.key, [-1]])[place] == key)
        place, seconds = place[known], seconds[known]
        in_time = seconds < self.time[place] + self.refund_seconds
        self.refunded[place[in_time]] = True

    def due(self) -> tuple[Matured, NDArray[np.int32]]:
        """Purchases that have become due since the last `close`, and their features (N, F)."""
        rows = np.flatnonzero(self.time + self.refund_seconds <= self.now)
        rows = rows[np.argsort(self.time[rows], kind="stable")]
        click, order = np.divmod(self.key[rows], _NUMBERS)
        found = Matured(click, order == 0, self.time[rows], self.amount[rows], self.refunded[rows])
        return found, self.features[rows]

    def close(self) -> None:
        """Drops the purchases that are due."""
        kept = self.time + self.refund_seconds > self.now
        for name in _COLUMNS:
            setattr(self, name, getattr(self, name)[kept])
        self.since = self.now

    def get_state(self) -> dict[str, np.ndarray]:
        """Arrays that determine the future behaviour."""
        columns = {name: getattr(self, name).copy() for name in _COLUMNS}
        return {"moments": np.array([self.since, self.now]), **columns}

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        self.since, self.now = (int(moment) for moment in state["moments"])
        for name in _COLUMNS:
            setattr(self, name, state[name].copy())


class Scale(NamedTuple):
    """What weights are capped at, and their mean so far."""

    cap: float = np.inf  # currency
    total: float = 0.0  # of the weights
    number: int = 0  # of the rows

    @property
    def mean(self) -> float:
        """Of the weights so far; 1 before the first."""
        return self.total / self.number if self.number else 1.0


def new_share_net(fields: Fields, config: RefundShareConfig, seed: int) -> TowerNet:
    """The untrained network: embeddings and a linear layer to one logit."""
    sizes = Sizes(config.embedding_dim, config.embedding_sd, (), _NO_MOMENTUM)
    return seeded(seed, lambda: TowerNet(fields, sizes, 1))


def plain_weights(rows: Matured, config: RefundShareConfig, cap: float) -> FloatArray:
    """Weights (N,) of purchases, not scaled: capped amounts, or 1 and 0."""
    if config.weights == "first_purchase":
        return rows.first.astype(np.float64)
    return np.minimum(rows.amount, cap)


def share_loss(logit: Tensor, refunded: Tensor, weight: Tensor) -> Tensor:
    """Mean over (B,) rows of weight x cross-entropy.

    It is not divided by the weights of the batch: a ratio of two sums of few rows is biased.
    """
    return weighted_bce(logit, refunded, weight, torch.ones_like(weight), torch.ones_like(weight))


class RefundSharePretraining(BasePretraining):
    """Trains the network on the first days of a log, on purchases matured before the stream.

    Args and errors are those of `BasePretraining`.

    Raises:
        ValueError: no purchase to train on, when the network or the scale is asked for.
    """

    def __init__(self, history: PurchaseLog, split: Split, **options: object) -> None:
        super().__init__(history, split, **options)  # pyright: ignore[reportArgumentType]
        self.history = history

    def matured(self, config: RefundShareConfig) -> Matured:
        """Purchases of the first days' clicks whose refund windows are over before the stream."""
        fields = len(self.fields.cardinalities)
        store = PendingPurchases(config.attribution_seconds, config.refund_seconds, fields)
        store.take(self.history, self.split.start_second - 1)
        rows, _ = store.due()
        kept = rows.click_id < self._rows.stop
        if not kept.any():
            day = self.split.pretrain_days
            raise ValueError(f"history must have matured purchases of clicks before day {day}")
        return Matured._make(column[kept] for column in rows)

    def scale(self, config: RefundShareConfig) -> Scale:
        """Of the weights of the first days."""
        rows, level = self.matured(config), config.weight_cap
        cap = float(np.quantile(rows.amount, level)) if level < 1 else np.inf
        weight = plain_weights(rows, config, cap)
        return Scale(cap, float(weight.sum()), int(np.count_nonzero(weight)))

    def main(self, config: RefundShareConfig) -> nn.Module:
        """The pre-trained network; frozen."""
        net = new_share_net(self.fields, config, self.seed)
        unused = {"learning_rate", "weight_decay", "official_quirks"}
        settings = config.model_dump(mode="json", exclude=unused)
        return self._trained("refund_share", settings, net, lambda net: self._fit(net, config))

    def _fit(self, net: nn.Module, config: RefundShareConfig) -> None:
        assert isinstance(net, TowerNet)
        rows, scale = self.matured(config), self.scale(config)
        weight = plain_weights(rows, config, scale.cap) / scale.mean
        kept = weight > 0
        click, refunded, weight = rows.click_id[kept], rows.refunded[kept], weight[kept]
        # Half a purchase on either side: no share is 0 or 1.
        share = (0.5 + weight @ refunded) / (1 + weight.sum())
        nn.init.constant_(net.tower[-1].bias, np.log(share / (1 - share)))  # pyright: ignore
        columns = (torch.from_numpy(x.astype(np.float32)) for x in (refunded, weight))
        label, weights = (column.to(self.device) for column in columns)
        ids = self._ids[torch.from_numpy(click).to(self.device)]
        # At a constant rate: streams go on from here.
        epochs = config.pretrain_epochs
        for part, optimiser in self._epoch(net, len(ids), config, settling=False, epochs=epochs):
            loss = share_loss(net(ids[part]).squeeze(1), label[part], weights[part])
            descend(optimiser, loss)


class UntrainedRefundShare(Untrained, RefundSharePretraining):
    """A network of the shape that `RefundSharePretraining` trains, to be filled from a file."""

    def scale(self, config: RefundShareConfig) -> Scale:
        """None yet."""
        return Scale()


class MaturedRows(NamedTuple):
    """Training rows as tensors of one device."""

    ids: Tensor  # (B, F) int64 rows of the embedding matrix
    refunded: Tensor  # (B,) float32 label, 0 or 1
    weight: Tensor  # (B,) float32 > 0, about 1 on average

    def rows(self, part: slice | Tensor) -> "MaturedRows":
        """Some of the rows."""
        return MaturedRows(*(column[part] for column in self))


@register_predictor("refund_share")
class RefundShare(NeuralPredictor[MaturedRows]):
    """Estimates the refunded share of GMV of a converted click.

    A row per purchase when its refund window is over, weighted by amount. Args and attributes are
    those of `NeuralPredictor`.
    """

    targets = frozenset({Target.REFUND_VALUE_SHARE})
    name, rule = "refund_share", "matured"
    # Of 3e-4, 1e-3, 3e-3, 1e-2 and 3e-2 that with the least relative error of net GMV, on average
    # over structures that no benchmark uses (price_refunds, 1000 to 1003).
    learning_rate = 3e-3
    config_class = RefundShareConfig
    pretraining_class = RefundSharePretraining
    untrained_class = UntrainedRefundShare
    rows_class = MaturedRows

    def _reset(self) -> None:
        super()._reset()
        self.scale = Scale()

    def _new_store(self) -> PendingPurchases:
        config, fields = self.config, len(self.fields.cardinalities)
        return PendingPurchases(config.attribution_seconds, config.refund_seconds, fields)

    def _usual_split(self) -> Split:
        return READER_SPLIT

    def _build(self, pretraining: RefundSharePretraining) -> None:
        net = new_share_net(self.fields, self.config, self.seed)
        load_state(net, state_arrays(pretraining.main(self.config)))
        self.scale = pretraining.scale(self.config)
        self._add("main", net)

    def _estimates(self, ids: Tensor) -> dict[Target, Tensor]:
        """Refunded share of GMV (B,)."""
        net = self._net()
        return {Target.REFUND_VALUE_SHARE: probabilities(net, lambda x: net(x).squeeze(1), ids)}

    def _new_rows(self, rule: str) -> MaturedRows:
        rows, features = self.open.due()
        weight = plain_weights(rows, self.config, self.scale.cap)
        kept = weight > 0  # others teach nothing
        weight, features, refunded = weight[kept], features[kept], rows.refunded[kept]
        scaled = weight / self.scale.mean
        total, number = self.scale.total + float(weight.sum()), self.scale.number + weight.size
        self.scale = self.scale._replace(total=total, number=number)
        ids = self.fields.encode(features).to(self.device)
        return MaturedRows(ids, self._column(refunded), self._column(scaled))

    def _step(self, batch: MaturedRows) -> float:
        loss = share_loss(self._net()(batch.ids).squeeze(1), batch.refunded, batch.weight)
        descend(self.optimisers["main"], loss)
        return float(loss.detach())

    def _more_state(self) -> dict[str, dict[str, np.ndarray]]:
        scale = {name: np.array(value) for name, value in self.scale._asdict().items()}
        return {**super()._more_state(), "scale": scale}

    def _set_state(self, about: dict, parts: dict[str, dict[str, np.ndarray]]) -> None:
        super()._set_state(about, parts)
        scale = parts["scale"]
        self.scale = Scale(float(scale["cap"]), float(scale["total"]), int(scale["number"]))
