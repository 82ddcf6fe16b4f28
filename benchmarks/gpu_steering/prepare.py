"""A checkpoint with random weights, 256 vectors and 8 adapters; then what the reference says of every case."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np

from benchmarks.gpu_steering.places import (
    CHECKPOINT_DONE,
    CPU,
    LORAS,
    MODEL,
    NAME,
    SCRIPTS,
    SEQS,
    SHAPE,
    VECTORS,
    WORK,
    record,
    shape,
    trained_layer,
)

VECTOR_NORM = 30.0
LORA_RANK = 4


def prepare() -> None:
    """Write everything that a server needs, say so, and go on to the reference with the model that is loaded."""
    from benchmarks.gpu_steering import reference

    started = time.time()
    reference.write(checkpoint())
    record("prepare_seconds", {"all": time.time() - started})


def checkpoint() -> Any:
    """Write model, vectors and adapters; return the model, which is in memory still."""
    started = time.time()
    _prepare_folders()
    model = random_model()
    record("machine", {"name": _machine()})
    config = (MODEL / "config.json").read_text()
    model.save_pretrained(MODEL, max_shard_size="5GB")
    (MODEL / "config.json").write_text(config)
    CHECKPOINT_DONE.touch()
    print(f"prepared: {time.time() - started:.0f} s", flush=True)
    return model


def _machine() -> str:
    import torch

    if not torch.cuda.is_available():
        return "no GPU"
    return f"One {torch.cuda.get_device_name()}, {torch.cuda.mem_get_info()[1] / 2**30:.0f} GiB"


def _prepare_folders() -> None:
    WORK.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPTS / "gemma3_config.py"), str(MODEL)]
    command += ["--tokenizer", str(SCRIPTS / "gemma3_tokenizer.tar.xz"), *SHAPE.split()]
    subprocess.run(command, check=True)
    _write_vectors()
    _write_loras()


def random_model() -> Any:
    """Return the model folder's model with random weights, bfloat16 (float32 in a rehearsal)."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(MODEL)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        dtype = torch.float32 if CPU else torch.bfloat16
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.02)
        elif "norm" in name:
            # Gains away from 1, so that a steered tensor before a norm differs from one after it.
            torch.nn.init.normal_(weight, std=0.2)
    return model


def _write_vectors() -> None:
    from harness.vectors import SteeringVector, VectorConfig, write_vector

    rng = np.random.default_rng(0)
    for i in range(SEQS):
        values = rng.standard_normal(shape()["hidden_size"]).astype(np.float32)
        values *= np.float32(VECTOR_NORM / np.linalg.norm(values))
        vector = SteeringVector(f"v{i}", VectorConfig(NAME, trained_layer(), "mlp_out"), values)
        write_vector(VECTORS / vector.name, vector)


def _write_loras() -> None:
    from safetensors.numpy import save_file

    hidden, inner = shape()["hidden_size"], shape()["intermediate_size"]
    sizes = {"gate_proj": (hidden, inner), "up_proj": (hidden, inner), "down_proj": (inner, hidden)}
    rng = np.random.default_rng(1)
    config = {
        "peft_type": "LORA",
        "r": LORA_RANK,
        "lora_alpha": 32,
        "bias": "none",
        "base_model_name_or_path": NAME,
        "target_modules": [f"layers.{trained_layer()}.mlp.{module}" for module in sizes],
        "task_type": "CAUSAL_LM",
    }
    for i in range(8):
        folder = LORAS / f"lora{i}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        tensors = {}
        for module, (wide, out) in sizes.items():
            prefix = f"base_model.model.model.layers.{trained_layer()}.mlp.{module}"
            a, b = rng.standard_normal((LORA_RANK, wide)), rng.standard_normal((out, LORA_RANK))
            tensors[f"{prefix}.lora_A.weight"] = (a * 0.01).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = (b * 0.01).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
