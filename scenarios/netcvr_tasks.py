"""Runs of NetCVR predictors in their worlds: see `scenarios.tasks`."""

from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adsim.clicklog import from_records, generate
from adsim.datasets import cascade
from adsim.types import FloatArray, Window
from predictors import NetCVRPredictor, Pretraining
from predictors.delivery import RULES
from predictors.metrics import evaluate
from predictors.stream import LogStream, StreamResult, run_stream
from scenarios import tasks
from scenarios.comparison import SETUPS, Task, World, scenario_of
from scenarios.netcvr import LOG_DAYS, SPLIT, configure, log_settings, settings_of

_DTYPES = {"segment": np.int32, "click": np.int32}
_DTYPES |= dict.fromkeys(("cvr", "net_cvr", "refund_rate"), np.float32)


@lru_cache(maxsize=1)
def _stream(scenario: str, seed: int, clicks: int, cache: Path) -> LogStream:
    """The stream of a world; set-ups share it."""
    if clicks:
        world = scenario_of(World(scenario, SETUPS[0], seed, clicks), LOG_DAYS).world
        ticks = round(24 * LOG_DAYS / world.time.tick_hours)
        return LogStream(generate(world, seed, num_ticks=ticks), SPLIT)
    path = Path(scenario)
    # Published logs hold a few impossible events; they count as missing, and a warning says so.
    records = cascade.read(path, strict=False, cache_dir=cache)
    log = from_records(records, cascade.find_cardinalities(path))
    tasks.check_span(log.click_time, SPLIT, scenario)
    return LogStream(log, SPLIT)


@lru_cache(maxsize=1)
def prepare(world: World, out: Path) -> tuple[LogStream, Pretraining]:
    """Stream and pre-trained networks of a world; the latter are kept in its folder."""
    folder = tasks.networks_folder(world, out, log_settings(world))
    stream = _stream(world.scenario, 0 if world.is_file else world.seed, world.clicks, out / "data")
    return stream, Pretraining(stream.history(), SPLIT, seed=world.seed, cache=folder)


def build(task: Task, stream: LogStream, pretraining: Pretraining) -> NetCVRPredictor:
    """The predictor of a task, ready for its stream."""
    cls, config = configure(task)
    predictor = cls(stream.log.cardinalities, config, seed=task.world.seed)
    return predictor.fit(pretraining.history, SPLIT, pretraining=pretraining, follow=True)


def run(predictor: NetCVRPredictor, stream: LogStream) -> StreamResult:
    """Lets a predictor go through a stream."""
    return run_stream(predictor, stream, predictor.config.windows)


def score(result: StreamResult) -> pd.DataFrame:
    """Metrics of every segment, one row each; NaN where undefined.

    `{cvr,netcvr}_{auc,prauc,nll,pcoc}`, the number of clicks, and the sums of which pooled ratios
    are made: predicted and observed conversions, net conversions, and refunds of conversions.
    """
    labels = {"cvr": result.y, "netcvr": result.y - result.z}
    predictions = {"cvr": result.cvr, "netcvr": result.net_cvr}
    bounds = np.searchsorted(result.segment, np.arange(len(result.seconds) + 1))
    rows = []
    for segment, (low, high) in enumerate(pairwise(bounds)):
        held = slice(low, high)
        row: dict[str, float] = {"segment": segment, "clicks": high - low}
        for name, label in labels.items():
            predicted = predictions[name][held].astype(np.float64)
            row |= _metrics(name, label[held], predicted)
            row[f"{name}_predicted"] = predicted.sum()
            row[f"{name}_observed"] = label[held].sum()
        converted = result.y[held] == 1
        row["refund_predicted"] = result.refund_rate[held][converted].sum(dtype=np.float64)
        row["refund_observed"] = result.z[held].sum()
        rows.append(row)
    return pd.DataFrame(rows)


def _metrics(name: str, labels: np.ndarray, predicted: FloatArray) -> dict[str, float]:
    """All NaN without rows. Where training has diverged the NLL is infinite."""
    values = dict.fromkeys(("auc", "prauc", "nll", "pcoc"), np.nan)
    if not np.isfinite(predicted).all():
        values["nll"] = np.inf
    elif labels.size:
        found = evaluate(labels, predicted)
        values = {"auc": found.auc, "prauc": found.pr_auc, "nll": found.nll, "pcoc": found.pcoc}
    return {f"{name}_{metric}": value for metric, value in values.items()}


STUDY = tasks.Study(
    settings_of=settings_of,
    log_settings=log_settings,
    prepare=prepare,
    build=build,
    run=run,
    result=StreamResult,
    dtypes=_DTYPES,
    score=score,
    tuned={
        f"{t.lower()}_{m.lower()}": f"{t} {m}" for t in ("NetCVR", "CVR") for m in ("AUC", "NLL")
    },
)


def measure_overhead(task: Task, out: Path) -> tuple[float, float]:
    """Rows per second of a method in the stream, and of its training step alone."""

    def due(bare: NetCVRPredictor, window: Window) -> tuple[Any, Any]:
        bare.open.update(window)
        rows, features = bare.open.due(RULES[bare.rule])
        batch = bare._tensors(rows, features, bare.rule)
        bare.open.close()
        return rows, batch

    def train(bare: NetCVRPredictor, ready: tuple[Any, Any]) -> None:
        rows, batch = ready
        batch = batch._replace(constants=bare._constants(batch, rows))
        bare._train(batch, bare.rule, bare._step)

    return tasks.measure_overhead(STUDY, task, out, due, train)
