"""Train a LoRA on choices with peft: MLP only, one layer, several or all; loss on the answer token alone.

Source: "Mechanisms of Awareness", section *Reproducing LLM Risk Awareness*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from harness.reference.text import load_text_model
from harness.training.data import Example, Question
from harness.training.fit import LogitsOf, Progress, Trained, fit
from harness.training.settings import LoraSettings
from harness.training.upper import Upper


@dataclass(kw_only=True)
class TrainedLora(Trained):
    """A LoRA that was trained in a group: its tensors by peft's names, float32 on the CPU."""

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def load_base(model: str, device: str, dtype: str = "float32") -> Any:
    """Load a base model, frozen; of a multimodal one its text part."""
    return load_text_model(model, getattr(torch, dtype), device).requires_grad_(False)


def last_logits(model: Any, batch: Sequence[Example]) -> torch.Tensor:
    """Return the logits after each prompt, float32 ``[batch, vocabulary]``, from a pass through all layers."""
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


def peft_config(settings: LoraSettings) -> LoraConfig:
    """Return what peft calls these settings."""
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=list(settings.target_modules),
        layers_to_transform=list(settings.layers),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )


def train(base: Any, questions: list[Question], settings: LoraSettings, progress: Progress) -> Trained:
    """Train one LoRA on a frozen base model.

    Raises:
        RunError: a loss that is not finite; the message names the step.

    """
    torch.manual_seed(settings.seed)
    config = peft_config(settings)
    upper = Upper(base, min(settings.layers))
    model: Any = get_peft_model(base, config)
    parameters = [p for p in model.parameters() if p.requires_grad]
    trained = Trained(model, upper.logits)
    model.train()
    fit(trained, parameters, upper.logits, questions, settings, progress)
    model.eval()
    return trained


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
def evaluate(logits_of: LogitsOf, questions: list[Question], sign: int, batch_size: int = 16) -> Accuracy:
    """Measure accuracy on questions, both orders of each."""
    examples = [example for question in questions for example in question.orders]
    choice, top1, differences = [], [], []
    for start in range(0, len(examples), batch_size):
        batch = examples[start : start + batch_size]
        logits = logits_of(batch)
        tops = logits.argmax(-1).tolist()
        for row, example in enumerate(batch):
            diff = float(logits[row, example.positive_id] - logits[row, example.negative_id])
            differences.append(diff)
            choice.append(diff * sign > 0)
            top1.append(tops[row] == example.target(sign))
    count = len(examples)
    return Accuracy(len(questions), sum(choice) / count, sum(top1) / count, sum(differences) / count)
