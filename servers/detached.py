"""The server that outlives the command that started it: written down for ``--status``, ``--stop`` and later runs."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.errors import InputError
from harness.paths import cache_dir
from servers.launch import Server, stop_group
from servers.processes import began, runs


@dataclass(frozen=True)
class DetachedServer:
    """What is written down about a server that outlives the command that started it."""

    pid: int
    url: str
    model: str
    log: str
    started: float
    process_started: str | None = None
    """When its process began, as the system says: another may have its pid by now. None in older files."""

    @property
    def alive(self) -> bool:
        """Whether its process still runs, and is the one that was started."""
        return runs(self.pid) and self.process_started in (None, began(self.pid))


def _state_file() -> Path:
    return cache_dir() / "server.json"


def remember(server: Server) -> DetachedServer:
    """Write a detached server down, for ``--status``, ``--stop`` and later runs."""
    pid = server.process.pid
    state = DetachedServer(pid, server.url, server.config.info.name, str(server.log), time.time(), began(pid))
    path = _state_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(state)))
    fresh.replace(path)
    server.let_go()
    return state


def detached() -> DetachedServer | None:
    """Return the detached server, if one runs."""
    try:
        state = DetachedServer(**json.loads(_state_file().read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as e:
        raise InputError(f"{_state_file()}: can't be read ({e}). Delete it.") from e
    return state if state.alive else None


def stop_detached() -> DetachedServer | None:
    """Stop the detached server; return what it was, None if none runs."""
    state = detached()
    if state is not None:
        stop_group(state.pid, 10.0)
    _state_file().unlink(missing_ok=True)
    return state
