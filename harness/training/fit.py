"""The training loop that LoRAs and vectors share: cross-entropy on the answer's token, AdamW.

Each epoch shows every question once, its two orders taking turns, so that no order goes with an answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from harness.errors import RunError
from harness.training.data import Example, Question
from harness.training.settings import TrainingSettings

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the last loss in nats."""


@dataclass
class Trained:
    """A trained model and what happened on the way."""

    model: Any
    epoch_losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch, in nats an answer."""
    seconds: float = 0.0


def fit(
    trained: Trained,
    parameters: Sequence[torch.Tensor],
    logits_of: Callable[[Any, Sequence[Example]], torch.Tensor],
    questions: list[Question],
    settings: TrainingSettings,
    progress: Progress,
) -> None:
    """Train ``parameters`` of ``trained.model`` in place and note losses and seconds.

    Args:
        trained: holds the model.
        parameters: what is trained; everything else is frozen.
        logits_of: returns the logits after each prompt, ``[batch, vocabulary]``, for a model and a batch.
        questions: the training questions.
        settings: of the training.
        progress: hears of every step.

    Raises:
        RunError: a loss that is not finite; the message names the step.

    """
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = -(-len(questions) // settings.batch_size) * settings.epochs
    started, done = time.monotonic(), 0
    for epoch in range(settings.epochs):
        losses = []
        for batch in batches_of_epoch(questions, epoch, settings):
            targets = torch.tensor([example.target(settings.sign) for example in batch])
            logits = logits_of(trained.model, batch)
            loss = cross_entropy(logits, targets.to(logits.device))
            value = loss.item()
            done += 1
            if not torch.isfinite(loss):
                raise RunError(f"The loss is {value} at step {done}: lower the learning rate.")
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(value)
            progress(done, steps, value)
        trained.epoch_losses.append(sum(losses) / len(losses))
    trained.seconds = time.monotonic() - started


def batches_of_epoch(
    questions: list[Question], epoch: int, settings: TrainingSettings
) -> list[list[Example]]:
    """Return an epoch's batches: shuffled by seed and epoch, each question in the order whose turn it is."""
    flips = random.Random(settings.seed)
    start = {question.choice.id: flips.randrange(2) for question in questions}
    order = list(questions)
    random.Random(f"{settings.seed}/{epoch}").shuffle(order)
    examples = [question.orders[(start[question.choice.id] + epoch) % 2] for question in order]
    size = settings.batch_size
    return [examples[i : i + size] for i in range(0, len(examples), size)]
