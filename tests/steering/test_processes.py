"""A server whose plugin did not load in every process does not start: the API process asks them all."""

from __future__ import annotations

from typing import Any

import pytest

from servers.steering.http import _check_processes
from servers.steering.status import METHOD
from servers.steering.support import UnsupportedError, plugin_digest


class Engine:
    """An engine client with one core and two workers; ``core`` and ``workers`` say what they answer."""

    def __init__(self, core: dict[str, Any] | Exception, workers: list[dict[str, Any]] | Exception) -> None:
        self.engine_core = self
        self._core, self._workers = core, workers

    async def call_utility_async(self, method: str) -> dict[str, Any]:
        assert method == METHOD
        if isinstance(self._core, Exception):
            raise self._core
        return self._core

    async def collective_rpc(self, method: str) -> list[dict[str, Any]]:
        assert method == "steering_status"
        if isinstance(self._workers, Exception):
            raise self._workers
        return self._workers


def status(pid: int, **changed: Any) -> dict[str, Any]:
    return {"plugin": plugin_digest(), "pid": pid, "keys": True, **changed}


async def test_all_processes_with_the_plugin() -> None:
    workers = [status(2), status(3)]
    assert await _check_processes(Engine(status(1), workers)) == workers


@pytest.mark.parametrize(
    ("core", "workers", "hint"),
    [
        (status(1, keys=False), [status(2)], "no steering keys"),
        (status(1), [status(2), status(3, plugin="other")], "process 3 runs another version"),
        (status(1, plugin="other"), [status(2)], "process 1 runs another version"),
        (AttributeError("no such utility"), [status(2)], "VLLM_PLUGINS, --worker-extension-cls"),
        (status(1), AttributeError("no such method"), "VLLM_PLUGINS, --worker-extension-cls"),
        (status(1), [], "no worker answered"),
    ],
    ids=["core without keys", "one worker's digest", "core's digest", "core", "extension", "no worker"],
)
async def test_a_process_without_it(core: Any, workers: Any, hint: str) -> None:
    with pytest.raises(UnsupportedError, match=hint):
        await _check_processes(Engine(core, workers))
