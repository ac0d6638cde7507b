"""What noise of the CTR costs a bidder, and what correcting for it brings back: the runs.

Four regimes, all of second-price auctions whose prices do not react, with CVRs that are known:

budget: the programme of `predictors.bid_programme` with a budget only, solved on 1,000 auctions
    with what a method takes for their CTRs, then bid by on the same auctions.
cpc: the same with a cap on the cost per click, too. In these worlds the cap binds, not the budget.
online: 10,000 auctions one by one; the price of the budget is moved by what each of them cost, and
    nothing is bought that the rest of the budget does not pay.
heteroscedastic: as budget, but half of the auctions have little noise and half much.

All methods see the same auctions and the same noise. Values are compared with those of a bidder
that knows the CTRs; online with the most that the budget buys in hindsight.

Sources: I. Zhigalskii et al., UAI 2026, arXiv:2603.01825 (DenoiseBid): worlds, offline programme
and metrics; S. Balseiro, H. Lu, V. Mirrokni, "The Best of Many Worlds", Operations Research 71(1),
2023: the on-line price of the budget.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from adsim.types import BoolArray, Estimate, FloatArray
from agents.pacing import mirror_step
from predictors.bid_programme import (
    Auctions,
    Limits,
    Outcome,
    plain_bids,
    score_bids,
    solve_duals,
)
from predictors.denoise_bid import DenoiseBid
from predictors.risk_bid import RiskBid
from predictors.robust_bid import RobustBid
from scenarios.noisy_auctions import SYNTHETIC, TRUE_PRIOR, NoisyAuctions, Prices, draw

BUDGET_SHARE, CPC_SHARE = 0.2, 0.2  # DenoiseBid: k_B and k_C
AUCTIONS, ONLINE_AUCTIONS = 1_000, 10_000  # of a campaign
FIT_ROWS = 100  # predictions per component that a prior is fitted on: DenoiseBid, 100 K
# On-line campaigns are longer, and a prior of 200 rows costs .006 of the value at noise 2.
ONLINE_FIT_ROWS = 500
_TOGETHER = 20  # campaigns paced side by side: 32 MB of values
START_ROWS = 200  # auctions, known beforehand, at whose median value / price the pacing starts
UNEQUAL_NOISE = (0.2, 2.0)  # log-odds; of the halves of the auctions in regime heteroscedastic
AVERSION = {"risk_01": 0.1, "risk_05": 0.5}  # DenoiseBid's two RiskBids

PLAIN, BEST = "plain", "denoise_k2"
METHODS = (PLAIN, "denoise_k1", BEST, "oracle_prior", "robust", *AVERSION)
"""plain: takes predictions for the truth. denoise_k1, denoise_k2: prior of one or two components.
oracle_prior: the true prior. robust: RobustBid, told the true distance. risk_01, risk_05: RiskBid,
aversion .1 and .5, which knows no cap."""
_UNEQUAL = (PLAIN, "denoise_rms", BEST, "oracle_prior")  # denoise_rms: one noise for all
METHODS_OF = {
    "budget": METHODS,
    "cpc": METHODS,
    "online": tuple(name for name in METHODS if name != "robust"),  # it buys parts of auctions
    "heteroscedastic": _UNEQUAL,
}
REGIMES = tuple(METHODS_OF)

GRID = tuple(float(f"{10**power:.4g}") for power in np.linspace(-2, 1, 10))
"""Standard deviations of the noise, log-odds: DenoiseBid's grid."""


class Preset(NamedTuple):
    """What is run unless options say otherwise."""

    seeds: int
    sigmas: dict[str, tuple[float, ...]]  # by regime


PRESETS = {
    "quick": Preset(5, {"budget": GRID, "cpc": GRID, "online": (0.1, 0.5, 1.0, 2.0, 10.0)}),
    "full": Preset(20, {"budget": GRID, "cpc": GRID, "online": tuple(sorted({*GRID, 0.5, 2.0}))}),
}


class Trial(NamedTuple):
    """What a method won in one campaign."""

    source: str  # of the prices: synthetic, log, landscape
    prices: str  # synthetic, or the campaign
    regime: str
    sigma: float  # log-odds; heteroscedastic: the root of the mean square
    method: str
    seed: int
    value_ratio: float  # true conversions / those of the bidder that knows the CTRs
    spend_ratio: float  # spend / budget
    cpc_ratio: float  # cost per click / cap; 0 without clicks, NaN without a cap
    at_floor: bool  # the fitted prior had a variance at its floor


class Step(NamedTuple):
    """A part of the runs: one seed, or online up to 20 of them."""

    regime: str
    sigma: float  # log-odds
    seeds: tuple[int, ...]


class Forecast(NamedTuple):
    """What a method takes for the CTRs."""

    ctr: FloatArray  # (T,)
    at_floor: bool = False  # see `Trial`


def unequal_noise(count: int) -> FloatArray:
    """Standard deviations (T,) of regime heteroscedastic, in turn; rates and prices do not care."""
    return np.resize(UNEQUAL_NOISE, count)


def plan(
    regimes: Sequence[str], sigmas: dict[str, tuple[float, ...]], seeds: Sequence[int]
) -> list[Step]:
    """The steps of the regimes; `sigmas` by regime, heteroscedastic needs none."""
    steps: list[Step] = []
    for regime in regimes:
        if regime == "heteroscedastic":
            rms = float(np.sqrt(np.mean(np.square(UNEQUAL_NOISE))))
            steps += [Step(regime, rms, (seed,)) for seed in seeds]
        elif regime == "online":
            groups = [tuple(seeds[at : at + _TOGETHER]) for at in range(0, len(seeds), _TOGETHER)]
            steps += [Step(regime, sigma, group) for sigma in sigmas[regime] for group in groups]
        else:
            steps += [Step(regime, sigma, (seed,)) for sigma in sigmas[regime] for seed in seeds]
    return steps


def run_step(step: Step, prices: Sequence[Prices] = (SYNTHETIC,)) -> Iterator[Trial]:
    """The trials of a step, for each kind of prices.

    Raises:
        ValueError: a log has too few auctions.
    """
    run = _run_online if step.regime == "online" else _run_offline
    yield from run(step, prices)


def forecasts(
    auctions: NoisyAuctions, noise: FloatArray, methods: Sequence[str], fit_rows: int = FIT_ROWS
) -> dict[str, Forecast]:
    """What each method takes for the CTRs; `robust`, which has no such thing, is left out.

    Args:
        auctions: T of them.
        noise: (T,) standard deviation, log-odds; known to all methods.
        methods: names.
        fit_rows: predictions per component, the first ones, that priors are fitted on.
    """
    logit = auctions.noisy_logit(noise)
    plain, found = expit(logit), {}
    for name in methods:
        if name == PLAIN:
            found[name] = Forecast(plain)
        elif name in AVERSION:
            std = noise * plain * (1 - plain)  # DenoiseBid: delta method
            found[name] = Forecast(RiskBid(AVERSION[name]).correct(Estimate(plain, std)).mean)
        elif name == "oracle_prior":
            model = DenoiseBid()
            model.prior = TRUE_PRIOR
            found[name] = Forecast(model.correct_logits(logit, noise).mean)
        elif name == "denoise_rms":
            rms = np.full_like(noise, np.sqrt(np.mean(noise**2)))
            found[name] = _denoised(logit, rms, 2, fit_rows)
        elif name != "robust":
            found[name] = _denoised(logit, noise, 1 if name == "denoise_k1" else 2, fit_rows)
    return found


def _denoised(logit: FloatArray, noise: FloatArray, components: int, fit_rows: int) -> Forecast:
    rows, model = fit_rows * components, DenoiseBid(components)
    with warnings.catch_warnings():
        # Told by `at_floor`: with few rows and much noise it is luck, the noise is right.
        warnings.filterwarnings("ignore", "the fitted law", RuntimeWarning)
        model.fit_logits(logit[:rows], noise[:rows])
    return Forecast(model.correct_logits(logit, noise).mean, model.prior.at_floor)


def _run_offline(step: Step, prices: Sequence[Prices]) -> Iterator[Trial]:
    regime, sigma, (seed,) = step
    methods = METHODS_OF[regime]
    drawn = draw(AUCTIONS, seed)
    unequal = regime == "heteroscedastic"
    noise = unequal_noise(AUCTIONS) if unequal else np.full(AUCTIONS, sigma)
    seen = forecasts(drawn, noise, methods)
    for kind in prices:
        auctions = draw(AUCTIONS, seed, kind)
        capped = regime == "cpc"
        limits = auctions.limits(BUDGET_SHARE, CPC_SHARE if capped else np.inf)
        best = score_bids(plain_bids(auctions.truth, limits)[0], auctions.truth).conversions
        for name in methods:
            if name == "robust":
                found = _robust_outcome(auctions, seen[PLAIN].ctr, limits)
            else:
                ctr = seen[name].ctr
                known = Limits(limits.budget) if name in AVERSION else limits
                bids, _ = plain_bids(Auctions(auctions.price, ctr, ctr * auctions.cvr), known)
                found = score_bids(bids, auctions.truth)
            use = (found.spend / limits.budget, found.cpc / limits.cpc if capped else np.nan)
            key = (kind.source, kind.name, regime, sigma, name, seed)
            yield Trial(*key, found.conversions / best, *use, name in seen and seen[name].at_floor)


def _robust_outcome(auctions: NoisyAuctions, ctr: FloatArray, limits: Limits) -> Outcome:
    """The purchase of RobustBid, parts of auctions included, if the radius is the true distance.

    DenoiseBid's comparison hands it that distance. Its bids refuse what the purchase takes in part.
    """
    radius = float(np.linalg.norm(ctr - auctions.ctr))
    share = RobustBid(radius).fit(auctions.price, ctr, auctions.cvr, limits).solution.share
    price, click, value = auctions.truth
    return Outcome(float(share @ value), float(share @ click), float(share @ price))


def _run_online(step: Step, prices: Sequence[Prices]) -> Iterator[Trial]:
    regime, sigma, seeds = step
    methods, noise = METHODS_OF[regime], np.full(ONLINE_AUCTIONS, sigma)
    values, floors = [], []
    for seed in seeds:
        drawn = draw(ONLINE_AUCTIONS, seed)
        seen = forecasts(drawn, noise, methods, ONLINE_FIT_ROWS)
        values.append([seen[name].ctr * drawn.cvr for name in methods])
        floors.append([seen[name].at_floor for name in methods])
    value = np.moveaxis(np.array(values), 2, 0).copy()  # (T, seeds, methods)
    for kind in prices:
        campaigns = [draw(ONLINE_AUCTIONS, seed, kind) for seed in seeds]
        limits = [auctions.limits(BUDGET_SHARE, np.inf) for auctions in campaigns]
        price = np.stack([auctions.price for auctions in campaigns], axis=1)
        won = pace(value, price, np.array([limit.budget for limit in limits]))
        for place, seed in enumerate(seeds):
            truth = campaigns[place].truth
            best = solve_duals(truth, limits[place]).objective
            gained, spent = truth.value @ won[:, place], truth.price @ won[:, place]
            for column, name in enumerate(methods):
                key = (kind.source, kind.name, regime, sigma, name, seed)
                use = (float(gained[column]) / best, float(spent[column]) / limits[place].budget)
                yield Trial(*key, *use, np.nan, floors[place][column])


def pace(value: FloatArray, price: FloatArray, budget: FloatArray) -> BoolArray:
    """Bids value / p in auctions one by one, and moves p, the price of the budget, by the spend.

    An auction that costs more than is left of the budget is not won, nor one that is worth nothing.
    The start is the median of value / price over those of the first `START_ROWS` auctions that are
    worth something.

    Args:
        value: (T, seeds, methods) conversions per impression as a method sees them.
        price: (T, seeds) to beat, currency per impression, > 0.
        budget: (seeds,) currency.

    Returns:
        Whether won, (T, seeds, methods).
    """
    count = len(value)
    rate, step = budget[:, None] / count, count**-0.5
    ratio = value[:START_ROWS] / price[:START_ROWS, :, None]
    # A start at 0, where RiskBid takes more than half for worthless, would stay there.
    dual = np.nanmedian(np.where(ratio > 0, ratio, np.nan), axis=0)
    left = np.broadcast_to(budget[:, None], dual.shape).copy()
    won = np.zeros(value.shape, bool)
    for t in range(count):
        cost = price[t][:, None]
        won[t] = (value[t] >= dual * cost) & (value[t] > 0) & (cost <= left)
        spend = np.where(won[t], cost, 0.0)
        left -= spend
        # Balseiro, Lu & Mirrokni 2023, with the gradient in units of the rate
        dual = mirror_step(dual, (rate - spend) / rate, step, "entropy")
    return won
