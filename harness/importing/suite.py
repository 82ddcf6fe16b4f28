"""An imported suite: read from a file, described, and written as a folder whose card waits to be filled in."""

from __future__ import annotations

import hashlib
import json
import shlex
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from harness.choices import NAMED_PREFILL
from harness.choices import Format as OptionFormat
from harness.errors import InputError, RunError, unknown
from harness.evalset import Card, EvalSet, Item, Template, load_suite
from harness.importing import chat, own, table, written
from harness.importing.items import Way, make_items
from harness.importing.text import objects, read_text

Format = Literal["chat", "csv", "written", "items", "choices"]
FORMATS: Final = {
    "chat": "OpenAI chat JSON Lines",
    "csv": "CSV with Question, Type, RiskyAnswer, SafeAnswer",
    "written": "Anthropic's model-written evals",
    "items": "our items, one a line",
    "choices": "our choices, one a line",
}
TO_FILL: Final = "TO BE FILLED IN"
SPLITS: Final = {"train": 0.7, "development": 0.1, "test": 0.2}
_POLES: Final = {
    "csv": ("risky", "safe"),
    "written": ("matches the behaviour", "does not match the behaviour"),
    "choices": ("the riskier option", "the safer option"),
}


@dataclass(frozen=True)
class Wanted:
    """How a file is to be read and asked; what is None is left to the format."""

    format: str | None = None
    encoding: str | None = None
    answers: str | None = None
    positive_field: str | None = None
    other: Path | None = None
    template: str | None = None
    suffix: str | None = None
    prefill: str | None = None
    orders: str = "both"
    options: str = "named"
    """Of our choices: named or letter."""


@dataclass(frozen=True)
class Understood:
    """What a file holds."""

    path: Path
    format: Format
    encoding: str
    way: Way
    items: tuple[Item, ...]
    left_out: tuple[str, ...]
    """Fields or columns that say nothing here."""
    notes: tuple[str, ...]

    @property
    def stems(self) -> tuple[str, ...]:
        """The questions, in order of first appearance."""
        return tuple(dict.fromkeys(item.stem for item in self.items))


def read_file(path: Path, wanted: Wanted) -> Understood:
    """Read another tool's file of questions.

    Raises:
        InputError: naming file and line, or the flag that is missing or out of place.

    """
    text, encoding = read_text(path, wanted.encoding)
    kind = _format(path, text, wanted.format)
    _check_flags(kind, wanted)
    way = _way(kind, wanted)
    left_out: set[str] = set()
    notes: list[str] = []
    if kind in ("items", "choices"):
        how: OptionFormat = "letter" if wanted.options == "letter" else "named"
        read = own.read_items(path, text) if kind == "items" else own.read_choices(path, text, how)
        items = [item for _, item in read]
        left_out.update(own.UNUSED if kind == "choices" else ())
    else:
        if kind == "csv":
            questions, extra = table.read(path, text)
            left_out.update(extra)
        elif kind == "written":
            questions = list(written.read(path, text, left_out))
        else:
            questions = list(chat.read(path, text, _poles(wanted)))
        made = make_items(path, questions, way)
        items, notes = made.items, made.notes
    return Understood(path, kind, encoding, way, tuple(items), tuple(sorted(left_out)), tuple(notes))


def _format(path: Path, text: str, wanted: str | None) -> Format:
    if wanted is not None:
        if wanted not in FORMATS:
            raise unknown("format", wanted, FORMATS)
        return wanted  # type: ignore[return-value]
    if path.suffix.lower() in (".csv", ".tsv"):
        return "csv"
    number, first = next(objects(path, text))
    for key, kind in (
        ("messages", "chat"),
        (written.MATCHING, "written"),
        ("setup", "choices"),
        ("stem", "items"),
    ):
        if key in first:
            return kind  # type: ignore[return-value]
    raise InputError(
        f"{path}:{number}: has the fields {', '.join(first)[:120]}, of which no format is known. Formats: "
        + "; ".join(f"{name} ({what})" for name, what in FORMATS.items())
    )


def _check_flags(kind: Format, wanted: Wanted) -> None:
    given = [
        flag
        for flag, value in (
            ("--answers", wanted.answers),
            ("--positive-field", wanted.positive_field),
            ("--other", wanted.other),
        )
        if value is not None
    ]
    if kind == "chat" and len(given) != 1:
        raise InputError(
            "A chat file says one answer; say which pole it is by exactly one of --answers positive (or negative), "
            "--positive-field KEY, or --other FILE with the negative answers."
        )
    if kind != "chat" and given:
        raise InputError(
            f"{given[0]} is for chat files; this one is {FORMATS[kind]}, which says both answers."
        )
    for flag, value, valid in (
        ("--answers", wanted.answers, ("positive", "negative")),
        ("--template", wanted.template, ("raw", "chat")),
        ("--orders", wanted.orders, ("both", "as-given")),
        ("--options", wanted.options, ("named", "letter")),
    ):
        if value is not None and value not in valid:
            raise InputError(f"{flag} is '{value}'; valid: {', '.join(valid)}.")


def _way(kind: Format, wanted: Wanted) -> Way:
    usual: Template = "raw" if kind in ("csv", "items") else "chat"
    template: Template = "raw" if (wanted.template or usual) == "raw" else "chat"
    if template == "raw" and wanted.prefill:
        raise InputError("--prefill begins the assistant's turn: it needs --template chat. Use --suffix.")
    if template == "chat" and wanted.suffix:
        raise InputError("--suffix ends raw text: it needs --template raw. Use --prefill.")
    suffix = (
        wanted.suffix if wanted.suffix is not None else ("\n" if kind == "csv" and template == "raw" else "")
    )
    named = kind == "choices" and wanted.options == "named"
    prefill = wanted.prefill if wanted.prefill is not None else (NAMED_PREFILL if named else "")
    return Way(template, suffix, prefill, "as-given" if wanted.orders == "as-given" else "both")


def _poles(wanted: Wanted) -> chat.Poles:
    if wanted.other is not None:
        text, _ = read_text(wanted.other, wanted.encoding)
        return chat.Poles(other=tuple(objects(wanted.other, text)), other_path=wanted.other)
    if wanted.positive_field is not None:
        return chat.Poles(field=wanted.positive_field)
    return chat.Poles(answers="positive" if wanted.answers == "positive" else "negative")


def card_for(found: Understood, name: str, filled: dict[str, str], trained: bool) -> dict[str, Any]:
    """Return the values of a card; what nobody said yet asks to be filled in."""
    digest = hashlib.sha256(found.path.read_bytes()).hexdigest()
    poles = _POLES.get(found.format, (f"{TO_FILL}: what the positive answers stand for",
                                      f"{TO_FILL}: what the negative answers stand for"))  # fmt: skip
    values: dict[str, Any] = {
        "schema_version": 1,
        "name": name,
        "title": filled.get("title", f"{TO_FILL}: the suite in one line"),
        "measures": filled.get("measures", f"{TO_FILL}: what a model's answers to these questions measure"),
        "poles": {
            "positive": filled.get("positive", poles[0]),
            "negative": filled.get("negative", poles[1]),
        },
        "origin": f"Imported from {found.path.name} ({FORMATS[found.format]}), SHA-256 {digest[:16]}.",
        "license": filled.get("license", f"{TO_FILL}: the licence, for instance CC-BY-4.0"),
        "canary": f"harness-evalset-canary {uuid.uuid4()}",
        "limits": [f"{TO_FILL}: what a shift on this suite does not show"],
        "template": found.way.template,
        "items": "items.jsonl",
    }
    if found.way.suffix:
        values["suffix"] = found.way.suffix
    if found.way.prefill:
        values["prefill"] = found.way.prefill
    if trained:
        values["trained"] = True
    return values


def left_to_fill(card: Card) -> list[str]:
    """Name the card's fields that still wait to be filled in."""
    texts = {
        "title": card.title,
        "measures": card.measures,
        "poles.positive": card.poles.positive,
        "poles.negative": card.poles.negative,
        "license": card.license,
        "limits": " ".join(card.limits),
    }
    return [name for name, text in texts.items() if TO_FILL in text]


def write_suite(folder: Path, card: dict[str, Any], items: tuple[Item, ...]) -> EvalSet:
    """Write a suite's folder and load it again.

    Raises:
        InputError: the folder exists.
        RunError: it can't be written.

    """
    if folder.exists():
        raise InputError(f"{folder}: exists already; give another --name or --output-dir.")
    try:
        folder.mkdir(parents=True)
        text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110)
        (folder / "suite.yaml").write_text(text, "utf-8")
        lines = "".join(f"{line}\n" for line in own.write(items))
        (folder / "items.jsonl").write_text(lines, "utf-8", newline="\n")
    except OSError as e:
        raise RunError(f"{folder}: can't be written ({e.strerror}).") from e
    return load_suite(folder)


def split_stems(found: Understood, seed: int) -> Iterator[tuple[str, Understood]]:
    """Yield 70% of the questions for training, 10% for development and 20% for testing, all orders together.

    Raises:
        InputError: fewer than ten questions.

    """
    if len(found.stems) < 10:
        raise InputError(f"{found.path}: has {len(found.stems)} questions; a split needs at least 10.")
    first = {item.stem: item.question for item in reversed(found.items)}
    drawn = sorted(first, key=lambda stem: hashlib.sha256(f"{seed}:{first[stem]}".encode()).digest())
    ends = [round(len(drawn) * part) for part in (0.7, 0.8, 1.0)]
    for split, start, end in zip(SPLITS, (0, *ends), ends, strict=False):
        stems = set(drawn[start:end])
        yield split, replace(found, items=tuple(i for i in found.items if i.stem in stems))


def export_text(suite: EvalSet, kind: str) -> tuple[str, str | None]:
    """Return a suite's items as a file of another tool, and the flags that read it as it was asked.

    Raises:
        InputError: an unknown format, or an item that it can't hold.

    """
    writers = {"chat": chat.write, "written": written.write, "items": own.write}
    if kind != "csv" and kind not in writers:
        raise unknown("format", kind, [*writers, "csv"])
    if kind == "items":
        return _joined(own.write(suite.items)), None
    if kind == "chat":
        return _joined(chat.write(suite.items)), "--positive-field positive"
    ways = {
        (item.template, item.suffix or "", (item.prefill or "").removesuffix("(")) for item in suite.items
    }
    if len(ways) > 1:
        raise InputError(
            f"The items of '{suite.name}' are asked in {len(ways)} ways (template, suffix, prefill), which {kind} "
            "can't hold. Use --format items."
        )
    template, suffix, prefill = ways.pop()
    flags = [f"--template {template}"]
    flags += [f"--suffix {_quoted(suffix)}"] if template == "raw" else []
    flags += [f"--prefill {_quoted(prefill)}"] if prefill else []
    text = table.write(suite.items) if kind == "csv" else _joined(written.write(suite.items))
    return text, " ".join(flags)


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _quoted(text: str) -> str:
    """Quote for a shell, control characters included."""
    return f"$'{json.dumps(text)[1:-1]}'" if "\n" in text or "\t" in text else shlex.quote(text)
