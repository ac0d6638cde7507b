"""What won impressions are expected to bring, and what matured feedback makes of it.

A click is worth what is predicted of it until a window has closed; then what happened takes the
place of that part of the prediction. So conversions, which come hours or days late, are never
counted as missing before their time. Clicks per predicted click so far scale all predictions, and
those of the platform are also scaled by conversions, and kept ones, per predicted one. Estimates
of the bidder's own are not: they follow the same feedback themselves, and what was wrong with them
when the clicks that are final now were bought would be corrected twice.

Reconstruction: papers on constrained bidding take values to be known when the auction is won.
Formulas: docs/agents.md, "Correction by matured feedback".
"""

from typing import Any, NamedTuple

import numpy as np

from adsim.types import AuctionResult, Campaign, EventBatch, EventKind, FloatArray
from agents.base import TINY, click_probability, impression_value
from agents.history import MIN_RESCALE, Landscape

_PLENTY = 1e9  # kept conversions of an auction: more than any cap needs
PRIOR_EVENTS = 20.0  # predicted events that a ratio's prior counts for


class Prospects(NamedTuple):
    """Expected outcomes of showing impressions, or of clicks; all of one shape."""

    clicks: FloatArray  # number of clicks
    kept: FloatArray  # number of conversions that are not refunded
    net_gmv: FloatArray  # GMV less refunds, currency

    def scaled(self, factors: "Prospects") -> "Prospects":
        """Each outcome times its factor."""
        return Prospects(*(a * b for a, b in zip(self, factors, strict=True)))


class Predictions(NamedTuple):
    """What is predicted of impressions, (M,) each; padding may hold anything."""

    ctr: FloatArray  # probability of a click if shown
    cvr: FloatArray  # probability of a conversion, given a click
    keep: FloatArray  # probability that a conversion is not refunded
    net_gmv: FloatArray  # expected GMV less refunds of showing it, currency
    own: bool  # estimates of the bidder's own, which see to their calibration themselves

    @property
    def prospects(self) -> Prospects:
        """Of showing the impressions."""
        return Prospects(self.ctr, self.ctr * self.cvr * self.keep, self.net_gmv)


def predictions(obs: dict[str, Any], margin: float) -> Predictions:
    """What an observation of Auction-v0 predicts.

    The entries ctr, cvr, refund_rate and expected_net_value, where present; else the platform's
    CTR, its CVR, no refunds, and pctr x pcvr x list_price x margin.
    """
    cvr = np.asarray(obs.get("cvr", obs["pcvr"]), np.float64)
    refund_rate = np.asarray(obs.get("refund_rate", np.zeros(cvr.shape)), np.float64)
    net_gmv = impression_value(obs, margin) / margin
    return Predictions(click_probability(obs), cvr, 1.0 - refund_rate, net_gmv, "cvr" in obs)


def history_prospects(market: Landscape, obs: dict[str, Any], margin: float) -> Prospects:
    """Expected outcomes of H auctions of the history.

    Reconstruction: the history tells CTRs and values by the platform. CTRs are scaled by the mean
    ratio of own to platform CTRs of the impressions at hand; kept conversions are taken to be in
    proportion to values, as they are in sum at hand. Fewer than 30 impressions do not tell: CTRs
    are then the platform's, and so many conversions are expected that only feedback binds.
    """
    real = np.asarray(obs["mask"]) > 0
    at_hand = predictions(obs, margin).prospects
    clicks, kept, net_gmv = (float(np.sum(column[real])) for column in at_hand)
    platform = float(np.sum(np.asarray(obs["pctr"], np.float64)[real]))
    own, pctr = market.value / margin, np.nan_to_num(market.pctr)
    if np.count_nonzero(real) < MIN_RESCALE or not (platform > 0 and net_gmv > 0):
        return Prospects(pctr, np.full_like(own, _PLENTY), own)
    return Prospects(pctr * clicks / platform, own * kept / net_gmv, own)


class OutcomeBook:
    """Predictions of a campaign's clicks, and what has become of them.

    Args:
        campaign: gives the attribution windows and the length of a tick.
    """

    def __init__(self, campaign: Campaign) -> None:
        self._windows, self._tick_hours = campaign.windows, campaign.tick_hours
        self._now = 0.0  # hours of the campaign played
        self._own = False  # see `Predictions`
        self._shown = np.zeros(2)  # predicted clicks of the won impressions, and clicks
        self._id = np.zeros(0, np.int64)  # (C,) clicks, increasing
        self._since = np.zeros(0)  # (C,) hours
        self._predicted = np.zeros((3, 0))  # (3, C) CVR, share kept, net GMV of the click
        self._bought = np.zeros(0)  # (C,) hours of the first purchase; infinity if none was seen
        self._refunded = np.zeros(0, bool)  # (C,) the first purchase came back
        self._net_gmv = np.zeros(0)  # (C,) seen, currency

    def update(self, shown: Predictions, result: AuctionResult, feedback: EventBatch) -> None:
        """Takes in a tick: its predictions and results (M,), and the events (N,) that were seen."""
        self._now += self._tick_hours
        self._own = shown.own
        rows = np.flatnonzero(result.won & result.clicked)
        self._shown += np.sum(shown.ctr, where=result.won), rows.size
        of_click = feedback.kind == EventKind.CLICK
        # Clicks are seen in the tick of their impressions, in the order of arrival.
        self._id = np.append(self._id, feedback.click_id[of_click])
        self._since = np.append(self._since, feedback.time_hours[of_click])
        net_gmv = shown.net_gmv[rows] / np.maximum(shown.ctr[rows], TINY)
        new = np.stack([shown.cvr[rows], shown.keep[rows], net_gmv])
        self._predicted = np.concatenate([self._predicted, new], axis=1)
        self._bought = np.append(self._bought, np.full(rows.size, np.inf))
        self._refunded = np.append(self._refunded, np.zeros(rows.size, bool))
        self._net_gmv = np.append(self._net_gmv, np.zeros(rows.size))
        for kind, sign in ((EventKind.PURCHASE, 1.0), (EventKind.REFUND, -1.0)):
            self._note(feedback, kind, sign)

    def _note(self, feedback: EventBatch, kind: EventKind, sign: float) -> None:
        """Purchases, or refunds."""
        seen = feedback.kind == kind
        place = np.searchsorted(self._id, feedback.click_id[seen])
        np.add.at(self._net_gmv, place, sign * feedback.amount[seen])
        first = feedback.order_id[seen] == 0
        if kind == EventKind.PURCHASE:
            self._bought[place[first]] = feedback.time_hours[seen][first]
        else:
            self._refunded[place[first]] = True

    def ratios(self) -> Prospects:
        """Factors on predictions: what was seen over what was predicted, of all that is final."""
        converted, known, final = self._closed()
        cvr, keep, _ = self._predicted
        clicks = _ratio(self._shown[1], self._shown[0])
        if self._own:
            return Prospects(*(np.array(clicks) for _ in Prospects._fields))
        converts = _ratio(np.sum(converted & known), np.sum(cvr, where=known))
        stays = _ratio(np.sum(final & ~self._refunded), np.sum(keep, where=final))
        kept = clicks * converts * stays
        return Prospects(*(np.array(factor) for factor in (clicks, kept, kept)))

    def outcomes(self) -> Prospects:
        """What the clicks (C,) so far bring, by all that is final and else by predictions."""
        converted, known, final = self._closed()
        cvr, keep, net_gmv = self._predicted
        factor = self.ratios()
        per_click = factor.kept / factor.clicks
        # Before its window closes a conversion counts as predicted, whether it was seen or not:
        # those seen alone, beside predictions of the rest, would count too much.
        kept = np.where(
            final, ~self._refunded, np.where(known, converted * keep, cvr * keep * per_click)
        )
        predicted = np.maximum(cvr * keep, TINY)
        over = self._since + self._windows.gmv_hours + self._windows.refund_hours <= self._now
        earned = np.where(over, self._net_gmv, kept * net_gmv / predicted)
        return Prospects(np.ones(kept.size), kept, earned)

    def _closed(self) -> tuple[Any, Any, Any]:
        """Conversions seen (C,); conversion windows closed; of those, refund windows closed."""
        converted = np.isfinite(self._bought)
        known = self._since + self._windows.conversion_hours <= self._now
        final = known & converted & (self._bought + self._windows.refund_hours <= self._now)
        return converted, known, final


def _ratio(seen: Any, predicted: Any) -> float:
    """Mean of a Poisson rate's posterior; its prior is Gamma(PRIOR_EVENTS, PRIOR_EVENTS)."""
    return (PRIOR_EVENTS + float(seen)) / (PRIOR_EVENTS + float(predicted))
