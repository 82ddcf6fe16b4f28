"""``reports/benchmarks/gpu_steering.md`` from the results of a GPU host; read by ``scripts/evidence`` too."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu_steering.places import NEIGHBOURS
from harness.stats.stems import t_interval

FOLDER: Final = Path(__file__).resolve().parents[2] / "reports" / "benchmarks"
RESULTS: Final = FOLDER / "gpu_steering.json"
CITED: Final = (
    "EasySteer (a fork of vLLM), as its authors publish it, cited and not measured here: a 1.5B model goes from 30,633 "
    "tok/s with one steering configuration to 5,620 tok/s with 256 distinct ones, a ratio of 0.18."
)


def goal(kind: str, label: str) -> float | None:
    """Return the ratio to the plain server that the project asks of a setting; None where it asks nothing."""
    if kind == "eager" or label == "scoring LoRA on, plain requests":
        return None
    if "LoRA" in label:
        return 0.95
    if "all layers" in label:
        return 0.96 if label.startswith("decode") else 0.95
    return 0.97


def ratios(results: Mapping[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Yield every setting that was measured: server, label, rounds."""
    for kind, settings in results.get("speed", {}).items():
        for label, rounds in settings.items():
            yield kind, label, rounds


def median_ratio(rounds: list[dict[str, Any]]) -> float:
    """Return the median over rounds of the ratio to the plain server."""
    return statistics.median(r["ratio"] for r in rounds)


def mean_interval(rounds: list[dict[str, Any]]) -> str:
    """Say the mean over rounds of the ratio with its 95% interval; a dash for one round."""
    if len(rounds) < 2:
        return "–"
    mean, low, high = t_interval(np.array([r["ratio"] for r in rounds]))
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def merged(paths: list[Path]) -> dict[str, Any]:
    """Put the results of several commands into one; later ones win, rounds of a setting add up."""
    found: dict[str, Any] = {}
    for path in paths:
        for key, value in json.loads(path.read_text("utf-8")).items():
            if key.startswith("sweep_"):
                continue  # gpu_sweep's, measured on the same servers
            if key == "speed":
                for kind, settings in value.items():
                    mine = found.setdefault(key, {}).setdefault(kind, {})
                    for label, rounds in settings.items():
                        mine[label] = mine.get(label, []) + rounds
            elif isinstance(value, dict):
                found[key] = {**found.get(key, {}), **value}
            else:
                found[key] = value
    return found


def write_report(paths: list[Path], notes: list[str]) -> None:
    """Keep merged results and write the report from them."""
    results = merged(paths)
    results["notes"] = notes
    FOLDER.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
    RESULTS.with_suffix(".md").write_text("\n".join(_lines(results)) + "\n", "utf-8")


def _lines(results: dict[str, Any]) -> Iterator[str]:
    capability = results["capability"]["plugin"]
    yield "# Steering on the GPU"
    yield ""
    yield (
        f"{results['machine']['name']}; vLLM {capability['vllm']}, {capability['runner']} model runner, compiled, CUDA "
        f"graphs on, prefix cache on; Gemma 3 12B's shape ({capability['layers']} layers, hidden size "
        f"{capability['hidden_size']}), random weights, {capability['dtype']} with a float32 head; all hook points and "
        f"modes compiled in, lanes={capability['limits']['lanes']}, plugin `{capability['plugin']}`. Servers run side "
        "by side on the card and are asked over HTTP, one prompt a request, 256 in flight. Written by "
        "`python -m benchmarks.gpu_steering report` from `gpu_steering.json`."
    )
    for note in results["notes"]:
        yield ""
        yield note
    yield from _exact(results)
    yield from _stale(results)
    yield from _speed(results)
    yield from _profile(results)
    yield from _start(results)


def _exact(results: dict[str, Any]) -> Iterator[str]:
    yield "\n## Exactness under graph replay\n"
    yield (
        "Log-probabilities of 48 token ids over 4 steps, in nats, against an eager transformers pass over the same "
        "weights at the same dtype; all requests of a server in one batch. Each figure is a request's largest one.\n"
    )
    yield "| requests | number | largest, cold | median, cold | largest, warm |"
    yield "|---|---|---|---|---|"
    idle = results["idle_plugin"]
    for label in ("plain against the reference", "idle against the reference"):
        row = idle[label]
        name = "plain server (noise floor)" if label.startswith("plain") else "plugin, idle"
        yield f"| {name} | {row['requests']} | – | {row['median']:.3f} | {row['max']:.3f} |"
    for kind, name in (("plugin", "plugin"), ("lora", "plugin and LoRA")):
        found = results[f"exact_{kind}"]
        for case, cold in found["cold"].items():
            warm = found["warm"][case]
            yield (
                f"| {name}: {case} | {cold['requests']} | {cold['max']:.3f} | {cold['median']:.3f} | "
                f"{warm['max']:.3f} |"
            )
    found = results["exact_plugin"]
    moved = found["steering moves the reference by"]
    before, after = (found[f"mlp_out, reference hooked {where} the norm"] for where in ("before", "after"))
    yield ""
    yield f"Steering moves the reference by up to {moved['max']:.2f} (median {moved['median']:.2f})."
    yield (
        f"`mlp_out` is before the post-feedforward norm: largest difference {before['max']:.3f} with the reference "
        f"hooked there, {after['max']:.3f} with the reference hooked after the norm ({before['requests']} requests)."
    )
    yield "\nThe same plain prompts, asked again in the same way:\n"
    yield "| | largest | requests equal bit for bit |"
    yield "|---|---|---|"
    for label in ("plain against plain", "idle against idle", "idle against plain"):
        row = idle[label]
        yield f"| {label} | {row['max']:.3f} | {row['equal']} of {row['requests']} |"
    for kind, name in (("plugin", "plugin"), ("lora", "plugin and LoRA")):
        row = results[f"exact_{kind}"][NEIGHBOURS]
        yield f"| {name}: {NEIGHBOURS} | {row['max']:.3f} | {row['equal']} of {row['requests']} |"


def _stale(results: dict[str, Any]) -> Iterator[str]:
    told = {
        "plain": "plain vLLM, empty cache folder",
        "unstamped": "control: a plugin that does not mark its graphs",
        "plugin": "the plugin",
        "plugin again": "the plugin, started again",
        "layout": "the plugin with lanes=2",
        "version": "another version of the plugin",
    }
    yield "\n## Stale compiled graphs\n"
    yield "A small Gemma 3, one cache folder for all; each line an engine of its own, in this order.\n"
    yield "| engine | graphs loaded | graphs compiled | steered request's error (nats) |"
    yield "|---|---|---|---|"
    for trial, name in told.items():
        if row := results["stale"].get(trial):
            error = f"{row['steered_error']:.3f}" if "steered_error" in row else "–"
            yield f"| {name} | {row['graphs_loaded']} | {row['graphs_compiled']} | {error} |"
    control = results["stale"]["unstamped"]
    yield (
        f"\nSteering moves the reference by {control['steering_moves']:.3f}. Without the mark the plain graph is "
        "loaded and the request is not steered: the danger is real, and the mark is what averts it."
    )


def _speed(results: dict[str, Any]) -> Iterator[str]:
    yield "\n## Speed, as a ratio to the plain server\n"
    yield "Scoring: prompts of 96 tokens, one token out. Decode: 256 requests of 16 tokens, 128 tokens out.\n"
    yield "| server | setting | goal | rounds | median | | mean, 95% interval | here | plain |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for kind, label, rounds in ratios(results):
        wanted, median = goal(kind, label), median_ratio(rounds)
        verdict = "" if wanted is None else "met" if median >= wanted else "**missed**"
        unit = "tok/s" if label.startswith("decode") else "prompts/s"
        here = statistics.median(r["here"] for r in rounds)
        plain = statistics.median(p for r in rounds for p in r["plain"])
        each = " ".join(f"{r['ratio']:.3f}" for r in rounds)
        name = "eager hooks, as the peers do" if kind == "eager" else kind
        yield (
            f"| {name} | {label} | {'' if wanted is None else wanted} | {each} | {median:.3f} | {verdict} | "
            f"{mean_interval(rounds)} | {here:,.0f} {unit} | {plain:,.0f} {unit} |"
        )
    yield "\nThe plain server's own measurements:"
    for what, unit in (("scoring", "prompts/s"), ("decode", "tok/s")):
        measured = [
            r["plain"] for _, label, rounds in ratios(results) if label.startswith(what) for r in rounds
        ]
        low, high = min(map(min, measured)), max(map(max, measured))
        yield f"{what} {low:,.0f} to {high:,.0f} {unit}."
    yield f"\n{CITED}"


def _profile(results: dict[str, Any]) -> Iterator[str]:
    queue = results.get("queue", {})
    if queue:
        yield "\n## What bounds a server\n"
        yield "Requests that the engine had, of 256 in flight, whenever vLLM logged it under load:\n"
        for kind, samples in queue.items():
            shown = ", ".join(f"{running} running + {waiting} waiting" for running, waiting in samples)
            yield f"* {kind}: {shown}"
    for kind, found in results.get("profile", {}).items():
        yield f"\n## A decoding step of 256 requests, {kind} server\n"
        yield f"{found['us_a_step']:.0f} us, kernels {found['busy_us_a_step']:.0f} us:\n"
        for group, spent in found["groups_us_a_step"].items():
            yield f"* {group}: {spent:.0f} us"


def _start(results: dict[str, Any]) -> Iterator[str]:
    yield "\n## Start and memory\n"
    yield "Started side by side. Buffers are the tables of rows, strengths and directions.\n"
    yield "| server | up after | of which compiling | graph capture | buffers |"
    yield "|---|---|---|---|---|"
    for kind, row in results["start"].items():
        compiling, capture, buffers = (
            f"{row[key]:.0f} {unit}" if key in row else "–"
            for key, unit in (("compile_seconds", "s"), ("capture_seconds", "s"), ("steering_mib", "MiB"))
        )
        yield f"| {kind} | {row['seconds']:.0f} s | {compiling} | {capture} | {buffers} |"
