"""Work in several processes, each with one thread: results as they are finished."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from scenarios import console
from scenarios.workers import Engine, InProcess, Outcome, Workers

Item = TypeVar("Item")
_POLL_SECONDS = 0.5


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch use one thread meanwhile: small batches gain nothing from more."""
    import torch

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
    with console.progress(title, len(todo)) as advance:
        for item in in_processes(work, todo, jobs, name_of):
            advance(note=name_of(item))


def in_processes(
    work: Callable[[Item], Any],
    todo: Sequence[Item],
    jobs: int,
    name_of: Callable[[Item], str],
    first: Callable[[], None] | None = None,
) -> Iterator[Item]:
    """Items as they are finished. They start in order: a process may keep what many have in common.

    Args:
        work: does one item; to be sent to other processes, as the items are.
        todo: items.
        jobs: processes; with one, or one item, the work is done in this process.
        name_of: an item, for errors.
        first: done before any item, likewise.

    Raises:
        RuntimeError: a process died. Also what `work` and `first` raise.
    """
    count = min(jobs, len(todo))
    if first is not None and todo:
        check = partial(_call, first)
        for _ in _done(Workers(check, 1) if count > 1 else InProcess(check), todo[:1], name_of):
            pass
    yield from _done(Workers(work, count) if count > 1 else InProcess(work), todo, name_of)


def _call(function: Callable[[], None], _: Any) -> None:
    function()


def _done(
    engine: Engine[Item], todo: Sequence[Item], name_of: Callable[[Item], str]
) -> Iterator[Item]:
    """Items as the engine finishes them; see `in_processes`."""
    try:
        for outcome in outcomes(engine, todo):
            if outcome.died:
                raise RuntimeError(f"{name_of(outcome.item)}: {outcome.trace}")
            if outcome.error is not None:
                raise outcome.error
            yield outcome.item
    finally:
        engine.close()


def outcomes(engine: Engine[Item], todo: Sequence[Item]) -> Iterator[Outcome[Item]]:
    """What becomes of all items, as they end; they start in order."""
    left, running = deque(todo), 0
    while left or running:
        while left and running < engine.slots:
            engine.submit(left.popleft())
            running += 1
        ended = engine.finished(_POLL_SECONDS)
        running -= len(ended)
        yield from ended
