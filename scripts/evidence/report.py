"""The report's page and a comparison of many adapters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripts.evidence.line import REPORTS, Line, harness


def report() -> Iterator[Line]:
    """The committed page as it lies there; a run ranked and held against another one now."""
    page = REPORTS / "smollm2-135m" / "report.html"
    size = page.stat().st_size
    yield Line("reference report, one HTML file", f"{size / 1e6:.1f} MB", "< 8 MB", size < 8_000_000)
    figures = page.parent / "figures"
    svg, png = ({p.stem for p in figures.glob(f"*.{kind}")} for kind in ("svg", "png"))
    yield Line(
        "its figures as SVG and PNG", f"{len(svg)} and {len(png)}", "the same", svg == png and len(svg) > 0
    )
    runs = REPORTS / "adapters" / "runs"
    told, seconds = harness("compare", "--run", str(runs / "l22"), "--json")
    rankings: list[dict[str, Any]] = json.loads(told)["comparison"]["rankings"]
    awareness = next(r for r in rankings if r["suite"] == "awareness")
    clear = [
        e["subject"] for e in awareness["ranked"] if e["low"] is not None and (e["low"] > 0 or e["high"] < 0)
    ]
    yield Line(
        f"{len(awareness['ranked'])} adapters ranked together on awareness: moved beyond chance",
        f"{', '.join(clear) or 'none'} ({seconds:.0f} s)",
        "reported",
        True,
    )
