"""A server under test, asked over HTTP alone: nothing here knows how it works inside."""

from __future__ import annotations

import random
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import httpx

Step = dict[int, float]
"""Log-probabilities of the asked tokens at one generated position, in nats."""


class Server:
    """One server, its base model and one of its vectors."""

    def __init__(self, url: str, key: str | None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=64)
        self.http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=300, limits=limits
        )

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def json(self, path: str) -> Any:
        """GET an object."""
        return self.http.get(path).raise_for_status().json()

    @cached_property
    def can(self) -> dict[str, Any]:
        """What the server says that it can do."""
        return dict(self.json("/v1/steering"))

    @cached_property
    def base(self) -> str:
        """The base model's name."""
        return str(self.json("/v1/models")["data"][0]["id"])

    @cached_property
    def vector(self) -> dict[str, Any]:
        """A loaded vector."""
        listed = self.json("/v1/steering_vectors")["data"]
        assert listed, "the server must have a steering vector loaded"
        return dict(listed[0])

    def spec(self, *fields: str) -> str:
        """Return a name of the vector with fields."""
        return "@".join([str(self.vector["id"]), *fields])

    @cached_property
    def ids(self) -> list[int]:
        """Tokens whose log-probabilities are compared: spread over ids that every vocabulary has."""
        return [100 + 250 * i for i in range(40)]

    def prompt(self, length: int, seed: int | None = None) -> list[int]:
        """Return random tokens; without a seed, tokens that no cache has seen."""
        rng = random.Random(secrets.randbits(64) if seed is None else seed)
        return [rng.randrange(50, 10_000) for _ in range(length)]

    def body(self, model: str, prompt: Any, **more: Any) -> dict[str, Any]:
        """Return a completion request for log-probabilities by token id."""
        given = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        given |= {"logprobs": 1, "logprob_token_ids": self.ids, "return_tokens_as_token_ids": True}
        return given | more

    def post(self, body: dict[str, Any], path: str = "/v1/completions") -> httpx.Response:
        """POST a request."""
        return self.http.post(path, json=body)

    def ask(self, model: str, prompt: Sequence[int], **more: Any) -> list[Step]:
        """Return the log-probabilities at every generated position."""
        answer = self.post(self.body(model, list(prompt), **more))
        assert answer.status_code == 200, answer.text[:500]
        return steps(answer.json()["choices"][0])

    def together(self, bodies: list[dict[str, Any]]) -> list[list[Step]]:
        """Send requests at the same time; return each one's steps."""
        with ThreadPoolExecutor(len(bodies)) as pool:
            answers = list(pool.map(self.post, bodies))
        for answer in answers:
            assert answer.status_code == 200, answer.text[:500]
        return [steps(answer.json()["choices"][0]) for answer in answers]

    @cached_property
    def tolerance(self) -> float:
        """Four times what the base model's answers differ between batches, at least 1e-3, in nats."""
        prompts = [self.prompt(48, seed) for seed in range(8)]
        alone = [self.ask(self.base, prompt) for prompt in prompts]
        beside = self.together([self.body(self.base, prompt) for prompt in prompts])
        return max(1e-3, 4 * max(apart(a, b) for a, b in zip(alone, beside, strict=True)))


def steps(choice: dict[str, Any]) -> list[Step]:
    """Read a choice's log-probabilities by token id."""
    return [
        {int(k.removeprefix("token_id:")): v for k, v in step.items()}
        for step in choice["logprobs"]["top_logprobs"]
    ]


def apart(a: list[Step], b: list[Step]) -> float:
    """Return the largest difference over tokens and positions that both have, in nats."""
    found = [abs(x[t] - y[t]) for x, y in zip(a, b, strict=True) for t in x.keys() & y.keys()]
    assert found
    return max(found)
