"""Steering on a GPU host."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from typing import Any

from scripts.evidence.line import REPORTS, Line


def gpu_steering() -> Iterator[Line]:
    """Steering on a GPU host, as ``benchmarks/gpu_steering.py`` wrote it there."""
    path = REPORTS / "benchmarks" / "gpu_steering_h200_lanes1.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    exact = found["exact_lane"]
    steered, plain = exact["steered cold"]["max"], exact["plain cold"]["max"]
    yield Line(
        f"Gemma 3 12B shape, {exact['steered cold']['requests']} steered requests against the reference",
        f"{steered:.3f} nats",
        f"<= plain server's {plain:.3f}",
        steered <= plain,
        gpu=True,
    )
    goals = {"one layer": 0.97, "all layers": 0.96, "idle": 0.97}
    for case, rounds in found["speed_lane"].items():
        goal = next(g for words, g in goals.items() if words in case)
        if case.startswith("scoring") and "all layers" in case:
            goal = 0.95
        ratio = statistics.median(r["ratio"] for r in rounds)
        yield Line(
            f"speed against a plain server: {case}", f"{ratio:.3f}", f">= {goal}", ratio >= goal, gpu=True
        )
