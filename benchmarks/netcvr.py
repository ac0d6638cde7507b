"""Predictors of the net conversion rate on a stream of delayed feedback, compared.

Run it with `adsim bench netcvr`; what is compared, and how, is in `scenarios/netcvr.py`.
"""

from functools import partial

from scenarios.bench import Bench, compare
from scenarios.netcvr import PRESETS, choose_methods, choose_worlds
from scenarios.netcvr_report import collect, print_rows, rows_of, save_figures
from scenarios.netcvr_tasks import STUDY, measure_overhead

BENCH = Bench(
    name="netcvr",
    study=STUDY,
    presets=PRESETS,
    choose_methods=choose_methods,
    choose_worlds=choose_worlds,
    collect=collect,
    rows_of=rows_of,
    print_rows=print_rows,
    save_figures=save_figures,
    measured="tesla",
    measure_overhead=measure_overhead,
)
main = partial(compare, BENCH)
