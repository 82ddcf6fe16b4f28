"""Command line: ``python -m benchmarks.gpu_training measure|table OUT.json``; see the package's docstring."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.gpu_training.measure import measure
from benchmarks.gpu_training.report import table


def main() -> None:
    """Measure, or print the table of what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_training")
    parser.add_argument("do", choices=["measure", "table"])
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=48)
    parser.add_argument("--hidden", type=int, default=3840)
    parser.add_argument("--vocabulary", type=int, default=262208)
    parser.add_argument("--steps", type=int, default=4, help="of each group of LoRAs")
    parser.add_argument("--compiled", action="store_true", help="fuse small operations")
    options = parser.parse_args()
    if options.do == "measure":
        options.out.write_text(json.dumps(measure(options), indent=2) + "\n")
    print(table(json.loads(options.out.read_text())))


if __name__ == "__main__":
    main()
