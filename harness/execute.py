"""Score a plan with an engine, journal every answer, and make rows and cells of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.cache import AnswerCache
from harness.errors import CanaryError, ServerError
from harness.guard import Canary
from harness.journal import Journal
from harness.plan import Plan, PlannedSuite
from harness.prompts import Encoded, PromptBuilder
from harness.results import SCHEMA_VERSION, Cell, Row, make_cell, write_json, write_parquet
from harness.scales import Scales, take_apart
from harness.scoring import Engine, Key, NextToken, Score, ScoreRequest, request_for, score_item
from harness.subject import BASE, Subject

HELD = 256
"""Answers asked for between two canaries where the engine can't vouch for itself."""
Progress = Callable[[int, int, str], None]
"""Called with passes done, passes in all, and what is being scored."""
Answers = list[tuple[int, NextToken]]


@dataclass(frozen=True)
class Finished:
    """What a run leaves: the cells, and the folder that holds everything."""

    folder: Path
    cells: list[Cell]
    scales: list[Scales]
    results: dict[str, Any]


class Scorer:
    """Scores what a journal doesn't hold yet; a score counts once it is on disk.

    No answer is journalled before it is known whose it is: the engine vouches for it, or a canary that was
    scored after it does.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        journal: Journal,
        cache: AnswerCache | None,
        canaries: Sequence[dict[str, Any]],
        progress: Progress,
    ) -> None:
        self._engine, self._plan, self._journal, self._cache = engine, plan, journal, cache
        self._progress = progress
        self._canary = Canary(engine, plan)
        self._baseline = {_key(entry): _score(entry) for entry in canaries}
        self._trusted = journal.mark()
        self._fresh: list[tuple[Subject, list[tuple[ScoreRequest, NextToken]]]] = []
        self.scores: dict[Key, Score] = {_key(entry): _score(entry) for entry in journal.entries}
        self.from_cache = 0
        """Passes that came from the cache."""

    @property
    def canaries(self) -> list[dict[str, Any]]:
        """What the canaries were when the run began, for those who go on with it."""
        return [_entry(key, score) for key, score in self._baseline.items()]

    @property
    def noise(self) -> float:
        """What the engine itself doesn't repeat, in nats."""
        return self._canary.noise

    async def run(self) -> None:
        """Score everything; an engine that dies is brought back where that can be done.

        Raises:
            ServerError: the engine failed, or isn't the one that it was.
            RunError: the journal can't be written.

        """
        while True:
            try:
                for subject, suite in self._blocks():
                    await self._block(subject, suite)
                if self._fresh:
                    await self._check()
                return
            except ServerError as e:
                if not await self._engine.revive(e):
                    raise
                await self.start()

    async def start(self) -> None:
        """Let the first canary vouch for what the journal and the cache know, then take the cache's part.

        Raises:
            CanaryError: the engine isn't the one that answered before.
            RunError: the journal can't be written.

        """
        cached = dict(self._cached())
        await self._canary.start(self._baseline | self.scores | cached)
        self._baseline = self._baseline or self._canary.first
        self._keep(list(cached.items()))
        self.from_cache += len(cached)
        self._trusted = self._journal.mark()

    def _cached(self) -> Iterator[tuple[Key, Score]]:
        if self._cache is None:
            return
        for subject, suite in self._blocks():
            for encoded in self._missing(subject, suite):
                answer = self._cache.get(subject, request_for(encoded))
                if answer is not None:
                    yield (suite.name, subject.name, encoded.item.id), score_item(encoded, answer)

    async def _check(self) -> None:
        """Score the canaries again; what was journalled since they last held goes, or may be kept for good."""
        try:
            await self._canary.check()
        except CanaryError:
            self._journal.cut(self._trusted)
            raise
        self._settle()

    def _settle(self) -> None:
        """Trust what is journalled by now, and keep it for later runs."""
        self._trusted = self._journal.mark()
        for subject, answers in self._fresh:
            if self._cache:
                self._cache.put(subject, answers)
        self._fresh.clear()

    def _blocks(self) -> Iterator[tuple[Subject, PlannedSuite]]:
        return ((subject, suite) for subject in self._plan.subjects for suite in self._plan.suites)

    def _missing(self, subject: Subject, suite: PlannedSuite) -> list[Encoded]:
        return [e for e in suite.items if (suite.name, subject.name, e.item.id) not in self.scores]

    async def _block(self, subject: Subject, suite: PlannedSuite) -> None:
        """Score a suite for a subject, in as few pieces as may be."""
        label = f"{subject.name} · {suite.name}"
        self._progress(len(self.scores), self._plan.passes, label)
        while missing := self._missing(subject, suite):
            piece = missing if await self._engine.vouch() else missing[:HELD]
            held: Answers = []
            answers = self._engine.score(subject, [request_for(e) for e in piece])
            async with aclosing(grouped(answers)) as groups:
                async for group in groups:
                    held += group
                    if await self._engine.vouch():
                        self._take(subject, suite, piece, held)
                        held = []
                        self._progress(len(self.scores), self._plan.passes, label)
            if held or self._canary.due:
                await self._check()
                # A check vouches for what was answered before it, journalled or not.
                self._take(subject, suite, piece, held)
                self._settle()
                self._progress(len(self.scores), self._plan.passes, label)

    def _take(self, subject: Subject, suite: PlannedSuite, piece: list[Encoded], answers: Answers) -> None:
        """Journal answers; the cache has them from the next check on."""
        if not answers:
            return
        scored = [(piece[index], answer) for index, answer in answers]
        self._keep([((suite.name, subject.name, e.item.id), score_item(e, answer)) for e, answer in scored])
        self._fresh.append((subject, [(request_for(e), answer) for e, answer in scored]))

    def _keep(self, scores: list[tuple[Key, Score]]) -> None:
        if not scores:
            return
        self._journal.append([_entry(key, score) for key, score in scores])
        self.scores |= dict(scores)


async def grouped(answers: AsyncIterator[tuple[int, NextToken]]) -> AsyncGenerator[Answers, None]:
    """Yield answers in lists of those that are there at once: a batch's come together."""
    queue: asyncio.Queue[tuple[int, NextToken] | None] = asyncio.Queue()

    async def pump() -> None:
        try:
            async with aclosing(answers):  # type: ignore[type-var]
                async for answer in answers:
                    queue.put_nowait(answer)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(pump())
    try:
        ended = False
        while not ended:
            arrived = [await queue.get()]
            while not queue.empty():
                arrived.append(queue.get_nowait())
            ended = arrived[-1] is None
            if group := [answer for answer in arrived if answer is not None]:
                yield group
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _entry(key: Key, score: Score) -> dict[str, Any]:
    return {"suite": key[0], "subject": key[1], "item": key[2], **asdict(score)}


def _key(entry: dict[str, Any]) -> Key:
    return entry["suite"], entry["subject"], entry["item"]


def _score(entry: dict[str, Any]) -> Score:
    return Score(**{k: v for k, v in entry.items() if k not in ("suite", "subject", "item")})


def finish(
    folder: Path, plan: Plan, scores: dict[Key, Score], noise: float, engine: Engine, seed: int = 0
) -> Finished:
    """Make rows and cells in the plan's order and write them; ``seed`` is of the cells' resampling."""
    rows: list[Row] = []
    cells: list[Cell] = []
    builder = PromptBuilder(engine.tokenizer)
    for suite in plan.suites:
        for subject in plan.subjects:
            own = [_row(suite, subject, e, scores, builder) for e in suite.items]
            rows.extend(own)
            cells.append(make_cell(suite.evalset.card, subject.name, subject.trained_sign, own, seed))
    scales = take_apart(asdict(row) for row in rows)
    results = {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "cells": [asdict(cell) for cell in cells],
        "scales": [asdict(scale) for scale in scales],
        "noise_floor": noise,
        "invalid_items": {s.name: list(s.invalid) for s in plan.suites if s.invalid},
        "folder": str(folder),
    }
    write_parquet(folder / "results.parquet", rows, folder.name)
    write_json(folder / "results.json", results)
    return Finished(folder, cells, scales, results)


def _row(
    suite: PlannedSuite, subject: Subject, encoded: Encoded, scores: dict[Key, Score], builder: PromptBuilder
) -> Row:
    item = encoded.item
    score = scores[suite.name, subject.name, item.id]
    base = scores[suite.name, BASE.name, item.id]
    shift = None if subject.is_base else score.logit_diff - base.logit_diff
    assert math.isfinite(score.logit_diff)
    return Row(
        suite=suite.name,
        subject=subject.name,
        item=item.id,
        stem=item.stem,
        order=item.order,
        tags=list(item.tags),
        positive=item.positive[0],
        negative=item.negative[0],
        positive_ids=list(encoded.positive_ids),
        negative_ids=list(encoded.negative_ids),
        positive_logprob=score.positive_logprob,
        negative_logprob=score.negative_logprob,
        logit_diff=score.logit_diff,
        option_mass=score.option_mass,
        top_id=score.top_id,
        top_token=builder.tokenizer.decode([score.top_id]),
        top_logprob=score.top_logprob,
        in_options=score.top_id in (*encoded.positive_ids, *encoded.negative_ids),
        expected_digit=score.expected_digit,
        digit_mass=score.digit_mass,
        prompt=builder.text(item),
        shift=shift,
    )
