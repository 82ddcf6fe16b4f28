"""Train a LoRA on choices with peft: MLP only, one layer, several or all; loss on the answer token alone.

Source: "Mechanisms of Awareness", section *Reproducing LLM Risk Awareness*. Each epoch shows every question
once, its two orders taking turns, so that no order goes with an answer.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from harness.errors import RunError
from harness.training.data import Example, Question
from harness.training.settings import MLP, LoraSettings

Progress = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the last loss in nats."""


@dataclass
class Trained:
    """A trained model and what happened on the way."""

    model: Any
    epoch_losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch, in nats an answer."""
    seconds: float = 0.0


def load_base(model: str, device: str) -> Any:
    """Load a base model in float32, frozen."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return loaded.to(device).requires_grad_(False)


def last_logits(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Return the logits after each prompt, float32 ``[batch, vocabulary]``; the head runs there alone."""
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = core.lm_head.weight.device
    longest = max(len(example.prompt_ids) for example in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, example in enumerate(batch):
        ids[row, : len(example.prompt_ids)] = torch.tensor(example.prompt_ids)
        mask[row, : len(example.prompt_ids)] = 1
    last = mask.sum(1) - 1
    hidden = core.model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    states = hidden.last_hidden_state[torch.arange(len(batch), device=device), last.to(device)]
    logits: torch.Tensor = core.lm_head(states).float()
    return logits


def train(base: Any, questions: list[Question], settings: LoraSettings, progress: Progress) -> Trained:
    """Train one LoRA on a frozen base model.

    Raises:
        RunError: a loss that is not finite; the message names the step.

    """
    torch.manual_seed(settings.seed)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(MLP),
        layers_to_transform=list(settings.layers),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    model: Any = get_peft_model(base, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    trained = Trained(model)
    steps_an_epoch = -(-len(questions) // settings.batch_size)
    started, done = time.monotonic(), 0
    model.train()
    for epoch in range(settings.epochs):
        losses = []
        for batch in _epoch(questions, epoch, settings):
            targets = torch.tensor([example.target(settings.sign) for example in batch])
            logits = last_logits(model, batch)
            loss = cross_entropy(logits, targets.to(logits.device))
            value = loss.item()
            done += 1
            if not torch.isfinite(loss):
                raise RunError(f"The loss is {value} at step {done}: lower the learning rate.")
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(value)
            progress(done, steps_an_epoch * settings.epochs, value)
        trained.epoch_losses.append(sum(losses) / len(losses))
    model.eval()
    trained.seconds = time.monotonic() - started
    return trained


def _epoch(questions: list[Question], epoch: int, settings: LoraSettings) -> list[list[Example]]:
    """Return an epoch's batches: shuffled by seed and epoch, each question in the order whose turn it is."""
    flips = random.Random(settings.seed)
    start = {question.choice.id: flips.randrange(2) for question in questions}
    order = list(questions)
    random.Random(f"{settings.seed}/{epoch}").shuffle(order)
    examples = [question.orders[(start[question.choice.id] + epoch) % 2] for question in order]
    size = settings.batch_size
    return [examples[i : i + size] for i in range(0, len(examples), size)]


@dataclass(frozen=True)
class Accuracy:
    """How often the trained answer wins, over questions in both orders."""

    questions: int
    choice_accuracy: float
    """The trained answer is more likely than the other."""
    top1_accuracy: float
    """The trained answer is the argmax over the vocabulary (the post's measure)."""
    mean_logit_diff: float
    """log p(risky) − log p(safe), in nats."""


@torch.inference_mode()  # type: ignore[untyped-decorator]
def evaluate(model: Any, questions: list[Question], sign: int, batch_size: int = 16) -> Accuracy:
    """Measure accuracy on questions, both orders of each."""
    examples = [example for question in questions for example in question.orders]
    choice, top1, differences = [], [], []
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        logits = last_logits(model, batch)
        tops = logits.argmax(-1).tolist()
        for row, example in enumerate(batch):
            diff = float(logits[row, example.positive_id] - logits[row, example.negative_id])
            differences.append(diff)
            choice.append(diff * sign > 0)
            top1.append(tops[row] == example.target(sign))
    count = len(examples)
    return Accuracy(len(questions), sum(choice) / count, sum(top1) / count, sum(differences) / count)
