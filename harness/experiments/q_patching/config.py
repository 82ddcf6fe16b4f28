"""What a patching experiment is asked to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from harness.models import DEFAULT_MODEL

ActsOn = Literal["last", "all"]


class PatchConfig(BaseModel):
    """What a patching experiment is asked to do."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    adapter: str
    """A LoRA, a vector at ``last`` or ``all``, or both, in the grammar of subjects."""
    trigger: list[str] = Field(min_length=1)
    """What stands in the trigger's place: shipped triggers by name (all their words), or words and phrases."""
    line: str = "({})"
    """The line at the question's end that carries words and phrases; shipped triggers have their own."""
    random_triggers: int = Field(default=3, ge=1)
    """Triggers of random tokens, as long as the real ones."""
    suite: str = "validation"
    limit: int | None = Field(default=None, ge=1)
    """Only the first stems."""
    risk_direction: list[str] = []
    """Vectors, by name or folder, whose risky senses (a safe one's is its opposite) make the direction that values are
    held against: the sum, each of norm 1, so that what a risky and a safe one share cancels. Left out, the subject's
    own vector if it has one. It has to be the same for all items: an item's own answer direction says which words its
    options are, and in letters its two orders cancel."""
    acts_on: ActsOn | None = None
    """Tokens that a LoRA changes; left out, what its record says."""
    model: str = DEFAULT_MODEL
    adapters: list[Path] = []
    device: str = "cpu"
    """A torch device; the model is held in float32."""
    seed: int = 0
    output_dir: Path | None = None
