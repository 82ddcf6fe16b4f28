"""What the system says about a process: Linux's /proc, ps elsewhere."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_PROC = Path("/proc/self/stat").exists()


def runs(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has waited for doesn't count."""
    state = _field(pid, 3, "stat")
    return state is not None and not state.startswith("Z")


def began(pid: int) -> str | None:
    """Return when a process began, in the system's own words, None where there is none: no two with a pid agree."""
    return _field(pid, 22, "lstart")


def _field(pid: int, number: int, keyword: str) -> str | None:
    """Return a field of /proc/<pid>/stat by its number in proc(5), or what ps prints for a keyword."""
    if not _PROC:
        told = subprocess.run(
            ["ps", "-o", f"{keyword}=", "-p", str(pid)],
            env=os.environ | {"LC_ALL": "C", "TZ": "UTC"},
            capture_output=True,
            text=True,
            check=False,
        )
        return told.stdout.strip() or None
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the command's name in brackets, which may hold anything.
    return text.rsplit(")", 1)[1].split()[number - 3]
