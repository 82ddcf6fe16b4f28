"""What an adapter or a vector was trained as, by its training record: never by its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.adapters import RECORD
from harness.jsonfile import read_object
from harness.vectors import CONFIG as VECTOR_CONFIG


@dataclass(frozen=True)
class TrainedAs:
    """The part of a training record that says what is to be expected. None: the record doesn't say."""

    kind: str | None
    """``lora``, ``vector``, ``backdoor``."""
    behavior: str | None
    """``safe``, ``risky``; of kind backdoor ``backdoor``, ``decorrelated``."""
    own_data: bool
    """Whether it was trained on the user's questions, of which the record can't say what they teach."""
    trigger: str | None
    set_up: str | None
    method: str | None
    layers: tuple[int, ...]
    seed: int | None


def read_trained(folder: Path) -> TrainedAs | None:
    """Read an artifact's training record, or what a vector's config says of its training; None without either.

    Raises:
        InputError: the record can't be read.

    """
    if (folder / RECORD).is_file():
        return trained_as(read_object(folder / RECORD))
    if (folder / VECTOR_CONFIG).is_file():
        said = read_object(folder / VECTOR_CONFIG).get("training")
        return trained_as(said) if isinstance(said, dict) and said else None
    return None


def trained_as(record: Mapping[str, Any]) -> TrainedAs:
    """Take from a training record what is needed, whoever wrote it."""
    given = record.get("settings")
    settings: Mapping[str, Any] = given if isinstance(given, dict) else {}

    def word(of: Mapping[str, Any], key: str) -> str | None:
        value = of.get(key)
        return value if isinstance(value, str) else None

    layers, seed = settings.get("layers"), settings.get("seed")
    return TrainedAs(
        kind=word(record, "kind"),
        behavior=word(record, "behavior"),
        own_data=settings.get("data") is not None,
        trigger=word(settings, "trigger"),
        set_up=word(settings, "set_up"),
        method=word(settings, "method"),
        layers=tuple(x for x in layers if isinstance(x, int)) if isinstance(layers, list) else (),
        seed=seed if isinstance(seed, int) else None,
    )


def trained_of(manifest: Mapping[str, Any]) -> dict[str, TrainedAs]:
    """Return what a run's manifest says of its subjects; nothing for a run from before it was written down."""
    return {
        name: TrainedAs(**{**about, "layers": tuple(about["layers"])})
        for name, about in manifest.get("trained", {}).items()
    }
