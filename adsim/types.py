"""Records, enumerations and protocols that cross the boundaries between adsim's layers.

Axis letters used in shape comments everywhere in the project:

    E  worlds simulated side by side (1 in a single environment)
    M  impression slots of one tick, padded
    F  categorical fields of an impression
    D  latent dimensions of the hidden effects
    A  advertisers of a population market
    S  ad slots of one auction
    T  ticks of a campaign
    N  events in a batch
    C  clicks
    K  purchases of one click
    H  auctions of a price history

Time: a `tick` is an integer decision period, every `*_hours` is a float64 number of hours since
the start of the campaign. Money: one currency unit, float64 in accounts.
"""

from enum import IntEnum, StrEnum
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class EventKind(IntEnum):
    """What happened. The value orders simultaneous events: a purchase precedes its refund."""

    CLICK = 0
    PURCHASE = 1
    REFUND = 2


class Target(StrEnum):
    """What a predictor estimates for an impression."""

    CTR = "ctr"  # probability of a click given the impression is shown
    CVR = "cvr"  # probability of a purchase within the attribution window, given a click
    REFUND_RATE = "refund_rate"  # probability that a purchase is refunded
    NET_CVR = "net_cvr"  # CVR x (1 - REFUND_RATE)
    GMV = "gmv"  # expected GMV of a converted click, currency
    REFUND_VALUE_SHARE = "refund_value_share"  # refunded share of GMV


class EventBatch(NamedTuple):
    """Events that became observable, ordered by (time_hours, kind, click_id, order_id)."""

    tick: IntArray  # (N,) tick in which the event was seen (the last tick for drained events)
    time_hours: FloatArray  # (N,) true moment of the event
    kind: NDArray[np.int8]  # (N,) EventKind
    click_id: IntArray  # (N,) impression_id of the click
    order_id: NDArray[np.int16]  # (N,) 0-based purchase of the click; -1 for a click
    amount: FloatArray  # (N,) currency >= 0; 0 for a click


class Impressions(NamedTuple):
    """The bid requests of one tick in arrival order, padded to M slots."""

    impression_id: IntArray  # (M,) unique within a campaign, increasing
    time_hours: FloatArray  # (M,) arrival; 0 in padding
    features: NDArray[np.int32]  # (M, F) categorical ids, column f in [0, cardinality_f)
    scene: NDArray[np.int32]  # (M,) traffic placement
    mask: NDArray[np.int8]  # (M,) 1 = real, 0 = padding


class AuctionResult(NamedTuple):
    """What the bidder learns of the auctions of one tick."""

    won: BoolArray  # (M,) the ad was shown
    price: FloatArray  # (M,) currency per shown impression (per click if charged so); inf = unknown
    clicked: BoolArray  # (M,)
    slot: NDArray[np.int8]  # (M,) ad slot 0..S-1 allotted, -1 if none; shown only if won


class Window(NamedTuple):
    """What a predictor learns from: everything seen since its last call."""

    now_hours: float
    impressions: Impressions  # (W,) the won impressions, clicked or not
    result: AuctionResult  # (W,) their results
    clicks: Impressions  # (C,) clicks that any of `events` refers to, with their features
    events: EventBatch  # (N,)


class PriceHistory(NamedTuple):
    """Auctions observed before the campaign started; (H,) each.

    `weight` counts how often a row occurred, so that a price histogram is a history too.
    """

    price: FloatArray  # (H,) price to beat, currency per impression
    weight: FloatArray  # (H,) >= 0
    pctr: FloatArray  # (H,) predicted CTR; NaN if unknown
    value: FloatArray  # (H,) the platform's value estimate, currency per impression; NaN if unknown
    ctr: float  # clicks per shown impression
    cpc: float  # average cost per click of buying everything, currency


class Targets(NamedTuple):
    """Constraints of a campaign on net outcomes; infinity or 0 means no constraint."""

    cpc: float = float("inf")  # highest average cost per click, currency
    net_cpa: float = float("inf")  # highest cost per kept (not refunded) conversion, currency
    net_roas: float = 0.0  # lowest (GMV - refunds) / spend


class AttributionWindows(NamedTuple):
    """How long events count, hours, each window from its own origin."""

    conversion_hours: float = float("inf")  # click to first purchase
    gmv_hours: float = float("inf")  # click to any purchase
    refund_hours: float = float("inf")  # purchase to its refund


class Campaign(NamedTuple):
    """What an agent is told before the campaign starts."""

    budget: float  # currency
    num_ticks: int
    tick_hours: float
    margin: float  # profit share of net GMV, in (0, 1]
    targets: Targets
    price_history: PriceHistory
    expected_traffic: FloatArray  # (T,) expected impressions per tick
    max_bid: float  # currency; upper end of the action space
    mechanism: str  # first_price, second_price, gsp or vcg
    charge: str  # "impression" or "click": the unit that bids and prices refer to
    windows: AttributionWindows = AttributionWindows()  # when feedback is final; default: unknown


class Estimate(NamedTuple):
    """A predicted mean with the standard deviation of its error; std = 0 if unknown."""

    mean: FloatArray  # (M,)
    std: FloatArray  # (M,)


@runtime_checkable
class Predictor(Protocol):
    """Estimates what an impression is worth and learns from windows of observed feedback."""

    targets: frozenset[Target]
    privileged: bool

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """Estimates for M impressions; pure."""
        ...

    def partial_fit(self, window: Window) -> Self:
        """Learns from a window (possibly empty); never mutates it."""
        ...


@runtime_checkable
class Corrector(Protocol):
    """Removes the noise of estimates of one probability.

    One that corrects a CTR and a CVR together, such as `predictors.JointDenoiseBid`, has the same
    two methods with a pair of estimates, and is in no registry.
    """

    def fit(self, predicted: Estimate) -> Self:
        """Learns the distribution of noiseless values from noisy ones."""
        ...

    def correct(self, estimate: Estimate) -> Estimate:
        """Posterior mean and standard deviation (M,) given a noisy estimate (M,), M >= 0; pure."""
        ...


@runtime_checkable
class Agent(Protocol):
    """Turns observations of Auction-v0 into bids."""

    privileged: bool

    def reset(self, campaign: Campaign, *, seed: int | None = None) -> None:
        """Starts a campaign."""
        ...

    def act(self, obs: dict[str, Any]) -> FloatArray:
        """Bids (M,) in currency, within [0, campaign.max_bid]."""
        ...

    def observe(self, info: dict[str, Any]) -> None:
        """Takes note of what the tick brought."""
        ...


class Rivals(Protocol):
    """Bidding policy of the advertisers 1..A-1 of a population market, for E worlds at once."""

    def reset(self, worlds: IntArray, budgets: FloatArray) -> None:
        """Starts new campaigns in the given worlds (W,) with the given budgets (W, A)."""
        ...

    def multipliers(self, tick: IntArray, budget_left: FloatArray) -> FloatArray:
        """Factors (E, A) on the advertisers' value estimates; column 0 is ignored."""
        ...

    def observe(self, tick: IntArray, spend: FloatArray) -> None:
        """Takes note of the spend (E, A) of the tick."""
        ...

    def get_state(self) -> dict[str, np.ndarray]:
        """Arrays that determine the future behaviour."""
        ...

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Restores what `get_state` returned."""
        ...
