"""Train many adapters in one call: a folder with a manifest, each adapter kept when its group is done.

A killed grid goes on by the same call: the manifest says which trainings share a group, groups whose adapters
are all there are passed over, and the others are trained from their start, which gives the same adapters.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.adapters import NAME, RECORD, shipped_adapters
from harness.errors import InputError, RunError
from harness.models import MODELS, file_sha256, prepare, resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.reference import fused
from harness.results import write_json
from harness.training import lora, record
from harness.training.blocks import Blocks, sizes
from harness.training.climb import Climb, LoraClimb
from harness.training.data import Question, load_questions, questions_file, splits_of
from harness.training.fit import Trained
from harness.training.groups import Group, Outcome, evaluate_group, lora_tensors, train_group
from harness.training.kept import Kept, count
from harness.training.lora import Accuracy, TrainedLora
from harness.training.orthogonal import train_orthogonal
from harness.training.plan import GB, Data, Estimate, Machine, estimate, form_groups, rate_of
from harness.training.settings import Behavior, LoraSettings, TrainingSettings, VectorSettings
from harness.training.vector import TrainedVector
from harness.vectors import find_vector, read_vector

Report = Callable[[str], None]
EVALUATED = ("development", "test", "heldout")
MANIFEST, PROGRESS, FAILURES, RESULTS = "manifest.json", "progress.jsonl", "failures.jsonl", "results.json"
_DRAW = 42
"""Seed of which questions are used where not all are (the original's shuffle seed)."""


@dataclass(frozen=True)
class Grid:
    """The product of layer sets, seeds and behaviours."""

    settings: TrainingSettings
    """Of any one of its trainings."""
    layers: tuple[tuple[int, ...], ...]
    """What each training adapts: one layer, or several together (LoRAs)."""
    seeds: tuple[int, ...]
    behaviors: tuple[Behavior, ...]

    @property
    def plain(self) -> bool:
        """Whether its trainings don't advance together."""
        return is_plain(self.settings)

    def settings_of(self, layers: tuple[int, ...], seed: int, behavior: Behavior) -> TrainingSettings:
        """Return one training's settings."""
        return self.settings.model_copy(update={"layers": layers, "seed": seed, "behavior": behavior})


def is_plain(settings: TrainingSettings) -> bool:
    """Whether a training goes through the model by itself: LoRAs of several layers, vectors kept orthogonal."""
    kept_orthogonal = isinstance(settings, VectorSettings) and bool(settings.orthogonal_to)
    return len(settings.layers) > 1 or kept_orthogonal


def name_of(settings: TrainingSettings) -> str:
    """Return an adapter's name in a grid: behaviour, what it is, layers, seed."""
    layers = settings.layers
    where = f"l{layers[0]}" if len(layers) == 1 else f"l{layers[0]}to{layers[-1]}x{len(layers)}"
    kind = "_vec" if isinstance(settings, VectorSettings) else ""
    return f"{settings.behavior}{kind}_{where}_s{settings.seed}"


@dataclass(frozen=True)
class Prepared:
    """The questions by split, encoded, and what they amount to."""

    questions: dict[str, list[Question]]
    file: Path
    data: Data


def prepare_data(settings: TrainingSettings) -> Prepared:
    """Load and encode all splits.

    Raises:
        InputError: naming the file and what is wrong with it.

    """
    file = Path(settings.data) if settings.data else questions_file()
    builder = PromptBuilder(load_tokenizer(resolve_model(settings.model)))
    questions = {
        split: load_questions(file, split, settings.format, builder) for split in splits_of(file, EVALUATED)
    }
    if settings.questions is not None:
        found = questions["train"]
        if settings.questions > len(found):
            raise InputError(f"--questions {settings.questions}: {file} has {len(found)} training questions.")
        questions["train"] = random.Random(_DRAW).sample(found, settings.questions)
    prompts = [e.prompt_ids for found in questions.values() for q in found for e in q.orders]
    trained = len(questions["train"]) * (2 if settings.orders == "both" else 1)
    evaluated = 2 * sum(len(found) for split, found in questions.items() if split != "train")
    data = Data(trained, evaluated, count(prompts), max(map(len, prompts)))
    return Prepared(questions, file, data)


def plan_groups(grid: Grid, prepared: Prepared, on: Machine) -> tuple[list[Group], list[Estimate]]:
    """Form a grid's groups and estimate each.

    Raises:
        InputError: not even one training fits.

    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(resolve_model(grid.settings.model))
    sizes(config)
    layers = tuple(layers[0] for layers in grid.layers)
    groups = form_groups(grid.settings, layers, grid.seeds, grid.behaviors, prepared.data, config, on)
    return groups, [estimate(group, prepared.data, config) for group in groups]


def describe(grid: Grid, on: Machine) -> dict[str, Any]:
    """Return what a grid would take: adapters, groups, about how many GB and seconds (``--dry-run``)."""
    prepared = prepare_data(grid.settings)
    if grid.plain:
        return {"adapters": len(grid.layers) * len(grid.seeds) * len(grid.behaviors), "groups": "one by one"}
    groups, estimates = plan_groups(grid, prepared, on)
    seconds = sum(e.operations for e in estimates) / rate_of(on, grid.settings.dtype)
    return {
        "adapters": sum(len(group.sites) for group in groups),
        "groups": [{"layers": list(group.layers), "adapters": len(group.sites)} for group in groups],
        "memory_gb": round(max(e.memory for e in estimates) / GB, 2),
        "allowed_gb": round(on.memory / GB, 2),
        "seconds": round(seconds, 1),
    }


def train_groups(
    blocks: Blocks,
    groups: list[Group],
    prepared: Prepared,
    report: Report,
    early: Callable[[TrainingSettings, int, Outcome], None] = lambda *_: None,
    splits: tuple[str, ...] = EVALUATED,
    weigh: list[float] | None = None,
    also: Iterable[tuple[int, ...]] = (),
    finished: Callable[[Climb, Group], None] = lambda *_: None,
    graphs: bool = False,
) -> Iterator[tuple[TrainingSettings, Outcome, Trained, dict[str, Accuracy]]]:
    """Train groups, lower layers first, and yield each training when its group is done.

    Args:
        blocks: the frozen model.
        groups: in ascending order of their layers.
        prepared: the questions.
        report: hears what is going on, with the time left.
        early: hears of each training's figures after each epoch.
        splits: what is evaluated when a group is done.
        weigh: the groups' shares of the work, for the time left.
        also: further prompts that ``finished`` asks about.
        finished: is given each group when it is trained.
        graphs: as :func:`train_group` takes it.

    """
    prompts = [e.prompt_ids for found in prepared.questions.values() for q in found for e in q.orders]
    prompts += also
    vectors = isinstance(groups[0].settings, VectorSettings)
    kept = Kept(blocks, prompts)

    def passed(layer: int) -> None:
        report(f"Computing what lies below, layer {layer} of {blocks.top}")

    if vectors:
        kept.advance([layer for group in groups for layer in group.layers], last_token=True, passed=passed)
    shares = weigh or [1.0] * len(groups)
    began, done_share = time.monotonic(), 0.0
    for number, (group, share) in enumerate(zip(groups, shares, strict=True)):
        if not vectors:
            kept.release()
            kept.advance(group.layers, last_token=False, passed=passed)
        climb = group.climb(blocks, kept)
        started = time.monotonic()
        label = (
            f"Training group {number + 1} of {len(groups)}, layers {group.layers[0]} to {group.layers[-1]}"
        )

        def heard(
            step: int,
            steps: int,
            loss: float,
            label: str = label,
            share: float = share,
            done: float = done_share,
        ) -> None:
            part = (done + share * step / steps) / sum(shares)
            left = (time.monotonic() - began) * (1 - part) / part
            report(f"{label}, step {step} of {steps}, loss {loss:.3f} nats, about {_clock(left)} left")

        def epoch_done(epoch: int, outcomes: list[Outcome], group: Group = group) -> None:
            for site, outcome in zip(group.sites, outcomes, strict=True):
                early(group.settings_of(site), epoch, outcome)

        questions = prepared.questions
        outcomes = train_group(
            climb, group, questions["train"], questions["development"], heard, epoch_done, graphs=graphs
        )
        for parameter in climb.parameters:
            parameter.requires_grad_(False)
            if not vectors:
                # LoRAs are kept in float16: the figures are those of what is kept.
                parameter.copy_(parameter.half().float())
        figures = {
            split: evaluate_group(climb, group, questions[split]) for split in splits if split in questions
        }
        finished(climb, group)
        done_share += share
        seconds = (time.monotonic() - started) / len(group.sites)
        width = (len(group.layers), len(group.seeds), len(group.behaviors))
        for place, (site, outcome) in enumerate(zip(group.sites, outcomes, strict=True)):
            at = tuple(int(i) for i in torch.unravel_index(torch.tensor(place), width))
            common: dict[str, Any] = {
                "model": None,
                "logits_of": None,
                "epoch_losses": outcome.epoch_losses,
                "seconds": seconds,
            }
            if vectors:
                values = climb.parameters[0][at].detach().cpu().clone()
                trained: Trained = TrainedVector(**common, vector=values)
            else:
                assert isinstance(climb, LoraClimb)
                trained = TrainedLora(**common, tensors=lora_tensors(climb, at, site[0]))
            found = {split: accuracies[place] for split, accuracies in figures.items()}
            yield group.settings_of(site), outcome, trained, found


def run(grid: Grid, out: Path, on: Machine, report: Report) -> dict[str, Any]:
    """Train a grid into a folder, or go on with one; returns what ``results.json`` holds.

    Raises:
        InputError: the folder holds something else or another grid, or nothing fits.
        RunError: every training failed.

    """
    report("Reading the questions")
    if grid.settings.model in MODELS:
        prepare(grid.settings.model, report)
    prepared = prepare_data(grid.settings)
    described = _described(grid, prepared)
    manifest = _open(out, described)
    began = time.monotonic()
    if grid.plain:
        _run_plainly(grid, out, prepared, on, report, manifest, described)
    else:
        _run_groups(grid, out, prepared, on, report, manifest, described)
    results = _results(grid, out, time.monotonic() - began)
    write_json(out / RESULTS, results)
    if not results["adapters"]:
        raise RunError(
            f"No training came to its end; {out / FAILURES} names the steps: lower the learning rate."
        )
    return results


def _run_groups(
    grid: Grid,
    out: Path,
    prepared: Prepared,
    on: Machine,
    report: Report,
    manifest: dict[str, Any] | None,
    described: dict[str, Any],
) -> None:
    if manifest is None:
        groups, estimates = plan_groups(grid, prepared, on)
        entries = [
            {
                "layers": list(group.layers),
                "seeds": list(group.seeds),
                "behaviors": list(group.behaviors),
                "passes": group.passes,
                "operations": e.operations,
            }
            for group, e in zip(groups, estimates, strict=True)
        ]
        manifest = described | {"groups": entries, "versions": record.versions()}
        _write_manifest(out, manifest)
    formed = [(_group(grid, entry), entry["operations"]) for entry in manifest["groups"]]
    left = [
        (group, share)
        for group, share in formed
        if not all(_settled(out, name_of(group.settings_of(site))) for site in group.sites)
    ]
    if not left:
        return
    report("Loading the model")
    base = lora.load_base(resolve_model(grid.settings.model), on.device, grid.settings.dtype)
    blocks = Blocks(base, compiled=on.compiled)

    def early(settings: TrainingSettings, epoch: int, outcome: Outcome) -> None:
        if outcome.failed_step is None:
            line = {
                "name": name_of(settings),
                "epoch": epoch + 1,
                "loss": outcome.epoch_losses[-1],
                "development": outcome.development[-1],
            }
            _append(out / PROGRESS, line)

    trained = train_groups(
        blocks,
        [group for group, _ in left],
        prepared,
        report,
        early,
        weigh=[share for _, share in left],
        graphs=on.graphs,
    )
    for settings, outcome, result, accuracy in trained:
        _keep(out, settings, outcome, result, accuracy, prepared)


def _run_plainly(
    grid: Grid,
    out: Path,
    prepared: Prepared,
    on: Machine,
    report: Report,
    manifest: dict[str, Any] | None,
    described: dict[str, Any],
) -> None:
    """Train one by one."""
    if manifest is None:
        _write_manifest(out, described | {"versions": record.versions()})
    for layers in grid.layers:
        for seed in grid.seeds:
            for behavior in grid.behaviors:
                settings = grid.settings_of(layers, seed, behavior)
                if _settled(out, name_of(settings)):
                    continue
                outcome, result, accuracy = train_plainly(settings, prepared, on, report)
                _keep(out, settings, outcome, result, accuracy, prepared)


def train_plainly(
    settings: TrainingSettings,
    prepared: Prepared,
    on: Machine,
    report: Report,
    splits: tuple[str, ...] = EVALUATED,
) -> tuple[Outcome, Trained, dict[str, Accuracy]]:
    """Train by one whole pass a batch; a loss that is not finite is the outcome's failed step."""
    report("Loading the model")
    base = lora.load_base(resolve_model(settings.model), on.device, settings.dtype)
    heard = [0]

    def progress(done: int, total: int, loss: float) -> None:
        heard[0] = done
        report(f"Training {name_of(settings)}, step {done} of {total}, loss {loss:.3f} nats")

    questions = prepared.questions["train"]
    try:
        with fused.norms_fused(base) if on.compiled else nullcontext():
            if isinstance(settings, LoraSettings):
                trained = lora.train(base, questions, settings, progress)
                record.round_to_half(trained.model)
            else:
                assert isinstance(settings, VectorSettings)
                found = [find_vector(name, [shipped_adapters()]) for name in settings.orthogonal_to]
                trained = train_orthogonal(
                    base, questions, settings, [read_vector(f) for f in found], progress
                )
    except RunError:
        return Outcome(failed_step=heard[0] + 1), Trained(None, None), {}
    assert trained.logits_of is not None
    accuracy = {
        split: lora.evaluate(trained.logits_of, prepared.questions[split], settings.sign)
        for split in splits
        if split in prepared.questions
    }
    return Outcome(trained.epoch_losses), trained, accuracy


def _described(grid: Grid, prepared: Prepared) -> dict[str, Any]:
    """Return what must be the same for a folder to be gone on with."""
    common = grid.settings.model_dump(mode="json", exclude={"layers", "seed", "behavior"})
    return {
        "schema_version": 1,
        "kind": record.KINDS[type(grid.settings)],
        "settings": common,
        "layers": [list(layers) for layers in grid.layers],
        "seeds": list(grid.seeds),
        "behaviors": list(grid.behaviors),
        "data_sha256": file_sha256(prepared.file),
    }


def _open(out: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """Return the folder's manifest, None where the folder is new."""
    path = out / MANIFEST
    if not path.is_file():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: exists and holds no grid ({MANIFEST}); give a new folder.")
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as e:
        raise InputError(f"{path}: is not JSON ({e}).") from e
    for key, value in described.items():
        if manifest.get(key) != value:
            raise InputError(f"{out}: holds a grid with other settings: {_difference(key, manifest, value)}.")
    return manifest


def _difference(key: str, manifest: dict[str, Any], value: Any) -> str:
    old = manifest.get(key)
    if isinstance(old, dict) and isinstance(value, dict):
        name = next(k for k in [*value, *old] if old.get(k) != value.get(k))
        return f"{name} is {old.get(name)!r} there and {value.get(name)!r} here; give a new folder"
    return f"{key} is {old!r:.120} there and {value!r:.120} here; give a new folder"


def _write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, manifest)


def _group(grid: Grid, entry: dict[str, Any]) -> Group:
    return Group(
        grid.settings,
        tuple(entry["layers"]),
        tuple(entry["seeds"]),
        tuple(entry["behaviors"]),
        entry["passes"],
    )


def _settled(out: Path, name: str) -> bool:
    """Whether an adapter is kept, or known to have failed."""
    return (out / name / RECORD).is_file() or name in _failures(out)


def _failures(out: Path) -> dict[str, int]:
    path = out / FAILURES
    lines = path.read_text("utf-8").splitlines() if path.is_file() else []
    entries = [json.loads(line) for line in lines if line.endswith("}")]
    return {entry["name"]: entry["step"] for entry in entries}


def _keep(
    out: Path,
    settings: TrainingSettings,
    outcome: Outcome,
    trained: Trained,
    accuracy: dict[str, Accuracy],
    prepared: Prepared,
) -> None:
    """Write an adapter beside its place and rename it there, so that a kill leaves all of it or nothing."""
    name = name_of(settings)
    if _settled(out, name):
        return
    if outcome.failed_step is not None:
        _append(out / FAILURES, {"name": name, "step": outcome.failed_step})
        return
    making = out / ".making"
    if making.exists():
        shutil.rmtree(making)
    place = making / name
    record.save(place, trained, settings, accuracy, prepared.file, len(prepared.questions["train"]))
    place.rename(out / name)
    making.rmdir()


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as f:
        f.write(json.dumps(line) + "\n")
        f.flush()
        os.fsync(f.fileno())


def _results(grid: Grid, out: Path, seconds: float) -> dict[str, Any]:
    adapters, failures = [], _failures(out)
    for layers in grid.layers:
        for seed in grid.seeds:
            for behavior in grid.behaviors:
                name = name_of(grid.settings_of(layers, seed, behavior))
                if name in failures:
                    continue
                known = json.loads((out / name / RECORD).read_text("utf-8"))
                adapters.append(
                    {
                        "name": name,
                        "behavior": behavior,
                        "layers": list(layers),
                        "seed": seed,
                        "accuracy": known["accuracy"],
                        "final_loss": known["epoch_losses"][-1],
                    }
                )
    failed = [{"name": name, "step": step} for name, step in failures.items()]
    return {"adapters": adapters, "failed": failed, "seconds": round(seconds, 1)}


def train_one(
    settings: TrainingSettings, on: Machine, report: Report, splits: tuple[str, ...]
) -> tuple[Trained, dict[str, Accuracy], Prepared]:
    """Train one adapter, and evaluate it on splits.

    Raises:
        InputError: it doesn't fit.
        RunError: a loss that is not finite; the message names the step.

    """
    prepared = prepare_data(settings)
    if is_plain(settings):
        outcome, trained, accuracy = train_plainly(settings, prepared, on, report, splits)
    else:
        grid = Grid(settings, (settings.layers,), (settings.seed,), (settings.behavior,))
        groups, _ = plan_groups(grid, prepared, on)
        report("Loading the model")
        base = lora.load_base(resolve_model(settings.model), on.device, settings.dtype)
        blocks = Blocks(base, compiled=on.compiled)
        ((_, outcome, trained, accuracy),) = train_groups(
            blocks, groups, prepared, report, splits=splits, graphs=on.graphs
        )
    if outcome.failed_step is not None:
        raise RunError(f"The loss is not finite at step {outcome.failed_step}: lower the learning rate.")
    return trained, accuracy, prepared


def check_name(out: Path) -> None:
    """Refuse an output folder that exists, or whose name is no adapter name.

    Raises:
        InputError: it is one of these.

    """
    if out.exists():
        raise InputError(f"{out}: exists already; give a new folder.")
    if not NAME.match(out.name):
        raise InputError(f"{out}: '{out.name}' is no adapter name; it must match {NAME.pattern}.")


def as_json(accuracy: dict[str, Accuracy]) -> dict[str, Any]:
    """Return figures by split as plain values."""
    return {split: asdict(a) for split, a in accuracy.items()}


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
