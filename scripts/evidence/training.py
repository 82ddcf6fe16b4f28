"""Training: what ``benchmarks/gpu_training.py`` and ``scripts/train_by_layer.py`` wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from scripts.evidence.line import REPORTS, Line

FOLDER = REPORTS / "training"


def training() -> Iterator[Line]:
    """Speed at Gemma 3 12B's shape, and the embedded model's layers."""
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
    times = vectors["prompts_per_second"] / plain["vector"]["8"]
    yield Line(
        "vectors against the plain loop, batch 8",
        f"{times:.0f}x",
        ">= 100x (150x was asked for)",
        times >= 100,
        gpu=True,
    )
    times = found["all_layers"]["prompts_per_second"] / max(plain["all"].values())
    yield Line(
        "all-layer LoRA against the plain loop's best batch", f"{times:.2f}x", ">= 1x", times >= 1, gpu=True
    )
    peak = max(loras["peak_gb"], vectors["peak_gb"], found["all_layers"]["peak_gb"])
    yield Line("peak GPU memory of all these", f"{peak:.0f} GB", "< 70 GB", peak < 70, gpu=True)
    rows = pd.read_parquet(FOLDER / "accuracy.parquet")
    here = rows[(rows["kind"] == "lora") & (rows["format"] == "named")]
    development = here[here["split"] == "development"].groupby("layer")["choice_accuracy"].mean()
    best = int(development.idxmax())
    test = here[(here["split"] == "test") & (here["layer"] == best)]["choice_accuracy"]
    yield Line(
        f"LoRA of the layer best on development questions ({best}): test accuracy, {len(test)} adapters",
        f"{test.min():.1%} to {test.max():.1%}",
        "reported",
        True,
        gpu=True,
    )
