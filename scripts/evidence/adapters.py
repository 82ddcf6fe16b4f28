"""What training the shipped adapters reached."""

from __future__ import annotations

import json
from collections.abc import Iterator

from harness.results import load_run
from scripts.evidence.line import REPORTS, Line


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
    yield from _verified()


def _verified() -> Iterator[Line]:
    """What ``make verify`` found: hashes, and test figures computed again, of everything shipped."""
    rows = json.loads((REPORTS / "adapters" / "verify.json").read_text("utf-8"))
    hold = [row["name"] for row in rows if row["ok"]]
    yield Line(
        "shipped adapters and vectors that are what their records say, reloaded and asked again",
        f"{len(hold)}",
        f"{len(rows)}",
        len(hold) == len(rows),
    )
    figures = [f for row in rows for f in row["figures"]]
    furthest = max(figures, key=lambda f: abs(f["found"] - f["recorded"]) / f["tolerance"])
    yield Line(
        f"the figure furthest from its record, of {len(figures)}: {furthest['name']}",
        f"{furthest['found']:.4f} for {furthest['recorded']:.4f}",
        f"within {furthest['tolerance']:.2g}",
        abs(furthest["found"] - furthest["recorded"]) <= furthest["tolerance"],
    )
