"""What ``--worker-extension-cls`` names: the methods that the API process calls in every worker.

vLLM imports this by its name, whatever plugins it found: a worker in which the entry point did not load
(another environment, ``VLLM_PLUGINS`` without it) fails here, and the server does not start.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from harness.spec import HOOK_POINTS
from servers.steering import plugin
from servers.steering.support import UnsupportedError, plugin_digest, vllm_version

if not plugin.is_registered():
    raise UnsupportedError(
        f"steering: the entry point '{plugin.GENERAL}' did not load in this worker. The project must be installed "
        f"where vLLM runs, and VLLM_PLUGINS name '{plugin.GENERAL}' and '{plugin.ENDPOINTS}'; it may be unset for "
        "an offline engine."
    )


class SteeringWorker:
    """Methods that vLLM mixes into its worker class; ``collective_rpc`` reaches them."""

    model_runner: Any
    vllm_config: Any

    def steering_status(self) -> dict[str, Any]:
        """Return what this worker runs: the API process compares all workers with itself."""
        buffers = self.model_runner.steering_buffers
        layout = buffers.layout
        return {
            "plugin": plugin_digest(),
            "pid": os.getpid(),
            "version": vllm_version(),
            "runner": self.model_runner.steering_runner,
            "device": buffers.device.type,
            "dtype": str(layout.dtype).removeprefix("torch."),
            "layers": len(layout.sites) // len(HOOK_POINTS),
            "hidden_size": layout.hidden_size,
            "lanes": layout.lanes,
            "slots": layout.slots,
            "rows": layout.rows,
            "bytes": layout.bytes,
            "hooked": self.model_runner.steering_hooked,
            "vectors": buffers.digests,
            "uploads": buffers.uploads,
        }

    def steering_put(self, digest: str, values: bytes) -> str:
        """Take a vector's float32 values, little-endian; return the digest again."""
        self.model_runner.steering_buffers.put(digest, np.frombuffer(values, dtype="<f4").astype(np.float32))
        return digest

    def steering_drop(self, digest: str) -> str:
        """Forget a vector that no request needs any more."""
        self.model_runner.steering_buffers.drop(digest)
        return digest
