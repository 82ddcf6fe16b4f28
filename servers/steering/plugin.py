"""vLLM's entry points. Nothing of vLLM is imported here: vLLM logs and swallows an import error.

``vllm.general_plugins``: ``harness_steering = servers.steering.plugin:register``
``vllm.endpoint_plugins``: ``harness_steering_http = servers.steering.plugin:SteeringEndpoints``
"""

from __future__ import annotations

import os
from typing import Any, Final

from servers import mends
from servers.patching import when_imported

GENERAL: Final = "harness_steering"
ENDPOINTS: Final = "harness_steering_http"

_registered: list[int] = []


def register() -> None:
    """Patch what this process will import: called in the API process, the engine core and every worker."""
    if is_registered():
        return
    from servers.steering import admission_guard, keys, status, worker

    when_imported(keys.MODULE, keys.patch)
    when_imported(worker.MODULE, worker.patch)
    mends.register()
    when_imported(status.MODULE, status.patch)
    when_imported(admission_guard.MODULE, admission_guard.patch)
    _registered.append(os.getpid())


def is_registered() -> bool:
    """Whether :func:`register` ran in this process, or in the one that it was forked from."""
    return bool(_registered)


class SteeringEndpoints:
    """The API server's part: names, admission and the routes beside vLLM's LoRA ones."""

    name: Final = ENDPOINTS
    required_tasks: Final = ("generate",)

    def __init__(self) -> None:
        self._server: Any = None

    def attach_router(self, app: Any) -> None:
        """Add the middleware and the routes. What fails here stops the start."""
        from servers.steering.http import SteeringServer

        self._server = SteeringServer()
        self._server.attach(app)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        """Check every process of the engine and load the vectors and adapters named at the start."""
        await self._server.start(engine_client, state, args)
