"""OpenAI chat JSON Lines as fine-tuning uses them: a user message with the options, an assistant message with one.

The file says one answer; which pole that is, and what the other one is, must come from somewhere: a flag (the
other letter of the pair is the other answer), a field of each line, or a second file with the other answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError
from harness.evalset import Item
from harness.importing.question import Question, has_third, letter, other_letter
from harness.importing.text import objects, text_field

ROLES = ("system", "developer", "user", "assistant")


@dataclass(frozen=True)
class Poles:
    """Which pole the assistant's answers are; exactly one of the three is given."""

    answers: Literal["positive", "negative"] | None = None
    field: str | None = None
    """The key of each line that holds the positive answer."""
    other: tuple[tuple[int, dict[str, Any]], ...] | None = None
    """Lines of a second file with the negative answers to the same messages."""
    other_path: Path | None = None


@dataclass(frozen=True)
class _Told:
    """A line's messages."""

    system: str | None
    user: str
    answer: str


def read(path: Path, text: str, poles: Poles) -> Iterator[Question]:
    """Yield the questions of a chat file.

    Raises:
        InputError: naming file and line.

    """
    lines = list(objects(path, text))
    if poles.other is not None and len(poles.other) != len(lines):
        raise InputError(
            f"{poles.other_path}: has {len(poles.other)} lines with messages, {path} has {len(lines)}; "
            "line by line the two must ask the same."
        )
    for index, (number, value) in enumerate(lines):
        told = _told(path, number, value)
        if poles.other is not None:
            assert poles.other_path is not None
            positive, negative = told.answer, _matching(poles.other_path, *poles.other[index], told, number)
        elif poles.field is not None:
            positive, negative = _by_field(path, number, value, poles.field, told)
        else:
            own = _letter(path, number, told.answer)
            if has_third(told.user, own):
                raise InputError(
                    f"{path}:{number}: has more than two options, so the other answer is not known."
                )
            pair = (own, _other(path, number, own))
            positive, negative = pair if poles.answers == "positive" else pair[::-1]
        yield Question(number, told.user, (_short(positive),), (_short(negative),), told.system)


def write(items: Iterable[Item]) -> Iterator[str]:
    """Yield a line an item: the assistant gives the positive answer, ``positive`` and ``negative`` name both.

    Raises:
        InputError: an item with a prefill or of raw text, which chat messages can't hold.

    """
    for item in items:
        if item.template != "chat" or item.prefill:
            why = f"the prefill {item.prefill!r}" if item.prefill else "raw text"
            raise InputError(
                f"item '{item.id}' has {why}; chat messages can't hold that. Use --format items."
            )
        system = [{"role": "system", "content": item.system}] if item.system else []
        messages = [
            *system,
            {"role": "user", "content": item.question},
            {"role": "assistant", "content": item.positive[0]},
        ]
        line = {"messages": messages, "positive": item.positive[0], "negative": item.negative[0]}
        yield json.dumps(line, ensure_ascii=False)


def _told(path: Path, number: int, value: dict[str, Any]) -> _Told:
    messages = value.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{path}:{number}: field 'messages' must be a list of messages.")
    found: dict[str, str] = {}
    for message in messages:
        if not isinstance(message, dict):
            raise InputError(f"{path}:{number}: a message is an object with role and content.")
        role = message.get("role")
        if role not in ROLES:
            raise InputError(f"{path}:{number}: role is {role!r:.40}; valid: {', '.join(ROLES)}.")
        role = "system" if role == "developer" else role
        if role in found or (role != "assistant" and "assistant" in found):
            raise InputError(f"{path}:{number}: one question and one answer are needed, not a longer talk.")
        if role == "system" and "user" in found:
            raise InputError(f"{path}:{number}: the system message must come first.")
        found[role] = _content(path, number, role, message.get("content"))
    for role in ("user", "assistant"):
        if role not in found:
            raise InputError(f"{path}:{number}: the {role} message is missing.")
    return _Told(found.get("system"), found["user"], found["assistant"])


def _content(path: Path, number: int, role: str, content: object) -> str:
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        kinds = {part.get("type") if isinstance(part, dict) else None for part in content}
        if kinds != {"text"} or not all(isinstance(part, str) for part in parts):
            raise InputError(f"{path}:{number}: the {role} message has parts that are no text.")
        content = "".join(str(part) for part in parts)
    return text_field(path, number, content, f"content of the {role}")


def _by_field(path: Path, number: int, value: dict[str, Any], field: str, told: _Told) -> tuple[str, str]:
    if field not in value:
        known = ", ".join(key for key in value if key != "messages") or "none"
        raise InputError(f"{path}:{number}: field '{field}' is missing; beside messages: {known}.")
    positive = text_field(path, number, value[field], field)
    if _short(positive) != _short(told.answer):
        return positive, told.answer
    if isinstance(given := value.get("negative"), str) and field == "positive":
        return positive, given
    return positive, _other(path, number, _letter(path, number, positive))


def _matching(path: Path, number: int, value: dict[str, Any], first: _Told, line: int) -> str:
    second = _told(path, number, value)
    if (second.user, second.system) != (first.user, first.system):
        raise InputError(f"{path}:{number}: asks something else than line {line} of the first file.")
    if _short(second.answer) == _short(first.answer):
        raise InputError(f"{path}:{number}: gives the same answer as line {line} of the first file.")
    return second.answer


def _letter(path: Path, number: int, answer: str) -> str:
    found = letter(answer)
    if found is None:
        raise InputError(
            f"{path}:{number}: the answer {answer!r:.40} is no letter, so the other answer is not known; give it "
            "with --positive-field or in a second file (--other)."
        )
    return found


def _other(path: Path, number: int, own: str) -> str:
    other = other_letter(own)
    if other is None:
        raise InputError(f"{path}:{number}: the answer is '{own}'; pairs of letters are A/B and 1/2.")
    return other


def _short(answer: str) -> str:
    return letter(answer) or answer.strip()
