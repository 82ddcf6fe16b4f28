"""The V2 runner's adapter on a model state in small: requests come, are scheduled, preempted and resumed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from servers.steering import runner_v2
from servers.steering.buffers import SteeringBuffers
from servers.steering.resolved import EXTRA_ARG, Addition, ResolvedSpec, ResolvedTerm
from tests.steering.test_plan import DIGESTS, HIDDEN, SITES, VALUES, buffers, read

PROMPT = [1, 5, 6, 7]


class ModelState:
    """What the runner's own state would do, written down."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def add_request(self, req_index: int, new_req_data: Any) -> None:
        self.calls.append(("add", new_req_data.req_id))

    def remove_request(self, req_id: str) -> None:
        self.calls.append(("remove", req_id))

    def prepare_inputs(self, input_batch: Any, _req_states: Any) -> dict[str, Any]:
        self.calls.append(("prepare", ",".join(input_batch.req_ids)))
        return {"positions": len(input_batch.req_ids)}


class Runner:
    """A runner whose model state the adapter took over."""

    def __init__(self) -> None:
        self.model_state: Any = ModelState()
        self.buffers: SteeringBuffers = buffers()
        runner_v2.attach(self, self.buffers)

    def add(self, req_id: str, selector: str | None = None, digest: int = 0, prefill: int = 4) -> None:
        """Add a request; ``prefill`` tokens are to be computed, which after a preemption are more than its prompt."""
        extra = None
        if selector:
            term = ResolvedTerm(Addition(1, "mlp_out", DIGESTS[digest], "absolute", 1.0), selector)
            extra = {EXTRA_ARG: ResolvedSpec.of([term], 1).to_json()}
        data = SimpleNamespace(
            req_id=req_id, prompt_token_ids=PROMPT, prefill_token_ids=[*PROMPT, 8, 9][:prefill],
            sampling_params=SimpleNamespace(extra_args=extra),
        )  # fmt: skip
        self.model_state.add_request(0, data)

    def step(self, *scheduled: tuple[str, int, int], padding: int = 0) -> dict[int, int]:
        """Schedule ``(id, computed, tokens)`` and return which tokens of the batch get which vector."""
        lengths = [length for _, _, length in scheduled]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        total = int(starts[-1]) + padding
        batch = SimpleNamespace(
            req_ids=[id_ for id_, _, _ in scheduled], query_start_loc_np=starts,
            num_computed_tokens_np=np.array([done for _, done, _ in scheduled], dtype=np.int32),
            num_tokens_after_padding=total,
        )  # fmt: skip
        assert self.model_state.prepare_inputs(batch, None) == {"positions": len(scheduled)}
        h = np.random.default_rng(0).standard_normal((total, HIDDEN)).astype(np.float32)
        found = {}
        for site in SITES:
            added = read(self.buffers, site, torch.from_numpy(h)).numpy() - h
            for row in np.flatnonzero(added.any(axis=1)):
                assert site == (1, "mlp_out")
                near = [i for i, d in enumerate(DIGESTS) if np.allclose(added[row], VALUES[d], atol=1e-5)]
                (found[int(row)],) = near
        return found


def test_a_request_is_steered_where_its_selector_says() -> None:
    runner = Runner()
    runner.add("a", "last", 0)
    runner.add("b")
    runner.add("c", "generated", 2)
    assert runner.step(("a", 0, 4), ("b", 0, 4), ("c", 0, 4), padding=3) == {3: 0}
    assert runner.step(("a", 4, 1), ("b", 4, 1), ("c", 4, 1), padding=5) == {2: 2}
    # Batch rows move.
    assert runner.step(("c", 5, 1), ("a", 5, 1)) == {0: 2}
    assert runner.model_state.calls[:3] == [("add", "a"), ("add", "b"), ("add", "c")]
    assert runner.model_state.calls[3] == ("prepare", "a,b,c")


def test_a_prompt_in_pieces() -> None:
    runner = Runner()
    runner.add("a", "prompt", 1)
    assert runner.step(("a", 0, 2)) == {1: 1}
    assert runner.step(("a", 2, 1)) == {0: 1}
    assert runner.step(("a", 3, 1)) == {0: 1}
    assert runner.step(("a", 4, 1)) == {}


def test_dummy_runs_are_not_steered() -> None:
    """They bring request ids that nobody added, be it between steps of a steered request."""
    runner = Runner()
    runner.add("a", "all", 0)
    assert runner.step(("a", 0, 4)) == {1: 0, 2: 0, 3: 0}
    assert runner.step(("dummy_0", 0, 4), ("dummy_1", 0, 4), padding=8) == {}
    assert runner.step(("a", 4, 1), padding=3) == {0: 0}
    assert runner.step(("dummy_0", 4, 1), padding=3) == {}
    assert runner.step(("a", 5, 1), padding=3) == {0: 0}


def test_a_preempted_request_comes_back_as_it_was() -> None:
    """Its prompt is still the original one, though what it generated is prefilled with it."""
    runner = Runner()
    runner.add("a", "last", 0)
    runner.add("b", "generated", 1)
    assert runner.step(("a", 0, 4), ("b", 0, 4)) == {3: 0}
    assert runner.step(("a", 4, 1), ("b", 4, 1)) == {1: 1}
    for id_ in ("a", "b"):
        runner.model_state.remove_request(id_)
    assert runner.model_state.calls[-2:] == [("remove", "a"), ("remove", "b")]
    assert runner.step(("a", 5, 1), ("b", 5, 1)) == {}
    runner.add("a", "last", 0, prefill=6)
    runner.add("b", "generated", 1, prefill=6)
    assert runner.step(("b", 0, 6), ("a", 0, 6)) == {4: 1, 5: 1, 9: 0}
    assert runner.step(("b", 6, 1), ("a", 6, 1)) == {0: 1}


def test_an_id_used_again_carries_nothing_over() -> None:
    runner = Runner()
    runner.add("a", "all", 0)
    assert runner.step(("a", 0, 4), ("a2", 0, 1)) == {1: 0, 2: 0, 3: 0}
    assert runner.step(("a", 4, 1)) == {0: 0}
    runner.model_state.remove_request("a")
    runner.add("a", "all", 3)
    assert runner.step(("a", 4, 1)) == {0: 3}
    runner.model_state.remove_request("a")
    runner.add("a")
    assert runner.step(("a", 4, 1)) == {}
