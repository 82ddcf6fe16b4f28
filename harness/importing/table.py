"""CSV with the columns ``Question``, ``Type``, ``RiskyAnswer`` and ``SafeAnswer``, as spreadsheets save it."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from harness.errors import InputError
from harness.evalset import Item
from harness.importing.question import Question
from harness.importing.text import text_field

COLUMNS: Final = ("Question", "Type", "RiskyAnswer", "SafeAnswer")
_DELIMITERS: Final = (",", ";", "\t")
csv.field_size_limit(1 << 24)


def read(path: Path, text: str) -> tuple[list[Question], list[str]]:
    """Return the questions of a table and the columns that were left out; ``Type`` may be missing.

    Commas, semicolons or tabs may separate, as the header shows. A field with line breaks or the separator in it
    is in double quotes, a double quote in one is doubled.

    Raises:
        InputError: naming file and line.

    """
    first = next(line for line in re.split(r"\r\n|\n|\r", text) if line.strip())
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    questions: list[Question] = []
    start = 1
    try:
        for row in reader:
            number, start = start, reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = _header(path, number, row)
                continue
            if len(row) != len(header):
                raise InputError(
                    f"{path}:{number}: has {len(row)} fields, the header has {len(header)}; a field with "
                    f"{delimiter!r} in it must be in double quotes."
                )
            cells = dict(zip(header, row, strict=True))
            fields = {name: text_field(path, number, cells[name], name) for name in COLUMNS if name != "Type"}
            questions.append(
                Question(
                    number,
                    fields["Question"],
                    (fields["RiskyAnswer"],),
                    (fields["SafeAnswer"],),
                    kind=cells.get("Type", "").strip(),
                )
            )
    except csv.Error as e:
        raise InputError(f"{path}:{start}: not readable as CSV, in the row that begins here ({e}).") from e
    if not questions:
        raise InputError(f"{path}: holds a header and no question.")
    return questions, [name for name in header if name not in COLUMNS]


def write(items: Iterable[Item]) -> str:
    """Return a table of items; what else an item says (system prompt, prefill, further forms) has no column.

    Raises:
        InputError: an item that a row can't hold.

    """
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for item in items:
        if item.system or len(item.positive) > 1 or len(item.negative) > 1:
            raise InputError(
                f"item '{item.id}' has a system prompt or several forms of an answer; a row can't hold "
                "that. Use --format items."
            )
        kind = item.stem.rpartition("-")[0]
        writer.writerow((item.question, kind, item.positive[0], item.negative[0]))
    return out.getvalue()


def _header(path: Path, number: int, row: list[str]) -> list[str]:
    canonical = {name.lower(): name for name in COLUMNS}
    header = [canonical.get(cell.strip().lower(), cell.strip()) for cell in row]
    for name in COLUMNS:
        if header.count(name) > 1:
            raise InputError(f"{path}:{number}: the column '{name}' stands twice.")
        if name not in header and name != "Type":
            near = difflib.get_close_matches(name, header, n=1, cutoff=0.5)
            hint = f"; did you mean it by '{near[0]}'?" if near else ""
            raise InputError(
                f"{path}:{number}: the column '{name}' is missing{hint} Needed: {', '.join(COLUMNS)}; found: "
                f"{', '.join(header)[:200]}."
            )
    return header
