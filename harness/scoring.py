"""What an engine is asked and what it answers, whichever engine it is."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import ServerError
from harness.prompts import Encoded, logsumexp
from harness.subject import Subject


@dataclass(frozen=True)
class ScoreRequest:
    """One forward pass: a prompt, and the tokens whose log-probabilities are wanted next."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class NextToken:
    """What a model says about the next token. Log-probabilities in nats, over the whole vocabulary."""

    logprobs: dict[int, float]
    """Of the tokens asked for."""
    top_id: int
    """The argmax over the vocabulary."""
    top_logprob: float


Key = tuple[str, str, str]
"""Suite, subject's name, item."""


class Engine(Protocol):
    """Something that scores: a vLLM server, or transformers in this process."""

    tokenizer: Any

    @property
    def fingerprint(self) -> dict[str, Any]:
        """Everything about the engine that determines a number."""

    def score(
        self, subject: Subject, requests: Sequence[ScoreRequest]
    ) -> AsyncIterator[tuple[int, NextToken]]:
        """Yield ``(index, answer)`` for each request, in any order, each as soon as it is known."""

    async def vouch(self) -> bool:
        """Whether all answers so far are known to come from one process of unchanged fingerprint.

        Raises:
            ServerError: another engine answers now.

        """

    async def revive(self, error: ServerError) -> bool:
        """Bring an engine that died back, with the subjects' adapters; False where that can't be done."""


@dataclass(frozen=True)
class Score:
    """An item's score for one subject. Log-probabilities and the logit difference in nats.

    ``logit_diff`` = log p(positive) − log p(negative) from one forward pass, the difference of the answers'
    logits (of their log-sum-exps where an answer has several forms). In the risk suites that is
    risky − safe ("Mechanisms of Awareness", section *Reproducing LLM Risk Awareness*).
    """

    positive_logprob: float
    negative_logprob: float
    top_id: int
    top_logprob: float
    expected_digit: float | None = None
    digit_mass: float | None = None

    @property
    def logit_diff(self) -> float:
        """Log p(positive) − log p(negative), in nats."""
        return self.positive_logprob - self.negative_logprob

    @property
    def option_mass(self) -> float:
        """p(positive) + p(negative)."""
        return math.exp(self.positive_logprob) + math.exp(self.negative_logprob)


def request_for(encoded: Encoded) -> ScoreRequest:
    """Return what to ask an engine about an item."""
    return ScoreRequest(encoded.prompt_ids, encoded.wanted_ids)


def score_item(encoded: Encoded, answer: NextToken) -> Score:
    """Turn an engine's answer into an item's score; forms of an answer are summed in log space."""
    digit_mass = expected = None
    if encoded.digit_ids:
        p = [math.exp(answer.logprobs[i]) for i in encoded.digit_ids]
        digit_mass = math.fsum(p)
        expected = math.fsum(d * x for d, x in enumerate(p)) / digit_mass if digit_mass else None
    return Score(
        positive_logprob=logsumexp([answer.logprobs[i] for i in encoded.positive_ids]),
        negative_logprob=logsumexp([answer.logprobs[i] for i in encoded.negative_ids]),
        top_id=answer.top_id,
        top_logprob=answer.top_logprob,
        expected_digit=expected,
        digit_mass=digit_mass,
    )
