"""Steps: the shortcut for steady decoding says what the long way says, and does nothing where nothing changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.steering.resolved import Addition, Content
from servers.steering.rows import END, Run
from servers.steering.steps import StepWriter
from tests.steering.test_plan import DIGESTS, HIDDEN, SITES, buffers, direct, read


@dataclass
class Request:
    prompt: int
    runs: tuple[Run, ...]
    done: int = 0


def content(digest: str, layer: int = 0, scale: float = 1.0) -> Content:
    return (Addition(layer, "mlp_out", digest, "absolute", scale),)


CONTENTS = [content(DIGESTS[0]), content(DIGESTS[1], 1), content(DIGESTS[0], 2, 2.0)]


@dataclass
class Batch:
    """A scheduler in small: requests by id, prompts in pieces, then one token a step."""

    requests: dict[str, Request] = field(default_factory=dict)
    calls: int = 0

    def runs_of(self, id_: str) -> tuple[Run, ...]:
        self.calls += 1
        return self.requests[id_].runs

    def step(self, writer: StepWriter, ids: list[str], piece: int, padding: int) -> list[tuple[str, int]]:
        """Schedule a step; return which position of which request each token is."""
        starts, computed, tokens = [0], [], []
        for id_ in ids:
            request = self.requests[id_]
            left = request.prompt - request.done
            length = min(left, piece) if left > 0 else 1
            computed.append(request.done)
            starts.append(starts[-1] + length)
            tokens += [(id_, request.done + i) for i in range(length)]
            request.done += length
        writer.write(ids, np.array(starts), np.array(computed), len(tokens) + padding)
        return tokens


def drawn_runs(data: st.DataObject, prompt: int) -> tuple[Run, ...]:
    """Return up to two runs, the last of which may go on without an end."""
    first = data.draw(st.integers(0, prompt))
    runs = [Run(first, first + data.draw(st.integers(1, 3)), data.draw(st.sampled_from(CONTENTS)))]
    if data.draw(st.booleans()):
        start = runs[0].stop + data.draw(st.integers(0, 4))
        stop = END if data.draw(st.booleans()) else start + 2
        runs.append(Run(start, stop, data.draw(st.sampled_from(CONTENTS))))
    return tuple(runs) if data.draw(st.integers(0, 3)) else ()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_every_token_gets_what_its_position_says(data: st.DataObject) -> None:
    made, batch = buffers(), Batch()
    writer = StepWriter(made, batch.runs_of)
    made_ids = 0
    rng = np.random.default_rng(0)
    for _ in range(data.draw(st.integers(5, 30))):
        event = data.draw(st.sampled_from(["come", "go", "stay", "stay", "stay", "stay"]))
        if event == "come" and len(batch.requests) < 3:
            made_ids += 1
            prompt = data.draw(st.integers(1, 6))
            batch.requests[f"r{made_ids}"] = Request(prompt, drawn_runs(data, prompt))
        if event == "go" and batch.requests:
            del batch.requests[data.draw(st.sampled_from(sorted(batch.requests)))]
        ids = [id_ for id_ in batch.requests if data.draw(st.integers(0, 5))]
        if not ids:
            continue
        padding = data.draw(st.sampled_from([0, 0, 0, 2]))
        tokens = batch.step(writer, ids, data.draw(st.integers(1, 4)), padding)
        h = rng.standard_normal((len(tokens) + padding, HIDDEN)).astype(np.float32)
        for site in SITES:
            want = h.astype(np.float64)
            for row, (id_, position) in enumerate(tokens):
                for run in batch.requests[id_].runs:
                    if run.start <= position < run.stop:
                        want[row] = direct(run.content, site, h[row])
            np.testing.assert_allclose(read(made, site, torch.from_numpy(h)).numpy(), want, atol=1e-5)
        acting = {
            (a.layer, a.hook)
            for id_, position in tokens
            for run in batch.requests[id_].runs
            if run.start <= position < run.stop
            for a in run.content
        }
        assert acting <= made.live


def test_steady_decoding_costs_nothing() -> None:
    made, batch = buffers(), Batch()
    writer = StepWriter(made, batch.runs_of)
    batch.requests["last"] = Request(4, (Run(3, 4, CONTENTS[0]),))
    batch.requests["generated"] = Request(4, (Run(4, END, CONTENTS[1]),))
    batch.requests["plain"] = Request(4, ())
    ids = list(batch.requests)
    for _ in range(3):
        batch.step(writer, ids, 4, 0)
    calls, uploads = batch.calls, made.uploads
    assert made.live == {(1, "mlp_out")}
    for _ in range(100):
        batch.step(writer, ids, 4, 0)
    assert (batch.calls, made.uploads) == (calls, uploads)
    writer.forget()
    batch.step(writer, ids, 4, 0)
    assert batch.calls == calls + 3
    assert made.uploads == uploads


def test_after_a_failed_step_none_is_written() -> None:
    """A step that failed half-way holds slots whose rows were never filled: no later one may use them."""
    made, batch = buffers(), Batch()
    writer = StepWriter(made, batch.runs_of)
    batch.requests["lost"] = Request(4, (Run(0, END, content("absent")),))
    with pytest.raises(RuntimeError, match="is not in this worker"):
        batch.step(writer, ["lost"], 4, 0)
    batch.requests["plain"] = Request(4, ())
    with pytest.raises(RuntimeError, match="an earlier step failed"):
        batch.step(writer, ["plain"], 4, 0)
