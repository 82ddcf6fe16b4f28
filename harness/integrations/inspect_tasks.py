"""Our suites as Inspect tasks, found by the entry point ``inspect_ai``; scored in pairs with the base model.

A task runs on Inspect's own ``openai-api-completions`` provider: prompts go as token ids and the answers'
log-probabilities are asked for by token id, so nothing depends on a template, a BOS or a list of the likeliest.
"""

from __future__ import annotations

import math
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig, Model, ModelOutput, get_model
from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, mean, metric, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver

from harness import stats
from harness.evalset import suite_folders
from harness.integrations.tasks import Exported, prepare_export
from harness.models import DEFAULT_MODEL
from harness.prompts import Encoded, logsumexp

PROVIDERS = ("openai-api-completions/", "vllm-completions/")
_BASE = "base"


@task
def suite(
    name: str = "awareness",
    model: str = DEFAULT_MODEL,
    tokenizer: str | None = None,
    limit: int | None = None,
    base: str | None = None,
) -> Task:
    """A suite of ours, by name or folder.

    Args:
        name: the suite.
        model: whose tokenizer encodes the prompts: embedded, a folder or a hub id.
        tokenizer: folder or hub id, if not the model's.
        limit: only the first stems.
        base: Inspect's name of the model that shifts are taken from; the evaluated one's server's ``base``
            unless given.

    """
    exported = prepare_export([name], limit, model, tokenizer)
    (planned,) = exported.suites
    samples = [_sample(encoded, exported) for encoded in planned.items]
    return Task(
        dataset=MemoryDataset(samples, name=planned.name),
        solver=answer_logprobs(base),
        scorer=paired_shift(),
        name=planned.name,
        metadata={"measures": planned.evalset.card.measures, "license": planned.evalset.card.license},
    )


def _sample(encoded: Encoded, exported: Exported) -> Sample:
    item = encoded.item
    return Sample(
        id=item.id,
        input=[
            ChatMessageUser(
                content=exported.text(encoded), metadata={"prompt_token_ids": list(encoded.prompt_ids)}
            )
        ],
        choices=[item.positive[0], item.negative[0]],
        target=item.positive[0],
        metadata={
            "stem": item.stem,
            "order": item.order,
            "tags": list(item.tags),
            "positive_ids": list(encoded.positive_ids),
            "negative_ids": list(encoded.negative_ids),
        },
    )


@solver
def answer_logprobs(base: str | None = None) -> Solver:
    """Ask the model, and the base model, for the log-probabilities of a sample's two answers."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        model = get_model()
        told = str(model)
        if not told.startswith(PROVIDERS):
            raise ValueError(
                f"'{told}' sends chat messages; these prompts are token ids. Name the model openai-api-completions/"
                f"<service>/{told.rpartition('/')[2]}."
            )
        state.output = await _ask(model, state)
        if base is not None or model.api.model_name.rpartition("/")[2] != _BASE:
            service = told.rpartition("/")[0]
            other = get_model(
                base or f"{service}/{_BASE}", base_url=model.api.base_url, api_key=model.api.api_key
            )
            state.store.set("base", _logprobs(await _ask(other, state), state.metadata))
        return state

    return solve


async def _ask(model: Model, state: TaskState) -> ModelOutput:
    wanted = [*state.metadata["positive_ids"], *state.metadata["negative_ids"]]
    extra = {"logprob_token_ids": wanted, "return_tokens_as_token_ids": True}
    config = GenerateConfig(max_tokens=1, temperature=0.0, logprobs=True, top_logprobs=1, extra_body=extra)
    # Inspect's cache keys by model name; a retrained adapter under the same name would get its old answers.
    return await model.generate(state.messages, config=config, cache=False)


def _logprobs(output: ModelOutput, metadata: dict[str, Any]) -> list[float]:
    """Return log p of both answers in nats, their forms summed.

    Raises:
        ValueError: the server left out one: it doesn't know ``logprob_token_ids``.

    """
    told = output.choices[0].logprobs
    top = {t.token: t.logprob for t in (told.content[0].top_logprobs or [])} if told else {}
    found = []
    for key in ("positive_ids", "negative_ids"):
        wanted = [f"token_id:{i}" for i in metadata[key]]
        missing = [token for token in wanted if token not in top]
        if missing:
            raise ValueError(
                f"The server left out the log-probability of {missing[0]}: it doesn't know logprob_token_ids. "
                "Start one with: harness serve"
            )
        found.append(logsumexp([top[token] for token in wanted]))
    return found


@metric
def stem_mean() -> Metric:
    """Return the mean over stems: variants of a question don't count as several."""

    def compute(scores: list[SampleScore]) -> float:
        values, stems = _by_stem(scores)
        return float(stats.stem_means(values, stems)[1].mean())

    return compute


@metric
def stem_interval() -> Metric:
    """Return the 95% t interval of the mean over stems; empty for a single stem."""

    def compute(scores: list[SampleScore]) -> dict[str, str | int | float | bool | None]:
        interval = stats.mean_interval(*_by_stem(scores))
        if interval.low is None:
            return {}
        return {"ci_low": interval.low, "ci_high": interval.high}

    return compute


def _by_stem(scores: list[SampleScore]) -> tuple[list[float], list[str]]:
    return [s.score.as_float() for s in scores], [str((s.sample_metadata or {})["stem"]) for s in scores]


_METRICS = [mean(), stderr(cluster="stem"), stem_mean(), stem_interval()]


@scorer(metrics={"logit_diff": _METRICS, "shift": _METRICS, "option_mass": [mean()]})
def paired_shift() -> Scorer:
    """Score log p(positive) − log p(negative) in nats, and its shift from the base model on the same sample."""

    async def score(state: TaskState, target: Target) -> Score:
        positive, negative = _logprobs(state.output, state.metadata)
        before = state.store.get("base")
        base_diff = positive - negative if before is None else before[0] - before[1]
        return Score(
            value={
                "logit_diff": positive - negative,
                "shift": positive - negative - base_diff,
                "option_mass": math.exp(positive) + math.exp(negative),
            },
            answer=state.output.completion,
            metadata={
                "positive_logprob": positive,
                "negative_logprob": negative,
                "base_logit_diff": base_diff,
            },
        )

    return score


def _named(name: str) -> Any:
    def made(
        model: str = DEFAULT_MODEL,
        tokenizer: str | None = None,
        limit: int | None = None,
        base: str | None = None,
    ) -> Task:
        return suite(name, model, tokenizer, limit, base)

    made.__doc__ = f"The suite {name}; see suite."
    return task(name=name)(made)


SUITES = {name: _named(name) for name in suite_folders()}
