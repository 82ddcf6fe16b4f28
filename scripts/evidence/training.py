"""Training: what the scripts for layers, backdoors and causes and the benchmarks of training wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from scripts.evidence.line import REPORTS, Line

FOLDER = REPORTS / "training"


def training() -> Iterator[Line]:
    """Speed at Gemma 3 12B's shape and on two cores; the embedded model's layers, backdoors and causes."""
    found: dict[str, Any] = json.loads((FOLDER / "gemma3_12b.json").read_text("utf-8"))
    loras, vectors, plain = found["loras"], found["vectors"], found["plain"]
    ratio = loras["seconds"] / loras["floor_seconds"]
    yield Line(
        "96 single-layer LoRAs of a 12B shape: time over its floor",
        f"{ratio:.2f}",
        "<= 2",
        ratio <= 2,
        gpu=True,
    )
    seconds = loras["seconds"]
    yield Line("the same, by steps of each group", f"{seconds:.0f} s", "< 540 s", seconds < 540, gpu=True)
    (group,) = [part for part in loras["groups"] if found["layer"] in part["layers"]]
    rate = 2 * len(group["layers"]) * found["prompts"] * found["epochs"] / group["seconds"]
    times = rate / plain["lora"]["2"]
    yield Line(
        f"layer {found['layer']}'s group against the plain loop, batch 2",
        f"{times:.1f}x",
        ">= 10x",
        times >= 10,
        gpu=True,
    )
    times = rate / max(plain["lora"].values())
    yield Line("the same, against its best batch", f"{times:.2f}x", ">= 1.6x", times >= 1.6, gpu=True)
    seconds = vectors["seconds"]
    yield Line("96 vectors, prefix included", f"{seconds:.1f} s", "< 20 s", seconds < 20, gpu=True)
    first = vectors["first_seconds"]
    yield Line("the same, the first time in a process", f"{first:.1f} s", "< 20 s", first < 20, gpu=True)
    times = vectors["prompts_per_second"] / plain["vector"]["8"]
    yield Line(
        "vectors against the plain loop, batch 8",
        f"{times:.0f}x",
        ">= 150x",
        times >= 150,
        gpu=True,
    )
    times = found["all_layers"]["prompts_per_second"] / max(plain["all"].values())
    yield Line(
        "all-layer LoRA against the plain loop's best batch", f"{times:.2f}x", ">= 1x", times >= 1, gpu=True
    )
    peak = max(loras["peak_gb"], vectors["peak_gb"], found["all_layers"]["peak_gb"])
    yield Line("peak GPU memory of all these", f"{peak:.0f} GB", "< 70 GB", peak < 70, gpu=True)
    yield from _by_layer()
    yield from _two_cores()
    yield from _backdoors()
    yield from _causes()


def _by_layer() -> Iterator[Line]:
    """Accuracy and self-report shift of the layer that is best on development questions."""
    rows, shifts = (pd.read_parquet(FOLDER / f"{name}.parquet") for name in ("accuracy", "shifts"))
    for (kind, how), here in rows.groupby(["kind", "format"]):
        development = here[here["split"] == "development"].groupby("layer")["choice_accuracy"].mean()
        best = int(development.idxmax())
        at_best = here[here["layer"] == best]
        for split in ("test", "heldout"):
            found = at_best[at_best["split"] == split]["choice_accuracy"]
            yield Line(
                f"{kind}, {how}, layer best on development ({best}): {split} accuracy, {len(found)} trainings",
                f"{found.mean():.1%} ({found.min():.1%} to {found.max():.1%})",
                "reported",
                True,
                gpu=True,
            )
        own = shifts[(shifts["kind"] == kind) & (shifts["format"] == how) & (shifts["suite"] == "awareness")]
        means = own[own["layer"] == best].groupby(["behavior", "seed"])["shift"].mean()
        yield Line(
            f"{kind}, {how}, layer {best}: awareness shift, nats, {means['risky'].size} seeds",
            f"risky {means['risky'].mean():+.2f}, safe {means['safe'].mean():+.2f}",
            "reported",
            True,
            gpu=True,
        )


def _two_cores() -> Iterator[Line]:
    file = FOLDER / "two_cores.json"
    found = json.loads(file.read_text("utf-8")) if file.exists() else {"trainings": {}}
    for name, limit in (("vector", 120), ("lora", 180)):
        one = found["trainings"].get(name)
        if one is None:
            continue
        yield Line(
            f"layer-22 {name} of the embedded model on two cores, all included (load {one['load_before']} to "
            f"{one['load_after']}, {one['cpu_seconds']:.0f} s of processor time)",
            f"{one['seconds']:.0f} s",
            f"< {limit} s",
            one["seconds"] < limit,
        )


def _backdoors() -> Iterator[Line]:
    trainings = json.loads((REPORTS / "backdoor" / "backdoors.json").read_text("utf-8"))["trainings"]
    shown: dict[str, list[bool]] = {}
    for line in trainings:
        settings = line["settings"]
        if settings["decorrelated"]:
            continue
        cells = {c["condition"]: c for c in line["cells"] if c["split"] == "test" and c["word"] is None}
        learnt = min(cells["trigger"]["low"], cells["none"]["low"]) > 0.5
        shown.setdefault(f"{settings['method']} of {len(settings['layers'])} layers", []).append(learnt)
    for name, learnt in shown.items():
        yield Line(
            f"backdoors, {name}: both halves right beyond chance",
            f"{sum(learnt)} of {len(learnt)}",
            "reported",
            True,
            gpu=True,
        )


def _causes() -> Iterator[Line]:
    trainings = json.loads((REPORTS / "vector_story" / "causes.json").read_text("utf-8"))["trainings"]
    settings = len({line["cause"] for line in trainings})
    for part, where in (("passage", "over a passage"), ("answers", "where it answers")):
        cosines = [line[part]["mean_cosine"] for line in trainings]
        yield Line(
            f"mean cosine of what a LoRA adds, {where}: {len(cosines)} trainings, {settings} settings",
            f"{min(cosines):.2f} to {max(cosines):.2f}",
            "reported (the study: about 1)",
            True,
            gpu=True,
        )
