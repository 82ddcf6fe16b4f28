"""Whether an adapter changes anything, asked of a server that doesn't repeat itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import pytest

from harness.errors import InputError
from harness.probe import LEVEL, prove
from harness.scoring import NextToken, ScoreRequest
from harness.stats import sign_flip_norm_p
from harness.subject import Subject


class Tokenizer:
    def __len__(self) -> int:
        return 64

    def __call__(self, text: str) -> dict[str, Any]:
        return {"input_ids": [1, 2, 3]}


class Noisy:
    """Stands for a GPU server: every answer is off by noise of its own, a subject's by its change too."""

    tokenizer = Tokenizer()

    def __init__(self, noise: float, changes: dict[str, float], seed: int) -> None:
        self.noise, self.changes, self.asked = noise, changes, 0
        self.rng = np.random.default_rng(seed)

    async def score(
        self, subject: Subject, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, NextToken]]:
        self.asked += 1
        change = self.changes.get(subject.name, 0.0)
        for index, request in enumerate(requests):
            off = self.rng.normal(0, self.noise, len(request.token_ids)) if self.noise else 0.0
            moved = -5.0 + off + change * np.cos(np.arange(len(request.token_ids)))
            yield index, NextToken(dict(zip(request.token_ids, moved.tolist(), strict=True)), 0, -1.0)


async def proved(server: Noisy, *names: str) -> dict[str, float]:
    return await prove(server, [Subject(name) for name in names])  # type: ignore[arg-type]


async def test_a_small_change_is_found_in_a_servers_noise() -> None:
    for seed in range(20):
        server = Noisy(0.03, {"faint": 0.03, "strong": 3.0}, seed)
        changes = await proved(server, "strong", "faint")
        assert changes["strong"] == pytest.approx(3.0, abs=0.3)
        assert changes["faint"] == pytest.approx(0.03, abs=0.03)
        assert server.asked > 4 + 16


async def test_noise_is_not_taken_for_a_change() -> None:
    refused = 0
    for seed in range(100):
        try:
            await proved(Noisy(0.03, {}, seed), "idle")
        except InputError as e:
            assert "'idle' changes nothing: over 16 pairs" in str(e)
            refused += 1
    assert refused >= 95, "one in a hundred passes by chance"


async def test_what_repeats_itself_exactly_and_changes_nothing_is_refused() -> None:
    with pytest.raises(InputError, match=r"differ from the base model's by 0.0e\+00 nats at most \(p = 1.00"):
        await proved(Noisy(0.0, {}, 0), "idle")


async def test_another_rounding_that_is_the_same_each_time_is_no_change() -> None:
    with pytest.raises(InputError, match="'idle' changes nothing"):
        await proved(Noisy(0.0, {"idle": 9e-7}, 0), "idle")


def test_flips_hold_their_level() -> None:
    rng = np.random.default_rng(0)
    p = [sign_flip_norm_p(rng.normal(0, 1, (16, 32))) for _ in range(1000)]
    assert np.mean(np.asarray(p) <= LEVEL) < 0.02
    assert 0.03 < np.mean(np.asarray(p) <= 0.05) < 0.07
