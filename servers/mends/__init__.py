"""Mends of vLLM's own wrong numbers, applied in every process of a server that we start.

``vllm.general_plugins``: ``harness_mends = servers.mends:register``. Nothing of vLLM is imported here: vLLM
logs and swallows an import error.
"""

from __future__ import annotations

from typing import Final

from servers.patching import when_imported

NAME: Final = "harness_mends"

_registered: list[str] = []


def register() -> None:
    """Mend what this process will import; a second call does nothing."""
    if _registered:
        return
    from servers.mends import lora_cpu, sampler_v1

    for mend in (lora_cpu, sampler_v1):
        when_imported(mend.MODULE, mend.patch)
        _registered.append(mend.MODULE)
