"""The steered server, itself unsteered, and a plain one, asked in turn: 40 prompts a request."""

from __future__ import annotations

import random
import time
from typing import Any, NamedTuple

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


class Turn(NamedTuple):
    """What requests in a row gave, the seconds they took, and the CPU seconds of the API process."""

    scores: Scores
    seconds: float
    api_seconds: float


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


def _turn(selector: str, name: str, grid: Cells) -> Turn:
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
    return Turn(scores, time.perf_counter() - began, cpu_seconds(where) - used)


def _keep(selector: str, name: str, turns: list[Turn]) -> None:
    scores = {key: value for turn in turns for key, value in turn.scores.items()}
    seconds = [turn.seconds for turn in turns]
    api = sum(turn.api_seconds for turn in turns)
    compared = scores if name == OURS else {}
    keep(selector, name, len(scores), sum(seconds), compared, api=api, turns=seconds)


def ask(selector: str, name: str, grid: Cells) -> None:
    """Send a contender's requests and keep what they took."""
    _keep(selector, name, [_turn(selector, name, grid)])


def alternate(pairs: int) -> None:
    """Make pairs of whole sweeps of ``last``, unsteered and steered, by turns of 96 requests.

    The same server takes 39 to 45 s for the same unsteered sweep within minutes; turns of four seconds share that.
    """
    _turn("last", UNSTEERED, cells()[:16])
    for _ in range(pairs):
        turns: dict[str, list[Turn]] = {UNSTEERED: [], OURS: []}
        for place, first in enumerate(range(0, len(cells()), TURN)):
            for name in (UNSTEERED, OURS) if place % 2 else (OURS, UNSTEERED):
                turns[name].append(_turn("last", name, cells()[first : first + TURN]))
        for name, made in turns.items():
            _keep("last", name, made)


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
