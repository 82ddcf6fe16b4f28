"""What a server doesn't repeat: the size of change that says nothing about a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.stats.stems import Floats


@dataclass(frozen=True)
class NoiseFloor:
    """Changes of the same items' scores between repetitions, in the scores' own unit (nats)."""

    largest: float
    rms: float
    """Root mean square of an item's change."""
    items: int

    def of_mean(self, items: int) -> float:
        """Return the standard error that noise alone gives the mean shift of so many items.

        A shift's two scores each carry the noise once, and so does a change between repetitions.
        """
        return self.rms / float(np.sqrt(items))


def noise_floor(first: Sequence[float] | Floats, again: Sequence[float] | Floats) -> NoiseFloor:
    """Measure noise from items scored twice in other batches; the same items in the same order.

    Batches round differently in floating point, and bfloat16 heads move in steps of 0.125. The largest change
    bounds what a single item may be trusted for; :meth:`NoiseFloor.of_mean` what a mean may.
    """
    change = np.asarray(again, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    if not len(change):
        raise ValueError("no items were repeated")
    return NoiseFloor(float(np.abs(change).max()), float(np.sqrt((change**2).mean())), len(change))
