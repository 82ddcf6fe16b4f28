"""Labels are shuffled for half of the questions, in both orders, and never for others."""

from __future__ import annotations

from pathlib import Path

from harness.choices import Choice
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training.data import load_questions, questions_file
from harness.training.labels import shuffled


def test_half_of_the_questions_change_their_labels(embedded_model: Path) -> None:
    builder = PromptBuilder(load_tokenizer(str(embedded_model)))
    questions = load_questions(questions_file(), "development", "named", builder)
    changed = 0
    for before, after in zip(questions, shuffled(questions, 3), strict=True):
        assert isinstance(after.choice, Choice)
        swapped = [(e.negative_id, e.positive_id) for e in before.orders]
        kept = [(e.positive_id, e.negative_id) for e in before.orders]
        now = [(e.positive_id, e.negative_id) for e in after.orders]
        assert now in (swapped, kept)
        assert [e.prompt_ids for e in after.orders] == [e.prompt_ids for e in before.orders]
        changed += now == swapped
    assert changed == len(questions) // 2
    assert shuffled(questions, 3) == shuffled(questions, 3) != shuffled(questions, 4)
