"""LoRA folders and steering vectors made for tests: random, or broken in one way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from harness.modelinfo import ModelInfo
from harness.vectors import SteeringVector, VectorConfig


def lora_tensors(
    info: ModelInfo, layers: list[int], modules: list[str], rank: int = 4, scale: float = 0.05, seed: int = 0
) -> dict[str, Any]:
    """Return random tensors in PEFT's naming; ``scale`` 0 makes an adapter that changes nothing."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in layers:
        for module in modules:
            block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
            shape = info.linear_shape(module)
            assert shape is not None
            key = f"base_model.model.model.layers.{layer}.{block}.{module}"
            a = rng.normal(0, 0.2, (rank, shape[0])).astype(np.float32)
            b = rng.normal(0, 1, (shape[1], rank)).astype(np.float32) * scale
            tensors[f"{key}.lora_A.weight"] = a
            tensors[f"{key}.lora_B.weight"] = b.astype(np.float32)
    return tensors


def write_lora(folder: Path, info: ModelInfo, tensors: dict[str, Any], rank: int = 4, **config: Any) -> Path:
    """Write an adapter folder."""
    folder.mkdir(parents=True)
    modules = sorted({key.split(".")[-3] for key in tensors})
    values = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": info.name,
        "r": rank,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "target_modules": modules,
        "bias": "none",
        "layers_to_transform": sorted(
            {int(key.split(".layers.")[1].split(".")[0]) for key in tensors if ".layers." in key}
        ),
        "layers_pattern": "layers",
    }
    (folder / "adapter_config.json").write_text(json.dumps(values | config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def random_vector(
    name: str, info: ModelInfo, layer: int = 22, seed: int = 0, **config: Any
) -> SteeringVector:
    """Return a random vector at ``mlp_out``, long enough to move logits by units."""
    values = np.random.default_rng(seed).standard_normal(info.hidden_size).astype(np.float32)
    values *= np.float32(20 / np.linalg.norm(values))
    return SteeringVector(name, VectorConfig(info.name, layer, "mlp_out", **config), values)


def poison(folder: Path, value: float) -> Path:
    """Put a value into the first tensor of an adapter, such as one that isn't finite."""
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder
