"""Sweeps: of the embedded model on two cores, at Gemma 3 12B's shape on a GPU, and many adapters in one comparison."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu_sweep.report import RESULTS, claims
from scripts.evidence.line import REPORTS, Line

ADAPTERS = REPORTS / "benchmarks" / "compare_adapters.json"
CPU = REPORTS / "benchmarks" / "cpu_sweep.json"
GIB = 2**30


def sweep() -> Iterator[Line]:
    """What committed sweeps and benchmarks wrote."""
    for path in sorted(REPORTS.glob("sweep/*/results.json")):
        device = _read(path.with_name("manifest.json"))["engine"].get("device", "cpu")
        yield from _swept(_read(path), gpu=device != "cpu")
    if CPU.is_file():
        yield from _on_two_cores(_read(CPU))
    if RESULTS.is_file():
        for claim in claims(_read(RESULTS)):
            bound = f"{'>=' if claim.at_least else '<='} {claim.bound:g}"
            bound = f"reported (stretch: {bound})" if claim.stretch else bound
            figure = f"{claim.figure:.3g} {claim.unit}"
            yield Line(claim.text, figure, bound, claim.holds or claim.stretch, gpu=True)
    if ADAPTERS.is_file():
        yield from _compared(_read(ADAPTERS))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def _swept(found: dict[str, Any], gpu: bool) -> Iterator[Line]:
    grid = found["grid"]
    name = f"{found['vector']['name']}, {found['engine']}, {grid['selector']}"
    whole = found["scored_now"] == found["passes"]
    yield Line(
        f"{name}: {len(grid['layers'])} layers x {len(grid['alphas'])} strengths, {found['passes']:,} passes",
        f"{found['seconds']:.0f} s, of them {found['cpu_seconds']:.0f} s of CPU" if whole else "gone on with",
        "reported",
        True,
        gpu,
    )
    yield Line(
        f"{name}: peak memory", f"{found['peak_memory_bytes'] / GIB:.1f} GiB", "<= 8 GiB",
        found["peak_memory_bytes"] <= 8 * GIB, gpu,
    )  # fmt: skip
    nulls = found.get("null", [])
    if nulls:
        count, shuffled = (nulls[0][f"{kind}_vectors"] for kind in ("random", "shuffled"))
        scored = found["null_scored_now"]
        each = f", {found['null_cpu_seconds'] / scored:.1f} s of CPU each" if scored else ""
        whole = scored == count + shuffled
        yield Line(
            f"{name}: null of {count} random vectors and {shuffled} on shuffled labels",
            f"{found['null_seconds'] / 60:.0f} min{each}" if whole else "gone on with",
            "reported",
            True,
            gpu,
        )


def _on_two_cores(found: dict[str, Any]) -> Iterator[Line]:
    for swept in found["sweeps"]:
        name = f"the whole grid on two cores, {swept['engine']}, {swept['selector']}"
        scaled = ", scaled from a tenth" if swept["limit"] else ""
        yield Line(
            f"{name}: time, peak memory with the server's",
            f"{swept['whole_seconds'] / 60:.1f} min{scaled}, {swept['peak_memory_gb']:.1f} GB",
            "reported",
            True,
        )
        if swept["null_vectors"]:
            yield Line(
                f"{name}: null of {swept['null_vectors']} random vectors",
                f"{swept['null_seconds'] / 60:.1f} min",
                "reported",
                True,
            )
    for selector, nats in found["apart"].items():
        yield Line(
            f"both engines, {selector}: largest difference", f"{nats:.1e} nats", "<= 1e-3", nats <= 1e-3
        )


def _compared(found: dict[str, Any]) -> Iterator[Line]:
    counts = found["counts"]
    one, most = counts[0], counts[-1]
    for row in counts:
        seconds = row["load_and_prove_seconds"] + row["score_seconds"] + row["rank_seconds"]
        yield Line(
            f"one comparison of {row['adapters']} single-layer adapters, {row['passes']} passes",
            f"{seconds:.0f} s, {row['passes_per_second']:.1f} passes/s",
            "reported",
            True,
        )
    ratio = most["passes_per_second"] / one["passes_per_second"]
    yield Line(f"rate with {most['adapters']} adapters beside one", f"{ratio:.2f}", ">= 0.8", ratio >= 0.8)
