"""Plan trainings that go through the model by themselves: LoRAs of several layers, orthogonal vectors, backdoors.

Memory counts what autograd keeps of transformers' and peft's own modules, and is meant as an upper bound.
"""

from __future__ import annotations

from typing import Any

from harness.errors import InputError
from harness.training.blocks import sizes
from harness.training.plan import (
    BYTES,
    GB,
    Data,
    Estimate,
    Machine,
    config_of,
    parameters,
    prefix_operations,
    product_rate,
    rate_of,
)
from harness.training.settings import LoraSettings, TrainingSettings

_ASKED = {"cpu": 16, "cuda": 128}
"""Prompts of a pass that no gradient is needed of."""


def estimate_plain(
    settings: TrainingSettings, data: Data, on: Machine, *, last_token: bool = False
) -> Estimate:
    """Count the memory and operations of a training by whole passes from its lowest layer on.

    Args:
        settings: of the training; what acts at the last token alone goes up as one token a prompt.
        data: the prompts.
        on: where it runs.
        last_token: whether it acts at the last token alone.

    """
    config = config_of(settings.model)
    size, text = sizes(config), config.get_text_config()
    e, lowest = BYTES[settings.dtype], min(settings.layers)
    width, kv = size.heads * size.head_dim, size.kv_heads * size.head_dim
    above = size.layers - lowest
    layer = e * (5 * size.hidden + 4 * width + 4 * kv + 5 * size.intermediate) + 4 * 4 * size.hidden
    lora = isinstance(settings, LoraSettings)
    adapted = 4 * (3 * size.hidden + 2 * size.intermediate) if lora else 0
    pass_tokens = 1 if last_token else data.longest
    saved = settings.batch_size * pass_tokens * (above * layer + len(settings.layers) * adapted)
    kept = data.tokens * e * size.hidden
    if last_token:
        kept += data.tokens * e * 2 * kv * above
        saved += settings.batch_size * data.longest * e * 2 * kv * above
    asked_tokens = _ASKED[on.device.partition(":")[0]] * data.longest
    working = asked_tokens * e * (4 * size.intermediate + 6 * size.hidden)
    logits = settings.batch_size * size.vocabulary * 4 * 3
    trained = 0
    if isinstance(settings, LoraSettings):
        ends = 3 * (size.hidden + size.intermediate)
        trained = len(settings.layers) * settings.rank * ends * 4 * 4
    weights = parameters(size, bool(text.tie_word_embeddings)) * e
    mean = 1 if last_token else int(data.longest * 0.85)
    each = 4.0 * (size.layer_weights * above * mean + size.vocabulary * size.hidden)
    asked = data.evaluated + settings.epochs * data.development
    memory = weights + kept + max(saved + logits, working) + trained
    return Estimate(int(memory), each * settings.epochs * data.prompts, each * asked / 2)


def check_fits(settings: TrainingSettings, data: Data, on: Machine, *, last_token: bool = False) -> Estimate:
    """Return what a training takes.

    Raises:
        InputError: it needs more memory than there is; the message says what would fit.

    """
    found = estimate_plain(settings, data, on, last_token=last_token)
    if found.memory <= on.memory:
        return found
    said = (
        f"Batches of {settings.batch_size} need about {found.memory / GB:.1f} GB, and {on.memory / GB:.1f} GB may be "
        "used (--memory). "
    )
    size = settings.batch_size
    while size > 1:
        size -= 1
        if settings.step_size % size:
            continue
        cut = settings.model_copy(update={"batch_size": size, "accumulation": settings.step_size // size})
        less = estimate_plain(cut, data, on, last_token=last_token).memory
        if less <= on.memory:
            raise InputError(
                f"{said}The same steps by --batch-size {size} --accumulation {cut.accumulation} need about "
                f"{less / GB:.1f} GB."
            )
        least = less
    least = found.memory if settings.batch_size == 1 else least
    raise InputError(f"{said}Even one prompt at a time needs about {least / GB:.1f} GB.")


def plain_seconds(settings: TrainingSettings, data: Data, estimates: list[Estimate], on: Machine) -> float:
    """Return about how long trainings take that begin at the same layer, one after the other."""
    below: Any = prefix_operations(settings, [min(settings.layers)], data, config_of(settings.model))
    once = below / product_rate(on, settings.dtype)
    return float(
        once * len(estimates) + sum(e.operations + e.asking for e in estimates) / rate_of(on, settings.dtype)
    )
