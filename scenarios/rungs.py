"""Names of stacks of estimates, and what they are made of; nothing here loads a network."""

from typing import Annotated, NamedTuple

from pydantic import Field

from adsim.market_config import Model
from adsim.types import Target


class Rung(NamedTuple):
    """Which predictor says what."""

    about: str  # in words, for tables
    netcvr: str  # predictor of CVR, in `PREDICTORS`
    refunds: bool = False  # it tells the refund rate, too
    gmv: str = ""  # predictor of GMV; list prices without one
    backbone: str = "plain"  # of all networks
    corrected: tuple[Target, ...] = ()  # of what the platform shows


RUNGS = {
    "fnc": Rung("CVR by FNC x list price", "fnc"),
    "tesla": Rung("+ refunds: TESLA", "tesla", refunds=True),
    "reader": Rung("+ repurchases: READER", "tesla", refunds=True, gmv="reader"),
    "scenes": Rung("+ scenes: MI-DPG layers", "tesla", True, "reader", "mi_dpg"),
    "full": Rung(
        about="+ DenoiseBid of CTR and CVR",
        netcvr="tesla",
        refunds=True,
        gmv="reader",
        backbone="mi_dpg",
        corrected=(Target.CTR, Target.CVR),
    ),
}
"""Learned stacks, worst first."""

OTHERS = {
    "full_ctr": RUNGS["full"]._replace(about="CTR corrected only", corrected=(Target.CTR,)),
}
STACKS = ("platform", *RUNGS, *OTHERS, "oracle")
"""All names: what the platform shows as it is, the rungs, `full` but for the correction of the
platform's CVR, and the truth (privileged)."""


def needs_warm_up(name: str) -> bool:
    """Whether a stack learns before the campaign; `name` is in `STACKS`."""
    return name in RUNGS or name in OTHERS


class HistoryConfig(Model):
    """Size of the historical log."""

    days: Annotated[int, Field(ge=12)] = 28
    """Days before the campaign; the last ten or fewer, whose labels are open, are not used."""
    clicks_per_day: Annotated[float, Field(gt=0)] = 30_000.0
    """Mean number of clicks."""
    impressions_per_day: Annotated[float, Field(gt=0)] = 20_000.0
    """Mean number of shown impressions, from which CTR is learned."""
