"""What a grid is cut into: groups that advance together, or single trainings; each can be done anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from harness.models import resolve_model
from harness.training import lora
from harness.training.advance import Done, Report, train_groups
from harness.training.blocks import Blocks
from harness.training.groups import Group, Outcome
from harness.training.plan import Machine
from harness.training.prepared import Prepared
from harness.training.settings import TrainingSettings
from harness.training.single import train_plainly

Task = tuple[Group | TrainingSettings, float]
"""What is trained, and its share of the work."""
Early = Callable[[TrainingSettings, int, Outcome], None]
"""Hears of a training's figures after an epoch (from 0)."""


def train_tasks(
    tasks: Sequence[Task], prepared: Prepared, on: Machine, report: Report, early: Early
) -> Iterator[Done]:
    """Train in this process, and yield each training when it is done."""
    groups = [(of, share) for of, share in tasks if isinstance(of, Group)]
    for of, _ in tasks:
        if not isinstance(of, Group):
            yield (of, *train_plainly(of, prepared, on, report))
    if groups:
        report("Loading the model")
        settings = groups[0][0].settings
        base = lora.load_base(resolve_model(settings.model), on.device, settings.dtype)
        yield from train_groups(
            Blocks(base, compiled=on.compiled),
            [group for group, _ in groups],
            prepared,
            report,
            early,
            weigh=[share for _, share in groups],
            graphs=on.graphs,
        )
