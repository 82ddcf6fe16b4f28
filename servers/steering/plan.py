"""From additions to arithmetic: which directions, how strong, at which layer and hook point.

At a site (layer, hook point) a token gets ``h + Σ (absolute + relative·‖h‖)·u`` over at most two lanes,
each with a unit direction ``u``. Absolute additions sum to one direction and relative ones to another;
one vector, whatever its modes, is one direction, shared by all sites and scales.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from harness.spec import HookPoint
from servers.steering.resolved import Addition, Content

Direction = tuple[tuple[str, float], ...]
"""A sum of unit vectors: ``(digest, weight)``, sorted; a single one has weight 1."""

Unit = NDArray[np.float64]
"""A unit vector, ``[hidden_size]``, float64."""


@dataclass(frozen=True)
class StoredVector:
    """A vector by content: ``unit`` is float64 ``[hidden_size]``, ``norm`` its Euclidean length."""

    unit: Unit
    norm: float

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> StoredVector:
        """Split values into direction and length."""
        wide = values.astype(np.float64)
        norm = float(np.linalg.norm(wide))
        return cls(wide / norm, norm)


@dataclass(frozen=True)
class Lane:
    """A direction at a site: adds ``(absolute + relative·‖h‖)`` times the direction's unit vector."""

    direction: Direction
    absolute: float
    relative: float


@dataclass(frozen=True)
class Site:
    """Everything that one content adds at one layer and hook point."""

    layer: int
    hook: HookPoint
    lanes: tuple[Lane, ...]


Lookup = Callable[[str], StoredVector]


def plan(content: Content, lookup: Lookup) -> tuple[Site, ...]:
    """Work out the lanes of every site that a content touches."""
    sites = []
    for (layer, hook), additions in groupby(content, key=lambda a: (a.layer, a.hook)):
        lanes = _lanes(tuple(additions), lookup)
        if lanes:
            sites.append(Site(layer, hook, lanes))
    return tuple(sites)


def unit(direction: Direction, lookup: Lookup) -> Unit:
    """Return a direction's unit vector, float64 ``[hidden_size]``."""
    if len(direction) == 1:
        return lookup(direction[0][0]).unit
    total = _sum(direction, lookup)
    return np.asarray(total / np.linalg.norm(total))


def _lanes(additions: tuple[Addition, ...], lookup: Lookup) -> tuple[Lane, ...]:
    absolute = _merge((a.digest, a.scale * lookup(a.digest).norm) for a in additions if a.mode == "absolute")
    relative = _merge((a.digest, a.scale) for a in additions if a.mode == "relative")
    first, strength = _direction(absolute, lookup)
    second, share = _direction(relative, lookup)
    if first and first == second:
        return (Lane(first, strength, share),)
    lanes = (Lane(first, strength, 0.0), Lane(second, 0.0, share))
    return tuple(lane for lane in lanes if lane.direction)


def _merge(weights: Iterable[tuple[str, float]]) -> Direction:
    total: dict[str, float] = {}
    for digest, weight in weights:
        total[digest] = total.get(digest, 0.0) + weight
    return tuple(sorted((digest, weight) for digest, weight in total.items() if weight))


def _direction(weights: Direction, lookup: Lookup) -> tuple[Direction, float]:
    """Return a direction and its strength; an empty one where the sum vanishes."""
    if not weights:
        return (), 0.0
    if len(weights) == 1:
        ((digest, weight),) = weights
        return ((digest, 1.0),), weight
    strength = float(np.linalg.norm(_sum(weights, lookup)))
    return (weights, strength) if strength else ((), 0.0)


def _sum(weights: Direction, lookup: Lookup) -> Unit:
    total = np.zeros_like(lookup(weights[0][0]).unit)
    for digest, weight in weights:
        total += weight * lookup(digest).unit
    return total
