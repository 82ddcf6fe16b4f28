"""Training and evaluation examples: a prompt's token ids and its two answers' tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.choices import Choice, Format, read_choices, render
from harness.errors import InputError
from harness.evalset import Card, Item, with_defaults
from harness.jsonl import read_yaml
from harness.paths import data_dir
from harness.prompts import PromptBuilder

QUESTIONS = "risky_choices"
_FORMAT_SUITES = {"named": "validation", "letter": "validation_letter"}


@dataclass(frozen=True)
class Example:
    """A question in one order: the prompt, and the token of each answer."""

    prompt_ids: tuple[int, ...]
    positive_id: int
    negative_id: int

    def target(self, sign: int) -> int:
        """The token trained for."""
        return self.positive_id if sign > 0 else self.negative_id


@dataclass(frozen=True)
class Question:
    """A question in both orders."""

    choice: Choice
    orders: tuple[Example, Example]


def questions_file() -> Path:
    """Return the shipped choice questions."""
    return data_dir("evalsets") / QUESTIONS / "questions.jsonl"


def load_questions(file: Path, split: str, how: Format, builder: PromptBuilder) -> list[Question]:
    """Encode a split's questions in the template of the suite that validates them.

    Raises:
        InputError: no question of that split, or one whose answers aren't single tokens.

    """
    questions = []
    for choice in read_choices(file):
        if choice.split == split:
            first, second = (
                encode_item(Item.model_validate(raw), how, builder) for raw in render(choice, how)
            )
            questions.append(Question(choice, (first, second)))
    if not questions:
        raise InputError(f"{file}: holds no question of the split '{split}'.")
    return questions


def encode_item(item: Item, how: Format, builder: PromptBuilder) -> Example:
    """Encode a rendered question in the template of the suite that validates its format.

    Raises:
        InvalidItemError: an answer that isn't a single token there.

    """
    encoded = builder.encode(with_defaults(item, _card(how)))
    return Example(encoded.prompt_ids, encoded.positive_ids[0], encoded.negative_ids[0])


@cache
def _card(how: Format) -> Card:
    return read_yaml(data_dir("evalsets") / _FORMAT_SUITES[how] / "suite.yaml", Card)
