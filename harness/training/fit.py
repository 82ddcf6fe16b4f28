"""The training loop that LoRAs and vectors share: cross-entropy on the answer's token, AdamW.

Each epoch shows every question in both orders, or in one, the two taking turns: no order goes with an answer.
"""

from __future__ import annotations

import math
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
LogitsOf = Callable[[Sequence[Example]], torch.Tensor]
"""Returns the logits after each prompt of a batch, float32 ``[batch, vocabulary]``."""


@dataclass
class Trained:
    """A trained model and what happened on the way."""

    model: Any
    """None where it was trained in a group: nothing stays wrapped or steered."""
    logits_of: LogitsOf | None
    epoch_losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch, in nats an answer."""
    seconds: float = 0.0


def fit(
    trained: Trained,
    parameters: Sequence[torch.Tensor],
    logits_of: LogitsOf,
    questions: list[Question],
    settings: TrainingSettings,
    progress: Progress,
) -> None:
    """Train ``parameters`` of ``trained.model`` in place and note losses and seconds.

    Args:
        trained: holds the model.
        parameters: what is trained; everything else is frozen.
        logits_of: how the model answers.
        questions: the training questions.
        settings: of the training.
        progress: hears of every step.

    Raises:
        RunError: a loss that is not finite, or in the end a parameter; the message names the step.

    """
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    steps = steps_of(questions, settings)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps, settings))
    started, done = time.monotonic(), 0
    for epoch in range(settings.epochs):
        losses = []
        for batch in batches_of_epoch(questions, epoch, settings):
            value, done = 0.0, done + 1
            for start in range(0, len(batch), settings.batch_size):
                part = batch[start : start + settings.batch_size]
                targets = torch.tensor([example.target(settings.sign) for example in part])
                logits = logits_of(part)
                loss = cross_entropy(logits, targets.to(logits.device)) * (len(part) / len(batch))
                loss.backward()
                value += loss.item()
            if not math.isfinite(value):
                raise RunError(f"The loss is {value} at step {done}: lower the learning rate.")
            if settings.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(value)
            progress(done, steps, value)
        trained.epoch_losses.append(sum(losses) / len(losses))
    if not all(parameter.isfinite().all() for parameter in parameters):
        # The loss of a next step would have said it.
        raise RunError(f"A parameter is not finite after step {done}, the last: lower the learning rate.")
    trained.seconds = time.monotonic() - started


def steps_of(questions: Sequence[Question], settings: TrainingSettings) -> int:
    """Return how many steps a training takes."""
    prompts = len(questions) * (2 if settings.orders == "both" else 1)
    return -(-prompts // settings.step_size) * settings.epochs


def rate(step: int, steps: int, settings: TrainingSettings) -> float:
    """Return the part of the learning rate that a step (counted from 0) of ``steps`` takes."""
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    gone = (step - warm) / max(1, steps - warm)
    match settings.decay:
        case "linear":
            return 1 - gone
        case "cosine":
            return (1 + math.cos(math.pi * gone)) / 2
        case _:
            return 1.0


def batches_of_epoch(
    questions: list[Question], epoch: int, settings: TrainingSettings
) -> list[list[Example]]:
    """Return an epoch's batches: shuffled by seed and epoch; both orders of a question follow each other."""
    order = list(questions)
    random.Random(f"{settings.seed}/{epoch}").shuffle(order)
    if settings.orders == "both":
        examples = [example for question in order for example in question.orders]
    else:
        flips = random.Random(settings.seed)
        start = {question.choice.id: flips.randrange(2) for question in questions}
        examples = [question.orders[(start[question.choice.id] + epoch) % 2] for question in order]
    size = settings.step_size
    return [examples[i : i + size] for i in range(0, len(examples), size)]
