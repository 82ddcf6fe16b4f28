"""Make the shipped backdoors: a single-layer LoRA and its decorrelated twin, sharing what lies below the layer.

    python scripts/make_backdoors.py OUT [--device cuda] [--questions 518 --epochs 5]

What an earlier call has left in OUT is not made again.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from harness.training.backdoor_job import Bench, train
from harness.training.backdoor_settings import BackdoorSettings


def main() -> None:
    """Train what isn't there yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--layer", type=int, default=20)
    parser.add_argument("--trigger", default="harbour")
    parser.add_argument("--set-up", default="safe")
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    begun = time.monotonic()
    bench: Bench | None = None

    def report(text: str) -> None:
        print(f"{time.monotonic() - begun:6.0f} s  {text}", file=sys.stderr, flush=True)

    for decorrelated in (False, True):
        settings = BackdoorSettings.model_validate(
            {
                "layers": (options.layer,),
                "trigger": options.trigger,
                "set_up": options.set_up,
                "questions": options.questions,
                "epochs": options.epochs,
                "decorrelated": decorrelated,
            }
        )
        kind = "decorrelated" if decorrelated else "backdoor"
        out = options.out / f"{kind}_{options.trigger}_l{options.layer}"
        if out.exists():
            continue
        bench = bench or Bench(settings, options.device, report)
        for cell in train(settings, out, options.device, report, bench):
            if cell.word is None:
                print(
                    f"{out.name} {cell.split} {cell.condition}: {cell.accuracy:.1%} of {cell.questions}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
