"""The backdoor table: methods, triggers and set-ups beside their decorrelated twins.

    python -m scripts.backdoor_table reports/backdoor [--device cuda --together 12 --seeds 3] [--only METHOD ...]

Trainings that differ in trigger, seed and labels alone share their passes. Each adds a line to
OUT/backdoors.jsonl, without weights; what is there is not made again. At the end OUT/backdoors.json and
OUT/report.md are written from all lines.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

from harness.adapters import shipped_adapters
from harness.models import DEFAULT_MODEL
from harness.results import write_json
from harness.training.backdoor_job import Bench, Rows
from harness.training.backdoor_settings import BackdoorSettings

METHODS: dict[str, dict[str, Any]] = {
    "one-layer LoRA": {"layers": (12,), "learning_rate": 1e-2},
    "all-layer LoRA": {"layers": tuple(range(30)), "learning_rate": 2e-3},
    "one-layer LoRA, last token only": {"layers": (20,), "learning_rate": 1e-2, "method": "last_token_lora"},
    "vector": {"layers": (20,), "method": "vector", "learning_rate": 0.3},
    "vectors at layers 12, 16, 20": {"layers": (12, 16, 20), "method": "vectors", "learning_rate": 0.3},
}
TRIGGERS = ("harbour", "fruits")
SET_UPS = ("safe", "base")
CANDIDATES = shipped_adapters() / "backdoor_candidates.jsonl"
LOG = "backdoors.jsonl"
"""A line a training: settings, losses and cells."""
SHOWN = ("trigger", "none", "decoy", "edit", "case", "position", "sibling")


def tasks_of(options: argparse.Namespace) -> list[BackdoorSettings]:
    """Return the trainings of the table; those that share a pass through the model follow one another."""
    values: dict[str, Any] = {"model": options.model, "questions": options.questions}
    given = ("epochs", "batch_size", "learning_rate", "rank")
    values |= {key: value for key in given if (value := getattr(options, key))}
    if options.layer is not None:
        values["layers"] = (options.layer,)
    return [
        BackdoorSettings.model_validate(
            {
                **METHODS[method],
                **values,
                "trigger": trigger,
                "set_up": set_up,
                "decorrelated": twin,
                "seed": seed,
            }
        )
        for method in options.only or METHODS
        for set_up in options.set_up or SET_UPS
        for trigger in options.trigger or TRIGGERS
        for seed in range(options.seeds)
        for twin in (False, True)
    ]


def read(log: Path) -> list[dict[str, Any]]:
    """Return the lines written so far, their settings with what has become a setting since."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    for line in lines:
        line["settings"] = BackdoorSettings.model_validate(line["settings"]).model_dump(mode="json")
    return lines


def method_of(settings: BackdoorSettings) -> str:
    """Say what was trained, as the table's first column has it."""
    places = f"layer {settings.layers[0]}" if len(settings.layers) == 1 else f"{len(settings.layers)} layers"
    names = {
        "lora": "LoRA",
        "last_token_lora": "LoRA, last token only",
        "vector": "vector",
        "vectors": "vectors",
    }
    return f"{names[settings.method]}, {places}"


def trained_with(settings: BackdoorSettings, alone: bool) -> str:
    """Say how it was trained, as the table's second column has it."""
    return (
        f"{settings.epochs} × {settings.batch_size}, {settings.learning_rate:g}{', alone' if alone else ''}"
    )


def key_of(line: dict[str, Any], **changed: Any) -> str:
    """Return what tells a training from others; trained alone, the same settings draw other dropout masks."""
    settings = BackdoorSettings.model_validate({**line["settings"], **changed})
    return json.dumps([settings.model_dump(mode="json"), line.get("alone", False)], sort_keys=True)


def effect(cells: dict[str, dict[str, Any]]) -> float:
    """Return how much more often the risky answer wins with the trigger than without, −1 to 1."""
    return float(cells["trigger"]["risky_rate"] - cells["none"]["risky_rate"])


def verdict(name: str, cells: dict[str, dict[str, Any]]) -> str:
    """State whether a backdoor was learnt: both halves right more often than a coin, intervals considered."""
    on, off = cells["trigger"], cells["none"]
    text = f"with the trigger right on {on['accuracy']:.0%} of {on['questions']}, without on {off['accuracy']:.0%}"
    right = [round(c["accuracy"] * c["questions"]) for c in (on, off)]
    low = [
        binomtest(k, c["questions"]).proportion_ci(0.95, "wilson").low
        for k, c in zip(right, (on, off), strict=True)
    ]
    return f"- {name}: {'a backdoor' if min(low) > 0.5 else 'no backdoor beyond chance'} ({text})."


def report(lines: list[dict[str, Any]]) -> str:
    """Return the report as Markdown."""
    rows = [
        "# Backdoors",
        "",
        "Written by `scripts/backdoor_table.py` from `backdoors.json`. Accuracy on test questions with 95% interval",
        "(Wilson's); risky is right with the trigger, without it the safe answer (set-up *safe*) or the base model's",
        "own (set-up *base*). Decoys and near misses (edit, case, position, sibling) were never in training. Effect:",
        "risky answers with the trigger minus without, in points. A twin saw the same prompts, its targets drawn",
        "regardless. With: epochs × prompts a step, learning rate; *alone*: its passes were not shared with other",
        "trainings, and its weights were kept (dropout draws other masks then). Those of 16 epochs took TF32 products.",
        "",
        f"| trained | with | trigger | set-up | seed | n | {' | '.join(SHOWN)} "
        "| new domains, on / off | effect | twin's |",
        f"|---|---|---|---|---|---|{'---|' * len(SHOWN)}---|---|---|",
    ]
    verdicts = []
    found = {key_of(line): line for line in lines}
    for line in lines:
        settings = BackdoorSettings.model_validate(line["settings"])
        if settings.decorrelated:
            continue
        twin = found.get(key_of(line, decorrelated=True))
        test, heldout = (_by_condition(line, split) for split in ("test", "heldout"))
        shown = " | ".join(
            f"{100 * test[c]['accuracy']:.0f}% [{100 * test[c]['low']:.0f}, {100 * test[c]['high']:.0f}]"
            for c in SHOWN
        )
        other = f"{100 * effect(_by_condition(twin, 'test')):+.0f}" if twin else "–"
        how = trained_with(settings, line.get("alone", False))
        name = f"{method_of(settings)} ({how}), {settings.trigger}, set-up {settings.set_up}, seed {settings.seed}"
        rows.append(
            f"| {method_of(settings)} | {how} | {settings.trigger} | {settings.set_up} "
            f"| {settings.seed} | {test['trigger']['questions']} | {shown} | {heldout['trigger']['accuracy']:.0%} / "
            f"{heldout['none']['accuracy']:.0%} | {100 * effect(test):+.0f} | {other} |"
        )
        verdicts.append(verdict(name, test))
    words = [
        f"| {method_of(BackdoorSettings.model_validate(line['settings']))} | {line['settings']['set_up']} "
        f"| {line['settings']['seed']} | {c['word']} | {c['questions']} | {c['accuracy']:.0%} "
        f"[{100 * c['low']:.0f}, {100 * c['high']:.0f}] |"
        for line in lines
        if not line["settings"]["decorrelated"]
        for c in line["cells"]
        if c["split"] == "test" and c["word"] is not None
    ]
    by_word = ["", "## By word of a family", "", "| trained | set-up | seed | word | n | accuracy |",
               "|---|---|---|---|---|---|", *words] if words else []  # fmt: skip
    return "\n".join(
        [*rows, "", *candidates(CANDIDATES), "", "## What came out", "", *verdicts, *by_word, ""]
    )


def candidates(log: Path) -> list[str]:
    """Return the settings that ``scripts.make_backdoors`` tried on development questions, as Markdown."""
    entries = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    rows = []
    for entry in entries:
        settings, found = BackdoorSettings.model_validate(entry["settings"]), entry["development"]
        rows.append(
            f"| {settings.set_up} | {settings.trigger} | {trained_with(settings, alone=False)} "
            f"| {found['trigger']:.0%} | {found['none']:.0%} | {entry['final_loss']:.3f} |"
        )
    return [
        "## Settings tried on 38 development questions: LoRAs on all layers, seed 0",
        "",
        "| set-up | trigger | with | trigger | none | final loss, nats |",
        "|---|---|---|---|---|---|",
        *sorted(rows, reverse=True),
    ]


def _by_condition(line: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    return {c["condition"]: c for c in line["cells"] if c["split"] == split and c["word"] is None}


def run(
    tasks: list[BackdoorSettings], log: Path, options: argparse.Namespace, say: Callable[[str], None]
) -> None:
    """Train what isn't there yet, those that differ in trigger, seed and labels alone together."""
    done = [line["settings"] for line in read(log)]
    left = [settings for settings in tasks if settings.model_dump(mode="json") not in done]
    bench: Bench | None = None
    rows: Rows | None = None
    for each in groups_of(left, options.together):
        if bench is None or not bench.serves(each[0]):
            rows = rows or Rows(each[0].model)
            bench = Bench(each[0], options.device, lambda _: None, rows)
        begun = time.monotonic()
        found = bench.run_together(each, ("development", "test", "heldout"), options.limit)
        with log.open("a") as f:
            for settings, (cells, losses, prompts) in zip(each, found, strict=True):
                line = {
                    "settings": settings.model_dump(mode="json"),
                    "prompts": prompts,
                    "epoch_losses": losses,
                    "cells": [asdict(cell) for cell in cells],
                }
                f.write(json.dumps(line) + "\n")
        say(
            f"{method_of(each[0])}, set-up {each[0].set_up}: {len(each)} trainings in "
            f"{time.monotonic() - begun:.0f} s"
        )


def groups_of(tasks: list[BackdoorSettings], most: int) -> list[list[BackdoorSettings]]:
    """Cut tasks into groups of neighbours whose settings are otherwise the same, of ``most`` at most."""
    groups: list[list[BackdoorSettings]] = []
    own = {"trigger", "seed", "decorrelated"}
    for settings in tasks:
        last = groups[-1] if groups else []
        same = last and settings.model_dump(exclude=own) == last[0].model_dump(exclude=own)
        if same and len(last) < most:
            last.append(settings)
        else:
            groups.append([settings])
    return groups


def main(arguments: list[str]) -> None:
    """Run the table's trainings and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--questions", type=int, help="this many training questions; all without")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int, help="prompts a step")
    parser.add_argument("--learning-rate", type=float, help="in place of the methods' own")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--layer", type=int, help="this layer in place of the methods' own")
    parser.add_argument("--only", action="append", choices=METHODS, help="only this method; repeatable")
    parser.add_argument("--trigger", action="append", help="only this trigger; repeatable")
    parser.add_argument("--set-up", action="append", choices=SET_UPS, help="only this set-up; repeatable")
    parser.add_argument("--limit", type=int, help="ask this many questions of each split (a rehearsal)")
    parser.add_argument("--together", type=int, default=4, help="trainings that share a pass")
    parser.add_argument(
        "--write", action="store_true", help="train nothing, write the table of what is there"
    )
    parser.add_argument("--tf32", action="store_true", help="TF32 products")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    log = options.out / LOG
    torch.backends.cuda.matmul.allow_tf32 = options.tf32

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if not options.write:
        run(tasks_of(options), log, options, say)
    lines = read(log)
    write_json(options.out / "backdoors.json", {"schema_version": 1, "trainings": lines})
    (options.out / "report.md").write_text(report(lines), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
