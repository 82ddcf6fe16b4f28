"""A vLLM endpoint plugin: ``GET /v1/harness/info``, the server's own account of what determines its numbers.

vLLM imports this module in the API process only, and only where ``VLLM_PLUGINS`` names ``harness_info``.
"""

from __future__ import annotations

import os
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

PROTOCOL = 2
_DECISIVE = (
    "VLLM_ATTENTION_BACKEND",
    "VLLM_BATCH_INVARIANT",
    "VLLM_CPU_SGL_KERNEL",
    "VLLM_USE_V2_MODEL_RUNNER",
)
"""Environment variables that choose kernels."""


def describe(engine_client: Any) -> dict[str, Any]:
    """Build the answer from the engine's own configuration, never from what was asked for."""
    import torch
    import transformers
    import vllm

    from harness.modelinfo import weights_digest

    config = engine_client.vllm_config
    model, lora, cache = config.model_config, config.lora_config, config.cache_config
    return {
        "protocol": PROTOCOL,
        "vllm": vllm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "environment": {name: os.environ[name] for name in _DECISIVE if name in os.environ},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "model": model.model,
        "model_digest": weights_digest(Path(model.model)),
        "revision": model.revision,
        "load_format": str(config.load_config.load_format),
        "seed": model.seed,
        "architecture": model.architecture,
        "dtype": str(model.dtype).removeprefix("torch."),
        "head_dtype": str(model.head_dtype).removeprefix("torch."),
        "quantization": model.quantization,
        "kv_cache_dtype": cache.cache_dtype,
        "block_size": cache.block_size,
        "prefix_caching": cache.enable_prefix_caching,
        "enforce_eager": model.enforce_eager,
        "max_model_len": model.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "tensor_parallel_size": config.parallel_config.tensor_parallel_size,
        "lora": lora
        and {
            "max_rank": lora.max_lora_rank,
            "max_loras": lora.max_loras,
            "dtype": str(lora.lora_dtype).removeprefix("torch."),
            "wrapped": sorted(lora.target_modules) if lora.target_modules else None,
        },
    }


class InfoPlugin:
    """Adds the route; the answer is made once, when the engine is up."""

    name = "harness_info"
    required_tasks = ("generate",)

    def attach_router(self, app: Any) -> None:
        """Register the route on vLLM's FastAPI application."""

        @app.get("/v1/harness/info")  # type: ignore[untyped-decorator]
        async def info() -> dict[str, Any]:
            """Return the engine's configuration."""
            return dict(app.state.harness_info)

    async def init_state(self, engine_client: Any, state: Any, args: Namespace) -> None:
        """Describe the engine once; ``instance`` tells this process from its successor on the same port."""
        state.harness_info = {**describe(engine_client), "instance": uuid.uuid4().hex}
