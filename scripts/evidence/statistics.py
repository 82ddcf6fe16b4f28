"""The statistics on data whose truth is known."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripts.evidence.line import REPORTS, Line


def statistics() -> Iterator[Line]:
    """Coverage, levels and bias, as ``benchmarks/statistics_truth.py`` wrote them."""
    path = REPORTS / "benchmarks" / "statistics.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    cells, count = found["cells"], found["simulations"]
    claimed = [r for r in cells["intervals"] if r["data"] != "sparse"]
    coverage = [r["coverage"] for r in claimed]
    yield Line(
        f"t interval over stems covers, {len(claimed)} cells of {count:,} simulations, normal and t3",
        f"{min(coverage):.1%} to {max(coverage):.1%}",
        "93% to 98%",
        min(coverage) >= 0.93 and max(coverage) <= 0.98,
    )
    sparse = [r["coverage"] for r in cells["intervals"] if r["data"] == "sparse"]
    yield Line(
        "the same, one stem in ten carries it", f"{min(sparse):.0%} to {max(sparse):.0%}", "reported", True
    )
    levels = [r["flip_level"] for r in claimed if r["flip_level"] is not None]
    yield Line(
        "sign flips reject at 0.05", f"{min(levels):.1%} to {max(levels):.1%}", "4% to 6%",
        min(levels) >= 0.04 and max(levels) <= 0.06,
    )  # fmt: skip
    families = [r["level"] for r in cells["families"]]
    yield Line(
        f"max statistic over {cells['families'][0]['cells']} cells: family-wise level at 0.05",
        f"{min(families):.1%} to {max(families):.1%}",
        "<= 6%",
        max(families) <= 0.06,
    )
    off = max(abs(r["bias"]) / r["standard_error"] for r in cells["choices"])
    naive = min(r["naive_bias"] for r in cells["choices"])
    yield Line(
        f"held-out choice: largest bias of {len(cells['choices'])} cells (naive maximum's: {naive:.2f} or more)",
        f"{off:.1f} standard errors",
        "<= 3.5",
        off <= 3.5,
    )
