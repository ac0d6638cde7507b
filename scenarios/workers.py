"""Worker processes of one thread each, which may die: what was lost with one is known exactly.

A process gets one item at a time over its own pipe. One that is killed, or runs out of memory,
takes its item with it and nothing else, and is replaced. Workers end when the process that started
them does, whatever ends it.
"""

import multiprocessing
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from scenarios import console

Item = TypeVar("Item")
_lock: AbstractContextManager[Any] = nullcontext()
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Environment variables that say how many threads a process has; read when libraries load."""
_ENDED_SECONDS = 5.0  # that a worker has to end by itself


def worker_lock() -> AbstractContextManager[Any]:
    """Of the worker this is called in: held by one of them at a time."""
    return _lock


class Outcome(NamedTuple, Generic[Item]):
    """What became of an item: a value, or why there is none."""

    item: Item
    value: Any = None
    error: BaseException | None = None  # raised by the work
    trace: str = ""  # where, in words
    died: bool = False  # the worker died


class Engine(Protocol[Item]):
    """Does work on items, several at a time."""

    slots: int
    """Items that may be under way at a time."""

    def submit(self, item: Item) -> None:
        """Starts work on an item; at most `slots` may be under way."""
        ...

    def finished(self, timeout: float) -> list[Outcome[Item]]:
        """Items that ended since the last call; waits up to `timeout` seconds for one."""
        ...

    def close(self) -> None:
        """Ends all workers; what is under way is lost."""
        ...


def attempt(work: Callable[[Item], Any], item: Item) -> Outcome[Item]:
    """Does the work; whatever it raises is part of the outcome."""
    try:
        return Outcome(item, work(item))
    except Exception as error:
        return Outcome(item, None, error, traceback.format_exc())


def sendable(outcome: Outcome[Item]) -> Outcome[Item]:
    """The outcome, with an error that other processes can read."""
    try:
        pickle.loads(pickle.dumps(outcome.error))  # our own: some errors cannot be made again
    except Exception:
        return outcome._replace(error=RuntimeError(repr(outcome.error)))
    return outcome


class InProcess(Generic[Item]):
    """Does the work in this process, one item at a time."""

    slots = 1

    def __init__(self, work: Callable[[Item], Any]) -> None:
        self._work, self._todo = work, deque[Item]()
        import torch  # takes long to load: only where work is done

        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)

    def submit(self, item: Item) -> None:
        """Keeps the item until `finished` is called."""
        self._todo.append(item)

    def finished(self, timeout: float) -> list[Outcome[Item]]:
        """Does the work on one item, however long it takes."""
        return [attempt(self._work, self._todo.popleft())] if self._todo else []

    def close(self) -> None:
        """Gives torch its threads back."""
        import torch

        torch.set_num_threads(self._threads)


class _Worker(Generic[Item]):
    """A process, the pipe to it, and the item that it is at work on."""

    def __init__(self, context: Any, arguments: tuple[Any, ...]) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, *arguments), daemon=True)
        with _environment(dict.fromkeys(THREADS, "1")):
            self.process.start()
        theirs.close()
        self.items: list[Item] = []  # none or one


class Workers(Generic[Item]):
    """Processes that do the work.

    Args:
        work: does one item; to be sent to other processes, as the items and what it returns are.
        count: processes.
    """

    def __init__(self, work: Callable[[Item], Any], count: int) -> None:
        self.slots = count
        self._context = multiprocessing.get_context("spawn")
        self._arguments = (work, self._context.Lock())
        self._workers: list[_Worker[Item]] = []

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [worker.process.pid for worker in self._workers if worker.process.pid]

    def submit(self, item: Item) -> None:
        """Gives the item to a process that is idle, or to a new one."""
        self._workers = [w for w in self._workers if w.items or w.process.is_alive()]
        idle = [worker for worker in self._workers if not worker.items]
        if not idle:
            assert len(self._workers) < self.slots
            self._workers.append(_Worker(self._context, self._arguments))
            idle = self._workers[-1:]
        idle[0].items.append(item)
        with suppress(BrokenPipeError, ConnectionResetError):  # `finished` notices
            idle[0].pipe.send(item)

    def finished(self, timeout: float) -> list[Outcome[Item]]:
        """Items that ended; see `Engine`. A worker that died is no longer one."""
        busy = {worker.pipe: worker for worker in self._workers if worker.items}
        outcomes = []
        for pipe in wait(list(busy), timeout) if busy else []:
            worker = busy[pipe]  # pyright: ignore[reportArgumentType] - one of those asked about
            (item,), worker.items = worker.items, []
            try:
                outcomes.append(worker.pipe.recv())
            except (EOFError, OSError):  # also in the middle of an outcome
                worker.process.join()
                self._workers.remove(worker)
                outcomes.append(Outcome(item, died=True, trace=_death(worker.process.exitcode)))
        return outcomes

    def close(self) -> None:
        """Ends the processes: those that are at work are terminated."""
        for worker in self._workers:
            worker.pipe.close()
            if worker.items:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join(_ENDED_SECONDS)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self._workers = []


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Other environment variables meanwhile, for the processes that start."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _death(exit_code: int | None) -> str:
    code = exit_code or 0
    how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
    return f"the worker process ended {how}, perhaps for lack of memory"


def _serve(pipe: Connection, work: Callable[[Any], Any], lock: AbstractContextManager[Any]) -> None:
    """Does the work on items until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends its workers
    import torch

    global _lock
    _lock = lock
    torch.set_num_threads(1)
    console.stderr.quiet = True  # the parent process shows progress
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent process has ended
        while True:
            pipe.send(sendable(attempt(work, pipe.recv())))
