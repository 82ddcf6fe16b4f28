"""What ``harness train`` does: settings from presets, files and flags; one adapter, a grid, or a candidate."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.adapters import NAME
from harness.errors import InputError
from harness.jsonl import validated
from harness.modelinfo import model_info
from harness.models import DEFAULT_MODEL, MODELS, prepare
from harness.training import lora, record
from harness.training.advance import Report
from harness.training.plan import Machine, machine
from harness.training.prepared import EVALUATED
from harness.training.product import Grid
from harness.training.settings import (
    LoraSettings,
    TrainingSettings,
    VectorSettings,
    parse_layers,
    preset,
)
from harness.training.single import train_one

BEHAVIORS = ("safe", "risky")


def lora_settings(given: dict[str, Any], from_record: Path | None) -> LoraSettings:
    """Build a LoRA's settings from flags or from a record.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    return _settings(LoraSettings, given, from_record)


def vector_settings(given: dict[str, Any], from_record: Path | None) -> VectorSettings:
    """Build a vector's settings from flags or from a record.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    return _settings(VectorSettings, given, from_record)


def _settings(
    kind: type[record.Settings], given: dict[str, Any], from_record: Path | None
) -> record.Settings:
    """Build settings of a kind from flags or from a record.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    if from_record is not None:
        return record.read_settings(from_record, kind)
    made = grid(kind, given)
    layers = made.layers[0]
    if len(made.layers) > 1:
        raise InputError(f"--layers '{given['layers']}': a vector acts at one layer, not {len(made.layers)}.")
    settings = made.settings_of(layers, made.seeds[0], made.behaviors[0])
    assert isinstance(settings, kind)
    return settings


def grid(kind: type[TrainingSettings], given: dict[str, Any]) -> Grid:
    """Build a grid of vectors or LoRAs from flags or the keys of a file.

    Args:
        kind: settings of what is trained.
        given: values by the settings' names; besides, ``preset``, ``seeds`` (how many, from ``seed`` on) and
            ``each_layer`` (a LoRA for each of ``layers``, not one for all; vectors have one layer in any case).
            ``behavior`` may name both, separated by a comma.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    given = dict(given)
    named, seeds = given.pop("preset", "embedded"), given.pop("seeds", 1)
    each = given.pop("each_layer", False) or kind is VectorSettings
    for key in ("behavior", "layers"):
        if key not in given:
            raise InputError(f"--{key} is missing.")
    if named not in ("paper", "embedded"):
        raise InputError(f"--preset '{named}' is unknown; valid: paper, embedded.")
    if not isinstance(seeds, int) or seeds < 1:
        raise InputError(f"--seeds {seeds!r}: a whole number from 1 on is needed.")
    behaviors = [part.strip() for part in str(given.pop("behavior")).split(",")]
    if wrong := [b for b in behaviors if b not in BEHAVIORS]:
        raise InputError(f"field 'behavior' is '{wrong[0]}': the questions have safe and risky.")
    if len(set(behaviors)) < len(behaviors):
        raise InputError(f"--behavior '{','.join(behaviors)}' names one twice.")
    model = given.get("model", DEFAULT_MODEL)
    if model in MODELS:
        prepare(model)
    layers = parse_layers(str(given.pop("layers")), model_info(model).layers)
    sets = tuple((layer,) for layer in layers) if each else (layers,)
    values = preset(named, kind, len(sets[0]), given.get("format", "named")) | given
    settings = validated(kind, values | {"layers": sets[0], "behavior": behaviors[0]})
    first = settings.seed
    return Grid(settings, sets, tuple(range(first, first + seeds)), tuple(behaviors))  # type: ignore[arg-type]


def train(
    settings: TrainingSettings, out: Path, device: str, report: Report, on: Machine | None = None
) -> dict[str, lora.Accuracy]:
    """Train and keep an adapter or a vector; test figures are computed once, here, and go into its card.

    Raises:
        InputError: the output folder exists, its name is no adapter name, or the training doesn't fit.
        RunError: a loss that is not finite; the message names the step.

    """
    check_name(out)
    if settings.model in MODELS:
        prepare(settings.model, report)
    trained, accuracy, prepared = train_one(settings, on or machine(device, None), report, EVALUATED)
    record.save(out, trained, settings, accuracy, prepared.file, len(prepared.questions["train"]))
    return accuracy


def try_settings(
    settings: TrainingSettings, log: Path, device: str, report: Report, on: Machine | None = None
) -> str:
    """Train a candidate, measure it on development questions alone, and append the outcome to a log."""
    if settings.model in MODELS:
        prepare(settings.model, report)
    trained, accuracy, _ = train_one(settings, on or machine(device, None), report, ("development",))
    line = json.dumps(
        {
            "settings": settings.model_dump(mode="json"),
            "development": asdict(accuracy["development"]),
            "final_loss": trained.epoch_losses[-1],
            "seconds": round(trained.seconds, 1),
        }
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as f:
        f.write(line + "\n")
    return line


def check_name(out: Path) -> None:
    """Refuse an output folder that exists, or whose name is no adapter name.

    Raises:
        InputError: it is one of these.

    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a new folder.")
    if not NAME.match(out.name):
        raise InputError(f"{out}: '{out.name}' is no adapter name; it must match {NAME.pattern}.")


def as_json(accuracy: dict[str, lora.Accuracy]) -> dict[str, Any]:
    """Return figures by split as plain values."""
    return {split: asdict(a) for split, a in accuracy.items()}
