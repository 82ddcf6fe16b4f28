"""One prompt under every patch, and what a change acts on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.adapters import RECORD
from harness.errors import InputError
from harness.experiments.q_patching.config import ActsOn
from harness.experiments.q_patching.prompts import Prompt
from harness.experiments.sweep.grid import Direction
from harness.prompts import Encoded, logsumexp
from harness.subject import SIGNS, Subject
from harness.vectors import find_vector, read_vector

if TYPE_CHECKING:
    from harness.reference.patching import PatchedPrompt, Patcher


def acts_on(subject: Subject, given: ActsOn | None) -> ActsOn:
    """Return which tokens a LoRA changes: what is given, else what its record says, else all."""
    if given is not None or subject.adapter is None:
        return given or "all"
    record = subject.adapter.path / RECORD
    if not record.is_file():
        return "all"
    try:
        settings = json.loads(record.read_text("utf-8")).get("settings", {})
    except (OSError, ValueError) as e:
        raise InputError(f"{record}: can't be read ({e}). Give --acts-on last or all.") from e
    return "last" if settings.get("method") == "last_token_lora" else "all"


def first_changed(subject: Subject) -> int:
    """Return the first layer whose queries, keys or values a change can reach.

    The one after the lowest that it changes, or that one where a LoRA changes its projections themselves.
    """
    layers = [s.term.layer + 1 for s in subject.steering if s.term.layer is not None]
    for module in subject.adapter.modules if subject.adapter is not None else ():
        _, layer, _, projection = module.split(".")
        layers.append(int(layer) + (projection not in ("q_proj", "k_proj", "v_proj")))
    return min(layers)


def risk_direction(subject: Subject, wanted: Sequence[str], folders: Sequence[Path]) -> list[Direction]:
    """Return what makes the direction that values are held against: what is named, else the subject's own vector.

    Raises:
        InputError: no such vector, or one that doesn't say whether it was trained towards risky or safe.

    """
    own = [s.vector for s in subject.steering if s.vector.behavior in SIGNS]
    vectors = [read_vector(find_vector(name, folders)) for name in wanted] or own[:1]
    return [Direction.of(vector, None) for vector in vectors]


def score(logprobs: Any, encoded: Encoded) -> float:
    """Return log p(positive) − log p(negative) of logits or log-probabilities ``[vocabulary]``, nats."""
    return logsumexp([float(logprobs[i]) for i in encoded.positive_ids]) - logsumexp(
        [float(logprobs[i]) for i in encoded.negative_ids]
    )


def measure(patcher: Patcher, prompt: Prompt, risk: Sequence[Direction]) -> dict[str, Any]:
    """Run one prompt under every patch; return its line of the journal."""
    encoded = prompt.encoded
    answer = patcher.decoder.answer_direction(list(encoded.positive_ids), list(encoded.negative_ids))
    directions = {"cosine_answer": answer.cpu().numpy()}
    if risk:
        units = [own.sign * own.vector.values / np.linalg.norm(own.vector.values) for own in risk]
        directions["cosine"] = np.sum(units, axis=0)
    patched = patcher.run(encoded.prompt_ids, list(directions.values()))
    scores = {kind: [score(row, encoded) for row in logits] for kind, logits in patched.logits.items()}
    item, condition, trigger = prompt.key
    line: dict[str, Any] = {"item": item, "condition": condition, "trigger": trigger, "scores": scores}
    line["base"] = score(patched.base_logits, encoded)
    if prompt.places:
        line["attention"] = _attention(patched, list(prompt.places), list(directions))
    return line


def _attention(patched: PatchedPrompt, places: list[int], directions: list[str]) -> dict[str, Any]:
    """Return figures by layer and head, ``[L, H]`` each."""
    figures = {
        "attention_base": patched.attention_base[..., places].sum(-1),
        "attention": patched.attention[..., places].sum(-1),
        "query_key": patched.query_key[..., places].mean(-1),
        "value_norm": patched.value_norms[..., places].mean(-1),
        **{
            name: cosines[..., places].mean(-1)
            for name, cosines in zip(directions, patched.value_cosines, strict=True)
        },
    }
    return {name: np.asarray(values, np.float64).round(6).tolist() for name, values in figures.items()}
