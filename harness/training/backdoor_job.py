"""What ``harness train backdoor`` does: data, training, figures by condition, record and card."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment

from harness.adapters import RECORD
from harness.backdoors import CONDITIONS, Condition, Triggers, load_triggers, triggers_folder
from harness.device import check_device
from harness.errors import InputError
from harness.models import MODELS, file_sha256, prepare, resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training import backdoor, lora, record
from harness.training.backdoor_data import Row, choices_of, evaluation_rows, training_rows, with_targets
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.data import Example, Question, questions_file
from harness.training.folder import whole
from harness.training.plain_plan import check_fits, describe_plain
from harness.training.plan import Data, Machine
from harness.training.product import check_name
from harness.training.together import differences_together, fit_together, stack_loras, stack_vectors
from harness.vectors import SteeringVector, VectorConfig, write_vector

_TOGETHER = {"cpu": 4, "cuda": 32}
"""Prompts of each training that are asked in one pass."""
Report = Callable[[str], None]
EVALUATED: dict[str, tuple[Condition, ...]] = {
    "development": ("trigger", "none"),
    "test": CONDITIONS,
    "heldout": ("trigger", "none", "decoy"),
}
"""Which conditions a split is asked under."""


class Rows:
    """Encoded questions under their conditions, made once for all trainings that show or are asked the same."""

    def __init__(self, model: str, report: Report = lambda _: None) -> None:
        if model in MODELS:
            prepare(model, report)
        self._builder = PromptBuilder(load_tokenizer(resolve_model(model)))
        self._triggers: Triggers = load_triggers()
        self._made: dict[tuple[Any, ...], list[Row]] = {}

    def training(self, settings: BackdoorSettings) -> list[Row]:
        """Return what a training shows; a twin's is the same."""
        key = settings.trigger, settings.format, settings.set_up, settings.seed, settings.questions
        if key not in self._made:
            chosen = choices_of(questions_file(), "train", settings.questions)
            self._made[key] = training_rows(chosen, settings, self._triggers, self._builder)
        return self._made[key]

    def judged(self, settings: BackdoorSettings, split: str, judged_on: int | None) -> list[Row]:
        """Return what a split asks, ``judged_on`` of its questions or all."""
        key = settings.trigger, settings.format, split, judged_on
        if key not in self._made:
            chosen = choices_of(questions_file(), split, judged_on)
            self._made[key] = evaluation_rows(
                chosen, EVALUATED[split], settings, self._triggers, self._builder
            )
        return self._made[key]


class Bench:
    """A base model with all that trainings of one place and method share: what lies below, and its own answers."""

    def __init__(
        self, settings: BackdoorSettings, device: str, report: Report, rows: Rows | None = None
    ) -> None:
        check_device(device)
        self.rows = rows or Rows(settings.model, report)
        report("Loading the model")
        self.base = lora.load_base(resolve_model(settings.model), device, settings.dtype)
        self.passes = backdoor.passes_for(self.base, settings)
        self._shared = _shared(settings)
        self._report = report
        self._base_diffs: dict[tuple[int, ...], float] = {}

    def serves(self, settings: BackdoorSettings) -> bool:
        """Whether a training can share what is computed here."""
        return _shared(settings) == self._shared

    def base_diffs(self, examples: Sequence[Example]) -> list[float]:
        """Return the base model's log p(risky) − log p(safe) for prompts, in nats; asked while nothing acts on it."""
        new = [e for e in dict.fromkeys(examples) if e.prompt_ids not in self._base_diffs]

        def progress(done: int, total: int) -> None:
            self._report(f"Asking the base model, {done} of {total} prompts")

        for example, diff in zip(new, backdoor.differences(self.passes, new, progress), strict=True):
            self._base_diffs[example.prompt_ids] = diff
        return [self._base_diffs[e.prompt_ids] for e in examples]

    def questions(self, settings: BackdoorSettings) -> list[Question]:
        """Return a training's questions with their targets; asked while nothing acts on the base model."""
        rows = self.rows.training(settings)
        questions = with_targets(rows, settings, lambda e: [diff > 0 for diff in self.base_diffs(e)])
        self.passes.prepare(example for question in questions for example in question.orders)
        return questions

    def asked(
        self, settings: BackdoorSettings, split: str, judged_on: int | None
    ) -> tuple[list[Example], list[float] | None]:
        """Return what a split asks, prepared, and the base model's answers where they are wanted without a trigger."""
        examples = [backdoor.asked_once(row) for row in self.rows.judged(settings, split, judged_on)]
        if settings.set_up == "base":
            return examples, self.base_diffs(examples)
        self._report(f"Preparing {split} questions")
        self.passes.prepare(examples)
        return examples, None

    def run(
        self, settings: BackdoorSettings, splits: Sequence[str], judged_on: int | None = None
    ) -> tuple[backdoor.TrainedBackdoor, list[backdoor.Cell], int]:
        """Train one backdoor and judge it on splits; returns it, its cells and its number of training prompts.

        ``judged_on`` takes that many questions of each split, not all.

        It acts on the base model until its ``remove`` is called.
        """
        assert self.serves(settings), "made for another place or method"
        questions = self.questions(settings)
        asked = {split: self.asked(settings, split, judged_on) for split in splits}

        def progress(done: int, total: int, loss: float) -> None:
            self._report(f"Training, step {done} of {total}, loss {loss:.3f} nats")

        trained = backdoor.train(self.base, self.passes, questions, settings, progress)
        if not trained.vectors:
            record.round_to_half(trained.model)
        cells = []
        for split, (examples, base) in asked.items():
            self._report(f"Evaluating on {split} questions")
            diffs = backdoor.differences(self.passes, examples)
            cells += backdoor.cells(split, self.rows.judged(settings, split, judged_on), diffs, base)
        return trained, cells, 2 * len(questions)

    def run_together(
        self, each: Sequence[BackdoorSettings], splits: Sequence[str], judged_on: int | None = None
    ) -> list[tuple[list[backdoor.Cell], list[float], int]]:
        """Train backdoors that differ in trigger, seed and labels alone, in one pass a step; nothing is kept.

        Returns:
            of each its cells, its epochs' losses and its number of training prompts.

        """
        self.passes.release()
        questions = [self.questions(settings) for settings in each]
        asked = [{split: self.asked(settings, split, judged_on) for split in splits} for settings in each]
        common = each[0]
        if common.method in ("lora", "last_token_lora"):
            acting = stack_loras(self.base, common, [settings.seed for settings in each])
        else:
            acting = stack_vectors(self.base, common.layers, len(each))

        def progress(done: int, total: int, loss: float) -> None:
            self._report(f"Training {len(each)} backdoors, step {done} of {total}, loss {loss:.3f} nats")

        try:
            self.base.train()
            fit_together(acting, self.passes.logits, questions, each, progress)
            self.base.eval()
            cells: list[list[backdoor.Cell]] = [[] for _ in each]
            for split in splits:
                found = differences_together(
                    self.passes.logits, [own[split][0] for own in asked], _TOGETHER[self.base.device.type]
                )
                for own, settings, base, diffs in zip(cells, each, asked, found, strict=True):
                    own += backdoor.cells(
                        split, self.rows.judged(settings, split, judged_on), diffs, base[split][1]
                    )
        finally:
            acting.remove()
        prompts = [2 * len(own) for own in questions]
        return list(zip(cells, acting.epoch_losses, prompts, strict=True))


def data_of(settings: BackdoorSettings, rows: Rows, judged_on: int | None = None) -> Data:
    """Return how much a training shows and is asked."""
    shown = rows.training(settings)
    asked = {split: rows.judged(settings, split, judged_on) for split in EVALUATED}
    prompts = {e.prompt_ids for row in shown for e in row.orders}
    prompts |= {e.prompt_ids for found in asked.values() for row in found for e in row.orders}
    return Data(
        prompts=len(shown) * (2 if settings.orders == "both" else 1),
        evaluated=sum(map(len, asked.values())),
        development=0,
        tokens=sum(map(len, prompts)),
        longest=max(map(len, prompts)),
    )


def describe(each: Sequence[BackdoorSettings], on: Machine) -> dict[str, Any]:
    """Return what trainings would take: about how many GB and seconds (``--dry-run``).

    Raises:
        InputError: one doesn't fit; the message says what would.

    """
    rows = Rows(each[0].model)
    return describe_plain([(settings, data_of(settings, rows)) for settings in each], on)


def bench_for(
    settings: BackdoorSettings,
    on: Machine,
    report: Report,
    rows: Rows | None = None,
    judged_on: int | None = None,
) -> Bench:
    """Load a bench for a training that was seen to fit.

    Raises:
        InputError: it doesn't fit; the message says what would.

    """
    rows = rows or Rows(settings.model, report)
    check_fits(settings, data_of(settings, rows, judged_on), on)
    return Bench(settings, on.device, report, rows)


def _shared(settings: BackdoorSettings) -> tuple[Any, ...]:
    return settings.model, settings.dtype, min(settings.layers), settings.method == "lora"


def train(
    settings: BackdoorSettings,
    out: Path,
    device: str,
    report: Report,
    bench: Bench | None = None,
    judged_on: int | None = None,
) -> list[backdoor.Cell]:
    """Train and keep a backdoor with its record and card; test figures are computed once, here.

    ``judged_on`` takes that many questions of each split, not all.

    Raises:
        InputError: the output folder exists, or its name is no adapter name.

    """
    check_name(out)
    bench = bench or Bench(settings, device, report)
    trained, cells, prompts = bench.run(settings, tuple(EVALUATED), judged_on)
    try:
        with whole(out) as place:
            save(place, trained, settings, cells, prompts)
    finally:
        trained.remove()
    return cells


def train_each(
    each: Sequence[tuple[str, BackdoorSettings]],
    out: Path,
    on: Machine,
    report: Report,
    judged_on: int | None = None,
) -> None:
    """Train backdoors into a folder, or go on with it: what is there by a name, of the same settings, stays.

    Raises:
        InputError: one of them is there with other settings, or doesn't fit.

    """
    left = []
    for name, settings in each:
        if not (out / name).exists():
            left.append((name, settings))
        elif (there := record.read_settings(out / name / RECORD, BackdoorSettings)) != settings:
            old, new = (s.model_dump(mode="json") for s in (there, settings))
            (key, *_) = (key for key in new if old[key] != new[key])
            raise InputError(f"{out / name}: was trained with {key} {old[key]}, not {new[key]}.")
    bench: Bench | None = None
    rows: Rows | None = None
    for number, (name, settings) in enumerate(left):
        if bench is None or not bench.serves(settings):
            bench = None  # Its memory goes back before another model comes.
            bench = bench_for(settings, on, report, rows, judged_on)
            rows = bench.rows

        def told(text: str, name: str = name, number: int = number) -> None:
            report(f"{name} ({number + 1} of {len(left)}): {text}")

        train(settings, out / name, on.device, told, bench, judged_on)


def save(
    out: Path,
    trained: backdoor.TrainedBackdoor,
    settings: BackdoorSettings,
    cells: list[backdoor.Cell],
    prompts: int,
) -> None:
    """Write a backdoor into a new folder; several vectors get a folder each inside it."""
    out.mkdir(parents=True)
    behavior = "decorrelated" if settings.decorrelated else "backdoor"
    for layer, vector in trained.vectors.items():
        place = out if len(trained.vectors) == 1 else out / f"{out.name}_l{layer}"
        config = VectorConfig(
            settings.model, layer, "mlp_out", training={"behavior": behavior, "record": RECORD}
        )
        write_vector(place, SteeringVector(place.name, config, vector.detach().float().cpu().numpy()))
    if not trained.vectors:
        record.save_lora(out, trained, settings)
    data = [questions_file(), *sorted(triggers_folder().glob("*.jsonl"))]
    kept = {
        "schema_version": record.SCHEMA_VERSION,
        "kind": "backdoor",
        "behavior": behavior,
        "settings": settings.model_dump(mode="json"),
        "data": {"train_prompts": prompts, "sha256": {path.name: file_sha256(path) for path in data}},
        "base_tensors_sha256": MODELS[settings.model].tensors_sha256 if settings.model in MODELS else None,
        "epoch_losses": trained.epoch_losses,
        "cells": [asdict(cell) for cell in cells],
        "seconds": round(trained.seconds, 1),
        "versions": record.versions(),
        "sha256": record.file_hashes(out),
    }
    (out / RECORD).write_text(json.dumps(kept, indent=2) + "\n")
    template = (record.TEMPLATES / "backdoor_card.md.j2").read_text("utf-8")
    (out / "README.md").write_text(
        Environment(trim_blocks=True, lstrip_blocks=True)
        .from_string(template)
        .render(name=out.name, settings=settings, cells=cells, losses=trained.epoch_losses, prompts=prompts,
                trigger=load_triggers().find(settings.trigger))
    )  # fmt: skip
