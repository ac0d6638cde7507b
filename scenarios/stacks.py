"""Stacks of estimates by name: the rungs of the ladder, each a step better than the one before."""

from typing import Any, NamedTuple

from adsim.types import Target
from predictors import OraclePredictor
from predictors.denoise_bid import DenoiseBid
from scenarios.stack import SOURCES, Stack
from scenarios.warmup import WarmUp

_CORRECTOR_POINTS = 400  # that a daily fit of the corrector uses: a tenth of a second


class Rung(NamedTuple):
    """Which predictor says what."""

    about: str  # in words, for tables
    netcvr: str  # predictor of CVR, in `PREDICTORS`
    refunds: bool = False  # it tells the refund rate, too
    gmv: str = ""  # predictor of GMV; list prices without one
    backbone: str = "plain"  # of all networks
    denoise: bool = False  # the platform's CTR is corrected


RUNGS = {
    "fnc": Rung("CVR by FNC x list price", "fnc"),
    "tesla": Rung("+ refunds: TESLA", "tesla", refunds=True),
    "reader": Rung("+ repurchases: READER", "tesla", refunds=True, gmv="reader"),
    "scenes": Rung("+ scenes: MI-DPG layers", "tesla", True, "reader", "mi_dpg"),
    "full": Rung("+ DenoiseBid of CTR", "tesla", True, "reader", "mi_dpg", denoise=True),
}
"""Learned stacks, worst first."""

STACKS = ("platform", *RUNGS, "oracle")
"""All names: what the platform shows as it is, the rungs, and the truth (privileged)."""


def make_stack(name: str, warm_up: WarmUp | None = None) -> Stack:
    """A stack, ready for a campaign.

    Args:
        name: in `STACKS`.
        warm_up: of the campaign's world; only rungs need it.

    Raises:
        ValueError: no such stack, or a rung without warm-up.
    """
    if name not in STACKS:
        raise ValueError(f"estimates {name!r} do not exist: one of {', '.join(STACKS)}")
    if name == "platform":
        return Stack()
    if name == "oracle":
        oracle = OraclePredictor()
        return Stack({target: oracle for target in SOURCES if target in oracle.targets})
    if warm_up is None:
        raise ValueError(f"estimates {name!r} need a warm-up")
    rung = RUNGS[name]
    netcvr = warm_up.predictor(rung.netcvr, backbone=rung.backbone)
    sources: dict[Target, Any] = {Target.CVR: netcvr}
    if rung.refunds:
        sources[Target.REFUND_RATE] = netcvr
    if rung.gmv:
        sources[Target.GMV] = warm_up.predictor(rung.gmv, backbone=rung.backbone)
        factor = warm_up.gmv_factor(rung.gmv, backbone=rung.backbone)
    else:
        factor = warm_up.gmv_factor()
    corrector = DenoiseBid(max_points=_CORRECTOR_POINTS) if rung.denoise else None
    return Stack(sources, corrector=corrector, gmv_factor=factor)
