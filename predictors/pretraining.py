"""Networks trained on the days before a stream: main models and models of the feedback delays.

Source: TESLA, arXiv:2601.19965, sections 4.2 and 5.1, and its published code (alimama-tech/NetCVR).
"""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from adsim.clicklog import ClickLog
from predictors.arrays import save_arrays as save_arrays
from predictors.delivery import Windows, final_labels
from predictors.nets import (
    Backbone,
    Fields,
    Sizes,
    Tables,
    TowerNet,
    TwoTowers,
    bce,
)
from predictors.scene_backbone import BackboneConfig, with_backbone
from predictors.stream import Split, batches
from predictors.training import (
    BasePretraining,
    Rate,
    Size,
    Untrained,
    descend,
    seeded,
)

DelayModel = Literal["pay_late", "refund_late", "pay", "refund", "tn_dp"]
"""What the outputs of a delay model are.

pay_late: P(conversion after the observation window | conversion), one output.
refund_late: P(refund after its observation window | refund), one output.
pay: P(conversion in the observation window), P(no conversion | none in the window).
refund: the same for the refund of a conversion.
tn_dp: P(no conversion | none in the window), P(conversion after the window).
"""

MONITORED_MOMENTUM = 0.19  # two updates with momentum .1: 1 - .9^2
# Settings that every network depends on.
_ALWAYS = {"windows", "embedding_dim", "embedding_sd", "widths", "batch_size"}
_ALWAYS |= {"official_quirks", "pretrain_learning_rate"}
_TINY = 1e-6  # of published denominators

Towers = TypeVar("Towers", bound=TwoTowers)


class NetCVRConfig(BackboneConfig):
    """Settings of the neural NetCVR predictors.

    Published sizes are in brackets where they differ: they suit millions of clicks a day.
    """

    windows: Windows = Windows()
    """Attribution and observation windows, seconds."""
    embedding_dim: Size = 8
    """Columns of an embedding set (32)."""
    embedding_sd: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of initial embeddings (1: noise for ids that are seldom seen)."""
    batch_size: Annotated[int, Field(ge=4)] = 256
    """Rows of a training step (5000)."""
    pretrain_learning_rate: Rate = 1e-2
    """Of all networks trained before the stream (5e-2)."""
    widths: tuple[Size, ...] = (256, 256, 128)
    """Hidden layers of a tower."""
    tables: Tables = "hybrid"
    """Embedding sets: "separate" (one per tower), "shared" (one), or "hybrid" (all three)."""
    head: Literal["cascade", "direct"] = "cascade"
    """The second tower estimates the refund rate, or NetCVR itself."""
    train_refund_embeddings: bool = True
    """False: the refund tower reads embeddings that it does not train."""
    pretrain_fake_negatives: bool = False
    """Converted clicks count once as negatives, too, as in the stream of FNC: its network starts
    where that stream would bring it."""
    pretrain_attribution: Size | None = None
    """Attribution window of pre-training labels, seconds; None: that of `windows`."""
    delay_attribution: Size | None = None
    """The same for the labels of delay models."""
    official_quirks: bool = False
    """Do what the published code does where it differs from the methods' papers.

    Towers are trained in alternating optimiser steps, incomplete batches are dropped, batch
    statistics are updated twice per batch, and delay models are trained at a constant rate; what
    else differs stands in each method's docstring.
    """

    @property
    def sizes(self) -> Sizes:
        """Of the networks."""
        momentum = MONITORED_MOMENTUM if self.official_quirks else 0.1
        return Sizes(self.embedding_dim, self.embedding_sd, self.widths, momentum)

    def attributed(self, seconds: int | None) -> Windows:
        """The windows with other attribution windows."""
        if seconds is None:
            return self.windows
        return self.windows._replace(conversion_attribution=seconds, refund_attribution=seconds)


def new_towers(
    fields: Fields, config: NetCVRConfig, seed: int, cls: type[Towers] = TwoTowers
) -> Towers:
    """The untrained two-tower network of a configuration."""
    return seeded(seed, lambda: with_backbone(fields, config, partial(make_towers, config, cls)))


def make_towers(config: NetCVRConfig, cls: type[Towers], backbone: Backbone) -> Towers:
    """The two-tower network of a configuration and a backbone."""
    detach = not config.train_refund_embeddings
    sizes, fields = config.sizes, backbone.fields
    return cls(fields, sizes, config.tables, detach_refund=detach, backbone=backbone)


def new_delay_net(fields: Fields, model: DelayModel, config: NetCVRConfig, seed: int) -> TowerNet:
    """The untrained delay model of a configuration: one or two logits over its own embeddings."""
    outputs = 1 if model.endswith("late") else 2
    return seeded(seed, lambda: TowerNet(fields, config.sizes, outputs))


class Pretraining(BasePretraining):
    """Trains networks on the clicks of the first days of a history, each once.

    Args and errors are those of `BasePretraining`.

    Raises:
        ValueError: labels that the start of the stream cuts off, when a network is asked for.
    """

    def __init__(
        self,
        history: ClickLog,
        split: Split,
        *,
        seed: int = 0,
        device: str = "cpu",
        cache: Path | None = None,
    ) -> None:
        super().__init__(history, split, seed=seed, device=device, cache=cache)
        self.history = history

    def main(self, config: NetCVRConfig) -> nn.Module:
        """The pre-trained two-tower network; frozen."""
        net = new_towers(self.fields, config, self.seed)
        used = {"tables", "head", "train_refund_embeddings", "pretrain_attribution"}
        used |= {"pretrain_fake_negatives"} if config.pretrain_fake_negatives else set()
        settings = config.model_dump(mode="json", include=used | _ALWAYS) | config.of_backbone
        return self._trained("main", settings, net, lambda net: self._fit_main(net, config))

    def delays(self, model: DelayModel, config: NetCVRConfig) -> nn.Module:
        """A trained delay model; frozen."""
        net = new_delay_net(self.fields, model, config, self.seed)
        settings = config.model_dump(mode="json", include={"delay_attribution"} | _ALWAYS)
        return self._trained(model, settings, net, lambda net: self._fit_delays(net, model, config))

    def _fit_main(self, net: nn.Module, config: NetCVRConfig) -> None:
        assert isinstance(net, TwoTowers)
        windows = config.attributed(config.pretrain_attribution)
        self.split.check_gap(windows)
        labels = final_labels(self.history, windows)
        y, z, n = (torch.from_numpy(label[self._rows]).float().to(self.device) for label in labels)
        second, mask = (n, torch.ones_like(y)) if config.head == "direct" else (z, y)
        draws = torch.Generator(self.device).manual_seed(self.seed)
        settling = config.pretrain_settling
        for rows, optimiser in self._epoch(net, len(y), config, settling=settling):
            ids, one = self._ids[rows], torch.ones(len(rows), device=self.device)
            if config.official_quirks:
                descend(optimiser, bce(net.cvr_logit(ids), y[rows], one))
                descend(optimiser, bce(net.refund_logit(ids), second[rows], mask[rows]))
            else:
                cvr, refund = net(ids)
                loss = bce(cvr, y[rows], one) + bce(refund, second[rows], mask[rows])
                if config.pretrain_fake_negatives:
                    loss = loss + bce(cvr, torch.zeros_like(one), y[rows])
                descend(optimiser, net.backbone.objective(loss, draws))

    def _fit_delays(self, net: nn.Module, model: DelayModel, config: NetCVRConfig) -> None:
        windows = config.attributed(config.delay_attribution)
        self.split.check_gap(windows)
        rows, positive, in_window, delayed = self._delay_labels(model, windows)
        ids = self._ids[torch.from_numpy(rows).to(self.device)]
        columns = (positive, in_window, delayed)
        labels = torch.from_numpy(np.stack(columns)[:, rows]).float().to(self.device)
        settling = not config.official_quirks
        for part, optimiser in self._epoch(net, rows.size, config, settling=settling):
            positive, in_window, delayed = labels[:, part]
            output, one = net(ids[part]), torch.ones_like(positive)
            seen_negative = 1 - positive + delayed  # no event when the window closed
            if model.endswith("late"):
                loss = bce(output[:, 0], delayed, one)
            elif model == "tn_dp":
                loss = bce(output[:, 1], delayed, one)
                loss = loss + _masked_mean(output[:, 0], 1 - positive, seen_negative)
            else:
                loss = bce(output[:, 0], in_window, one)
                loss = loss + _masked_mean(output[:, 1], 1 - positive, seen_negative)
            descend(optimiser, loss)
        if settling:
            settle(net, ids)

    def _delay_labels(self, model: DelayModel, windows: Windows) -> tuple[np.ndarray, ...]:
        """Clicks to train on, and for all: event, in the window, after it (a tie is neither)."""
        log, labels = self.history, final_labels(self.history, windows)
        if model.startswith("refund"):
            event, delay = labels.z, log.refund_time - log.conversion_time
            cause, observed = labels.y, windows.refund_observation
        else:
            event, delay = labels.y, log.conversion_time - log.click_time
            cause, observed = np.ones_like(labels.y), windows.conversion_observation
        positive, delay = event[self._rows] > 0, delay[self._rows]
        rows = np.flatnonzero(positive if model.endswith("late") else cause[self._rows])
        if rows.size == 0:
            raise ValueError(f"history must have events to learn the delay model {model!r} from")
        return rows, positive, positive & (delay < observed), positive & (delay > observed)


@torch.no_grad()
def settle(net: nn.Module, ids: Tensor, rows: int = 4096) -> None:
    """Takes the running statistics of batch normalisations anew, from all rows (N, F) alike."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
    net.train()
    for part in batches(len(ids), min(rows, len(ids))):
        if part.stop - part.start > 1:
            net(ids[part])
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


def _masked_mean(logit: Tensor, label: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy over the masked rows (published code: 1e-6 in the denominator)."""
    return bce(logit, label, mask) * len(mask) / (mask.sum() + _TINY)


class UntrainedNetCVR(Untrained, Pretraining):
    """Networks of the shapes that `Pretraining` trains, to be filled from a file."""
