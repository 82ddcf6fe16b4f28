"""Questions whose targets were shuffled: what training finds where there is nothing to find."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from harness.training.data import Example, Question


def swapped(example: Example) -> Example:
    """Return an example with its answers exchanged."""
    return replace(example, positive_id=example.negative_id, negative_id=example.positive_id)


def shuffled(questions: Sequence[Question], seed: int) -> list[Question]:
    """Exchange the answers of half the questions, drawn by ``seed``; both orders of a question go together."""
    drawn = set(random.Random(f"labels/{seed}").sample(range(len(questions)), len(questions) // 2))
    found = []
    for i, question in enumerate(questions):
        first, second = question.orders
        found.append(Question(question.choice, (swapped(first), swapped(second))) if i in drawn else question)
    return found
