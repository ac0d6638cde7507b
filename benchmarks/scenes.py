"""Predictors for several scenes of unequal traffic on a stream, compared.

Run it with `adsim bench scenes`; what is compared, and how, is in `scenarios/scenes.py`.
"""

from functools import partial

from scenarios.bench import Bench, compare
from scenarios.scenes import FIRST, PRESETS, choose_methods, choose_worlds
from scenarios.scenes_figures import save_figures
from scenarios.scenes_report import collect, print_rows, rows_of
from scenarios.scenes_tasks import STUDY, measure_overhead

BENCH = Bench(
    name="scenes",
    study=STUDY,
    presets=PRESETS,
    choose_methods=choose_methods,
    choose_worlds=choose_worlds,
    collect=collect,
    rows_of=rows_of,
    print_rows=print_rows,
    save_figures=save_figures,
    measured=FIRST,
    measure_overhead=measure_overhead,
)
main = partial(compare, BENCH)
