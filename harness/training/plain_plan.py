"""Plan trainings that go through the model by themselves: LoRAs of several layers, orthogonal vectors, backdoors.

Memory counts what autograd keeps of transformers' and peft's own modules, and is meant as an upper bound.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    seconds_of,
)
from harness.training.settings import LoraSettings, TrainingSettings

_ASKED = {"cpu": 16, "cuda": 128}
"""Prompts of a pass that no gradient is needed of."""


def estimate_plain(settings: TrainingSettings, data: Data, on: Machine) -> Estimate:
    """Count the memory and operations of a training by whole passes from its lowest layer on.

    What acts at the last token alone goes up as one token a prompt.
    """
    config = config_of(settings.model)
    size, text = sizes(config), config.get_text_config()
    e, lowest = BYTES[settings.dtype], min(settings.layers)
    width, kv = size.heads * size.head_dim, size.kv_heads * size.head_dim
    above = size.layers - lowest
    layer = e * (5 * size.hidden + 4 * width + 4 * kv + 5 * size.intermediate) + 4 * 4 * size.hidden
    lora = isinstance(settings, LoraSettings)
    adapted = 4 * (3 * size.hidden + 2 * size.intermediate) if lora else 0
    pass_tokens = 1 if settings.last_token else data.longest
    saved = settings.batch_size * pass_tokens * (above * layer + len(settings.layers) * adapted)
    kept = data.tokens * e * size.hidden
    if settings.last_token:
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
    mean = 1 if settings.last_token else int(data.longest * 0.85)
    each = 4.0 * (size.layer_weights * above * mean + size.vocabulary * size.hidden)
    asked = data.evaluated + settings.epochs * data.development
    memory = weights + kept + max(saved + logits, working) + trained
    return Estimate(int(memory), each * settings.epochs * data.prompts, each * asked / 2)


def check_fits(settings: TrainingSettings, data: Data, on: Machine) -> Estimate:
    """Return what a training takes.

    Raises:
        InputError: it needs more memory than there is; the message says what would fit.

    """
    found = estimate_plain(settings, data, on)
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
        less = estimate_plain(cut, data, on).memory
        if less <= on.memory:
            raise InputError(
                f"{said}The same steps by --batch-size {size} --accumulation {cut.accumulation} need about "
                f"{less / GB:.1f} GB."
            )
        least = less
    least = found.memory if settings.batch_size == 1 else least
    raise InputError(f"{said}Even one prompt at a time needs about {least / GB:.1f} GB.")


def describe_plain(trainings: Sequence[tuple[TrainingSettings, Data]], on: Machine) -> dict[str, Any]:
    """Return what trainings take one after the other: about how many GB and seconds (``--dry-run``).

    Raises:
        InputError: one doesn't fit; the message says what would.

    """
    product = product_rate(on, trainings[0][0].dtype)
    memory, seconds = 0, 0.0
    for settings, data in trainings:
        taken = check_fits(settings, data, on)
        below = prefix_operations(settings, [min(settings.layers)], data, config_of(settings.model))
        memory = max(memory, taken.memory)
        seconds += seconds_of(below, [taken], product)
    return {
        "adapters": len(trainings),
        "groups": "one by one",
        "memory_gb": round(memory / GB, 2),
        "allowed_gb": round(on.memory / GB, 2),
        "seconds": round(seconds, 1),
    }
