"""What is published about the TRACE log of converted clicks: the one place of these numbers.

Source: READER, X. Li et al., "Delayed Feedback Modeling for Post-Click Gross Merchandise Volume
Prediction: Benchmark, Insights and Approaches", WWW 2026, arXiv:2601.20307. Curves and quantiles
were measured in its vector graphics: about .3 of the plotted unit.

The GMV of a click is what its purchases within 7 days cost. Index k of the cumulative curve is
read as the end of the hour from k to k + 1 h after the click (its 168 points end with 100 %), and
the curve as the mean over the clicks of each one's share; the publication says neither.
"""

from adsim.curves import HOURLY_GMV

__all__ = ["HOURLY_GMV"]  # fig. 2: mean GMV by hour of the click, currency

WINDOW_HOURS = 168
REPURCHASE_SHARE = 0.5355  # of the clicks have more than one purchase
ROUTER_AUC = 0.80  # of the model of P(more than one purchase); the publication says above .80
# READER, fig. 3: (k, % of the final GMV seen), hourly up to 24, then every 6 hours.
CUMULATIVE = (
    *((0, 40.9), (1, 44.3), (2, 46.3), (3, 47.9), (4, 49.1), (5, 50.2), (6, 51.1), (7, 52.0)),
    *((8, 52.8), (9, 53.7), (10, 54.5), (11, 55.2), (12, 56.0), (13, 56.6), (14, 57.2)),
    *((15, 57.8), (16, 58.3), (17, 58.8), (18, 59.3), (19, 59.8), (20, 60.3), (21, 60.9)),
    *((22, 61.5), (23, 62.2), (24, 62.9), (30, 65.7), (36, 67.8), (42, 69.5), (48, 71.8)),
    *((54, 74.2), (60, 76.1), (66, 77.5), (72, 79.9), (78, 82.1), (84, 83.7), (90, 85.0)),
    *((96, 86.9), (102, 88.5), (108, 89.7), (114, 90.8), (120, 92.2), (126, 93.5), (132, 94.5)),
    *((138, 95.4), (144, 96.6), (150, 97.6), (156, 98.5), (162, 99.2), (167, 100.0)),
)
# READER, fig. 4: quantiles of log(GMV) of clicks with one purchase and with more, and the mean
# GMV that its bins imply.
LEVELS = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)
SINGLE_LOG_GMV = (1.57, 2.67, 3.15, 3.96, 4.75, 5.49, 6.17, 6.67, 7.75)
REPURCHASE_LOG_GMV = (2.34, 3.33, 3.85, 4.65, 5.41, 6.20, 6.97, 7.54, 8.71)
MEAN_GMV = (243.0, 551.0)
