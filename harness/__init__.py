"""An evaluation harness for model self-awareness: suites, subjects, exact scores, paired statistics.

``load_evalset`` and ``load_run`` read; ``serve``, ``run``, ``compare`` and ``sweep`` do what the commands of the
same names do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api import compare, run, serve, sweep
    from harness.evalset import load_evalset
    from harness.results import load_run

__all__ = ["compare", "load_evalset", "load_run", "run", "serve", "sweep"]

_HOMES = {
    "compare": "harness.api",
    "load_evalset": "harness.evalset",
    "load_run": "harness.results",
    "run": "harness.api",
    "serve": "harness.api",
    "sweep": "harness.api",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that ``harness --help`` stays quick."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'harness' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
