"""What a run is asked to do: the same keys as the flags of ``harness run``, from a file or from Python."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

from pydantic import BaseModel, ConfigDict, Field

from harness.errors import InputError
from harness.models import DEFAULT_MODEL


class Reach(BaseModel):
    """The model, where adapters and vectors lie, and how to reach what answers: for runs and for sweeps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = DEFAULT_MODEL
    adapters: list[Path] = []
    """Folders in which adapters are looked up by name, after the shipped ones."""
    device: str = "cpu"
    """A torch device for what runs in this process, in float32; a server has its own."""
    base_url: str | None = None
    api_key: str | None = Field(default=None, exclude=True)
    tokenizer: str | None = None
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 16
    timeout: Annotated[float, Field(gt=0)] = 120.0

    @property
    def reach(self) -> dict[str, Any]:
        """These keys alone, the API key among them."""
        return {key: getattr(self, key) for key in Reach.model_fields}


class RunConfig(Reach):
    """A run. Keys not given have these defaults."""

    suite: Annotated[list[str], Field(min_length=1)]
    adapter: list[str] = []
    engine: Literal["server", "reference"] = "server"
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    cache: bool = True
    """Whether answers of earlier runs are used, and this one's kept."""
    output_dir: Path | None = None


def check_engine(engine: str, base_url: str | None, tokenizer: str | None = None) -> None:
    """Refuse a server's address, and a tokenizer for what a server serves, for an engine that is none.

    Raises:
        InputError: ``base_url`` or ``tokenizer`` would be ignored.

    """
    if base_url and engine != "server":
        raise InputError(
            f"--base-url names a server, but --engine {engine} scores in this process: say --engine server, or "
            "leave --base-url out."
        )
    if tokenizer and engine != "server":
        raise InputError(
            f"--tokenizer is for a model that a server serves, but --engine {engine} takes the model's own: say "
            "--engine server, or leave --tokenizer out."
        )


class ReachSettings(TypedDict, total=False):
    """The keys of :class:`Reach` as a caller in Python may give them, so that editors and type checkers know them."""

    model: str
    adapters: Sequence[str | Path]
    device: str
    base_url: str | None
    api_key: str | None
    tokenizer: str | None
    concurrency: int
    batch_size: int
    timeout: float


class RunSettings(ReachSettings, total=False):
    """The keys of :class:`RunConfig` but for suites and subjects, which are arguments of their own."""

    engine: Literal["server", "reference"]
    limit: int | None
    seed: int
    cache: bool
    output_dir: str | Path | None
