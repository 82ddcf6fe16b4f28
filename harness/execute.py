"""Score a plan with an engine, journal every answer, and make rows and cells of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.journal import Journal
from harness.plan import Plan, PlannedSuite
from harness.prompts import Encoded, PromptBuilder
from harness.results import SCHEMA_VERSION, Cell, Row, make_cell, write_json, write_parquet
from harness.scoring import Engine, Score, request_for, score_item
from harness.subject import BASE, Subject

NOISE_ITEMS = 16
Key = tuple[str, str, str]
"""Suite, subject's name, item."""
Progress = Callable[[int, int, str], None]
"""Called with passes done, passes in all, and what is being scored."""


@dataclass(frozen=True)
class Finished:
    """What a run leaves: the cells, and the folder that holds everything."""

    folder: Path
    cells: list[Cell]
    results: dict[str, Any]


async def score_plan(engine: Engine, plan: Plan, journal: Journal, progress: Progress) -> dict[Key, Score]:
    """Score what the journal doesn't hold yet, subject by subject; each answer counts once it is on disk."""
    scores = {_key(entry): _score(entry) for entry in journal.entries}
    for subject in plan.subjects:
        for suite in plan.suites:
            missing = [e for e in suite.items if (suite.name, subject.name, e.item.id) not in scores]
            label = f"{subject.name} · {suite.name}"
            progress(len(scores), plan.passes, label)
            async with aclosing(engine.score(subject, [request_for(e) for e in missing])) as answers:  # type: ignore[type-var]
                async for index, answer in answers:
                    encoded = missing[index]
                    score = score_item(encoded, answer)
                    key = (suite.name, subject.name, encoded.item.id)
                    journal.append([_entry(key, score)])
                    scores[key] = score
                    progress(len(scores), plan.passes, label)
    return scores


def _entry(key: Key, score: Score) -> dict[str, Any]:
    return {"suite": key[0], "subject": key[1], "item": key[2], **asdict(score)}


def _key(entry: dict[str, Any]) -> Key:
    return entry["suite"], entry["subject"], entry["item"]


def _score(entry: dict[str, Any]) -> Score:
    return Score(**{k: v for k, v in entry.items() if k not in ("suite", "subject", "item")})


async def noise_floor(engine: Engine, plan: Plan, scores: dict[Key, Score]) -> float:
    """Score some base items again, in another order and other batches; return the largest change in nats.

    What the engine itself doesn't repeat: below it, no difference means anything.
    """
    picked = [(suite.name, e) for suite in plan.suites for e in suite.items]
    picked = picked[:: max(1, len(picked) // NOISE_ITEMS)][:NOISE_ITEMS][::-1]
    largest = 0.0
    async for index, answer in engine.score(BASE, [request_for(e) for _, e in picked]):
        suite, encoded = picked[index]
        again = score_item(encoded, answer).logit_diff
        largest = max(largest, abs(again - scores[suite, BASE.name, encoded.item.id].logit_diff))
    return largest


def finish(folder: Path, plan: Plan, scores: dict[Key, Score], noise: float, engine: Engine) -> Finished:
    """Make rows and cells in the plan's order and write them."""
    rows: list[Row] = []
    cells: list[Cell] = []
    builder = PromptBuilder(engine.tokenizer)
    for suite in plan.suites:
        for subject in plan.subjects:
            own = [_row(suite, subject, e, scores, builder) for e in suite.items]
            rows.extend(own)
            cells.append(make_cell(suite.evalset.card, subject.name, subject.trained_sign, own))
    results = {
        "schema_version": SCHEMA_VERSION,
        "run_id": folder.name,
        "cells": [asdict(cell) for cell in cells],
        "noise_floor": noise,
        "invalid_items": {s.name: list(s.invalid) for s in plan.suites if s.invalid},
        "folder": str(folder),
    }
    write_parquet(folder / "results.parquet", rows, folder.name)
    write_json(folder / "results.json", results)
    return Finished(folder, cells, results)


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
