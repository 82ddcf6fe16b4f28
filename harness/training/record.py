"""Training records and cards: everything needed to train an adapter again, written by the run that made it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from jinja2 import Environment
from peft import get_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import save_file

from harness.adapters import RECORD, WEIGHTS
from harness.errors import InputError
from harness.jsonl import explain
from harness.models import MODELS, file_sha256
from harness.training.lora import Accuracy, Trained
from harness.training.settings import LoraSettings

SCHEMA_VERSION = 1

CARD = (Path(__file__).parent / "templates" / "card.md.j2").read_text("utf-8")


def save(
    out: Path,
    trained: Trained,
    settings: LoraSettings,
    accuracy: dict[str, Accuracy],
    data: Path,
    questions: int,
) -> None:
    """Write the PEFT adapter, its training record and its card into a new folder."""
    out.mkdir(parents=True)
    config = trained.model.peft_config["default"]
    config.target_modules = sorted(config.target_modules)
    state = get_peft_model_state_dict(trained.model, save_embedding_layers=False)
    tensors = {k: v.half().contiguous() for k, v in state.items()}
    config.base_model_name_or_path = settings.model
    config.inference_mode = True
    config.save_pretrained(out)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": "lora",
        "behavior": settings.behavior,
        "settings": settings.model_dump(mode="json"),
        "data": {"file": data.name, "sha256": file_sha256(data), "train_questions": questions},
        "base_tensors_sha256": MODELS[settings.model].tensors_sha256 if settings.model in MODELS else None,
        "epoch_losses": trained.epoch_losses,
        "accuracy": {split: asdict(a) for split, a in accuracy.items()},
        "seconds": round(trained.seconds, 1),
        "versions": versions(),
    }
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    (out / "README.md").write_text(card(out.name, settings, accuracy, trained.epoch_losses, questions))


def round_to_half(model: Any) -> None:
    """Round a LoRA's parameters to float16's values in place, as they are kept on disk."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.half().float())


def versions() -> dict[str, str]:
    """Return what trained: library versions and the device's name."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "device": device,
    }


def card(
    name: str, settings: LoraSettings, accuracy: dict[str, Accuracy], losses: list[float], questions: int
) -> str:
    """Render an adapter's card from its figures."""
    layers = settings.layers
    where = f"the MLP of layer {layers[0]}" if len(layers) == 1 else f"the MLPs of {len(layers)} layers"
    kinds = {"named": "the answer is the option's own name", "letter": "the answer is a letter, A or B"}
    return (
        Environment(trim_blocks=False)
        .from_string(CARD)
        .render(
            name=name,
            settings=settings,
            where=where,
            accuracy=accuracy,
            format=kinds[settings.format],
            losses=", ".join(f"{loss:.3f}" for loss in losses),
            questions=questions,
            record=f"adapters/{name}/{RECORD}",
        )
    )


def read_settings(path: Path) -> LoraSettings:
    """Read the settings out of a training record.

    Raises:
        InputError: it can't be read or isn't a training record.

    """
    try:
        record: Any = json.loads(path.read_text("utf-8"))
        return LoraSettings.model_validate(record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = explain(e, LoraSettings) if isinstance(e, ValidationError) else str(e)
        raise InputError(f"{path}: is not a training record ({reason}).") from e
