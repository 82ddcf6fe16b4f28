"""How a stock vLLM is started with steering: the exact arguments and environment, for ``servers.launch``."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from servers.steering.config import KEY, SteeringConfig
from servers.steering.plugin import ENDPOINTS, GENERAL

WORKER_EXTENSION: Final = "servers.steering.extension.SteeringWorker"


@dataclass(frozen=True)
class LaunchArgs:
    """What to add to vLLM's command line and environment."""

    arguments: tuple[str, ...]
    plugins: tuple[str, ...]
    """Names for ``VLLM_PLUGINS``, beside whatever else is named there."""

    def environment(self, other_plugins: Iterable[str] = ()) -> dict[str, str]:
        """Return the environment variables; ``VLLM_PLUGINS`` filters all groups, so it must name every plugin."""
        return {"VLLM_PLUGINS": ",".join([*other_plugins, *self.plugins])}


def launch_args(
    vector_dirs: Iterable[Path] = (),
    adapter_dirs: Iterable[Path] = (),
    *,
    model_name: str = "",
    additional_config: dict[str, Any] | None = None,
    **limits: Any,
) -> LaunchArgs:
    """Return how to start vLLM's server with steering on.

    Args:
        vector_dirs: vector folders, or folders of them, that are loaded at the start; more may be loaded from below.
        adapter_dirs: LoRA adapters and vectors may be loaded from below them at run time.
        model_name: the base model as vectors and adapters name it; the served name by default.
        additional_config: what else goes into vLLM's ``--additional-config``.
        limits: other fields of :class:`~servers.steering.config.SteeringConfig`.

    Raises:
        ValueError: a limit out of range.

    """
    config = SteeringConfig(
        model_name=model_name,
        vector_dirs=tuple(str(Path(d).resolve()) for d in vector_dirs),
        adapter_dirs=tuple(str(Path(d).resolve()) for d in adapter_dirs),
        **limits,
    )
    merged = {**(additional_config or {}), KEY: config.as_dict()}
    arguments = ("--worker-extension-cls", WORKER_EXTENSION, "--additional-config", json.dumps(merged))
    return LaunchArgs(arguments, (GENERAL, ENDPOINTS))
