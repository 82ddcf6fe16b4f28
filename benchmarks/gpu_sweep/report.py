"""``reports/benchmarks/gpu_sweep.md`` from a GPU host's results; ``scripts/evidence`` reads ``claims`` too."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.gpu_steering.report import RESULTS as STEERING
from benchmarks.gpu_steering.report import mean_interval
from benchmarks.gpu_sweep.over_http import OURS, PLAIN, TURN, UNSTEERED

FOLDER: Final = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
RESULTS: Final = FOLDER / "gpu_sweep.json"
IN_PROCESS: Final = "ours in process"
HOOKS: Final = "hooks in process"
BY_TURNS: Final = f"whole sweeps by turns of {TURN} requests"
IN_A_ROW: Final = "whole sweeps one after the other"
IN_PARTS: Final = "seeded parts"
OF_TWO: Final = 0.674 * 2**0.5 / 2.45
"""A median turned into another, for normal differences: from the largest of 48 to that of two tokens."""
WHAT: Final = {
    HOOKS: "transformers with hooks, in batches of 40",
    "cached in process": "the same with its KV cache reused",
    PLAIN: "plain vLLM, no reuse",
    UNSTEERED: "our server unsteered, on the same cached prompts",
    OURS: "ours, over HTTP, one API process",
    "ours not fused in process": "ours, in-process, without torch.compile",
    IN_PROCESS: "ours, in-process",
}


@dataclass(frozen=True)
class Claim:
    """What is claimed, what was measured, and what is asked for: at most, or at least, ``bound``."""

    text: str
    figure: float
    bound: float
    at_least: bool = False
    unit: str = "s"
    stretch: bool = False
    """Whether the bound is no more than something to reach for."""

    @property
    def holds(self) -> bool:
        """Whether it does."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound


def claims(results: Mapping[str, Any]) -> Iterator[Claim]:
    """Yield what the measurements that are there say of each goal."""
    last, every = _pooled(results, "last"), _pooled(results, "all")
    for runs, selector, bound in ((last, "last", 1.2), (every, "all", 85.0)):
        if IN_PROCESS in runs:
            yield Claim(f"in-process, `{selector}`: the whole sweep", _seconds(runs[IN_PROCESS]), bound)
            yield from _agreement(f"in-process, `{selector}`", runs[IN_PROCESS])
    if OURS in last:
        for kind in (BY_TURNS, IN_A_ROW, IN_PARTS):
            rates = [rate for own in results["machines"] for rate in _rates(own.get("sweep_last", {}), kind)]
            if rates:
                text = (
                    f"over HTTP, `last`, {kind}: rate beside the same server unsteered, median of "
                    f"{', '.join(f'{rate:.3f}' for rate in rates)}; mean "
                    f"{mean_interval([{'ratio': rate} for rate in rates])}"
                )
                yield Claim(text, statistics.median(rates), 0.97, True, "×")
        yield Claim("over HTTP, `last`: the whole sweep", _seconds(last[OURS]), 31.0, stretch=True)
        yield from _agreement("over HTTP, `last`", last[OURS])
    if OURS in every and PLAIN in every:
        ratio = _seconds(every[OURS]) / _seconds(every[PLAIN])
        yield Claim("over HTTP, `all`: time beside plain vLLM", ratio, 1.05, unit="×")
        yield from _agreement("over HTTP, `all`", every[OURS])


def _pooled(results: Mapping[str, Any], selector: str) -> dict[str, list[dict[str, Any]]]:
    """Return every contender's runs on all machines."""
    found: dict[str, list[dict[str, Any]]] = {}
    for machine in results["machines"]:
        for name, runs in machine.get(f"sweep_{selector}", {}).items():
            found.setdefault(name, []).extend(runs)
    return found


def _kind(run: Mapping[str, Any]) -> str:
    if len(run.get("turns", ())) > 1:
        return BY_TURNS
    return IN_PARTS if run["scaled"] else IN_A_ROW


def _rates(last: Mapping[str, Any], kind: str) -> Iterator[float]:
    """Yield each steered run's rate: beside that by turns with it, else the mean of those before and after it.

    A server gets faster or slower within minutes: runs of one kind taken together would compare times of day.
    """
    ours, bare = (
        [run["whole_seconds"] for run in last.get(name, []) if _kind(run) == kind]
        for name in (OURS, UNSTEERED)
    )
    for place, seconds in enumerate(ours):
        beside = bare[place : place + (1 if kind == BY_TURNS else 2)]
        if beside:
            yield statistics.fmean(beside) / float(seconds)


def _seconds(runs: list[dict[str, Any]]) -> float:
    """Return the median; of whole sweeps alone, if there are any."""
    whole = [run for run in runs if not run["scaled"]] or runs
    return statistics.median(run["whole_seconds"] for run in whole)


def _agreement(who: str, runs: list[dict[str, Any]]) -> Iterator[Claim]:
    """Hold the median difference from transformers with hooks against the noise floor of bfloat16."""
    found = [run["agreement"][HOOKS] for run in runs if HOOKS in run["agreement"]]
    if found:
        median = max(own["median"] for own in found)
        passes = found[0]["passes"]
        yield Claim(
            f"{who}: median difference from transformers with hooks, {passes:,} passes; bound: what plain vLLM's "
            "unsteered bfloat16 answers differ by (gpu_steering)",
            median,
            noise_floor(),
            unit="nats",
        )


def noise_floor() -> float:
    """Return the median difference between plain vLLM and transformers in how two tokens compare, in nats.

    ``gpu_steering`` measured the largest of 48 log-probabilities' differences a request.
    """
    plain = json.loads(STEERING.read_text("utf-8"))["idle_plugin"]["plain against the reference"]
    return float(plain["median"]) * OF_TWO


def table(results: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of claims and of contenders."""
    yield "| claim | figure | bound | |"
    yield "|---|---|---|---|"
    for claim in claims(results):
        sign = "≥" if claim.at_least else "≤"
        verdict = "met" if claim.holds else "not reached" if claim.stretch else "**missed**"
        sign = f"stretch: {sign}" if claim.stretch else sign
        yield f"| {claim.text} | {claim.figure:.3g} {claim.unit} | {sign} {claim.bound:.3g} | {verdict} |"
    yield "\nEach run, scaled to 46,080 passes where it is marked. Nats: the scores' standard deviation over passes,"
    yield "largest and median difference from transformers with hooks, and from the contender's own run before.\n"
    yield (
        "| contender | selector | seconds | passes/s | API process, CPU a pass | peak memory | spread | from hooks "
        "| from itself |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for selector in ("last", "all"):
        runs = _pooled(results, selector)
        for name in (name for name in WHAT if name in runs):
            own = runs[name]
            seconds = ", ".join(
                f"{run['whole_seconds']:.2f}{' (scaled)' if run['scaled'] else ''}" for run in own
            )
            rate = statistics.median(run["whole_passes"] / run["whole_seconds"] for run in own)
            spread = f"{own[-1]['spread']:.2g}" if "spread" in own[-1] else "–"
            memory = max(run["peak_memory_bytes"] for run in own)
            used = [run["api_seconds"] / run["passes"] for run in own if run.get("api_seconds")]
            yield (
                f"| {WHAT[name]} | {selector} | {seconds} | {rate:,.0f} | "
                f"{f'{statistics.median(used) * 1e6:.0f} µs' if used else '–'} | "
                f"{f'{memory / 2**30:.1f} GiB' if memory else '–'} | {spread} | {_gaps(own, HOOKS)} | "
                f"{_gaps(own, name)} |"
            )


def _gaps(runs: list[dict[str, Any]], other: str) -> str:
    found = [run["agreement"][other] for run in runs if other in run["agreement"]]
    if not found:
        return "–"
    return f"{max(own['max'] for own in found):.3g}, {max(own['median'] for own in found):.2g}"


def write_report(paths: list[Path]) -> str:
    """Keep the results of machines, write the report from all of them, and return its text."""
    machines = [json.loads(path.read_text("utf-8")) for path in paths]
    results = {"schema_version": 2, "machines": machines}
    FOLDER.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    shown = "\n".join(table(results))
    servers = [machine["capability"]["plugin"] for machine in machines]
    plugins = ", ".join(f"`{server['plugin']}`" for server in servers)
    names = " and ".join(sorted({machine["machine"]["name"] for machine in machines}))
    versions = ", ".join(sorted({server["vllm"] for server in servers}))
    whole = sum("sweep_all" in machine for machine in machines)
    text = (
        "# The sweep on a GPU\n\n"
        f"{names}: {len(machines)} such machines, all contenders on {whole} of them, the latest last; vLLM {versions}, "
        f"plugin {plugins}; Gemma 3 12B's shape, random weights, bfloat16; 40 prompts of 96 tokens, 48 layers, 24 "
        "strengths: 46,080 passes. What is compared is the difference of two tokens' logits, from a float32 head "
        "everywhere. "
        "Servers run side by side and are asked over HTTP, 40 prompts a request, 16 requests in flight. Written by "
        f"`python -m benchmarks.gpu_sweep report` from `{RESULTS.name}`; a time or rate is the median of all runs. "
        "One server's unsteered sweeps differ by a tenth and more within minutes: by turns, a steered and an unsteered "
        "one share that, which those one after the other don't.\n\n"
        f"{shown}\n"
    )
    RESULTS.with_suffix(".md").write_text(text, "utf-8")
    return text
