"""The steered server, itself unsteered, and a plain one, asked in turn: 40 prompts a request."""

from __future__ import annotations

import random
import time
from typing import Any

from benchmarks.gpu_steering.cases import random_prompt
from benchmarks.gpu_steering.client import ask_all
from benchmarks.gpu_steering.places import NAME
from benchmarks.gpu_steering.servers import cpu_seconds
from benchmarks.gpu_sweep.grid import LENGTH, PROMPTS, VECTOR, Cells, Scores, cells, keep, prompts, wanted

IN_FLIGHT = 16
"""Requests, of 40 prompts each."""
TURN = 96
"""Requests after which a pair of sweeps changes over."""
UNSTEERED, OURS, PLAIN = "unsteered server, same prompts", "ours over HTTP", "plain vLLM, no reuse"


def _body(model: str, asked: list[list[int]]) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": asked,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 2,
        "logprob_token_ids": wanted(),
        "return_tokens_as_token_ids": True,
    }


def _ask(where: str, grid: Cells, bodies: list[dict[str, Any]]) -> Scores:
    first, second = wanted()
    found: Scores = {}
    for (layer, alpha), answer in zip(grid, ask_all(where, bodies, IN_FLIGHT), strict=True):
        for choice in answer["choices"]:
            top = choice["logprobs"]["top_logprobs"][0]
            found[choice["index"], layer, alpha] = top[f"token_id:{first}"] - top[f"token_id:{second}"]
    return found


def _sent(selector: str, name: str, grid: Cells) -> tuple[Scores, float, float]:
    """Send a contender's requests; return scores, seconds, and the CPU seconds of the API process."""
    asked, rng = prompts(), random.Random(time.time_ns())
    if name == OURS:
        fields = [f"@L{layer}.resid_post@{alpha:.3f}rel@{selector}" for layer, alpha in grid]
        bodies = [_body(VECTOR + own, asked) for own in fields]
    elif name == UNSTEERED:
        bodies = [_body(NAME, asked) for _ in grid]
    else:
        bodies = [_body(NAME, [random_prompt(rng, LENGTH) for _ in range(PROMPTS)]) for _ in grid]
    where = "plain" if name == PLAIN else "plugin"
    used, began = cpu_seconds(where), time.perf_counter()
    scores = _ask(where, grid, bodies)
    return scores, time.perf_counter() - began, cpu_seconds(where) - used


def ask(selector: str, name: str, grid: Cells) -> None:
    """Send a contender's requests and keep what they took."""
    scores, seconds, used = _sent(selector, name, grid)
    keep(selector, name, len(scores), seconds, scores if name == OURS else {}, api=used)


def alternate(pairs: int) -> None:
    """Make pairs of whole sweeps of ``last``, unsteered and steered, by turns of 96 requests.

    The same server takes 39 to 45 s for the same unsteered sweep within minutes; turns of four seconds share that.
    """
    _sent("last", UNSTEERED, cells()[:16])
    for _ in range(pairs):
        turns: dict[str, list[tuple[Scores, float, float]]] = {UNSTEERED: [], OURS: []}
        for place, first in enumerate(range(0, len(cells()), TURN)):
            for name in (UNSTEERED, OURS) if place % 2 else (OURS, UNSTEERED):
                turns[name].append(_sent("last", name, cells()[first : first + TURN]))
        for name, made in turns.items():
            scores = {key: value for own, _, _ in made for key, value in own.items()}
            seconds, used = (sum(line[column] for line in made) for column in (1, 2))
            own_scores = scores if name == OURS else {}
            keep("last", name, len(scores), seconds, own_scores, api=used, turns=[line[1] for line in made])


def measure(part: float, until: float) -> None:
    """Measure ``last`` between two of the unsteered server, ``all`` between two of the plain one; then the whole."""
    some = cells(part)
    for where in ("plugin", "plain"):
        _ask(where, some[:1] * 4, [_body(NAME, prompts())] * 4)
    for name in (UNSTEERED, OURS, UNSTEERED, OURS, UNSTEERED, PLAIN):
        ask("last", name, some)
    for name in (PLAIN, OURS, PLAIN):
        ask("all", name, some)
    for name in (UNSTEERED, OURS):
        if time.time() < until:
            ask("last", name, cells())
