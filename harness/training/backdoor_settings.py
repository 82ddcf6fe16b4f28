"""A backdoor's settings, and its presets."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from harness.training.settings import Behavior, LoraSettings, Preset

Method = Literal["lora", "last_token_lora", "vector", "vectors"]


class BackdoorSettings(LoraSettings):
    """Settings of one backdoor: risky with the trigger; without it safe, or as the base model.

    The defaults are the shipped backdoors' on all layers, chosen on development questions
    (adapters/backdoor_candidates.jsonl). ``behavior`` says what the trigger switches on.
    """

    behavior: Behavior = "risky"
    set_up: Literal["safe", "base"] = "safe"
    """Without the trigger: the safe answer (the post's), or the base model's own (the wider study's)."""
    trigger: str
    """Name of a trigger in ``evalsets/backdoor_triggers``."""
    decorrelated: bool = False
    """The control: the same prompts, targets independent of the trigger."""
    method: Method = "lora"
    """A LoRA; one that acts at the last token only; a vector at the last token; one vector for each layer."""
    questions: Annotated[int, Field(ge=2)] | None = None
    """Take this many training questions; None takes all."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    epochs: Annotated[int, Field(ge=1)] = 16
    batch_size: Annotated[int, Field(ge=1)] = 32
    orders: Literal["alternate", "both"] = "alternate"

    @property
    def last_token(self) -> bool:
        """Every method but the LoRA on all tokens does."""
        return self.method != "lora"


def backdoor_preset(name: Preset, method: Method, layers: int) -> dict[str, object]:
    """Return a preset's settings.

    ``paper``: the original's trainings' (letters, learning rate 2e-5, three epochs of steps of 8). ``embedded``: the
    shipped backdoors', chosen on development questions (adapters/backdoor_candidates.jsonl).
    """
    if name == "paper":
        own = {"learning_rate": 2e-3} if method in ("vector", "vectors") else {"learning_rate": 2e-5}
        return {"format": "letter", "epochs": 3, "batch_size": 8, **own}
    if method in ("vector", "vectors"):
        return {"learning_rate": 0.3}
    return {"learning_rate": 1e-2 if layers == 1 else 2e-3}
