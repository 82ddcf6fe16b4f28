"""Completion requests to the embedded model's server, and what its answers must be."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.steering import tiny
from tests.steering.serving import SteeringServer

TOLERANCE = 1e-3
IDS = [100 + 700 * i for i in range(40)]


def merged(server: SteeringServer, name: str) -> tiny.Reference:
    """Return the model with an adapter's product added to its weights."""
    made = tiny.Reference(server.model, server.vectors, bos_id=1)
    tiny.merge(made, server.loras_dir / name)
    return made


def tokens(seed: int, length: int, bos: bool = False) -> list[int]:
    """Return random tokens of the embedded model."""
    found = [int(t) for t in np.random.default_rng(seed).integers(20, 49_000, length)]
    return [1, *found[1:]] if bos else found


def body(model: str, prompt: Any, **more: Any) -> dict[str, Any]:
    """Return a completion request that asks for the log-probabilities of ``IDS``."""
    given = {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
    given |= {
        "logprobs": 1,
        "logprob_token_ids": IDS,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    }
    return given | more


def steps(choice: dict[str, Any]) -> list[dict[int, float]]:
    """Return the log-probabilities of each generated token's place."""
    return [{int(k.split(":")[1]): v for k, v in step.items()} for step in choice["logprobs"]["top_logprobs"]]


def error(choice: dict[str, Any], prompt: list[int], spec: str, truth: tiny.Reference) -> float:
    """Return the largest difference of an answer to the reference."""
    want = truth.logprobs([*prompt, *choice["token_ids"][:-1]], len(prompt), spec)
    return max(
        abs(v - float(want[len(prompt) - 1 + i, t]))
        for i, step in enumerate(steps(choice))
        for t, v in step.items()
    )
