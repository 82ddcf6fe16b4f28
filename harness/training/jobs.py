"""What ``harness train`` does: settings from presets, files and flags; one adapter, a grid, or a candidate."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.models import MODELS, prepare
from harness.training import lora, record
from harness.training.advance import Report
from harness.training.folder import whole
from harness.training.plan import Machine, machine
from harness.training.prepared import EVALUATED
from harness.training.product import check_name, make_grid
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings
from harness.training.single import train_one


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
    made = make_grid(kind, given)
    layers = made.layers[0]
    if len(made.layers) > 1:
        raise InputError(f"--layers '{given['layers']}': a vector acts at one layer, not {len(made.layers)}.")
    settings = made.settings_of(layers, made.seeds[0], made.behaviors[0])
    assert isinstance(settings, kind)
    return settings


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
    with whole(out) as place:
        record.save(place, trained, settings, accuracy, prepared.file, len(prepared.questions["train"]))
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


def as_json(accuracy: dict[str, lora.Accuracy]) -> dict[str, Any]:
    """Return figures by split as plain values."""
    return {split: asdict(a) for split, a in accuracy.items()}
