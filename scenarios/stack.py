"""A stack of estimates: which predictor says what, and what an impression is worth by them.

What a stack has no predictor for is what the platform shows: its CTR and its CVR; nothing comes
back; and a converted click brings the list price. A corrector combines what the platform shows of
CTR or CVR, which is noisy, with the predictor's estimate if there is one.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from adsim.observation import MAX_MONEY, rows_of
from adsim.types import Estimate, FloatArray, Impressions, Predictor, Target, Window
from predictors.base import compose_net_value
from predictors.calibration import Line
from predictors.denoise_bid import DenoiseBid, log_odds

SOURCES = (Target.CTR, Target.CVR, Target.REFUND_RATE, Target.GMV, Target.REFUND_VALUE_SHARE)
PLATFORM = {Target.CTR: "pctr", Target.CVR: "pcvr"}
"""Entries of an observation with the platform's estimates; `<name>_std` is their noise."""


class Estimates(NamedTuple):
    """What M impressions are taken to be worth; padding is 0."""

    ctr: FloatArray  # (M,) probability of a click if shown
    cvr: FloatArray  # (M,) probability of a purchase, given a click
    refund_rate: FloatArray  # (M,) probability that the first purchase is refunded
    gmv: FloatArray  # (M,) expected GMV of a converted click, currency
    expected_net_value: FloatArray  # (M,) of showing the impression, before its price, currency


class Stack:
    """Estimates of one campaign, composed to expected net value.

    Args:
        sources: predictors by what is taken from them, of `SOURCES`; one may give several targets.
            With `REFUND_VALUE_SHARE` that share of GMV comes back, else the refund rate says so.
        correctors: of the platform's CTR and CVR, by the noise that it shows; fitted. Where there
            is a predictor, too, its log-odds are the `base` of the correction.
        cvr_line: calibrates the predictor's CVR (`WarmUp.cvr_line`).
        gmv_factor: on estimates of GMV, > 0: amounts by networks are medians, and list prices are
            those of one purchase (`WarmUp.gmv_factor`).

    Attributes:
        privileged: whether a predictor is.

    Raises:
        ValueError: a target that is not in `SOURCES` or that its predictor does not give, a
            corrector of something else than CTR and CVR, or a factor out of range.
    """

    def __init__(
        self,
        sources: Mapping[Target, Predictor] | None = None,
        *,
        correctors: Mapping[Target, DenoiseBid] | None = None,
        cvr_line: Line | None = None,
        gmv_factor: float = 1.0,
    ) -> None:
        self.sources = {Target(name): source for name, source in (sources or {}).items()}
        for target, source in self.sources.items():
            if target not in SOURCES:
                raise ValueError(f"sources: must be of {', '.join(SOURCES)}, got {target}")
            if target not in source.targets:
                raise ValueError(f"sources: {type(source).__name__} does not estimate {target}")
        self.correctors = {Target(name): one for name, one in (correctors or {}).items()}
        if not self.correctors.keys() <= PLATFORM.keys():
            names = ", ".join(self.correctors)
            raise ValueError(f"correctors: must be of {', '.join(PLATFORM)}, got {names}")
        if not 0 < gmv_factor < np.inf:
            raise ValueError(f"gmv_factor must be > 0 and finite, got {gmv_factor}")
        self.cvr_line, self.gmv_factor = cvr_line or Line(), gmv_factor
        # Each predictor once, in the order of the targets, whatever the order of `sources`.
        self.predictors = list(
            {id(p): p for t in SOURCES if (p := self.sources.get(t)) is not None}.values()
        )
        self.privileged = any(predictor.privileged for predictor in self.predictors)

    def attach(self, oracle: Any) -> None:
        """Gives privileged predictors access to the truth of an episode."""
        for predictor in self.predictors:
            if predictor.privileged:
                predictor.attach(oracle)  # pyright: ignore[reportAttributeAccessIssue]

    def partial_fit(self, window: Window) -> None:
        """Lets every predictor learn from a window; corrections stay as they are."""
        for predictor in self.predictors:
            predictor.partial_fit(window)

    def estimate(
        self, obs: Mapping[str, Any], impressions: Impressions, margin: float
    ) -> Estimates:
        """Estimates of M impressions; learns nothing.

        Args:
            obs: observation of Auction-v0.
            impressions: the same M slots; real ones come first.
            margin: profit share of net GMV, in (0, 1].
        """
        size, real = impressions.mask.size, slice(int(np.count_nonzero(impressions.mask)))
        if not real.stop:  # a tick without impressions, or the end
            return Estimates(*np.zeros((len(Estimates._fields), size)))
        found = self._predicted(impressions, real)
        for target in PLATFORM:
            found[target] = self._with_platform(target, obs, real, found.get(target))
        if Target.GMV not in found:
            found[Target.GMV] = np.array(obs["list_price"], np.float64)[real]
        found[Target.GMV] = np.minimum(self.gmv_factor * found[Target.GMV], MAX_MONEY)
        rate = found.setdefault(Target.REFUND_RATE, np.zeros(real.stop))
        value = compose_net_value(
            {t: Estimate(m, np.zeros_like(m)) for t, m in found.items()}, margin=margin
        )
        columns = (found[Target.CTR], found[Target.CVR], rate, found[Target.GMV], value)
        return Estimates(*(np.concatenate([c, np.zeros(size - real.stop)]) for c in columns))

    def _predicted(self, impressions: Impressions, real: slice) -> dict[Target, FloatArray]:
        """Means (n,) of the real impressions, of the targets that have a predictor."""
        shown = rows_of(impressions, real)
        found: dict[Target, FloatArray] = {}
        for predictor in self.predictors:
            # The oracle answers for all slots of the current tick or for none.
            means = predictor.predict(impressions if predictor.privileged else shown)
            for target, source in self.sources.items():
                if source is predictor:
                    found[target] = means[target].mean[real]
        return found

    def _with_platform(
        self, target: Target, obs: Mapping[str, Any], real: slice, predicted: FloatArray | None
    ) -> FloatArray:
        """CTR or CVR (n,): predicted, the platform's, or the correction of one by the other."""
        corrector, name = self.correctors.get(target), PLATFORM[target]
        if predicted is not None and target == Target.CVR:
            predicted = self.cvr_line.apply(predicted)
        if corrector is None and predicted is not None:
            return predicted
        shown = np.array(obs[name], np.float64)[real]
        if corrector is None:
            return shown
        base = 0.0 if predicted is None else log_odds(predicted)
        noise = np.asarray(obs[f"{name}_std"], np.float64)[real]
        return corrector.correct_logits(log_odds(shown), noise, base).mean
