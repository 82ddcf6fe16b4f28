"""Which token gets what: the index arithmetic, in one place, pure and without torch or vLLM.

A spec and a prompt's length divide a request's positions into runs on which the same additions act. The
prefix-cache keys and both runners' adapters read these runs; nothing else decides what is steered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.spec import position_from_end
from servers.steering.resolved import Content, ResolvedSpec, content_digest

END: Final = 1 << 62
"""The stop of a run that goes on for as long as tokens are generated."""


@dataclass(frozen=True)
class Run:
    """Positions ``start <= p < stop`` of a request, all with the same additions."""

    start: int
    stop: int
    content: Content


class Scheduled(NamedTuple):
    """One request's part of a step: tokens ``computed .. computed + length`` at ``offset`` of the batch.

    ``runs`` are ``(start, stop, slot)``.
    """

    offset: int
    computed: int
    length: int
    runs: Sequence[tuple[int, int, int]]


def selects(selector: str, position: int, prompt_len: int, skip_first: bool) -> bool:
    """Whether a selector takes a position; ``skip_first`` says that position 0 is a BOS to leave out."""
    if (k := position_from_end(selector)) is not None:
        return position == prompt_len - k
    if selector == "generated":
        return position >= prompt_len
    if skip_first and position == 0:
        return False
    return selector == "all" or position < prompt_len


@lru_cache(maxsize=65_536)
def runs(spec: ResolvedSpec, prompt_len: int, starts_with_bos: bool) -> tuple[Run, ...]:
    """Divide a request's positions into runs; positions that nothing acts on are in none."""
    cuts = {0, prompt_len}
    if starts_with_bos:
        cuts.add(1)
    for term in spec.terms:
        if (k := position_from_end(term.selector)) is not None and k <= prompt_len:
            cuts |= {prompt_len - k, prompt_len - k + 1}
    edges = [*sorted(cuts), END]
    found: list[Run] = []
    for start, stop in pairwise(edges):
        content = tuple(
            sorted(
                term.addition
                for term in spec.terms
                if selects(term.selector, start, prompt_len, starts_with_bos and not term.bos)
            )
        )
        if found and found[-1].stop == start and found[-1].content == content:
            found[-1] = Run(found[-1].start, stop, content)
        elif content:
            found.append(Run(start, stop, content))
    return tuple(found)


def starts_with_bos(spec: ResolvedSpec, prompt: Sequence[int] | None) -> bool:
    """Whether position 0 holds the token that ``all`` and ``prompt`` leave out."""
    return spec.bos_id is not None and bool(prompt) and prompt is not None and prompt[0] == spec.bos_id


def block_key(request_runs: Sequence[Run], start: int, stop: int) -> tuple[tuple[int, int, bytes], ...]:
    """Return what steers a block of positions: absolute positions and content, empty where nothing does."""
    return tuple(
        (max(run.start, start), min(run.stop, stop), content_digest(run.content))
        for run in request_runs
        if run.start < stop and run.stop > start
    )


def fill_slots(batch: Sequence[Scheduled], out: NDArray[np.int32]) -> None:
    """Write each token's slot into ``out`` (``[tokens]``, padding included); 0 where nothing acts."""
    out[:] = 0
    for part in batch:
        begin, end, shift = part.computed, part.computed + part.length, part.offset - part.computed
        for start, stop, slot in part.runs:
            first, last = max(start, begin), min(stop, end)
            if first < last:
                out[first + shift : last + shift] = slot
