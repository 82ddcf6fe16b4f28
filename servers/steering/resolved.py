"""A spec as the engine sees it: names replaced by content, defaults filled in, nothing left to look up.

It travels as one JSON string in ``SamplingParams.extra_args[EXTRA_ARG]`` from the API process through the
engine core, which makes prefix-cache keys of it, to the workers, which make rows of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from functools import cached_property, lru_cache
from typing import Final

from harness.spec import HookPoint, ScaleMode

EXTRA_ARG: Final = "steering_resolved"
USER_ARG: Final = "steering"


@dataclass(frozen=True, order=True)
class Addition:
    """What one term adds to a token that it selects: content, place and strength."""

    layer: int
    hook: HookPoint
    digest: str
    """SHA-256 of the vector's float32 values."""
    mode: ScaleMode
    scale: float


@dataclass(frozen=True, order=True)
class ResolvedTerm:
    """An addition and the tokens that get it."""

    addition: Addition
    selector: str
    bos: bool = False


@dataclass(frozen=True)
class ResolvedSpec:
    """Sorted terms. ``bos_id`` is the token that ``all`` and ``prompt`` leave out at position 0."""

    terms: tuple[ResolvedTerm, ...]
    bos_id: int | None = None

    def __hash__(self) -> int:
        # Looked up for every block of every request: worked out once.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.bos_id))

    @classmethod
    def of(cls, terms: Iterable[ResolvedTerm], bos_id: int | None) -> ResolvedSpec:
        """Sort terms and drop those of scale 0, which add nothing."""
        return cls(tuple(sorted(term for term in terms if term.addition.scale)), bos_id)

    @cached_property
    def digests(self) -> frozenset[str]:
        """The contents that the spec needs."""
        return frozenset(term.addition.digest for term in self.terms)

    def to_json(self) -> str:
        """Return the wire form."""
        rows = [[*vars(term.addition).values(), term.selector, term.bos] for term in self.terms]
        return json.dumps([self.bos_id, rows], separators=(",", ":"))

    @staticmethod
    @lru_cache(maxsize=4096)
    def from_json(text: str) -> ResolvedSpec:
        """Read the wire form. Only this package writes it, so that anything odd is an error in it."""
        bos_id, rows = json.loads(text)
        return ResolvedSpec(
            tuple(ResolvedTerm(Addition(*row[:5]), selector=row[5], bos=row[6]) for row in rows), bos_id
        )


Content = tuple[Addition, ...]
"""The sorted additions that act on one token."""


@lru_cache(maxsize=65_536)
def content_digest(content: Content) -> bytes:
    """Return 32 bytes that stand for a content in a block's key."""
    return hashlib.sha256(json.dumps([astuple(a) for a in content]).encode()).digest()
