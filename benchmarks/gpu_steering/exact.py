"""A server's log-probabilities against the reference's, beside what plain servers differ by among themselves."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.gpu_steering.cases import Case, lora_cases, request, vector_cases, watched
from benchmarks.gpu_steering.client import ask_all
from benchmarks.gpu_steering.places import NEIGHBOURS, REFERENCE, record

Watched = NDArray[np.float32]


def ask(kind: str, cases: list[Case], bare: bool = False) -> list[Watched]:
    """Send all cases at once; return each one's watched log-probabilities, ``[STEPS, WATCHED]``."""
    found = []
    for answer in ask_all(kind, [request(case, bare) for case in cases]):
        steps = answer["choices"][0]["logprobs"]["top_logprobs"]
        values = [{int(token.split(":")[1]): value for token, value in step.items()} for step in steps]
        found.append(np.array([[step[token] for token in watched()] for step in values], dtype=np.float32))
    return found


def gaps(one: list[Watched], other: list[Watched]) -> list[float]:
    """Return each request's largest difference, in nats; a NaN stays one."""
    return [float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True)]


def summary(values: list[float]) -> dict[str, float]:
    """Return the largest of requests' largest differences, their median, and how many are 0."""
    return {
        "max": float(np.max(values)),
        "median": statistics.median(values),
        "requests": len(values),
        "equal": sum(value == 0 for value in values),
    }


def against_reference(kind: str, which: str, cases: list[Case]) -> None:
    """Ask cold, warm and warm again; compare with the reference by kind of request."""
    reference = np.load(REFERENCE)
    right = [reference[f"{which}/{i}/right"] for i in range(len(cases))]
    rounds = [ask(kind, cases) for _ in range(3)]
    found: dict[str, Any] = {}
    for label, got in zip(("cold", "warm"), rounds, strict=False):
        errors = gaps(got, right)
        by_kind: dict[str, list[float]] = defaultdict(list)
        for case, error in zip(cases, errors, strict=True):
            by_kind[case.kind].append(error)
        found[label] = {key: summary(values) for key, values in by_kind.items()}
        found[label]["all steered"] = summary(
            [e for case, e in zip(cases, errors, strict=True) if case.steered]
        )
    found["the same again, warm"] = summary(gaps(rounds[1], rounds[2]))
    plain = [i for i, case in enumerate(cases) if not case.steered]
    beside = ask(kind, cases, bare=True)
    found[NEIGHBOURS] = summary(gaps([rounds[1][i] for i in plain], [beside[i] for i in plain]))
    moved = [
        float(np.abs(right[i] - reference[f"{which}/{i}/bare"]).max())
        for i in range(len(cases))
        if f"{which}/{i}/bare" in reference
    ]
    found["steering moves the reference by"] = summary(moved)
    wrong = [i for i in range(len(cases)) if f"{which}/{i}/after norm" in reference]
    if wrong:
        after = [reference[f"{which}/{i}/after norm"] for i in wrong]
        found["mlp_out, reference hooked before the norm"] = summary(
            gaps([rounds[0][i] for i in wrong], [right[i] for i in wrong])
        )
        found["mlp_out, reference hooked after the norm"] = summary(
            gaps([rounds[0][i] for i in wrong], after)
        )
    record(f"exact_{kind}", found)
    for label, value in found.items():
        print(f"{kind} {label}: {value}", flush=True)


def idle_against_plain(kind: str) -> None:
    """The same plain prompts on a server with the idle plugin and on one without, and each again on itself."""
    reference, cases = np.load(REFERENCE), vector_cases()
    bare = [
        reference[f"vectors/{i}/bare" if case.steered else f"vectors/{i}/right"]
        for i, case in enumerate(cases)
    ]
    ask("plain", cases, bare=True)
    plain = [ask("plain", cases, bare=True) for _ in range(2)]
    ask(kind, cases, bare=True)
    idle = [ask(kind, cases, bare=True) for _ in range(2)]
    found = {
        "plain against the reference": summary(gaps(plain[0], bare)),
        "idle against the reference": summary(gaps(idle[0], bare)),
        "plain against plain": summary(gaps(*plain)),
        "idle against idle": summary(gaps(*idle)),
        "idle against plain": summary(gaps(idle[0], plain[0])),
    }
    record(f"idle_{kind}", found)
    for label, value in found.items():
        print(f"{kind} {label}: {value}", flush=True)


def exact(kinds: list[str]) -> None:
    """Check servers, each with the cases that it can serve."""
    for kind in kinds:
        if kind == "lora":
            against_reference(kind, "loras", lora_cases())
        else:
            against_reference(kind, "vectors", vector_cases())
            idle_against_plain(kind)
