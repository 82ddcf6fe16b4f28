"""Any sequence of what clients do, against a model of what each answer must be: real servers, tiny models.

Loads, reloads with other content, unloads, single requests, bursts that preempt, cancelled streams, and
reloads under a running stream. A failure shrinks to the shortest sequence that shows it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from harness.modelinfo import read_config
from harness.spec import Term
from harness.vectors import write_vector
from servers import launch
from tests.steering import tiny

pytestmark = pytest.mark.slow
TOLERANCE = 1e-3
OPERATIONS = 2_000
NAMES = ("a", "b", "c")
IDS = list(range(3, tiny.VOCAB, 8))
FROM_END = {"pos-2": 2, "pos-33": 33}
STEMS = [tiny.prompt(seed, 140) for seed in range(3)]


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, Path]]:
    """A server of a tiny model with room for few blocks: its URL, the model and the folder of vectors."""
    model = tiny.make(request.param, tmp_path_factory.mktemp(request.param) / "tiny", tokenizer=True)
    vectors = tmp_path_factory.mktemp("vectors")
    info = read_config(model, "tiny")
    # Sliding and global layers each take blocks of their own.
    extra = ["--num-gpu-blocks-override", "48" if request.param == "gemma3" else "14"]
    if tiny.ON_GPU:
        os.environ.setdefault("TRITON_F32_DEFAULT", tiny.ENV["TRITON_F32_DEFAULT"])
        extra += ["--dtype", "float32", "--block-size", "32"]
        extra += [f"--{name.replace('_', '-')}={value}" for name, value in tiny.GPU_MEMORY.items()]
    config = launch.ServerConfig(
        model=str(model), info=info, device=launch.detect_device(), port=launch.free_port(),
        adapter_dirs=(vectors,), max_model_len=256, max_num_seqs=16, extra=tuple(extra),
    )  # fmt: skip
    running = launch.Server(config, tmp_path_factory.mktemp("log") / "vllm.log")
    try:
        running.wait(timeout=300)
        yield running.url, model, vectors
    finally:
        running.stop()


@st.composite
def terms(draw: st.DrawFn) -> list[Term]:
    """Up to three terms of one scale mode: two modes may need more lanes than the server has."""
    mode = draw(st.sampled_from(["absolute", "relative"]))
    scales = [-1.0, 0.5, 1.0] if mode == "absolute" else [-0.2, 0.1, 0.5]
    return [
        Term(
            draw(st.sampled_from(NAMES)),
            draw(st.integers(0, 3)),
            draw(st.sampled_from(["mlp_out", "resid_post"])),
            draw(st.sampled_from(scales)),
            mode,
            draw(st.sampled_from(["last", "pos-2", "pos-33", "all", "prompt", "generated"])),
        )
        for _ in range(draw(st.integers(0, 3)))
    ]


requests = st.tuples(
    terms(), st.integers(0, 2), st.sampled_from([1, 2, 31, 32, 33, 40, 64, 65, 100, 140]), st.integers(2, 40)
)
"""Terms, stem, prompt's length, tokens to generate."""


class Clients(RuleBasedStateMachine):
    """The server's clients. ``loaded`` is the model: which content each name stands for."""

    url: str
    folder: Path
    reference: tiny.Reference
    done: Counter[str]
    worst: float = 0.0

    @initialize()
    def begin(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=120)
        self.loaded: dict[str, Any] = {}

    @rule(name=st.sampled_from(NAMES), seed=st.integers(0, 5))
    def load(self, name: str, seed: int) -> None:
        made = tiny.vector(name, seed, layer=1)
        folder = write_vector(self.folder / f"{name}_{seed}", made)
        body = {"vector_name": name, "vector_path": str(folder), "load_inplace": True}
        answer = self.http.post("/v1/load_steering_vector", json=body)
        assert answer.status_code == 200, answer.text
        self.loaded[name] = made
        self.done["load"] += 1

    @rule(name=st.sampled_from(NAMES))
    def unload(self, name: str) -> None:
        answer = self.http.post("/v1/unload_steering_vector", json={"vector_name": name})
        assert answer.status_code == (200 if self.loaded.pop(name, None) else 404)
        self.done["unload"] += 1

    @rule(request=requests)
    def ask(self, request: Any) -> None:
        body = self._body(request)
        self._check(request, self.http.post("/v1/completions", json=body))

    @rule(batch=st.lists(requests, min_size=6, max_size=14))
    def burst(self, batch: list[Any]) -> None:
        bodies = [self._body(request) for request in batch]

        async def send() -> list[httpx.Response]:
            async with httpx.AsyncClient(base_url=self.url, timeout=120) as made:
                return await asyncio.gather(*(made.post("/v1/completions", json=body) for body in bodies))

        for request, answer in zip(batch, asyncio.run(send()), strict=True):
            self._check(request, answer)

    @rule(request=requests)
    def cancel(self, request: Any) -> None:
        body = self._body(request) | {"stream": True, "max_tokens": 100}
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            next(answer.iter_lines())
        self.done["cancel"] += 1

    @rule(request=requests, name=st.sampled_from(NAMES), seed=st.integers(0, 5))
    def reload_under_a_stream(self, request: Any, name: str, seed: int) -> None:
        """What was admitted keeps its content to the end, whatever its name stands for by then."""
        body = self._body(request) | {"stream": True}
        before = dict(self.loaded)
        choice: dict[str, Any] = {"token_ids": [], "logprobs": {"top_logprobs": []}}
        with self.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.iter_lines()
            status, first = answer.status_code, next(lines)
            self.load(name, seed)
            for line in [first, *lines]:
                if line.startswith("data: {"):
                    piece = json.loads(line.removeprefix("data: "))["choices"][0]
                    choice["token_ids"] += piece["token_ids"]
                    choice["logprobs"]["top_logprobs"] += piece["logprobs"]["top_logprobs"]
        self._compare(request, before, status, choice)
        self.done["reload under a stream"] += 1

    def teardown(self) -> None:
        for name in list(self.loaded):
            self.unload(name)
        self.http.close()

    def _body(self, request: Any) -> dict[str, Any]:
        found, stem, length, tokens = request
        body = {"model": "+".join(t.name for t in found) or "tiny", "prompt": STEMS[stem][:length]}
        body |= {"max_tokens": tokens, "temperature": 0, "ignore_eos": True, "logprobs": 1}
        return body | {"logprob_token_ids": IDS, "return_tokens_as_token_ids": True, "return_token_ids": True}

    def _check(self, request: Any, answer: httpx.Response) -> None:
        choice = answer.json()["choices"][0] if answer.status_code == 200 else {}
        self._compare(request, self.loaded, answer.status_code, choice)
        self.done[f"answered {answer.status_code}"] += 1

    def _compare(self, request: Any, loaded: dict[str, Any], status: int, choice: dict[str, Any]) -> None:
        found, stem, length, tokens = request
        prompt = STEMS[stem][:length]
        if any(term.vector not in loaded for term in found):
            assert status == 404
        elif any(FROM_END.get(term.selector, 1) > length for term in found):
            assert status == 400
        else:
            assert status == 200
            assert len(choice["token_ids"]) == tokens
            self.reference.vectors = loaded
            spec = "+".join(term.name for term in found) or "base"
            want = self.reference.logprobs([*prompt, *choice["token_ids"][:-1]], length, spec)
            for i, step in enumerate(choice["logprobs"]["top_logprobs"]):
                for token, got in step.items():
                    error = abs(got - float(want[length - 1 + i, int(token.removeprefix("token_id:"))]))
                    assert error < TOLERANCE, (i, token, error)
                    type(self).worst = max(self.worst, error)


def test_any_sequence(started: tuple[str, Path, Path]) -> None:
    url, model, folder = started

    class Bound(Clients):
        pass

    Bound.url, Bound.folder = url, folder
    Bound.reference = tiny.Reference(model)
    Bound.done = Counter()
    while sum(Bound.done.values()) < OPERATIONS:
        run_state_machine_as_test(
            Bound,
            settings=settings(
                max_examples=20,
                stateful_step_count=40,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
    metrics = httpx.get(f"{url}/metrics").text
    preempted = sum(
        float(line.rsplit(" ", 1)[1])
        for line in metrics.splitlines()
        if line.startswith("vllm:num_preemptions_total")
    )
    print(f"{dict(Bound.done)}; {preempted:.0f} preemptions; largest difference {Bound.worst:.1e} nats")
    assert preempted > 0
