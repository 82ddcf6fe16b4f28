"""Vectors trained on shuffled labels: what training alone does to a direction, with nothing to learn."""

from __future__ import annotations

import numpy as np

from harness.adapters import RECORD
from harness.errors import InputError
from harness.models import resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training.data import load_questions, questions_file
from harness.training.labels import shuffled
from harness.training.lora import load_base
from harness.training.record import read_settings
from harness.training.settings import VectorSettings
from harness.training.vector import train
from harness.vectors import FloatVector, SteeringVector


def train_shuffled(vector: SteeringVector, model: str, seed: int) -> FloatVector:
    """Train a vector like the given one (its record's settings, else the defaults) on shuffled labels.

    Returns:
        float32 ``[hidden]``.

    Raises:
        InputError: the vector has no record of how it was trained.

    """
    place = vector.path / RECORD if vector.path else None
    if place is None or not place.is_file():
        raise InputError(
            f"'{vector.name}' has no {RECORD}: vectors on shuffled labels are trained like it. "
            "Leave --null-shuffled out."
        )
    settings = read_settings(place, VectorSettings).model_copy(update={"seed": seed})
    folder = resolve_model(model)
    base = load_base(folder, "cpu")
    builder = PromptBuilder(load_tokenizer(folder))
    questions = shuffled(load_questions(questions_file(), "train", settings.format, builder), seed)
    trained = train(base, questions, settings, lambda *_: None)
    return np.array(trained.vector.float().cpu().numpy(), dtype=np.float32)
