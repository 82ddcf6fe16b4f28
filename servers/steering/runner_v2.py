"""vLLM's V2 model runner (tested with 0.26 on CUDA): its model state sees requests come, go and be scheduled."""

from __future__ import annotations

from typing import Any

from servers.steering.buffers import SteeringBuffers, StepRequest
from servers.steering.resolved import EXTRA_ARG, ResolvedSpec
from servers.steering.rows import Run, runs, starts_with_bos


def attach(runner: Any, buffers: SteeringBuffers) -> None:
    """Give the runner's model state a subclass that writes the buffers in ``prepare_inputs``.

    That is called for every step, before the forward pass and before a full CUDA graph's replay. Dummy runs
    bring request ids that nobody added: they are not steered.
    """
    state = runner.model_state
    base: type[Any] = type(state)

    class SteeredModelState(base):  # type: ignore[misc]
        """The model's own state, with steering."""

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            if steered := _runs(new_req_data):
                self.steering_runs[new_req_data.req_id] = steered

        def remove_request(self, req_id: str) -> None:
            self.steering_runs.pop(req_id, None)
            super().remove_request(req_id)

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            inputs = super().prepare_inputs(input_batch, req_states)
            known: dict[str, tuple[Run, ...]] = self.steering_runs
            requests = []
            if known:
                starts = input_batch.query_start_loc_np
                computed = input_batch.num_computed_tokens_np
                requests = [
                    StepRequest(
                        int(starts[i]), int(computed[i]), int(starts[i + 1] - starts[i]), known[req_id]
                    )
                    for i, req_id in enumerate(input_batch.req_ids)
                    if req_id in known
                ]
            buffers.write_step(requests, int(input_batch.num_tokens_after_padding))
            return inputs

    state.steering_runs = {}
    state.__class__ = SteeredModelState


def _runs(request: Any) -> tuple[Run, ...]:
    """Return a new request's runs. Resumed after a preemption its prompt is still the original one."""
    params = request.sampling_params
    wire = params.extra_args.get(EXTRA_ARG) if params is not None and params.extra_args else None
    if wire is None:
        return ()
    spec = ResolvedSpec.from_json(wire)
    prompt = request.prompt_token_ids
    return runs(spec, len(prompt), starts_with_bos(spec, prompt))
