"""Click -> purchases -> refunds: outcomes and their exact expectations.

With observable logits z_v (conversion), r (refund), q (repurchase), log effect g (amount) and an
unseen intent e ~ N(0, 1) of the impression that no predictor can know:

    P(convert | click, e)    = sigmoid(z_v + a_v e)
    P(refund | purchase, e)  = sigmoid(z_r + a_r e + s x),   z_r = r + curve(P(convert))
    P(several | convert, e)  = sigmoid(q + a_n e),  then one more with constant probability
    amount / list price      = 1 (a share of the single purchases) or exp(m + g + sd x), x ~ N(0, 1)

The truth shown by the oracle integrates e out (Gauss-Hermite). Words used per impression, stream
OUTCOME: block 0 = click, convert, intent, conversion delay; block 1 = several, how many, exact;
block 2 + k (purchase k) = moment among later ones, amount, refund, refund delay.
"""

# ruff: noqa: ANN001, ANN201 - compiled functions: numba infers their types

from typing import NamedTuple

import numpy as np
from numba import njit

from adsim.config import HeadConfig, WorldConfig
from adsim.delays import DelayLaw, make_law, quantile
from adsim.effects import CURVE_AT, curve_logits, intent_integral
from adsim.rng import Stream, normal_ppf, philox, to_uniform
from adsim.types import FloatArray

_GRID_MIN, _GRID_STEPS = -16.0, 64.0  # p_convert table: logits -16 .. 16 in steps of 1/64
_MAX_SHIFT = 4.0  # delays depend on logits within this distance of the mean
# Nodes of the two integrals: relative errors below 1e-6 for loadings up to .5, 1e-5 for 1.
_INTENT_NODES, _AMOUNT_NODES = 9, 7
OUTCOME = np.uint64(Stream.OUTCOME)


class Law(NamedTuple):
    """Parameters of the funnel as the compiled loops read them."""

    p_convert: FloatArray  # (2049,) E_e[sigmoid(z + a_v e)] on the logit grid
    curve_at: FloatArray  # (5,) CVR
    curve: FloatArray  # (5,) refund logits relative to the first
    intent: FloatArray  # (3,) loadings a_v, a_r, a_n
    amount_dependence: float  # s
    exact_share: float
    log_ratio: FloatArray  # (3,) means m of single, first-of-several and later purchases
    first_sd: float
    later_sd: float
    continuation: float
    max_purchases: int
    mean_later: float  # expected later purchases of a click with several
    gmv_hours: float
    reference: FloatArray  # (2,) mean conversion and refund logits of converters and refunders
    delay_dependence: FloatArray  # (2,) conversion, refund
    conversion_delay: DelayLaw
    refund_delay: DelayLaw
    later_delay: DelayLaw
    nodes: FloatArray  # (J,) Gauss-Hermite nodes of N(0, 1) for the intent
    odds: FloatArray  # (3, J) exp(-loading x node): factors of the odds against, per response
    weights: FloatArray  # (J,)
    amount_nodes: FloatArray  # (J',) the same for the amount
    amount_weights: FloatArray  # (J',)


def normal_nodes(n: int) -> tuple[FloatArray, FloatArray]:
    """Gauss-Hermite nodes and weights (n,) for expectations under N(0, 1)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(n)
    return nodes, weights / weights.sum()


def mean_logit_of_events(rate: float, head: HeadConfig) -> float:
    """About the mean logit of the impressions with the event, given the overall rate.

    For z ~ N(m, v) the rate is about sigmoid(m + v / 2 - v rate) and the mean over events
    m + v (1 - rate), hence logit(rate) + v / 2. Delays that are centred there have the published
    curves when pooled.
    """
    variance = head.sd**2 + head.interaction_sd**2
    return float(np.log(rate / (1 - rate)) + 0.5 * variance)


def make_funnel(config: WorldConfig) -> Law:
    """The funnel's parameters from the configuration."""
    effects, purchase, refund = config.effects, config.purchase, config.refund
    nodes, weights = normal_nodes(_INTENT_NODES)
    amount = normal_nodes(_AMOUNT_NODES if refund.amount_dependence else 1)
    grid = _GRID_MIN + np.arange(int(-2 * _GRID_MIN * _GRID_STEPS) + 1) / _GRID_STEPS
    extra = np.arange(1, max(purchase.max_purchases - 1, 1))
    rate = max(refund.rate, 1e-9)
    intent = np.array(
        [
            effects.unseen_intent_conversion,
            effects.unseen_intent_refund,
            effects.unseen_intent_repurchase,
        ]
    )
    log_ratio = (purchase.single_log_ratio, purchase.first_log_ratio, purchase.later_log_ratio)
    return Law(
        p_convert=intent_integral(grid, effects.unseen_intent_conversion),
        curve_at=CURVE_AT,
        curve=curve_logits(config),
        intent=intent,
        amount_dependence=refund.amount_dependence,
        exact_share=purchase.exact_share,
        log_ratio=np.array(log_ratio),
        first_sd=purchase.first_log_sd,
        later_sd=purchase.later_log_sd,
        continuation=purchase.continuation,
        max_purchases=purchase.max_purchases,
        mean_later=float(1.0 + np.sum(purchase.continuation**extra)),
        gmv_hours=config.windows.gmv_hours,
        reference=np.array(
            [
                mean_logit_of_events(config.conversion.cvr, effects.conversion),
                mean_logit_of_events(rate, effects.refund),
            ]
        ),
        delay_dependence=np.array([config.conversion.delay_dependence, refund.delay_dependence]),
        conversion_delay=make_law(config.conversion.delay),
        refund_delay=make_law(refund.delay),
        later_delay=make_law(purchase.later_delay),
        nodes=nodes,
        odds=np.exp(-intent[:, None] * nodes),
        weights=weights,
        amount_nodes=amount[0],
        amount_weights=amount[1],
    )


@njit
def sigmoid(z):
    """1 / (1 + exp(-z)); exp may overflow to infinity, which gives 0."""
    return 1.0 / (1.0 + np.exp(-z))


@njit
def lookup(table, z):
    """Linear interpolation of a table on the logit grid (relative error below 3.1e-5)."""
    x = (z - _GRID_MIN) * _GRID_STEPS
    x = min(max(x, 0.0), table.size - 1.000001)
    j = int(x)
    return table[j] + (x - j) * (table[j + 1] - table[j])


@njit
def refund_logit(law, r, p_convert):
    """z_r = r + curve(P(convert))."""
    at, curve = law.curve_at, law.curve
    if p_convert <= at[0]:
        return r + curve[0]
    for j in range(1, at.size):
        if p_convert <= at[j]:
            weight = (p_convert - at[j - 1]) / (at[j] - at[j - 1])
            return r + curve[j - 1] + weight * (curve[j] - curve[j - 1])
    return r + curve[at.size - 1]


@njit
def delay_exponent(dependence, z, reference):
    """Exponent of the delay law of an impression with logit z."""
    return np.exp(dependence * min(max(z - reference, -_MAX_SHIFT), _MAX_SHIFT))


@njit
def tilted_refund(law, z, shift):
    """E_x[sigmoid(z + s (x + shift))]: with shift = sd, the refund rate weighted by amount.

    E[e^(sd x - sd^2 / 2) f(x)] = E[f(x + sd)] for x ~ N(0, 1).
    """
    total = 0.0
    for j in range(law.amount_nodes.size):
        x = law.amount_nodes[j] + shift
        total += law.amount_weights[j] * sigmoid(z + law.amount_dependence * x)
    return total


@njit(cache=True, nogil=True)
def expectation(law, z_v, r, g, q):
    """Truth of one click: P(convert), P(first purchase refunded | convert), and per click the
    expected GMV and net GMV in list prices.
    """  # noqa: D205 - four results, one sentence
    p_convert = lookup(law.p_convert, z_v)
    z_r = refund_logit(law, r, p_convert)
    half = 0.5 * law.first_sd * law.first_sd
    single = np.exp(law.log_ratio[0] + g + half)
    first = np.exp(law.log_ratio[1] + g + half)
    later = law.mean_later * np.exp(law.log_ratio[2] + g + 0.5 * law.later_sd * law.later_sd)
    exact, plain = law.exact_share, law.amount_dependence == 0.0
    conversion = refunded = gmv = net = 0.0
    # sigmoid(z + a e) = 1 / (1 + exp(-z) exp(-a e)), the second factor being tabulated.
    against_buy, against_return, against_several = np.exp(-z_v), np.exp(-z_r), np.exp(-q)
    for j in range(law.nodes.size):
        buy = law.weights[j] / (1.0 + against_buy * law.odds[0, j])
        several = 1.0 / (1.0 + against_several * law.odds[2, j]) if law.max_purchases > 1 else 0.0
        z = z_r + law.intent[1] * law.nodes[j]
        at_list = 1.0 / (1.0 + against_return * law.odds[1, j])
        by_count = at_list if plain else tilted_refund(law, z, 0.0)
        by_first = at_list if plain else tilted_refund(law, z, law.first_sd)
        by_later = at_list if plain else tilted_refund(law, z, law.later_sd)
        conversion += buy
        refunded += buy * (
            (1 - several) * (exact * at_list + (1 - exact) * by_count) + several * by_count
        )
        gmv += buy * ((1 - several) * (exact + (1 - exact) * single) + several * (first + later))
        net += buy * (
            (1 - several) * (exact * (1 - at_list) + (1 - exact) * single * (1 - by_first))
            + several * (first * (1 - by_first) + later * (1 - by_later))
        )
    return p_convert, refunded / conversion, gmv, net


@njit
def several_rate(law, z_v, q):
    """Truth of one click: P(more than one purchase | convert)."""
    if law.max_purchases < 2:
        return 0.0
    conversion = several = 0.0
    against_buy, against_several = np.exp(-z_v), np.exp(-q)
    for j in range(law.nodes.size):
        buy = law.weights[j] / (1.0 + against_buy * law.odds[0, j])
        conversion += buy
        several += buy / (1.0 + against_several * law.odds[2, j])
    return several / conversion


@njit
def click_outcome(law, seed, impression, time, z_v, r, g, q, list_price, when, amount, refund_at):
    """Purchases of one click, a pure function of the impression's uniforms.

    Fills `when` (K,) hours, `amount` (K,) currency and `refund_at` (K,) hours (infinity if kept)
    and returns the number of purchases.
    """
    w0 = philox(seed, OUTCOME, impression, np.uint64(0))
    e = normal_ppf(to_uniform(w0[2]))
    if to_uniform(w0[1]) >= sigmoid(z_v + law.intent[0] * e):
        return 0
    exponent = delay_exponent(law.delay_dependence[0], z_v, law.reference[0])
    conversion = law.conversion_delay
    level = to_uniform(w0[3]) ** exponent
    when[0] = time + quantile(conversion.times, conversion.shares, level)
    w1 = philox(seed, OUTCOME, impression, np.uint64(1))
    count = 1
    if law.max_purchases > 1 and to_uniform(w1[0]) < sigmoid(q + law.intent[2] * e):
        count, threshold, u = 2, law.continuation, to_uniform(w1[1])
        while count < law.max_purchases and u < threshold:
            count += 1
            threshold *= law.continuation
    z_r = refund_logit(law, r, lookup(law.p_convert, z_v))
    refund_exponent = delay_exponent(law.delay_dependence[1], z_r, law.reference[1])
    exact = count == 1 and to_uniform(w1[2]) < law.exact_share
    for k in range(count):
        w = philox(seed, OUTCOME, impression, np.uint64(2 + k))
        x = 0.0 if exact else normal_ppf(to_uniform(w[1]))
        kind = 2 if k else (1 if count > 1 else 0)
        sd = law.later_sd if k else law.first_sd
        amount[k] = list_price * (1.0 if exact else np.exp(law.log_ratio[kind] + g + sd * x))
        if k:
            later = law.later_delay
            left = time + law.gmv_hours - when[0]
            moment = when[0] + left * quantile(later.times, later.shares, to_uniform(w[0]))
            j = k  # insertion keeps purchases in order of time
            while j > 1 and when[j - 1] > moment:
                when[j] = when[j - 1]
                j -= 1
            when[j] = moment
        refunded = to_uniform(w[2]) < sigmoid(z_r + law.intent[1] * e + law.amount_dependence * x)
        delay = to_uniform(w[3]) ** refund_exponent
        refund = law.refund_delay
        refund_at[k] = quantile(refund.times, refund.shares, delay) if refunded else np.inf
    for k in range(count):  # delays were drawn per purchase; its moment is known only now
        refund_at[k] += when[k]
    return count
