"""From questions to items: which space leads an answer, both orders of the options, stems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError
from harness.evalset import Item, Template, named_order
from harness.importing.question import Question, check_answers, find_options
from harness.jsonl import validated


@dataclass(frozen=True)
class Way:
    """How a suite's questions are asked."""

    template: Template
    suffix: str
    prefill: str
    orders: Literal["both", "as-given"] = "both"


@dataclass
class Made:
    """Items, and what the reader must know about how they were made."""

    items: list[Item] = field(default_factory=list)
    repeated: list[int] = field(default_factory=list)
    """Lines that said again what an earlier one had said."""
    one_order: list[int] = field(default_factory=list)
    """Lines of lettered answers whose options aren't on lines of their own."""

    @property
    def notes(self) -> list[str]:
        """The same, as sentences."""
        notes = []
        if self.repeated:
            notes.append(f"{_lines(self.repeated)} repeated an earlier question and left out")
        if self.one_order:
            notes.append(
                f"{_lines(self.one_order)} asked in the given order only: two lines that begin with A and B (or 1 "
                "and 2) are needed to swap the options"
            )
        return notes


def make_items(path: Path, questions: Iterable[Question], way: Way) -> Made:
    """Make items of questions; the same question asked in two orders is one stem.

    Raises:
        InputError: naming file and line: no usable answers, or a question that contradicts an earlier one.

    """
    made = Made()
    stems: dict[object, str] = {}
    seen: dict[str, tuple[int, str]] = {}
    for question in questions:
        question = check_answers(path, question)
        if question.system and way.template == "raw":
            raise InputError(f"{path}:{question.line}: has a system message; it needs --template chat.")
        key, items = _ask(question, way, made)
        stem = stems.setdefault(key, f"{_slug(question.kind)}-{len(stems) + 1:04d}")
        fresh = False
        for values, positive in items:
            name = f"{stem}/{values.pop('variant')}"
            if name in seen:
                line, before = seen[name]
                if before != positive:
                    raise InputError(
                        f"{path}:{question.line}: asks what line {line} asks, with the poles the other way round."
                    )
                continue
            fresh = True
            seen[name] = (question.line, positive)
            raw = {"id": name, "stem": stem, "source": "imported", **values}
            made.items.append(validated(Item, raw, f"{path}:{question.line}: "))
        if not fresh:
            made.repeated.append(question.line)
    return made


def _ask(question: Question, way: Way, made: Made) -> tuple[object, Iterator[tuple[dict[str, Any], str]]]:
    """Return what identifies a question, and its items' values, each with what its positive answer stands for."""
    options = find_options(question.text)
    answers = (*question.positive, *question.negative)
    where = (question.kind, question.system)
    if options is None or set(answers) != set(options.letters):
        if all(len(a) == 1 and a.isascii() and a.isalpha() for a in answers):
            made.one_order.append(question.line)
        return (where, question.text), _as_given(question, way)
    own = options.letters.index(question.positive[0])
    text = options.texts[own]

    def both() -> Iterator[tuple[dict[str, Any], str]]:
        for swap in (False, True) if way.orders == "both" else (False,):
            first = own if not swap else 1 - own
            letters = (options.letters[first], options.letters[1 - first])
            asked = options.swapped() if swap else question.text
            yield (
                {
                    **_values(question, way, asked, (letters[0],), (letters[1],)),
                    "variant": (order := "negative_first" if first else "positive_first"),
                    "order": order,
                    "tags": ["letters", "counterbalanced"] if way.orders == "both" else ["letters"],
                },
                text,
            )

    return (where, options.parts, frozenset(options.texts)), both()


def _as_given(question: Question, way: Way) -> Iterator[tuple[dict[str, Any], str]]:
    values = _values(question, way, question.text, question.positive, question.negative)
    answers = (*question.positive, *question.negative)
    if all(len(a) == 1 and a.isdecimal() for a in answers):
        values["tags"] = ["number_scale"]
    else:
        values["order"] = named_order(question.text, question.positive[0], question.negative[0])
        values["tags"] = ["letters"] if all(len(a) == 1 for a in answers) else []
    yield {**values, "variant": "as-given"}, question.positive[0]


def _values(
    question: Question, way: Way, asked: str, positive: tuple[str, ...], negative: tuple[str, ...]
) -> dict[str, Any]:
    own: dict[str, Any] = {"question": asked}
    lead = way.prefill if way.template == "chat" else way.suffix
    if question.lead and not lead.endswith(question.lead):
        space = " " if lead and not lead[-1].isspace() else ""
        lead += f"{space}{question.lead}"
        own["prefill" if way.template == "chat" else "suffix"] = lead
    before = lead if way.template == "chat" else f"{asked}{lead}"
    space = " " if before and not before[-1].isspace() and before[-1] not in "([{'\"" else ""
    if question.system:
        own["system"] = question.system
    return own | {"positive": [space + a for a in positive], "negative": [space + a for a in negative]}


def _slug(kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")[:40].strip("-") or "q"


def _lines(lines: list[int]) -> str:
    shown = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
    return f"line {shown} was" if len(lines) == 1 else f"{len(lines)} lines ({shown}) were"
