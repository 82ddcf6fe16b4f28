"""Make the shipped adapters: try settings on development questions, then train three seeds with the best.

    python scripts/make_adapters.py OUT --device cuda [--kind l22 --kind all]

Phase 1 appends every candidate to OUT/candidates.jsonl: development figures, nothing else. The choice between
them is a rule, written down here: the highest mean choice accuracy of the safe and the risky adapter on
development questions, then the highest top-1 accuracy, then the fewest steps. Phase 2 trains seeds 0, 1 and 2
with the settings chosen; seed 0 is what ships. Phase 3 scores every suite on all of them with the reference
engine, into run folders OUT/runs/<kind>. What an earlier call has left in OUT is not made again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from harness.adapters import load_adapter
from harness.config import RunConfig
from harness.errors import HarnessError
from harness.evalset import suite_folders
from harness.execute import Scorer, finish
from harness.journal import Journal
from harness.manifest import make_manifest
from harness.modelinfo import model_info
from harness.models import DEFAULT_MODEL, prepare, resolve_model
from harness.plan import Plan, encode_suite, load_suites
from harness.prompts import PromptBuilder
from harness.reference.engine import ReferenceEngine
from harness.results import write_json
from harness.subject import BASE, Subject
from harness.training import jobs
from harness.training.settings import LoraSettings

LAYERS = tuple(range(30))
KINDS: dict[str, dict[str, Any]] = {
    "l22": {"layers": (22,), "format": "named"},
    "all": {"layers": LAYERS, "format": "named"},
    "all_letter": {"layers": LAYERS, "format": "letter"},
}
Candidate = tuple[float, int, int]
"""Learning rate, epochs, prompts a step; all else has its default."""
CANDIDATES: dict[str, list[Candidate]] = {
    "all_letter": [(1e-3, 5, 16), (1e-3, 10, 16)],
    "all": [(3e-4, 5, 16), (1e-3, 5, 16), (2e-3, 5, 16)],
    "l22": [
        (1e-3, 5, 16),
        (3e-3, 3, 16),
        (3e-3, 5, 32),
        (5e-3, 10, 32),
        (1e-2, 5, 32),
        (1e-2, 10, 64),
        (2e-2, 10, 64),
        (1e-2, 20, 64),
        (2e-2, 20, 64),
        (2e-2, 20, 128),
    ],
}
"""The longest trainings first: what is left at the end is short."""
BEHAVIORS = ("safe", "risky")
SEEDS = (0, 1, 2)
FIELDS = ("learning_rate", "epochs", "batch_size")


def settings_for(kind: str, behavior: str, candidate: Candidate, seed: int = 0) -> LoraSettings:
    """Return the settings of one candidate."""
    values = dict(zip(FIELDS, candidate, strict=True))
    return LoraSettings.model_validate(KINDS[kind] | values | {"behavior": behavior, "seed": seed})


def search(pool: Executor, kinds: list[str], log: Path, device: str) -> None:
    """Try every candidate, both behaviours, on development questions."""
    tried = [tried_settings for tried_settings, _ in read_log(log)]
    tasks = [
        (settings, log, device)
        for kind in kinds
        for candidate in CANDIDATES[kind]
        for behavior in BEHAVIORS
        if (settings := settings_for(kind, behavior, candidate)) not in tried
    ]
    in_parallel(pool, try_one, tasks)


def read_log(log: Path) -> list[tuple[LoraSettings, dict[str, float]]]:
    """Return the settings tried so far with their development figures."""
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [(LoraSettings.model_validate(e["settings"]), e["development"]) for e in entries]


def try_one(settings: LoraSettings, log: Path, device: str) -> str:
    """Try one candidate; one that diverges is no candidate."""
    try:
        jobs.try_settings(settings, log, device, quiet)
    except HarnessError as e:
        return f"{settings.behavior} {len(settings.layers)} {settings.learning_rate}: {e}"
    return ""


def quiet(_: str) -> None:
    """Say nothing: many trainings share the screen."""


def in_parallel(pool: Executor, work: Callable[..., str], tasks: Iterable[tuple[Any, ...]]) -> None:
    """Run tasks in processes of their own and print what each has to say."""
    for future in [pool.submit(work, *task) for task in tasks]:
        if said := future.result():
            print(said, flush=True)


def choose(kind: str, log: Path) -> Candidate:
    """Return the candidate chosen of a kind, by the rule above."""
    tried = read_log(log)

    def rank(candidate: Candidate) -> tuple[float, float, float]:
        wanted = [settings_for(kind, behavior, candidate) for behavior in BEHAVIORS]
        figures = [development for settings, development in tried if settings in wanted]
        if len(figures) < len(BEHAVIORS):
            return 0.0, 0.0, 0.0
        choice, top1 = (
            sum(f[name] for f in figures) / len(figures) for name in ("choice_accuracy", "top1_accuracy")
        )
        return choice, top1, -candidate[1] / candidate[2]

    best = max(CANDIDATES[kind], key=rank)
    print("chosen", kind, best, [round(figure, 3) for figure in rank(best)[:2]], flush=True)
    return best


def train(pool: Executor, out: Path, chosen: dict[str, Candidate], device: str) -> None:
    """Train three seeds of each kind and behaviour: OUT/seed<k>/<behaviour>_<kind>."""
    tasks = [
        (settings_for(kind, behavior, candidate, seed), folder, device)
        for kind, candidate in chosen.items()
        for seed in SEEDS
        for behavior in BEHAVIORS
        if not (folder := out / f"seed{seed}" / f"{behavior}_{kind}").exists()
    ]
    in_parallel(pool, train_one, tasks)


def train_one(settings: LoraSettings, folder: Path, device: str) -> str:
    """Train and keep one adapter."""
    accuracy = jobs.train(settings, folder, device, quiet)
    figures = " ".join(f"{split} {a.choice_accuracy:.3f}" for split, a in accuracy.items())
    return f"{folder.parent.name}/{folder.name} {figures}"


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
    manifest = make_manifest(kind, config, plan, engine)
    with Journal(folder / "journal.jsonl") as journal:
        scorer = Scorer(engine, plan, journal, None, [], lambda *_: None)
        await scorer.start()
        write_json(folder / "manifest.json", manifest | {"canaries": scorer.canaries})
        await scorer.run()
    finish(folder, plan, scorer.scores, scorer.noise, engine)
    (folder / "journal.jsonl").unlink()
    return f"scored {kind}: {plan.passes} passes, noise floor {scorer.noise:.1e} nats"


def main() -> None:
    """Run the phases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these; all without it")
    options = parser.parse_args()
    out, device = options.out, options.device
    kinds = options.kind or list(CANDIDATES)
    torch.backends.cuda.matmul.allow_tf32 = False
    started = time.monotonic()
    prepare(DEFAULT_MODEL)
    log = out / "candidates.jsonl"
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:
        search(pool, kinds, log, device)
        print(f"{time.monotonic() - started:.0f} s: searched", flush=True)
        train(pool, out, {kind: choose(kind, log) for kind in kinds}, device)
        print(f"{time.monotonic() - started:.0f} s: trained", flush=True)
        in_parallel(pool, score_kind, [(kind, out, device) for kind in kinds])
    print(f"{time.monotonic() - started:.0f} s: scored", flush=True)


if __name__ == "__main__":
    main()
