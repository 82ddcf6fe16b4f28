"""vLLM's V2 model runner (tested with 0.26 on CUDA): its model state sees requests come, go and be scheduled."""

from __future__ import annotations

from typing import Any

from servers.steering.buffers import SteeringBuffers
from servers.steering.keys import request_runs
from servers.steering.rows import Run
from servers.steering.steps import StepWriter


def attach(runner: Any, buffers: SteeringBuffers) -> None:
    """Give the runner's model state a subclass that writes the buffers in ``prepare_inputs``.

    That is called for every step, before the forward pass and before a full CUDA graph's replay. Dummy runs
    bring request ids that nobody added: they are not steered.
    """
    state = runner.model_state
    base: type[Any] = type(state)
    known: dict[str, tuple[Run, ...]] = {}
    writer = StepWriter(buffers, lambda req_id: known.get(req_id, ()))

    class SteeredModelState(base):  # type: ignore[misc]
        """The model's own state, with steering."""

        def add_request(self, req_index: int, new_req_data: Any) -> None:
            super().add_request(req_index, new_req_data)
            writer.forget()
            if steered := request_runs(new_req_data):
                known[new_req_data.req_id] = steered

        def remove_request(self, req_id: str) -> None:
            writer.forget()
            known.pop(req_id, None)
            super().remove_request(req_id)

        def prepare_inputs(self, input_batch: Any, req_states: Any) -> Any:
            inputs = super().prepare_inputs(input_batch, req_states)
            writer.write(
                input_batch.req_ids,
                input_batch.query_start_loc_np,
                input_batch.num_computed_tokens_np,
                int(input_batch.num_tokens_after_padding),
            )
            return inputs

    state.__class__ = SteeredModelState
