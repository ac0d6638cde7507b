"""The registry of predictors (contracts: `adsim.types`), and what their estimates add up to."""

from collections.abc import Callable, Mapping

import numpy as np

from adsim.types import Corrector, Estimate, FloatArray, Predictor, Target

PREDICTORS: dict[str, type] = {}
CORRECTORS: dict[str, type] = {}


def register_predictor(name: str) -> Callable[[type], type]:
    """Class decorator that adds a predictor to the registry under a name.

    Raises:
        ValueError: the name is taken.
    """

    def add(cls: type) -> type:
        if name in PREDICTORS:
            raise ValueError(f"predictor {name!r} is registered already")
        PREDICTORS[name] = cls
        return cls

    return add


def compose_net_value(estimates: Mapping[Target, Estimate], *, margin: float) -> FloatArray:
    """Expected net value (M,) of showing an impression, before its price, currency.

    margin x CTR x CVR x GMV x (1 - refunded share of GMV). Exact means give the exact value: each
    factor is conditional on the one before it. Only means are used, not standard deviations.

    Without `REFUND_VALUE_SHARE`, what comes back is the share that `REFUND_RATE` says, or else CVR
    and refund are those of `NET_CVR`. Both take purchases of all amounts to come back alike: where
    dear ones come back more often, the value is too high.

    Args:
        estimates: of M impressions. CTR and GMV; CVR with `REFUND_VALUE_SHARE` or `REFUND_RATE`, or
            `NET_CVR` alone; others are ignored.
        margin: profit share of net GMV, in (0, 1].

    Raises:
        ValueError: a target is missing, has another shape than the others or is out of range, or
            the margin is; names it and what is allowed.
    """
    if not 0 < margin <= 1:
        raise ValueError(f"margin must be in (0, 1], got {margin}")
    factors = _net_factors(estimates)
    means = [estimates[target].mean for target in factors]
    shape = means[0].shape
    if len(shape) != 1:
        raise ValueError(f"{factors[0]} must have shape (M,), got {shape}")
    value = np.full(shape, margin)
    for target, mean in zip(factors, means, strict=True):
        high = np.inf if target is Target.GMV else 1.0
        if mean.shape != shape:
            raise ValueError(f"{target} must have shape {shape} as {factors[0]}, got {mean.shape}")
        wrong = ~(np.isfinite(mean) & (mean >= 0) & (mean <= high))
        if wrong.any():
            first = int(np.argmax(wrong))
            allowed = "finite and >= 0" if target is Target.GMV else "in [0, 1]"
            raise ValueError(f"{target} must be {allowed}, got {mean[first]} at place {first}")
        value *= 1 - mean if target in _LOST else mean
    return value


_LOST = (Target.REFUND_VALUE_SHARE, Target.REFUND_RATE)  # in order of preference


def _net_factors(estimates: Mapping[Target, Estimate]) -> list[Target]:
    """The targets whose means, or 1 - mean for those in `_LOST`, are multiplied.

    Raises:
        ValueError: one is missing.
    """
    lost = next((target for target in _LOST if target in estimates), None)
    factors = [Target.CTR, Target.CVR, Target.GMV]
    if lost is not None:
        factors.append(lost)
    elif Target.NET_CVR in estimates:
        factors[1] = Target.NET_CVR
    missing = [str(target) for target in factors if target not in estimates]
    if lost is None and Target.NET_CVR not in estimates:
        missing.append(" or ".join([*_LOST, Target.NET_CVR]))
    if missing:
        raise ValueError(f"estimates must have {', '.join(missing)}; got {', '.join(estimates)}")
    return factors


__all__ = [
    "CORRECTORS",
    "PREDICTORS",
    "Corrector",
    "Predictor",
    "compose_net_value",
    "register_predictor",
]
