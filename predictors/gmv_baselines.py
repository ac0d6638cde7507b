"""The methods that READER is compared with: without learning, with final or partial amounts.

single: one tower. dual: two, one for clicks with a single purchase and one for clicks with more.

Source: READER, X. Li et al., WWW 2026, arXiv:2601.20307, section 5.1, and its published code
(alimama-tech/OnlineGMV, commit 7d4db837).
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor

from adsim.purchaselog import PurchaseLog
from adsim.types import Estimate, Impressions, Target
from predictors.base import register_predictor
from predictors.gmv import GmvPredictor, GmvRows
from predictors.gmv_pretraining import masked_mean
from predictors.neural import DailyLots
from predictors.purchase_rows import PurchaseRows, num_purchases


@register_predictor("pre_single")
class PreSingle(GmvPredictor):
    """The model of before the stream; learns nothing more."""

    name, rule, towers = "pre_single", "none", 1


@register_predictor("pre_dual")
class PreDual(GmvPredictor):
    """The model of before the stream; learns nothing more."""

    name, rule, towers = "pre_dual", "none", 2


@register_predictor("offline_single")
class OfflineSingle(DailyLots[GmvRows], GmvPredictor):
    """Waits until windows close, and trains once a day on the final amounts of the past day.

    The rows of a day are shuffled; in the published code they keep the order of the closing.
    """

    name, rule, towers = "offline_single", "ends", 1


@register_predictor("offline_dual")
class OfflineDual(DailyLots[GmvRows], GmvPredictor):
    """As `OfflineSingle`, each click training the tower of its kind."""

    name, rule, towers = "offline_dual", "ends", 2
    learning_rate = 1e-4


@register_predictor("online_single")
class OnlineSingle(GmvPredictor):
    """Trains on every purchase at once, with the amount seen so far."""

    name, rule, towers = "online_single", "purchases", 1


@register_predictor("online_dual")
class OnlineDual(GmvPredictor):
    """As `OnlineSingle`, the first purchase of a click training the router's mixture."""

    name, rule, towers = "online_dual", "purchases", 2
    learning_rate = 1e-4


class _Oracle(GmvPredictor):
    """Learns the final amount at the first purchase: the bound of the online methods.

    Privileged: its windows must hold the future events of their clicks (`PurchaseStream.window`).
    """

    rule, privileged = "first", True
    learning_rate = 1e-3

    def tensors(self, rows: PurchaseRows, features: np.ndarray) -> GmvRows:
        """As of all methods, but with the final amount and number of purchases."""
        totals = self.open.totals()
        final = rows._replace(gmv=totals.gmv[rows.click], count=totals.number[rows.click])
        return super().tensors(final, features)

    def labelled(self, batch: GmvRows, rows: PurchaseRows) -> GmvRows:
        """With the kind of each click, which a single tower does not look at."""
        return batch._replace(several=self._column(rows.count > 1))


@register_predictor("oracle_single")
class OracleSingle(_Oracle):
    """One tower, told the final amount."""

    name, towers = "oracle_single", 1


@register_predictor("oracle_dual")
class OracleDual(_Oracle):
    """Two towers, told the final amount and, in training and prediction, the kind of click.

    Call `attach` before predictions: after `fit`, and again after `load_predictor`, as a saved file
    does not hold the log.
    """

    name, towers = "oracle_dual", 2

    def _reset(self) -> None:
        super()._reset()
        self._several = np.empty(0, np.bool_)

    def attach(self, log: PurchaseLog) -> Self:
        """Tells which clicks buy more than once; impression ids are row numbers of the log."""
        self._several = num_purchases(log) > 1
        return self

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """Estimates for M impressions of the attached log.

        Raises:
            RuntimeError: no log is attached.
            ValueError: the log has no such clicks.
        """
        if not self._several.size:
            raise RuntimeError(f"{self.name}: call attach(log) first")
        place = impressions.impression_id
        if place.size and not (place.min() >= 0 and place.max() < self._several.size):
            raise ValueError(
                f"impression_id must be in [0, {self._several.size}), the rows of the attached log"
            )
        ids = self.fields.encode(impressions.features).to(self.device)
        with torch.no_grad():
            log_gmv = self.mixture(self.main(ids), self._column(self._several[place]))
        mean = torch.expm1(log_gmv).double().cpu().numpy()
        return {Target.GMV: Estimate(mean, np.zeros(mean.size))}

    def loss(self, predicted: Tensor, batch: GmvRows) -> Tensor:
        """The mean over rows; the published code adds the means of either kind."""
        if not self.config.official_quirks:
            return super().loss(predicted, batch)
        error = (predicted - batch.target).abs()
        return masked_mean(error, batch.several) + masked_mean(error, 1 - batch.several)
