"""The built wheel and a stranger's path: what ``make package`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator

from harness.artifacts import SHIPPED_LIMIT
from scripts.check_package import complaints
from scripts.evidence.line import REPORTS, Line
from scripts.stranger import AT_MOST


def packaging() -> Iterator[Line]:
    """The last `make package`, with the commit it was made at."""
    found = json.loads((REPORTS / "package.json").read_text("utf-8"))
    size, most = found["wheel_bytes"], SHIPPED_LIMIT
    yield Line(
        "wheel with suites and adapters inside",
        f"{size / 1e6:.1f} MB",
        f"<= {most / 1e6:g} MB, the artifacts' limit",
        size <= most,
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
