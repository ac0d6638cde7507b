"""Published curves that the defaults of the simulated world are calibrated to."""

# TESLA, fig. 2: CVR by hour of the day, 0..23 (mean .0683).
HOURLY_CVR = (
    *(0.0686, 0.0667, 0.0631, 0.0619, 0.0604, 0.0654, 0.0667, 0.0679),
    *(0.0701, 0.0671, 0.0682, 0.0695, 0.0701, 0.0689, 0.0695, 0.0696),
    *(0.0708, 0.0704, 0.0699, 0.0721, 0.0705, 0.0716, 0.0723, 0.0670),
)
# READER, fig. 2: mean GMV of a converted click by hour of the day, 0..23, currency.
HOURLY_GMV = (
    *(421.5, 407.5, 392.3, 385.3, 367.5, 355.0, 381.6, 402.8),
    *(409.9, 413.6, 411.7, 407.8, 405.9, 403.8, 397.1, 398.0),
    *(395.5, 398.9, 402.0, 405.7, 404.9, 383.4, 370.3, 340.5),
)
# Unpublished: a two-peak day (noon, evening), relative to its mean. Free choice.
HOURLY_TRAFFIC = (
    *(0.55, 0.36, 0.25, 0.20, 0.20, 0.27, 0.45, 0.70, 0.92, 1.08, 1.16, 1.22),
    *(1.30, 1.24, 1.16, 1.14, 1.15, 1.18, 1.28, 1.48, 1.68, 1.72, 1.42, 0.89),
)
# Unpublished: Monday..Sunday, relative to the mean. Free choice.
DAILY_TRAFFIC = (0.97, 0.96, 0.97, 0.98, 1.00, 1.06, 1.06)

# TESLA, fig. 8: (hours, share of delays below it) within the 72 h attribution window.
CONVERSION_DELAY = (
    *((1 / 60, 0.03), (0.15, 0.225), (0.24, 0.27), (0.5, 0.345), (1.0, 0.40), (3.0, 0.48)),
    *((3.9, 0.50), (6.0, 0.54), (12.0, 0.62), (24.0, 0.74), (48.0, 0.89), (72.0, 1.0)),
)
REFUND_DELAY = (
    *((1 / 60, 0.28), (0.15, 0.505), (0.24, 0.545), (0.5, 0.60), (1.0, 0.64), (3.0, 0.72)),
    *((3.9, 0.73), (6.0, 0.755), (12.0, 0.805), (24.0, 0.865), (48.0, 0.925), (72.0, 1.0)),
)
# READER, fig. 3 gives cumulative GMV only; free choice consistent with its daily steps:
# (share of the time left until 168 h, share of later purchases before it).
REPURCHASE_DELAY = (
    *((0.002, 0.08), (0.006, 0.14), (0.03, 0.22), (0.143, 0.38), (0.286, 0.53), (0.429, 0.66)),
    *((0.571, 0.78), (0.714, 0.87), (0.857, 0.94), (1.0, 1.0)),
)
