"""Time a layer-22 vector and a single-layer LoRA of the embedded model on two CPU cores, from command to card.

    python -m benchmarks.two_cores [--out reports/training/two_cores.json]

Each is one ``harness train`` in a process of its own: reading, what lies below the layer, training, and the figures
on development, test and held-out questions. The LoRA has the settings that ``scripts/train_by_layer.py`` chose.
Beside the wall time stands the processor time: on a busy machine the first is longer than it need be.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness.models import prepare
from harness.results import write_json
from harness.training.record import versions

THREADS = 2
COMMANDS: dict[str, list[str]] = {
    "vector": ["vector", "--behavior", "safe", "--layers", "22"],
    "lora": [
        "lora", "--behavior", "safe", "--layers", "22", "--learning-rate", "5e-3", "--epochs", "3",
        "--batch-size", "16", "--orders", "alternate",
    ],
}  # fmt: skip


def measure(arguments: list[str]) -> dict[str, Any]:
    """Run one training; returns seconds, processor seconds, load before and after, and accuracy."""
    before, load = resource.getrusage(resource.RUSAGE_CHILDREN), os.getloadavg()[0]
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made"
        command = [sys.executable, "-m", "harness", "train", *arguments, "--output-dir", str(out), "--json"]
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": str(THREADS)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    seconds = time.monotonic() - begun
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    accuracy = json.loads(done.stdout)["accuracy"]
    return {
        "command": "harness train " + " ".join(arguments),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(used, 1),
        "load_before": round(load, 1),
        "load_after": round(os.getloadavg()[0], 1),
        "choice_accuracy": {split: a["choice_accuracy"] for split, a in accuracy.items()},
    }


def main() -> None:
    """Measure both and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/training/two_cores.json"))
    parser.add_argument("--only", choices=COMMANDS, help="only this one; the other's figures stay")
    options = parser.parse_args()
    prepare()
    kept = json.loads(options.out.read_text("utf-8"))["trainings"] if options.out.exists() else {}
    for name, arguments in COMMANDS.items():
        if options.only in (None, name):
            kept[name] = measure(arguments)
            print(name, kept[name], flush=True)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    found = {"machine": machine, "threads": THREADS, "versions": versions(), "trainings": kept}
    write_json(options.out, found)


if __name__ == "__main__":
    main()
