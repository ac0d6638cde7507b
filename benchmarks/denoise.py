"""Correctors of noisy CTRs, and bidders that allow for the noise, compared by what they win.

Run it with `adsim bench denoise`; what is compared, and how, is in `scenarios/denoise.py`.
"""

from scenarios.denoise_bench import compare

main = compare
