"""Runs under faults."""

from __future__ import annotations

import re
from collections.abc import Iterator

from scripts.evidence.line import REPORTS, Line


def chaos() -> Iterator[Line]:
    """The last campaign of faults, as ``make chaos`` wrote it."""
    text = (REPORTS / "chaos" / "campaign.txt").read_text("utf-8")
    for word in ("lost", "duplicated", "silent"):
        match = re.search(rf"^{word} (\d+)$", text, re.MULTILINE)
        count = int(match[1]) if match else -1
        yield Line(f"rows {word} in the campaign of faults", str(count), "0", count == 0)
    match = re.search(r"ended after at most ([\d.]+) s", text)
    longest = float(match[1]) if match else float("inf")
    yield Line("Ctrl-C at ten places, longest", f"{longest:.2f} s", "<= 2 s", longest <= 2)
