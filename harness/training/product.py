"""A grid: the product of layer sets, seeds and behaviours, what its trainings are called, and how flags make one.

Without torch, which takes seconds to import: what is given wrongly is told before.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.adapters import NAME
from harness.errors import InputError
from harness.jsonl import validated
from harness.modelinfo import model_info
from harness.models import DEFAULT_MODEL, MODELS, prepare
from harness.training.settings import Behavior, Preset, TrainingSettings, VectorSettings, parse_layers, preset

BEHAVIORS = ("safe", "risky")


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


def make_grid(kind: type[TrainingSettings], given: dict[str, Any]) -> Grid:
    """Build a grid of vectors or LoRAs from flags or the keys of a file.

    Args:
        kind: settings of what is trained.
        given: values by the settings' names; besides, ``preset``, ``seeds`` (how many, from ``seed`` on) and
            ``each_layer`` (a LoRA for each of ``layers``, not one for all; vectors have one layer in any case).
            ``behavior`` may name both, separated by a comma; it and ``layers`` may be lists, as in YAML.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    given = dict(given)
    named, seeds = take_preset(given, ("behavior", "layers"))
    each = given.pop("each_layer", False) or kind is VectorSettings
    behaviors = [part.strip() for part in listed(given.pop("behavior")).split(",")]
    if wrong := [b for b in behaviors if b not in BEHAVIORS]:
        raise InputError(f"field 'behavior' is '{wrong[0]}': the questions have safe and risky.")
    if len(set(behaviors)) < len(behaviors):
        raise InputError(f"--behavior '{','.join(behaviors)}' names one twice.")
    model = given.get("model", DEFAULT_MODEL)
    if model in MODELS:
        prepare(model)
    info = model_info(model)
    layers = parse_layers(listed(given.pop("layers")), info.layers)
    sets = tuple((layer,) for layer in layers) if each else (layers,)
    values = preset(named, kind, len(sets[0]), given.get("format", "named")) | given
    settings = validated(kind, values | {"layers": sets[0], "behavior": behaviors[0]})
    if isinstance(settings, VectorSettings) and settings.orthogonal_to:
        from harness.training.orthogonal import given_vectors

        given_vectors(settings.orthogonal_to, info.hidden_size)
    first = settings.seed
    return Grid(settings, sets, tuple(range(first, first + seeds)), tuple(behaviors))  # type: ignore[arg-type]


def take_preset(given: dict[str, Any], needed: tuple[str, ...]) -> tuple[Preset, int]:
    """Take the preset and the number of seeds out of what is given, and see that what is needed is there.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    named, seeds = given.pop("preset", "embedded"), given.pop("seeds", 1)
    for key in needed:
        if key not in given:
            raise InputError(f"--{key} is missing.")
    if named not in ("paper", "embedded"):
        raise InputError(f"--preset '{named}' is unknown; valid: paper, embedded.")
    if not isinstance(seeds, int) or seeds < 1:
        raise InputError(f"--seeds {seeds!r}: a whole number from 1 on is needed.")
    return named, seeds


def check_name(out: Path) -> None:
    """Refuse an output folder that exists, or whose name is no adapter name.

    Raises:
        InputError: it is one of these.

    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a new folder.")
    if not NAME.match(out.name):
        raise InputError(f"{out}: '{out.name}' is no adapter name; it must match {NAME.pattern}.")


def listed(value: object) -> str:
    """Return a value as a flag writes it: a list's elements separated by commas."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
