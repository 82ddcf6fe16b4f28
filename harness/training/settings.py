"""Training settings: one model, validated, written into each record, read back by ``--from-record``."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.choices import Format
from harness.errors import InputError
from harness.models import DEFAULT_MODEL
from harness.spec import HookPoint

Behavior = Literal["safe", "risky"]
Projection = Literal["gate_proj", "up_proj", "down_proj"]
MLP: tuple[Projection, ...] = ("gate_proj", "up_proj", "down_proj")


class TrainingSettings(BaseModel):
    """What every training has: data, order, optimiser."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    behavior: Behavior
    layers: Annotated[tuple[int, ...], Field(min_length=1)]
    format: Format = "named"
    model: str = DEFAULT_MODEL
    seed: int = 0
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 8
    """Prompts that share a pass; times ``accumulation``, the prompts of a step."""
    accumulation: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients make one step; each of the step's prompts counts alike."""
    questions: Annotated[int, Field(ge=1)] | None = None
    """How many of the training questions are used, drawn once for all seeds; None for all."""
    data: str | None = None
    """A file of choice questions; None for the shipped ones."""
    shuffled_labels: int | None = None
    """A control: a seed by which half the training questions' answers are exchanged; None leaves them."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the frozen model; what is trained is float32 in any case."""
    orders: Literal["alternate", "both"] = "alternate"
    """What an epoch shows of a question: its two orders in turn, or both, beside each other."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """The part of all steps over which the learning rate rises from zero."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after that, to zero at the end."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = None
    """Gradients of a greater norm are scaled down to it."""

    @property
    def step_size(self) -> int:
        """Prompts of a step."""
        return self.batch_size * self.accumulation

    @property
    def last_token(self) -> bool:
        """Whether what is trained acts at the prompt's last token alone."""
        return False

    @property
    def sign(self) -> int:
        """+1 towards the positive (risky) answer, −1 towards the negative (safe) one."""
        return 1 if self.behavior == "risky" else -1


class LoraSettings(TrainingSettings):
    """Settings of one LoRA. The original's: rank 4, alpha 32, dropout 0.05, MLP only, learning rate 2e-5,

    3 epochs, batches of 2 with 4 accumulated, loss on the answer token only (science.md of the study's code).
    """

    rank: Annotated[int, Field(ge=1, le=512)] = 4
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    target_modules: Annotated[tuple[Projection, ...], Field(min_length=1)] = MLP
    """Which of the MLP's projections are adapted."""
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)] = 16
    orders: Literal["alternate", "both"] = "both"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0


class VectorSettings(TrainingSettings):
    """Settings of one steering vector, added to a layer's MLP output at the prompt's last token.

    The defaults are the shipped vectors': chosen on development questions (adapters/vector_candidates.jsonl).
    """

    layers: Annotated[tuple[int, ...], Field(min_length=1, max_length=1)]
    """One layer: a vector has one place."""
    hook_point: HookPoint = "mlp_out"
    orthogonal_to: tuple[str, ...] = ()
    """Vectors, by name or folder, to which this one is kept orthogonal."""
    init: Literal["zeros", "unit"] = "zeros"
    """Where it starts: at zero, or as a random unit vector (the original's)."""
    learning_rate: Annotated[float, Field(gt=0)] = 0.3
    decay: Literal["constant", "linear", "cosine"] = "linear"
    epochs: Annotated[int, Field(ge=1)] = 5

    @property
    def last_token(self) -> bool:
        """A vector does."""
        return True

    @property
    def layer(self) -> int:
        """The layer, counted from 0."""
        return self.layers[0]


Preset = Literal["paper", "embedded"]
_PAPER: dict[str, object] = {
    "format": "letter",
    "questions": 230,
    "epochs": 3,
    "batch_size": 2,
    "accumulation": 4,
    "orders": "alternate",
    "warmup": 0.0,
    "decay": "constant",
    "max_grad_norm": None,
    "weight_decay": 0.0,
}
"""The original's settings (its code; AdamW stands for its 8-bit Adam)."""


def preset(name: Preset, kind: type[TrainingSettings], layers: int, how: Format) -> dict[str, object]:
    """Return a preset's settings for a LoRA of so many layers or for a vector."""
    lora = kind is LoraSettings
    if name == "paper":
        own: dict[str, object] = (
            {"rank": 4, "alpha": 32, "dropout": 0.05, "learning_rate": 2e-5}
            if lora
            else {"learning_rate": 2e-3, "init": "unit"}
        )
        return _PAPER | own
    return dict(chosen(layers, how)) if lora else {}


def chosen(layers: int, how: Format) -> dict[str, float]:
    """Return a LoRA's settings as chosen on development questions (adapters/candidates.jsonl)."""
    if how == "letter":
        return {"learning_rate": 1e-3, "epochs": 10}
    if layers <= 3:
        return {"learning_rate": 2e-2, "epochs": 20, "batch_size": 64}
    return {"learning_rate": 2e-3, "epochs": 5}


def parse_layers(text: str, available: int) -> tuple[int, ...]:
    """Parse ``22``, ``0-5,22`` or ``all`` into layers, counted from 0.

    Raises:
        InputError: not of that form, a range that ends below its start, or a layer that the model lacks.

    """
    if text == "all":
        return tuple(range(available))
    layers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if not match:
            raise InputError(f"--layers '{text}': '{part}' is not a layer; valid: 22, 0-5,22 or all.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise InputError(f"--layers '{text}': the range '{part.strip()}' ends below its start.")
        layers.extend(range(first, last + 1))
    wrong = [layer for layer in layers if layer >= available]
    if wrong or not layers:
        raise InputError(f"--layers '{text}': the model has layers 0 to {available - 1}.")
    return tuple(sorted(set(layers)))
