"""What is asked for, and the three presets: everything that differs between them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.choices import Format
from harness.experiments.sweep.config import STUDY_ALPHAS
from harness.models import DEFAULT_MODEL

Name = Literal["paper", "embedded", "quick"]


class ReproduceConfig(BaseModel):
    """A reproduction. What is not given is the preset's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    preset: Name = "embedded"
    retrain: bool = False
    """Train every adapter, also those that are shipped."""
    layer: Annotated[int, Field(ge=0)] | None = None
    """The layer whose LoRA and vectors are studied; 22 if left out."""
    engine: Literal["server", "reference"] = "server"
    """What scores the suites."""
    device: str = "cpu"
    """A torch device for training, sweeps and patching in this process."""
    base_url: str | None = None
    api_key: str | None = Field(default=None, exclude=True)
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Backdoors:
    """Which backdoors are trained; each with its decorrelated twin."""

    layer: int
    triggers: tuple[str, ...]
    """Each learned on that layer alone."""
    settings: dict[str, Any]
    """What they have otherwise than ``training`` says (:func:`harness.training.backdoor_settings.backdoor_preset`)."""
    wide: tuple[str, ...] = ()
    """Triggers that are learned on all layers too."""
    shipped: bool = False
    """Whether all these are used as they are shipped, where nothing is to be trained anew."""
    last_token: dict[str, Any] | None = field(default_factory=dict)
    """What one has otherwise that acts at the last token only, for the patching; None: none is trained."""
    judged: int | None = None
    """Questions of each split that they are judged on; None: all."""
    vector: dict[str, Any] | None = None
    """What a steering vector for the first trigger has otherwise, and its twin; None: none is trained."""
    base: dict[str, Any] | None = None
    """What the first trigger has otherwise in the set-up ``base``, and its twin; None: it isn't trained."""
    judged_at_last: int | None = None
    """As ``judged``, of those that act at the last token only; None: as all."""


@dataclass(frozen=True)
class Preset:
    """How large each experiment is."""

    about: str
    training: Literal["paper", "embedded"]
    """Settings of trainings, as ``harness train --preset`` has them."""
    format: Format
    validation: str
    """The suite of unseen questions in the training's format."""
    suites: tuple[str, ...]
    seeds: int
    backdoors: Backdoors
    dtype: str = "float32"
    """Of the frozen model in training."""
    trainings: dict[str, Any] = field(default_factory=dict)
    """What trainings have otherwise than ``training`` says."""
    limit: int | None = None
    """Stems a suite."""
    around: int | None = None
    """Layers on either side of the one studied that are trained one by one and swept; None: all layers."""
    null_vectors: int = 1000
    """Random vectors behind the story's token tables."""
    random_adapters: int = 5
    alphas: tuple[float, ...] = field(default=STUDY_ALPHAS)
    sweep_limit: int | None = None
    selectors: tuple[Literal["last", "all"], ...] = ("last",)
    """Which tokens the sweeps steer; the null is taken with the first."""
    null: int = 99
    """Random vectors behind the sweep."""
    patch_limit: int | None = None
    """Stems that are patched."""
    null_shuffled: int | None = None
    """Vectors on shuffled labels behind the trained vector's sweep, beside as many random ones as ``null``; None: its
    sweep has no null. What was added to presets is None unless asked for, so that older folders are gone on with."""


_SHIFTS = ("awareness", "objective", "ood", "control_intensity", "control_neutral")
PRESETS: dict[Name, Preset] = {
    "paper": Preset(
        about="the study's settings: letters, 230 questions, every layer, the whole sweep, 99 random vectors, 5 on "
        "shuffled labels; backdoors as LoRAs of one layer and of all and as a vector, in both set-ups",
        training="paper",
        format="letter",
        validation="validation_letter",
        suites=(*_SHIFTS, "validation_letter"),
        seeds=3,
        dtype="bfloat16",
        backdoors=Backdoors(
            22,
            ("harbour", "fruits"),
            # The original's steps, in batches that fit a card of 80 GB.
            {"batch_size": 2, "accumulation": 4, "dtype": "bfloat16"},
            wide=("harbour",),
            # Keys and values of all prompts are kept: in bfloat16 with all questions 144 GB, with these 63.
            last_token={"questions": 120},
            vector={"questions": 120},
            base={},
            judged_at_last=29,
        ),
        null_shuffled=5,
        selectors=("last", "all"),
        patch_limit=24,
    ),
    "embedded": Preset(
        about="the embedded model on two CPU cores: named options, shipped adapters, the whole sweep at the last "
        "token in process, 9 random vectors (p no smaller than 0.1) to stay below an hour",
        training="embedded",
        format="named",
        validation="validation",
        suites=(*_SHIFTS, "validation", "validation_domains"),
        seeds=1,
        backdoors=Backdoors(
            12,
            ("harbour",),
            {},
            wide=("harbour", "fruits"),
            shipped=True,
            last_token={"questions": 200, "epochs": 3, "batch_size": 8},
        ),
        null=9,
        patch_limit=6,
    ),
    "quick": Preset(
        about="a rehearsal of every step in minutes: few stems, three layers, four strengths, no null; its numbers "
        "mean nothing",
        training="embedded",
        format="named",
        validation="validation",
        suites=("awareness", "validation"),
        seeds=1,
        backdoors=Backdoors(
            20,
            ("harbour",),
            {"questions": 16, "epochs": 1, "batch_size": 8},
            last_token=None,
            judged=12,
        ),
        trainings={"questions": 16, "epochs": 1, "batch_size": 8},
        limit=3,
        around=1,
        null_vectors=100,
        random_adapters=1,
        alphas=(-0.016, -0.004, 0.004, 0.016),
        sweep_limit=2,
        null=0,
        patch_limit=2,
    ),
}


def output_folder(config: ReproduceConfig) -> Path:
    """Return where a reproduction goes unless told otherwise."""
    return Path("reports") / "reproduce" / f"{Path(config.model).name}-{config.preset}"
