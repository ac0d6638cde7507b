"""Second-price auctions whose CTRs and CVRs are known up to noise on the log-odds.

The synthetic experiment of DenoiseBid: log-odds are drawn from Gaussian mixtures, prices from a
lognormal law, independently. Prices of real auctions can take the place of the latter.

Source: I. Zhigalskii et al., "Uncertainty Quantification of Click and Conversion Estimates for the
Autobidding", UAI 2026, arXiv:2603.01825: the constants of their published notebooks.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from adsim.datasets.ipinyou import campaign_files, read_auction_log, read_info
from adsim.rng import generator
from adsim.types import FloatArray
from predictors.bid_programme import Auctions, Limits
from predictors.logit_mixture import LogitMixture

# Weights, means and standard deviations of the mixtures, log-odds.
CTR_WEIGHT, CTR_MEAN, CTR_SD = (0.6, 0.2, 0.2), (-3.0, -2.5, -1.0), (0.3, 0.3, 0.4)
CVR_WEIGHT, CVR_MEAN, CVR_SD = (0.6, 0.4), (-2.0, -1.0), (0.7, 0.4)
PRICE_SCALE, PRICE_MEAN, PRICE_SD = 100.0, -1.0, 1.0  # price = 100 x LogNormal(-1, 1), mean 60.65
TRUE_PRIOR = LogitMixture(
    np.array(CTR_WEIGHT), np.array(CTR_MEAN)[:, None], np.square(CTR_SD)[:, None, None]
)
"""The law of the true log-odds of the CTR."""
LOG_CAMPAIGN = "2997"  # of iPinYou: the one whose auctions are public in their order

_RATES, _PRICES = 1, 2  # streams of a seed


class Prices(NamedTuple):
    """Where prices come from."""

    source: str = "synthetic"  # synthetic; log: auctions in their order; landscape: a histogram
    name: str = "synthetic"  # or the campaign
    price: FloatArray | None = None  # (N,) > 0, currency per impression; of log and landscape
    weight: FloatArray | None = None  # (N,) > 0, of a landscape: how often each price occurred
    left_out: int = 0  # auctions at a price of 0, which everybody wins: not among those above


SYNTHETIC = Prices()


class NoisyAuctions(NamedTuple):
    """The truth about T auctions, and what their predictions will be off by."""

    ctr: FloatArray  # (T,) clicks per impression
    cvr: FloatArray  # (T,) conversions per click
    price: FloatArray  # (T,) to beat, currency per impression, > 0
    noise: FloatArray  # (2, T) standard normal, of CTR and of CVR

    @property
    def truth(self) -> Auctions:
        """The auctions as somebody sees them who knows all."""
        return Auctions(self.price, self.ctr, self.ctr * self.cvr)

    def limits(self, budget_share: float = 0.2, cpc_share: float = 0.2) -> Limits:
        """Budget and cap on the cost per click, as shares of those of buying everything.

        DenoiseBid's B = k_B sum w and C = k_C sum w / sum a, 0.2 there; infinity means no limit.
        """
        spend = float(self.price.sum())
        return Limits(budget_share * spend, cpc_share * spend / float(self.ctr.sum()))

    def noisy_logit(self, noise: FloatArray | float) -> FloatArray:
        """Predicted log-odds (T,) of the CTR; `noise` (T,) or scalar: standard deviation >= 0."""
        return logit(self.ctr) + noise * self.noise[0]


def draw(count: int, seed: int, prices: Prices = SYNTHETIC) -> NoisyAuctions:
    """Auctions; those of one seed and count have the same rates and noise, whatever the prices.

    Args:
        count: T >= 1.
        seed: >= 0.
        prices: where prices come from.

    Raises:
        ValueError: the log has fewer than `count` auctions.
    """
    rng = generator(seed, _RATES)
    click = _mixture(rng, count, CTR_WEIGHT, CTR_MEAN, CTR_SD)
    conversion = _mixture(rng, count, CVR_WEIGHT, CVR_MEAN, CVR_SD)
    noise = rng.standard_normal((2, count))
    return NoisyAuctions(expit(click), expit(conversion), _draw_prices(prices, count, seed), noise)


def _mixture(
    rng: np.random.Generator,
    count: int,
    weight: tuple[float, ...],
    mean: tuple[float, ...],
    sd: tuple[float, ...],
) -> FloatArray:
    part = rng.choice(len(weight), count, p=weight)
    return np.array(mean)[part] + np.array(sd)[part] * rng.standard_normal(count)


def _draw_prices(prices: Prices, count: int, seed: int) -> FloatArray:
    """(T,): a log's consecutive auctions from a random place on, a landscape's at random."""
    rng = generator(seed, _PRICES)
    if prices.price is None:
        return PRICE_SCALE * np.exp(rng.normal(PRICE_MEAN, PRICE_SD, count))
    if prices.weight is not None:
        return rng.choice(prices.price, count, p=prices.weight / prices.weight.sum())
    if prices.price.size < count:
        raise ValueError(f"log {prices.name}: needs {count} auctions, has {prices.price.size}")
    start = int(rng.integers(prices.price.size - count + 1))
    return prices.price[start : start + count]


def read_prices(folder: Path) -> list[Prices]:
    """The log of campaign 2997, and the landscape of every campaign, of an iPinYou folder.

    Args:
        folder: with `2997.test.theta.txt.gz` and `<campaign>.info.json`, or its parent; see
            `adsim.datasets.ipinyou`. Prices are in 1/1000 of the log's currency.

    Raises:
        FileNotFoundError: no such folder, or it lacks the log or its totals.
        ValueError: a file is malformed, or without a price above 0.
    """
    log_file, info_file = campaign_files(folder, LOG_CAMPAIGN)
    paid = read_auction_log(log_file).price
    found = [Prices("log", LOG_CAMPAIGN, paid[paid > 0], None, int((paid == 0).sum()))]
    for path in sorted(info_file.parent.glob("*.info.json")):
        info = read_info(path)
        price = np.flatnonzero(info.price_counts)
        price = price[price > 0].astype(np.float64)
        weight = info.price_counts[price.astype(np.int64)].astype(np.float64)
        free = int(info.price_counts[0])
        found.append(Prices("landscape", info.campaign, price, weight, free))
    for prices in found:
        if prices.price is None or not prices.price.size:
            raise ValueError(f"{folder}: {prices.source} {prices.name} has no price above 0")
    return found
