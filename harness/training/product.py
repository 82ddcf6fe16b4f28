"""A grid: the product of layer sets, seeds and behaviours, and what its trainings are called."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from harness.training.settings import Behavior, TrainingSettings, VectorSettings


@dataclass(frozen=True)
class Grid:
    """The product of layer sets, seeds and behaviours."""

    settings: TrainingSettings
    """Of any one of its trainings."""
    layers: tuple[tuple[int, ...], ...]
    """What each training adapts: one layer, or several together (LoRAs)."""
    seeds: tuple[int, ...]
    behaviors: tuple[Behavior, ...]

    @property
    def plain(self) -> bool:
        """Whether its trainings don't advance together."""
        return is_plain(self.settings)

    @property
    def trainings(self) -> list[TrainingSettings]:
        """The settings of all."""
        product = itertools.product(self.layers, self.seeds, self.behaviors)
        return [self.settings_of(*of) for of in product]

    def settings_of(self, layers: tuple[int, ...], seed: int, behavior: Behavior) -> TrainingSettings:
        """Return one training's settings."""
        return self.settings.model_copy(update={"layers": layers, "seed": seed, "behavior": behavior})


def is_plain(settings: TrainingSettings) -> bool:
    """Whether a training goes through the model by itself: LoRAs of several layers, vectors kept orthogonal."""
    kept_orthogonal = isinstance(settings, VectorSettings) and bool(settings.orthogonal_to)
    return len(settings.layers) > 1 or kept_orthogonal


def name_of(settings: TrainingSettings) -> str:
    """Return an adapter's name in a grid: behaviour, what it is, layers, seed."""
    layers = settings.layers
    where = f"l{layers[0]}" if len(layers) == 1 else f"l{layers[0]}to{layers[-1]}x{len(layers)}"
    kind = "_vec" if isinstance(settings, VectorSettings) else ""
    return f"{settings.behavior}{kind}_{where}_s{settings.seed}"
