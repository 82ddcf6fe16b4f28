"""The built wheel and a stranger's path: what ``make package`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator

from scripts.check_package import complaints
from scripts.evidence.line import REPORTS, Line
from scripts.stranger import AT_MOST

MOST_MB = 10.0


def packaging() -> Iterator[Line]:
    """The last `make package`, with the commit it was made at."""
    found = json.loads((REPORTS / "package.json").read_text("utf-8"))
    size = found["wheel_bytes"] / 1e6
    yield Line(
        "wheel with suites and adapters inside", f"{size:.1f} MB", f"<= {MOST_MB:g} MB", size <= MOST_MB
    )
    wrong = complaints(found)
    yield Line(
        f"complaints about the wheel in empty environments (at {found['commit'][:7]})",
        "; ".join(wrong) or "0",
        "0",
        not wrong,
    )
    steps = found["stranger"]
    done = sum(step["exit_code"] == 0 for step in steps)
    minutes = sum(step["seconds"] for step in steps) / 60
    yield Line(
        f"a stranger's commands from JSONL to a report ({minutes:.0f} min, load {found['load']:g})",
        f"{done} of {len(steps)} done",
        f"<= {AT_MOST}",
        done == len(steps) <= AT_MOST,
    )
