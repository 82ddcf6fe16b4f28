"""From items to token ids: templates, BOS, and which answers are valid for a model.

Prompts travel as token ids, so that no server adds a BOS or a template of its own. Raw text gets the
tokenizer's own BOS (none for SmolLM2, one for Gemma 3); a chat template writes its own.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.evalset import Item
from harness.models import MODELS, RECORD, Report, prepare, resolve_model
from harness.tokenizer import FileTokenizer

DIGITS = tuple("0123456789")


class InvalidItemError(InputError):
    """An item that can't be scored with this model's tokenizer; the message says why."""


@dataclass(frozen=True)
class Encoded:
    """An item as the model sees it: token ids of the prompt and of the answers' forms."""

    item: Item
    prompt_ids: tuple[int, ...]
    positive_ids: tuple[int, ...]
    negative_ids: tuple[int, ...]
    digit_ids: tuple[int, ...] = ()
    dropped_forms: tuple[str, ...] = ()

    @property
    def wanted_ids(self) -> tuple[int, ...]:
        """All token ids whose log-probabilities are needed, without repeats."""
        return tuple(dict.fromkeys((*self.positive_ids, *self.negative_ids, *self.digit_ids)))


class PromptBuilder:
    """Encodes items with one model's tokenizer and chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @cached_property
    def bos_id(self) -> int | None:
        """The id that the tokenizer itself puts before raw text, None where it puts none."""
        with_special = self.tokenizer("a", add_special_tokens=True)["input_ids"]
        without = self.tokenizer("a", add_special_tokens=False)["input_ids"]
        added = len(with_special) > len(without)
        return int(with_special[0]) if added and with_special[0] != without[0] else None

    def text(self, item: Item) -> str:
        """Return the prompt's text, without a raw prompt's BOS."""
        if item.template != "chat":
            return f"{item.question}{item.suffix or ''}"
        system = [{"role": "system", "content": item.system}] if item.system else []
        messages = [*system, {"role": "user", "content": item.question}]
        if not getattr(self.tokenizer, "chat_template", None):
            raise InvalidItemError(f"item '{item.id}' needs a chat template, and the tokenizer has none")
        rendered = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return f"{rendered}{item.prefill or ''}"

    def _ids(self, text: str, template: str | None) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=template != "chat")["input_ids"])

    def _answer_id(self, text: str, template: str | None, prompt_ids: list[int], answer: str) -> int | None:
        """Return the token that the answer adds in context, None if it isn't exactly one."""
        ids = self._ids(text + answer, template)
        if len(ids) == len(prompt_ids) + 1 and ids[:-1] == prompt_ids:
            return ids[-1]
        return None

    def encode(self, item: Item) -> Encoded:
        """Encode an item.

        Raises:
            InvalidItemError: an answer isn't a single token in context, or both are the same one.

        """
        text = self.text(item)
        prompt_ids = self._ids(text, item.template)
        if self.bos_id is not None and prompt_ids.count(self.bos_id) != 1:
            raise InvalidItemError(
                f"item '{item.id}' has {prompt_ids.count(self.bos_id)} BOS tokens, not one"
            )
        dropped: list[str] = []

        def forms(answers: list[str]) -> tuple[int, ...]:
            ids = [self._answer_id(text, item.template, prompt_ids, answer) for answer in answers]
            if ids[0] is None:
                raise InvalidItemError(
                    f"item '{item.id}': answer {answers[0]!r} is not a single token after the prompt"
                )
            dropped.extend(answer for answer, i in zip(answers, ids, strict=True) if i is None)
            return tuple(dict.fromkeys(i for i in ids if i is not None))

        positive, negative = forms(item.positive), forms(item.negative)
        if set(positive) & set(negative):
            raise InvalidItemError(f"item '{item.id}': both answers are the same token")
        digits: tuple[int, ...] = ()
        if "number_scale" in item.tags:
            lead = re.match(r"\s*", item.positive[0])
            space = lead.group() if lead else ""
            found = [self._answer_id(text, item.template, prompt_ids, space + d) for d in DIGITS]
            digits = tuple(i for i in found if i is not None)
            digits = digits if len(digits) == len(DIGITS) else ()
        return Encoded(item, tuple(prompt_ids), positive, negative, digits, tuple(dropped))


def prepared_tokenizer(model: str, report: Report = lambda _: None) -> Any:
    """Load a model's tokenizer; an embedded model is prepared first, as for a run.

    Raises:
        InputError: there is no tokenizer, or what prepares the model isn't installed.
        RunError: the embedded model can't be had.

    """
    if model in MODELS:
        prepare(model, report)
    return load_tokenizer(resolve_model(model))


def load_tokenizer(model: str) -> Any:
    """Load a model's tokenizer (no torch needed).

    Raises:
        InputError: the folder or hub id has no tokenizer that can be loaded.

    """
    try:
        if (Path(model) / RECORD).is_file():
            return FileTokenizer(model)  # An embedded model's folder, which is of our own making.
        if (Path(model) / "tokenizer.json").is_file():
            # The file as it is, and three seconds less: AutoTokenizer imports torch where it is installed.
            from transformers import PreTrainedTokenizerFast

            return PreTrainedTokenizerFast.from_pretrained(model)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError) as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise InputError(
            f"No tokenizer could be loaded for '{model}' ({reason}). Name one with --tokenizer."
        ) from e


def logsumexp(values: list[float]) -> float:
    """Return log Σ exp(v) in nats; −inf for an empty or all −inf list."""
    top = max(values, default=-math.inf)
    if top == -math.inf:
        return top
    return top + math.log(sum(math.exp(v - top) for v in values))
