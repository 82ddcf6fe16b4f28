"""The engine core's answer to the API process: whether it makes steering's prefix-cache keys."""

from __future__ import annotations

import os
import sys
from types import ModuleType
from typing import Any, Final

from servers.steering import keys
from servers.steering.support import plugin_digest

MODULE: Final = "vllm.v1.engine.core"
METHOD: Final = "steering_core_status"


def core_status(_self: Any = None) -> dict[str, Any]:
    """Return the plugin's digest, this process, and whether its block hasher is patched."""
    module = sys.modules.get(keys.MODULE)
    return {
        "plugin": plugin_digest(),
        "pid": os.getpid(),
        "keys": module is not None and keys.is_patched(module),
    }


def patch(module: ModuleType) -> None:
    """Give the engine core a method that the API process can call."""
    setattr(module.EngineCore, METHOD, core_status)
