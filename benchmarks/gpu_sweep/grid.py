"""What is asked: prompts, cells, tokens; and how a measurement is kept."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu_steering.cases import random_prompt
from benchmarks.gpu_steering.places import WORK, changing, shape

PROMPTS, LENGTH = 40, 96
ALPHAS = [sign * 0.001 * 2**k for sign in (-1, 1) for k in range(12)]
WANTED = [1000, 2000]
VECTOR = "v0"
BOS = 2
Cells = list[tuple[int, float]]
"""Layer, α."""
Scores = dict[tuple[int, int, float], float]
"""By prompt, layer and α: how much more likely the first wanted token is than the second, nats."""


def prompts() -> list[list[int]]:
    """Return the sweep's prompts: random tokens after a BOS."""
    rng = random.Random(11)
    return [random_prompt(rng, LENGTH) for _ in range(PROMPTS)]


def cells(part: float = 1.0) -> Cells:
    """Return layers × strengths, or a seeded part of each layer's; all prompts go through each cell."""
    rng = random.Random(5)
    each = part * len(ALPHAS)
    found: Cells = []
    for layer in range(shape()["num_hidden_layers"]):
        count = round((layer + 1) * each) - round(layer * each)
        found += [(layer, alpha) for alpha in sorted(rng.sample(ALPHAS, count))]
    return found


def wanted() -> list[int]:
    """Return the two tokens whose log-probabilities are compared."""
    return [token % shape()["vocab_size"] for token in WANTED]


def keep(
    selector: str,
    name: str,
    passes: int,
    seconds: float,
    scores: Scores,
    fixed: float = 0.0,
    memory: float = 0.0,
    api: float = 0.0,
    turns: Sequence[float] = (),
) -> None:
    """Record a measurement, scaled to the whole sweep, and hold its scores against everybody's.

    Args:
        selector: last or all.
        name: the contender.
        passes: how many it made.
        seconds: what they took.
        scores: what came out; empty where nothing is to be compared.
        fixed: of these seconds, what the whole sweep needs but once.
        memory: peak bytes on the device; 0 where unknown.
        api: CPU seconds of the server's API process; 0 where there is none.
        turns: seconds of each turn over HTTP; several where it was measured by turns with another.

    """
    whole = PROMPTS * len(cells())
    line: dict[str, Any] = {
        "seconds": seconds,
        "passes": passes,
        "whole_passes": whole,
        "whole_seconds": fixed + (seconds - fixed) * whole / passes,
        "scaled": passes != whole,
        "peak_memory_bytes": memory,
        "api_seconds": api,
        "turns": list(turns),
        "agreement": {},
    }
    said = ""
    if scores:
        line["spread"] = statistics.pstdev(scores.values())
        for path in sorted(WORK.glob(f"sweep-{selector}-*.json")):
            other = {(i, layer, alpha): value for (i, layer, alpha), value in json.loads(path.read_text())}
            gaps = sorted(abs(scores[key] - other[key]) for key in scores.keys() & other.keys())
            if gaps:
                what = path.stem.split("-", 2)[2].replace("_", " ")
                found = {"max": gaps[-1], "median": gaps[len(gaps) // 2], "passes": len(gaps)}
                line["agreement"][what] = found
                said += f"; {what}: {found['max']:.2g} at most, {found['median']:.2g} median"
        mine = WORK / f"sweep-{selector}-{name.replace(' ', '_')}.json"
        mine.write_text(json.dumps([[list(key), value] for key, value in scores.items()]))
    with changing() as results:
        results.setdefault(f"sweep_{selector}", {}).setdefault(name, []).append(line)
    mark = " (scaled)" if line["scaled"] else ""
    mark += f", {api:.2f} s of the API process" if api else ""
    print(f"{selector} {name}: {line['whole_seconds']:.2f} s{mark}, {passes} passes{said}", flush=True)
