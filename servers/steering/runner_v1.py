"""vLLM's V1 model runner (tested with 0.32 on CPU): what a step schedules, read just before the forward pass."""

from __future__ import annotations

from typing import Any

from servers.steering.buffers import SteeringBuffers, StepRequest
from servers.steering.keys import request_runs
from servers.steering.rows import Run


def attach(runner: Any, buffers: SteeringBuffers) -> None:
    """Wrap the runner's ``_model_forward``, through which real steps go and dummy runs do not."""
    forward = runner._model_forward
    known: dict[str, tuple[Run, ...]] = {}

    def steered_forward(*args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        for req_id in [r for r in known if r not in runner.requests]:
            del known[req_id]
        starts = runner.query_start_loc.np
        requests = []
        for i, req_id in enumerate(batch.req_ids):
            if req_id not in known:
                known[req_id] = request_runs(runner.requests[req_id])
            begin, end = int(starts[i]), int(starts[i + 1])
            computed = int(batch.num_computed_tokens_cpu[i])
            requests.append(StepRequest(begin, computed, end - begin, known[req_id]))
        first = kwargs.get("input_ids")
        tokens = kwargs["inputs_embeds"] if first is None else first
        buffers.write_step(requests, int(tokens.shape[0]))
        return forward(*args, **kwargs)

    runner._model_forward = steered_forward
