"""What is published about the CASCADE click log: the one place of these numbers.

Source: TESLA, M. Luo et al., "Modeling Cascaded Delay Feedback for Online Net Conversion Rate
Prediction: Benchmark, Insights and Solutions", WWW 2026, arXiv:2601.19965. Values of figures are
read off plots: a few per cent of the axis. Delays run from the click to its conversion and from
the conversion to its refund, within 3 days each.

The publication disagrees with itself in two ways. Its tables of results imply a refund rate of
.245, its figures one of .5: two regimes. And its user groups imply a mean conversion delay of
10.6 h and a mean refund delay of 5.0 h, its cumulative curves 15.0 h and 8.4 h: the level is
taken from the curves, what distinguishes the groups from the groups.
"""

from typing import NamedTuple

from adsim.config import RefundConfig
from adsim.curves import CONVERSION_DELAY, HOURLY_CVR, REFUND_DELAY

__all__ = ["CONVERSION_DELAY", "HOURLY_CVR", "REFUND_DELAY"]  # fig. 8, fig. 2, fig. 8

WINDOW_HOURS = 72.0  # both attribution windows


class Regime(NamedTuple):
    """Mean rates in one part of the publication."""

    name: str
    cvr: float  # conversions per click
    refund_rate: float  # refunds per conversion
    net_cvr: float  # conversions that are kept, per click


# TESLA, fig. 2: NetCVR by hour of the day, 0..23 (mean .0338).
HOURLY_NET_CVR = (
    *(0.0320, 0.0309, 0.0305, 0.0304, 0.0302, 0.0323, 0.0328, 0.0329),
    *(0.0339, 0.0323, 0.0342, 0.0349, 0.0349, 0.0349, 0.0350, 0.0349),
    *(0.0355, 0.0357, 0.0352, 0.0364, 0.0354, 0.0360, 0.0368, 0.0331),
)
REGIMES = (
    Regime("tables", cvr=0.066, refund_rate=0.245, net_cvr=0.050),
    Regime("figures", cvr=0.07, refund_rate=0.5, net_cvr=sum(HOURLY_NET_CVR) / 24),
)
# TESLA, fig. 3: items by predicted CVR, [0, .2) [.2, .4) [.4, .6) [.6, .8) [.8, 1]. NetCVR over
# 1 - refund rate says that the items' mean CVR in the bins is .10 .28 .49 .68 1.00. Clicks of a
# mean CVR of .066 have less than that in the first bin, and so have their NetCVRs.
REFUND_RATE_BY_CVR = RefundConfig().curve
NET_CVR_BY_CVR = (0.050, 0.160, 0.318, 0.469, 0.651)
# TESLA: mean and standard deviation, hours, of the delays of users in four groups, from the
# lowest to the highest CVR (conversion) or refund rate (refund).
CONVERSION_DELAY_BY_GROUP = ((15.1, 19.6), (11.4, 18.3), (8.3, 16.4), (7.7, 16.8))
REFUND_DELAY_BY_GROUP = ((8.6, 17.8), (4.1, 12.0), (4.6, 10.2), (2.6, 7.7))
# TESLA, tables of results: AUC of the model that learns from final labels at once, mean over the
# segments of the stream. The truth ranks better than any model.
ORACLE_AUC = (0.756, 0.764)  # CVR, NetCVR


def nearest_regime(refund_rate: float) -> Regime:
    """The regime whose refund rate is nearest to that of a log."""
    return min(REGIMES, key=lambda regime: abs(regime.refund_rate - refund_rate))
