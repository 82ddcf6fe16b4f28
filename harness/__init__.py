"""An evaluation harness for model self-awareness: suites, subjects, exact scores, paired statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.evalset import load_evalset
    from harness.results import load_run

__all__ = ["load_evalset", "load_run"]

_HOMES = {"load_evalset": "harness.evalset", "load_run": "harness.results"}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``harness --help`` stays quick."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
