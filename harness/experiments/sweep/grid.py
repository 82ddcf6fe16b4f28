"""The cells of a sweep: which there are, which are scored, and what is known of each."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.errors import HarnessError, InputError
from harness.experiments.sweep import BASE_LAYER
from harness.plan import PlannedSuite
from harness.prompts import Encoded
from harness.scoring import Score
from harness.spec import ScaleMode
from harness.subject import SIGNS
from harness.vectors import SteeringVector

Cell = tuple[str, str, int, float]
"""Suite, item, layer, signed α."""


@dataclass(frozen=True)
class Direction:
    """A vector and the sign that makes +α mean risky."""

    vector: SteeringVector
    sign: int

    @classmethod
    def of(cls, vector: SteeringVector, sign: int | None) -> Direction:
        """Take the sign that is given, else what the vector's training says.

        Raises:
            InputError: neither is there.

        """
        sign = sign or SIGNS.get(vector.behavior or "")
        if sign is None:
            raise InputError(
                f"'{vector.name}' doesn't say whether it was trained towards risky or safe: give --sign 1 "
                "(along the vector is risky) or --sign -1."
            )
        return cls(vector, sign)


@dataclass
class Grid:
    """Suites × layers × strengths, and the scores so far."""

    suites: tuple[PlannedSuite, ...]
    layers: tuple[int, ...]
    alphas: tuple[float, ...]
    selector: str
    mode: ScaleMode
    bos: bool = False
    """Whether ``all`` takes a BOS token too."""
    scores: dict[Cell, Score] = field(default_factory=dict)

    @property
    def passes(self) -> int:
        """Forward passes in all, the base model's included."""
        return len(self.items) * (1 + len(self.layers) * len(self.alphas))

    @property
    def items(self) -> list[tuple[str, Encoded]]:
        """Every suite's items."""
        return [(suite.name, encoded) for suite in self.suites for encoded in suite.items]

    def missing(
        self, items: Iterable[tuple[str, Encoded]], layer: int, alpha: float
    ) -> list[tuple[str, Encoded]]:
        """Return those of the items that have no score in a cell."""
        return [(s, e) for s, e in items if (s, e.item.id, layer, alpha) not in self.scores]

    def cells(self) -> list[tuple[int, float]]:
        """Return layers × strengths, the base model first."""
        return [(BASE_LAYER, 0.0), *((layer, alpha) for layer in self.layers for alpha in self.alphas)]


def entry(cell: Cell, score: Score) -> dict[str, Any]:
    """Return a cell's line in the journal.

    Raises:
        HarnessError: a value isn't finite. Not a RunError, which a sweep can be gone on with after.

    """
    suite, item, layer, alpha = cell
    known = {key: value for key, value in asdict(score).items() if value is not None}
    if not all(map(math.isfinite, known.values())):
        where = "of the base model" if layer == BASE_LAYER else f"at layer {layer} with α = {alpha:g}"
        hint = "" if layer == BASE_LAYER else "; sweep without that strength"
        raise HarnessError(f"{suite}, {item}: the score {where} is not finite{hint}.")
    return {"suite": suite, "item": item, "layer": layer, "alpha": alpha, **known}


def read_entry(line: dict[str, Any]) -> tuple[Cell, Score]:
    """Read a journal's line."""
    rest = {key: value for key, value in line.items() if key not in ("suite", "item", "layer", "alpha")}
    return (line["suite"], line["item"], line["layer"], line["alpha"]), Score(**rest)
