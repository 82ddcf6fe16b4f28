"""The plan of a run: suites encoded for a model × subjects."""

from __future__ import annotations

from dataclasses import dataclass

from harness.errors import InputError
from harness.evalset import EvalSet, load_evalset
from harness.prompts import Encoded, InvalidItemError, PromptBuilder
from harness.subject import Subject


@dataclass(frozen=True)
class PlannedSuite:
    """A suite's items as a model sees them, and those that the model's tokenizer can't score."""

    evalset: EvalSet
    items: tuple[Encoded, ...]
    invalid: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.evalset.name


@dataclass(frozen=True)
class Plan:
    """Suites × subjects, base first."""

    suites: tuple[PlannedSuite, ...]
    subjects: tuple[Subject, ...]

    @property
    def passes(self) -> int:
        """Forward passes in all."""
        return len(self.subjects) * sum(len(suite.items) for suite in self.suites)


def load_suites(names: list[str], limit: int | None) -> list[EvalSet]:
    """Load suites by name.

    Raises:
        InputError: an unknown or invalid suite, or one given twice.

    """
    suites: list[EvalSet] = []
    for name in names:
        suite = load_evalset(name)
        if any(known.name == suite.name for known in suites):
            raise InputError(f"The suite '{suite.name}' is given twice.")
        suites.append(suite.limited(limit))
    return suites


def encode_suite(evalset: EvalSet, builder: PromptBuilder) -> PlannedSuite:
    """Encode a suite's items; those invalid for the model are left out and named.

    Raises:
        InputError: no item is valid.

    """
    items, invalid = [], []
    for item in evalset.items:
        try:
            items.append(builder.encode(item))
        except InvalidItemError as e:
            invalid.append(str(e))
    if not items:
        raise InputError(f"No item of the suite '{evalset.name}' is valid for this model: {invalid[0]}.")
    return PlannedSuite(evalset, tuple(items), tuple(invalid))
