"""Runs of GMV predictors in their worlds: see `scenarios.tasks`."""

import math
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from adsim.datasets import trace
from adsim.purchaselog import PurchaseLog, from_trace, generate_purchases
from adsim.types import Estimate, FloatArray, Impressions, Predictor, Target, Window
from predictors import GmvPredictor, GmvPretraining
from predictors.gmv_metrics import GmvScores, evaluate_gmv
from predictors.purchase_stream import GmvResult, PurchaseStream, run_gmv_stream
from scenarios import tasks
from scenarios.comparison import SETUPS, Task, World, scenario_of
from scenarios.gmv import LOG_DAYS, SPLIT, TRUTH, configure, log_settings, settings_of

ERRORS = ("alpr", "log_mae", "mae", "rmse", "mape")  # metrics without an upper bound
SCORES = ("auc", "acc", *ERRORS, "log_bias")
_DTYPES: dict[str, type] = {"segment": np.int32, "click": np.int32, "purchases": np.int32}
_DTYPES |= {"gmv": np.float32, "label": np.float32}


class Truth:
    """Expected GMV of the clicks of a generated log, given its hidden effects; learns nothing."""

    targets = frozenset({Target.GMV})
    privileged = False
    trained_rows = 0

    def __init__(self, log: PurchaseLog) -> None:
        self._mean = log.gmv_truth

    def predict(self, impressions: Impressions) -> dict[Target, Estimate]:
        """E[GMV | conversion] of clicks whose ids are row numbers of the log."""
        mean = self._mean[impressions.impression_id]
        return {Target.GMV: Estimate(mean, np.zeros(mean.size))}

    def partial_fit(self, window: Window) -> Self:
        """The truth needs no learning."""
        return self


@lru_cache(maxsize=1)
def _stream(scenario: str, seed: int, clicks: int, cache: Path) -> PurchaseStream:
    """The stream of a world; set-ups share it."""
    if clicks:
        world = scenario_of(World(scenario, SETUPS[0], seed, clicks), LOG_DAYS).world
        ticks = round(24 * LOG_DAYS / world.time.tick_hours)
        return PurchaseStream(generate_purchases(world, seed, num_ticks=ticks), SPLIT)
    path = Path(scenario)
    # Clicks that cannot be are left out, and a warning says so. Nothing is published on the columns
    # that follow from others, and they are not used.
    records = trace.read(path, strict=False, check_derived=False, cache_dir=cache)
    log = from_trace(records, trace.find_cardinalities(path))
    tasks.check_span(log.click_time, SPLIT, scenario)
    return PurchaseStream(log, SPLIT)


@lru_cache(maxsize=1)
def prepare(world: World, out: Path) -> tuple[PurchaseStream, GmvPretraining]:
    """Stream and pre-trained networks of a world; the latter are kept in its folder."""
    folder = tasks.networks_folder(world, out, log_settings(world))
    stream = _stream(world.scenario, 0 if world.is_file else world.seed, world.clicks, out / "data")
    return stream, GmvPretraining(stream.history(), SPLIT, seed=world.seed, cache=folder)


def build(task: Task, stream: PurchaseStream, pretraining: GmvPretraining) -> GmvPredictor | Truth:
    """The predictor of a task, ready for its stream."""
    if task.method == TRUTH:
        return Truth(stream.log)
    cls, config = configure(task)
    predictor = cls(stream.log.cardinalities, config, seed=task.world.seed)
    predictor.fit(pretraining.history, SPLIT, pretraining=pretraining, follow=True)
    tell = getattr(predictor, "attach", None)
    if tell is not None:  # a privileged method, which is told the kind of each click
        tell(stream.log)
    return predictor


def run(predictor: Predictor, stream: PurchaseStream) -> GmvResult:
    """Lets a predictor go through a stream."""
    return run_gmv_stream(predictor, stream)


def score(result: GmvResult) -> pd.DataFrame:
    """Metrics of every segment, one row each: `SCORES`; NaN where undefined.

    With them the number of clicks, and the sums of which pooled ratios are made: predicted and
    observed GMV, currency.
    """
    bounds = np.searchsorted(result.segment, np.arange(len(result.seconds) + 1))
    rows = []
    for segment, (low, high) in enumerate(pairwise(bounds)):
        label, predicted = _amounts(result, slice(low, high))
        row: dict[str, float] = {"segment": segment, "clicks": high - low}
        row |= evaluated(label, predicted)
        row |= {"gmv_predicted": predicted.sum(), "gmv_observed": label.sum()}
        rows.append(row)
    return pd.DataFrame(rows)


def pooled(result: GmvResult) -> dict[str, float]:
    """Metrics of all rows together."""
    return evaluated(*_amounts(result, slice(None)))


def _amounts(result: GmvResult, held: slice) -> tuple[FloatArray, FloatArray]:
    """Labels and predictions of some rows."""
    return result.label[held].astype(np.float64), result.gmv[held].astype(np.float64)


def evaluated(label: FloatArray, predicted: FloatArray) -> dict[str, float]:
    """`SCORES` of N rows; all NaN without rows. Where training has diverged errors are infinite."""
    if not label.size:
        return dict.fromkeys(SCORES, math.nan)
    if not np.isfinite(predicted).all():
        return {name: math.inf if name in ERRORS else math.nan for name in SCORES}
    found: GmvScores = evaluate_gmv(label, predicted)
    return {name: getattr(found, name) for name in SCORES}


STUDY = tasks.Study(
    settings_of=settings_of,
    log_settings=log_settings,
    prepare=prepare,
    build=build,
    run=run,
    result=GmvResult,
    dtypes=_DTYPES,
    score=score,
    tuned={"alpr": "ALPR", "auc": "AUC", "acc": "ACC"},
)


def measure_overhead(task: Task, out: Path) -> tuple[float, float]:
    """Rows per second of a method in the stream, and of its training step alone."""

    def due(bare: GmvPredictor, window: Window) -> tuple[Any, Any]:
        bare.open.update(window)
        rows, features = bare.open.due()
        batch = bare.unlabelled(rows, features)
        bare.open.close()
        return rows, batch

    def train(bare: GmvPredictor, ready: tuple[Any, Any]) -> None:
        rows, batch = ready
        bare._train(bare.labelled(batch, rows), bare.rule, bare._step)

    return tasks.measure_overhead(STUDY, task, out, due, train)
