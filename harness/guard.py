"""Watch through a run that the engine stays what it was: canaries, base items scored again and again."""

from __future__ import annotations

import time

from harness.errors import CanaryError
from harness.plan import Plan
from harness.prompts import Encoded
from harness.scoring import Engine, Key, Score, request_for, score_item
from harness.subject import BASE

CANARIES = 8
SECONDS = 20.0
"""Between two checks."""
FLOATS = {"float32": 1e-3}
"""By dtype, the change of a canary in nats that no repetition makes."""
OTHER_FLOATS = 0.1


class Canary:
    """Base items, scored at the start twice in other batches, then again through the run.

    A canary asks for the base model and must be alone: nothing else may be in flight.
    """

    def __init__(self, engine: Engine, plan: Plan) -> None:
        self._engine = engine
        picked = [(suite.name, encoded) for suite in plan.suites for encoded in suite.items]
        self._picked: list[tuple[str, Encoded]] = picked[:: max(1, len(picked) // CANARIES)][:CANARIES]
        self._first: list[Score] = []
        self._checked = 0.0
        self.noise = 0.0
        """The largest change of a logit difference that repetition made, in nats: below it nothing counts."""

    @property
    def first(self) -> dict[Key, Score]:
        """What the canaries were when they were first scored."""
        return dict(zip(self._keys, self._first, strict=True))

    @property
    def _keys(self) -> list[Key]:
        return [(suite, BASE.name, encoded.item.id) for suite, encoded in self._picked]

    @property
    def due(self) -> bool:
        """Whether the last check is too long ago."""
        return time.monotonic() - self._checked > SECONDS

    @property
    def tolerance(self) -> float:
        """The change in nats beyond which something else answers."""
        dtype = str(self._engine.fingerprint.get("dtype"))
        return max(FLOATS.get(dtype, OTHER_FLOATS), 4 * self.noise)

    async def start(self, known: dict[Key, Score]) -> None:
        """Score the canaries for the first time, and hold them against what is known from before.

        Raises:
            CanaryError: the engine says something else than it did when ``known`` was scored.

        """
        self._first = await self._score(range(len(self._picked)))
        self.noise = self._largest(await self._again())
        before = [known.get(key) or first for key, first in zip(self._keys, self._first, strict=True)]
        self._compare(before, "what was kept from before")

    async def check(self) -> None:
        """Score the canaries again.

        Raises:
            CanaryError: they have changed by more than repetition changes them.

        """
        again = await self._again()
        self._compare(again, "what it said when the run began")
        self.noise = max(self.noise, self._largest(again))

    async def _again(self) -> list[Score]:
        """Score them in other batches: backwards, and the even ones apart from the odd ones."""
        count = len(self._picked)
        return await self._score(*(range(count)[start::2][::-1] for start in (0, 1) if start < count))

    async def _score(self, *parts: range) -> list[Score]:
        found: dict[int, Score] = {}
        for part in parts:
            picked = [self._picked[index][1] for index in part]
            async for index, answer in self._engine.score(BASE, [request_for(e) for e in picked]):
                found[part[index]] = score_item(picked[index], answer)
        self._checked = time.monotonic()
        return [found[index] for index in range(len(self._picked))]

    def _largest(self, again: list[Score]) -> float:
        return max(abs(a.logit_diff - b.logit_diff) for a, b in zip(self._first, again, strict=True))

    def _compare(self, other: list[Score], what: str) -> None:
        change = self._largest(other)
        if not change <= self.tolerance:
            raise CanaryError(
                f"The canary items differ from {what} by {change:.2g} nats (up to {self.tolerance:.2g} is "
                "noise): other weights or flags answer now. What was scored since the last check is dropped."
            )
