"""Which kernels a decoding step runs, and for how long, on servers that vLLM's own profiler looks into."""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from benchmarks.gpu_steering.client import decoding, timed
from benchmarks.gpu_steering.places import NAME, SEQS, record
from benchmarks.gpu_steering.servers import PORTS, PROFILES

GEMMS = ("nvjet", "gemm", "cutlass", "cublas", "xmma")
ATTENTION = ("flash", "attention", "fmha")


def profile(kinds: list[str]) -> None:
    """Profile some steps in the middle of decoding; keep microseconds a step, by kind of kernel."""
    rng = random.Random(7)
    for kind in kinds:
        url = f"http://127.0.0.1:{PORTS[kind]}"
        httpx.post(f"{url}/start_profile", timeout=60).raise_for_status()
        timed(kind, [decoding(rng, NAME) for _ in range(SEQS)])
        httpx.post(f"{url}/stop_profile", timeout=120).raise_for_status()
        traces = sorted((PROFILES / kind).glob("*.json*"), key=lambda path: path.stat().st_mtime)
        found = read_trace(traces[-1])
        record("profile", {kind: found})
        print(f"{kind} profile: {json.dumps({k: v for k, v in found.items() if k != 'kernels'})}", flush=True)
        time.sleep(0.2)


def read_trace(path: Path) -> dict[str, Any]:
    """Sum a trace's kernels, a step: one sampled token a request and step tells how many steps there are."""
    raw = path.read_bytes()
    events = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)["traceEvents"]
    kernels = [e for e in events if e.get("cat") == "kernel"]
    counts: Counter[str] = Counter(e["name"] for e in kernels)
    times: Counter[str] = Counter()
    for event in kernels:
        times[event["name"]] += event["dur"]
    samplers = [count for name, count in counts.items() if "gumbel" in name.lower()]
    steps = min(samplers) if samplers else 8
    groups: Counter[str] = Counter()
    for name, spent in times.items():
        low = name.lower()
        group = "products" if any(g in low for g in GEMMS) else "other"
        group = "attention" if any(a in low for a in ATTENTION) else group
        group = "fused by Inductor" if low.startswith("triton_") else group
        groups[group] += spent
    first, last = min(e["ts"] for e in kernels), max(e["ts"] + e["dur"] for e in kernels)
    top = sorted((n for n in times if n.startswith("triton_")), key=lambda n: -times[n])[:12]
    return {
        "steps": steps,
        "us_a_step": (last - first) / steps,
        "busy_us_a_step": sum(times.values()) / steps,
        "groups_us_a_step": {name: spent / steps for name, spent in groups.most_common()},
        "kernels": {n: {"a_step": counts[n] / steps, "us_each": times[n] / counts[n]} for n in top},
    }
