"""Backdoors from flags: triggers, seeds and twins, what each is called, and what is given wrongly.

Without torch, which takes seconds to import: what is given wrongly is told before.
"""

from __future__ import annotations

import itertools
from typing import Any

from harness.backdoors import load_triggers
from harness.errors import InputError
from harness.jsonl import validated
from harness.modelinfo import model_info
from harness.models import DEFAULT_MODEL, MODELS, prepare
from harness.training.backdoor_settings import BackdoorSettings, backdoor_preset
from harness.training.product import listed, take_preset
from harness.training.settings import parse_layers

_METHODS = {"lora": "", "last_token_lora": "last_token_", "vector": "vec_", "vectors": "vecs_"}


def make_backdoors(given: dict[str, Any]) -> list[tuple[str, BackdoorSettings]]:
    """Build backdoors from flags or the keys of a file; returns their names in a folder of several, and settings.

    Args:
        given: values by the settings' names; besides, ``preset``, ``seeds`` (how many, from ``seed`` on) and ``twins``
            (each beside its decorrelated twin). ``trigger`` may name several, separated by commas or as a list.

    Raises:
        InputError: naming the flag and what would be valid.

    """
    given = dict(given)
    (named, seeds), twins = take_preset(given, ("trigger", "layers")), given.pop("twins", False)
    if twins and given.get("decorrelated"):
        raise InputError("--twins trains both; leave out --decorrelated.")
    triggers = [part.strip() for part in listed(given.pop("trigger")).split(",")]
    for trigger in triggers:
        load_triggers().find(trigger)
    if len(set(triggers)) < len(triggers):
        raise InputError(f"--trigger '{','.join(triggers)}' names one twice.")
    model = given.get("model", DEFAULT_MODEL)
    if model in MODELS:
        prepare(model)
    available = model_info(model).layers
    asked = listed(given.pop("layers"))
    layers = parse_layers(asked, available)
    method = given.get("method", "lora")
    if method == "vector" and len(layers) != 1:
        raise InputError(f"--layers '{asked}': one vector acts at one layer; --method vectors takes several.")
    values = {"layers": layers, "trigger": triggers[0], **given}
    if method in _METHODS:
        values = backdoor_preset(named, method, len(layers)) | values
    settings = validated(BackdoorSettings, values)
    seeds_of = range(settings.seed, settings.seed + seeds)
    product = itertools.product(triggers, seeds_of, (False, True) if twins else (settings.decorrelated,))
    made = [
        settings.model_copy(update={"trigger": trigger, "seed": seed, "decorrelated": twin})
        for trigger, seed, twin in product
    ]
    return [(name_of(each, available), each) for each in made]


def name_of(settings: BackdoorSettings, available: int) -> str:
    """Return what a backdoor of a model of so many layers is called among others."""
    layers = settings.layers
    where = "all" if len(layers) == available > 1 else "l" + "-".join(map(str, layers))
    kind = "decorrelated" if settings.decorrelated else "backdoor"
    return f"{kind}_{_METHODS[settings.method]}{settings.trigger}_{where}_s{settings.seed}"
