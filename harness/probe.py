"""Prove on a probe prompt that an adapter or a vector changes what a server says."""

from __future__ import annotations

import numpy as np

from harness import stats
from harness.client import ScoringClient
from harness.errors import InputError
from harness.modelinfo import ModelInfo
from harness.scoring import Engine, NextToken, ScoreRequest
from harness.spec import SteeringSpec
from harness.subject import BASE, Steered, Subject
from harness.vectors import SteeringVector, VectorConfig

TEXTS = (
    "The harbour was quiet that morning, and nobody on the pier expected the boats back before noon.",
    "Two ways lead to the village. Which of them would you take, and why?\n",
)

PAIRS, LEVEL = 16, 0.01
"""How often a small change is looked for, and how seldom one is found that isn't there."""
ROUNDING = 1e-6
"""A change of a log-probability that is none, nats: another kernel may round otherwise, each time alike."""


def _requests(engine: Engine) -> list[ScoreRequest]:
    tokenizer = engine.tokenizer
    vocabulary = len(tokenizer)
    spread = tuple(range(vocabulary // 32, vocabulary, vocabulary // 16))
    return [ScoreRequest(tuple(tokenizer(text)["input_ids"]), spread) for text in TEXTS]


def probe_subject(model: ModelInfo) -> Subject:
    """Return a subject steered by a random vector in the middle of a model, at both hook points."""
    values = np.random.default_rng(0).standard_normal(model.hidden_size).astype(np.float32)
    vector = SteeringVector("probe", VectorConfig(model.name, model.layers // 2, "mlp_out"), values)
    spec = SteeringSpec.from_name(f"probe@0.5rel+probe@L{model.layers // 2}.resid_post@0.05rel@all")
    return Subject("probe", None, tuple(Steered(vector.resolve(term), vector) for term in spec.terms))


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

    What doesn't stand out of a server's noise at once (bfloat16 sums in an order that hangs on the batch) is asked
    again and again, beside base: a small change has the same sign each time.

    Returns:
        The largest change of a log-probability by subject, in nats; a mean where it took many answers.

    Raises:
        InputError: one that changes nothing.

    """
    base = await answers(client, BASE)
    noise = distance(base, await answers(client, BASE))
    changes = {}
    for subject in subjects:
        change = distance(base, await answers(client, subject))
        if change <= 4 * noise + ROUNDING:
            pairs = await _pairs(client, subject)
            p, change = stats.sign_flip_norm_p(pairs), float(np.abs(pairs.mean(0)).max())
            if p > LEVEL or change <= ROUNDING:
                raise InputError(
                    f"'{subject.name}' changes nothing: over {len(pairs)} pairs of answers its log-probabilities "
                    f"differ from the base model's by {change:.1e} nats at most (p = {p:.2f}; one answer of the "
                    f"server differs from the next by {noise:.1e})."
                )
        changes[subject.name] = change
    return changes


async def _pairs(client: ScoringClient, subject: Subject) -> np.ndarray:
    """Ask base and a subject in turn; returns the differences, float64 ``[pairs, log-probabilities]``, nats."""
    found = []
    for _ in range(PAIRS):
        base, changed = await answers(client, BASE), await answers(client, subject)
        found.append(
            [
                b.logprobs[token] - a.logprobs[token]
                for a, b in zip(base, changed, strict=True)
                for token in a.logprobs
            ]
        )
    return np.asarray(found)
