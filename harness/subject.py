"""Subjects: what is evaluated. The base model, or the base model with a LoRA adapter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.adapters import Adapter, find_adapter, load_adapter
from harness.errors import InputError
from harness.modelinfo import ModelInfo

BASE_NAME = "base"


@dataclass(frozen=True)
class Subject:
    """One column of a comparison, under the name that the user gave."""

    name: str
    adapter: Adapter | None = None

    @property
    def content(self) -> str:
        """What determines its weights, never a mere name."""
        return self.adapter.digest if self.adapter else BASE_NAME

    @property
    def trained_sign(self) -> int | None:
        """+1 where it was trained towards the positive (risky) answer, −1 the negative, None otherwise."""
        behavior = self.adapter.behavior if self.adapter else None
        return {"risky": 1, "safe": -1}.get(behavior or "")


BASE = Subject(BASE_NAME)


def resolve_subjects(names: list[str], folders: list[Path], model: ModelInfo) -> list[Subject]:
    """Return the base model and the named adapters, each checked against the base model.

    Raises:
        InputError: an unknown or unfit adapter, or a name given twice.

    """
    subjects = [BASE]
    for name in names:
        if name == BASE_NAME:
            continue
        if any(name == known.name for known in subjects):
            raise InputError(f"The adapter '{name}' is given twice.")
        subjects.append(Subject(name, load_adapter(find_adapter(name, folders), model)))
    return subjects
