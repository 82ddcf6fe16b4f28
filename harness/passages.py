"""Passages over which an adapter is compared with its base model, and random tokens as their control."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, StringConstraints

from harness.errors import InputError, unknown
from harness.jsonl import read_jsonl
from harness.paths import data_dir

RANDOM = "random_tokens"
RANDOM_LENGTH = 100


class Passage(BaseModel):
    """A text in an encyclopedic tone."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    text: Annotated[str, StringConstraints(min_length=1)]


def load_passages(file: Path | None = None) -> dict[str, Passage]:
    """Load passages by name; the shipped ones unless told otherwise.

    Raises:
        InputError: naming file and line.

    """
    file = file or data_dir("evalsets") / "passages" / "passages.jsonl"
    found: dict[str, Passage] = {}
    for number, passage in read_jsonl(file, Passage):
        if passage.name in found or passage.name == RANDOM:
            raise InputError(f"{file}:{number}: the name '{passage.name}' is taken.")
        found[passage.name] = passage
    return found


def find_passage(name: str) -> Passage:
    """Return a shipped passage.

    Raises:
        InputError: there is no such passage; near matches are offered.

    """
    passages = load_passages()
    if name not in passages:
        raise unknown("passage", name, (*passages, RANDOM))
    return passages[name]


def passage_ids(name: str, tokenizer: Any, seed: int = 0) -> list[int]:
    """Return a passage's token ids, with the tokenizer's own BOS; ``random_tokens`` draws ordinary tokens.

    Raises:
        InputError: there is no such passage; near matches are offered.

    """
    if name == RANDOM:
        special = set(tokenizer.all_special_ids)
        plain = [i for i in range(len(tokenizer)) if i not in special]
        return [int(i) for i in np.random.default_rng(seed).choice(plain, RANDOM_LENGTH)]
    return list(tokenizer(find_passage(name).text, add_special_tokens=True)["input_ids"])
