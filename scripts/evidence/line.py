"""What a line of evidence is, and how the command line is run for one."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "reports"
HARNESS = [str(Path(sys.executable).with_name("harness"))]


@dataclass(frozen=True)
class Line:
    """One claim with its figure; ``ok`` None: measured on a GPU host, the committed figure is shown."""

    claim: str
    figure: str
    bound: str
    ok: bool
    gpu: bool = False


def harness(*arguments: str) -> tuple[str, float]:
    """Run a command of ours; return its stdout and its wall time in seconds.

    Raises:
        RuntimeError: it failed; with the end of what it said.

    """
    begun = time.perf_counter()
    done = subprocess.run([*HARNESS, *arguments], capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(f"harness {' '.join(arguments)}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout, time.perf_counter() - begun
