"""What a server was started with: the plugin's part of ``--additional-config``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

KEY: Final = "steering"
STAMP: Final = "steering_stamp"


@dataclass(frozen=True)
class SteeringConfig:
    """Limits and folders. The same in every process, since vLLM hands its config to all of them."""

    model_name: str = ""
    """The base model as vectors' and adapters' configs name it; empty: the model's folder name."""
    vector_dirs: tuple[str, ...] = ()
    """Vector folders, or folders of them: loaded at the start, and again whenever asked."""
    adapter_dirs: tuple[str, ...] = ()
    """Folders below which LoRA adapters and vectors may be loaded at run time."""
    classes: int = 4
    """Different contents that one request may put on its tokens (prompt, last, generated, …)."""
    rows: int = 64
    """Different directions that one request may use."""
    lanes: int = 1
    """Directions that may meet at one layer, hook point and token after summing. One is enough unless absolute
    and relative terms of different vectors meet there; two always are, at a higher cost a layer
    (reports/benchmarks)."""
    http: bool = True
    """Whether an API server is to offer steering (off for offline engines)."""
    allow_untested: bool = False
    """Start on an untested vLLM, runner or architecture, if the self-check passes. The API server makes that check,
    so that an offline engine can't have this."""

    def __post_init__(self) -> None:
        if self.allow_untested and not self.http:
            raise ValueError(
                "steering: allow_untested needs the self-check of a server's start, which an offline engine does not "
                "make. Use harness serve --allow-untested, or a tested vLLM."
            )
        for key in ("vector_dirs", "adapter_dirs"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        for key, top in (("classes", 64), ("rows", 4096), ("lanes", 2)):
            if not 1 <= getattr(self, key) <= top:
                raise ValueError(f"steering: {key} must be from 1 to {top}, not {getattr(self, key)}.")

    @classmethod
    def read(cls, additional_config: object) -> SteeringConfig | None:
        """Return the plugin's part of vLLM's additional config; None when steering wasn't asked for.

        Raises:
            ValueError: an unknown key or a value out of range.

        """
        if not isinstance(additional_config, Mapping) or KEY not in additional_config:
            return None
        given = additional_config[KEY]
        known = cls.__dataclass_fields__
        if not isinstance(given, Mapping) or any(key not in known for key in given):
            raise ValueError(f"--additional-config: '{KEY}' is an object with the keys {', '.join(known)}.")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object for ``--additional-config``."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
