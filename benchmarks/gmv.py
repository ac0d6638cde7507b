"""Predictors of the GMV of converted clicks on a stream of delayed purchases, compared.

Run it with `adsim bench gmv`; what is compared, and how, is in `scenarios/gmv.py`.
"""

from functools import partial

from scenarios.bench import Bench, compare
from scenarios.gmv import PRESETS, TRUTH, choose_methods, choose_worlds
from scenarios.gmv_report import collect, print_rows, rows_of, save_figures
from scenarios.gmv_tasks import STUDY, measure_overhead

BENCH = Bench(
    name="gmv",
    study=STUDY,
    presets=PRESETS,
    choose_methods=choose_methods,
    choose_worlds=choose_worlds,
    collect=collect,
    rows_of=rows_of,
    print_rows=print_rows,
    save_figures=save_figures,
    measured="reader",
    measure_overhead=measure_overhead,
    reference=TRUTH,
)
main = partial(compare, BENCH)
