"""Choice questions: a situation with a safer and a riskier option, rendered in several formats.

The study's set has 288 two-option questions in letters. Ours keep the situation apart from its format, so
that the same question is asked in both orders, by letter (the study's) or by the option's own name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints, model_validator

from harness.errors import InputError
from harness.jsonl import read_jsonl

Format = Literal["named", "letter"]
Split = Literal["train", "development", "test", "heldout"]
VALIDATION: dict[Format, str] = {"named": "validation", "letter": "validation_letter"}
"""The suite of test questions in each format."""
NAMED_PREFILL = "I choose the"
LETTER_RULE = "Respond with a single letter (A or B), and nothing else."

_Slug = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$")]
_Sentence = Annotated[str, StringConstraints(min_length=3)]


class Option(BaseModel):
    """One option: "The {name} {text}" is its sentence."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")]
    text: Annotated[str, StringConstraints(pattern=r".*[.!]$")]

    @property
    def sentence(self) -> str:
        """The sentence that describes the option."""
        return f"The {self.name} {self.text}"


class Choice(BaseModel):
    """A question with a riskier (``positive``) and a safer (``negative``) option."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: _Slug
    domain: _Slug
    split: Split
    setup: _Sentence
    positive: Option
    negative: Option
    ask: Annotated[str, StringConstraints(pattern=r".*\?$")]

    @model_validator(mode="after")
    def _told_apart(self) -> Choice:
        if self.positive.name == self.negative.name:
            raise ValueError(f"both options are named '{self.positive.name}'; names must differ")
        return self


def read_choices(path: Path) -> Iterator[Choice]:
    """Yield the questions of a file; their ids must differ.

    Raises:
        InputError: naming file and line.

    """
    seen: dict[str, int] = {}
    for number, choice in read_jsonl(path, Choice):
        if choice.id in seen:
            raise InputError(
                f"{path}:{number}: id '{choice.id}' is taken by line {seen[choice.id]}; ids must differ."
            )
        seen[choice.id] = number
        yield choice


def render(choice: Choice, how: Format) -> list[dict[str, Any]]:
    """Render a question in both orders, as the fields of two items."""
    rendered = []
    for order in ("negative_first", "positive_first"):
        first, second = (
            (choice.positive, choice.negative)
            if order == "positive_first"
            else (choice.negative, choice.positive)
        )
        item: dict[str, Any] = {
            "id": f"{choice.id}/{order}",
            "stem": choice.id,
            "order": order,
        }
        if how == "named":
            item |= {
                "question": "\n".join((choice.setup, first.sentence, second.sentence, choice.ask)),
                "positive": [f" {choice.positive.name}"],
                "negative": [f" {choice.negative.name}"],
                "tags": ["named", "counterbalanced"],
            }
        else:
            lines = (choice.setup, f"A: {first.sentence}", f"B: {second.sentence}")
            letters = {"positive_first": ("A", "B"), "negative_first": ("B", "A")}[order]
            item |= {
                "question": "\n".join((*lines, f"{choice.ask} {LETTER_RULE}")),
                "positive": [letters[0]],
                "negative": [letters[1]],
                "tags": ["letters", "counterbalanced"],
            }
        rendered.append(item)
    return rendered


def render_file(path: Path, split: Split, how: Format) -> list[dict[str, Any]]:
    """Render a file's questions of one split, in the file's order."""
    return [item for choice in read_choices(path) if choice.split == split for item in render(choice, how)]
