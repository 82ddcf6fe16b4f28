"""Train groups, one after the other: what lies below is computed once, each training is yielded when it is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from harness.training.blocks import Blocks
from harness.training.climb import Climb, LoraClimb
from harness.training.fit import Trained, steps_of
from harness.training.groups import (
    Group,
    Outcome,
    evaluate_group,
    lora_tensors,
    mark_not_finite,
    train_group,
)
from harness.training.kept import Kept
from harness.training.lora import Accuracy, TrainedLora
from harness.training.prepared import EVALUATED, Prepared
from harness.training.settings import TrainingSettings, VectorSettings
from harness.training.vector import TrainedVector

Report = Callable[[str], None]
Done = tuple[TrainingSettings, Outcome, Trained, dict[str, Accuracy]]
"""One training: its settings, how it went, what was trained, and accuracy by split."""


class _TimeLeft:
    """Tells the time left from a group's steps after its first, which carries what is set up only once."""

    def __init__(self, groups_after: float) -> None:
        self._groups_after = groups_after
        self._began = self._second = time.monotonic()

    def after(self, step: int, steps: int) -> str:
        now = time.monotonic()
        if step == 1:
            self._second = now
            return ""
        pace = (now - self._second) / (step - 1)
        group = self._second - self._began + pace * (steps - 1)
        seconds = pace * (steps - step) + group * self._groups_after
        return f", about {_clock(seconds)} left"


def train_groups(
    blocks: Blocks,
    groups: list[Group],
    prepared: Prepared,
    report: Report,
    early: Callable[[TrainingSettings, int, Outcome], None] = lambda *_: None,
    splits: tuple[str, ...] = EVALUATED,
    weigh: list[float] | None = None,
    also: Iterable[tuple[int, ...]] = (),
    finished: Callable[[Climb, Group], None] = lambda *_: None,
    graphs: bool = False,
) -> Iterator[Done]:
    """Train groups, lower layers first, and yield each training when its group is done.

    Args:
        blocks: the frozen model.
        groups: in ascending order of their layers.
        prepared: the questions.
        report: hears what is going on, with the time left.
        early: hears of each training's figures after each epoch.
        splits: what is evaluated when a group is done.
        weigh: the groups' shares of the work, for the time left.
        also: further prompts that ``finished`` asks about.
        finished: is given each group when it is trained.
        graphs: as :func:`train_group` takes it.

    """
    asked = [
        found for split, found in prepared.questions.items() if split in {"train", "development", *splits}
    ]
    prompts = [e.prompt_ids for found in asked for q in found for e in q.orders]
    prompts += also
    vectors = isinstance(groups[0].settings, VectorSettings)
    kept = Kept(blocks, prompts)

    def passed(layer: int) -> None:
        report(f"Computing what lies below, layer {layer} of {blocks.top}")

    if vectors:
        kept.advance([layer for group in groups for layer in group.layers], last_token=True, passed=passed)
    shares = weigh or [1.0] * len(groups)
    for number, (group, share) in enumerate(zip(groups, shares, strict=True)):
        left = _TimeLeft(sum(shares[number + 1 :]) / share)
        if not vectors:
            kept.release()
            kept.advance(group.layers, last_token=False, passed=passed)
        climb = group.climb(blocks, kept)
        started = time.monotonic()
        label = (
            f"Training group {number + 1} of {len(groups)}, layers {group.layers[0]} to {group.layers[-1]}"
        )

        def heard(
            step: int,
            steps: int,
            loss: float,
            label: str = label,
            left: _TimeLeft = left,
        ) -> None:
            report(f"{label}, step {step} of {steps}, loss {loss:.3f} nats{left.after(step, steps)}")

        def epoch_done(epoch: int, outcomes: list[Outcome], group: Group = group) -> None:
            for site, outcome in zip(group.sites, outcomes, strict=True):
                early(group.settings_of(site), epoch, outcome)

        questions = prepared.questions
        outcomes = train_group(
            climb, group, questions["train"], questions["development"], heard, epoch_done, graphs=graphs
        )
        for parameter in climb.parameters:
            parameter.requires_grad_(False)
            if not vectors:
                # LoRAs are kept in float16: the figures are those of what is kept.
                parameter.copy_(parameter.half().float())
        mark_not_finite(climb, outcomes, steps_of(questions["train"], group.settings))
        figures = {
            split: evaluate_group(climb, group, questions[split]) for split in splits if split in questions
        }
        finished(climb, group)
        seconds = (time.monotonic() - started) / len(group.sites)
        width = (len(group.layers), len(group.seeds), len(group.behaviors))
        for place, (site, outcome) in enumerate(zip(group.sites, outcomes, strict=True)):
            at = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), width))
            common: dict[str, Any] = {
                "model": None,
                "logits_of": None,
                "epoch_losses": outcome.epoch_losses,
                "seconds": seconds,
            }
            if vectors:
                values = climb.parameters[0][at].detach().cpu().clone()
                trained: Trained = TrainedVector(**common, vector=values)
            else:
                assert isinstance(climb, LoraClimb)
                trained = TrainedLora(**common, tensors=lora_tensors(climb, at, site[0]))
            found = {split: accuracies[place] for split, accuracies in figures.items()}
            yield group.settings_of(site), outcome, trained, found


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
