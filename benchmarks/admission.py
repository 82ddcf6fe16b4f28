#!/usr/bin/env python3
"""What a request costs at the server's door: microseconds of the steering middleware around an empty app.

    python benchmarks/admission.py

A plain request passes, a steered one becomes the base model's name and a resolved spec. On a server whose API
process is the bottleneck this is what steering costs (reports/benchmarks/gpu_steering.md).
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

VECTORS, HIDDEN, PROMPT, LAYERS = 256, 3840, 96, 48


def admission(folder: Path) -> Any:
    """Return a server's rules with 256 vectors loaded."""
    import numpy as np

    from harness.modelinfo import ModelInfo
    from harness.vectors import SteeringVector, VectorConfig, write_vector
    from servers.steering.admission import Admission
    from servers.steering.limits import Limits
    from servers.steering.registry import Registry

    async def send(_method: str, _args: tuple[object, ...]) -> None:
        await asyncio.sleep(0)

    info = ModelInfo("gemma", "Gemma3ForCausalLM", LAYERS, HIDDEN, 15360, 262_208, 1024)
    registry = Registry(info, None, [folder], send)
    rng = np.random.default_rng(0)

    async def load() -> None:
        for i in range(VECTORS):
            values = rng.standard_normal(HIDDEN).astype(np.float32)
            vector = SteeringVector(f"v{i}", VectorConfig("gemma", 22, "mlp_out"), values)
            await registry.load(vector.name, write_vector(folder / vector.name, vector), replace=False)

    asyncio.run(load())
    return Admission(registry, Limits(LAYERS, "bfloat16", 4, 64, 1), ("gemma",), 2)


async def passing(app: Any, bodies: list[bytes]) -> list[float]:
    """Return microseconds a request."""
    spent = []
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": [(b"content-type", b"application/json")],
    }
    for raw in bodies:

        async def receive(raw: bytes = raw) -> dict[str, Any]:
            return {"type": "http.request", "body": raw, "more_body": False}

        async def send(_message: Any) -> None: ...

        begun = time.perf_counter()
        await app(scope, receive, send)
        spent.append((time.perf_counter() - begun) * 1e6)
    return spent


def main() -> None:
    """Print the median microseconds a request, by what it asks for."""
    import tempfile

    from servers.steering.middleware import SteeringMiddleware

    async def empty(_scope: Any, receive: Any, _send: Any) -> None:
        await receive()

    with tempfile.TemporaryDirectory() as name:
        rules = admission(Path(name))
        app = SteeringMiddleware(empty, lambda: rules)
        rng = random.Random(0)
        models = {
            "plain": ["gemma"],
            "steered, a spec for the first time": [f"v{i}@0.5@all" for i in range(VECTORS)],
            "steered, a known spec": [f"v{i}@0.5@all" for i in range(VECTORS)],
        }
        for label, names in models.items():
            bodies = [
                json.dumps(
                    {
                        "model": names[i % len(names)],
                        "prompt": [2] + [rng.randrange(300, 262_000) for _ in range(PROMPT - 1)],
                        "max_tokens": 1,
                        "temperature": 0,
                        "logprobs": 2,
                        "logprob_token_ids": [1000, 2000],
                    }
                ).encode()
                for i in range(VECTORS)
            ]
            spent = asyncio.run(passing(app, bodies))
            print(f"{label}: {statistics.median(spent):.0f} us a request")


if __name__ == "__main__":
    main()
