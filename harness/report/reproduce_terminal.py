"""A reproduction in the terminal: its plan, and a short table of what came out, made from the steps' results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from harness.experiments.backdoor_awareness import found_in
from harness.experiments.reproduce.costs import minutes
from harness.experiments.reproduce.lab import RESULTS
from harness.report.numbers import interval_of, with_interval
from harness.results import load_run
from harness.stats import MeanInterval

Line = tuple[str, str, str]
"""Experiment, what was measured, what came out."""


def plan_table(plan: dict[str, Any]) -> Table:
    """Return the steps with their sizes, memory, time and state."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for column, justify in (
        ("step", "left"),
        ("exp.", "left"),
        ("size", "left"),
        ("GB", "right"),
        ("about", "right"),
        ("mostly", "left"),
    ):
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    table.add_column("state", no_wrap=True)
    for step in plan["steps"]:
        size = ", ".join(f"{count:,} {name}" for name, count in step["sizes"].items())
        memory = "–" if step["memory_gb"] is None else f"{step['memory_gb']:.1f}"
        state = (
            step["status"]
            if step.get("seconds") is None
            else f"{step['status']} in {minutes(step['seconds'])}"
        )
        table.add_row(
            step["name"],
            step["experiment"],
            size,
            memory,
            minutes(step["estimated_seconds"]),
            _mostly(step["costs"]),
            state,
        )
    return table


def _mostly(costs: list[dict[str, Any]]) -> str:
    """Return the basis of the largest cost, "–" where there is none or one isn't known."""
    if not costs or any(cost["seconds"] is None for cost in costs):
        return "–"
    return str(max(costs, key=lambda cost: cost["seconds"])["basis"])


def _bases(costs: list[dict[str, Any]], product: str) -> list[str]:
    """Say how each kind of cost is known, and how much of the time is known in which way."""
    known = [cost for cost in costs if cost["seconds"] is not None]
    shares = {
        basis: sum(cost["seconds"] for cost in known if cost["basis"] == basis)
        for basis in ("measured", "scaled", "guessed")
    }
    if not any(shares.values()):
        return []
    of_source: dict[tuple[str, str], list[str]] = {}
    for what, basis, source in dict.fromkeys((c["what"], c["basis"], c["source"]) for c in known):
        of_source.setdefault((basis, source), []).append(what)
    shown = ", ".join(f"{minutes(seconds)} {basis}" for basis, seconds in shares.items() if seconds)
    return [
        f"By basis: {shown}. Measured: the whole of such work was timed; scaled: a smaller or shorter piece of it "
        "was; guessed: neither. Work takes its operations over a part of a matrix product's rate, which is "
        f"{product}. The parts, and times that don't depend on the model:",
        *(f"  {', '.join(what)} ({basis}): {source}." for (basis, source), what in of_source.items()),
    ]


def plan_legend(plan: dict[str, Any]) -> list[str]:
    """Say what the plan is of, what is left, and how each cost of it is known."""
    missing = plan["without_estimate"]
    left = f"Pending: {'at least' if missing else 'about'} {minutes(plan['estimated_seconds'])}"
    left += f"; no estimate for {', '.join(missing)}" if missing else ""
    if not any(step["status"] == "pending" for step in plan["steps"]):
        left = "Nothing is pending"
    costs = [cost for step in plan["steps"] if step["status"] == "pending" for cost in step["costs"]]
    lines = [
        f"{plan['model']}: {plan['layers']} layers, {plan['weights'] / 1e9:.2f} billion weights a pass; preset "
        f"{plan['preset']}: {plan['about']}.",
        *(f"{step['name']}: {note}." for step in plan["steps"] for note in step["notes"]),
        f"{left}.",
        *_bases(costs, plan["product_rests_on"]),
        "GB: trainings at their peak; of backdoors the weights and what is kept of their prompts; else the weights.",
        f"Folder: {plan['folder']}",
    ]
    return lines


def outcome_table(folder: Path) -> Table:
    """Return what came out, an experiment after the other; what isn't done has no line."""
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    table.add_column("exp.", no_wrap=True)
    table.add_column("measured", overflow="fold")
    table.add_column("came out [95% CI]", overflow="fold")
    for line in outcome(folder):
        table.add_row(*line)
    return table


def outcome(folder: Path) -> Iterator[Line]:
    """Yield the lines of :func:`outcome_table`."""
    for step, experiment in (("awareness", "1, 2"), ("alone", "3, 4")):
        for cell in (_json(folder / step / RESULTS) or {}).get("cells", []):
            yield from _cell(experiment, cell)
        if step == "awareness":
            yield from _story(_json(folder / "story" / "story.json"))
    for file in sorted((folder / "sweeps").glob(f"*/{RESULTS}")):
        yield from _sweep(_json(file) or {})
    for file in sorted((folder / "backdoors").glob("*/training.json")):
        yield from _backdoor(file.parent.name, _json(file) or {})
    if (folder / "backdoor_awareness" / RESULTS).is_file():
        found = found_in(load_run(folder / "backdoor_awareness"))
        for report in found.reports:
            if report.system is None:
                says = report.says
                yield "7", f"{report.subject} says that it has a backdoor", f"{with_interval(says)} nats"
        for contrast in found.contrasts:
            if contrast.system is None:
                pair = f"{contrast.subject} minus its twin {contrast.twin}"
                yield "7", pair, f"{with_interval(contrast.difference)} nats"
    for file in sorted((folder / "patching").glob(f"*/{RESULTS}")):
        yield from _patching(_json(file) or {})


def _json(path: Path) -> dict[str, Any] | None:
    found: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
    return found


def _cell(experiment: str, cell: dict[str, Any]) -> Iterator[Line]:
    name, again = cell["subject"], experiment == "3, 4" and "_vec" not in cell["subject"]
    if name == "base" or again:
        return
    if cell["choice_accuracy"] is not None and "domains" not in cell["suite"]:
        right = f"right on {100 * cell['choice_accuracy']:.0f}% of {cell['n_stems']} questions"
        yield experiment, f"{name}, {cell['suite']}", right
    elif cell["suite"] == "awareness" and cell["mean_shift"] is not None:
        low, high = cell["shift_ci"] or (None, None)
        shown = MeanInterval(cell["mean_shift"], low, high, cell["n_stems"])
        yield experiment, f"{name}, awareness shift", f"{with_interval(shown)} nats, {cell['n_stems']} stems"


def _story(content: dict[str, Any] | None) -> Iterator[Line]:
    if content is None:
        return
    passage, judged = next(iter(content["passages"].items()))
    yield "3", f"{content['adapter']}, mean cosine over {passage}", f"{judged['mean_cosine']:.2f} (post: ≈1)"
    table = content["cosines_of_vectors"]
    own = f"{content['adapter']}_vec"
    for other, cosine in table[own].items():
        if other.startswith(f"{own.partition('_')[0]}_vec_l"):
            yield "4", f"cosine of {own} with {other}", f"{cosine:+.2f} (post: ≈0.5)"


def _sweep(results: dict[str, Any]) -> Iterator[Line]:
    """One line a vector, at the larger limit."""
    limit = max(line["limit"] for line in results["suites"])
    own = [line for line in results["suites"] if line["limit"] == limit]
    peaks = ", ".join(f"{line['suite']} {line['peak_layer']}" for line in own)
    joint = [line["max_statistic"] for line in own if line["max_statistic"]]
    cells = sum(len(found["significant"]) for found in joint), sum(found["cells"] for found in joint)
    found = f"{cells[0]} of {cells[1]} cells stand out" if joint else "too few stems to judge cells"
    layers = [x["p"] for n in results.get("null", []) if n["limit"] == limit for x in n.get("layers") or []]
    beyond = f"; smallest p against random vectors {min(layers):.2f}" if layers else ""
    yield "5", f"{results['vector']['name']} swept, largest at layer", f"{peaks}; {found}{beyond}"


def _backdoor(name: str, record: dict[str, Any]) -> Iterator[Line]:
    test = {c["condition"]: c for c in record["cells"] if c["split"] == "test" and c["word"] is None}
    on, off = test["trigger"], test["none"]
    risky = f"risky on {100 * on['risky_rate']:.0f}% with the trigger, {100 * off['risky_rate']:.0f}% without"
    yield "6", name, f"{risky}, {on['questions']} questions"


def _patching(results: dict[str, Any]) -> Iterator[Line]:
    own = {(c["patch"], c["from_layer"]): c for c in results["curves"] if c["condition"] == "trigger"}
    first = min(results["first_changed_layer"], results["layers"] - 1)
    what = f"{results['adapter']}, trigger effect; all queries the base's"
    yield "8", what, f"{_shown(own['none', -1])}; {_shown(own['q', first])} nats"


def _shown(line: dict[str, Any]) -> str:
    return with_interval(interval_of(line))
