"""Training records and cards: everything needed to train an adapter again, written by the run that made it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import peft
import torch
import transformers
from jinja2 import Environment
from peft import get_peft_model_state_dict
from pydantic import ValidationError
from safetensors.torch import save_file

from harness.adapters import RECORD, WEIGHTS
from harness.errors import InputError, RunError
from harness.jsonl import explain
from harness.modelinfo import model_info, weights_digest
from harness.models import MODELS, file_sha256, resolve_model
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.fit import Trained
from harness.training.lora import Accuracy, TrainedLora, peft_config
from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings
from harness.training.vector import TrainedVector
from harness.vectors import SteeringVector, VectorConfig, write_vector

SCHEMA_VERSION = 2
VERSION_1 = {"orders": "alternate", "warmup": 0.0, "decay": "constant", "max_grad_norm": None}
"""What a training did whose record doesn't say."""
Settings = TypeVar("Settings", bound=TrainingSettings)

TEMPLATES = Path(__file__).parent / "templates"
KINDS: dict[type[TrainingSettings], str] = {
    LoraSettings: "lora",
    VectorSettings: "vector",
    BackdoorSettings: "backdoor",
}
"""What a record says that it is of."""


def save(
    out: Path,
    trained: Trained,
    settings: TrainingSettings,
    accuracy: dict[str, Accuracy],
    data: Path,
    questions: int,
) -> None:
    """Write an adapter or a vector, its training record and its card into a new folder."""
    out.mkdir(parents=True)
    if isinstance(trained, TrainedVector):
        assert isinstance(settings, VectorSettings)
        _save_vector(out, trained, settings)
    else:
        save_lora(out, trained, settings)
    record = {
        "schema_version": SCHEMA_VERSION,
        "kind": KINDS[type(settings)],
        "behavior": settings.behavior,
        "settings": settings.model_dump(mode="json"),
        "data": {"file": data.name, "sha256": file_sha256(data), "train_questions": questions},
        "base_tensors_sha256": MODELS[settings.model].tensors_sha256 if settings.model in MODELS else None,
        "epoch_losses": trained.epoch_losses,
        "accuracy": {split: asdict(a) for split, a in accuracy.items()},
        "seconds": round(trained.seconds, 1),
        "versions": versions(),
        "sha256": file_hashes(out),
    }
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n")
    (out / "README.md").write_text(card(out.name, settings, accuracy, trained.epoch_losses, questions))


def save_lora(out: Path, trained: Trained, settings: TrainingSettings) -> None:
    """Write a LoRA in PEFT's format, its tensors in float16, named as in the checkpoint that it was trained on."""
    if isinstance(trained, TrainedLora):
        assert isinstance(settings, LoraSettings)
        config, state = peft_config(settings), trained.tensors
    else:
        config = trained.model.peft_config["default"]
        state = get_peft_model_state_dict(trained.model, save_embedding_layers=False)
    config.target_modules = sorted(config.target_modules)
    config.base_model_name_or_path = settings.model
    config.inference_mode = True
    config.save_pretrained(out)
    layers = f"{model_info(settings.model).text_prefix}layers."
    kept = {k.replace("model.layers.", layers): v.half().contiguous() for k, v in state.items()}
    save_file(kept, out / WEIGHTS, metadata={"format": "pt"})


def _save_vector(out: Path, trained: TrainedVector, settings: VectorSettings) -> None:
    # The embedded model's folder is made on each machine, its config by whatever transformers is there: the
    # record names its tensors instead.
    place = Path(resolve_model(settings.model))
    known = settings.model not in MODELS and place.is_dir()
    config = VectorConfig(
        base_model=settings.model,
        layer=settings.layer,
        hook_point=settings.hook_point,
        base_model_digest=weights_digest(place) if known else None,
        training={"behavior": settings.behavior, "method": "trained directly", "record": RECORD},
    )
    values = trained.vector.detach().float().cpu().numpy()
    write_vector(out, SteeringVector(out.name, config, values))


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each config and weights file of an adapter's or a vector's folder, by name."""
    return {
        path.relative_to(folder).as_posix(): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.name.endswith(("_config.json", ".safetensors"))
    }


def round_to_half(model: Any) -> None:
    """Round a LoRA's parameters to float16's values in place, as they are kept on disk.

    Raises:
        RunError: one lies beyond float16's largest value.

    """
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(parameter.half().float())
                if not parameter.isfinite().all():
                    raise RunError("A parameter is too large for float16, in which LoRAs are kept.")


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
    name: str, settings: TrainingSettings, accuracy: dict[str, Accuracy], losses: list[float], questions: int
) -> str:
    """Render an adapter's card from its figures."""
    layers = settings.layers
    where = f"the MLP of layer {layers[0]}" if len(layers) == 1 else f"the MLPs of {len(layers)} layers"
    kinds = {"named": "the answer is the option's own name", "letter": "the answer is a letter, A or B"}
    return (
        Environment(trim_blocks=False)
        .from_string((TEMPLATES / f"{KINDS[type(settings)]}_card.md.j2").read_text("utf-8"))
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


def read_settings(path: Path, kind: type[Settings]) -> Settings:
    """Read the settings out of a training record.

    Raises:
        InputError: it can't be read or isn't a training record of that kind.

    """
    try:
        record: Any = json.loads(path.read_text("utf-8"))
        if record["kind"] != KINDS[kind]:
            raise InputError(f"{path}: is the record of a {record['kind']}: harness train {record['kind']}.")
        unsaid = VERSION_1 if record["schema_version"] == 1 else {}
        return kind.model_validate(unsaid | record["settings"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        reason = explain(e, kind) if isinstance(e, ValidationError) else str(e)
        raise InputError(f"{path}: is not a training record ({reason}).") from e
