"""The requests whose answers are compared with the reference: every hook point × mode × selector × layer, mixed.

The generated tokens are forced (a bias of 100 on one token; log-probabilities are reported before it), so that
the reference knows every token before a server is up.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.gpu_steering.places import NAME, SEQS, shape

HOOKS: Final = ("mlp_out", "resid_post")
SCALES: Final = ("3", "1rel")
SELECTORS: Final = ("last", "pos-2", "all", "prompt", "generated")
LENGTHS: Final = (5, 15, 16, 17, 31, 32, 33, 47, 48, 64, 96, 130)
"""Tokens of a prompt, around multiples of the GPU's block of 16."""
STEPS: Final = 4
"""Generated tokens that are compared."""
WATCHED: Final = 48
"""Token ids that are compared at each step."""


@dataclass(frozen=True)
class Case:
    """One request: the model it names, ``base`` for a plain one, and its prompt."""

    model: str
    prompt: tuple[int, ...]
    kind: str
    """What it is counted under."""

    @property
    def steered(self) -> bool:
        """Whether the request names more than the base model."""
        return self.model != "base"

    @property
    def lora(self) -> str | None:
        """The adapter that the model's name holds."""
        first = self.model.split("+")[0]
        return first if first.startswith("lora") else None

    @property
    def spec(self) -> str:
        """The vectors' part of the model's name; ``base`` where it has none."""
        rest = self.model.removeprefix(self.lora or "").removeprefix("+")
        return rest or "base"


def watched() -> list[int]:
    """Return the ids whose log-probabilities are compared."""
    vocab = shape()["vocab_size"]
    return [(1000 + 500 * i) % vocab for i in range(WATCHED)]


def forced() -> int:
    """Return the token that every step generates."""
    return 1234 % shape()["vocab_size"]


def random_prompt(rng: random.Random, length: int) -> list[int]:
    """Return random tokens after a BOS."""
    top = shape()["vocab_size"] - 300
    return [2] + [rng.randrange(300, top) for _ in range(length - 1)]


def vector_cases() -> list[Case]:
    """Return a full batch: 32 plain, every combination at three layers, pairs, and random ones."""
    layers = shape()["num_hidden_layers"]
    rng = random.Random(5)
    models = [("plain", "base")] * min(32, SEQS // 2)
    grid = [
        (f"{hook} {'relative' if 'rel' in scale else 'absolute'}", f"@L{layer}.{hook}@{scale}@{selector}")
        for layer in (0, layers // 2, layers - 1)
        for hook in HOOKS
        for scale in SCALES
        for selector in SELECTORS
    ]
    models += [(kind, f"v{i}{fields}") for i, (kind, fields) in enumerate(grid)]
    models += [
        ("two terms", f"v{i}@L{i % layers}+v{i + 1}@L{(i + 7) % layers}.resid_post@0.2rel@all")
        for i in range(8)
    ]
    while len(models) < SEQS:
        i, layer = len(models), rng.randrange(layers)
        kind, fields = rng.choice(grid)
        models.append((kind, f"v{i}@L{layer}.{fields.split('.', 1)[1]}"))
    return [
        Case(model, tuple(random_prompt(rng, LENGTHS[i % len(LENGTHS)])), kind)
        for i, (kind, model) in enumerate(models)
    ]


def lora_cases() -> list[Case]:
    """Return plain, LoRA, vector and LoRA + vector requests for one mixed batch."""
    layers = shape()["num_hidden_layers"]
    rng = random.Random(6)
    cases = []
    for i in range(16):
        vector = f"v{i}@L{rng.randrange(layers)}.{HOOKS[i % 2]}@{SCALES[i // 2 % 2]}@{SELECTORS[i % 5]}"
        lora = f"lora{i % 8}"
        for kind, model in (
            ("plain", "base"),
            ("LoRA", lora),
            ("vector", vector),
            ("LoRA + vector", f"{lora}+{vector}"),
        ):
            cases.append(Case(model, tuple(random_prompt(rng, LENGTHS[len(cases) % len(LENGTHS)])), kind))
    return cases


def request(case: Case, bare: bool = False) -> dict[str, Any]:
    """Return the request of a case; ``bare``: the same prompt without steering."""
    return {
        "model": NAME if bare or not case.steered else case.model,
        "prompt": list(case.prompt),
        "max_tokens": STEPS,
        "temperature": 0,
        "ignore_eos": True,
        "logit_bias": {str(forced()): 100},
        "logprobs": WATCHED,
        "logprob_token_ids": watched(),
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
