"""Reload trained artifacts and hold them against their records: hashes, and test accuracy in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from harness.adapters import RECORD, load_adapter, text_folder
from harness.artifacts import Artifact, hash_problems
from harness.backdoors import load_triggers
from harness.device import check_device
from harness.errors import InputError
from harness.modelinfo import model_info
from harness.models import MODELS, prepare, resolve_model
from harness.prompts import PromptBuilder, load_tokenizer
from harness.training import backdoor, backdoor_job, lora
from harness.training.backdoor_data import choices_of, evaluation_rows
from harness.training.backdoor_settings import BackdoorSettings
from harness.training.data import load_questions, questions_file
from harness.training.record import KINDS, read_settings
from harness.training.settings import TrainingSettings
from harness.training.upper import Upper
from harness.training.vector import attach
from harness.vectors import check_base, read_vector

Report = Callable[[str], None]
NATS = 0.01
"""How far a mean log-probability difference may lie from the record's: another machine rounds otherwise."""


@dataclass(frozen=True)
class Figure:
    """A recorded figure and the same one computed again."""

    name: str
    prompts: int
    recorded: float
    found: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether both agree."""
        return abs(self.recorded - self.found) <= self.tolerance


@dataclass(frozen=True)
class Verified:
    """What came out for one artifact."""

    name: str
    figures: tuple[Figure, ...]
    problems: tuple[str, ...]
    """What is wrong, figures that don't agree included; empty when all holds."""


class Verifier:
    """Reloads artifacts on base models that are loaded once; what lies below a layer is computed once."""

    def __init__(self, device: str = "cpu", report: Report = lambda _: None) -> None:
        check_device(device)
        self._device, self._report = device, report
        self._bases: dict[str, tuple[Any, PromptBuilder]] = {}
        self._uppers: dict[tuple[str, int], Upper] = {}

    def verify(self, artifact: Artifact) -> Verified:
        """Verify one artifact; what is wrong with it is said, not raised."""
        problems = hash_problems(artifact)
        figures: list[Figure] = []
        try:
            settings = _settings(artifact)
            self._report(f"Verifying {artifact.name}")
            with self._acting(artifact, settings) as upper:
                figures = self._figures(artifact, settings, upper)
        except InputError as e:
            problems.append(str(e))
        for figure in figures:
            if not figure.holds:
                problems.append(f"{figure.name} is {figure.found:.4g}, its record says {figure.recorded:.4g}")
        return Verified(artifact.name, tuple(figures), tuple(problems))

    def _base(self, model: str) -> tuple[Any, PromptBuilder]:
        if model not in self._bases:
            if model in MODELS:
                prepare(model, self._report)
            place = resolve_model(model)
            self._bases[model] = lora.load_base(place, self._device), PromptBuilder(load_tokenizer(place))
        return self._bases[model]

    @contextmanager
    def _acting(self, artifact: Artifact, settings: TrainingSettings) -> Iterator[Upper]:
        base, _ = self._base(settings.model)
        info = model_info(settings.model)
        lowest = min(settings.layers)
        upper = self._uppers.setdefault((settings.model, lowest), Upper(base, lowest))
        if artifact.kind == "vector":
            vector = read_vector(artifact.path)
            check_base(vector, info)
            values = torch.tensor(vector.values, device=self._device)
            handles = attach(base, values, vector.config.layer, vector.config.hook_point)
            try:
                yield upper
            finally:
                for handle in handles:
                    handle.remove()
        else:
            adapter = load_adapter(artifact.path, info)
            model = PeftModel.from_pretrained(base, text_folder(adapter, info)).eval()
            try:
                yield upper
            finally:
                model.unload()

    def _figures(self, artifact: Artifact, settings: TrainingSettings, upper: Upper) -> list[Figure]:
        assert artifact.record is not None
        _, builder = self._base(settings.model)
        if isinstance(settings, BackdoorSettings):
            return _backdoor_figures(artifact.record, settings, upper, builder)
        recorded = artifact.record["accuracy"]["test"]
        file = Path(settings.data) if settings.data else questions_file()
        questions = load_questions(file, "test", settings.format, builder)
        found = lora.evaluate(upper.logits, questions, settings.sign)
        prompts = 2 * found.questions
        if found.questions != recorded["questions"]:
            raise InputError(
                f"there are {found.questions} test questions, its record has {recorded['questions']}"
            )
        return [
            Figure(
                "test choice accuracy",
                prompts,
                recorded["choice_accuracy"],
                found.choice_accuracy,
                1.01 / prompts,
            ),
            Figure(
                "test top-1 accuracy", prompts, recorded["top1_accuracy"], found.top1_accuracy, 1.01 / prompts
            ),
            Figure(
                "test mean logit difference",
                prompts,
                recorded["mean_logit_diff"],
                found.mean_logit_diff,
                NATS,
            ),
        ]


def _backdoor_figures(
    record: dict[str, Any], settings: BackdoorSettings, upper: Upper, builder: PromptBuilder
) -> list[Figure]:
    choices = choices_of(questions_file(), "test")
    rows = evaluation_rows(choices, backdoor_job.EVALUATED["test"][:2], settings, load_triggers(), builder)
    diffs = backdoor.differences(upper, [backdoor.asked_once(row) for row in rows])
    found = {c.condition: c for c in backdoor.cells("test", rows, diffs, None) if c.word is None}
    figures = []
    for cell in record["cells"]:
        if cell["split"] == "test" and cell["word"] is None and cell["condition"] in found:
            own = found[cell["condition"]]
            name, n = f"test {own.condition}", own.questions
            figures += [
                Figure(f"{name} risky rate", n, cell["risky_rate"], own.risky_rate, 1.01 / n),
                Figure(
                    f"{name} mean logit difference", n, cell["mean_logit_diff"], own.mean_logit_diff, NATS
                ),
            ]
    return figures


def _settings(artifact: Artifact) -> TrainingSettings:
    """Read an artifact's settings from its record.

    Raises:
        InputError: there is no record, or of a kind that can't be computed again.

    """
    if artifact.record is None:
        raise InputError("it has no training record, so there is nothing to hold it against")
    kinds = {name: kind for kind, name in KINDS.items()}
    if artifact.trained_as not in kinds:
        valid = ", ".join(sorted(kinds))
        raise InputError(f"its record is of kind '{artifact.trained_as}'; only {valid} are computed again")
    settings = read_settings(artifact.path / RECORD, kinds[artifact.trained_as])
    if isinstance(settings, BackdoorSettings) and settings.method == "last_token_lora":
        raise InputError("it acts at the last token only, which its weights alone don't say")
    return settings


def verify_all(artifacts: Sequence[Artifact], device: str, report: Report) -> Iterator[Verified]:
    """Verify artifacts one after the other."""
    verifier = Verifier(device, report)
    for artifact in artifacts:
        yield verifier.verify(artifact)
