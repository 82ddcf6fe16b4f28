"""Free text from the base model and subjects, side by side: the same seeds, so that only the subject differs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from harness.client import ScoringClient
from harness.config import RunConfig
from harness.engines import Report, open_engine
from harness.errors import InputError
from harness.subject import Subject


@dataclass(frozen=True)
class Asked:
    """How a question is asked."""

    question: str
    samples: int = 3
    seed: int = 0
    """Of the first sample; the next ones count on, alike for every subject."""
    max_tokens: int = 128
    temperature: float = 1.0
    system: str | None = None
    raw: bool = False
    """Whether the question is raw text to go on with, without a chat template."""


@dataclass(frozen=True)
class Answer:
    """One sample of one subject."""

    subject: str
    seed: int
    text: str
    finish_reason: str | None


async def ask(config: RunConfig, asked: Asked, report: Report = lambda _: None) -> list[Answer]:
    """Return ``samples`` answers of base and of each subject, base first.

    Raises:
        InputError: an unknown adapter, or an engine that only scores.
        ServerError: no server can be had.

    """
    if config.engine != "server":
        raise InputError("The reference engine only scores; free text needs a server.")
    async with open_engine(config, report) as (engine, subjects):
        assert isinstance(engine, ScoringClient)
        report(f"Asking {len(subjects)} subjects {asked.samples} times")
        jobs = [(subject, asked.seed + sample) for subject in subjects for sample in range(asked.samples)]
        said = await asyncio.gather(*(_one(engine, subject, asked, seed) for subject, seed in jobs))
    return [
        Answer(subject.name, seed, text, reason)
        for (subject, seed), (text, reason) in zip(jobs, said, strict=True)
    ]


async def _one(client: ScoringClient, subject: Subject, asked: Asked, seed: int) -> tuple[str, str | None]:
    sampling = {"seed": seed, "max_tokens": asked.max_tokens, "temperature": asked.temperature}
    if asked.raw:
        # Token ids, as in scoring: the server adds no BOS of its own.
        ids = list(client.tokenizer(asked.question)["input_ids"])
        return await client.generate(subject, {"prompt": ids, **sampling})
    system = [{"role": "system", "content": asked.system}] if asked.system else []
    messages = [*system, {"role": "user", "content": asked.question}]
    return await client.generate(subject, {"messages": messages, **sampling})
