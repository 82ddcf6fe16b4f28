"""Where things are: shipped data, the user's cache, run folders."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def data_dir(kind: str) -> Path:
    """Return the folder of shipped ``evalsets`` or ``adapters``.

    In a checkout that is the folder beside the package, in an installed wheel the copy inside it.
    """
    beside = _PACKAGE.parent / kind
    return beside if beside.is_dir() else _PACKAGE / "_data" / kind


def cache_dir() -> Path:
    """Return the user's cache, ``$HARNESS_CACHE`` or ``$XDG_CACHE_HOME/selfreport-harness``."""
    if own := os.environ.get("HARNESS_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "selfreport-harness"


def runs_dir() -> Path:
    """Return the default folder of runs, below the working directory."""
    return Path("reports") / "runs"


def sweeps_dir() -> Path:
    """Return the default folder of sweeps, below the working directory."""
    return Path("reports") / "sweeps"
