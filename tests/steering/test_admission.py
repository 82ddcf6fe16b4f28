"""The admission function alone: what it makes of names and specs, and that it refuses 5,000 malformed ones."""

from __future__ import annotations

import asyncio
import json
import random
import tracemalloc
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.modelinfo import ModelInfo
from harness.vectors import write_vector
from servers.steering import admission_guard
from servers.steering.admission import Admission, RefusedError
from servers.steering.limits import Limits
from servers.steering.middleware import MAX_BODY, SteeringMiddleware, parse_body
from servers.steering.registry import Registry
from servers.steering.resolved import EXTRA_ARG, ResolvedSpec
from tests.steering import tiny
from tests.steering.malformed import MALFORMED, kinds, malformed

INFO = ModelInfo("tiny", "LlamaForCausalLM", 4, tiny.HIDDEN, 128, 128, 64)


@pytest.fixture(scope="module")
def admission(tmp_path_factory: pytest.TempPathFactory) -> Admission:
    folder = tmp_path_factory.mktemp("vectors")
    made = [tiny.vector(f"vec{i}", i) for i in range(3)]
    registry = made_registry(folder)
    for vector in made:
        asyncio.run(registry.load(vector.name, write_vector(folder / vector.name, vector), replace=False))
    registry.name_adapter("lora_a", "lora_a-0123456789ab")
    return Admission(registry, Limits(4, "float32", 4, 64, 1), ("tiny",), tiny.BOS)


def made_registry(folder: Path) -> Registry:
    async def send(_method: str, _args: tuple[object, ...]) -> None:
        await asyncio.sleep(0)

    return Registry(INFO, None, [folder], send)


def admit(admission: Admission, given: dict[str, Any] | bytes) -> Any:
    """Read a body as the server does and admit it."""
    raw = given if isinstance(given, bytes) else json.dumps(given).encode()
    return admission.admit("/v1/completions", parse_body(raw))


def plain(**more: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": [5, 6, 7], "max_tokens": 1, **more}


def test_5000_malformed_specs(admission: Admission) -> None:
    rng = random.Random(1)
    found: Counter[tuple[str, int]] = Counter()
    before, answered, largest = 0, 0, 0
    tracemalloc.start()
    try:
        for i, kind in enumerate(kinds(rng, 5_000, huge=10)):
            if i == 1_000:
                before = tracemalloc.get_traced_memory()[0]
            given = malformed(rng, kind, "tiny", "vec1")
            if kind == "huge_body":
                largest = len(json.dumps(given))
            with pytest.raises(RefusedError) as refused:
                admit(admission, given)
            del given
            message = str(refused.value)
            assert 10 < len(message) < 1_000
            assert message.isascii() or "…" in message
            found[kind, refused.value.status] += 1
            if i % 50 == 0 or kind == "huge_body":
                admitted = admit(admission, plain(model=f"vec1@{i + 1}"))
                (term,) = ResolvedSpec.from_json(admitted.changes["vllm_xargs"][EXTRA_ARG]).terms
                assert (term.addition.scale, term.selector) == (i + 1, "last")
                answered += 1
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    print(
        f"by class: {dict(sorted(found.items()))}; memory grew by {grown / 2**20:.2f} MiB; "
        f"{answered} right ones among them; the largest body has {largest:,} bytes"
    )
    assert sum(found.values()) == 5_000
    assert largest > 10_000_000
    assert answered >= 100
    assert {kind for kind, _ in found} == set(MALFORMED)
    assert all(status in (400, 404) for _, status in found)
    assert grown < 8 << 20


def test_names_become_base_or_lora_and_a_spec(admission: Admission) -> None:
    digest = admission.registry.vectors["vec1"].digest
    for name in ("vec1@0.5@all", f"vec1-{digest[:12]}@0.5@all"):
        admitted = admit(admission, plain(model=name))
        assert admitted.changes["model"] == "tiny"
        assert admitted.shown == name
        assert admitted.spec.digests == {digest}
    both = admit(admission, plain(model="lora_a+vec1"))
    assert both.changes["model"] == "lora_a-0123456789ab"
    assert both.spec.digests == {digest}
    assert not admit(admission, plain()).changes
    assert not admit(admission, plain(model="vec1@0")).spec.terms


def test_raw_sampling_parameters_are_refused(admission: Admission) -> None:
    for key in ("steering", "steering_resolved"):
        with pytest.raises(RefusedError, match="can't be steered"):
            admission.admit("/inference/v1/generate", {"sampling_params": {"extra_args": {key: "[]"}}})
    with pytest.raises(RefusedError, match="can't be steered"):
        admission.admit("/v1/embeddings", {"model": "vec1", "input": "x"})
    assert not admission.admit(
        "/inference/v1/generate", {"sampling_params": {"extra_args": {"a": 1}}}
    ).changes


@pytest.mark.parametrize("key", ["steering", "steering_resolved"])
@pytest.mark.parametrize("given", ['[{"vector":"vec1"}]', [{"vector": "vec1"}], "", 0, False])
def test_a_field_beside_the_model_is_refused(admission: Admission, key: str, given: object) -> None:
    """VLLM would pass over it, and the request would run unsteered."""
    for body in (plain(), {"prompt": [5, 6, 7]}):
        with pytest.raises(RefusedError, match=r"vllm_xargs.*model \(vec") as refused:
            admit(admission, {**body, key: given})
        assert (refused.value.status, refused.value.param) == (400, key)


@pytest.mark.parametrize("key", ["steering", "steering_resolved"])
async def test_the_door_reads_a_body_that_names_no_model(admission: Admission, key: str) -> None:
    sent: list[Any] = []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("it went through")

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps({"prompt": [5], key: "[]"}).encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await SteeringMiddleware(app, lambda: admission)(scope, receive, send)
    assert sent[0]["status"] == 400
    assert "vllm_xargs" in json.loads(sent[1]["body"])["error"]["message"]


@pytest.mark.parametrize(
    "raw",
    [
        b' {"model": "vec1", "prompt": [5, 6], "max_tokens": 1, "x": 1e400, "y": 12345678901234567890123} \r\n\t',
        b'{"model": "tiny", "prompt": "\\ud800 {}", "mod\\u0065l": "vec1", "vllm_xargs": {"a": 1}}',
        '{"model": "vec1", "prompt": "é}"}\n'.encode("utf-16"),
        '{"model": "vec1", "prompt": "é\U0001f600"}'.encode("utf-8-sig"),
    ],
)
async def test_a_steered_body_keeps_every_other_field(admission: Admission, raw: bytes) -> None:
    """Whatever its spelling and encoding, vLLM reads what came but for what admission changed."""
    came = json.loads(raw)
    got: list[tuple[Any, bytes]] = []

    async def app(scope: Any, receive: Any, _send: Any) -> None:
        got.append((scope["headers"], (await receive())["body"]))

    async def receive() -> Any:
        return {"type": "http.request", "body": raw}

    async def send(_message: Any) -> None:
        raise AssertionError("it was refused")

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(raw)).encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": headers}
    await SteeringMiddleware(app, lambda: admission)(scope, receive, send)
    ((sent, body),) = got
    assert dict(sent)[b"content-length"] == str(len(body)).encode()
    read = json.loads(body)
    (term,) = ResolvedSpec.from_json(read["vllm_xargs"].pop(EXTRA_ARG)).terms
    assert term.addition.digest == admission.registry.vectors["vec1"].digest
    assert read == {**came, "model": "tiny", "vllm_xargs": came.get("vllm_xargs", {})}


async def test_a_body_beyond_the_limit_is_not_kept() -> None:
    """It is refused with 413 as soon as the limit is passed: what follows is not read."""
    chunk, read, sent = b" " * (1 << 20), 0, []

    async def app(_scope: Any, _receive: Any, _send: Any) -> None:
        raise AssertionError("it went through")

    async def receive() -> Any:
        nonlocal read
        read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    await SteeringMiddleware(app, lambda: pytest.fail("it was admitted"))(scope, receive, send)
    assert sent[0]["status"] == 413
    assert "64 MiB" in json.loads(sent[1]["body"])["error"]["message"]
    assert read == MAX_BODY + len(chunk)


def engine_request(**changed: Any) -> Any:
    given = {"prompt_token_ids": [1, 5, 6], "prompt_embeds": None, "resumable": False}
    return SimpleNamespace(**given | changed)


def test_the_guard_lets_through_what_admission_made(
    admission: Admission, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = admit(admission, plain(model="vec1@0.5")).changes["vllm_xargs"]
    seen: list[Any] = []
    monkeypatch.setattr(admission_guard, "checks", [lambda spec, request: seen.append((spec, request))])
    request = engine_request()
    admission_guard.guard(extra, request)
    admission_guard.guard({"other": 1}, request)
    assert seen == [(ResolvedSpec.from_json(extra[EXTRA_ARG]), request)]


@pytest.mark.parametrize(
    ("extra", "changed", "hint"),
    [
        ({"steering": "[]"}, {}, "reached the engine unread"),
        ({EXTRA_ARG: "["}, {}, "server's own"),
        ({EXTRA_ARG: "[1,[[0]]]"}, {}, "server's own"),
        ({EXTRA_ARG: 5}, {}, "server's own"),
        ({EXTRA_ARG: "{}"}, {}, "server's own"),
        ({}, {"prompt_embeds": object()}, "not of embeddings"),
        ({}, {"prompt_token_ids": None}, "not of embeddings"),
        ({}, {"resumable": True}, "resumable"),
    ],
)
def test_the_guard_refuses(
    admission: Admission, extra: dict[str, Any], changed: dict[str, Any], hint: str
) -> None:
    made = admit(admission, plain(model="vec1")).changes["vllm_xargs"]
    with pytest.raises(ValueError, match=hint):
        admission_guard.guard(made | extra, engine_request(**changed))


def test_every_request_of_the_engine_goes_through_the_guard() -> None:
    def made(extra: dict[str, Any] | None) -> Any:
        return engine_request(sampling_params=SimpleNamespace(extra_args=extra))

    class InputProcessor:
        def process_inputs(self, extra: dict[str, Any] | None) -> Any:
            return made(extra)

    module: Any = SimpleNamespace(InputProcessor=InputProcessor)
    admission_guard.patch(module)
    admission_guard.patch(module)
    assert InputProcessor().process_inputs(None).prompt_token_ids == [1, 5, 6]
    with pytest.raises(ValueError, match="unread"):
        InputProcessor().process_inputs({"steering": "[]"})


def test_reloading_and_unloading(tmp_path: Path) -> None:
    registry = made_registry(tmp_path)
    admission = Admission(registry, Limits(4, "float32", 4, 64, 1), ("tiny",), tiny.BOS)

    def load(seed: int, name: str = "v") -> str:
        folder = write_vector(tmp_path / f"{name}{seed}", tiny.vector("v", seed))
        return asyncio.run(registry.load(name, folder, replace=True)).served_name

    first, second = load(1), load(2)
    assert admit(admission, plain(model=second)).spec == admit(admission, plain(model="v")).spec
    with pytest.raises(RefusedError, match="does not exist"):
        admit(admission, plain(model=first))
    assert load(2, second) == second
    asyncio.run(registry.unload("v"))
    assert admit(admission, plain(model=second)).spec.terms
    asyncio.run(registry.unload(second))
    with pytest.raises(RefusedError, match="does not exist"):
        admit(admission, plain(model=second))
    assert not registry.knows(tiny.vector("v", 2).digest)
