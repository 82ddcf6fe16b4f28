"""The whole reproduction at Gemma 3 12B's full shape, random weights: every step's time, beside the full plan.

    python -m scripts.random_model CONFIG MODEL --dtype bfloat16 --device cuda    # CONFIG: a config and a tokenizer
    harness reproduce --model MODEL --preset paper --device cuda --dry-run --json > PLAN.json
    harness reproduce --model MODEL --preset quick --retrain --device cuda --output-dir FOLDER
    python -m benchmarks.gpu_reproduction FOLDER... --plan PLAN.json

The weights are random, so that no number of the reproduction means anything: what is shown is that every step of the
one command runs on such a model and such a machine, trainings, servers and sweeps sharing one GPU, and how long each
takes. Preset ``quick`` has every step of ``paper`` with fewer stems, layers and strengths. Where a machine is lent for
less time than all steps take, several runs are given, the latest last: a step is the latest run's that came to its end.
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


def collect(folders: list[Path], plan: Path) -> dict[str, Any]:
    """Return what runs of one reproduction, the latest last, and a full plan say of their steps.

    Raises:
        ValueError: runs on different machines, of different models or presets.

    """
    runs = [json.loads((folder / FILE).read_text("utf-8")) for folder in folders]
    found, full = runs[-1], json.loads(plan.read_text("utf-8"))
    for key in ("versions", "layers", "weights", "preset"):
        if any(run[key] != found[key] for run in runs):
            raise ValueError(f"The runs differ in their {key}.")
    if any(run["machine"]["gpu"] != found["machine"]["gpu"] for run in runs):
        raise ValueError("The runs differ in their GPU.")
    kept = ("name", "title", "status", "seconds", "attempts", "sizes")
    planned = ("name", "sizes", "memory_gb", "estimated_seconds")
    steps = []
    for together in zip(*(run["steps"] for run in runs), strict=True):
        numbered = list(enumerate(together, start=1))
        done = [(number, step) for number, step in numbered if step["seconds"] is not None]
        number, step = (done or numbered)[-1]
        steps.append({key: step[key] for key in kept} | {"run": number})
    return {
        "schema_version": 2,
        "machine": found["machine"],
        "versions": found["versions"],
        "layers": found["layers"],
        "weights": found["weights"],
        "preset": found["preset"],
        "runs": [{"git": run["git"]} for run in runs],
        "steps": steps,
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
        f"| {step['name']} | {sized(step)} | {step['status']} | {step['run']} | {took(step)} | {step['attempts']} "
        f"| {sized(full[step['name']])} | {minutes(full[step['name']]['estimated_seconds'])} |"
        for step in found["steps"]
    ]
    machine = found["machine"]
    commits = ", ".join(run["git"]["commit"][:7] for run in found["runs"])
    return "\n".join(
        [
            "# A whole reproduction at Gemma 3 12B's shape, random weights",
            "",
            f"{machine['gpu']}, {machine['cores']} cores, vLLM {found['versions']['vllm']}, {found['layers']} layers, "
            f"{found['weights'] / 1e9:.1f} billion weights a pass. Preset *{found['preset']}*: every step of the full "
            "one with few stems, layers and strengths; the numbers of random weights mean nothing, the times do. "
            f"Beside it what the dry run of preset *{found['full_preset']}* plans on that machine. "
            f"Runs, the latest last: {commits}; a step is the latest's that ended.",
            "",
            "| step | size | state | run | took | attempts | full size | planned |",
            "| --- | --- | --- | --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main() -> None:
    """Write both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    parser.add_argument("--plan", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    found = collect(options.folders, options.plan)
    write_json(options.out, found)
    options.out.with_suffix(".md").write_text(table(found), "utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
