"""TESLA: net conversion rate under cascaded delayed feedback.

Two towers, one for conversions and one for refunds, each fed with rows whose observation window has
closed and with corrections when an event arrives late; importance weights make up for rows whose
label is not final ("debiasing"), and a ranking loss prefers positives, early ones above all.

Source: M. Luo et al., "Modeling Cascaded Delay Feedback for Online Net Conversion Rate Prediction:
Benchmark, Insights and Solutions", WWW 2026, arXiv:2601.19965; and its published code
(alimama-tech/NetCVR, commit 2a8b78a). Where the two differ, the code is followed, as it produced
the published figures:

- weights use the pre-trained model's probabilities and models of "in the window" and of "truly
  negative", rather than the online probability and a model of the delay;
- the ranking loss is a weighted mean over positives rather than a sum, counts 1/10 for refunds, and
  has no temperature (it would cancel in the sampling law).

`official_quirks` also trains the towers in alternating optimiser steps, the refund tower first;
otherwise one step descends the joint loss, as in the paper (eq. of the total loss).
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import softplus

from predictors.base import register_predictor
from predictors.delivery import Rows
from predictors.netcvr import Batch, NetCVRPredictor, Untrained
from predictors.nets import TwoTowers, bce, probabilities, weighted_bce
from predictors.pretraining import NetCVRConfig, Pretraining

MIN_WEIGHT, ALPHA = 1.0, 1.0  # delay weights of the ranking loss lie in (w_min, w_min + alpha)
DRAWS_CVR, DRAWS_REFUND = 50, 5  # negatives per positive
REFUND_COEFFICIENT = 0.1  # of the refund tower's ranking loss
MIN_SPREAD_HOURS = 1.0

Ranking = Literal["none", "rn", "ln", "hn", "dar"]


class TeslaConfig(NetCVRConfig):
    """Settings of TESLA."""

    ranking: Ranking = "dar"
    """Negatives of a positive and weights of positives in the ranking loss: "rn" uniform and equal,
    "ln" likely negatives and equal, "hn" likely positives and equal, "dar" likely negatives and
    delays; "none" leaves the ranking loss out (NR)."""
    refund_window: bool = True
    """False: payments are read as "not refunded" at once, as the baselines do."""
    refund_debiasing: bool = True
    """False: the refund rows are not weighted (ROW only). Needs `refund_window`."""


@register_predictor("tesla")
class Tesla(NetCVRPredictor):
    """TESLA with all its parts; the settings of `TeslaConfig` switch them off."""

    name = "tesla"
    refund_first = True
    config_class = TeslaConfig
    config: TeslaConfig

    @property
    def rule(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Delivery rule."""
        return "tesla" if self.config.refund_window else "es_dfm"

    def _build(self, pretraining: Pretraining | Untrained) -> None:
        super()._build(pretraining)
        self.frozen["main"] = pretraining.main(self.config)
        self.frozen["pay"] = pretraining.delays("pay", self.config)
        if self.config.refund_window and self.config.refund_debiasing:
            self.frozen["refund"] = pretraining.delays("refund", self.config)

    def _constants(self, batch: Batch, rows: Rows) -> Tensor:
        """Weights of positives and of negatives, (N, 2), of each row in its own tower.

        w+ = 1 + p_pre - p_in and w- = (1 + p_pre - p_in) tn (published code), where p_pre - p_in
        stands for p_dp = P(event after the window). They are not clamped.
        """
        weights = torch.ones(len(batch.pay), 2, device=self.device)
        main = self.frozen["main"]
        assert isinstance(main, TwoTowers)
        towers = [("pay", batch.conversion == 1, main.cvr_logit)]
        if "refund" in self.frozen:
            towers.append(("refund", batch.conversion == 0, main.refund_logit))
        for name, where, logit in towers:
            ids = batch.ids[where]
            in_window, negative = probabilities(self.frozen[name], self.frozen[name], ids).unbind(1)
            positive = 1 + probabilities(main, logit, ids) - in_window
            weights[where] = torch.stack([positive, positive * negative], dim=1)
        return weights

    def pay_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """Weighted cross-entropy of the conversion rows, and their ranking loss."""
        loss = weighted_bce(logit, batch.pay, batch.conversion, *batch.constants.unbind(1))
        if self.config.ranking == "none":
            return loss
        return loss + self._rank(logit, batch.pay, batch.conversion, batch.delay, DRAWS_CVR)

    def refund_loss(self, logit: Tensor, batch: Batch) -> Tensor:
        """The same of the refund rows; or, without refund window, of the baselines."""
        if not self.config.refund_window:
            return bce(logit, batch.refund, batch.refund_mask)
        loss = weighted_bce(logit, batch.refund, batch.refund_mask, *batch.constants.unbind(1))
        if self.config.ranking == "none":
            return loss
        ranking = self._rank(logit, batch.refund, batch.refund_mask, batch.delay, DRAWS_REFUND)
        return loss + REFUND_COEFFICIENT * ranking

    def _rank(
        self, logit: Tensor, label: Tensor, mask: Tensor, delay: Tensor, draws: int
    ) -> Tensor:
        positive = (mask * label).nonzero().squeeze(1)
        negative = (mask * (1 - label)).nonzero().squeeze(1)
        return ranking_loss(
            *(logit[positive], logit[negative], delay[positive], draws),
            self.config.ranking,
            self.generator,
        )


def ranking_loss(
    positive: Tensor,
    negative: Tensor,
    delay: Tensor,
    draws: int,
    ranking: Ranking,
    generator: torch.Generator,
) -> Tensor:
    """Delay-aware ranking loss (DAR) and its variants.

    sum_i w_i (1/K) sum_k softplus(o_jk - o_i) / sum_i w_i with K negatives j drawn per positive,
    with replacement, in proportion to 1 - p_j ("dar", "ln"), p_j ("hn") or evenly ("rn"). Gradients
    flow to both logits of a pair, not to the sampling law.

    Args:
        positive: (P,) logits.
        negative: (Q,) logits.
        delay: (P,) hours from cause to event.
        draws: K.
        ranking: variant.
        generator: of the draws.

    Returns:
        A scalar; 0 if there is no positive or no negative.
    """
    if len(positive) == 0 or len(negative) == 0:
        return positive.sum() * 0.0
    odds = negative.detach()
    if ranking == "rn":
        chances = torch.ones_like(odds)
    else:
        chances = torch.sigmoid(odds if ranking == "hn" else -odds)
    total = chances.cumsum(0)
    shape = (len(positive), draws)
    uniform = torch.rand(shape, generator=generator, device=odds.device) * total[-1]
    drawn = torch.searchsorted(total, uniform).clamp_(max=len(negative) - 1)
    pairs = softplus(negative[drawn] - positive[:, None]).mean(dim=1)
    weight = delay_weights(delay) if ranking == "dar" else torch.ones_like(delay)
    return (weight * pairs).sum() / weight.sum()


def delay_weights(delay: Tensor) -> Tensor:
    """w_min + alpha sigmoid((m - h) / s): early events weigh more; (P,) in (1, 2).

    m is the lower median of the delays h (P,) in hours, s their standard deviation (unbiased) if it
    is above 1 hour, else 1.
    """
    spread = delay.std() if len(delay) > 1 else delay.new_tensor(0.0)
    spread = torch.where(spread > MIN_SPREAD_HOURS, spread, torch.ones_like(spread))
    return MIN_WEIGHT + ALPHA * torch.sigmoid((delay.median() - delay) / spread)
