"""Steering on a GPU host, from what ``python -m benchmarks.gpu_steering`` wrote there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from benchmarks.gpu_steering.places import NEIGHBOURS
from benchmarks.gpu_steering.report import RESULTS, goal, median_ratio, ratios
from scripts.evidence.line import Line


def gpu_steering() -> Iterator[Line]:
    """Exactness beside the plain server's noise floor, stale graphs, and every setting that has a goal."""
    found: dict[str, Any] = json.loads(RESULTS.read_text("utf-8"))
    idle = found["idle_plugin"]
    unsteered = [idle["plain against the reference"], idle["idle against the reference"]]
    unsteered += [found[f"exact_{kind}"]["cold"]["plain"] for kind in ("plugin", "lora")]
    largest, median = (max(row[key] for row in unsteered) for key in ("max", "median"))
    again = idle["plain against plain"]["max"]
    for kind, name in (("plugin", "steered"), ("lora", "LoRA, vector and both")):
        row = found[f"exact_{kind}"]["cold"]["all steered"]
        yield Line(
            f"{row['requests']} {name} requests in a mixed batch against the reference, bfloat16",
            f"{row['max']:.3f}, median {row['median']:.3f} nats",
            f"<= unsteered requests' {largest:.3f} + {again:.3f}, by which a plain server differs from itself; "
            f"median <= theirs, {median:.3f}",
            row["max"] <= largest + again and row["median"] <= median,
            gpu=True,
        )
        row = found[f"exact_{kind}"][NEIGHBOURS]
        yield Line(
            f"{NEIGHBOURS} ({kind} server)",
            f"{row['equal']} of {row['requests']} equal bit for bit",
            "all, or as far apart as a plain server's own answers",
            row["max"] <= again,
            gpu=True,
        )
    before, after = (
        found["exact_plugin"][f"mlp_out, reference hooked {w} the norm"]["max"] for w in ("before", "after")
    )
    yield Line(
        "mlp_out is before Gemma's post-feedforward norm: reference hooked there, and after it",
        f"{before:.3f} and {after:.3f} nats",
        "the first at most a fifth",
        before <= after / 5,
        gpu=True,
    )
    stale = found["stale"]
    rebuilt = all(stale[t]["graphs_loaded"] == 0 for t in ("plugin", "layout", "version"))
    yield Line(
        "a plain server's compiled graph under the plugin, its other layout and version",
        "rebuilt" if rebuilt else "loaded",
        "rebuilt; the control without a mark loads it",
        rebuilt and stale["unstamped"]["graphs_loaded"] == 1,
        gpu=True,
    )
    for kind, label, rounds in ratios(found):
        wanted, ratio = goal(kind, label), median_ratio(rounds)
        if wanted is not None:
            claim = f"speed against a plain server: {label} ({len(rounds)} rounds)"
            yield Line(claim, f"{ratio:.3f}", f">= {wanted}", ratio >= wanted, gpu=True)
