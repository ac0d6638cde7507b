"""Work in several processes, each with one thread: results as they are finished."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch

from scenarios import console

Item = TypeVar("Item")
_lock: AbstractContextManager[Any] = nullcontext()


def worker_lock() -> AbstractContextManager[Any]:
    """Of the worker this is called in: held by one of them at a time."""
    return _lock


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch use one thread meanwhile: small batches gain nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def each(
    title: str,
    work: Callable[[Item], None],
    todo: Sequence[Item],
    jobs: int,
    name_of: Callable[[Item], str],
) -> None:
    """Does the work for all items, in this process or others, with a progress bar.

    Args and errors are those of `in_processes`.
    """
    many = min(jobs, len(todo)) > 1
    done = in_processes(work, todo, jobs, name_of) if many else _here(work, todo)
    with console.progress(title, len(todo)) as advance:
        for item in done:
            advance(note=name_of(item))


def _here(work: Callable[[Item], None], todo: Sequence[Item]) -> Iterator[Item]:
    with one_thread():
        for item in todo:
            work(item)
            yield item


def in_processes(
    work: Callable[[Item], None],
    todo: Sequence[Item],
    jobs: int,
    name_of: Callable[[Item], str],
    first: Callable[[], None] | None = None,
) -> Iterator[Item]:
    """Items as they are finished. They start in order: a process may keep what many have in common.

    Args:
        work: does one item; to be sent to other processes, as the items are.
        todo: items, hashable.
        jobs: processes.
        name_of: an item, for errors.
        first: done before any item, likewise in another process.

    Raises:
        RuntimeError: a process died. Also what `work` and `first` raise.
    """
    context = multiprocessing.get_context("spawn")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(todo)), context, _start_worker, (context.Lock(),))
    waiting = dict.fromkeys(todo)
    try:
        if first is not None:
            pool.submit(first).result()
        futures = {pool.submit(work, item): item for item in todo}
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
            names = [name_of(item) for item in list(waiting)[:jobs]]
            why = "a process died, perhaps for lack of memory, during one of"
            raise RuntimeError(f"{why}: {', '.join(names)}") from error
        raise


def _start_worker(lock: AbstractContextManager[Any]) -> None:
    global _lock
    _lock = lock
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends its workers
    torch.set_num_threads(1)
    console.stderr.quiet = True  # the parent process shows progress
