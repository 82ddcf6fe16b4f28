"""Other people's tools on our server, and results in their formats: what ``make interop`` and a benchmark wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator

from scripts.evidence.line import REPORTS, Line


def interop() -> Iterator[Line]:
    """Items equal by tool, what is not seen, and how long a large run's export takes."""
    found = json.loads((REPORTS / "interop" / "interop.json").read_text("utf-8"))
    stems = f", first {found['stems']} stems" if found["stems"] else ""
    for row in found["rows"]:
        largest = float("inf") if row["largest"] is None else row["largest"]
        yield Line(
            f"{row['tool']}: items that equal ours, of {found['items']} ({', '.join(found['suites'])}{stems})",
            f"{row['equal']}, {row['different']} other, {sum(row['not_seen'].values())} unseen",
            f"0 other (> {found['limit_nats']:g} nats)",
            row["different"] == 0 and largest <= found["limit_nats"],
        )
    for line in found["readers"]:
        yield Line(f"exports read by {line['reader']}", line["read"], "nothing wrong", not line["wrong"])
    for line in found["retrained"]:
        ok = bool(line["as_it_should"])
        yield Line(
            f"retrained adapter through lm-eval's cache as {line['model']}", line["fresh"], "known or yes", ok
        )
    timed = json.loads((REPORTS / "benchmarks" / "export_results.json").read_text("utf-8"))
    seconds = timed["seconds"]["inspect"]["wall"]
    yield Line(
        f"{timed['rows']:,} rows to Inspect's logs (load {timed['load']:g})",
        f"{seconds:.1f} s",
        "< 60 s",
        seconds < 60,
    )
