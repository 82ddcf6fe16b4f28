"""What a sweep is asked to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from harness.config import Reach, ReachSettings
from harness.spec import ScaleMode

SUITES = ("awareness", "objective", "ood", "validation")
STUDY_ALPHAS = tuple(sorted(sign * 0.001 * 2**k for sign in (-1, 1) for k in range(12)))


class SweepConfig(Reach):
    """A sweep. What is not given is the study's grid."""

    vector: str
    """A steering vector's name or folder."""
    suite: list[str] = Field(default=list(SUITES), min_length=1)
    selector: Literal["last", "all"] = "last"
    bos: bool = False
    """Whether ``all`` steers a BOS token too."""
    scale_mode: ScaleMode = "relative"
    layers: str = "all"
    alphas: list[float] = Field(default=list(STUDY_ALPHAS), min_length=1)
    sign: Literal[-1, 1] | None = None
    """What +α means: 1 along the vector, −1 against it; left out, the sign that its training's behaviour says."""
    engine: Literal["in-process", "server"] = "in-process"
    null: Annotated[int, Field(ge=0)] = 0
    """Random vectors of the same norm."""
    null_shuffled: Annotated[int, Field(ge=0)] = 0
    """Vectors trained on shuffled labels."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Only the first items of each suite's ten."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of random vectors, shuffled labels, and resampling."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 40
    max_tokens: Annotated[int, Field(ge=64)] = 8192
    """Tokens' states that the in-process engine holds at once."""
    output_dir: Path | None = None

    @field_validator("alphas")
    @classmethod
    def _usable(cls, alphas: list[float]) -> list[float]:
        if not all(math.isfinite(a) and a != 0 for a in alphas):
            raise ValueError("strengths must be finite and not 0: the base model is always scored")
        return sorted(set(alphas))

    @model_validator(mode="after")
    def _bos_of_all(self) -> SweepConfig:
        if self.bos and self.selector != "all":
            raise ValueError(
                "bos belongs to the selector all: last takes a prompt's last token, whichever it is"
            )
        return self


class SweepSettings(ReachSettings, total=False):
    """The keys of :class:`SweepConfig` but for the vector, as a caller in Python may give them."""

    suite: Sequence[str]
    selector: Literal["last", "all"]
    bos: bool
    scale_mode: ScaleMode
    layers: str
    alphas: Sequence[float]
    sign: Literal[-1, 1] | None
    engine: Literal["in-process", "server"]
    null: int
    null_shuffled: int
    limit: int | None
    seed: int
    max_tokens: int
    output_dir: str | Path | None
