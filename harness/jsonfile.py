"""Read a JSON file that someone else wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.errors import InputError


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        InputError: the file can't be read, isn't JSON or holds something else than an object.

    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{path}: is not readable JSON ({e}).") from e
    if not isinstance(value, dict):
        raise InputError(f"{path}: a JSON object is needed.")
    return value
