"""What a step takes: its floating-point operations, from rates its seconds, and how each of them is known.

A rate is what a matrix product measured now does on this device (for a GPU that isn't here: the committed figure
of an H200), times a part of it, which differs by kind of work. Every part, and every time that doesn't hang on the
model, says its own basis.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError
from harness.evalset import Item
from harness.modelinfo import SHAPES, model_info
from harness.models import resolve_model

Kind = Literal["scoring", "reference", "lora", "vector", "story", "sweep", "shuffled", "backdoor", "patching"]
Basis = Literal["measured", "scaled", "guessed"]
"""measured: the whole of such work was timed; scaled: a smaller or shorter piece of it was; guessed: neither."""


@dataclass(frozen=True)
class Part:
    """The part of a matrix product's rate that a kind of work reaches."""

    part: float
    basis: Basis
    source: str


_REHEARSED = "rehearsals (--preset quick) of SmolLM2-135M on two busy CPU cores"
CPU: dict[Kind, Part] = {
    "scoring": Part(1.4, "scaled", _REHEARSED),
    "reference": Part(1.4, "guessed", "taken to be the server's on a CPU"),
    "lora": Part(2.0, "guessed", "taken to be the sweep's on a CPU"),
    "vector": Part(2.0, "guessed", "taken to be the sweep's on a CPU"),
    "story": Part(2.4, "scaled", _REHEARSED),
    "sweep": Part(2.0, "scaled", _REHEARSED),
    "shuffled": Part(2.0, "guessed", "trained on a CPU in any case; taken to be the sweep's there"),
    "backdoor": Part(4.0, "scaled", _REHEARSED),
    "patching": Part(4.0, "scaled", _REHEARSED),
}
"""``scripts/reproduce_killed.py`` prints what an undisturbed run reached."""
_ON_H200 = "Gemma 3 12B's shape on an H200"
CUDA: dict[Kind, Part] = {
    "scoring": Part(
        1.6, "measured", f"{_ON_H200}, 259 to 269 prompts/s (reports/benchmarks/gpu_steering.md)"
    ),
    "lora": Part(1.1, "scaled", f"{_ON_H200}, 4 of 87 steps (reports/training/gemma3_12b.md)"),
    "vector": Part(0.70, "measured", f"{_ON_H200}, 96 vectors in 6.5 s (reports/training/gemma3_12b.md)"),
}
H200 = 0.45 * 779e12
"""Operations a second in bfloat16 that trainings reached there."""
CARD = 80 * 10**9 * 9 // 10
"""Bytes that may be used of a card that isn't here."""
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
    """Read a model's sizes from its folder, from what is known of it, or from the hub.

    Raises:
        InputError: it isn't there, or its config lacks a size or is of a kind that transformers doesn't know.

    """
    info, place = model_info(model), resolve_model(model)
    if place in SHAPES and not Path(place).is_dir():
        config = SHAPES[place]
    else:
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(place).to_dict()
        except (OSError, ValueError) as e:
            raise InputError(f"The config of '{model}' can't be used ({str(e).splitlines()[0]}).") from e
    text = config.get("text_config") or config
    if "vocab_size" not in text:
        raise InputError(f"The config of '{model}' lacks 'vocab_size': a language model is needed.")
    attention = 2 * (info.attention_out + info.kv_out)
    of_layer = info.hidden_size * (attention + 3 * info.intermediate_size)
    return Shape(info.layers, of_layer, text["vocab_size"] * info.hidden_size, text)


@dataclass(frozen=True)
class Work:
    """One kind of work of a step."""

    kind: Kind
    operations: float


@dataclass(frozen=True)
class Cost:
    """Seconds of one kind of work or of one fixed thing; without seconds where nothing is known."""

    what: str
    seconds: float | None
    basis: Basis | None
    source: str

    def times(self, number: int) -> Cost:
        """Return it so many times over."""
        return replace(self, seconds=None if self.seconds is None else number * self.seconds)


START = {
    "cpu": Cost("starting a server", 35.0, "guessed", "depends on the disk and on caches"),
    "cuda": Cost(
        "starting a server",
        175.0,
        "guessed",
        "above the 127 to 169 s on an H200 in reports/benchmarks/gpu_steering.json",
    ),
}
"""Until a server answers."""
LOAD = Cost("loading a model", 10.0, "guessed", "depends on the disk and on the model's size")
"""Until a model lies in this process's memory and is ready."""
PAGE = Cost("drawing the report", 60.0, "guessed", "depends on the number of figures")


@dataclass(frozen=True)
class Rates:
    """The matrix product of a device, and what part of its rate each kind of work reaches."""

    parts: dict[Kind, Part]
    products: dict[Kind, float]
    """Operations a second of the product that a kind's part is of."""
    product: float
    basis: str
    """What the product's rate rests on."""

    def costs(self, work: Iterable[Work], fixed: Iterable[Cost] = ()) -> tuple[Cost, ...]:
        """Return what work takes and what is fixed, each with its own basis."""
        return (*(self._cost(part) for part in work), *fixed)

    def _cost(self, work: Work) -> Cost:
        if work.kind not in self.parts:
            return Cost(work.kind, None, None, "never measured on such a device")
        part = self.parts[work.kind]
        seconds = work.operations / (part.part * self.products[work.kind])
        return Cost(work.kind, seconds, part.basis, part.source)


def total(costs: Iterable[Cost]) -> float | None:
    """Return the seconds of all costs; None where one of them isn't known."""
    seconds = [cost.seconds for cost in costs]
    return None if None in seconds else sum(s for s in seconds if s is not None)


def rates(device: str) -> Rates:
    """Measure a matrix product here, a fraction of a second; parts of it are known beforehand."""
    import torch

    from harness.training.plan import Machine, rate_of

    if device == "cpu":
        rate = rate_of(Machine("cpu", 0), "float32")
        return Rates(
            CPU, dict.fromkeys(CPU, rate), rate, f"measured now on this CPU ({os.cpu_count()} cores)"
        )
    if not torch.cuda.is_available():
        basis = "an H200's (reports/training/gemma3_12b.md), since no GPU is here to measure"
        return Rates(CUDA, dict.fromkeys(CUDA, H200), H200, basis)
    half, full = (rate_of(Machine(device, 0), dtype) for dtype in ("bfloat16", "float32"))
    others = {
        kind: replace(part, basis="guessed", source=f"the part that was taken for a CPU: {part.source}")
        for kind, part in CPU.items()
        if kind not in CUDA
    }
    products = dict.fromkeys(CUDA, half) | dict.fromkeys(others, full)
    products["shuffled"] = rate_of(Machine("cpu", 0), "float32")
    return Rates(CUDA | others, products, half, "measured now on this GPU, in bfloat16 or float32")


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
