"""Second-price auctions with log-odds from mixtures, as DenoiseBid's synthetic experiment."""

from typing import NamedTuple

import numpy as np

from predictors.bid_programme import Auctions, Limits
from predictors.logit_mixture import LogitMixture

CTR_WEIGHT, CTR_MEAN, CTR_SD = (0.6, 0.2, 0.2), (-3.0, -2.5, -1.0), (0.3, 0.3, 0.4)
CVR_WEIGHT, CVR_MEAN, CVR_SD = (0.6, 0.4), (-2.0, -1.0), (0.7, 0.4)
TRUE_PRIOR = LogitMixture(
    np.array(CTR_WEIGHT), np.array(CTR_MEAN)[:, None], np.square(CTR_SD)[:, None, None]
)


class Drawn(NamedTuple):
    ctr: np.ndarray  # (T,)
    cvr: np.ndarray  # (T,)
    price: np.ndarray  # (T,)
    noise: np.ndarray  # (2, T) standard normal

    @property
    def truth(self):
        return Auctions(self.price, self.ctr, self.ctr * self.cvr)

    def limits(self, budget_share=0.2, cpc_share=0.2):
        spend = self.price.sum()
        return Limits(budget_share * spend, cpc_share * spend / self.ctr.sum())

    def noisy_logit(self, noise):
        return np.log(self.ctr / (1 - self.ctr)) + noise * self.noise[0]


def sigmoid(logit):
    return 1 / (1 + np.exp(-logit))


def _mixture(rng, count, weight, mean, sd):
    part = rng.choice(len(weight), count, p=weight)
    return np.array(mean)[part] + np.array(sd)[part] * rng.standard_normal(count)


def draw(count, seed):
    rng = np.random.default_rng(seed)
    click = _mixture(rng, count, CTR_WEIGHT, CTR_MEAN, CTR_SD)
    conversion = _mixture(rng, count, CVR_WEIGHT, CVR_MEAN, CVR_SD)
    price = 100 * np.exp(rng.normal(-1, 1, count))
    return Drawn(sigmoid(click), sigmoid(conversion), price, rng.standard_normal((2, count)))
