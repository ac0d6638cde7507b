"""Runs of predictors for several scenes in their worlds: see `scenarios.tasks`."""

from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from adsim.clicklog import ClickLog, generate
from adsim.impressionlog import ImpressionLog, generate_impressions
from adsim.types import BoolArray, FloatArray, IntArray, Window
from predictors.delivery import final_labels
from predictors.grouped_metrics import auc_by_group, gauc, soft_auc, soft_nll
from predictors.impression_stream import ImpressionStream
from predictors.scene_pretraining import ScenePretraining
from predictors.scenes import CVR_SPLIT, ScenePredictor, SceneRows
from predictors.stream import LogStream, gather, rounds
from scenarios import tasks
from scenarios.comparison import Task, World, scenario_of
from scenarios.scenes import (
    LOG_DAYS,
    SETUPS,
    configure,
    log_settings,
    overrides,
    settings_of,
    split_of,
)

COLD_ROWS = 1_000  # a scene with fewer rows before the stream is cold
SCORES = ("auc", "gauc", "macro_auc", "cold_auc", "nll", "macro_nll", "cold_nll")
OBSERVED = ("auc_observed", "macro_auc_observed")  # with labels for true probabilities
BEST = ("auc_truth", "gauc_truth", "macro_auc_truth", "cold_auc_truth")  # of the truth itself
_SEGMENTS_A_DAY = round(1 / CVR_SPLIT.segment_days)
_USER = 0  # column of the features
_DTYPES: dict[str, type] = dict.fromkeys(("segment", "click", "scene", "user"), np.int32)
_DTYPES |= {"predicted": np.float32, "truth": np.float32}


class SceneResult(NamedTuple):
    """Predictions for the N test rows of a stream, in order, and what they are judged by."""

    segment: IntArray  # (N,) the segment the model was trained up to
    click: IntArray  # (N,) row of the log
    predicted: FloatArray  # (N,) CVR, or CTR
    label: BoolArray  # (N,) converted, or clicked
    truth: FloatArray  # (N,) P(label) given the hidden effects
    scene: IntArray  # (N,)
    user: IntArray  # (N,)
    known: IntArray  # (S,) rows of each scene before the stream
    parameters: IntArray  # (3,) `ParameterCount`: all, embeddings of ids, of one more scene
    seconds: FloatArray  # (K, 2) spent in partial_fit and in predict, per segment


@lru_cache(maxsize=1)
def prepare(world: World, out: Path) -> tuple[LogStream | ImpressionStream, ScenePretraining]:
    """Stream and pre-trained networks of a world; the latter are kept in its folder."""
    folder = tasks.networks_folder(world, out, log_settings(world))
    config, split = scenario_of(world, LOG_DAYS, overrides).world, split_of(world)
    ticks = 24 * LOG_DAYS
    if SETUPS[world.setup].target == "ctr":
        stream = ImpressionStream(generate_impressions(config, world.seed, num_ticks=ticks), split)
    else:
        stream = LogStream(generate(config, world.seed, num_ticks=ticks), split)
    return stream, ScenePretraining(stream.history(), split, seed=world.seed, cache=folder)


def build(
    task: Task, stream: LogStream | ImpressionStream, pretraining: ScenePretraining
) -> ScenePredictor:
    """The predictor of a task, ready for its stream."""
    cls, config = configure(task)
    predictor = cls(stream.log.cardinalities, config, seed=task.world.seed)
    split = stream.split
    return predictor.fit(pretraining.history, split, pretraining=pretraining, follow=True)


def run(predictor: ScenePredictor, stream: LogStream | ImpressionStream) -> SceneResult:
    """Lets a predictor go through a stream."""
    found = gather(rounds(predictor, stream, (predictor.target,), lambda segment: None))
    log, rows, place = stream.log, found.click, predictor.config.scene_field
    label, truth = _outcomes(log, predictor)
    before = log.features[: stream.history().click_time.size, place]
    return SceneResult(
        segment=found.segment,
        click=rows,
        predicted=found.means[0],
        label=label[rows],
        truth=truth[rows],
        scene=log.features[rows, place].astype(np.int64),
        user=log.features[rows, _USER].astype(np.int64),
        known=np.bincount(before, minlength=log.cardinalities[place]),
        parameters=np.array(predictor.num_parameters),
        seconds=found.seconds,
    )


def _outcomes(log: ClickLog | ImpressionLog, predictor: ScenePredictor) -> tuple[BoolArray, Any]:
    """Final labels and true probabilities of a log's rows."""
    if isinstance(log, ImpressionLog):
        return log.clicked, log.p_click
    return final_labels(log, predictor.config.windows).y == 1, log.p_convert


def score(result: SceneResult) -> pd.DataFrame:
    """Metrics of every day of the stream, one row each, under its first segment; NaN if undefined.

    A day has its rows because scenes of little traffic have hardly any in a segment.

    `SCORES`: with true probabilities in place of labels (`grouped_metrics`); overall, in users
    (GAUC), in scenes (`macro`: their plain mean), in cold scenes (`cold`: likewise, of scenes with
    fewer than `COLD_ROWS` rows before the stream). `OBSERVED`: with labels. `BEST`: of the truth as
    prediction, which nothing exceeds but by luck. With them the number of rows (`clicks`), and sums
    of which ratios are made, predicted and expected (`_observed`): of all rows, of cold scenes, and
    of each scene.
    """
    days = -(-len(result.seconds) // _SEGMENTS_A_DAY)
    bounds = np.searchsorted(result.segment, _SEGMENTS_A_DAY * np.arange(days + 1))
    rows = []
    for day, (low, high) in enumerate(pairwise(bounds)):
        part = _part(result, slice(low, high))
        row: dict[str, float] = {"segment": _SEGMENTS_A_DAY * day, "clicks": high - low}
        rows.append(row | _metrics(part) | _sums(part))
    return pd.DataFrame(rows)


def scene_aucs(result: SceneResult, scores: FloatArray) -> list[float]:
    """AUC of each scene, over all rows, of scores (N,); with the truth as in `score`."""
    if not np.isfinite(scores).all():
        return [float("nan")] * result.known.size
    return _by_scene(result, result.truth.astype(np.float64), scores).tolist()


def _part(result: SceneResult, held: slice) -> SceneResult:
    """Some rows of a result, probabilities in double precision."""
    columns = {name: getattr(result, name)[held] for name in SceneResult._fields[:7]}
    columns |= {name: columns[name].astype(np.float64) for name in ("predicted", "truth")}
    return result._replace(**columns)


def _metrics(part: SceneResult) -> dict[str, float]:
    """All NaN without rows. Where training has diverged NLLs are infinite."""
    values: dict[str, float] = dict.fromkeys((*SCORES, *OBSERVED, *BEST), np.nan)
    truth, predicted = part.truth, part.predicted
    if not truth.size:
        return values
    cold = part.known < COLD_ROWS
    best = _by_scene(part, truth, truth)
    values |= {"auc_truth": soft_auc(truth, truth), "gauc_truth": gauc(truth, truth, part.user)}
    values |= {"macro_auc_truth": _mean(best), "cold_auc_truth": _mean(best[cold])}
    if not np.isfinite(predicted).all():
        return values | dict.fromkeys(("nll", "macro_nll", "cold_nll"), np.inf)
    aucs, label = _by_scene(part, truth, predicted), part.label.astype(np.float64)
    nll = _scene_nll(part)
    return values | {
        "auc": soft_auc(truth, predicted),
        "gauc": gauc(truth, predicted, part.user),
        "macro_auc": _mean(aucs),
        "cold_auc": _mean(aucs[cold]),
        "nll": soft_nll(truth, predicted),
        "macro_nll": _mean(nll),
        "cold_nll": _mean(nll[cold]),
        "auc_observed": soft_auc(label, predicted),
        "macro_auc_observed": _mean(_by_scene(part, label, predicted)),
    }


def _by_scene(part: SceneResult, weight: FloatArray, scores: FloatArray) -> FloatArray:
    """AUC (S,) of every scene; NaN where it is undefined."""
    values = np.full(part.known.size, np.nan)
    if scores.size:
        found = auc_by_group(weight, scores, part.scene)
        values[found.ids] = found.auc
    return values


def _scene_nll(part: SceneResult) -> FloatArray:
    """NLL (S,) of every scene; NaN without rows."""
    held = [part.scene == scene for scene in range(part.known.size)]
    values = [soft_nll(part.truth[h], part.predicted[h]) if h.any() else np.nan for h in held]
    return np.array(values)


def _mean(values: FloatArray) -> float:
    """Mean of what is known; NaN if nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _sums(part: SceneResult) -> dict[str, float]:
    """Predicted and expected positives: all, of cold scenes, of each scene."""
    size = part.known.size
    cold, sums = part.known < COLD_ROWS, {}
    for name, column in (("predicted", part.predicted), ("observed", part.truth)):
        by_scene = np.bincount(part.scene, column, minlength=size)
        groups = {"all": by_scene.sum(), "cold": by_scene[cold].sum()}
        groups |= {f"scene{scene}": total for scene, total in enumerate(by_scene)}
        sums |= {f"{group}_{name}": float(total) for group, total in groups.items()}
    return sums


STUDY = tasks.Study(
    settings_of=settings_of,
    log_settings=log_settings,
    prepare=prepare,
    build=build,
    run=run,
    result=SceneResult,
    dtypes=_DTYPES,
    score=score,
    tuned={"macro_auc": "macro AUC", "nll": "NLL"},
)


def measure_overhead(task: Task, out: Path) -> tuple[float, float]:
    """Rows per second of a method in the stream, and of its training step alone."""

    def due(bare: ScenePredictor, window: Window) -> SceneRows:
        bare.open.update(window)
        rows = bare._due(bare.rule)
        bare.open.close()
        return rows

    def train(bare: ScenePredictor, rows: SceneRows) -> None:
        bare._train(rows, bare.rule, bare._step)

    return tasks.measure_overhead(STUDY, task, out, due, train)
