"""Runs of predictors in their worlds: kept in a folder, taken from there if repeated.

A task leaves `<out>/<world>/<method>.npz`, the predictions, and beside it a `.json` with the
settings; it is run again only if these are others. Networks trained before the stream are shared
by the methods of a world.
"""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from adsim.types import FloatArray, IntArray
from predictors.arrays import save_arrays
from predictors.delivery import DAY_SECONDS
from predictors.metrics import slice_mean
from predictors.stream import Split
from scenarios import console
from scenarios.comparison import TUNING_SEED, Task, World
from scenarios.pool import in_processes, one_thread
from scenarios.results import jsonable, save_json
from scenarios.version import code_digest
from scenarios.workers import worker_lock

_MEASURED_SEGMENTS = 30  # of `measure_overhead`


class Study(NamedTuple):
    """What the tasks of one kind of predictors do in their own way; functions of modules."""

    settings_of: Callable[[Task], dict[str, Any]]
    """Everything that a result depends on."""
    log_settings: Callable[[World], dict[str, Any]]
    """Everything that a log depends on."""
    prepare: Callable[[World, Path], tuple[Any, Any]]
    """Stream and pre-trained networks of a world, given the folder of results."""
    build: Callable[[Task, Any, Any], Any]
    """The predictor of a task, ready for its stream, given what `prepare` returns."""
    run: Callable[[Any, Any], Any]
    """Lets a predictor go through a stream: a `result`."""
    result: type[Any]
    """NamedTuple of arrays; its `seconds` (K, 2) were spent in training and prediction."""
    dtypes: dict[str, type]
    """Of the arrays in files, where they differ from those of a result."""
    score: Callable[[Any], pd.DataFrame]
    """Metrics of every segment of a result."""
    tuned: dict[str, str]
    """Columns of `score` that say how good a learning rate is, with their headers."""


def is_finished(study: Study, task: Task, out: Path) -> bool:
    """Whether the result of a task, with its very settings, is in the folder."""
    file = task.file(out, ".json")
    if not (file.is_file() and task.file(out, ".npz").is_file()):
        return False
    try:
        return json.loads(file.read_text("utf-8"))["settings"] == study.settings_of(task)
    except (KeyError, TypeError, json.JSONDecodeError):  # not written by `run_task`
        return False


def check_span(click_time: IntArray, split: Split, name: str) -> None:
    """Raises ValueError if a log is empty, ends before the last test clicks or starts too late."""
    if not click_time.size:
        raise ValueError(f"{name}: has no clicks")
    first, last = click_time[[0, -1]] / DAY_SECONDS
    if not (first < split.pretrain_days and last > split.stream_end_day):
        raise ValueError(
            f"{name}: its clicks must begin before day {split.pretrain_days:g} and go on after "
            f"day {split.stream_end_day:g}, they span days {first:.2f} to {last:.2f}"
        )


def networks_folder(world: World, out: Path, log: dict[str, Any]) -> Path:
    """Folder of the networks that the methods of a world share.

    Clicks or sources of adsim that have changed do not find the networks of the former ones.
    """
    about = json.dumps(jsonable({**log, "code": code_digest()}), sort_keys=True)
    folder = out / world.name / "networks" / sha256(about.encode()).hexdigest()[:12]
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def run_task(
    study: Study, task: Task, out: Path, lock: AbstractContextManager[Any] | None = None
) -> None:
    """Runs a task and leaves its result in the folder.

    Args:
        study: which the task belongs to.
        task: one method in one world.
        out: folder of the results.
        lock: held while networks are looked up or trained, so that no two processes train one.
    """
    started = time.perf_counter()
    stream, pretraining = study.prepare(task.world, out)
    prepared = time.perf_counter()
    with lock or nullcontext():
        predictor = study.build(task, stream, pretraining)
    fitted = time.perf_counter()
    result = study.run(predictor, stream)
    train, predict = result.seconds.sum(axis=0).tolist()
    about = {
        "settings": study.settings_of(task),
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
    columns = result._asdict().items()
    save_arrays(
        task.file(out, ".npz"), {k: v.astype(study.dtypes.get(k, v.dtype)) for k, v in columns}
    )
    save_json(about, file)


def load_result(study: Study, task: Task, out: Path) -> tuple[Any, dict[str, Any]]:
    """What `run_task` left: predictions, and what is known about the run."""
    with np.load(task.file(out, ".npz"), allow_pickle=False) as arrays:
        result = study.result(**{name: arrays[name] for name in study.result._fields})
    return result, load_about(task, out)


def load_about(task: Task, out: Path) -> dict[str, Any]:
    """What is known about a finished run."""
    return json.loads(task.file(out, ".json").read_text("utf-8"))


def mean_of(values: FloatArray) -> float:
    """Mean over the segments where a metric is not NaN; infinite if it is so anywhere.

    NaN if it is so with both signs.
    """
    infinite = np.unique(values[np.isinf(values)])
    if not infinite.size:
        return slice_mean(values).mean
    return float(infinite[0]) if infinite.size == 1 else float("nan")


def has_diverged(scores: pd.DataFrame) -> bool:
    """Whether some predictions were not finite, by their sums `*_predicted` in the segments."""
    sums = [column for column in scores.columns if column.endswith("_predicted")]
    return not np.isfinite(scores[sums].to_numpy(np.float64)).all()


def run_tasks(study: Study, title: str, tasks: Sequence[Task], out: Path, jobs: int) -> int:
    """Runs the tasks whose results are not in the folder, showing progress.

    Returns:
        How many were run.

    Raises:
        ValueError: a fault of a data file, before the first task.
        ValueError, RuntimeError: a task failed; names it. What is finished stays in the folder.
        KeyboardInterrupt: likewise.
    """
    for world in {task.world: None for task in tasks}:
        study.log_settings(world)  # faults of scenarios and files show before anything is run
    todo = [task for task in tasks if not is_finished(study, task, out)]
    taken, done = len(tasks) - len(todo), 0
    if taken:
        _tell(f"{taken} of {len(tasks)} taken from {out}")
        code = code_digest()
        if any(load_about(task, out).get("code") != code for task in set(tasks) - set(todo)):
            _tell(f"some were made with other code of adsim: to make them again, empty {out}")
    are_files = any(task.world.is_file for task in todo)
    check = partial(_check_files, study, todo, out) if are_files else None
    try:
        with console.progress(title, len(todo)) as advance:
            for task in in_processes(partial(_run_named, study, out), todo, jobs, _name_of, check):
                done += 1
                advance(note=_name_of(task))
    except BaseException:
        if taken + done:
            left = f"{taken + done} of {len(tasks)} results are in {out}"
            _tell(f"stopped: {left}; run again to go on")
        raise
    return done


def _tell(text: str) -> None:
    console.stderr.print(text, highlight=False, soft_wrap=True)


def _check_files(study: Study, todo: Sequence[Task], out: Path) -> None:
    """Raises ValueError, FileNotFoundError if a data file of the tasks is not a log of them."""
    files = {task.world.scenario: task.world for task in todo if task.world.is_file}
    for world in files.values():
        study.prepare(world, out)


def _name_of(task: Task) -> str:
    return f"{task.name} in {task.world.name}"


def _run_named(study: Study, out: Path, task: Task) -> None:
    """`run_task`, whose errors say where they come from."""
    try:
        run_task(study, task, out, worker_lock())
    except (ValueError, FileNotFoundError) as error:  # the user's
        raise ValueError(f"{_name_of(task)}: {error}") from error
    except Exception as error:
        kind = type(error).__name__
        raise RuntimeError(f"{_name_of(task)}: {kind}: {error}") from error


def measure_overhead(
    study: Study,
    task: Task,
    out: Path,
    due: Callable[[Any, Any], Any],
    train: Callable[[Any, Any], None],
) -> tuple[float, float]:
    """Rows per second of a method in the stream, and of its training step alone; on one thread.

    The step alone has its rows ready as tensors; only the networks that do not learn are applied to
    them. The two take turns, segment by segment, so that both meet the same noise of the machine.

    Args:
        study: which the task belongs to.
        task: one method in one world.
        out: folder of the results.
        due: rows of a window as tensors, given predictor and window; not timed.
        train: trains a predictor on what `due` returns.
    """
    stream, pretraining = study.prepare(task.world, out)
    whole, bare = (study.build(task, stream, pretraining) for _ in range(2))
    seconds, trained = np.zeros(2), np.zeros(2)
    with one_thread():
        for k in range(_MEASURED_SEGMENTS + 1):
            window = stream.window(k, privileged=whole.privileged)
            rows = due(bare, window)
            moments = [time.perf_counter()]
            whole.partial_fit(window)
            moments.append(time.perf_counter())
            train(bare, rows)
            moments.append(time.perf_counter())
            seconds += np.diff(moments)
            if k == 0:  # the first steps warm up
                seconds[:] = 0
                trained -= whole.trained_rows, bare.trained_rows
    trained += whole.trained_rows, bare.trained_rows
    whole_rate, bare_rate = (trained / seconds).tolist()
    return whole_rate, bare_rate


def tune(
    study: Study,
    world: World,
    methods: Sequence[str],
    rates: Sequence[float],
    out: Path,
    jobs: int,
) -> list[dict[str, Any]]:
    """Runs methods with several learning rates, on a seed that no comparison uses.

    The methods' own learning rates are those with the best means of such runs, for instance
    `adsim bench netcvr --tune 1e-3,3e-3,1e-2 --methods all`, with `--scenario`, `--setup`,
    `--clicks`, `--jobs` and `--out` as usual.

    Args:
        study: of the methods.
        world: whose seed is replaced by `TUNING_SEED`.
        methods: names; pre-trained ones have no learning rate and are left out.
        rates: learning rates, in (0, 1].
        out: folder of the results.
        jobs: processes.

    Returns:
        One row per method and rate: means over the segments, NaN if training has diverged.

    Raises:
        ValueError: no method has a learning rate. Also as `run_tasks`.
    """
    world = world._replace(seed=TUNING_SEED)
    learning = [name for name in methods if not name.startswith("pre_")]
    if not learning:
        raise ValueError(f"--tune: no learning rate in --methods {','.join(methods)}")
    grid = [Task(world, name, rate) for name in learning for rate in rates]
    run_tasks(study, f"tune {world.name}", grid, out, jobs)
    rows = []
    for task in grid:
        scores = study.score(load_result(study, task, out)[0])
        means = {name: mean_of(np.asarray(scores[name])) for name in study.tuned}
        if has_diverged(scores):  # else rates would be judged by the segments before
            means = dict.fromkeys(study.tuned, float("nan"))
        where = {"scenario": world.label, "setup": world.setup}
        rows.append({**where, "method": task.method, "learning_rate": task.rate, **means})
    return rows
