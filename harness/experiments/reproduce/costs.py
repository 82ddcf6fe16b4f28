"""What a step takes: its floating-point operations, and from measured rates its seconds.

A rate is what a matrix product measured now does on this device (for a GPU that isn't here: the committed figure
of an H200), times how much of that each kind of work reached when it was measured.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.evalset import Item
from harness.modelinfo import SHAPES
from harness.models import resolve_model

Kind = Literal["scoring", "reference", "lora", "vector", "story", "sweep", "backdoor", "patching"]
CPU: dict[Kind, float] = {
    "scoring": 1.4,
    "reference": 1.4,
    "lora": 2.0,
    "vector": 2.0,
    "story": 2.4,
    "sweep": 2.0,
    "backdoor": 4.0,
    "patching": 4.0,
}
"""Parts of the matrix product's rate, SmolLM2-135M on two CPU cores. From rehearsals (``--preset quick``) on a busy
machine; ``scripts/reproduce_killed.py`` prints what an undisturbed run reached."""
CUDA: dict[Kind, float] = {"scoring": 1.6, "lora": 1.1, "vector": 0.57}
"""Gemma 3 12B's shape on an H200: reports/benchmarks/gpu_steering.md, reports/training/gemma3_12b.md."""
H200 = 0.45 * 779e12
"""Operations a second in bfloat16 that trainings reached there."""
CARD = 80 * 10**9 * 9 // 10
"""Bytes that may be used of a card that isn't here."""
START = {"cpu": 35.0, "cuda": 175.0}
"""Seconds until a server answers."""
CHARACTERS = 4.2
"""Of English a token."""


@dataclass(frozen=True)
class Shape:
    """A model's sizes; weights count elements."""

    layers: int
    layer_weights: int
    head: int
    """Weights of the unembedding."""
    config: dict[str, Any]

    @property
    def weights(self) -> int:
        """All weights that a pass multiplies by."""
        return self.layers * self.layer_weights + self.head

    def above(self, layer: int) -> int:
        """Return the weights above a layer, the head's included."""
        return (self.layers - 1 - layer) * self.layer_weights + self.head


def shape_of(model: str) -> Shape:
    """Read a model's sizes from its folder, from what is known of it, or from the hub."""
    place = resolve_model(model)
    if Path(place).is_dir():
        config = json.loads((Path(place) / "config.json").read_text("utf-8"))
    elif place in SHAPES:
        config = SHAPES[place]
    else:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(place).to_dict()
    text = config.get("text_config") or config
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    width = heads * (text.get("head_dim") or hidden // heads)
    kv = width * (text.get("num_key_value_heads") or heads) // heads
    of_layer = 2 * hidden * (width + kv) + 3 * hidden * text["intermediate_size"]
    return Shape(text["num_hidden_layers"], of_layer, text["vocab_size"] * hidden, text)


@dataclass(frozen=True)
class Work:
    """One kind of work of a step."""

    kind: Kind
    operations: float


@dataclass(frozen=True)
class Rates:
    """Operations a second by kind of work, and what they rest on."""

    by_kind: dict[Kind, float]
    basis: str
    product: float
    """Operations a second of the matrix product that they are parts of."""

    def seconds(self, work: Iterable[Work], fixed: float = 0.0) -> float | None:
        """Return how long work takes; None where a kind was never measured on such a device."""
        total = fixed
        for part in work:
            if part.kind not in self.by_kind:
                return None
            total += part.operations / self.by_kind[part.kind]
        return total


def rates(device: str) -> Rates:
    """Measure a matrix product here, a fraction of a second, and take the measured parts of it."""
    import torch

    from harness.training.plan import Machine, rate_of

    if device == "cpu":
        rate = rate_of(Machine("cpu", 0), "float32")
        basis = (
            f"a matrix product measured now on this CPU ({os.cpu_count()} cores), and the part of its rate that each "
            "kind of work reached with SmolLM2-135M on two cores"
        )
        return Rates({kind: part * rate for kind, part in CPU.items()}, basis, rate)
    if not torch.cuda.is_available():
        basis = (
            "one H200 at Gemma 3 12B's shape (reports/training/gemma3_12b.md, reports/benchmarks/gpu_steering.md): no "
            "GPU is here to measure; what was never measured on one has no estimate"
        )
        return Rates({kind: part * H200 for kind, part in CUDA.items()}, basis, H200)
    half, full = (rate_of(Machine(device, 0), dtype) for dtype in ("bfloat16", "float32"))
    own = {kind: part * half for kind, part in CUDA.items()}
    others = {kind: part * full for kind, part in CPU.items() if kind not in CUDA}
    basis = (
        "matrix products measured now on this GPU, the parts of their rate that scoring and training reached on an "
        "H200, and for the other work what it reached on a CPU"
    )
    return Rates(own | others, basis, half)


def tokens(items: Iterable[Item]) -> int:
    """Return about how many tokens prompts have: no tokenizer is needed for a plan."""
    extra = 20  # A chat template's own, prefill and suffix.
    return round(sum(len(i.question) + len(i.system or "") for i in items) / CHARACTERS) + extra * len(
        list(items)
    )


def minutes(seconds: float | None) -> str:
    """Say a time in the unit that fits."""
    if seconds is None:
        return "no estimate"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
