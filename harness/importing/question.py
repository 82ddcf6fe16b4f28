"""What every format comes down to: a question, its two answers, and its options where they can be told apart."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from harness.errors import InputError

PAIRS: Final = (("A", "B"), ("1", "2"))
_MARKER: Final = r"^[ \t]*\(?(?:Option[ \t]+)?{0}[).:][ \t]+"
_LETTER: Final = re.compile(r"\(?\s*(?:option\s+)?([A-Za-z0-9])\s*[).:]*", re.IGNORECASE)
_BRACKETED: Final = re.compile(r"\s*\(([A-Za-z0-9])\)\s*")


@dataclass(frozen=True)
class Question:
    """One record of a file, understood."""

    line: int
    text: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    system: str | None = None
    kind: str = ""
    """What the file sorts it under (a CSV's ``Type``)."""
    lead: str = ""
    """What the prompt must end in for the answer to be one token: ``(`` where answers are written ``(A)``."""


@dataclass(frozen=True)
class Options:
    """A text of two lettered options, taken apart; ``parts`` are what stands around the options' texts."""

    parts: tuple[str, str, str]
    letters: tuple[str, str]
    texts: tuple[str, str]

    def swapped(self) -> str:
        """Return the text with the options' texts under each other's letter."""
        (head, between, tail), (first, second) = self.parts, self.texts
        return f"{head}{second}{between}{first}{tail}"


def find_options(text: str) -> Options | None:
    """Take apart a text whose two options stand on lines that begin ``A:``, ``A.``, ``A)`` or ``(A)``.

    An option ends with its line; None where there aren't exactly two such lines.
    """
    for first, second in PAIRS:
        if has_third(text, first):
            continue
        marks = [list(re.finditer(_MARKER.format(x), text, re.MULTILINE)) for x in (first, second)]
        if len(marks[0]) != 1 or len(marks[1]) != 1 or marks[0][0].end() > marks[1][0].start():
            continue
        a, b = marks[0][0], marks[1][0]
        texts, ends = [], []
        for mark in (a, b):
            found = re.compile(r"[^\n]*").match(text, mark.end())
            assert found is not None
            texts.append(found.group().rstrip())
            ends.append(mark.end() + len(texts[-1]))
        if ends[0] > b.start() or not all(texts) or texts[0] == texts[1]:
            continue
        parts = (text[: a.end()], text[ends[0] : b.end()], text[ends[1] :])
        return Options(parts, (first, second), (texts[0], texts[1]))
    return None


def has_third(text: str, own: str) -> bool:
    """Whether a line begins a third option after those of ``own``'s pair."""
    third = "3" if own.isdecimal() else "C"
    return bool(re.search(_MARKER.format(third), text, re.MULTILINE))


def letter(answer: str) -> str | None:
    """Return the letter of an answer such as ``A``, ``(A)`` or ``B.``; None for words."""
    match = _LETTER.fullmatch(answer.strip())
    return match[1] if match else None


def other_letter(own: str) -> str | None:
    """Return the other letter of its pair."""
    for pair in PAIRS:
        if own in pair:
            return pair[1 - pair.index(own)]
    return None


def bracketed(question: Question) -> Question:
    """Move the bracket of answers such as ``(A)`` into the prompt: together they are no single token."""
    answers = (*question.positive, *question.negative)
    found = [_BRACKETED.fullmatch(answer) for answer in answers]
    if not all(found):
        return question
    plain = [match[1] for match in found if match]
    split = len(question.positive)
    return replace(question, positive=tuple(plain[:split]), negative=tuple(plain[split:]), lead="(")


def check_answers(path: Path, question: Question) -> Question:
    """Return the question with its answers trimmed.

    Raises:
        InputError: an answer is blank, or both are the same.

    """
    positive, negative = (tuple(a.strip() for a in s) for s in (question.positive, question.negative))
    if not positive or not negative or not all((*positive, *negative)):
        raise InputError(f"{path}:{question.line}: an answer is blank.")
    if both := set(positive) & set(negative):
        raise InputError(
            f"{path}:{question.line}: the answer '{min(both):.40}' is both positive and negative."
        )
    return replace(question, positive=positive, negative=negative)
