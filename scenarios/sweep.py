"""Trials played on an engine: each leaves a file at once, and is not played again.

A folder of results holds `_trials/<key>.npz`, one per trial (`scenarios.trial`), and the dataset
made of them (`scenarios.results`). Whatever ends a sweep, what is finished stays, and played again
it ends with the table that it would have had.
"""

import errno
import os
import shutil
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from scenarios import console, results
from scenarios.cache import cache_folder
from scenarios.monitor import Monitor
from scenarios.pool import outcomes
from scenarios.results import Record, write_atomically
from scenarios.rungs import needs_warm_up
from scenarios.trial import (
    FAILED,
    Trial,
    decode,
    decode_row,
    do,
    failed_trial,
    key_of,
    labels_of,
)
from scenarios.workers import Engine, InProcess, Outcome, Workers

ENGINES = ("local", "ray")
LOG = "_sweep.log"
KEPT = "_trials"
"""Folder of the files of trials, in a folder of results."""
_DAMAGED = (KeyError, ValueError, EOFError, BadZipFile, zlib.error)
"""What reading a damaged file raises."""
_POLL_SECONDS = 0.5
_BYTES = 100_000  # of a trial's results, about, those of the dataset included


class Options(NamedTuple):
    """How trials are played."""

    engine: str = "local"
    jobs: int = 2  # worker processes of this machine; with one, trials are played in this process
    address: str | None = None  # of a Ray cluster; None: one of this machine
    cpus: float = 1.0  # of a Ray trial
    gpus: float = 0.0
    resume: bool = True  # take what is there
    retry_failed: bool = False  # play what is there as failed
    retries: int = 1  # of a trial that raises, or whose worker dies
    keep_going: bool = True  # after a trial that failed
    cache: Path | None = None  # folder of trained estimates; None: `cache_folder()`

    @property
    def cache_folder(self) -> Path:
        """Of trained estimates."""
        return self.cache or cache_folder()


class Played(NamedTuple):
    """What became of trials."""

    taken: int  # from the folder
    done: int
    failed: int  # of all, those taken included


def make_engine(options: Options, count: int) -> Engine[Any]:
    """An engine that trains estimates and plays trials, for so many items."""
    if options.engine == "ray":
        from scenarios.ray_engine import RayEngine

        return RayEngine(options)
    work = partial(do, options.cache_folder)
    slots = min(options.jobs, count, os.cpu_count() or 1)
    return Workers(work, slots) if slots > 1 else InProcess(work)


def kept_file(folder: Path, trial: Trial) -> Path:
    """Where a trial's result is kept."""
    return folder / KEPT / f"{key_of(trial)}.npz"


def read(folder: Path, trial: Trial) -> Record:
    """What a finished trial left.

    Raises:
        FileNotFoundError: it is not finished.
        ValueError: the file is damaged; it is removed, so that the trial can be played again.
    """
    path = kept_file(folder, trial)
    try:
        with path.open("rb") as file:
            return decode(np.load(file, allow_pickle=False))
    except _DAMAGED as error:
        path.unlink()
        raise ValueError(f"{path} was damaged and is removed: run the command again") from error


def row_of(folder: Path, trial: Trial) -> dict[str, Any] | None:
    """The row of a trial in the table `trials`; None if the trial has to be played."""
    try:
        with kept_file(folder, trial).open("rb") as file:
            row = decode_row(np.load(file, allow_pickle=False))  # reads no other array
            return row if "status" in row else None
    except (FileNotFoundError, *_DAMAGED):
        return None


def status_of(folder: Path, trial: Trial) -> str | None:
    """`done`, `failed`, or None if the trial has to be played."""
    row = row_of(folder, trial)
    return row["status"] if row else None


def play_all(title: str, trials: Sequence[Trial], folder: Path, options: Options) -> Played:
    """Plays trials that are not in the folder yet.

    Args:
        title: for progress.
        trials: in the order in which they start.
        folder: of results; exists.
        options: how.

    Raises:
        ValueError: a result cannot be written.
        Exception: that of a trial, if the others do not go on after it.
        KeyboardInterrupt: what is finished is in the folder.
    """
    prepare(folder)
    known = {t: status_of(folder, t) if options.resume else None for t in trials}
    again = (None, FAILED) if options.retry_failed else (None,)
    todo = [trial for trial, status in known.items() if status in again]
    taken = len(known) - len(todo)
    failed = sum(known[trial] == FAILED for trial in known) - sum(known[t] == FAILED for t in todo)
    if taken:
        _tell(f"{taken} of {len(known)} trials taken from {folder}")
    if not todo:
        return Played(taken, 0, failed)
    check_space(folder, len(todo))
    engine = make_engine(options, len(todo))
    monitor = Monitor(title, len(todo), folder / LOG)
    monitor.write(f"{title}: {len(todo)} trials, engine {options.engine}, {taken} taken")
    try:
        train_for(todo, folder, engine, options)
        with monitor.shown():
            play(engine, todo, folder, options, monitor)
    except BaseException as error:
        monitor.write(f"stopped: {type(error).__name__}")
        _tell(
            f"stopped: {taken + monitor.done} of {len(known)} trials are in {folder}; go on by "
            "running it again"
        )
        raise
    finally:
        engine.close()
    return Played(taken, monitor.done, failed + monitor.failed)


def prepare(folder: Path) -> None:
    """Makes the place of the files of trials, and removes what a process that was killed left."""
    kept = folder / KEPT
    kept.mkdir(exist_ok=True)
    for stale in kept.glob(".*.partial"):
        process = stale.name.split(".")[-2]  # as `replacing` names files
        if not (process.isdigit() and Path(f"/proc/{process}").exists()):
            stale.unlink(missing_ok=True)


def play(
    engine: Engine[Trial], todo: Sequence[Trial], folder: Path, options: Options, monitor: Monitor
) -> None:
    """Lets the engine play, writes what it returns, and tries again what went wrong."""
    left, running = deque(todo), 0
    attempts = dict.fromkeys(todo, 0)
    while left or running:
        while left and running < engine.slots:
            trial = left.popleft()
            attempts[trial] += 1
            monitor.start(trial.name)
            engine.submit(trial)
            running += 1
        for outcome in engine.finished(_POLL_SECONDS):
            running -= 1
            trial = outcome.item
            fault = outcome.died or outcome.error is not None
            if fault and attempts[trial] <= options.retries:
                left.append(trial)
                monitor.end(trial.name, f"tried again ({_fault(outcome)})", over=False)
                continue
            if fault and not options.keep_going:
                raise outcome.error or RuntimeError(f"{trial.name}: {outcome.trace}")
            content = failed_trial(trial, outcome.trace) if fault else outcome.value
            _write(kept_file(folder, trial), content)
            how = f"failed ({_fault(outcome)})" if fault else "done"
            monitor.end(trial.name, how, failed=fault)


def _fault(outcome: Outcome[Any]) -> str:
    return outcome.trace if outcome.died else f"{type(outcome.error).__name__}: {outcome.error}"


def _write(path: Path, content: bytes) -> None:
    def write(partial_: Path) -> None:
        with partial_.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # the name must not outlive the content when power fails

    try:
        write_atomically(path, write)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}") from error


def check_space(folder: Path, count: int) -> None:
    """Raises ValueError if the disk has no room for the results."""
    free, needed = shutil.disk_usage(folder).free, count * _BYTES
    if free < needed:
        raise ValueError(
            f"--out: {count} trials need about {needed / 1e6:,.0f} MB, {folder} has "
            f"{free / 1e6:,.0f} MB ({errno.errorcode[errno.ENOSPC]})"
        )


def train_for(todo: Sequence[Trial], folder: Path, engine: Engine[Any], options: Options) -> None:
    """Trains the estimates that trials bid on. Faults show again when these are played."""
    if not any(needs_warm_up(trial.estimates) for trial in todo):
        return
    from scenarios.playing import trainings  # loads torch

    items = trainings(todo)
    options.cache_folder.mkdir(parents=True, exist_ok=True)
    monitor = Monitor("warm-up (once)", len(items), folder / LOG)
    with monitor.shown():
        monitor.running = min(engine.slots, len(items))
        for outcome in outcomes(engine, items):
            fault = outcome.died or outcome.error is not None
            how = f"failed ({_fault(outcome)})" if fault else "trained"
            monitor.end(outcome.item.name, how, failed=fault)


def save_dataset(
    folder: Path,
    trials: Sequence[Trial],
    about: dict[str, Any],
    points: Mapping[Trial, int] | None = None,
) -> list[Path]:
    """Makes the dataset of what is finished; returns its files.

    Args:
        folder: of results.
        trials: whose results it has, in this order.
        about: description.
        points: of a search: numbers, a column `point` of the table of trials.
    """
    done = (trial for trial in trials if kept_file(folder, trial).is_file())
    # Labels are those of today: an axis may have got values of another type.
    records = ((trial, read(folder, trial)._replace(labels=labels_of(trial))) for trial in done)
    numbered = (
        record if points is None else record._replace(row={**record.row, "point": points[trial]})
        for trial, record in records
    )
    return results.save_records(numbered, folder, about)


def _tell(text: str) -> None:
    console.stderr.print(text, highlight=False, soft_wrap=True)
