"""Train a steering vector directly: one parameter, added to a frozen model at one place, last token only.

Source: "Mechanisms of Awareness", section *Steering vectors*: a vector trained in the LoRA's stead, on the
same questions with the same loss. What acts in training is what a server adds for ``@L<n>.<hook>@1@last``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from harness.reference.hooks import decoder_layers
from harness.training.climb import start_vector
from harness.training.data import Question
from harness.training.fit import Progress, Trained, fit
from harness.training.lasttoken import LastToken
from harness.training.lora import last_logits
from harness.training.settings import VectorSettings


@dataclass(kw_only=True)
class TrainedVector(Trained):
    """A base model that is steered by the trained vector from now on, and the vector, float32 ``[hidden]``."""

    vector: torch.Tensor


def attach(model: Any, vector: torch.Tensor, layer: int, hook_point: str) -> list[RemovableHandle]:
    """Add ``vector`` (``[hidden]``) at a place of a transformers model, at each prompt's last token.

    A pass over one token a prompt (the earlier ones cached) is steered there. Returns what takes it off again.
    """
    last: list[torch.Tensor] = []

    def remember(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        last[:] = [kwargs["attention_mask"].sum(1) - 1]

    def add(_module: Any, _args: Any, output: Any) -> Any:
        h = output[0] if isinstance(output, tuple) else output
        if h.shape[1] == 1:
            total = (h + vector).to(h.dtype)
        else:
            at_last = torch.arange(h.shape[1], device=h.device) == last[0][:, None]
            total = (h + at_last[..., None] * vector).to(h.dtype)
        return (total, *output[1:]) if isinstance(output, tuple) else total

    block = decoder_layers(model)[layer]
    place = block.mlp if hook_point == "mlp_out" else block
    return [
        model.model.register_forward_pre_hook(remember, with_kwargs=True),
        place.register_forward_hook(add),
    ]


def train(
    base: Any, questions: list[Question], settings: VectorSettings, progress: Progress
) -> TrainedVector:
    """Train one vector on a frozen base model, which stays steered by it.

    Raises:
        RunError: a loss that is not finite; the message names the step.

    """
    hidden = base.config.get_text_config().hidden_size
    vector = start_vector(settings.seed, hidden, settings.init).to(base.device).requires_grad_()
    upper = LastToken(base, settings.layer)
    upper.prepare(example for question in questions for example in question.orders)
    attach(base, vector, settings.layer, settings.hook_point)
    trained = TrainedVector(model=base, logits_of=partial(last_logits, base), vector=vector)
    fit(trained, [vector], upper.logits, questions, settings, progress)
    vector.requires_grad_(False)
    return trained
