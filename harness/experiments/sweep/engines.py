"""The two engines of a sweep; both yield groups of cells with their scores, and skip what is scored already."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Any, Protocol

from harness.client import ScoringClient
from harness.errors import ServerError
from harness.experiments.sweep import BASE_LAYER
from harness.experiments.sweep.grid import Cell, Direction, Grid
from harness.prompts import Encoded
from harness.scoring import NextToken, Score, request_for, score_item
from harness.spec import Term
from harness.subject import BASE, Steered, Subject

Scored = list[tuple[Cell, Score]]
Items = list[tuple[str, Encoded]]


class SweepEngine(Protocol):
    """Scores the missing cells of a grid."""

    def run(self, grid: Grid, direction: Direction) -> AsyncGenerator[Scored, None]:
        """Yield groups of scored cells as they come."""


class Server:
    """A vLLM server that steers, asked by model names, many requests in flight.

    Prompts go in blocks of a request's size, strengths within them, the base model first: its pass leaves each
    prompt's prefix in the server's cache, and with ``last`` every steered request takes it from there.
    """

    def __init__(self, client: ScoringClient, batch_size: int, concurrency: int) -> None:
        self._client, self._size, self._slots = client, batch_size, concurrency

    async def run(self, grid: Grid, direction: Direction) -> AsyncGenerator[Scored, None]:
        """Yield what comes back; a group counts once the server has vouched for it.

        Raises:
            ServerError: the server failed, or another one answers now.

        """
        work = self._work(grid, direction)
        pending: set[asyncio.Task[Scored]] = set()
        try:
            while True:
                while len(pending) < self._slots and (asked := next(work, None)):
                    pending.add(asyncio.create_task(self._ask(*asked)))
                if not pending:
                    return
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                group = [scored for task in done for scored in task.result()]
                if not await self._client.vouch():
                    raise ServerError(
                        "The server can't say that it is still the one that was asked at first."
                    )
                yield group
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    def _work(self, grid: Grid, direction: Direction) -> Iterator[tuple[Subject, Items, int, float]]:
        items = grid.items
        for start in range(0, len(items), self._size):
            block = items[start : start + self._size]
            for layer, alpha in grid.cells():
                if missing := grid.missing(block, layer, alpha):
                    yield subject(grid, direction, layer, alpha), missing, layer, alpha

    async def _ask(self, who: Subject, items: Items, layer: int, alpha: float) -> Scored:
        found: Scored = []
        async with aclosing(self._client.score(who, [request_for(e) for _, e in items])) as answers:  # type: ignore[type-var]
            async for index, answer in answers:
                suite, encoded = items[index]
                found.append(((suite, encoded.item.id, layer, alpha), score_item(encoded, answer)))
        return found


def subject(grid: Grid, direction: Direction, layer: int, alpha: float) -> Subject:
    """Return who answers in a cell, under the model name that a server knows."""
    if layer == BASE_LAYER:
        return BASE
    vector = direction.vector
    strength = direction.sign * alpha
    term = Term(vector.name, layer, "resid_post", strength, grid.mode, grid.selector, grid.bos)
    return Subject(term.name, None, (Steered(term, vector),))


class InProcess:
    """Transformers in this process, with everything reused that steering doesn't touch."""

    def __init__(self, model: Any, bos_id: int | None, max_tokens: int) -> None:
        self._model, self._bos, self._max_tokens = model, bos_id, max_tokens

    async def run(self, grid: Grid, direction: Direction) -> AsyncGenerator[Scored, None]:
        """Yield a chunk's scores as it is done."""
        chunks = self._chunks(grid, direction)
        while (scored := await asyncio.to_thread(next, chunks, None)) is not None:
            yield scored

    def _chunks(self, grid: Grid, direction: Direction) -> Iterator[Scored]:
        from harness.reference.sweep import Answers, Strengths, Sweeper

        cells = grid.cells()
        items = [item for item in grid.items if any(grid.missing([item], *cell) for cell in cells)]
        if not items:
            return
        wanted = padded([list(e.wanted_ids) for _, e in items])
        missing = [cell for cell in cells[1:] if grid.missing(items, *cell)]
        layers = tuple(dict.fromkeys(layer for layer, _ in missing))
        alphas = [alpha for alpha in grid.alphas if any(alpha == other for _, other in missing)]
        sweeper = Sweeper(
            self._model,
            [e.prompt_ids for _, e in items],
            wanted,
            "last" if grid.selector == "last" else "all",
            bos_id=self._bos,
            max_tokens=self._max_tokens,
        )

        def read(block: Answers, alphas: list[float]) -> Scored:
            return [scored for scored in _read(block, alphas, items, wanted) if scored[0] not in grid.scores]

        for block in sweeper.base():
            yield read(block, [0.0])
        if not missing:
            return
        scales = tuple(direction.sign * alpha for alpha in alphas)
        strengths = Strengths(layers, scales, "last" if grid.selector == "last" else "all", grid.mode)
        for block in sweeper.sweep(direction.vector.values, strengths):
            yield read(block, alphas)


def padded(rows: list[list[int]]) -> list[list[int]]:
    """Bring rows to one length by repeating their first value: tokens asked for twice do no harm."""
    longest = max(map(len, rows))
    return [row + row[:1] * (longest - len(row)) for row in rows]


def _read(block: Any, alphas: list[float], items: Items, wanted: list[list[int]]) -> Scored:
    found: Scored = []
    for row, index in enumerate(block.prompts):
        suite, encoded = items[index]
        for column, layer in enumerate(block.layers):
            for place, alpha in enumerate(alphas[block.scales]):
                at = (row, column, place)
                logprobs = dict(zip(wanted[index], map(float, block.logits[at]), strict=True))
                answer = NextToken(logprobs, int(block.top_ids[at]), float(block.top_logprobs[at]))
                found.append(((suite, encoded.item.id, layer, alpha), score_item(encoded, answer)))
    return found
