"""What ``harness train`` does: settings, training, development and test figures, record and card."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.adapters import NAME, shipped_adapters
from harness.errors import InputError
from harness.jsonl import explain
from harness.modelinfo import model_info
from harness.models import DEFAULT_MODEL, MODELS, prepare, resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training import lora, record, vector
from harness.training.data import Question, load_questions, questions_file
from harness.training.fit import Trained
from harness.training.orthogonal import train_orthogonal
from harness.training.settings import (
    LoraSettings,
    TrainingSettings,
    VectorSettings,
    chosen,
    parse_layers,
)
from harness.vectors import find_vector, read_vector

Report = Callable[[str], None]
EVALUATED = ("development", "test", "heldout")


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
    for key in ("behavior", "layers"):
        if key not in given:
            raise InputError(f"--{key} is missing.")
    model = given.get("model", DEFAULT_MODEL)
    if model in MODELS:
        prepare(model)
    layers = parse_layers(given["layers"], model_info(model).layers)
    if kind is VectorSettings and len(layers) != 1:
        raise InputError(f"--layers '{given['layers']}': a vector acts at one layer, not {len(layers)}.")
    values = given | {"layers": layers}
    if kind is LoraSettings:
        values = chosen(len(layers), given.get("format", "named")) | values
    try:
        return kind.model_validate(values)
    except ValidationError as e:
        raise InputError(f"{explain(e, kind)}.") from e


def _load(settings: TrainingSettings, device: str, report: Report) -> tuple[Any, PromptBuilder]:
    if settings.model in MODELS:
        prepare(settings.model, report)
    report("Loading the model")
    place = resolve_model(settings.model)
    return lora.load_base(place, device), PromptBuilder(load_tokenizer(place))


def _train(
    base: Any, builder: PromptBuilder, settings: TrainingSettings, report: Report
) -> tuple[Trained, list[Question]]:
    questions = load_questions(questions_file(), "train", settings.format, builder)

    def progress(done: int, total: int, loss: float) -> None:
        report(f"Training, step {done} of {total}, loss {loss:.3f} nats")

    if isinstance(settings, VectorSettings) and settings.orthogonal_to:
        others = [read_vector(find_vector(name, [shipped_adapters()])) for name in settings.orthogonal_to]
        return train_orthogonal(base, questions, settings, others, progress), questions
    if isinstance(settings, VectorSettings):
        return vector.train(base, questions, settings, progress), questions
    assert isinstance(settings, LoraSettings)
    return lora.train(base, questions, settings, progress), questions


def train(settings: TrainingSettings, out: Path, device: str, report: Report) -> dict[str, lora.Accuracy]:
    """Train and keep an adapter or a vector; test figures are computed once, here, and go into its card.

    Raises:
        InputError: the output folder exists, or its name is no adapter name.

    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a new folder.")
    if not NAME.match(out.name):
        raise InputError(f"{out}: '{out.name}' is no adapter name; it must match {NAME.pattern}.")
    base, builder = _load(settings, device, report)
    trained, questions = _train(base, builder, settings, report)
    if isinstance(settings, LoraSettings):
        # The adapter is kept in float16: the figures are those of what is kept.
        record.round_to_half(trained.model)
    accuracy = {}
    for split in EVALUATED:
        report(f"Evaluating on {split} questions")
        rest = load_questions(questions_file(), split, settings.format, builder)
        accuracy[split] = lora.evaluate(trained.logits_of, rest, settings.sign)
    record.save(out, trained, settings, accuracy, questions_file(), len(questions))
    return accuracy


def try_settings(settings: TrainingSettings, log: Path, device: str, report: Report) -> str:
    """Train a candidate, measure it on development questions alone, and append the outcome to a log."""
    base, builder = _load(settings, device, report)
    trained, _ = _train(base, builder, settings, report)
    development = load_questions(questions_file(), "development", settings.format, builder)
    outcome = lora.evaluate(trained.logits_of, development, settings.sign)
    line = json.dumps(
        {
            "settings": settings.model_dump(mode="json"),
            "development": asdict(outcome),
            "final_loss": trained.epoch_losses[-1],
            "seconds": round(trained.seconds, 1),
        }
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as f:
        f.write(line + "\n")
    return line
