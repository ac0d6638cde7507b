"""Networks of the GMV predictors before a stream: amounts, the router, and the calibrator.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, section 4, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837).
"""

from functools import partial
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from adsim.purchaselog import PurchaseLog
from predictors.gmv_nets import Amounts, Bottom, Calibrator, Head, Router
from predictors.nets import Backbone, Fields, bce
from predictors.purchase_rows import check_purchases, final_gmv, num_purchases
from predictors.scene_backbone import BackboneConfig, count_network, with_backbone
from predictors.scene_nets import ParameterCount
from predictors.stream import Split
from predictors.training import (
    BasePretraining,
    Rate,
    Size,
    Untrained,
    descend,
    seeded,
)

Share = Annotated[float, Field(ge=0, le=1)]


class GmvConfig(BackboneConfig):
    """Settings of the neural GMV predictors.

    Published sizes are in brackets where they differ: they suit a hundred thousand clicks a day.
    """

    attribution_seconds: Size = 7 * 86_400
    """From a click to the end of its purchases."""
    embedding_dim: Size = 8
    """Columns of an embedding set (16)."""
    embedding_sd: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of initial embeddings (1: noise for ids that are seldom seen)."""
    encoder_widths: Annotated[tuple[Size, ...], Field(min_length=1)] = (256, 128)
    """Hidden layers before the towers (1024, 512)."""
    tower_widths: Annotated[tuple[Size, ...], Field(min_length=1)] = (64, 32)
    """Hidden layers of a tower (256, 128, 64)."""
    router_widths: Annotated[tuple[Size, ...], Field(min_length=1)] = (128, 64)
    """Hidden layers of the router (256, 128, 64)."""
    calibrator_widths: Annotated[tuple[Size, ...], Field(min_length=1)] = (128, 64)
    """Hidden layers of the calibrator (512, 256, 128, 64)."""
    head: Head = "log"
    """Amounts from outputs: "log" or "absolute" (published)."""
    bottom: Bottom = "shared"
    """What the two towers share."""
    routing: Literal["hybrid", "hard"] = "hybrid"
    """Between two towers: a mixture by the router's probability, or the likelier one."""
    mixing: Literal["currency", "log"] | None = None
    """What is mixed, in predictions and in READER's labels: amounts (paper), or log1p of them.
    None: logarithms, or amounts with `official_quirks`."""
    router_temperature: Annotated[float, Field(gt=0)] | None = None
    """Divides the router's logit when it is used, not when it is trained; None: .7, or .5 with
    `official_quirks`. The paper gives no value; 1 would leave the probabilities calibrated."""
    router_low: Share = 0.1
    """Router probabilities up to here mean a single purchase."""
    router_high: Share = 0.9
    """Router probabilities from here on mean several."""
    batch_size: Annotated[int, Field(ge=4)] = 128
    """Rows of a training step (1024)."""
    rate_decay: Rate = 1.0
    """After k windows (offline: lots) the learning rate is multiplied by rate_decay^(k / 2)."""
    pretrain_learning_rate: Rate = 1e-3
    """Of the networks trained before the stream, but for the calibrator."""
    calibrator_learning_rate: Rate = 1e-2
    """Of the calibrator (1e-3: time and number of purchases, each with one weight in its last
    layer, are learnt too slowly, and what is to come after the last purchase is too much)."""
    pretrain_epochs: Size = 1
    """Passes of the predictor over the days before the stream; router and calibrator: one."""

    official_quirks: bool = False
    """Do what the published code does where it differs from the paper, or the paper is silent.

    Amounts are mixed in currency, the router is used at temperature .5, labels of purchases are
    mixed in its middle zone only, losses of two towers that know the kind of each click are the
    sum of two means, and networks that will not learn again are trained at a constant rate. `head`,
    `rate_decay` and the sizes are settings of their own.
    """

    @model_validator(mode="after")
    def _router_zones(self) -> Self:
        if self.router_low > self.router_high:
            raise ValueError(
                f"router_low must be <= router_high, got {self.router_low} and {self.router_high}"
            )
        return self

    @property
    def temperature(self) -> float:
        """Of the router when it is used."""
        return self.router_temperature or (0.5 if self.official_quirks else 0.7)

    @property
    def mixes_logs(self) -> bool:
        """Whether logarithms are mixed instead of amounts."""
        return (self.mixing or ("currency" if self.official_quirks else "log")) == "log"

    @property
    def embedding(self) -> tuple[int, float]:
        """Columns and initial standard deviation of an embedding set."""
        return self.embedding_dim, self.embedding_sd


def new_amounts(fields: Fields, config: GmvConfig, seed: int, towers: int) -> Amounts:
    """The untrained predictor network of a configuration."""
    return seeded(seed, lambda: with_backbone(fields, config, partial(_amounts, config, towers)))


def _amounts(config: GmvConfig, towers: int, backbone: Backbone) -> Amounts:
    return Amounts(
        backbone.fields,
        config.embedding,
        (config.encoder_widths, config.tower_widths),
        towers,
        head=config.head,
        independent=towers == 2 and config.bottom == "independent",
        backbone=backbone,
    )


def count_amounts(fields: Fields, config: GmvConfig, towers: int) -> ParameterCount:
    """Parameters of the networks that make the estimates: predictor and, with two towers, router.

    Raises:
        ValueError: the setting `scene_field` is no field.
    """
    counts = [count_network(fields, config, partial(_amounts, config, towers))]
    if towers == 2:
        counts.append(count_network(fields, config, partial(_router, config)))
    return ParameterCount(*map(sum, zip(*counts, strict=True)))


class GmvPretraining(BasePretraining):
    """Trains networks on the clicks of the first days of a purchase log, each once.

    Args and errors are those of `BasePretraining`. A network cannot be trained if the history is
    none of the configured windows (`check_purchases`), or if windows of these clicks are still open
    when the stream starts.
    """

    def __init__(self, history: PurchaseLog, split: Split, **options: object) -> None:
        super().__init__(history, split, **options)  # pyright: ignore[reportArgumentType]
        self.history = history

    def amounts(self, config: GmvConfig, towers: int) -> nn.Module:
        """The pre-trained predictor, with 1 tower or 2; frozen.

        With two towers each click trains that of its kind, and the encoder.
        """
        net = new_amounts(self.fields, config, self.seed, towers)
        used = {"encoder_widths", "tower_widths", "head"} | _ALWAYS
        used |= {"pretrain_learning_rate", "pretrain_epochs"}
        settings = config.model_dump(mode="json", include=used) | config.of_backbone
        settings["independent"] = towers == 2 and config.bottom == "independent"
        return self._trained(
            f"amounts_{towers}", settings, net, lambda net: self._fit_amounts(net, config)
        )

    def router(self, config: GmvConfig) -> nn.Module:
        """P(more than one purchase), trained by cross-entropy at temperature 1; frozen."""
        net = new_router(self.fields, config, self.seed)
        used = {"router_widths", "pretrain_learning_rate"} | _ALWAYS
        settings = config.model_dump(mode="json", include=used) | config.of_backbone
        return self._trained("router", settings, net, lambda net: self._fit_router(net, config))

    def calibrator(self, config: GmvConfig) -> nn.Module:
        """How much is still to come after each purchase of a click that buys again; frozen."""
        net = new_calibrator(self.fields, config, self.seed)
        settings = config.model_dump(
            mode="json", include={"calibrator_widths", "calibrator_learning_rate"} | _ALWAYS
        )
        return self._trained(
            "calibrator", settings, net, lambda net: self._fit_calibrator(net, config)
        )

    def _check(self, config: GmvConfig) -> None:
        """Raises ValueError if the history is not one of such windows, or one is still open."""
        check_purchases(self.history, config.attribution_seconds)
        self.split.check_gap(config.attribution_seconds)

    def _repurchases(self) -> Tensor:
        """Which clicks (N,) bought more than once."""
        return torch.from_numpy(num_purchases(self.history)[self._rows] > 1).to(self.device)

    def _fit_amounts(self, net: nn.Module, config: GmvConfig) -> None:
        assert isinstance(net, Amounts)
        self._check(config)
        final, several = final_gmv(self.history)[self._rows], self._repurchases()
        label = torch.log1p(torch.from_numpy(final).float().to(self.device))
        if config.head == "log":
            net.start_at(float(label.median()))
        draws = torch.Generator(self.device).manual_seed(self.seed)
        how = {"settling": config.pretrain_settling, "epochs": config.pretrain_epochs}
        for rows, optimiser in self._epoch(net, len(label), config, **how):
            found, many = net(self._ids[rows]), several[rows]
            kind = many.long() if found.shape[1] > 1 else torch.zeros_like(many).long()
            error = (found.gather(1, kind[:, None]).squeeze(1) - label[rows]).abs()
            if config.official_quirks and found.shape[1] > 1:  # the sum of two means
                loss = masked_mean(error, many) + masked_mean(error, ~many)
            else:
                loss = error.mean()
            descend(optimiser, net.backbone.objective(loss, draws))

    def _fit_router(self, net: nn.Module, config: GmvConfig) -> None:
        assert isinstance(net, Router)
        self._check(config)
        draws = torch.Generator(self.device).manual_seed(self.seed)
        label, settling = self._repurchases().float(), not config.official_quirks
        for rows, optimiser in self._epoch(net, len(label), config, settling=settling):
            logit = net(self._ids[rows])
            loss = bce(logit, label[rows], torch.ones_like(logit))
            descend(optimiser, net.backbone.objective(loss, draws))

    def _fit_calibrator(self, net: nn.Module, config: GmvConfig) -> None:
        """L1 loss: the conditional median of log1p(final) - log1p(seen), purchase by purchase."""
        self._check(config)
        click, count, elapsed, delta = self._calibration_rows(config)
        columns = [torch.from_numpy(x.astype(np.float32)) for x in (elapsed, count, delta)]
        elapsed, count, delta = (column.to(self.device) for column in columns)
        ids = self._ids[torch.from_numpy(click).to(self.device)]
        settling, rate = not config.official_quirks, config.calibrator_learning_rate
        for rows, optimiser in self._epoch(net, len(delta), config, settling=settling, rate=rate):
            found = net(ids[rows], elapsed[rows], count[rows])
            descend(optimiser, (found - delta[rows]).abs().mean())

    def _calibration_rows(self, config: GmvConfig) -> tuple[np.ndarray, ...]:
        """Click, purchases seen, elapsed share and delta of every purchase of repeat buyers."""
        log, clicks = self.history, self._rows.stop
        size = np.diff(log.offset[: clicks + 1])
        click = np.repeat(np.arange(clicks), size)
        first = np.repeat(log.offset[:clicks], size)
        end = int(log.offset[clicks])
        total = np.concatenate([[0.0], np.cumsum(log.amount[:end])])
        seen = total[1:] - total[first]
        final = final_gmv(log)[:clicks][click]
        elapsed = (log.purchase_time[:end] - log.click_time[click]) / config.attribution_seconds
        count = np.arange(1, end + 1) - first
        kept = size[click] > 1
        if not kept.any():
            raise ValueError("history must have clicks with more than one purchase")
        delta = np.maximum(np.log1p(final) - np.log1p(seen), 0.0)  # rounding of the sums
        return click[kept], count[kept], elapsed[kept], delta[kept]


class UntrainedGmv(Untrained, GmvPretraining):
    """Networks of the shapes that `GmvPretraining` trains, to be filled from a file."""


# Settings that every network depends on.
_ALWAYS = {"attribution_seconds", "embedding_dim", "embedding_sd", "batch_size", "official_quirks"}


def new_router(fields: Fields, config: GmvConfig, seed: int) -> Router:
    """The untrained router of a configuration."""
    return seeded(seed, lambda: with_backbone(fields, config, partial(_router, config)))


def _router(config: GmvConfig, backbone: Backbone) -> Router:
    return Router(backbone.fields, config.embedding, config.router_widths, backbone)


def new_calibrator(fields: Fields, config: GmvConfig, seed: int) -> Calibrator:
    """The untrained calibrator of a configuration."""
    return seeded(seed, lambda: Calibrator(fields, config.embedding, config.calibrator_widths))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of some values; 0 of none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
