"""The whole reproduction at Gemma 3 12B's full shape, random weights: every step's time, beside the full plan.

    python -m scripts.random_model CONFIG MODEL --dtype bfloat16 --device cuda    # CONFIG: a config and a tokenizer
    harness reproduce --model MODEL --preset paper --device cuda --dry-run --json > PLAN.json
    harness reproduce --model MODEL --preset quick --retrain --device cuda --output-dir FOLDER
    python -m benchmarks.gpu_reproduction FOLDER PLAN.json

The weights are random, so that no number of the reproduction means anything: what is shown is that every step of the
one command runs on such a model and such a machine, trainings, servers and sweeps sharing one GPU, and how long each
takes. Preset ``quick`` has every step of ``paper`` with fewer stems, layers and strengths.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from harness.experiments.reproduce import FILE
from harness.experiments.reproduce.costs import minutes
from harness.results import write_json

OUT = Path("reports/benchmarks/gpu_reproduction.json")


def collect(folder: Path, plan: Path) -> dict[str, Any]:
    """Return what a finished reproduction and a full plan say of their steps."""
    found, full = (json.loads(file.read_text("utf-8")) for file in (folder / FILE, plan))
    kept = ("name", "title", "status", "seconds", "attempts", "sizes")
    planned = ("name", "sizes", "memory_gb", "estimated_seconds")
    return {
        "schema_version": 1,
        "machine": found["machine"],
        "versions": found["versions"],
        "layers": found["layers"],
        "weights": found["weights"],
        "preset": found["preset"],
        "steps": [{key: step[key] for key in kept} for step in found["steps"]],
        "full_preset": full["preset"],
        "full_plan": [{key: step[key] for key in planned} for step in full["steps"]],
    }


def table(found: dict[str, Any]) -> str:
    """Return it as Markdown."""

    def sized(step: dict[str, Any]) -> str:
        return ", ".join(f"{count:,} {name}" for name, count in step["sizes"].items())

    def took(step: dict[str, Any]) -> str:
        return "–" if step["seconds"] is None else minutes(step["seconds"])

    full = {step["name"]: step for step in found["full_plan"]}
    rows = [
        f"| {step['name']} | {sized(step)} | {step['status']} | {took(step)} | {step['attempts']} "
        f"| {sized(full[step['name']])} | {minutes(full[step['name']]['estimated_seconds'])} |"
        for step in found["steps"]
    ]
    machine = found["machine"]
    return "\n".join(
        [
            "# A whole reproduction at Gemma 3 12B's shape, random weights",
            "",
            f"{machine['gpu']}, {machine['cores']} cores, vLLM {found['versions']['vllm']}, {found['layers']} layers, "
            f"{found['weights'] / 1e9:.1f} billion weights a pass. Preset *{found['preset']}*: every step of the full "
            "one with few stems, layers and strengths; the numbers of random weights mean nothing, the times do. "
            f"Beside it what the dry run of preset *{found['full_preset']}* plans on that machine.",
            "",
            "| step | size | state | took | attempts | full size | planned |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    found = collect(options.folder, options.plan)
    write_json(options.out, found)
    options.out.with_suffix(".md").write_text(table(found), "utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
