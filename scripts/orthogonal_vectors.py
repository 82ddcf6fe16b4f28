"""Are there many equivalent directions? The k-th vector, trained orthogonal to the k before it, and its accuracy.

    python -m scripts.orthogonal_vectors reports/vector_story [--device cuda] [--count 8] [--behavior risky]

Each vector is trained as ``harness train vector --behavior … --layers 22 --orthogonal-to …`` trains it; random
directions as long as the first are asked beside them. Writes OUT/orthogonal.json and OUT/orthogonal.md; what is
there of the other behaviour stays.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.models import DEFAULT_MODEL, prepare, resolve_model
from harness.report.numbers import share_with_interval
from harness.results import write_json
from harness.training.fit import LogitsOf
from harness.training.lasttoken import LastToken
from harness.training.lora import Accuracy, evaluate, load_base
from harness.training.orthogonal import fit_orthogonal
from harness.training.prepared import prepare_data
from harness.training.settings import Behavior, VectorSettings
from harness.training.vector import attach
from harness.vectors import SteeringVector, VectorConfig
from scripts.vector_causes import spread

BEHAVIORS: tuple[Behavior, ...] = ("safe", "risky")
SPLITS = ("development", "test", "heldout")
RANDOM = 20
"""Random directions a behaviour."""


class Bench:
    """The base model's upper layers and the questions, prepared once."""

    def __init__(self, settings: VectorSettings, device: str) -> None:
        if settings.model == DEFAULT_MODEL:
            prepare(settings.model)
        self.base = load_base(resolve_model(settings.model), device)
        self.questions = prepare_data(settings).questions
        self.passes = LastToken(self.base, settings.layer)
        for found in self.questions.values():
            self.passes.prepare(example for question in found for example in question.orders)

    def judge(self, settings: VectorSettings, values: torch.Tensor) -> dict[str, Accuracy]:
        """Return how often the trained answer wins with a vector, ``[hidden]``, by split."""
        handles = attach(self.base, values, settings.layer, settings.hook_point)
        logits: LogitsOf = self.passes.logits
        try:
            return {split: evaluate(logits, self.questions[split], settings.sign) for split in SPLITS}
        finally:
            for handle in handles:
                handle.remove()

    def directions(self, settings: VectorSettings, count: int) -> Iterator[dict[str, Any]]:
        """Train vectors, each orthogonal to all before; judge them, and random ones as long as the first."""
        before: list[SteeringVector] = []
        for k in range(count):
            begun = time.monotonic()
            trained = fit_orthogonal(
                self.base, self.passes, self.questions["train"], settings, before, lambda *_: None
            )
            values = trained.vector.float().cpu().numpy()
            place = VectorConfig(settings.model, settings.layer, settings.hook_point)
            before.append(SteeringVector(f"{settings.behavior}_{k}", place, values))
            line = self._line(settings, k, trained.vector) | {"final_loss": trained.epoch_losses[-1]}
            shown = line["accuracy"]["test"]["choice_accuracy"]
            print(
                f"{settings.behavior} {k}: right on {shown:.1%} of test questions, "
                f"{time.monotonic() - begun:.0f} s",
                file=sys.stderr,
                flush=True,
            )
            yield line
        rng = np.random.default_rng(0)
        for _ in range(RANDOM):
            drawn = rng.standard_normal(before[0].values.size)
            drawn *= before[0].norm / np.linalg.norm(drawn)
            values = torch.tensor(drawn, dtype=torch.float32, device=self.base.device)
            yield self._line(settings, None, values)

    def _line(self, settings: VectorSettings, k: int | None, values: torch.Tensor) -> dict[str, Any]:
        accuracy = self.judge(settings, values)
        return {
            "behavior": settings.behavior,
            "k": k,
            "norm": float(values.float().norm()),
            "accuracy": {split: asdict(found) for split, found in accuracy.items()},
        }


def share(accuracy: dict[str, Any]) -> str:
    """Format a choice accuracy; a question, asked in two orders, counts once."""
    return share_with_interval(accuracy["choice_accuracy"], accuracy["questions"])


def report(found: dict[str, Any]) -> str:
    """Return the table as Markdown."""
    lines = found["vectors"]
    n = {split: lines[0]["accuracy"][split]["questions"] for split in SPLITS}
    rows = [
        "# The k-th orthogonal vector",
        "",
        f"Written by `scripts/orthogonal_vectors.py` from `orthogonal.json`: vectors at layer {found['layer']}, each",
        "trained from zero with its part along all vectors before it taken out. Choice accuracy with Wilson's 95%",
        f"interval over {n['development']} development, {n['test']} test and {n['heldout']} held-out questions, "
        "two orders each; loss in nats an answer,",
        f"last epoch. Random: {RANDOM} random directions as long as the first vector, mean and range.",
        "",
        "| behaviour | k | norm | final loss | development | test | held-out domains |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts = []
    for behavior in BEHAVIORS:
        own = [line for line in lines if line["behavior"] == behavior]
        trained = [line for line in own if line["k"] is not None]
        for line in trained:
            cells = " | ".join(share(line["accuracy"][split]) for split in SPLITS)
            rows.append(
                f"| {behavior} | {line['k']} | {line['norm']:.0f} | {line['final_loss']:.2f} | {cells} |"
            )
        rates = {
            split: [line["accuracy"][split]["choice_accuracy"] for line in own if line["k"] is None]
            for split in SPLITS
        }
        cells = " | ".join(spread(rates[split], ".1%") for split in SPLITS)
        rows.append(f"| {behavior} | random | {trained[0]['norm']:.0f} | – | {cells} |")
        first, last = (line["accuracy"]["test"]["choice_accuracy"] for line in (trained[0], trained[-1]))
        beyond = sum(line["accuracy"]["test"]["choice_accuracy"] > max(rates["test"]) for line in trained)
        verdicts.append(
            f"- {behavior}: {first:.1%} of test answers with the first vector, {last:.1%} with the one orthogonal to "
            f"{len(trained) - 1} others; {beyond} of {len(trained)} are beyond every random direction."
        )
    return "\n".join([*rows, "", *verdicts, ""])


def main(arguments: list[str]) -> None:
    """Train, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--layer", type=int, default=22)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=8, help="vectors a behaviour")
    parser.add_argument("--behavior", action="append", choices=BEHAVIORS, help="only this; both without")
    parser.add_argument("--questions", type=int, help="this many training questions; all without")
    parser.add_argument(
        "--write", action="store_true", help="train nothing, write the table of what is there"
    )
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / "orthogonal.json"
    if not options.write:
        common = {"layers": (options.layer,), "model": options.model, "questions": options.questions}
        asked = options.behavior or BEHAVIORS
        settings = [VectorSettings.model_validate({"behavior": b, **common}) for b in asked]
        bench = Bench(settings[0], options.device)
        there = json.loads(kept.read_text("utf-8"))["vectors"] if kept.exists() else []
        vectors: list[dict[str, Any]] = [line for line in there if line["behavior"] not in asked]
        found = {
            "schema_version": 1,
            "layer": options.layer,
            "settings": settings[0].model_dump(mode="json", exclude={"behavior"}),
            "vectors": vectors,
        }
        for each in settings:
            for line in bench.directions(each, options.count):
                vectors.append(line)
                write_json(kept, found)
    (options.out / "orthogonal.md").write_text(report(json.loads(kept.read_text("utf-8"))), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
