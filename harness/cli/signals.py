"""Ctrl-C and SIGTERM: end cleanly at the first, at once at the second."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Stop:
    """The first signal cancels the task; a second one ends the process where it stands."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def watch(self, task: asyncio.Task[Any]) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, self._on_signal, signum, task)

    def _on_signal(self, signum: int, task: asyncio.Task[Any]) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        task.cancel()


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; on a signal let it clean up, then exit with 130 or 143.

    What the coroutine has to say about going on it says itself, when it is cancelled.
    """
    stop = _Stop()

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None
        stop.watch(task)
        return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if stop.signum is None:
            raise
        sys.stderr.flush()
        sys.exit(128 + stop.signum)
