"""Train a group: trainings that differ in layer, seed and behaviour alone, one optimiser step for all at a time."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from harness.training.blocks import Blocks
from harness.training.climb import Climb, LoraClimb, Masks, VectorClimb
from harness.training.data import Example, Question
from harness.training.fit import batches_of_epoch, rate, steps_of
from harness.training.graphed import Graphed
from harness.training.kept import Kept
from harness.training.lora import Accuracy
from harness.training.settings import Behavior, LoraSettings, TrainingSettings, VectorSettings
from harness.training.together import clip_each

_HEARD = 1.0
"""Seconds between two looks at the loss, which a GPU has to be waited for."""
_ROWS = 4096
"""Prompts times trainings, at most, of a pass that no gradient is needed of."""
E = TypeVar("E")
Site = tuple[int, int, Behavior]
"""Layer, seed, behaviour of one training."""


@dataclass(frozen=True)
class Group:
    """The product of layers, seeds and behaviours, under settings that are otherwise the same."""

    settings: TrainingSettings
    """Of any one of them."""
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    behaviors: tuple[Behavior, ...]
    passes: int = 1
    """Into how many passes a step's prompts are cut, for memory's sake."""

    @property
    def sites(self) -> list[Site]:
        """All trainings, in the order of the climb's parameters."""
        return list(itertools.product(self.layers, self.seeds, self.behaviors))

    def settings_of(self, site: Site) -> TrainingSettings:
        """Return one training's settings."""
        layer, seed, behavior = site
        return self.settings.model_copy(update={"layers": (layer,), "seed": seed, "behavior": behavior})

    def climb(self, blocks: Blocks, kept: Kept) -> Climb:
        """Return the group's parameters at their start, and the way to their logits."""
        given = (blocks, kept, self.layers, self.seeds, len(self.behaviors))
        if isinstance(self.settings, VectorSettings):
            return VectorClimb(*given, hook_point=self.settings.hook_point, init=self.settings.init)
        assert isinstance(self.settings, LoraSettings)
        return LoraClimb(
            *given, rank=self.settings.rank, alpha=self.settings.alpha, modules=self.settings.target_modules
        )


@dataclass
class Outcome:
    """What one training came to."""

    epoch_losses: list[float] = field(default_factory=list)
    """Mean loss of each epoch, in nats an answer."""
    development: list[float] = field(default_factory=list)
    """Choice accuracy on development questions after each epoch."""
    failed_step: int | None = None
    """The first step (from 1) whose loss was not finite, the last one where a parameter isn't; nothing is kept."""


Heard = Callable[[int, int, float], None]
"""Called with steps done, steps in all, and the mean loss in nats."""


def train_group(
    climb: Climb,
    group: Group,
    questions: list[Question],
    development: list[Question],
    heard: Heard = lambda *_: None,
    epoch_done: Callable[[int, list[Outcome]], None] = lambda *_: None,
    max_steps: int | None = None,
    graphs: bool = False,
) -> list[Outcome]:
    """Train a climb's parameters in place; returns the outcomes in the order of ``group.sites``.

    Each training is the one that its settings alone would give: batches in its seed's order, dropout's masks
    of its seed and step, gradients clipped by its own norm, AdamW. One whose loss stops being finite goes on
    as numbers that reach no other, and is marked.

    Args:
        climb: as :meth:`Group.climb` makes it.
        group: what is trained.
        questions: the training questions.
        development: questions of the early figures; none where empty.
        heard: hears of steps, about once a second.
        epoch_done: hears of each epoch (from 0) with the outcomes so far.
        max_steps: stop early (benchmarks).
        graphs: capture the steps of vectors as a CUDA graph.

    """
    settings, sites = group.settings, group.sites
    optimizer = torch.optim.AdamW(
        climb.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=True
    )
    steps = steps_of(questions, settings)
    outcomes, step_of = [Outcome() for _ in sites], _Steps(climb, group, graphs)
    done, looked = 0, time.monotonic()
    for epoch in range(settings.epochs):
        losses = []
        of_seeds = [
            batches_of_epoch(questions, epoch, settings.model_copy(update={"seed": seed}))
            for seed in group.seeds
        ]
        for batches in zip(*of_seeds, strict=True):
            for option in optimizer.param_groups:
                option["lr"] = settings.learning_rate * rate(done, steps, settings)
            losses.append(step_of(batches, done))
            if settings.max_grad_norm is not None:
                clip_each(climb.parameters, settings.max_grad_norm, 3)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            if time.monotonic() - looked > _HEARD or done == steps:
                heard(done, steps, float(losses[-1].nanmean()))
                looked = time.monotonic()
            if done == max_steps:
                break
        table = torch.stack(losses).cpu()
        _note(outcomes, table, done - len(losses))
        if development:
            for outcome, accuracy in zip(outcomes, evaluate_group(climb, group, development), strict=True):
                outcome.development.append(accuracy.choice_accuracy)
        epoch_done(epoch, outcomes)
        if done == max_steps:
            break
    return outcomes


def _gradients(climb: Climb, group: Group, batches: Sequence[Sequence[Example]], step: int) -> torch.Tensor:
    """Add up a step's gradients; returns the losses ``[L·S·B]`` on the device."""
    prompts = len(batches[0])
    width = -(-prompts // group.passes)
    total: torch.Tensor | None = None
    for start in range(0, prompts, width):
        rows = slice(start, start + width)
        part = [batch[rows] for batch in batches]
        loss = losses_of(climb, group, part, masks_of(group, batches, step, rows)) * (len(part[0]) / prompts)
        loss.sum().backward()
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def masks_of(group: Group, batches: Sequence[Sequence[Example]], step: int, rows: slice) -> Masks | None:
    """Return dropout's masks of a pass over some of a step's prompts; None where there is no dropout."""
    dropout = group.settings.dropout if isinstance(group.settings, LoraSettings) else 0.0
    if not dropout:
        return None
    shapes = tuple((len(batch), max(len(example.prompt_ids) for example in batch)) for batch in batches)
    return Masks(dropout, group.seeds, step, rows, shapes)


def losses_of(
    climb: Climb, group: Group, batches: Sequence[Sequence[Example]], masks: Masks | None = None
) -> torch.Tensor:
    """Return each training's mean cross-entropy on its batch, nats, ``[L·S·B]``."""
    logits = climb.logits(batches, masks)
    return _cross_entropy(logits, wanted_of(group, batches, logits.device), group)


def wanted_of(group: Group, batches: Sequence[Sequence[Example]], device: torch.device) -> torch.Tensor:
    """Return the tokens trained for, ``[S, B, n]``."""
    targets = [
        [[example.target(_sign(behavior)) for example in batch] for behavior in group.behaviors]
        for batch in batches
    ]
    return torch.tensor(targets, device=device)


def _cross_entropy(
    logits: torch.Tensor, wanted: torch.Tensor, group: Group, shares: torch.Tensor | None = None
) -> torch.Tensor:
    """Return each training's loss: the mean over its prompts, or the sum by their shares ``[n]``."""
    seeds, joined, prompts, _ = logits.shape
    wanted = wanted[:, None].expand(seeds, len(group.layers), -1, -1).reshape(seeds, joined, prompts, 1)
    picked = logits.log_softmax(-1).gather(-1, wanted)[..., 0]
    return by_site(-(picked.mean(-1) if shares is None else (picked * shares).sum(-1)), group)


class _Steps:
    """Adds up a step's gradients; those of vectors on a GPU by one graph, an epoch's last batch filled up for it."""

    def __init__(self, climb: Climb, group: Group, graphs: bool) -> None:
        self._climb, self._group = climb, group
        self._graphs = graphs and isinstance(climb, VectorClimb) and group.passes == 1
        self._graph: Graphed | None = None

    def __call__(self, batches: Sequence[Sequence[Example]], step: int) -> torch.Tensor:
        """Set the gradients and return the losses ``[L·S·B]`` on the device."""
        climb, group = self._climb, self._group
        if not self._graphs:
            return _gradients(climb, group, batches, step)
        assert isinstance(climb, VectorClimb)
        prompts, size = len(batches[0]), group.settings.step_size
        full = [[*batch, *[batch[0]] * (size - prompts)] for batch in batches]
        numbers, _ = climb.kept.find(full)
        shares = [1 / prompts] * prompts + [0.0] * (size - prompts)
        inputs = (
            numbers,
            wanted_of(group, full, numbers.device),
            torch.tensor(shares, device=numbers.device),
        )
        if self._graph is None:
            longest = climb.kept.longest

            def losses(numbers: torch.Tensor, wanted: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
                return _cross_entropy(climb.at(numbers, longest), wanted, group, shares)

            self._graph = Graphed(losses, climb.parameters, inputs)
        return self._graph.run(inputs)


def by_site(values: torch.Tensor, group: Group) -> torch.Tensor:
    """Bring ``[S, L·B, …]`` into the order of ``group.sites``, ``[L·S·B, …]``."""
    return values.unflatten(1, (len(group.layers), len(group.behaviors))).transpose(0, 1).flatten(0, 2)


def _note(outcomes: list[Outcome], losses: torch.Tensor, before: int) -> None:
    """Note an epoch's losses ``[steps, trainings]`` and where one stopped being finite."""
    for number, outcome in enumerate(outcomes):
        if outcome.failed_step is not None:
            continue
        bad = (~torch.isfinite(losses[:, number])).nonzero()
        if len(bad):
            outcome.failed_step = before + int(bad[0]) + 1
        else:
            outcome.epoch_losses.append(float(losses[:, number].double().mean()))


def mark_not_finite(climb: Climb, outcomes: list[Outcome], step: int) -> None:
    """Mark trainings that end with a parameter that is not finite, of which no loss tells after the last step."""
    finite = torch.stack([parameter.isfinite().flatten(3).all(-1) for parameter in climb.parameters]).all(0)
    for outcome, kept in zip(outcomes, finite.flatten().tolist(), strict=True):
        if outcome.failed_step is None and not kept:
            outcome.failed_step = step


@torch.no_grad()  # type: ignore[untyped-decorator]
def evaluate_group(climb: Climb, group: Group, questions: list[Question]) -> list[Accuracy]:
    """Measure every training on questions, both orders of each, in the order of ``group.sites``."""
    examples = [example for question in questions for example in question.orders]
    parts: list[list[torch.Tensor]] = []
    for batch in evaluated(examples, group):
        logits = climb.logits([batch])
        ids = torch.tensor([[e.positive_id, e.negative_id] for e in batch], device=logits.device)
        pair = logits.gather(-1, ids.expand(*logits.shape[:3], 2))
        found = (pair[..., 0] - pair[..., 1], logits.argmax(-1))
        parts.append([by_site(values, group).cpu() for values in found])
    diffs, tops = (torch.cat(values, 1) for values in zip(*parts, strict=True))
    results = []
    for site, diff, top in zip(group.sites, diffs, tops, strict=True):
        sign = _sign(site[2])
        wanted = torch.tensor([example.target(sign) for example in examples])
        results.append(
            Accuracy(
                len(questions),
                float((diff * sign > 0).double().mean()),
                float((top == wanted).double().mean()),
                float(diff.double().mean()),
            )
        )
    return results


def evaluated(examples: Sequence[E], group: Group) -> Iterator[Sequence[E]]:
    """Cut prompts into passes that no gradient is needed of."""
    size = max(4, min(64, _ROWS // len(group.sites)))
    return (examples[start : start + size] for start in range(0, len(examples), size))


def lora_tensors(climb: LoraClimb, place: tuple[int, ...], layer: int) -> dict[str, Any]:
    """Return one LoRA of a climb by peft's names, float32 on the CPU; ``place`` indexes ``[L, S, B]``."""
    tensors = {}
    for number, module in enumerate(climb.modules):
        for side, parameter in zip("AB", climb.parameters[2 * number : 2 * number + 2], strict=True):
            name = f"base_model.model.model.layers.{layer}.mlp.{module}.lora_{side}.weight"
            tensors[name] = parameter[place].detach().cpu().clone()
    return tensors


def _sign(behavior: Behavior) -> int:
    return 1 if behavior == "risky" else -1
