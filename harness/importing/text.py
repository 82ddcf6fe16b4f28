"""The text of a file and its lines, whatever editor saved it."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.jsonl import parse_object

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(path: Path, encoding: str | None = None) -> tuple[str, str]:
    """Return a file's text and its encoding: as given, else by its byte order mark, else UTF-8.

    Raises:
        InputError: it can't be read, is empty, or isn't in that encoding, with the line.

    """
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: can't be read ({e.strerror}).") from e
    mark, found = next(((m, name) for m, name in _MARKS if raw.startswith(m)), (b"", "utf-8"))
    try:
        name = codecs.lookup(encoding).name if encoding else found
    except LookupError as e:
        raise InputError(f"--encoding '{encoding}' is not known; for instance utf-8, cp1252, utf-16.") from e
    body = raw[len(mark) :] if name == found else raw
    try:
        text = body.decode(name)
    except UnicodeDecodeError as e:
        line = body.count(b"\n", 0, e.start) + 1
        hint = "" if encoding else " If you know how it was saved, say so: --encoding cp1252."
        raise InputError(f"{path}:{line}: byte {e.object[e.start]:#04x} is not {name.upper()}.{hint}") from e
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError(
            f"{path}:{line}: holds a NUL character: a binary file, or UTF-16 without its mark (--encoding utf-16-le)."
        )
    if not text.strip():
        raise InputError(f"{path}: is empty; it needs at least one question.")
    return text, name


def objects(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ``(line number, JSON object)`` for each line that isn't blank; LF, CRLF and CR end a line.

    Raises:
        InputError: naming the line that is no object.

    """
    if text.lstrip().startswith("["):
        raise InputError(f"{path}:1: is one JSON array; JSON Lines are needed, one object a line.")
    for number, line in enumerate(re.split(r"\r\n|\n|\r", text), 1):
        if line.strip():
            value = parse_object(path, number, line)
            refuse_surrogates(path, number, value)
            yield number, value


def refuse_surrogates(path: Path, number: int, value: object) -> None:
    r"""Refuse half characters (``"\ud800"``): no file and no tokenizer takes them.

    Raises:
        InputError: naming the line.

    """
    if isinstance(value, str):
        if _SURROGATE.search(value) or "\0" in value:
            raise InputError(f"{path}:{number}: holds half a surrogate pair or a NUL character.")
    elif isinstance(value, dict):
        for key, part in value.items():
            refuse_surrogates(path, number, key)
            refuse_surrogates(path, number, part)
    elif isinstance(value, list):
        for part in value:
            refuse_surrogates(path, number, part)


def text_field(path: Path, number: int, value: object, name: str) -> str:
    """Return a field's text, which must not be blank.

    Raises:
        InputError: naming the line.

    """
    if value is None:
        raise InputError(f"{path}:{number}: field '{name}' is missing.")
    if not isinstance(value, str):
        raise InputError(f"{path}:{number}: field '{name}' is {value!r:.60}; a text is needed.")
    if not value.strip():
        raise InputError(f"{path}:{number}: field '{name}' is blank.")
    return value
