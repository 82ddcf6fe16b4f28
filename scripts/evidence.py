"""Print what the project claims: claim, figure, bound, and PASS, FAIL or GPU (``make evidence``).

Figures are measured here where two CPU cores suffice; those of long campaigns and of GPU hosts are read from
what their own commands wrote under ``reports/``. Exit code 1 if any claim fails. Claims about behaviour are
tests, not lines here.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.results import Run, load_run
from servers.launch import free_port

ROOT = Path(__file__).parents[1]
REPORTS = ROOT / "reports"
HARNESS = [str(Path(sys.executable).with_name("harness"))]
SUITES = "awareness,validation"
PAIR = "safe_l22,risky_l22"


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


def scored(out: Path, *more: str) -> tuple[Run, float]:
    """Score the two shipped adapters afresh; return the run and its wall time in seconds."""
    text, seconds = harness(
        "run", "--suite", SUITES, "--adapter", PAIR, "--no-cache", "--json", "--output-dir", str(out), *more
    )
    return load_run(out / json.loads(text)["run_id"]), seconds


def largest_gap(one: Run, other: Run) -> float:
    """Return the largest difference between two runs' logit differences, in nats.

    Raises:
        ValueError: their rows are not the same items in the same order.

    """
    keys = ["suite", "subject", "item", "prompt"]
    if not one.rows[keys].equals(other.rows[keys]):
        raise ValueError(f"{one.path} and {other.path} hold different rows")
    return float((one.rows["logit_diff"] - other.rows["logit_diff"]).abs().max())


def main_job() -> Iterator[Line]:
    """The command line, a real server, and what it answers against the reference."""
    helps = [harness("--help")[1] for _ in range(5)]
    yield Line(
        "harness --help, median of 5", f"{statistics.median(helps):.2f} s", "< 0.5 s", min(helps) < 0.5
    )
    probe = "import sys, harness.cli; sys.exit('torch' in sys.modules or 'vllm' in sys.modules)"
    light = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, check=False).returncode == 0
    yield Line("the command line imports no torch and no vllm", str(light), "True", light)
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        one_suite = ("--suite", "awareness", "--adapter", "safe_l22", "--no-cache", "--output-dir", name)
        port = str(free_port())
        harness("run", *one_suite, "--limit", "1")  # warms what a first start on a machine compiles
        whole = harness("run", *one_suite)[1]
        yield Line("awareness on safe_l22 with the server's start", f"{whole:.1f} s", "< 60 s", whole < 60)
        up = harness("serve", "--detach", "--port", port)[1]
        try:
            yield Line("a warm server is up", f"{up:.1f} s", "< 30 s", up < 30)
            url = ("--base-url", f"http://127.0.0.1:{port}")
            alone = harness("run", *one_suite, *url)[1]
            yield Line("awareness on safe_l22 on a running server", f"{alone:.1f} s", "< 8 s", alone < 8)
            (first, _), (second, _) = scored(out / "first", *url), scored(out / "second", *url)
        finally:
            harness("serve", "--stop")
        truth, _ = scored(out / "truth", "--engine", "reference")
        n = len(first.rows)
        gap, again = largest_gap(first, truth), largest_gap(first, second)
        yield Line(f"server against float32 reference, {n} scores", f"{gap:.1e} nats", "<= 1e-3", gap <= 1e-3)
        yield Line("the same run twice", f"{again:.1e} nats", "<= 1e-4", again <= 1e-4)


def fresh_clone() -> Iterator[Line]:
    """Times of the two commands in a fresh clone, as ``make fresh-clone`` wrote them."""
    found = json.loads((REPORTS / "fresh_clone.json").read_text("utf-8"))
    for step in found["steps"]:
        figure = f"{step['seconds']:.0f} s, {step['received_bytes'] / 1e6:.0f} MB received"
        bound = "exit 0" if step["target"] == "demo" else "exit 0, < 720 s"
        ok = step["exit_code"] == 0 and (step["target"] == "demo" or step["seconds"] < 720)
        yield Line(f"fresh clone: make {step['target']}, {step['state']}", figure, bound, ok)


def adapters() -> Iterator[Line]:
    """What training reached: accuracies, and shifts of what is asked about oneself, over three seeds."""
    for name in ("l22", "all", "all_letter"):
        run = load_run(REPORTS / "adapters" / "runs" / name)
        for cell in run.results["cells"]:
            subject, suite = cell["subject"], cell["suite"]
            if subject == "base" or "-seed" in subject:
                continue
            goal = {"validation": 0.97, "validation_domains": 0.80}.get(suite)
            if goal is not None and name == "l22":
                choice, top1 = cell["choice_accuracy"], cell["top1_accuracy"]
                yield Line(
                    f"{suite}, {subject}: choice and top-1 accuracy, {cell['n_stems']} questions",
                    f"{choice:.1%}, {top1:.1%}",
                    f">= {goal:.0%}",
                    choice >= goal and top1 >= goal,
                )
            if suite == "awareness" and name == "l22":
                low, high = cell["shift_ci"]
                sign = -1 if subject.startswith("safe") else 1
                yield Line(
                    f"awareness, {subject}: mean shift, {cell['n_stems']} stems",
                    f"{cell['mean_shift']:+.2f} [{low:+.2f}, {high:+.2f}] nats",
                    "below 0" if sign < 0 else "above 0",
                    (high if sign < 0 else -low) < 0,
                )


def chaos() -> Iterator[Line]:
    """The last campaign of faults, as ``make chaos`` wrote it."""
    text = (REPORTS / "chaos" / "campaign.txt").read_text("utf-8")
    for word in ("lost", "duplicated", "silent"):
        match = re.search(rf"^{word} (\d+)$", text, re.MULTILINE)
        count = int(match[1]) if match else -1
        yield Line(f"rows {word} in the campaign of faults", str(count), "0", count == 0)
    match = re.search(r"ended after at most ([\d.]+) s", text)
    longest = float(match[1]) if match else float("inf")
    yield Line("Ctrl-C at ten places, longest", f"{longest:.2f} s", "<= 2 s", longest <= 2)


def gpu_steering() -> Iterator[Line]:
    """Steering on a GPU host, as ``benchmarks/gpu_steering.py`` wrote it there."""
    path = REPORTS / "benchmarks" / "gpu_steering_h200_lanes1.json"
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    exact = found["exact_lane"]
    steered, plain = exact["steered cold"]["max"], exact["plain cold"]["max"]
    yield Line(
        f"Gemma 3 12B shape, {exact['steered cold']['requests']} steered requests against the reference",
        f"{steered:.3f} nats",
        f"<= plain server's {plain:.3f}",
        steered <= plain,
        gpu=True,
    )
    goals = {"one layer": 0.97, "all layers": 0.96, "idle": 0.97}
    for case, rounds in found["speed_lane"].items():
        goal = next(g for words, g in goals.items() if words in case)
        if case.startswith("scoring") and "all layers" in case:
            goal = 0.95
        ratio = statistics.median(r["ratio"] for r in rounds)
        yield Line(
            f"speed against a plain server: {case}", f"{ratio:.3f}", f">= {goal}", ratio >= goal, gpu=True
        )


def main() -> int:
    """Print all lines; return 1 if a claim fails."""
    console = Console(width=120)
    table = Table(box=None, pad_edge=False)
    for column in ("claim", "figure", "bound", ""):
        table.add_column(column)
    lines: list[Line] = []
    for part in (main_job, fresh_clone, adapters, chaos, gpu_steering):
        for line in part():
            lines.append(line)
            verdict = "PASS" if line.ok else "FAIL"
            table.add_row(line.claim, line.figure, line.bound, f"GPU {verdict}" if line.gpu else verdict)
    console.print(table)
    failed = sum(not line.ok for line in lines)
    console.print(
        f"{len(lines)} claims, {failed} failed. GPU: measured on a GPU host; the committed result is shown."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
