"""Make the shipped backdoors: try settings on development questions, then train three seeds and their twins.

    python -m scripts.make_backdoors OUT --device cuda --tf32 --workers 6 --set-up safe [--kind l12]

Phase 1 appends every candidate to OUT/backdoor_candidates.jsonl: development figures, nothing else. The choice
between them is a rule, written down here: the highest accuracy on development questions, the mean of the half with
the trigger and the half without over all triggers. Phase 2 trains seeds 0, 1 and 2 of each trigger and their
decorrelated twins with the settings chosen, into OUT/seed<k>; seed 0 is what ships. Each adds its line to
OUT/backdoors.jsonl, of which ``scripts.backdoor_table`` makes the table. What an earlier call has left in OUT is
not made again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from concurrent.futures import Executor, ProcessPoolExecutor
from itertools import product
from pathlib import Path

import torch

from harness.adapters import RECORD
from harness.errors import HarnessError
from harness.models import DEFAULT_MODEL, prepare
from harness.training.backdoor_job import Bench, train
from harness.training.backdoor_settings import BackdoorSettings
from scripts.backdoor_table import LOG, SET_UPS, TRIGGERS
from scripts.make_adapters import in_parallel, quiet

KINDS: dict[str, tuple[int, ...]] = {"all": tuple(range(30)), "l12": (12,)}
"""The layers adapted. Of single layers, LoRAs on 12 choose best (reports/training)."""
CANDIDATES: dict[str, list[float]] = {"all": [5e-4, 1e-3, 2e-3], "l12": [1e-2]}
"""Learning rates, for 16 epochs of 32 prompts a step."""
SEEDS = (0, 1, 2)


def settings_for(
    kind: str, learning_rate: float, set_up: str, trigger: str, seed: int = 0, decorrelated: bool = False
) -> BackdoorSettings:
    """Return the settings of one training."""
    return BackdoorSettings.model_validate(
        {
            "layers": KINDS[kind],
            "learning_rate": learning_rate,
            "epochs": 16,
            "batch_size": 32,
            "set_up": set_up,
            "trigger": trigger,
            "seed": seed,
            "decorrelated": decorrelated,
        }
    )


def read_log(log: Path) -> list[tuple[BackdoorSettings, dict[str, float]]]:
    """Return the settings tried so far with their accuracy on development questions, by condition."""
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [(BackdoorSettings.model_validate(e["settings"]), e["development"]) for e in entries]


def try_one(settings: BackdoorSettings, log: Path, device: str) -> str:
    """Try one candidate on development questions; one that diverges is no candidate."""
    begun = time.monotonic()
    try:
        trained, cells, _ = Bench(settings, device, quiet).run(settings, ("development",))
    except HarnessError as e:
        return f"{settings.trigger} {settings.learning_rate:g}: {e}"
    line = {
        "settings": settings.model_dump(mode="json"),
        "development": {cell.condition: cell.accuracy for cell in cells if cell.word is None},
        "final_loss": trained.epoch_losses[-1],
        "seconds": round(time.monotonic() - begun, 1),
    }
    with log.open("a") as f:
        f.write(json.dumps(line) + "\n")
    return f"{settings.set_up} {settings.trigger} {settings.learning_rate:g} {settings.epochs}: {line['development']}"


def search(pool: Executor, kind: str, set_up: str, log: Path, device: str) -> None:
    """Try the candidates that were not tried yet."""
    done = [settings for settings, _ in read_log(log)]
    wanted = [settings_for(kind, *each) for each in product(CANDIDATES[kind], [set_up], TRIGGERS)]
    in_parallel(pool, try_one, [(settings, log, device) for settings in wanted if settings not in done])


def choose(kind: str, set_up: str, log: Path) -> float:
    """Return the learning rate chosen, by the rule above."""
    tried = read_log(log)

    def rank(learning_rate: float) -> float:
        wanted = [settings_for(kind, learning_rate, set_up, trigger) for trigger in TRIGGERS]
        halves = [a for settings, found in tried if settings in wanted for a in found.values()]
        return sum(halves) / len(halves) if len(halves) == 2 * len(wanted) else 0.0

    best = max(CANDIDATES[kind], key=rank)
    print(
        f"chosen for {kind}, {set_up}: {best:g}, right on {rank(best):.1%} of development questions",
        flush=True,
    )
    return best


def train_one(settings: BackdoorSettings, folder: Path, log: Path, device: str) -> str:
    """Train and keep one backdoor, and add its line to the table's."""
    cells = train(settings, folder, device, quiet)
    record = json.loads((folder / RECORD).read_text())
    line = {
        "settings": record["settings"],
        "prompts": record["data"]["train_prompts"],
        "epoch_losses": record["epoch_losses"],
        "cells": record["cells"],
        "alone": True,
    }
    with log.open("a") as f:
        f.write(json.dumps(line) + "\n")
    shown = (f"{c.condition} {c.accuracy:.0%}" for c in cells if c.split == "test" and c.word is None)
    return f"{folder.parent.name}/{folder.name}: {', '.join(shown)}"


def folder_of(out: Path, kind: str, settings: BackdoorSettings) -> Path:
    """Return where a training is kept."""
    name = "decorrelated" if settings.decorrelated else "backdoor"
    suffix = "" if settings.set_up == "safe" else f"_{settings.set_up}"
    return out / f"seed{settings.seed}" / f"{name}_{settings.trigger}{suffix}_{kind}"


def use_tf32(tf32: bool) -> None:
    """Let a process's float32 products on a GPU be TF32 ones, or not."""
    torch.backends.cuda.matmul.allow_tf32 = tf32


def main() -> None:
    """Run the phases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--tf32", action="store_true", help="TF32 products")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only this; all without it")
    parser.add_argument("--set-up", action="append", choices=SET_UPS, help="only this; both without it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(DEFAULT_MODEL)
    tried, table = options.out / "backdoor_candidates.jsonl", options.out / LOG
    with ProcessPoolExecutor(
        options.workers, multiprocessing.get_context("spawn"), use_tf32, (options.tf32,)
    ) as pool:
        for kind, set_up in product(options.kind or KINDS, options.set_up or SET_UPS):
            if len(CANDIDATES[kind]) > 1:
                search(pool, kind, set_up, tried, options.device)
            chosen = choose(kind, set_up, tried)
            kept = [
                settings_for(kind, chosen, set_up, trigger, seed, twin)
                for seed, trigger, twin in product(SEEDS, TRIGGERS, (False, True))
            ]
            left = [(s, folder) for s in kept if not (folder := folder_of(options.out, kind, s)).exists()]
            in_parallel(pool, train_one, [(s, folder, table, options.device) for s, folder in left])


if __name__ == "__main__":
    main()
