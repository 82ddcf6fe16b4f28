"""Progress on stderr: a bar for passes and a line for what happens before them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.status import Status

stderr = Console(stderr=True, highlight=False)


class Reporter:
    """Shows what is going on: a spinner with a line, then a bar. Lines only where stderr is no terminal."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._bar: Progress | None = None
        self._last = ""

    def report(self, text: str) -> None:
        """Say what is being done now."""
        if stderr.is_terminal:
            if self._status is None:
                self._status = stderr.status(text)
                self._status.start()
            self._status.update(text)
            return
        # Without a terminal, say each step once, not each second of it.
        step = text.split(",")[0]
        if step != self._last:
            self._last = step
            sys.stderr.write(f"{text}\n")

    def progress(self, done: int, total: int, label: str) -> None:
        """Advance the bar of passes."""
        if not stderr.is_terminal:
            if label != self._last:
                self._last = label
                sys.stderr.write(f"Scoring {label} ({done}/{total})\n")
            return
        if self._bar is None:
            self.close()
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=stderr, transient=True)
            self._bar.start()
            self._bar.add_task(label, total=total)
        self._bar.update(self._bar.task_ids[0], completed=done, description=label)

    def close(self) -> None:
        """Take the spinner and the bar off the screen."""
        if self._status is not None:
            self._status.stop()
            self._status = None
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


@contextmanager
def reporting() -> Iterator[Reporter]:
    """Yield a reporter that is taken off the screen at the end."""
    reporter = Reporter()
    try:
        yield reporter
    finally:
        reporter.close()
