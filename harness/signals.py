"""Ctrl-C and SIGTERM: end cleanly at the first, at once at the second, and never later than promised."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")
HANDLED = (signal.SIGINT, signal.SIGTERM)
SECONDS = 1.5
"""After the first signal: two are promised, and a busy machine takes its share. What is still in the way then (a model
being converted or imported) is cut off."""


def interrupt_in_time() -> None:
    """Make Ctrl-C end the process in time, whatever it does then.

    Python raises KeyboardInterrupt wherever the main thread is. In a weak reference's callback or a finaliser, as
    imports have many, that is printed and forgotten, and a long native call does not see it at all.
    """

    def interrupt(signum: int, frame: FrameType | None) -> None:
        _end_later(signum)
        signal.default_int_handler(signum, frame)

    signal.signal(signal.SIGINT, interrupt)


def _end_later(signum: int) -> None:
    deadline = threading.Timer(SECONDS, os._exit, [128 + signum])
    deadline.daemon = True
    deadline.start()


class _Stop:
    """The first signal cancels the task; a second one, or the deadline, ends the process where it stands.

    That loses nothing: the journal is whole at any moment, and watchdogs kill the servers of a process that
    ended. Python's own handlers are used, not the loop's: those wait for a loop that is busy.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> None:
        self.signum: int | None = None
        self._loop, self._task = loop, task
        for signum in HANDLED:
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum
        _end_later(signum)
        self._loop.call_soon_threadsafe(self._task.cancel)


def run_interruptibly(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end; on a signal let it clean up, then exit with 130 or 143.

    What the coroutine has to say about going on it says itself, when it is cancelled.
    """
    stop: _Stop | None = None
    before = {signum: signal.getsignal(signum) for signum in HANDLED}

    async def watched() -> T:
        nonlocal stop
        task = asyncio.current_task()
        assert task is not None
        stop = _Stop(asyncio.get_running_loop(), task)
        return await work

    try:
        return asyncio.run(watched())
    except asyncio.CancelledError:
        if stop is None or stop.signum is None:
            raise
        sys.stderr.flush()
        sys.exit(128 + stop.signum)
    finally:
        # The loop is closed: what comes now goes where it went before.
        for signum, handler in before.items():
            signal.signal(signum, handler)
