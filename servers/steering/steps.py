"""From what a runner schedules to the buffers, with no work at all where nothing has changed.

In decoding, the same requests get one token each, step after step, and few of them enter or leave a run. A
step that has been worked out therefore says how far it holds: while the same requests stay within those
positions, their tokens' slots stay the same, and whole batches are checked with a few NumPy operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servers.steering.buffers import SteeringBuffers, StepRequest
from servers.steering.resolved import Content
from servers.steering.rows import END, Run


@dataclass
class _Steady:
    """What the coming steps of one token a request need, while each stays in ``since <= position < until``."""

    ids: list[str]
    since: NDArray[np.int64]
    until: NDArray[np.int64]
    slots: NDArray[np.int32]
    contents: tuple[Content, ...]
    tokens: int = 0
    """The length of the step that the buffers hold; 0: none yet."""


class StepWriter:
    """Writes each step of a runner into the buffers.

    Args:
        buffers: the worker's.
        runs_of: returns a request's runs by its id; called only where a step has to be worked out.

    """

    def __init__(self, buffers: SteeringBuffers, runs_of: Callable[[str], tuple[Run, ...]]) -> None:
        self._buffers = buffers
        self._runs_of = runs_of
        self._steady: _Steady | None = None
        self._failed = False

    def forget(self) -> None:
        """Work the next step out anew: a request came or went, and ids may be used again."""
        self._steady = None

    def write(
        self, ids: Sequence[str], starts: NDArray[np.integer], computed: NDArray[np.integer], tokens: int
    ) -> None:
        """Make the buffers say what the coming step needs.

        Args:
            ids: the requests of the batch, in order.
            starts: where each begins in the batch, ``[requests + 1]`` or longer.
            computed: how many tokens of each are done, ``[requests]`` or longer.
            tokens: of the step, padding included.

        Raises:
            RuntimeError: a request needs what isn't there, or an earlier step failed, which may have left the
                buffers half written; the step must not run.

        """
        if self._failed:
            raise RuntimeError("steering: an earlier step failed; this worker can't steer any more.")
        try:
            self._write(ids, starts, computed, tokens)
        except BaseException:
            self._failed = True
            raise

    def _write(
        self, ids: Sequence[str], starts: NDArray[np.integer], computed: NDArray[np.integer], tokens: int
    ) -> None:
        count = len(ids)
        steady = self._steady
        if steady is not None and int(starts[count]) == count and ids == steady.ids:
            at = computed[:count]
            if bool(((steady.since <= at) & (at < steady.until)).all()):
                self._stay(steady, tokens)
                return
        self._steady = None
        known = [self._runs_of(id_) for id_ in ids]
        ends = [int(computed[i]) + int(starts[i + 1] - starts[i]) for i in range(count)]
        requests = [
            StepRequest(int(starts[i]), int(computed[i]), int(starts[i + 1] - starts[i]), runs)
            for i, runs in enumerate(known)
            if runs
        ]
        self._buffers.write_step(requests, tokens)
        self._steady = self._outlook(list(ids), known, ends)

    def _stay(self, steady: _Steady, tokens: int) -> None:
        if steady.tokens == tokens:
            return
        slots = np.zeros(tokens, dtype=np.int32)
        slots[: len(steady.slots)] = steady.slots
        self._buffers.write_tokens(slots, steady.contents)
        steady.tokens = tokens

    def _outlook(self, ids: list[str], known: list[tuple[Run, ...]], ends: list[int]) -> _Steady:
        """Return what the next steps need; a request whose next content has no slot yet ends it at once."""
        since = np.array(ends, dtype=np.int64)
        until = np.full(len(ids), END, dtype=np.int64)
        slots = np.zeros(len(ids), dtype=np.int32)
        contents = []
        for i, (runs, end) in enumerate(zip(known, ends, strict=True)):
            run = next((run for run in runs if run.stop > end), None)
            if run is None:
                continue
            if run.start > end:
                until[i] = run.start
            elif (slot := self._buffers.slot_of(run.content)) is None:
                until[i] = end
            else:
                slots[i], until[i] = slot, run.stop
                contents.append(run.content)
        return _Steady(ids, since, until, slots, tuple(dict.fromkeys(contents)))
