"""Real HTTP requests, many in flight, one prompt each."""

from __future__ import annotations

import asyncio
import random
import time
from typing import Any

import aiohttp

from benchmarks.gpu_steering.cases import random_prompt
from benchmarks.gpu_steering.places import SEQS
from benchmarks.gpu_steering.servers import PORTS

PROMPT, DECODED = 96, 128
"""Tokens of a scoring prompt; tokens that a decoding request generates."""


async def _all(kind: str, bodies: list[dict[str, Any]], in_flight: int) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{PORTS[kind]}",
        connector=aiohttp.TCPConnector(limit=in_flight),
        timeout=aiohttp.ClientTimeout(total=570),
    ) as session:

        async def ask(body: dict[str, Any]) -> dict[str, Any]:
            async with session.post("/v1/completions", json=body) as response:
                answer: dict[str, Any] = await response.json()
                if response.status != 200:
                    raise RuntimeError(f"{kind}: {response.status}: {answer}")
                return answer

        return list(await asyncio.gather(*map(ask, bodies)))


def ask_all(kind: str, bodies: list[dict[str, Any]], in_flight: int = SEQS) -> list[dict[str, Any]]:
    """Send requests, so many in flight; return the answers in order."""
    return asyncio.run(_all(kind, bodies, in_flight))


def timed(kind: str, bodies: list[dict[str, Any]]) -> float:
    """Return the seconds that requests take."""
    begun = time.perf_counter()
    ask_all(kind, bodies)
    return time.perf_counter() - begun


def scoring(rng: random.Random, model: str) -> dict[str, Any]:
    """Return a scoring request: two tokens' log-probabilities after one prompt."""
    return {
        "model": model,
        "prompt": random_prompt(rng, PROMPT),
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 2,
        "logprob_token_ids": [1000, 2000],
        "return_tokens_as_token_ids": True,
    }


def decoding(rng: random.Random, model: str) -> dict[str, Any]:
    """Return a request that is nearly all decoding."""
    return {
        "model": model,
        "prompt": random_prompt(rng, 16),
        "max_tokens": DECODED,
        "temperature": 0,
        "ignore_eos": True,
    }
