"""The study's whole sweep on two CPU cores with the embedded model: both engines, both selectors, time and memory.

    python -m benchmarks.cpu_sweep [--out reports/benchmarks/cpu_sweep.json] [--null 99] [--limit-all 1]
    python -m benchmarks.cpu_sweep --only ENGINE SELECTOR       # that one again; the others stay

Each is one ``harness sweep`` in a process of its own, a server of its own beside it where one is asked. Memory is the
largest sum over the process and all that it started. At all tokens a pass is a whole prompt: those sweeps may be
measured on a tenth of the items (the first of each suite's ten) and are then scaled, which the table says. Each
says of which state of the code it is.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from harness.manifest import git_state, versions
from harness.results import write_json

OUT = Path("reports/benchmarks/cpu_sweep.json")
VECTOR, ITEMS = "safe_vec_l22", 10
ENGINES, SELECTORS = ("in-process", "server"), ("last", "all")
KEYS = ["suite", "item", "layer", "alpha"]


def tree_memory(process: psutil.Process) -> int:
    """Return the resident bytes of a process and all below it."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            total += each.memory_info().rss
        except psutil.Error:
            continue
    return total


def measure(engine: str, selector: str, limit: int | None, null: int, folder: Path) -> dict[str, Any]:
    """Run one sweep; returns what its results say, and the memory."""
    command = [sys.executable, "-m", "harness", "sweep", "--vector", VECTOR, "--engine", engine, "--json"]
    command += ["--selector", selector, "--null", str(null), "--output-dir", str(folder)]
    command += ["--limit", str(limit)] if limit else []
    load = os.getloadavg()[0]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        above = psutil.Process(process.pid)
        while not ended.wait(0.5):
            try:
                peak = max(peak, tree_memory(above))
            except psutil.Error:
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    begun = time.monotonic()
    said, _ = process.communicate()
    ended.set()
    watcher.join()
    if process.returncode != 0:
        raise RuntimeError(
            f"harness sweep --engine {engine} --selector {selector} ended with {process.returncode}"
        )
    found = json.loads(said)
    return {
        "engine": engine,
        "selector": selector,
        "limit": limit,
        "passes": found["passes"],
        "seconds": round(found["seconds"], 1),
        "whole_seconds": round(found["seconds"] * (ITEMS / limit if limit else 1), 1),
        "command_seconds": round(time.monotonic() - begun, 1),
        "null_vectors": null,
        "null_seconds": round(found["null_seconds"], 1) if null else None,
        "peak_memory_gb": round(peak / 1e9, 2),
        "load_before": round(load, 1),
        "layers": len(found["grid"]["layers"]),
        "strengths": len(found["grid"]["alphas"]),
        "git": git_state(),
    }


def scores(folder: Path) -> pd.Series:
    """Return a sweep's scores by item, layer and strength."""
    (file,) = folder.rglob("results.parquet")
    return pd.read_parquet(file).set_index(KEYS)["score"]


def apart(one: pd.Series, other: pd.Series) -> float:
    """Return the largest difference over the passes that both have, nats."""
    both = one.index.intersection(other.index)
    assert len(both) == min(len(one), len(other))
    return float((one.loc[both] - other.loc[both]).abs().max())


def table(found: dict[str, Any]) -> str:
    """Return it as Markdown."""

    def row(s: dict[str, Any]) -> str:
        null = f"{s['null_seconds'] / 60:.1f} min for {s['null_vectors']}" if s["null_vectors"] else "–"
        whole = f"{s['whole_seconds'] / 60:.1f} min{' (scaled)' if s['limit'] else ''}"
        return (
            f"| {s['engine']} | {s['selector']} | {s['passes']:,} | {s['seconds']:.0f} s | {whole} "
            f"| {s['peak_memory_gb']:.1f} GB | {null} |"
        )

    rows = [row(swept) for swept in found["sweeps"]]
    first = found["sweeps"][0]
    agreed = "; ".join(f"{selector}: {nats:.1e} nats" for selector, nats in found["apart"].items())
    return "\n".join(
        [
            "# The whole sweep on CPU cores, the embedded model",
            "",
            f"{found['machine']}. {VECTOR} at {first['layers']} layers and {first['strengths']} strengths, four suites "
            "of ten items. Written by `python -m benchmarks.cpu_sweep`. Memory is that of the process and its server. "
            "*Scaled*: measured on the first item of each suite, times ten.",
            "",
            "| engine | tokens steered | passes measured | took | whole grid | peak memory | null of random vectors |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
            f"Largest difference between the two engines, over all passes that both have: {agreed}.",
            "",
        ]
    )


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    """Measure each engine with each selector; what is measured is written as it comes."""
    sweeps: list[dict[str, Any]] = []
    differ: dict[str, float] = {}
    machine = f"{platform.system()} {platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    found = {
        "schema_version": 2, "machine": machine, "versions": versions(), "sweeps": sweeps,
        "apart": differ,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        for selector in options.selector or SELECTORS:
            limit = options.limit_all if selector == "all" else options.limit_last
            for engine in ENGINES:
                null = options.null if (engine, selector) == ("in-process", "last") else 0
                sweeps.append(measure(engine, selector, limit, null, Path(place) / f"{engine}-{selector}"))
                print(json.dumps(sweeps[-1]), flush=True)
                write_json(options.out, found)
            one, other = (scores(Path(place) / f"{engine}-{selector}") for engine in ENGINES)
            differ[selector] = apart(one, other)
    return found


def main() -> None:
    """Measure all four, or one of them again, and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--null", type=int, default=99, help="random vectors, in process at the last token")
    parser.add_argument("--selector", action="append", choices=SELECTORS, help="only this; repeatable")
    parser.add_argument("--limit-all", type=int, help="items a suite of the sweeps at all tokens")
    parser.add_argument("--limit-last", type=int, help="the same at the last token (a rehearsal)")
    parser.add_argument("--only", nargs=2, metavar=("ENGINE", "SELECTOR"), help="measure this one again")
    options = parser.parse_args()
    if options.only:
        found = json.loads(options.out.read_text("utf-8"))
        engine, selector = options.only
        (place,) = (n for n, s in enumerate(found["sweeps"]) if [s["engine"], s["selector"]] == options.only)
        with tempfile.TemporaryDirectory() as folder:
            limit = found["sweeps"][place]["limit"]
            null = options.null if found["sweeps"][place]["null_vectors"] else 0
            found["sweeps"][place] = measure(engine, selector, limit, null, Path(folder) / "sweep")
    else:
        found = measure_all(options)
    write_json(options.out, found)
    options.out.with_suffix(".md").write_text(table(found), "utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
