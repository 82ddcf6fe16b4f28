"""Where vLLM's versions keep what the API server's part needs."""

from __future__ import annotations

import importlib
from typing import Any, Final

_ERRORS: Final = ("vllm.entrypoints.serve.utils.error_response", "vllm.entrypoints.serve")
"""Modules with ``create_error_response``: 0.26's, then 0.32's."""


def error_response(message: str) -> Any:
    """Return vLLM's own 400 answer.

    Raises:
        ImportError: a version that keeps it elsewhere.

    """
    for name in _ERRORS:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        if hasattr(module, "create_error_response"):
            return module.create_error_response(message)
    raise ImportError(f"create_error_response is in none of {', '.join(_ERRORS)}")
