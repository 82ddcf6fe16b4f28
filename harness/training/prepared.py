"""The questions of a training, encoded, and what they amount to."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError
from harness.models import resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training.data import Question, load_questions, questions_file, splits_of
from harness.training.kept import count
from harness.training.labels import shuffled
from harness.training.plan import Data
from harness.training.settings import TrainingSettings

EVALUATED = ("development", "test", "heldout")
_DRAW = 42
"""Seed of which questions are used where not all are (the original's shuffle seed)."""


@dataclass(frozen=True)
class Prepared:
    """The questions by split, encoded, and what they amount to."""

    questions: dict[str, list[Question]]
    file: Path
    data: Data


def prepare_data(settings: TrainingSettings) -> Prepared:
    """Load and encode all splits.

    Raises:
        InputError: naming the file and what is wrong with it.

    """
    file = Path(settings.data) if settings.data else questions_file()
    builder = PromptBuilder(load_tokenizer(resolve_model(settings.model)))
    questions = {
        split: load_questions(file, split, settings.format, builder) for split in splits_of(file, EVALUATED)
    }
    if settings.questions is not None:
        found = questions["train"]
        if settings.questions > len(found):
            raise InputError(f"--questions {settings.questions}: {file} has {len(found)} training questions.")
        questions["train"] = random.Random(_DRAW).sample(found, settings.questions)
    if settings.shuffled_labels is not None:
        questions["train"] = shuffled(questions["train"], settings.shuffled_labels)
    prompts = [e.prompt_ids for found in questions.values() for q in found for e in q.orders]
    trained = len(questions["train"]) * (2 if settings.orders == "both" else 1)
    evaluated = 2 * sum(len(found) for split, found in questions.items() if split != "train")
    development = 2 * len(questions["development"])
    data = Data(trained, evaluated, development, count(prompts), max(map(len, prompts)))
    return Prepared(questions, file, data)
