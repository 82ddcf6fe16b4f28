"""Loads and scores the tasks beside this file for lm-evaluation-harness. Needs nothing but lm_eval."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def load(suite: str, **_: Any) -> dict[str, Any]:
    """Return a suite's documents as the split ``test``."""
    import datasets

    lines = Path(__file__).with_name(f"{suite}.jsonl").read_text("utf-8").split("\n")
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines if line])}


def process_results(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, Any]:
    """Return log p(positive) - log p(negative) in nats, and whether the positive answer is the likelier one.

    Forms of an answer are summed; what a prompt's trailing spaces add to every choice cancels in the difference.
    """
    logprobs = [result[0] for result in results]
    positive, negative = logprobs[: doc["positives"]], logprobs[doc["positives"] :]
    difference = _logsumexp(positive) - _logsumexp(negative)
    return {
        "logit_diff": difference,
        "logit_diff_by_stem": [doc["stem"], difference],
        "acc": float(difference > 0),
    }


def mean_over_stems(values: list[tuple[str, float]]) -> float:
    """Average within each stem, then over stems: variants of one question don't count as several."""
    stems: dict[str, list[float]] = {}
    for stem, value in values:
        stems.setdefault(stem, []).append(value)
    means = [math.fsum(own) / len(own) for own in stems.values()]
    return math.fsum(means) / len(means)


def _logsumexp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))
