"""Runs of NetCVR predictors in their worlds: kept in a folder, taken from there if repeated.

A task leaves `<out>/<world>/<method>.npz`, the predictions, and beside it a `.json` with the
settings; it is run again only if these are others. Networks trained before the stream are shared
by the methods of a world.
"""

import json
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import adsim
import predictors
from adsim.clicklog import ClickLog, from_records, generate
from adsim.datasets import cascade
from adsim.types import FloatArray
from predictors import NetCVRPredictor, Pretraining
from predictors.delivery import DAY_SECONDS, RULES
from predictors.metrics import evaluate, slice_mean
from predictors.pretraining import save_arrays
from predictors.stream import LogStream, StreamResult, run_stream
from scenarios import console
from scenarios.netcvr import (
    LOG_DAYS,
    SETUPS,
    SPLIT,
    TUNING_SEED,
    Task,
    World,
    configure,
    log_settings,
    scenario_of,
    settings_of,
)
from scenarios.results import jsonable, save_json

_MEASURED_SEGMENTS = 30  # of `measure_overhead`


def is_finished(task: Task, out: Path) -> bool:
    """Whether the result of a task, with its very settings, is in the folder."""
    file = task.file(out, ".json")
    if not (file.is_file() and task.file(out, ".npz").is_file()):
        return False
    try:
        return json.loads(file.read_text("utf-8"))["settings"] == settings_of(task)
    except (KeyError, TypeError, json.JSONDecodeError):  # not written by `run_task`
        return False


@lru_cache(maxsize=1)
def _stream(scenario: str, seed: int, clicks: int, cache: Path) -> LogStream:
    """The stream of a world; set-ups share it."""
    if clicks:
        world = scenario_of(World(scenario, SETUPS[0], seed, clicks)).world
        ticks = round(24 * LOG_DAYS / world.time.tick_hours)
        return LogStream(generate(world, seed, num_ticks=ticks), SPLIT)
    path = Path(scenario)
    # Published logs hold a few impossible events; they count as missing, and a warning says so.
    records = cascade.read(path, strict=False, cache_dir=cache)
    log = from_records(records, cascade.find_cardinalities(path))
    _check_span(log, scenario)
    return LogStream(log, SPLIT)


def _check_span(log: ClickLog, name: str) -> None:
    """Raises ValueError if a log ends before the last test clicks or starts too late."""
    first, last = log.click_time[[0, -1]] / DAY_SECONDS if log.click_time.size else (0.0, 0.0)
    if not (first < SPLIT.pretrain_days and last > SPLIT.stream_end_day):
        raise ValueError(
            f"{name}: its clicks must begin before day {SPLIT.pretrain_days:g} and go on after "
            f"day {SPLIT.stream_end_day:g}, they span days {first:.2f} to {last:.2f}"
        )


@lru_cache(maxsize=1)
def prepare(world: World, out: Path) -> tuple[LogStream, Pretraining]:
    """Stream and pre-trained networks of a world; the latter are kept in its folder."""
    # Clicks or sources of adsim that have changed must not find the networks of the former ones.
    about = json.dumps(jsonable({**log_settings(world), "code": code_digest()}), sort_keys=True)
    folder = out / world.name / "networks" / sha256(about.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    stream = _stream(world.scenario, 0 if world.is_file else world.seed, world.clicks, out / "data")
    return stream, Pretraining(stream.history(), SPLIT, seed=world.seed, cache=folder)


def build(task: Task, stream: LogStream, pretraining: Pretraining) -> NetCVRPredictor:
    """The predictor of a task, ready for its stream."""
    cls, config = configure(task)
    predictor = cls(stream.log.cardinalities, config, seed=task.world.seed)
    return predictor.fit(pretraining.history, SPLIT, pretraining=pretraining, follow=True)


def run_task(task: Task, out: Path, lock: AbstractContextManager[Any] | None = None) -> None:
    """Runs a task and leaves its result in the folder.

    Args:
        task: one method in one world.
        out: folder of the results.
        lock: held while networks are looked up or trained, so that no two processes train one.
    """
    started = time.perf_counter()
    stream, pretraining = prepare(task.world, out)
    prepared = time.perf_counter()
    with lock or nullcontext():
        predictor = build(task, stream, pretraining)
    fitted = time.perf_counter()
    result = run_stream(predictor, stream, predictor.config.windows)
    train, predict = result.seconds.sum(axis=0).tolist()
    about = {
        "settings": settings_of(task),
        "code": code_digest(),
        "trained_rows": predictor.trained_rows,
        "rows_per_s": predictor.trained_rows / train if predictor.trained_rows else None,
        "seconds": {
            "log": prepared - started,
            "fit": fitted - prepared,
            "train": train,
            "predict": predict,
        },
    }
    file = task.file(out, ".json")
    file.unlink(missing_ok=True)  # it must not vouch for other arrays
    # The networks' estimates have single precision: nothing is lost.
    small = {"segment": np.int32, "click": np.int32}
    small |= dict.fromkeys(("cvr", "net_cvr", "refund_rate"), np.float32)
    arrays = {k: v.astype(small.get(k, v.dtype)) for k, v in result._asdict().items()}
    save_arrays(task.file(out, ".npz"), arrays)
    save_json(about, file)


def load_result(task: Task, out: Path) -> tuple[StreamResult, dict[str, Any]]:
    """What `run_task` left: predictions, and what is known about the run."""
    with np.load(task.file(out, ".npz"), allow_pickle=False) as arrays:
        result = StreamResult(**{name: arrays[name] for name in StreamResult._fields})
    return result, load_about(task, out)


def load_about(task: Task, out: Path) -> dict[str, Any]:
    """What is known about a finished run."""
    return json.loads(task.file(out, ".json").read_text("utf-8"))


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
    if not labels.size:
        return dict.fromkeys((f"{name}_{m}" for m in ("auc", "prauc", "nll", "pcoc")), np.nan)
    found = evaluate(labels, predicted)
    values = {"auc": found.auc, "prauc": found.pr_auc, "nll": found.nll, "pcoc": found.pcoc}
    return {f"{name}_{metric}": value for metric, value in values.items()}


def run_tasks(title: str, tasks: Sequence[Task], out: Path, jobs: int) -> int:
    """Runs the tasks whose results are not in the folder, showing progress.

    Returns:
        How many were run.

    Raises:
        ValueError, RuntimeError: a task failed; names it. What is finished stays in the folder.
        KeyboardInterrupt: likewise.
    """
    for world in {task.world: None for task in tasks}:
        log_settings(world)  # faults of scenarios and files show before anything is run
    todo = [task for task in tasks if not is_finished(task, out)]
    taken, done = len(tasks) - len(todo), 0
    if taken:
        _tell(f"{taken} of {len(tasks)} taken from {out}")
        code = code_digest()
        if any(load_about(task, out).get("code") != code for task in set(tasks) - set(todo)):
            _tell(f"some were made with other code of adsim: to make them again, empty {out}")
    run = _run_in_processes if min(jobs, len(todo)) > 1 else _run_here
    try:
        with console.progress(title, len(todo)) as advance:
            for task in run(todo, out, jobs):
                done += 1
                advance(note=f"{task.name} in {task.world.name}")
    except BaseException:
        _tell(f"stopped: {taken + done} of {len(tasks)} results are in {out}; run again to go on")
        raise
    return done


def _tell(text: str) -> None:
    console.stderr.print(text, highlight=False, soft_wrap=True)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Of the sources that results depend on."""
    digest = sha256()
    for package in (adsim, predictors):
        for path in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _run_here(todo: Sequence[Task], out: Path, jobs: int) -> Iterator[Task]:
    with one_thread():
        for task in todo:
            _run_named(task, out)
            yield task


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch use one thread meanwhile: small batches gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run_in_processes(todo: Sequence[Task], out: Path, jobs: int) -> Iterator[Task]:
    """Tasks as they are finished. They start in order: a process keeps the log of a world."""
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(todo)), context, _start_worker, (context.Lock(),))
    futures = {pool.submit(_work, task, out): task for task in todo}
    waiting = dict.fromkeys(todo)
    try:
        for future in as_completed(futures):
            future.result()
            del waiting[futures[future]]
            yield futures[future]
        pool.shutdown()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        if isinstance(error, BrokenProcessPool):
            names = [f"{task.name} in {task.world.name}" for task in list(waiting)[:jobs]]
            why = "a process died, perhaps for lack of memory, during one of"
            raise RuntimeError(f"{why}: {', '.join(names)}") from error
        raise


_lock: AbstractContextManager[Any] = nullcontext()  # of a worker: see `run_task`


def _start_worker(lock: AbstractContextManager[Any]) -> None:
    global _lock
    _lock = lock
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends its workers
    torch.set_num_threads(1)


def _work(task: Task, out: Path) -> None:
    _run_named(task, out, _lock)


def _run_named(task: Task, out: Path, lock: AbstractContextManager[Any] | None = None) -> None:
    """`run_task`, whose errors say where they come from."""
    try:
        run_task(task, out, lock)
    except ValueError as error:
        raise ValueError(f"{task.name} in {task.world.name}: {error}") from error
    except Exception as error:
        kind = type(error).__name__
        raise RuntimeError(f"{task.name} in {task.world.name}: {kind}: {error}") from error


def measure_overhead(task: Task, out: Path) -> tuple[float, float]:
    """Rows per second of a method in the stream, and of its training step alone; on one thread.

    The step alone has its rows ready as tensors; only the networks that do not learn are applied to
    them. The two take turns, segment by segment, so that both meet the same noise of the machine.
    """
    stream, pretraining = prepare(task.world, out)
    whole, bare = (build(task, stream, pretraining) for _ in range(2))
    seconds, trained = np.zeros(2), np.zeros(2)
    with one_thread():
        for k in range(_MEASURED_SEGMENTS + 1):
            window = stream.window(k, privileged=whole.privileged)
            bare.open.update(window)
            rows, features = bare.open.due(RULES[bare.rule])
            batch = bare._tensors(rows, features, bare.rule)
            bare.open.close()
            moments = [time.perf_counter()]
            whole.partial_fit(window)
            moments.append(time.perf_counter())
            batch = batch._replace(constants=bare._constants(batch, rows))
            bare._train(batch, bare.rule, bare._step)
            moments.append(time.perf_counter())
            seconds += np.diff(moments)
            if k == 0:  # the first steps warm up
                seconds[:] = 0
                trained -= whole.trained_rows, bare.trained_rows
    trained += whole.trained_rows, bare.trained_rows
    whole_rate, bare_rate = (trained / seconds).tolist()
    return whole_rate, bare_rate


def tune(
    world: World, methods: Sequence[str], rates: Sequence[float], out: Path, jobs: int
) -> list[dict[str, Any]]:
    """Runs methods with several learning rates, on a seed that no comparison uses.

    The methods' own learning rates are those with the best mean NetCVR AUC of such runs:
    `adsim bench netcvr --tune 1e-3,3e-3,1e-2 --methods all`, with `--scenario`, `--setup`,
    `--clicks`, `--jobs` and `--out` as usual.

    Args:
        world: whose seed is replaced by `TUNING_SEED`.
        methods: in METHODS or EXTRAS; `pre_trained` has no learning rate and is left out.
        rates: learning rates, in (0, 1].
        out: folder of the results.
        jobs: processes.

    Returns:
        One row per method and rate: means over the segments.
    """
    world = world._replace(seed=TUNING_SEED)
    grid = [Task(world, name, rate) for name in methods if name != "pre_trained" for rate in rates]
    run_tasks(f"tune {world.name}", grid, out, jobs)
    rows = []
    for task in grid:
        scores = score(load_result(task, out)[0])
        columns = ("netcvr_auc", "netcvr_nll", "cvr_auc", "cvr_nll")
        means = {name: slice_mean(np.asarray(scores[name])).mean for name in columns}
        where = {"scenario": world.label, "setup": world.setup}
        rows.append({**where, "method": task.method, "learning_rate": task.rate, **means})
    return rows
