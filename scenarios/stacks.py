"""Stacks of estimates by name: the rungs of the ladder, each a step better than the one before."""

from collections.abc import Iterable, Mapping
from typing import Any

from adsim.types import Predictor, Target
from predictors import OraclePredictor
from predictors.calibration import Line
from predictors.denoise_bid import DenoiseBid, log_odds
from scenarios.requests import Requests
from scenarios.rungs import OTHERS, RUNGS, STACKS
from scenarios.stack import PLATFORM, SOURCES, Stack
from scenarios.warmup import WarmUp, as_impressions


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
    rung = (RUNGS | OTHERS)[name]
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
