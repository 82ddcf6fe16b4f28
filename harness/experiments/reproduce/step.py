"""What every step of the reproduction has."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from harness.experiments.reproduce.lab import Lab, Plan
from harness.experiments.reproduce.sizes import Size


@dataclass(frozen=True)
class Step(ABC):
    """One part of the reproduction, with a folder of its own."""

    name: str
    experiment: str
    """Its number in the study."""
    title: str
    needs: tuple[str, ...] = ()
    """Steps that come before it in any case."""
    served: bool = False
    """Whether a server scores in it; other steps compute in this process."""

    @abstractmethod
    def plan(self, plan: Plan) -> Size:
        """Say how large it is."""

    @abstractmethod
    async def run(self, lab: Lab) -> None:
        """Do it, or go on with what was begun."""

    @abstractmethod
    def done(self, plan: Plan) -> bool:
        """Whether all that it writes is there."""

    def suites(self, plan: Plan) -> tuple[str, ...]:
        """Name the suites that it scores as they are."""
        return ()

    def sources(self, plan: Plan) -> list[Path]:
        """Return what the report takes from it."""
        return [plan.folder / self.name]
