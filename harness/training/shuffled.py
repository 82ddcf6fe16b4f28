"""Vectors trained on shuffled labels: what training alone does to a direction, with nothing to learn."""

from __future__ import annotations

import numpy as np

from harness.adapters import RECORD
from harness.errors import InputError
from harness.models import resolve_model
from harness.training.lora import load_base
from harness.training.prepared import prepare_data
from harness.training.record import read_settings
from harness.training.settings import VectorSettings
from harness.training.vector import train
from harness.vectors import FloatVector, SteeringVector


def train_shuffled(vector: SteeringVector, model: str, seed: int) -> FloatVector:
    """Train a vector as the given one's record says, on its questions with labels shuffled by ``seed``.

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
    changed = {"seed": seed, "shuffled_labels": seed, "model": model}
    settings = read_settings(place, VectorSettings).model_copy(update=changed)
    questions = prepare_data(settings).questions["train"]
    base = load_base(resolve_model(model), "cpu", settings.dtype)
    trained = train(base, questions, settings, lambda *_: None)
    return np.array(trained.vector.float().cpu().numpy(), dtype=np.float32)
