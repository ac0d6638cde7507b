"""Configuration of the market: who competes, and the rules of the auction."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """Base of all configuration models: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class LandscapeConfig(Model):
    """Price to beat: a log-normal mixture by scene and hour, or a log's empirical counts."""

    median: Positive = 0.012
    """Median price of the first component, currency per impression."""
    log_sd: NonNegative = 0.5
    """Standard deviation of the log price, first component."""
    second_share: Probability = 0.2
    """Weight of the second component."""
    second_ratio: Positive = 2.5
    """Median of the second component relative to the first."""
    second_log_sd: NonNegative = 0.9
    """Standard deviation of the log price, second component."""
    scene_sd: NonNegative = 0.25
    """Standard deviation of the scenes' log medians."""
    hour_amplitude: NonNegative = 0.15
    """Log price at the daily peak of competition (20 h) above the daily mean."""
    quality_slope: Finite = 1.0
    """Log price per logit of the CTR and CVR effects of user and context: rivals want them too."""
    price_counts: str | None = None
    """An iPinYou info.json whose price counts replace the mixture."""
    price_scale: Positive = 1.0
    """Currency per unit of `price_counts`."""


class PopulationConfig(Model):
    """Rival advertisers 1..A-1; the controlled campaign is advertiser 0."""

    n_advertisers: Annotated[int, Field(ge=1, le=4096)] = 48
    """A, the controlled campaign included."""
    categories: Count = 6
    """Advertisers of one category want the same users."""
    rivals: tuple[Literal["value", "linear", "pid", "dual"], ...] = (
        "value",
        "linear",
        "pid",
        "dual",
    )
    """Bidding policies, dealt to the rivals in turn."""
    linear_multiplier: Positive = 0.6
    """Constant factor of the linear rivals."""
    budget_range: tuple[Positive, Positive] = (300.0, 3_000.0)
    """Rivals' budgets, currency, uniform between the two."""
    value_range: tuple[Positive, Positive] = (0.3, 1.2)
    """Rivals' value per click relative to the controlled campaign's mean, log-uniform."""
    cpa_range: tuple[Positive, Positive] | None = None
    """If given, a rival's value of a conversion in currency, uniform, instead of value_range."""
    noise_sd: NonNegative = 0.3
    """Standard deviation of the error of rivals' log values."""

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        for name in ("budget_range", "value_range", "cpa_range"):
            pair = getattr(self, name)
            if pair is not None and pair[0] > pair[1]:
                raise ValueError(f"{name} must be (low, high) with low <= high")
        return self


class ReplayConfig(Model):
    """A logged auction file played back: its prices, predicted CTRs and clicks."""

    log: str = ""
    """Path of the log (`click price theta` per line)."""
    info: str | None = None
    """Path of the campaign's info.json with the training log's totals and price counts."""
    first_auction: Annotated[int, Field(ge=0)] = 0
    """Row of the log at which the campaign starts."""
    auctions_per_tick: Count = 1
    """Impressions of a tick."""
    click_value: Positive = 1.0
    """Value of a click, currency."""


class MarketConfig(Model):
    """Who is competing, and the rules of the auction."""

    kind: Literal["landscape", "population", "replay"] = "landscape"
    """Source of the competition."""
    mechanism: Literal["first_price", "second_price", "gsp", "vcg"] = "second_price"
    """Payment rule."""
    charge: Literal["impression", "click"] = "impression"
    """Unit of bids and prices; per click, bids are ranked by bid x platform pCTR."""
    reserve: NonNegative = 0.0
    """Lowest price of a shown impression, currency."""
    exposure: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(default=(1.0,), min_length=1)
    """Probability that the ad in slot 1..S is seen; non-increasing. Only seen ads are charged."""
    reveal: Literal["winner", "all"] = "winner"
    """Whose result shows the price: won auctions only, or all."""
    landscape: LandscapeConfig = LandscapeConfig()
    population: PopulationConfig = PopulationConfig()
    replay: ReplayConfig = ReplayConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if any(a < b for a, b in zip(self.exposure, self.exposure[1:], strict=False)):
            raise ValueError("exposure must be non-increasing")
        if self.kind != "population":
            if len(self.exposure) > 1:
                raise ValueError(f"exposure must have one slot in a {self.kind} market")
            if self.mechanism == "vcg":
                raise ValueError(
                    f"mechanism must not be vcg in a {self.kind} market: one price is known"
                )
        elif len(self.exposure) > 1 and self.mechanism == "second_price":
            raise ValueError("mechanism must be first_price, gsp or vcg with more than one slot")
        if self.kind == "replay" and not self.replay.log:
            raise ValueError("replay.log must name an auction log in a replay market")
        return self
