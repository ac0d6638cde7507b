"""Configuration of a simulated world: frozen pydantic models, one per part.

Every number has its unit in the field's documentation. Figures marked (TESLA) and (READER) are
the published facts of the CASCADE and TRACE logs that the defaults are calibrated to:

TESLA: M. Luo et al., "Modeling Cascaded Delay Feedback for Online Net Conversion Rate Prediction:
    Benchmark, Insights and Solutions", WWW 2026, arXiv:2601.19965.
READER: X. Li et al., "Delayed Feedback Modeling for Post-Click Gross Merchandise Volume Prediction:
    Benchmark, Insights and Approaches", WWW 2026, arXiv:2601.20307.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from adsim.curves import (
    CONVERSION_DELAY,
    HOURLY_CVR,
    HOURLY_GMV,
    REFUND_DELAY,
    REPURCHASE_DELAY,
)
from adsim.market_config import (
    Count,
    Finite,
    MarketConfig,
    Model,
    NonNegative,
    Positive,
    Probability,
    Share,
)


class TimeConfig(Model):
    """The campaign's clock."""

    num_ticks: Count = 336
    """Decision periods of a campaign."""
    tick_hours: Positive = 0.5
    """Length of a tick, hours."""
    start_hour_of_week: Annotated[float, Field(ge=0, lt=168)] = 0.0
    """Hour of the week (Monday 00:00 = 0) at which tick 0 starts."""

    @property
    def horizon_hours(self) -> float:
        """Length of the campaign, hours."""
        return self.num_ticks * self.tick_hours


class TrafficConfig(Model):
    """How many impressions arrive, and when."""

    impressions_per_tick: Positive = 500.0
    """Mean over the week of the Poisson number of impressions of a tick."""
    profile: Literal["weekly", "flat"] = "weekly"
    """Built-in day and week profile, or constant traffic."""
    traffic_share: str | None = None
    """A BAT traffic file (region_id,dow,hour,traffic_share) that replaces the profile."""
    region_id: int | None = None
    """Region of `traffic_share`; the mean over regions if not given."""
    slots_per_tick: Count | None = None
    """M; by default the smallest multiple of 64 that overflows with probability < 1e-6."""


class EntitiesConfig(Model):
    """Users, contexts and items, and their 22 categorical fields."""

    num_users: Count = 20_000
    """Distinct users; the first user field is the user's id."""
    num_contexts: Count = 4_096
    """Distinct contexts; the first context field is the scene."""
    num_scenes: Annotated[int, Field(ge=1, le=1024)] = 4
    """Traffic placements."""
    items_per_advertiser: Count = 20
    """Catalogue size; the first item field is the item's id."""
    user_cardinalities: tuple[Count, ...] = (2_048, 512, 128, 64, 32, 16, 8)
    """Sizes of the user fields after the id."""
    item_cardinalities: tuple[Count, ...] = (64, 32, 16, 8, 4)
    """Sizes of the item fields after the id."""
    context_cardinalities: tuple[Count, ...] = (256, 128, 64, 32, 16, 8, 4)
    """Sizes of the context fields after the scene."""
    zipf_exponent: NonNegative = 1.0
    """Frequency of a field's k-th value is proportional to k ** -zipf_exponent."""
    activity_exponent: NonNegative = 0.6
    """The same for how often users, contexts and items are drawn."""
    scene_exponent: NonNegative = 0.8
    """The same for the scenes' shares of traffic, cold ones left out."""
    cold_scenes: Annotated[int, Field(ge=0)] = 0
    """Scenes of little traffic, the last ones; fewer than `num_scenes`."""
    cold_share: Annotated[float, Field(gt=0, lt=1)] = 0.0015
    """Share of the traffic of each cold scene; together below 1."""

    @model_validator(mode="after")
    def _cold(self) -> Self:
        if self.cold_scenes >= self.num_scenes:
            raise ValueError(
                f"cold_scenes must be < num_scenes = {self.num_scenes}, got {self.cold_scenes}"
            )
        if self.cold_scenes * self.cold_share >= 1:
            raise ValueError(
                f"cold_share must be < 1 / cold_scenes = {1 / self.cold_scenes:g}, "
                f"got {self.cold_share:g}"
            )
        return self


class HeadConfig(Model):
    """Hidden effects of one response (logit or log scale)."""

    sd: NonNegative
    """Standard deviation of the summed main effects over impressions, logits."""
    interaction_sd: NonNegative = 0.0
    """Standard deviation of the user x item x scene interaction, logits. Root mean square over
    structures: in a single one it is about 20 % higher or lower (docs/model.md)."""
    drift_share: Probability | None = None
    """Share of this response's main-effect variance that drifts; None: `drift.share`."""


class EffectsConfig(Model):
    """Hidden effects of the fields on the five responses of the funnel."""

    click: HeadConfig = HeadConfig(sd=0.8, interaction_sd=0.4)
    """CTR, logits."""
    conversion: HeadConfig = HeadConfig(sd=1.0, interaction_sd=0.5)
    """CVR, logits."""
    refund: HeadConfig = HeadConfig(sd=0.5)
    """Refund rate given a purchase, logits, on top of `refund.curve`."""
    amount: HeadConfig = HeadConfig(sd=0.5)
    """Log of the purchase amount relative to the list price."""
    repurchase: HeadConfig = HeadConfig(sd=1.2)
    """Probability of more than one purchase, logits."""
    user_share: Probability = 0.45
    """Share of the main-effect variance carried by user fields."""
    item_share: Probability = 0.2
    """Share carried by item fields; contexts carry the rest."""
    id_share: Probability = 0.15
    """Share of the user's (item's) variance carried by the id itself."""
    scene_heterogeneity: Probability = 0.3
    """Interaction weights of a scene: 0 = alike in all scenes, 1 = independent between them."""
    scene_sd: NonNegative = 0.3
    """Standard deviation of the scenes' base rates, logits."""
    unseen_intent_conversion: NonNegative = 0.5
    """Loading of the unseen N(0, 1) intent of an impression on the CVR logit."""
    unseen_intent_refund: Finite = -0.3
    """Loading of the unseen intent on the refund logit."""
    unseen_intent_repurchase: Finite = 0.3
    """Loading of the unseen intent on the repurchase logit."""

    @model_validator(mode="after")
    def _shares(self) -> Self:
        if self.user_share + self.item_share > 1:
            raise ValueError("user_share + item_share must be <= 1")
        for head in ("refund", "amount", "repurchase"):
            if getattr(self, head).interaction_sd:
                raise ValueError(
                    f"{head}.interaction_sd must be 0: only click and conversion have one"
                )
        return self


class ClickConfig(Model):
    """The click."""

    ctr: Annotated[float, Field(gt=0, lt=1)] = 0.03
    """Mean CTR of a shown impression (traffic-weighted)."""


class ConversionConfig(Model):
    """The first purchase."""

    cvr: Annotated[float, Field(gt=0, lt=1)] = 0.066
    """Mean CVR of an impression's click (TESLA: .066)."""
    hourly: tuple[Positive, ...] = Field(default=HOURLY_CVR, min_length=24, max_length=24)
    """CVR by hour of the day relative to its mean (TESLA, fig. 2)."""
    delay: tuple[tuple[Positive, Share], ...] = CONVERSION_DELAY
    """Knots (hours, cumulative share) of the delay from click to first purchase."""
    delay_dependence: Finite = 0.25
    """A click whose CVR logit is 1 higher has F(t) ** (1 / e^delay_dependence) as delay cdf."""

    @model_validator(mode="after")
    def _hourly_rates(self) -> Self:
        peak = self.cvr * max(self.hourly) * len(self.hourly) / sum(self.hourly)
        if peak >= 1:
            raise ValueError(f"cvr x hourly / mean(hourly) must be < 1, its highest is {peak:.3f}")
        return self


class RefundConfig(Model):
    """The refund of a purchase."""

    rate: Annotated[float, Field(ge=0, lt=1)] = 0.245
    """Mean refund rate of a purchase (TESLA: .245 or .5)."""
    curve: tuple[Probability, ...] = Field(
        default=(0.499, 0.423, 0.349, 0.315, 0.347), min_length=5, max_length=5
    )
    """Refund rate at CVR .1 .3 .5 .7 .9; its shape in logits is used, its level is `rate`."""
    curve_strength: NonNegative = 1.0
    """Factor on the curve's deviation from its first value, logits."""
    amount_dependence: Finite = 0.0
    """Effect on the refund logit of one standard deviation of the purchase's log amount."""
    delay: tuple[tuple[Positive, Share], ...] = REFUND_DELAY
    """Knots (hours, cumulative share) of the delay from purchase to refund."""
    delay_dependence: Finite = 0.25
    """A purchase whose refund logit is 1 higher has F(t) ** (1 / e^delay_dependence)."""


class PurchaseConfig(Model):
    """Number and amounts of the purchases of a converted click."""

    list_price: Positive = 100.0
    """Median list price of the items, currency."""
    list_price_sd: NonNegative = 0.6
    """Standard deviation of the items' log list price if `list_price_tail` is 1."""
    list_price_tail: Annotated[float, Field(ge=1, lt=2)] = 1.0
    """1: log-normal list prices. d > 1: x ~ N(0, 1) becomes sinh(d asinh x) / d, longer tails."""
    repurchase_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5355
    """Mean share of converted clicks with more than one purchase (READER: .5355)."""
    price_dependence: Finite = 0.0
    """Effect on the repurchase logit of one standard deviation of the item's log list price."""
    continuation: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Probability of yet another purchase after the second and later ones."""
    max_purchases: Annotated[int, Field(ge=1, le=32)] = 8
    """Most purchases of one click."""
    exact_share: Probability = 0.3
    """Share of single purchases that cost exactly the list price."""
    single_log_ratio: Finite = 0.0
    """Mean log(amount / list price) of the other single purchases."""
    first_log_ratio: Finite = -0.1
    """The same for the first of several purchases."""
    later_log_ratio: Finite = 0.1
    """The same for later purchases."""
    first_log_sd: NonNegative = 0.6
    """Standard deviation of log amounts of single and first purchases beyond the effects."""
    later_log_sd: NonNegative = 0.8
    """The same for later purchases."""
    hourly: tuple[Positive, ...] = Field(default=HOURLY_GMV, min_length=24, max_length=24)
    """Mean GMV by hour of the day relative to its mean (READER, fig. 2)."""
    later_delay: tuple[tuple[Positive, Share], ...] = REPURCHASE_DELAY
    """Knots (share of the time between first purchase and window end, cumulative share)."""


class WindowsConfig(Model):
    """Attribution windows, hours, each from its own origin."""

    conversion_hours: Positive = 72.0
    """Click to first purchase."""
    gmv_hours: Positive = 168.0
    """Click to any purchase."""
    refund_hours: Positive = 72.0
    """Purchase to its refund."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.gmv_hours < self.conversion_hours:
            raise ValueError("gmv_hours must be >= conversion_hours")
        return self


class DriftConfig(Model):
    """Ornstein-Uhlenbeck drift of the hidden effects of field values."""

    share: Probability = 0.1
    """Share of the main-effect variance that drifts (stationary variance is unchanged)."""
    time_constant_hours: Positive = 168.0
    """Correlation of an effect over a lag h is exp(-h / time_constant_hours)."""
    step_hours: Positive = 24.0
    """Effects are constant within a step."""


class ShockConfig(Model):
    """A one-off change, for instance a promotion day."""

    start_hours: NonNegative
    """First hour of the campaign it covers."""
    end_hours: Positive
    """Hour at which it ends (exclusive)."""
    traffic: Positive = 1.0
    """Factor on the number of impressions."""
    ctr: Positive = 1.0
    """Factor on the odds of a click."""
    cvr: Positive = 1.0
    """Factor on the odds of a conversion."""
    amount: Positive = 1.0
    """Factor on purchase amounts."""
    refund: Positive = 1.0
    """Factor on the odds of a refund."""
    price: Positive = 1.0
    """Factor on the prices to beat (landscape market)."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.end_hours <= self.start_hours:
            raise ValueError("end_hours must be > start_hours")
        return self


class NoiseConfig(Model):
    """Gaussian logit noise of the estimates that the platform shows to the bidder."""

    ctr_sd: NonNegative = 0.0
    """Standard deviation of the pCTR logit."""
    cvr_sd: NonNegative = 0.0
    """Standard deviation of the pCVR logit."""
    high_factor: NonNegative = 1.0
    """Factor on both for a random share of impressions (heteroscedastic if not 1)."""
    high_share: Probability = 0.0
    """Share of impressions with the factor; the standard deviation in force is always shown."""


class TargetsConfig(Model):
    """Constraints of the campaign on net outcomes."""

    cpc: Positive | None = None
    """Highest average cost per click, currency."""
    net_cpa: Positive | None = None
    """Highest cost per kept conversion, currency."""
    net_roas: Positive | None = None
    """Lowest (GMV - refunds) / spend."""


class CampaignConfig(Model):
    """The controlled campaign."""

    budget: Positive = 1_650.0
    """Currency for the whole campaign."""
    margin: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Profit share of net GMV."""
    targets: TargetsConfig = TargetsConfig()
    max_bid: Positive = 100.0
    """Upper end of the action space, currency."""
    history_auctions: Annotated[int, Field(ge=0)] = 10_000
    """Auctions observed before the start that the agent is told of (price_history)."""
    max_multiplier: Annotated[float, Field(gt=1)] = 10.0
    """Pacing-v0: bid = value estimate x max_multiplier ** action."""


class WorldConfig(Model):
    """Everything that determines a world, up to its episode seed."""

    structure_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Determines users, items, effects and drift."""
    randomize_structure: bool = False
    """Draw the structure seed anew at every reset."""
    reward: Literal["cash", "accrual", "estimated"] = "cash"
    """`cash` pays as purchases and refunds are seen, `accrual` the realised net value of a click at
    once (privileged), `estimated` its predicted one at once and the difference when all its windows
    are closed. All three have the same sum."""
    time: TimeConfig = TimeConfig()
    traffic: TrafficConfig = TrafficConfig()
    entities: EntitiesConfig = EntitiesConfig()
    effects: EffectsConfig = EffectsConfig()
    click: ClickConfig = ClickConfig()
    conversion: ConversionConfig = ConversionConfig()
    refund: RefundConfig = RefundConfig()
    purchase: PurchaseConfig = PurchaseConfig()
    windows: WindowsConfig = WindowsConfig()
    drift: DriftConfig = DriftConfig()
    shocks: tuple[ShockConfig, ...] = ()
    platform_noise: NoiseConfig = NoiseConfig()
    market: MarketConfig = MarketConfig()
    campaign: CampaignConfig = CampaignConfig()

    @model_validator(mode="after")
    def _delays(self) -> Self:
        for name, knots, end in (
            ("conversion.delay", self.conversion.delay, self.windows.conversion_hours),
            ("refund.delay", self.refund.delay, self.windows.refund_hours),
            ("purchase.later_delay", self.purchase.later_delay, 1.0),
        ):
            times, shares = zip(*knots, strict=True)
            if list(times) != sorted(set(times)) or list(shares) != sorted(set(shares)):
                raise ValueError(f"{name} must increase strictly in both columns")
            if shares[-1] != 1.0 or times[-1] > end:
                raise ValueError(f"{name} must end with share 1 at no more than {end:g}")
        return self
