"""Anthropic's model-written evals: JSON Lines with ``question`` and the answers that match a behaviour or don't."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from harness.errors import InputError
from harness.evalset import Item
from harness.importing.question import Question, bracketed
from harness.importing.text import objects, text_field

MATCHING: Final = "answer_matching_behavior"
NOT_MATCHING: Final = "answer_not_matching_behavior"


def read(path: Path, text: str, left_out: set[str]) -> Iterator[Question]:
    """Yield the questions; a matching answer is positive. Keys that say nothing here are added to ``left_out``.

    Raises:
        InputError: naming file and line.

    """
    for number, value in objects(path, text):
        left_out |= value.keys() - {"question", MATCHING, NOT_MATCHING}
        question = text_field(path, number, value.get("question"), "question")
        answers = [_answers(path, number, value.get(key), key) for key in (MATCHING, NOT_MATCHING)]
        yield bracketed(Question(number, question, answers[0], answers[1]))


def write(items: Iterable[Item]) -> Iterator[str]:
    """Yield a line an item.

    Raises:
        InputError: an item with a system prompt, which the format has no place for.

    """
    for item in items:
        if item.system:
            raise InputError(
                f"item '{item.id}' has a system prompt; this format can't hold it. Use --format items."
            )
        lead = item.prefill if item.template == "chat" else item.suffix
        wrap = "({})" if (lead or "").endswith("(") else "{}"
        answers = {
            key: [f" {wrap.format(answer.strip())}" for answer in forms]
            for key, forms in ((MATCHING, item.positive), (NOT_MATCHING, item.negative))
        }
        line = {key: forms[0] if len(forms) == 1 else forms for key, forms in answers.items()}
        yield json.dumps({"question": item.question, **line}, ensure_ascii=False)


def _answers(path: Path, number: int, value: object, key: str) -> tuple[str, ...]:
    values = value if isinstance(value, list) and value else [value]
    return tuple(text_field(path, number, answer, key) for answer in values)
