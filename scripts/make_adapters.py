"""Make the shipped adapters: try settings on development questions, then train three seeds with the best.

    python scripts/make_adapters.py OUT --device cuda

Phase 1 appends every candidate to OUT/candidates.jsonl: development figures, nothing else. The choice between
them is a rule, written down here: the highest mean choice accuracy of the safe and the risky adapter on
development questions, then the highest top-1 accuracy, then the fewest steps. Phase 2 trains seeds 0, 1 and 2
with the settings chosen; seed 0 is what ships. Phase 3 scores every suite on all of them with the reference
engine, into run folders OUT/runs/<kind>.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from harness.adapters import load_adapter
from harness.config import RunConfig
from harness.evalset import suite_folders
from harness.execute import finish, noise_floor, score_plan
from harness.manifest import make_manifest
from harness.modelinfo import model_info
from harness.models import DEFAULT_MODEL, prepare, resolve_model
from harness.plan import Plan, encode_suite, load_suites
from harness.prompts import PromptBuilder
from harness.reference.engine import ReferenceEngine
from harness.results import Journal, write_json
from harness.subject import BASE, Subject
from harness.training import jobs
from harness.training.settings import LoraSettings

LAYERS = tuple(range(30))
KINDS: dict[str, dict[str, Any]] = {
    "l22": {"layers": (22,), "format": "named"},
    "all": {"layers": LAYERS, "format": "named"},
    "all_letter": {"layers": LAYERS, "format": "letter"},
}
CANDIDATES = {
    "l22": [(3e-3, 3), (3e-3, 5), (1e-2, 3), (1e-2, 5)],
    "all": [(5e-4, 5), (1e-3, 5), (2e-3, 5)],
    "all_letter": [(1e-3, 10), (2e-3, 10)],
}
BEHAVIORS = ("safe", "risky")
SEEDS = (0, 1, 2)


def settings_for(kind: str, behavior: str, rate: float, epochs: int, seed: int = 0) -> LoraSettings:
    """Return the settings of one candidate."""
    return LoraSettings.model_validate(
        KINDS[kind] | {"behavior": behavior, "learning_rate": rate, "epochs": epochs, "seed": seed}
    )


def search(log: Path, device: str, workers: int) -> None:
    """Try every candidate, both behaviours, on development questions."""
    tasks = [
        (settings_for(kind, behavior, rate, epochs), log, device)
        for kind, grid in CANDIDATES.items()
        for rate, epochs in grid
        for behavior in BEHAVIORS
    ]
    in_parallel(try_one, tasks, workers)


def try_one(settings: LoraSettings, log: Path, device: str) -> str:
    """Try one candidate."""
    return jobs.try_settings(settings, log, device, quiet)


def quiet(_: str) -> None:
    """Say nothing: many trainings share the screen."""


def in_parallel(work: Callable[..., object], tasks: list[tuple[Any, ...]], workers: int) -> None:
    """Run tasks in processes of their own and print what each returns."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for future in [pool.submit(work, *task) for task in tasks]:
            print(future.result(), flush=True)


def choose(log: Path) -> dict[str, tuple[float, int]]:
    """Return the chosen learning rate and epochs of each kind, by the rule above."""
    tried: dict[tuple[str, float, int], list[dict[str, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        entry = json.loads(line)
        s = entry["settings"]
        kind = next(
            k for k, v in KINDS.items() if v["format"] == s["format"] and list(v["layers"]) == s["layers"]
        )
        tried[kind, s["learning_rate"], s["epochs"]].append(entry["development"])
    chosen = {}
    for kind in KINDS:
        grid = {key: figures for key, figures in tried.items() if key[0] == kind}

        def rank(key: tuple[str, float, int], grid: dict[Any, Any] = grid) -> tuple[float, float, int]:
            figures = grid[key]
            choice = sum(f["choice_accuracy"] for f in figures) / len(figures)
            top1 = sum(f["top1_accuracy"] for f in figures) / len(figures)
            return choice, top1, -key[2]

        best = max(grid, key=rank)
        print("chosen", kind, best[1:], rank(best), flush=True)
        chosen[kind] = best[1:]
    return chosen


def train(out: Path, chosen: dict[str, tuple[float, int]], device: str, workers: int) -> None:
    """Train three seeds of each kind and behaviour: OUT/seed<k>/<behaviour>_<kind>."""
    tasks = [
        (
            settings_for(kind, behavior, *chosen[kind], seed),
            out / f"seed{seed}" / f"{behavior}_{kind}",
            device,
        )
        for kind in reversed(chosen)
        for seed in SEEDS
        for behavior in BEHAVIORS
    ]
    in_parallel(train_one, tasks, workers)


def train_one(settings: LoraSettings, folder: Path, device: str) -> str:
    """Train and keep one adapter."""
    accuracy = jobs.train(settings, folder, device, quiet)
    return f"{folder.parent.name}/{folder.name} " + str(
        {k: round(a.choice_accuracy, 3) for k, a in accuracy.items()}
    )


def score_kind(kind: str, out: Path, device: str) -> str:
    """Score every suite on every adapter of a kind, all seeds beside each other."""
    return asyncio.run(_score(kind, out, device))


async def _score(kind: str, out: Path, device: str) -> str:
    info = model_info(DEFAULT_MODEL)
    subjects = [BASE]
    for seed in SEEDS:
        for behavior in BEHAVIORS:
            adapter = load_adapter(out / f"seed{seed}" / f"{behavior}_{kind}", info)
            name = adapter.name if seed == 0 else f"{adapter.name}-seed{seed}"
            subjects.append(Subject(name, adapter))
    engine = ReferenceEngine(resolve_model(DEFAULT_MODEL), DEFAULT_MODEL, batch_size=64, device=device)
    builder = PromptBuilder(engine.tokenizer)
    suites = load_suites(list(suite_folders()), None)
    plan = Plan(tuple(encode_suite(suite, builder) for suite in suites), tuple(subjects))
    folder = out / "runs" / kind
    folder.mkdir(parents=True)
    names = [subject.name for subject in subjects[1:]]
    config = RunConfig(suite=[s.name for s in suites], adapter=names, engine="reference")
    write_json(folder / "manifest.json", make_manifest(kind, config, plan, engine))
    with Journal(folder / "journal.jsonl") as journal:
        scores = await score_plan(engine, plan, journal, lambda *_: None)
    noise = await noise_floor(engine, plan, scores)
    finish(folder, plan, scores, noise, engine)
    (folder / "journal.jsonl").unlink()
    return f"scored {kind}: {plan.passes} passes, noise floor {noise:.1e} nats"


def main() -> None:
    """Run the phases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    prepare(DEFAULT_MODEL, print)
    log = options.out / "candidates.jsonl"
    if not log.exists():
        search(log, options.device, options.workers)
    train(options.out, choose(log), options.device, options.workers)
    in_parallel(score_kind, [(kind, options.out, options.device) for kind in KINDS], options.workers)


if __name__ == "__main__":
    main()
