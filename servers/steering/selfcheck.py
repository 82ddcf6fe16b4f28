"""The check of a start that is allowed on an untested vLLM: does steering act, and only where it should?

It can't know the right logits; ``harness doctor`` compares them with the float32 reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, Final

import numpy as np

from harness.spec import HOOK_POINTS, HookPoint
from servers.steering.resolved import EXTRA_ARG, Addition, ResolvedSpec, ResolvedTerm
from servers.steering.support import UnsupportedError

LogProbs = dict[int, float]
"""Of the next token, in nats."""
_PROMPT: Final = list(range(40, 180))
"""Several blocks of tokens that every vocabulary has."""
_TOKENS: Final = list(range(40, 104, 4))
_TOLERANCE: Final = {"float32": 1e-3}
_HALF: Final = 0.2
"""Nats that a 16-bit model may differ by between two batches."""


async def self_check(engine_client: Any, layers: int, hidden_size: int, dtype: str) -> None:
    """Steer a prompt with a random vector in turns with the plain model, and compare.

    Raises:
        UnsupportedError: saying what came out wrong.

    """
    values = np.random.default_rng(0).standard_normal(hidden_size).astype("<f4").tobytes()
    digest = hashlib.sha256(values).hexdigest()

    def spec(hook: HookPoint, selector: str) -> ResolvedSpec:
        addition = Addition(layers // 2, hook, digest, "relative", 1.0)
        return ResolvedSpec.of([ResolvedTerm(addition, selector)], None)

    async def ask(asked: ResolvedSpec | None, number: int) -> LogProbs:
        return await _next_token(engine_client, asked, f"steering-self-check-{number}")

    from vllm.logger import init_logger

    await engine_client.collective_rpc("steering_put", args=(digest, values))
    try:
        await judge(spec, ask, _TOLERANCE.get(dtype, _HALF))
    finally:
        await engine_client.collective_rpc("steering_drop", args=(digest,))
    init_logger("vllm.harness_steering").info("steering: the self-check passed")


async def judge(
    spec: Callable[[HookPoint, str], ResolvedSpec],
    ask: Callable[[ResolvedSpec | None, int], Awaitable[LogProbs]],
    tolerance: float,
) -> None:
    """Ask in turns, each spec twice (the second time from the prefix cache), and compare.

    Raises:
        UnsupportedError: saying what came out wrong.

    """
    specs = {f"{hook}@{s}": spec(hook, s) for hook in HOOK_POINTS for s in ("all", "last")}
    asked = [None, *specs.values(), None, *specs.values(), None]
    answers = [await ask(each, number) for number, each in enumerate(asked)]
    plain, count = answers[0], len(specs)
    wrong = []
    if max(_apart(plain, answers[i]) for i in (count + 1, 2 * count + 2)) > tolerance:
        wrong.append("the plain model answers otherwise after steered requests")
    for i, name in enumerate(specs, 1):
        if _apart(plain, answers[i]) <= tolerance:
            wrong.append(f"{name} changes nothing")
        if _apart(answers[i], answers[i + count + 1]) > tolerance:
            wrong.append(f"{name} answers otherwise from the prefix cache")
    for i in range(1, count, 2):
        if _apart(answers[i], answers[i + 1]) <= tolerance:
            wrong.append("'last' and 'all' are the same")
    if wrong:
        raise UnsupportedError(f"steering: the self-check failed: {'; '.join(dict.fromkeys(wrong))}.")


def _apart(a: LogProbs, b: LogProbs) -> float:
    return max(abs(a[token] - b[token]) for token in _TOKENS)


async def _next_token(engine_client: Any, asked: ResolvedSpec | None, request_id: str) -> LogProbs:
    from vllm import SamplingParams

    params = SamplingParams(
        max_tokens=1,
        temperature=0,
        logprob_token_ids=_TOKENS,
        extra_args={EXTRA_ARG: asked.to_json()} if asked else None,
    )
    last: Any = None
    async for output in engine_client.generate({"prompt_token_ids": _PROMPT}, params, request_id):
        last = output
    return {token: float(value.logprob) for token, value in last.outputs[0].logprobs[0].items()}
