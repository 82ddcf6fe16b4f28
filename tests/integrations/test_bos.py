"""Gemma 3 wants one BOS: a server of a tiny Gemma with the real tokenizer says which tokens it was given.

It starts a server of its own: ``pytest -m slow tests/integrations/test_bos.py``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.client import ScoringClient
from harness.integrations.lm_eval import export_tasks
from harness.integrations.tasks import Exported, prepare_export
from harness.modelinfo import read_config
from harness.models import DEFAULT_MODEL
from harness.scoring import request_for
from harness.subject import BASE
from servers import launch
from tests.conftest import answering
from tests.steering import tiny

pytestmark = pytest.mark.slow
NAME, BOS, EOS = "tiny-gemma", 2, 1
SUITES = ["awareness", "validation"]
"""Raw text and chat."""


@pytest.fixture(scope="module")
def gemma(gemma_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("gemma")
    config = tiny.config("gemma3")
    config.vocab_size, config.bos_token_id, config.eos_token_id = 262_208, BOS, EOS
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / NAME)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(gemma_tokenizer_files / file, folder / NAME)
    served = launch.ServerConfig(
        model=str(folder / NAME),
        info=read_config(folder / NAME, NAME),
        device=launch.detect_device(),
        port=launch.free_port(),
        steering=False,
        max_model_len=512,
    )
    with answering(launch.Server(served, folder / "vllm.log")) as url:
        yield url


@pytest.fixture(scope="module")
def exported(gemma_tokenizer_files: Path) -> Exported:
    return prepare_export(SUITES, 2, DEFAULT_MODEL, str(gemma_tokenizer_files))


def asked(url: str, prompt: str | list[int], **more: Any) -> dict[str, Any]:
    """Return the answer's choice, with the tokens that the server was given."""
    body = {"model": NAME, "prompt": prompt, "max_tokens": 1, "temperature": 0, "logprobs": 1, **more}
    answer = httpx.post(f"{url}/v1/completions", json=body | {"return_token_ids": True}, timeout=120)
    answer.raise_for_status()
    choice: dict[str, Any] = answer.json()["choices"][0]
    assert choice["prompt_token_ids"]
    return choice


async def test_every_way_of_ours_gives_one_bos(gemma: str, exported: Exported, tmp_path: Path) -> None:
    """Our client and lm-eval's echoed requests ask the same tokens, and hear the same of them."""
    export_tasks(tmp_path / "tasks", exported, [BASE], gemma)
    tokenizer = exported.builder.tokenizer
    compared = 0
    async with ScoringClient(gemma) as client:
        await client.connect()
        for suite in exported.suites:
            requests = [request_for(encoded) for encoded in suite.items]
            ours = {index: answer async for index, answer in client.score(BASE, requests)}
            lines = (tmp_path / "tasks" / f"{suite.name}.jsonl").read_text("utf-8").split("\n")
            documents = {d["id"]: d for d in (json.loads(line) for line in lines if line)}
            for index, encoded in enumerate(suite.items):
                given = asked(gemma, list(encoded.prompt_ids), add_special_tokens=False)["prompt_token_ids"]
                assert given == list(encoded.prompt_ids)
                assert (given[0], given.count(BOS)) == (BOS, 1)
                if (document := documents.get(encoded.item.id)) is None:
                    continue
                # As lm-eval's local-completions does: prompt and answer as ids, echoed, the answer's log p read off.
                whole = tokenizer(document["prompt"] + document["choices"][0], add_special_tokens=False)
                echoed = asked(gemma, whole["input_ids"], echo=True)
                assert echoed["prompt_token_ids"] == [*encoded.prompt_ids, whole["input_ids"][-1]]
                said = echoed["logprobs"]["token_logprobs"][len(encoded.prompt_ids)]
                assert said == pytest.approx(ours[index].logprobs[whole["input_ids"][-1]], abs=1e-4)
                compared += 1
    assert compared >= 6


def test_the_trap(gemma: str, exported: Exported) -> None:
    """Text that holds the BOS gets a second one from the server, unless it is told to add nothing."""
    encoded = exported.suites[0].items[0]
    text = exported.text(encoded)
    assert text.startswith("<bos>")
    assert asked(gemma, text)["prompt_token_ids"].count(BOS) == 2
    assert asked(gemma, text, add_special_tokens=False)["prompt_token_ids"] == list(encoded.prompt_ids)
    assert asked(gemma, text.removeprefix("<bos>"))["prompt_token_ids"] == list(encoded.prompt_ids)
