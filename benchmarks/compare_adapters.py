#!/usr/bin/env python3
"""How the time of ``harness compare`` grows with the number of single-layer adapters on one server.

    python3 benchmarks/compare_adapters.py                    # 1, 8, 48 and 96 adapters on the embedded model

Adapters are random, rank 4, on one layer's MLP each, all layers in turn. The server is ours, started once for all;
each count is a fresh run without the answer cache on adapters that the server hasn't seen. Writes
``compare_adapters.json`` and ``.md`` into the output folder.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.adapters import adapter_folders, load_adapter  # noqa: E402
from harness.config import RunConfig  # noqa: E402
from harness.experiments.compare import expand, rank  # noqa: E402
from harness.modelinfo import ModelInfo, read_config  # noqa: E402
from harness.models import DEFAULT_MODEL, prepare  # noqa: E402
from harness.results import load_run  # noqa: E402
from harness.runner import run  # noqa: E402
from servers import launch  # noqa: E402
from tests.adapters_made import lora_tensors, write_lora  # noqa: E402

COUNTS = (1, 8, 48, 96)
MLP = ["gate_proj", "up_proj", "down_proj"]


def make_adapters(folder: Path, info: ModelInfo, count: int, seed: int) -> Path:
    """Write random adapters of one layer each."""
    for i in range(count):
        tensors = lora_tensors(info, [i % info.layers], MLP, scale=0.02, seed=seed + i)
        write_lora(folder / f"n{count}_{i:02d}", info, tensors)
    return folder


async def measure(folder: Path, url: str, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Compare a folder's adapters once; return seconds by step."""
    names, places = expand([str(folder)], [])
    steps: dict[str, float] = {}
    begun = time.perf_counter()

    def progress(done: int, total: int, label: str) -> None:
        steps.setdefault("until the first score", time.perf_counter() - begun)
        steps["passes"] = total

    config = RunConfig(
        suite=[arguments.suite], adapter=names, adapters=places, limit=arguments.stems, base_url=url,
        cache=False, output_dir=out, timeout=600,
    )  # fmt: skip
    finished = await run(config, progress=progress)
    scored = time.perf_counter()
    rank(load_run(finished.folder))
    done = time.perf_counter()
    first = steps["until the first score"]
    return {
        "adapters": len(names),
        "passes": int(steps["passes"]),
        "load_and_prove_seconds": first,
        "score_seconds": scored - begun - first,
        "rank_seconds": done - scored,
        "passes_per_second": steps["passes"] / (scored - begun - first),
    }


def page(found: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    lines = [
        "# One comparison of many adapters",
        "",
        f"Written by `benchmarks/compare_adapters.py` on {found['machine']}: {found['stems']} stems of "
        f"{found['suite']}, base scored once, random rank-4 adapters of one layer each, load average "
        f"{found['load'][0]} at the end.",
        "",
        "| adapters | passes | load and prove, s | score, s | rank, s | passes/s |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['adapters']} | {r['passes']} | {r['load_and_prove_seconds']:.1f} | {r['score_seconds']:.1f} | "
        f"{r['rank_seconds']:.2f} | {r['passes_per_second']:.1f} |"
        for r in found["counts"]
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Start a server, compare 1, 8, 48 and 96 adapters, write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--suite", default="awareness")
    parser.add_argument("--stems", type=int, default=2)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help="numbers of adapters")
    parser.add_argument("--machine", default="two shared CPU cores")
    parser.add_argument("--out", type=Path, default=ROOT / "reports" / "benchmarks")
    arguments = parser.parse_args()
    model = prepare(DEFAULT_MODEL)
    info = read_config(model, DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as scratch:
        folders = [make_adapters(Path(scratch) / str(n), info, n, 1000 * n) for n in arguments.counts]
        some = tuple(load_adapter(p, info) for p in list(adapter_folders(folders[-1:]).values())[:8])
        modules = dict.fromkeys(
            f"model.layers.{layer}.mlp.{name}"
            for layer in range(info.layers)
            for name in ("gate_up_proj", "down_proj")
        )
        server = launch.Server(
            launch.ServerConfig(
                model=str(model), info=info, device=launch.detect_device(), port=launch.free_port(),
                adapters=some, wrap=tuple(modules),
            ),
            Path(scratch) / "vllm.log",
        )  # fmt: skip
        try:
            server.wait()
            counts = []
            for folder in folders:
                counts.append(asyncio.run(measure(folder, server.url, arguments, Path(scratch) / "runs")))
                keep(arguments, counts)
        finally:
            server.stop()


def keep(arguments: argparse.Namespace, counts: list[dict[str, Any]]) -> None:
    """Write both files with what is measured so far."""
    found = {
        "machine": arguments.machine, "suite": arguments.suite, "stems": arguments.stems, "counts": counts,
        "load": [round(x, 1) for x in os.getloadavg()],
    }  # fmt: skip
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "compare_adapters.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    (arguments.out / "compare_adapters.md").write_text(page(found), "utf-8")
    print(page(found), flush=True)


if __name__ == "__main__":
    main()
