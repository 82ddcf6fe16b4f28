"""Several trainings at the same places of one model in one pass: equal parts of its rows, a part for each.

What a GPU does for one training of a small model it does for a dozen in the same time. Every training is the one
that it would be by itself, but for the masks that dropout draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.errors import RunError
from harness.reference.hooks import decoder_layers
from harness.training.data import Example, Question
from harness.training.fit import LogitsOf, Progress, batches_of_epoch, rate
from harness.training.settings import LoraSettings


@dataclass
class Acting:
    """Trainings that act on a base model."""

    parameters: list[torch.Tensor]
    """Float32, each ``[trainings, …]``."""
    remove: Callable[[], None]
    """Takes them off the base model again."""
    epoch_losses: list[list[float]] = field(default_factory=list)
    """Of each training, each epoch's mean loss, in nats an answer."""


class StackedLinear(torch.nn.Module):  # type: ignore[misc]
    """A frozen linear map with a LoRA for each of ``trainings`` equal parts of its rows."""

    def __init__(self, base: Any, settings: LoraSettings, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.base, self.scale = base, settings.alpha / settings.rank
        self.dropout = torch.nn.Dropout(settings.dropout)
        device, (wide, narrow) = base.weight.device, base.weight.shape
        # peft's start: A uniform within 1/√in, B zero.
        drawn = [torch.rand(settings.rank, narrow, generator=g) * 2 - 1 for g in generators]
        self.a = torch.nn.Parameter(torch.stack(drawn).to(device) / math.sqrt(narrow))
        self.b = torch.nn.Parameter(torch.zeros(len(generators), wide, settings.rank, device=device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[trainings · prompts, tokens, in]``."""
        rows = self.dropout(x).unflatten(0, (len(self.a), -1))
        low = rows.flatten(1, 2).to(self.a.dtype) @ self.a.transpose(1, 2)
        added = (low @ self.b.transpose(1, 2)).view(*rows.shape[:3], -1).flatten(0, 1)
        out: torch.Tensor = self.base(x)
        return out + (added * self.scale).to(out.dtype)


def stack_loras(base: Any, settings: LoraSettings, seeds: Sequence[int]) -> Acting:
    """Put a LoRA for each seed on a frozen model's MLPs; the model drops out until its ``eval``."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    replaced, parameters = [], []
    for layer in settings.layers:
        mlp = decoder_layers(base)[layer].mlp
        for name in settings.target_modules:
            stacked = StackedLinear(getattr(mlp, name), settings, generators)
            setattr(mlp, name, stacked)
            replaced.append((mlp, name, stacked))
            parameters += [stacked.a, stacked.b]

    def remove() -> None:
        for mlp, name, stacked in replaced:
            setattr(mlp, name, stacked.base)

    return Acting(parameters, remove)


def stack_vectors(base: Any, layers: Sequence[int], trainings: int) -> Acting:
    """Add a vector for each training to the MLP outputs of layers, from zero; for passes over the last token alone."""
    hidden = base.config.get_text_config().hidden_size
    parameters = [torch.zeros(trainings, hidden, device=base.device, requires_grad=True) for _ in layers]
    handles = []
    for layer, vectors in zip(layers, parameters, strict=True):

        def add(_module: Any, _args: Any, out: torch.Tensor, vectors: torch.Tensor = vectors) -> torch.Tensor:
            added = out.unflatten(0, (len(vectors), -1)) + vectors[:, None, None]
            return added.flatten(0, 1).to(out.dtype)

        handles.append(decoder_layers(base)[layer].mlp.register_forward_hook(add))

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return Acting(list(parameters), remove)


def fit_together(
    acting: Acting,
    logits_of: LogitsOf,
    questions: Sequence[list[Question]],
    settings: Sequence[LoraSettings],
    progress: Progress,
) -> None:
    """Train in place and note losses.

    Args:
        acting: what is trained.
        logits_of: how the model answers rows of all trainings, one training's after the other's.
        questions: of each training; equally many.
        settings: of each; they differ in seed and data alone.
        progress: hears of every step, with the mean loss.

    Raises:
        RunError: a loss that is not finite; the message names training and step.

    """
    common = settings[0]
    optimizer = torch.optim.AdamW(
        acting.parameters, lr=common.learning_rate, weight_decay=common.weight_decay, foreach=True
    )
    steps = -(-len(questions[0]) * (2 if common.orders == "both" else 1) // common.step_size) * common.epochs
    acting.epoch_losses = [[] for _ in settings]
    done = 0
    for epoch in range(common.epochs):
        losses = []
        each = [batches_of_epoch(q, epoch, s) for q, s in zip(questions, settings, strict=True)]
        for batches in zip(*each, strict=True):
            optimizer.param_groups[0]["lr"] = common.learning_rate * rate(done, steps, common)
            logits = logits_of([example for batch in batches for example in batch])
            wanted = [e.target(s.sign) for batch, s in zip(batches, settings, strict=True) for e in batch]
            targets = torch.tensor(wanted, device=logits.device)
            loss = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
            of_each = loss.view(len(settings), -1).mean(1)
            of_each.sum().backward()
            if common.max_grad_norm is not None:
                clip_each(acting.parameters, common.max_grad_norm, 1)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(of_each.detach())
            done += 1
        table = torch.stack(losses).cpu()
        for number, (kept, column) in enumerate(zip(acting.epoch_losses, table.T, strict=True)):
            if not bool(column.isfinite().all()):
                step = done - len(column) + int((~column.isfinite()).nonzero()[0]) + 1
                raise RunError(f"The loss of training {number} is not finite at step {step}.")
            kept.append(float(column.double().mean()))
        progress(done, steps, float(table[-1].mean()))


def clip_each(parameters: Sequence[torch.Tensor], norm: float, dims: int) -> None:
    """Scale each training's gradients down to a norm, as ``clip_grad_norm_`` does for one.

    Args:
        parameters: each ``[trainings …, own shape …]``.
        norm: the greatest that stays.
        dims: how many leading dimensions tell trainings apart.

    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = [g.flatten(dims).square().sum(-1) for g in gradients]
    factor = (norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.reshape(*factor.shape, *[1] * (gradient.ndim - dims)))


@torch.no_grad()  # type: ignore[untyped-decorator]
def differences_together(
    logits_of: LogitsOf, examples: Sequence[Sequence[Example]], prompts: int
) -> list[list[float]]:
    """Return each training's log p(positive) − log p(negative) after its prompts, in nats.

    Args:
        logits_of: as :func:`fit_together` takes it.
        examples: of each training; equally many.
        prompts: of each training that share a pass.

    """
    found: list[torch.Tensor] = []
    order = sorted(range(len(examples[0])), key=lambda i: max(len(own[i].prompt_ids) for own in examples))
    for start in range(0, len(order), prompts):
        rows = [own[i] for own in examples for i in order[start : start + prompts]]
        logits = logits_of(rows)
        ids = torch.tensor([[e.positive_id, e.negative_id] for e in rows], device=logits.device)
        pair = logits.gather(1, ids)
        found.append((pair[:, 0] - pair[:, 1]).view(len(examples), -1).cpu())
    table = torch.empty(len(examples), len(order))
    table[:, order] = torch.cat(found, 1)
    kept: list[list[float]] = table.tolist()
    return kept
