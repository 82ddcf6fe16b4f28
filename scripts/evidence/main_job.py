"""The main job: the command line, a real server, and what it answers against the reference."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.evalset import load_suite, suite_folders
from harness.experiments.reproduce.costs import shape_of
from harness.models import DEFAULT_MODEL, resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.results import Run, load_run
from scripts.evidence.line import REPORTS, ROOT, Line, harness
from servers.launch import free_port

SUITES = "awareness,validation"
PAIR = "safe_l22,risky_l22"


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


def arithmetic_floor(suite: str, subjects: int) -> float:
    """Return the seconds that the matrix products of a suite's prompts take here, in float32, nothing shared."""
    from harness.training.plan import Machine, product_rate

    shape = shape_of(DEFAULT_MODEL)
    builder = PromptBuilder(load_tokenizer(resolve_model(DEFAULT_MODEL)))
    tokens = sum(len(builder.encode(item).prompt_ids) for item in load_suite(suite_folders()[suite]).items)
    operations = 2 * shape.layers * shape.layer_weights * tokens * subjects
    return operations / product_rate(Machine("cpu", 0), "float32")


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
            floor = arithmetic_floor("awareness", subjects=2)
            figure = f"{alone:.1f} s, of which arithmetic {floor:.1f} s on this machine"
            yield Line("awareness on safe_l22 on a running server", figure, "< 8 s", alone < 8)
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
