"""Stacks of estimates by name: the rungs of the ladder, each a step better than the one before."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from adsim.types import Predictor, Target
from predictors import OraclePredictor
from predictors.calibration import Line
from predictors.denoise_bid import DenoiseBid, log_odds
from scenarios.requests import Requests
from scenarios.stack import PLATFORM, SOURCES, Stack
from scenarios.warmup import WarmUp, as_impressions


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

_OTHERS = {
    "full_ctr": RUNGS["full"]._replace(about="CTR corrected only", corrected=(Target.CTR,)),
}
STACKS = ("platform", *RUNGS, *_OTHERS, "oracle")
"""All names: what the platform shows as it is, the rungs, `full` but for the correction of the
platform's CVR, and the truth (privileged)."""


def needs_warm_up(name: str) -> bool:
    """Whether a stack learns before the campaign; `name` is in `STACKS`."""
    return name in RUNGS or name in _OTHERS


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
    rung = (RUNGS | _OTHERS)[name]
    netcvr = warm_up.predictor(rung.netcvr, backbone=rung.backbone)
    sources: dict[Target, Any] = {Target.CVR: netcvr}
    if rung.refunds:
        sources[Target.REFUND_RATE] = netcvr
    if rung.gmv:
        sources[Target.GMV] = warm_up.predictor(rung.gmv, backbone=rung.backbone)
        factor = warm_up.gmv_factor(rung.gmv, backbone=rung.backbone)
    else:
        factor = warm_up.gmv_factor()
    line, correctors = warm_up.cvr_line(rung.netcvr, backbone=rung.backbone), {}
    if rung.corrected:
        correctors = fitted_correctors(rung.corrected, sources, warm_up.requests, line)
    return Stack(sources, correctors=correctors, cvr_line=line, gmv_factor=factor)


def fitted_correctors(
    targets: Iterable[Target],
    sources: Mapping[Target, Predictor],
    requests: Requests,
    cvr_line: Line | None = None,
) -> dict[Target, DenoiseBid]:
    """Correctors of what the platform shows, fitted on requests of the time before the campaign.

    Args:
        targets: CTR, CVR or both.
        sources: predictors by target; what they estimate is the `base` of the correction.
        requests: of the campaign's world.
        cvr_line: see `Stack`.
    """
    found: dict[Target, DenoiseBid] = {}
    for target in targets:
        name, source, base = PLATFORM[target], sources.get(target), 0.0
        if source is not None:
            said = source.predict(as_impressions(requests.features))[target].mean
            if target == Target.CVR and cvr_line is not None:
                said = cvr_line.apply(said)
            base = log_odds(said)
        shown, noise = (getattr(requests, part) for part in (name, f"{name}_std"))
        found[target] = DenoiseBid().fit_logits(log_odds(shown), noise, base)
    return found
