"""The reproduction: undisturbed and killed (``make reproduce-killed``), and on Gemma 3 12B's shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from scripts.evidence.line import REPORTS, Line

FILE = REPORTS / "reproduce" / "killed.json"
FULL_SHAPE = REPORTS / "benchmarks" / "gpu_reproduction.json"
SAME_RUN = 1e-4
"""Nats by which the same run done twice may differ: a server forms other batches each time."""


def reproduce() -> Iterator[Line]:
    """Time, kills, the same numbers and the same conclusions; the steps done on the full shape."""
    steps = [s for s in json.loads(FULL_SHAPE.read_text("utf-8"))["steps"] if s["name"] != "report"]
    left = [step["name"] for step in steps if step["status"] != "done"]
    yield Line(
        "reproduce on Gemma 3 12B's shape, random weights: steps done, one GPU",
        f"{len(steps) - len(left)}" + (f", not {' and '.join(left)}" if left else ""),
        f"{len(steps)}",
        not left,
        gpu=True,
    )
    if not FILE.is_file():
        yield Line(
            "the reproduction, undisturbed and killed", "not measured: make reproduce-killed", "there", False
        )
        return
    found: dict[str, Any] = json.loads(FILE.read_text("utf-8"))
    name = f"reproduce --preset {found['preset']}, {found['cores']} cores"
    minutes = found["undisturbed_seconds"] / 60
    yield Line(f"{name}, undisturbed", f"{minutes:.1f} min", "< 60 min", minutes < 60)
    fell = [kill for kill in found["kills"] if not kill["ended"]]
    places = ", ".join(str(kill["step"]) for kill in fell)
    yield Line(f"{name}: kills with -9 at random points", f"{len(fell)} ({places})", ">= 2", len(fell) >= 2)
    largest, floor = found["largest_difference"], found["noise_floor"]
    bound = max(floor, SAME_RUN)
    yield Line(
        f"{name}, killed and resumed: largest difference, {found['rows']} rows",
        f"{largest:.1e} nats",
        f"<= {bound:.0e}: the larger of the noise floor, {floor:.0e}, and {SAME_RUN:.0e} as for the same run twice, "
        "since a resumed run's batches differ and the floor is of a few prompts asked again",
        largest <= bound,
    )
    apart, claims = len(found["claims_apart"]), found["claims"]
    yield Line(f"{name}: sentences of the report that say otherwise", f"{apart} of {claims}", "0", apart == 0)
