"""Plan a grid before it starts: which trainings advance together, how much memory that takes, and about how long.

Memory is counted from what autograd keeps (a frozen linear map keeps nothing of its input) and is meant as an
upper bound; ``benchmarks/gpu_training`` prints it beside what was used.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from harness.device import check_device, free_memory
from harness.errors import InputError
from harness.models import resolve_model
from harness.training.blocks import Sizes, sizes
from harness.training.groups import Group
from harness.training.product import Grid
from harness.training.settings import Behavior, LoraSettings, TrainingSettings, VectorSettings

GB = 10**9
_TOKENS = {"cpu": 4096, "cuda": 1 << 20}
"""Tokens of trainings that one pass begins with: past that a device gains nothing and early figures come late."""
BYTES = {"float32": 4, "bfloat16": 2}
_EFFICIENCY = 0.45
"""Of a large product's rate, what a pass of many kinds of operations reaches."""


@dataclass(frozen=True)
class Machine:
    """Where trainings run: a torch device, the bytes that may be used, and whether to fuse by torch.compile."""

    device: str
    memory: int
    compiled: bool = False

    @property
    def graphs(self) -> bool:
        """Whether steps of vectors are captured as a CUDA graph."""
        return self.compiled and self.device.startswith("cuda")


@dataclass(frozen=True)
class Data:
    """How much there is to train on and to evaluate."""

    prompts: int
    """Training prompts an epoch."""
    evaluated: int
    """Prompts of the other splits, asked in the end."""
    development: int
    """Those among them that are asked after each epoch too."""
    tokens: int
    """All prompts' tokens, what they begin with alike counted once."""
    longest: int
    """Tokens of the longest prompt."""


@dataclass(frozen=True)
class Estimate:
    """What a group takes."""

    memory: int
    """Bytes at the peak, weights included."""
    operations: float
    """Floating-point operations of the steps."""
    asking: float
    """The same of the evaluation, after each epoch and in the end."""


def machine(device: str, memory_gb: float | None, compiled: bool = False) -> Machine:
    """Return what may be used: nine tenths of what is free of a GPU, four fifths of a host's.

    Raises:
        InputError: a device that isn't there.

    """
    check_device(device)
    if memory_gb is not None:
        return Machine(device, int(memory_gb * GB), compiled)
    if device.startswith("cuda"):
        free_memory(device)
        return Machine(device, int(torch.cuda.mem_get_info(torch.device(device))[0] * 0.9), compiled)
    found = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if len(line.split()) > 1
    }
    return Machine(device, found["MemAvailable"] * 4 // 5, compiled)


def config_of(model: str) -> Any:
    """Return a model's transformers config."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(resolve_model(model))


def parameters(size: Sizes, tied: bool) -> int:
    """Return a model's weights, norms left out."""
    return size.layers * size.layer_weights + size.vocabulary * size.hidden * (1 if tied else 2)


def estimate(group: Group, data: Data, config: Any) -> Estimate:
    """Count a group's memory and operations."""
    size, settings = sizes(config), group.settings
    text = config.get_text_config()
    gemma = text.model_type.startswith("gemma")
    e = BYTES[settings.dtype]
    weights = parameters(size, bool(text.tie_word_embeddings)) * e
    width = size.heads * size.head_dim
    kv = size.kv_heads * size.head_dim
    normed = (4 if gemma else 2) * size.hidden + (width + kv if "3" in text.model_type else 0)
    saved = e * (4 * width + 3 * size.intermediate) + 4 * normed
    rows = -(-settings.step_size // group.passes)
    pairs = len(group.seeds) * len(group.behaviors)
    above = sum(size.layers - 1 - layer for layer in group.layers)
    lowest = min(group.layers)
    all_rows = len(group.layers) * pairs * rows
    logits = all_rows * size.vocabulary * 4 * 3
    steps = settings.epochs * data.prompts
    if isinstance(settings, VectorSettings):
        kept = data.tokens * e * (2 * kv * (size.layers - 1 - lowest) + 6 * size.hidden + 3 * (width + kv))
        gathered = len(group.seeds) * rows * data.longest * 2 * kv * e * (size.layers - lowest)
        scores = above * pairs * rows * (saved + 12 * size.heads * data.longest)
        memory = weights + kept + gathered + scores + logits
        operations = pairs * steps * sum(vector_operations(size, layer) for layer in group.layers)
    else:
        tokens = rows * data.longest
        kept = data.tokens * e * ((len(group.layers) + 4) * size.hidden + 3 * (width + 2 * kv))
        joined = 4 * (4 * size.hidden + 5 * size.intermediate) + 3 * e * size.intermediate
        passing = above * pairs * tokens * saved + len(group.layers) * pairs * tokens * joined
        working = all_rows * data.longest * e * (4 * size.intermediate + 4 * size.hidden)
        memory = weights + kept + passing + working + logits
        mean = int(data.longest * 0.85)
        operations = pairs * steps * sum(lora_operations(size, layer, mean) for layer in group.layers)
    asked = data.evaluated + settings.epochs * data.development
    # Of a step's operations, half go forward.
    return Estimate(int(memory), operations, operations / steps * asked / 2)


def lora_operations(size: Sizes, layer: int, tokens: int) -> float:
    """Count what a single-layer LoRA's step needs a prompt, nothing below its MLP: forward, and back to it.

    A layer above costs four operations a weight and token; the top one is needed at the last token, but for
    keys and values; the trained MLP goes back through ``down_proj`` alone.
    """
    top = layer == size.layers - 1
    mlp = size.hidden * size.intermediate
    kv = 2 * size.hidden * size.kv_heads * size.head_dim
    between = 4.0 * size.layer_weights * tokens * max(0, size.layers - 2 - layer)
    last = 0.0 if top else 4.0 * (kv * tokens + size.layer_weights - kv)
    return between + last + 8.0 * mlp * (1 if top else tokens) + 4.0 * size.vocabulary * size.hidden


def vector_operations(size: Sizes, layer: int) -> float:
    """Count what a vector's step needs a prompt: one token through the layers above and the head, and back."""
    return 4.0 * (size.layer_weights * (size.layers - 1 - layer) + size.vocabulary * size.hidden)


def prefix_operations(settings: TrainingSettings, layers: Collection[int], data: Data, config: Any) -> float:
    """Count what lies below trainings, once for all: all prompts through the layers, for vectors to the top."""
    size = sizes(config)
    passed = size.layers if isinstance(settings, VectorSettings) else max(layers)
    return 2.0 * size.layer_weights * passed * data.tokens


def estimate_seconds(grid: Grid, data: Data, estimates: Sequence[Estimate], on: Machine) -> float:
    """Return about how long a grid takes: what lies below, the steps and the evaluation."""
    config = config_of(grid.settings.model)
    layers = [layer for layers in grid.layers for layer in layers]
    prefix = prefix_operations(grid.settings, layers, data, config)
    return seconds_of(prefix, estimates, product_rate(on, grid.settings.dtype))


def seconds_of(below: float, estimates: Sequence[Estimate], product: float) -> float:
    """Return about how long trainings take after what lies below them, at a matrix product's operations a second."""
    # Below is a whole pass over thousands of tokens at a time, which comes near to a product's rate.
    return below / product + sum(e.operations + e.asking for e in estimates) / (product * _EFFICIENCY)


def plan_groups(grid: Grid, data: Data, on: Machine) -> tuple[list[Group], list[Estimate]]:
    """Form a grid's groups and estimate each.

    Raises:
        InputError: not even one training fits.

    """
    config = config_of(grid.settings.model)
    sizes(config)
    layers = tuple(layers[0] for layers in grid.layers)
    groups = form_groups(grid.settings, layers, grid.seeds, grid.behaviors, data, config, on)
    return groups, [estimate(group, data, config) for group in groups]


def form_groups(
    settings: TrainingSettings,
    layers: tuple[int, ...],
    seeds: tuple[int, ...],
    behaviors: tuple[Behavior, ...],
    data: Data,
    config: Any,
    on: Machine,
) -> list[Group]:
    """Cut a grid into groups that fit, neighbouring layers together, lower ones first.

    Raises:
        InputError: not even one training fits; the message says what would.

    """

    def fits(group: Group) -> bool:
        return estimate(group, data, config).memory <= on.memory

    groups: list[Group] = []
    begun = 0
    while begun < len(layers):
        one = Group(settings, layers[begun : begun + 1], seeds, behaviors)
        if not fits(one):
            groups += [
                _alone(replace(one, seeds=(seed,), behaviors=(behavior,)), data, config, on)
                for seed in seeds
                for behavior in behaviors
            ]
            begun += 1
            continue
        end = begun + 1
        limit = _TOKENS[on.device.partition(":")[0]]
        each = settings.step_size * len(seeds) * len(behaviors)
        each *= data.longest if isinstance(settings, LoraSettings) else 1
        while (
            end < len(layers)
            and (end + 1 - begun) * each <= limit
            and fits(replace(one, layers=layers[begun : end + 1]))
        ):
            end += 1
        groups.append(replace(one, layers=layers[begun:end]))
        begun = end
    return groups


def _alone(group: Group, data: Data, config: Any, on: Machine) -> Group:
    """Return a group of one with as few passes a step as fit."""
    step = group.settings.step_size
    for passes in range(1, step + 1):
        cut = replace(group, passes=passes)
        if step % passes == 0 and estimate(cut, data, config).memory <= on.memory:
            return cut
    least = estimate(replace(group, passes=step), data, config).memory
    layer = group.layers[0]
    said = (
        f"Training layer {layer} needs about {least / GB:.1f} GB even one prompt at a time, and "
        f"{on.memory / GB:.1f} GB may be used (--memory). "
    )
    if group.settings.dtype == "float32":
        half = replace(group, settings=group.settings.model_copy(update={"dtype": "bfloat16"}), passes=step)
        said += f"--dtype bfloat16 would need about {estimate(half, data, config).memory / GB:.1f} GB. "
    top = replace(group, layers=(config.get_text_config().num_hidden_layers - 1,), passes=step)
    said += f"The least that any layer needs is {estimate(top, data, config).memory / GB:.1f} GB."
    raise InputError(said)


def rate_of(on: Machine, dtype: str) -> float:
    """Return operations a second that a training reaches on this device: a part of a matrix product's."""
    return product_rate(on, dtype) * _EFFICIENCY


def product_rate(on: Machine, dtype: str) -> float:
    """Return a matrix product's operations a second on this device, measured in a fraction of one."""
    size = 4096 if on.device.startswith("cuda") else 768
    kind = torch.float32 if dtype == "float32" else torch.bfloat16
    a = torch.randn(size, size, device=on.device, dtype=kind)
    best = 0.0
    for _ in range(4):
        started = time.monotonic()
        b = a @ a
        float(b[0, 0])
        best = max(best, 2 * size**3 / (time.monotonic() - started))
    return best
