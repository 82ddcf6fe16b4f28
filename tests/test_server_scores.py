"""Right numbers from a real server: every score equals the float32 reference, for base and adapters."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest

from harness.adapters import load_adapter, snapshot
from harness.client import ScoringClient
from harness.config import RunConfig
from harness.engines import ensure_loaded
from harness.errors import InputError, ServerError
from harness.modelinfo import ModelInfo, read_config
from harness.models import DEFAULT_MODEL
from harness.plan import encode_suite, load_suites
from harness.probe import prove
from harness.prompts import PromptBuilder, load_tokenizer
from harness.reference.engine import ReferenceEngine
from harness.results import load_run
from harness.runner import run
from harness.scoring import Engine, request_for, score_item
from harness.subject import BASE, Subject, resolve_subjects
from servers import launch
from tests.adapters_made import lora_tensors, write_lora

SUBJECTS = ["made_safe", "made_risky"]


async def differences(engine: Engine, subject: Subject, encoded: list[Any]) -> list[float]:
    found = {}
    async for index, answer in engine.score(subject, [request_for(e) for e in encoded]):
        found[index] = score_item(encoded[index], answer).logit_diff
    return [found[i] for i in range(len(encoded))]


def settings(server: str, made: Path, output: Path, **more: Any) -> RunConfig:
    values = {
        "suite": ["awareness", "validation"],
        "adapter": SUBJECTS,
        "base_url": server,
        "output_dir": output,
    }
    return RunConfig.model_validate(values | {"limit": 12, "adapters": [made], "cache": False} | more)


@pytest.mark.parametrize("limit", [6, pytest.param(None, marks=pytest.mark.slow)])
async def test_a_run_equals_the_reference(
    limit: int | None, server: str, made_adapters: Path, tmp_path: Path
) -> None:
    asked = settings(server, made_adapters, tmp_path, limit=limit)
    ours = load_run((await run(asked)).folder).rows
    reference = asked.model_copy(update={"base_url": None, "engine": "reference"})
    truth = load_run((await run(reference)).folder).rows
    keys = ["suite", "subject", "item"]
    assert ours[keys].equals(truth[keys])
    assert set(ours.subject) == {"base", *SUBJECTS}
    error = (ours.logit_diff - truth.logit_diff).abs()
    assert error.max() <= 1e-3, ours.loc[error.idxmax(), keys].tolist()
    assert (ours.positive_logprob - truth.positive_logprob).abs().max() <= 1e-3
    assert ours.top_id.equals(truth.top_id)


async def test_the_same_run_twice_agrees(server: str, made_adapters: Path, tmp_path: Path) -> None:
    first, second = [
        load_run((await run(settings(server, made_adapters, tmp_path, limit=6))).folder).rows
        for _ in range(2)
    ]
    assert first[["suite", "subject", "item", "prompt"]].equals(
        second[["suite", "subject", "item", "prompt"]]
    )
    assert (first.logit_diff - second.logit_diff).abs().max() <= 1e-4


async def test_swapping_adapters_answers_with_the_right_one(
    server: str, embedded_info: ModelInfo, made_adapters: Path
) -> None:
    rng = random.Random(7)
    suite = load_suites(["awareness"], 4)[0]
    async with ScoringClient(server) as client:
        await client.connect()
        client.tokenizer = load_tokenizer(client.model_root)
        encoded = list(encode_suite(suite, PromptBuilder(client.tokenizer)).items)[:3]
        subjects = resolve_subjects(SUBJECTS, [made_adapters], embedded_info)
        truth = {s.name: await differences(client, s, encoded) for s in subjects}
        assert max(abs(a - b) for a, b in zip(truth["made_safe"], truth["made_risky"], strict=True)) > 0.1
        adapters = {s.name: s.adapter for s in subjects if s.adapter}
        for _ in range(100):
            adapter = adapters[rng.choice(SUBJECTS)]
            if adapter.served_name in client.loaded:
                await client.unload_lora(adapter.served_name)
            else:
                await client.load_lora(adapter.served_name, str(snapshot(adapter, embedded_info)))
            ready = [s for s in subjects if not s.adapter or s.adapter.served_name in client.loaded]
            asked = rng.sample(ready, min(3, len(ready)))
            together = await asyncio.gather(*(differences(client, subject, encoded) for subject in asked))
            for subject, answers in zip(asked, together, strict=True):
                assert answers == pytest.approx(truth[subject.name], abs=1e-3), subject.name
        for adapter in adapters.values():
            await ensure_loaded(client, adapter, embedded_info, str)


async def test_an_adapter_that_changes_nothing_is_refused(
    server: str, embedded_info: ModelInfo, tmp_path: Path
) -> None:
    tensors = lora_tensors(embedded_info, [22], ["down_proj"], scale=0.0)
    path = write_lora(tmp_path / "idle", embedded_info, tensors)
    adapter = load_adapter(path, embedded_info)
    async with ScoringClient(server) as client:
        await client.connect()
        client.tokenizer = load_tokenizer(client.model_root)
        await ensure_loaded(client, adapter, embedded_info, str)
        with pytest.raises(InputError, match="'idle' changes nothing"):
            await prove(client, [Subject("idle", adapter)])
        await client.unload_lora(adapter.served_name)


async def test_an_adapter_on_a_module_that_is_not_wrapped_is_refused(
    server: str, embedded_info: ModelInfo, tmp_path: Path
) -> None:
    tensors = lora_tensors(embedded_info, [22], ["q_proj"])
    adapter = load_adapter(write_lora(tmp_path / "elsewhere", embedded_info, tensors), embedded_info)
    async with ScoringClient(server) as client:
        await client.connect()
        with pytest.raises(InputError, match="it would be applied in part"):
            await ensure_loaded(client, adapter, embedded_info, str)
        assert adapter.served_name not in client.loaded


async def test_an_unreachable_server_is_said() -> None:
    async with ScoringClient(f"http://127.0.0.1:{launch.free_port()}") as client:
        with pytest.raises(ServerError, match="No server can be reached"):
            await client.connect()


async def test_the_server_describes_itself(server: str, embedded_info: ModelInfo) -> None:
    async with ScoringClient(server) as client:
        await client.connect()
        assert client.base_name == DEFAULT_MODEL
        assert client.info["dtype"] == "float32"
        assert client.info["model_digest"]
        assert "model.layers.22.mlp.down_proj" in client.info["lora"]["wrapped"]


async def test_small_gemma_with_a_lora_equals_the_reference(small_gemma: Path, tmp_path: Path) -> None:
    info = read_config(small_gemma, str(small_gemma))
    tensors = lora_tensors(info, [1, 2], ["gate_proj", "up_proj", "down_proj"])
    adapter = load_adapter(write_lora(tmp_path / "gemma_lora", info, tensors), info)
    config = launch.ServerConfig(
        model=str(small_gemma), info=info, device=launch.detect_device(), port=launch.free_port(),
        adapters=(adapter,), wrap=adapter.vllm_modules(info),
    )  # fmt: skip
    running = launch.Server(config, tmp_path / "vllm.log")
    try:
        await asyncio.to_thread(running.wait, str, 600)
        engine = ReferenceEngine(str(small_gemma), str(small_gemma))
        suites = load_suites(["awareness", "validation", "backdoor_awareness"], 4)
        encoded = [e for s in suites for e in encode_suite(s, PromptBuilder(engine.tokenizer)).items]
        async with ScoringClient(running.url) as client:
            await client.connect()
            assert all(e.prompt_ids.count(2) == 1 for e in encoded)
            for subject in (BASE, Subject("gemma_lora", adapter)):
                ours = await differences(client, subject, encoded)
                truth = await differences(engine, subject, encoded)
                assert ours == pytest.approx(truth, abs=1e-3)
            assert (
                max(abs(a - b) for a, b in zip(truth, await differences(engine, BASE, encoded), strict=True))
                > 0.1
            )
    finally:
        running.stop()
