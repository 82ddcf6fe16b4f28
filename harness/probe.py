"""Prove on a probe prompt that an adapter or a vector changes what a server says."""

from __future__ import annotations

from harness.client import ScoringClient
from harness.errors import InputError
from harness.scoring import Engine, NextToken, ScoreRequest
from harness.subject import BASE, Subject

TEXTS = (
    "The harbour was quiet that morning, and nobody on the pier expected the boats back before noon.",
    "Two ways lead to the village. Which of them would you take, and why?\n",
)


def _requests(engine: Engine) -> list[ScoreRequest]:
    tokenizer = engine.tokenizer
    vocabulary = len(tokenizer)
    spread = tuple(range(vocabulary // 32, vocabulary, vocabulary // 16))
    return [ScoreRequest(tuple(tokenizer(text)["input_ids"]), spread) for text in TEXTS]


async def answers(engine: Engine, subject: Subject) -> list[NextToken]:
    """Return a subject's answers to the probe prompts."""
    requests = _requests(engine)
    found = {index: answer async for index, answer in engine.score(subject, requests)}
    return [found[index] for index in range(len(requests))]


def distance(a: list[NextToken], b: list[NextToken]) -> float:
    """Return the largest difference of two subjects' log-probabilities, in nats."""
    return max(
        abs(x.logprobs[token] - y.logprobs[token]) for x, y in zip(a, b, strict=True) for token in x.logprobs
    )


async def prove(client: ScoringClient, subjects: list[Subject]) -> dict[str, float]:
    """Check that each subject changes the logits by more than the server repeats itself.

    Returns:
        The largest change of a log-probability by subject, in nats.

    Raises:
        InputError: one that changes nothing.

    """
    base = await answers(client, BASE)
    noise = distance(base, await answers(client, BASE))
    changes = {}
    for subject in subjects:
        change = distance(base, await answers(client, subject))
        if change <= 4 * noise + 1e-6:
            raise InputError(
                f"'{subject.name}' changes nothing: its log-probabilities differ from the base "
                f"model's by {change:.1e} nats (the server's own noise is {noise:.1e})."
            )
        changes[subject.name] = change
    return changes
