"""A stack of estimates: which predictor says what, and what an impression is worth by them.

What a stack has no predictor for is what the platform shows: its CTR, optionally corrected, and its
CVR; nothing comes back; and a converted click brings the list price.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from adsim.observation import MAX_MONEY
from adsim.types import Estimate, FloatArray, Impressions, Predictor, Target, Window
from predictors.base import compose_net_value
from predictors.denoise_bid import DenoiseBid, log_odds

SOURCES = (Target.CTR, Target.CVR, Target.REFUND_RATE, Target.GMV, Target.REFUND_VALUE_SHARE)
_REFIT_HOURS = 24.0  # between fits of the corrector, which take a tenth of a second or more
_MIN_REQUESTS = 200  # of a fit of the corrector, about 100 per component of its mixture
_KEPT_REQUESTS = 4_000  # latest ones that the corrector is fitted on


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
        corrector: of the platform's CTR, by the noise that it shows; fitted on all bid requests.
        gmv_factor: on estimates of GMV, > 0: amounts by networks are medians, and list prices are
            those of one purchase (`WarmUp.gmv_factor`).

    Attributes:
        privileged: whether a predictor is.

    Raises:
        ValueError: a target that is not in `SOURCES` or that its predictor does not give, a CTR
            both predicted and corrected, or a factor out of range.
    """

    def __init__(
        self,
        sources: Mapping[Target, Predictor] | None = None,
        *,
        corrector: DenoiseBid | None = None,
        gmv_factor: float = 1.0,
    ) -> None:
        self.sources = {Target(name): source for name, source in (sources or {}).items()}
        for target, source in self.sources.items():
            if target not in SOURCES:
                raise ValueError(f"sources: must be of {', '.join(SOURCES)}, got {target}")
            if target not in source.targets:
                raise ValueError(f"sources: {type(source).__name__} does not estimate {target}")
        if corrector is not None and Target.CTR in self.sources:
            raise ValueError("corrector must be None if sources has a predictor of ctr")
        if not 0 < gmv_factor < np.inf:
            raise ValueError(f"gmv_factor must be > 0 and finite, got {gmv_factor}")
        self.corrector, self.gmv_factor = corrector, gmv_factor
        # Each predictor once, in the order of the targets, whatever the order of `sources`.
        self.predictors = list(
            {id(p): p for t in SOURCES if (p := self.sources.get(t)) is not None}.values()
        )
        self.privileged = any(predictor.privileged for predictor in self.predictors)
        self._requests = np.zeros((2, 0))  # log-odds of the platform's CTR, and their noise
        self._fitted_at = -np.inf  # hours; infinite if the corrector is not fitted

    def attach(self, oracle: Any) -> None:
        """Gives privileged predictors access to the truth of an episode."""
        for predictor in self.predictors:
            if predictor.privileged:
                predictor.attach(oracle)  # pyright: ignore[reportAttributeAccessIssue]

    def see(self, obs: Mapping[str, Any]) -> None:
        """Takes note of the bid requests of an observation, won or not, for the corrector."""
        if self.corrector is None:
            return
        real = np.asarray(obs["mask"]) > 0
        noise = np.asarray(obs["pctr_std"], np.float64)[real]
        new = np.stack([log_odds(np.asarray(obs["pctr"])[real]), noise])
        self._requests = np.concatenate([self._requests, new], axis=1)[:, -_KEPT_REQUESTS:]
        if np.isinf(self._fitted_at):
            self._fit_corrector(0.0)

    def partial_fit(self, window: Window) -> None:
        """Lets every predictor learn from a window, and fits the corrector anew once a day."""
        for predictor in self.predictors:
            predictor.partial_fit(window)
        if window.now_hours >= self._fitted_at + _REFIT_HOURS:
            self._fit_corrector(window.now_hours)

    def _fit_corrector(self, now_hours: float) -> None:
        logit, noise = self._requests
        if self.corrector is None or logit.size < _MIN_REQUESTS or not noise.any():
            return
        self.corrector.fit_logits(logit, noise)
        self._fitted_at = now_hours

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
        if Target.CTR not in found:
            found[Target.CTR] = self._platform_ctr(obs, real)
        for target, default in ((Target.CVR, "pcvr"), (Target.GMV, "list_price")):
            if target not in found:
                found[target] = np.array(obs[default], np.float64)[real]
        found[Target.GMV] = np.minimum(self.gmv_factor * found[Target.GMV], MAX_MONEY)
        rate = found.setdefault(Target.REFUND_RATE, np.zeros(real.stop))
        value = compose_net_value(
            {t: Estimate(m, np.zeros_like(m)) for t, m in found.items()}, margin=margin
        )
        columns = (found[Target.CTR], found[Target.CVR], rate, found[Target.GMV], value)
        return Estimates(*(np.concatenate([c, np.zeros(size - real.stop)]) for c in columns))

    def _predicted(self, impressions: Impressions, real: slice) -> dict[Target, FloatArray]:
        """Means (n,) of the real impressions, of the targets that have a predictor."""
        shown = Impressions._make(column[real] for column in impressions)
        found: dict[Target, FloatArray] = {}
        for predictor in self.predictors:
            # The oracle answers for all slots of the current tick or for none.
            means = predictor.predict(impressions if predictor.privileged else shown)
            for target, source in self.sources.items():
                if source is predictor:
                    found[target] = means[target].mean[real]
        return found

    def _platform_ctr(self, obs: Mapping[str, Any], real: slice) -> FloatArray:
        """The platform's CTR (n,), corrected as soon as the corrector knows enough."""
        ctr = np.array(obs["pctr"], np.float64)[real]
        if self.corrector is None or np.isinf(self._fitted_at):
            return ctr
        return self.corrector.correct_logits(log_odds(ctr), np.asarray(obs["pctr_std"])[real]).mean
