"""Read JSONL and YAML into pydantic models, with errors that name file, line and what would be valid."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from harness.errors import InputError

M = TypeVar("M", bound=BaseModel)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """Turn pydantic's first complaint into a sentence; unknown keys get their near matches."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"field '{where}' is missing"
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        known = sorted(model.model_fields)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'?" if near else f"known fields: {', '.join(known)}"
        return f"unknown field '{where}'; {hint}"
    message = first["msg"].removeprefix("Value error, ")
    if not where:
        return message
    return f"field '{where}' is {first['input']!r:.80}: {message}"


def validated(model: type[M], values: Any, where: str = "") -> M:
    """Return values as a model.

    Raises:
        InputError: they don't fit it; ``where`` they come from (a file, a line) stands before what is wrong.

    """
    try:
        return model.model_validate(values)
    except ValidationError as e:
        raise InputError(f"{where}{explain(e, model)}.") from e


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"key {sorted(twice)[0]!r} stands twice")
    return dict(pairs)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def parse_object(path: Path, number: int, line: str) -> dict[str, Any]:
    """Read one line's JSON object; no key may stand twice.

    Raises:
        InputError: naming the line.

    """
    try:
        value = json.loads(line, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}:{number}: not a JSON object ({e}).") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}:{number}: a JSON object is needed, not a {type(value).__name__}.")
    return value


def read_jsonl(path: Path, model: type[M]) -> Iterator[tuple[int, M]]:
    """Yield ``(line number, object)`` for each line of a UTF-8 JSONL file.

    Raises:
        InputError: the file can't be read, is empty, isn't UTF-8, or a line isn't a valid object.

    """
    try:
        raw = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path}: can't be read ({e.strerror}).") from e
    if raw.startswith(b"\xef\xbb\xbf"):
        raise InputError(f"{path}:1: starts with a byte order mark; save it as plain UTF-8.")
    if not raw.strip():
        raise InputError(f"{path}: is empty; it needs at least one JSON object, one a line.")
    for number, line in enumerate(raw.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            value = parse_object(path, number, line.decode("utf-8"))
        except UnicodeDecodeError as e:
            raise InputError(f"{path}:{number}: byte {e.start} is not UTF-8.") from e
        yield number, validated(model, value, f"{path}:{number}: ")


def read_mapping(path: Path) -> dict[str, Any]:
    """Read one YAML document that is a mapping.

    Raises:
        InputError: the file can't be read, isn't UTF-8 or YAML, or isn't a mapping.

    """
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except OSError as e:
        raise InputError(f"{path}: can't be read ({e.strerror}).") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}: byte {e.start} is not UTF-8.") from e
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        mark = getattr(e, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(e, 'problem', None) or e}).") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: a mapping of keys to values is needed.")
    return value


def read_yaml(path: Path, model: type[M]) -> M:
    """Read one YAML document into a model.

    Raises:
        InputError: as :func:`read_mapping`, or it doesn't fit the model.

    """
    return validated(model, read_mapping(path), f"{path}: ")
