"""READER: post-click GMV under delayed feedback, with repurchases.

Two towers, one for clicks with a single purchase and one for clicks with more, mixed by a router.
Every purchase is a training row as soon as it is seen. Its label is not the amount seen so far: a
calibrator, trained before the stream, says how much more is to come if the click buys again. When
the window of a click closes, a further row brings the final amount (ground-truth alignment, GRA),
and what the last purchase was taught is unlearned (PLU).

Formula by formula, with y(t) the amount seen, r the router's probability of several purchases and
delta the calibrator's estimate (sections of the paper in brackets):

    purchase     y~ = (1 - r) y(t) + r ((1 + y(t)) e^delta - 1), r = 1 from the second one on (4.2)
    window end   y* the final amount; u = y~ of the last purchase, computed anew (4.3)
    loss         mean over purchases |log1p y^ - log1p y~|
                 + lambda_1 (GRA - lambda_2 PLU), means over the window ends of
                 GRA = |log1p y^ - log1p y*| and PLU = |log1p y^ - log1p u| (4.3, 4.4)

Per window end the last two terms have their minimum at y* for every lambda_2 < 1, as u >= y*: PLU
steepens the way down from u and flattens the rest. From lambda_2 = 1 on there is no minimum.

Choices where paper and published code differ, or where ours differs from both:
- The paper's text updates the router in the stream; it is frozen, as in the published code.
- y~ is mixed for every r, as in the paper; the published code takes y(t) alone for r <= .1 and the
  calibrated amount alone for r >= .9, as in the prediction (`target_zones`, `official_quirks`).
- The router is used at temperature .7; the paper gives no value, the published code .5. A sharper
  router hits more amounts within 20 %, a duller one ranks them better (`router_temperature`).
- Window ends count in the terms GRA and PLU only; in the published code also in the mean over rows
  (`gra_in_main`, `official_quirks`). Their labels are right but a week old.
- Ours: networks predict the logarithm of amounts; the published code |z| in currency (`head`).
- Ours: the router mixes logarithms of amounts, in predictions and labels (`mixing`). Losses are
  errors of logarithms, and the log of a mixture of amounts is greater than the mixture of their
  logs: with the paper's formula, which `official_quirks` keeps, predictions are too high.
- Ours: one learning rate all along, for all methods alike; the published code lets it fall, and
  faster for READER than for the single tower (`rate_decay`).

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837).
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from predictors.base import register_predictor
from predictors.gmv import GmvPredictor, GmvRows
from predictors.gmv_nets import Calibrator
from predictors.gmv_pretraining import GmvConfig, GmvPretraining, masked_mean
from predictors.purchase_rows import PurchaseRows


class ReaderConfig(GmvConfig):
    """Settings of READER, on top of those of all GMV predictors."""

    calibrate: bool = True
    """False: purchases have the amounts seen so far as labels, as in the method online_dual, and
    nothing is unlearned."""
    window_ends: bool = True
    """False: ends of windows are not trained on."""
    gra_weight: Annotated[float, Field(ge=0)] = 0.1
    """lambda_1: of the terms of window ends, GRA and unlearning."""
    unlearning_weight: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """lambda_2: of unlearning; from 1 on there would be no minimum."""
    gra_in_main: bool = False
    """Window ends count in the mean over rows, too (published code, `official_quirks`)."""
    target_zones: bool = False
    """Labels of purchases are mixed in the router's middle zone only (published code)."""


@register_predictor("reader")
class Reader(GmvPredictor):
    """READER (the module's docstring)."""

    name, rule, towers = "reader", "purchases_and_ends", 2
    config_class = ReaderConfig

    def _build(self, pretraining: GmvPretraining) -> None:
        super()._build(pretraining)
        if self.config.calibrate:
            self._freeze("calibrator", pretraining.calibrator(self.config))

    def _reset(self) -> None:
        super()._reset()
        self.rule = "purchases_and_ends" if self.config.window_ends else "purchases"

    def _with_targets(self, batch: GmvRows, rows: PurchaseRows, router: Tensor) -> GmvRows:
        if not self.config.calibrate:
            return batch
        # At the end of a window `rows` hold amount, number and time of the last purchase: what it
        # was taught comes out again, but for r, which is now known to be 1 if there were several.
        several = self._taught_kind(router, rows)
        if self.config.target_zones or self.config.official_quirks:
            several = self.shares(several)
        delta = self._deltas(batch.ids, rows)
        taught = calibrated(batch.target, several, delta, in_logs=self.config.mixes_logs)
        end = batch.window_end > 0
        return batch._replace(target=torch.where(end, batch.target, taught), unlearn=taught)

    def _taught_kind(self, router: Tensor, rows: PurchaseRows) -> Tensor:
        """P(several purchases) (N,) for the labels of purchases: 1 from the second one on."""
        return torch.where(self._mask(rows.count > 1), 1.0, router)

    def _deltas(self, ids: Tensor, rows: PurchaseRows) -> Tensor:
        """The calibrator's estimates (N,), natural."""
        net = self.frozen["calibrator"]
        assert isinstance(net, Calibrator)
        with torch.no_grad():
            return net(ids, self._column(rows.elapsed), self._column(rows.count))

    def loss(self, predicted: Tensor, batch: GmvRows) -> Tensor:
        """The loss of the module's docstring, from log1p of predictions (B,)."""
        config, end = self.config, batch.window_end
        error = (predicted - batch.target).abs()
        in_main = config.gra_in_main or config.official_quirks
        loss = error.mean() if in_main else masked_mean(error, 1 - end)
        aligned = masked_mean(error, end)
        if config.calibrate:
            unlearning = masked_mean((predicted - batch.unlearn).abs(), end)
            aligned = aligned - config.unlearning_weight * unlearning
        return loss + config.gra_weight * aligned


def calibrated(seen: Tensor, several: Tensor, delta: Tensor, *, in_logs: bool = False) -> Tensor:
    """log1p (N,) of the label of a purchase (READER, section 4.2).

    Args:
        seen: (N,) log1p of the amount seen so far, natural.
        several: (N,) probability of several purchases, in [0, 1].
        delta: (N,) log1p(final) - log1p(seen) if there are several, >= 0.
        in_logs: mix log1p of the amounts instead (ours).

    Returns:
        log1p((1 - r) y + r ((1 + y) e^delta - 1)) = log1p(y) + log(1 + r (e^delta - 1)).
        In logs log1p(y) + r delta: over the first purchases of one x its mean is that of
        log1p(final) if r and delta are right, while the former's is greater.
    """
    if in_logs:
        return seen + several * delta
    return seen + torch.log1p(several * torch.expm1(delta))
