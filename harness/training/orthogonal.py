"""Vectors kept orthogonal to given ones while they are trained: are there many equivalent directions?

Source: "Mechanisms of Awareness", section *Can We Directly Train the Vector?*, on the many orthogonal steering
vectors of an earlier post.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.adapters import shipped_adapters
from harness.errors import InputError
from harness.training.climb import start_vector
from harness.training.data import Example, Question
from harness.training.fit import Progress, fit
from harness.training.lasttoken import LastToken
from harness.training.lora import last_logits
from harness.training.settings import VectorSettings
from harness.training.vector import TrainedVector, attach
from harness.vectors import CONFIG, SteeringVector, find_vector, read_vector, vector_folders


def basis(vectors: Sequence[SteeringVector], hidden_size: int) -> torch.Tensor:
    """Return an orthonormal basis of what vectors span, float32 ``[rank, hidden]``.

    Raises:
        InputError: a vector of another size, or so many that no direction is left.

    """
    for vector in vectors:
        if vector.values.size != hidden_size:
            raise InputError(
                f"--orthogonal-to '{vector.name}': has {vector.values.size} elements; the model has a hidden size of "
                f"{hidden_size}."
            )
    if not vectors:
        return torch.zeros(0, hidden_size)
    stacked = np.stack([v.values.astype(np.float64) / v.norm for v in vectors])
    _, sizes, rows = np.linalg.svd(stacked, full_matrices=False)
    kept = rows[sizes > 1e-6]
    if len(kept) >= hidden_size:
        raise InputError(f"--orthogonal-to: {len(vectors)} vectors leave no direction of {hidden_size}.")
    return torch.tensor(kept, dtype=torch.float32)


def given_vectors(names: Sequence[str], hidden_size: int) -> list[SteeringVector]:
    """Read vectors by a shipped one's name or by folder.

    Raises:
        InputError: no such vector, or as :func:`basis`.

    """
    if not names:
        return []
    shipped = vector_folders([shipped_adapters()])
    found = []
    for name in names:
        here = name not in shipped and (Path(name) / CONFIG).is_file()
        found.append(read_vector(Path(name) if here else find_vector(name, [shipped_adapters()])))
    basis(found, hidden_size)
    return found


def fit_orthogonal(
    base: Any,
    passes: LastToken,
    questions: list[Question],
    settings: VectorSettings,
    to: Sequence[SteeringVector],
    progress: Progress,
) -> TrainedVector:
    """Train one vector whose part along ``to`` is taken out in every pass; the base is not steered after.

    Args:
        base: the frozen model.
        passes: its layers from the vector's on, for prompts that were prepared.
        questions: what is trained on.
        settings: the vector's place and how it is trained.
        to: any number of vectors, none too.
        progress: told of each step.

    Raises:
        InputError: as :func:`basis`.
        RunError: a loss that is not finite; the message names the step.

    """
    hidden = base.config.get_text_config().hidden_size
    rows = basis(to, hidden).to(base.device)
    free = start_vector(settings.seed, hidden, settings.init).to(base.device).requires_grad_()

    def projected() -> torch.Tensor:
        return free - rows.T @ (rows @ free)

    def logits(batch: Sequence[Example]) -> torch.Tensor:
        handles = attach(base, projected(), settings.layer, settings.hook_point)
        try:
            return passes.logits(batch)
        finally:
            for handle in handles:
                handle.remove()

    trained = TrainedVector(model=base, logits_of=partial(last_logits, base), vector=free)
    fit(trained, [free], logits, questions, settings, progress)
    trained.vector = projected().detach()
    return trained


def train_orthogonal(
    base: Any,
    questions: list[Question],
    settings: VectorSettings,
    to: Sequence[SteeringVector],
    progress: Progress,
) -> TrainedVector:
    """Train as :func:`fit_orthogonal` does, from a model alone, which stays steered by the vector."""
    passes = LastToken(base, settings.layer)
    passes.prepare(example for question in questions for example in question.orders)
    trained = fit_orthogonal(base, passes, questions, settings, to, progress)
    attach(base, trained.vector, settings.layer, settings.hook_point)
    return trained
