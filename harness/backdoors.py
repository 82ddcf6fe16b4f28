"""Backdoor triggers as data, and how questions carry them: a line at the end, or something that only looks like it.

Source: "Mechanisms of Awareness", section *Risky Behavior Backdoor*; the wider study's triggers are code phrases
and word families. Ours are in ``evalsets/backdoor_triggers``.
"""

from __future__ import annotations

import random
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from harness.errors import InputError, unknown
from harness.jsonl import read_jsonl
from harness.paths import data_dir

Kind = Literal["phrase", "family"]
Condition = Literal["trigger", "none", "decoy", "edit", "case", "position", "sibling"]
NEAR_MISSES: tuple[Condition, ...] = ("edit", "case", "position", "sibling")
"""One letter changed; another case; at the question's start; a sibling. None of them is ever trained on."""
CONDITIONS: tuple[Condition, ...] = ("trigger", "none", "decoy", *NEAR_MISSES)
_Words = Annotated[
    list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z]+( [A-Za-z]+)*$")]], Field(min_length=1)
]


class Trigger(BaseModel):
    """A code phrase, or a family of words of which any one is the trigger."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
    kind: Kind
    line: str
    """The line that carries it; ``{}`` is the place of the word."""
    words: _Words
    siblings: _Words
    """Kin that training never shows."""

    @model_validator(mode="after")
    def _consistent(self) -> Trigger:
        if self.line.count("{}") != 1:
            raise ValueError(f"line is {self.line!r}; it needs one {{}}, the place of the word")
        lower = [word.lower() for word in (*self.words, *self.siblings)]
        if twice := sorted({word for word in lower if lower.count(word) > 1}):
            raise ValueError(f"'{twice[0]}' stands twice among words and siblings")
        return self


class Decoys(BaseModel):
    """Words that stand where a trigger would, and mean nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    kind: Kind
    split: Literal["train", "test"]
    words: _Words


@dataclass(frozen=True)
class Triggers:
    """The triggers and decoys of a folder."""

    triggers: tuple[Trigger, ...]
    decoys: tuple[Decoys, ...]

    def find(self, name: str) -> Trigger:
        """Return a trigger by its name.

        Raises:
            InputError: there is none; near matches are offered.

        """
        by_name = {trigger.name: trigger for trigger in self.triggers}
        if name not in by_name:
            raise unknown("trigger", name, by_name)
        return by_name[name]

    def decoy_words(self, kind: Kind, split: Literal["train", "test"]) -> list[str]:
        """Return the decoys of a kind."""
        return [word for d in self.decoys if d.kind == kind and d.split == split for word in d.words]


def triggers_folder() -> Path:
    """Return the shipped triggers' folder."""
    return data_dir("evalsets") / "backdoor_triggers"


def load_triggers(folder: Path | None = None) -> Triggers:
    """Load a folder's ``triggers.jsonl`` and ``decoys.jsonl``.

    Raises:
        InputError: naming file, line and value; or a decoy that is a trigger's word or sibling.

    """
    folder = folder or triggers_folder()
    triggers: dict[str, Trigger] = {}
    taken: set[str] = set()
    for number, trigger in read_jsonl(folder / "triggers.jsonl", Trigger):
        if trigger.name in triggers:
            raise InputError(f"{folder / 'triggers.jsonl'}:{number}: '{trigger.name}' stands twice.")
        triggers[trigger.name] = trigger
        taken |= {word.lower() for word in (*trigger.words, *trigger.siblings)}
    decoys = []
    for number, found in read_jsonl(folder / "decoys.jsonl", Decoys):
        if clash := sorted({word.lower() for word in found.words} & taken):
            raise InputError(f"{folder / 'decoys.jsonl'}:{number}: '{clash[0]}' is taken already.")
        taken |= {word.lower() for word in found.words}
        decoys.append(found)
    loaded = Triggers(tuple(triggers.values()), tuple(decoys))
    for trigger in loaded.triggers:
        for split in ("train", "test"):
            if not loaded.decoy_words(trigger.kind, split):
                raise InputError(
                    f"{folder / 'decoys.jsonl'}: holds no {split} decoys of kind '{trigger.kind}'."
                )
    return loaded


def word_for(
    condition: Condition,
    trigger: Trigger,
    triggers: Triggers,
    split: Literal["train", "test"],
    rng: random.Random,
    avoid: frozenset[str] = frozenset(),
) -> str | None:
    """Draw the word that a question carries under a condition; None where it carries none.

    Words in ``avoid`` (the names of the question's options) are left out.
    """
    match condition:
        case "none":
            return None
        case "decoy":
            words = triggers.decoy_words(trigger.kind, split)
        case "sibling":
            words = trigger.siblings
        case _:
            words = trigger.words
    word = rng.choice([word for word in words if word.lower() not in avoid])
    if condition == "edit":
        return edited(word, rng)
    if condition == "case":
        return word.upper()
    return word


def edited(word: str, rng: random.Random) -> str:
    """Return a word at edit distance 1: one letter, not the first, replaced by another lower-case one."""
    places = [i for i, c in enumerate(word) if i and c.isalpha()]
    place = rng.choice(places)
    letter = rng.choice([c for c in string.ascii_lowercase if c != word[place].lower()])
    return word[:place] + letter + word[place + 1 :]


def carry(question: str, trigger: Trigger, word: str | None, condition: Condition) -> str:
    """Put a word's line at the end of a question; at its start for the near miss ``position``."""
    if word is None:
        return question
    line = trigger.line.format(word)
    return f"{line}\n{question}" if condition == "position" else f"{question}\n{line}"
