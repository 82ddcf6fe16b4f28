"""vLLM's V1 model runner (tested with 0.32 on CPU): what a step schedules, read just before the forward pass."""

from __future__ import annotations

from typing import Any

from servers.steering.buffers import SteeringBuffers
from servers.steering.keys import request_runs
from servers.steering.rows import Run
from servers.steering.steps import StepWriter


def attach(runner: Any, buffers: SteeringBuffers) -> None:
    """Wrap the runner's ``_model_forward``, through which real steps go and dummy runs do not."""
    forward = runner._model_forward
    known: dict[str, tuple[Any, tuple[Run, ...]]] = {}

    def runs_of(req_id: str) -> tuple[Run, ...]:
        request = runner.requests[req_id]
        if req_id not in known or known[req_id][0] is not request:
            for gone in [r for r in known if r not in runner.requests]:
                del known[gone]
            known[req_id] = request, request_runs(request)
        return known[req_id][1]

    writer = StepWriter(buffers, runs_of)

    def steered_forward(*args: Any, **kwargs: Any) -> Any:
        batch = runner.input_batch
        first = kwargs.get("input_ids")
        tokens = kwargs["inputs_embeds"] if first is None else first
        writer.write(
            batch.req_ids, runner.query_start_loc.np, batch.num_computed_tokens_cpu, int(tokens.shape[0])
        )
        return forward(*args, **kwargs)

    runner._model_forward = steered_forward
