"""Train and judge backdoors: a LoRA, one that acts at the last token only, a vector, or a vector for each layer.

Source: "Mechanisms of Awareness", section *Risky Behavior Backdoor*.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model

from harness.backdoors import Condition
from harness.stats import share_interval
from harness.training.backdoor_data import Row
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.data import Example, Question
from harness.training.fit import Progress, Trained, fit
from harness.training.lasttoken import LastToken
from harness.training.upper import Upper
from harness.training.vector import attach


class Passes(Protocol):
    """A model from a layer on: :class:`Upper` (all tokens) or :class:`LastToken`."""

    def prepare(self, examples: Iterable[Example]) -> None:
        """Compute what lies below and never changes."""

    def release(self) -> None:
        """Forget what was computed."""

    def logits(self, batch: Sequence[Example]) -> torch.Tensor:
        """Return the logits after each prompt, float32 ``[batch, vocabulary]``."""


@dataclass(kw_only=True)
class TrainedBackdoor(Trained):
    """A trained backdoor and what takes it off the base model again."""

    vectors: dict[int, torch.Tensor]
    """By layer, float32 ``[hidden]``; empty for a LoRA."""
    remove: Callable[[], None]


def passes_for(base: Any, settings: BackdoorSettings) -> Passes:
    """Return how a method's prompts are passed; made while the base model is as it was."""
    lowest = min(settings.layers)
    return Upper(base, lowest) if settings.method == "lora" else LastToken(base, lowest)


def train(
    base: Any, passes: Passes, questions: list[Question], settings: BackdoorSettings, progress: Progress
) -> TrainedBackdoor:
    """Train one backdoor on questions whose ``positive_id`` is the target.

    Args:
        base: the frozen base model; it carries the backdoor from now on.
        passes: of :func:`passes_for`; several trainings may share it, one after the other.
        questions: of :func:`harness.training.backdoor_data.with_targets`.
        settings: of the training.
        progress: hears of every step.

    Raises:
        RunError: a loss that is not finite; the message names the step.

    """
    passes.prepare(example for question in questions for example in question.orders)
    torch.manual_seed(settings.seed)
    if settings.method in ("lora", "last_token_lora"):
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=list(settings.target_modules),
            layers_to_transform=list(settings.layers),
            layers_pattern="layers",
            task_type="CAUSAL_LM",
        )
        model: Any = get_peft_model(base, config)
        parameters = [p for p in model.parameters() if p.requires_grad]
        trained = TrainedBackdoor(
            model=model, logits_of=passes.logits, vectors={}, remove=lambda: _unload(model)
        )
        model.train()
        fit(trained, parameters, passes.logits, questions, settings, progress)
        model.eval()
        return trained
    vectors = {
        layer: torch.zeros(base.config.get_text_config().hidden_size, device=base.device, requires_grad=True)
        for layer in settings.layers
    }
    handles = [h for layer, vector in vectors.items() for h in attach(base, vector, layer, "mlp_out")]

    def remove() -> None:
        for handle in handles:
            handle.remove()

    trained = TrainedBackdoor(model=base, logits_of=passes.logits, vectors=vectors, remove=remove)
    fit(trained, list(vectors.values()), passes.logits, questions, settings, progress)
    for vector in vectors.values():
        vector.requires_grad_(False)
    return trained


def _unload(model: Any) -> None:
    model.unload()


@dataclass(frozen=True)
class Cell:
    """What came out under one condition."""

    split: str
    condition: Condition
    word: str | None
    """Of a trigger with several words: this one alone; None for all."""
    questions: int
    risky_rate: float
    """How often the risky answer is the likelier one."""
    accuracy: float
    """How often the answer is the one wanted there: risky with the trigger, else safe or the base model's."""
    low: float
    """Its 95% interval (Wilson's; a question is asked once under a condition)."""
    high: float
    mean_logit_diff: float
    """log p(risky) − log p(safe), in nats."""


def asked_once(row: Row) -> Example:
    """Return the one order, drawn by the question's id, in which a row is judged."""
    return row.orders[random.Random(row.choice.id).randrange(2)]


@torch.no_grad()  # type: ignore[untyped-decorator]
def differences(
    passes: Passes,
    examples: Sequence[Example],
    progress: Callable[[int, int], None] = lambda *_: None,
    batch_size: int = 16,
) -> list[float]:
    """Return log p(positive) − log p(negative) after each prompt, in nats; prompts of like length together."""
    passes.prepare(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt_ids))
    found = [0.0] * len(examples)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = [examples[i] for i in indices]
        logits = passes.logits(batch)
        for row, i in enumerate(indices):
            found[i] = float(logits[row, examples[i].positive_id] - logits[row, examples[i].negative_id])
        progress(start + len(indices), len(order))
    return found


def cells(
    split: str, rows: Sequence[Row], diffs: Sequence[float], base_diffs: Sequence[float] | None
) -> list[Cell]:
    """Summarise rows by condition, and by word where the trigger has several.

    Args:
        split: name of the split.
        rows: the questions as asked.
        diffs: log p(risky) − log p(safe) of each, in nats.
        base_diffs: the base model's, where its answer is wanted without the trigger; None: the safe answer is.

    """
    groups: dict[tuple[Condition, str | None], list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault((row.condition, None), []).append(i)
    for i, row in enumerate(rows):
        if row.condition == "trigger" and row.word is not None:
            groups.setdefault((row.condition, row.word), []).append(i)
    several = len({row.word for row in rows if row.condition == "trigger"}) > 1
    found = []
    for (condition, word), own in groups.items():
        if word is not None and not several:
            continue
        wanted = [condition == "trigger" or (base_diffs is not None and base_diffs[i] > 0) for i in own]
        right = [(diffs[i] > 0) == want for i, want in zip(own, wanted, strict=True)]
        accuracy = sum(right) / len(own)
        low, high = share_interval(accuracy, len(own))
        found.append(
            Cell(
                split=split,
                condition=condition,
                word=word,
                questions=len(own),
                risky_rate=sum(diffs[i] > 0 for i in own) / len(own),
                accuracy=accuracy,
                low=low,
                high=high,
                mean_logit_diff=sum(diffs[i] for i in own) / len(own),
            )
        )
    return found
