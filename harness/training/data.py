"""Training and evaluation examples: a prompt's token ids and its two answers' tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.choices import VALIDATION, Choice, Format, read_choices, render
from harness.errors import InputError
from harness.evalset import Card, Item, load_suite, with_defaults
from harness.jsonl import read_yaml
from harness.paths import data_dir
from harness.prompts import PromptBuilder

QUESTIONS = "risky_choices"


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

    ``file`` holds choices, or is the ``items.jsonl`` of a suite that ``harness suites import --split`` made: its
    siblings ``NAME_train``, ``NAME_development`` and ``NAME_test`` are the splits, asked as their cards say.

    Raises:
        InputError: no question of that split, or one whose answers aren't single tokens.

    """
    if (file.parent / "suite.yaml").is_file():
        return _imported(file, split, builder)
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
    return read_yaml(data_dir("evalsets") / VALIDATION[how] / "suite.yaml", Card)


def splits_of(file: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``train`` and those of the wanted splits that a file may hold; imports hold out no domains."""
    imported = (file.parent / "suite.yaml").is_file()
    return ("train", *(split for split in wanted if not (imported and split == "heldout")))


def _imported(file: Path, split: str, builder: PromptBuilder) -> list[Question]:
    """Encode a split of an imported suite; a question asked in one order counts as both."""
    name, mark, _ = file.parent.name.rpartition("_")
    folder = file.parent.with_name(f"{name}_{split}")
    if not mark or not folder.is_dir():
        raise InputError(
            f"{file}: has no split '{split}' ({folder} is missing); make them by suites import --split."
        )
    asked: dict[str, list[Example]] = {}
    for item in load_suite(folder).items:
        encoded = builder.encode(item)
        example = Example(encoded.prompt_ids, encoded.positive_ids[0], encoded.negative_ids[0])
        asked.setdefault(item.stem, []).append(example)
    # Of a choice only its identity is used in training.
    return [
        Question(
            Choice.model_construct(id=stem, domain="imported", split=split),
            (examples[0], examples[-1]),
        )
        for stem, examples in asked.items()
    ]
