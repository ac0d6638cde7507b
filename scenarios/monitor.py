"""How far a long piece of work is: on the terminal, and in a log file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from scenarios import console

_TOLD_SECONDS = 10.0  # between lines where there is no terminal


class Monitor:
    """Counts what is done, failed and running; rate and time left.

    Args:
        title: of the work.
        total: number of trials to be done now.
        log: file to which a line per trial is appended; None: none.
    """

    def __init__(self, title: str, total: int, log: Path | None) -> None:
        self.title, self.total, self._log = title, total, log
        self.done = self.failed = self.running = 0
        self._began = self._told = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bar = Progress(
            *columns, TextColumn("{task.fields[note]}"), console=console.stderr, transient=True
        )
        self._task = self._bar.add_task(title, total=total, note="")

    @contextmanager
    def shown(self) -> Iterator["Monitor"]:
        """Shows progress meanwhile; the rate counts from here."""
        self._began = self._told = time.monotonic()
        with self._bar:
            yield self

    @property
    def status(self) -> str:
        """Counts, rate and time left, in words."""
        ended, seconds = self.done + self.failed, time.monotonic() - self._began
        parts = [f"{self.failed} failed"] if self.failed else []
        parts.append(f"{self.running} running")
        if ended:
            rate = ended / max(seconds, 1e-9)
            left = (self.total - ended) / rate
            parts += [f"{rate:.2g}/s" if rate >= 1 else f"{60 * rate:.2g}/min", _left(left)]
        return ", ".join(parts)

    def start(self, name: str) -> None:
        """A trial begins."""
        self.running += 1
        self._show(name)

    def end(self, name: str, how: str, *, failed: bool = False, over: bool = True) -> None:
        """A trial ended, or, if it is not over, will be tried again."""
        self.running -= 1
        if over:
            self.failed += failed
            self.done += not failed
        self.write(f"{self.done + self.failed}/{self.total} {how}: {name} | {self.status}")
        self._show(name)

    def skip(self, count: int) -> None:
        """So many trials need not be done."""
        self.total -= count

    def write(self, line: str) -> None:
        """Appends a line to the log."""
        if self._log is not None:
            with self._log.open("a", encoding="utf-8") as log:
                log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")

    def _show(self, name: str) -> None:
        note = console.plain(f"{self.status} | {name}")
        self._bar.update(self._task, completed=self.done + self.failed, total=self.total, note=note)
        now = time.monotonic()
        if not console.stderr.is_terminal and now - self._told >= _TOLD_SECONDS:
            self._told = now
            line = f"{self.title}: {self.done + self.failed}/{self.total}, {self.status}"
            console.stderr.print(line, highlight=False, soft_wrap=True)


def _left(seconds: float) -> str:
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{minutes:.0f} min left" if minutes < 90 else f"{hours:.1f} h left"
