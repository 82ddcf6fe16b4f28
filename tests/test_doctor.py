"""The doctor says what holds, and finds what doesn't."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.doctor import Finding, diagnose
from harness.models import DEFAULT_MODEL
from servers import launch
from tests.chaos.proxy import Proxy
from tests.conftest import run_cli

SERVER_CHECKS = ["server", "tokenizer", "chat template", "exactness", "steering", "noise floor"]


async def findings(url: str) -> dict[str, Finding]:
    return {f.check: f async for f in diagnose(url, None, DEFAULT_MODEL)}


def test_a_sound_server_passes(server: str) -> None:
    done = run_cli("doctor", "--base-url", server, "--json")
    found = {line["check"]: line for line in json.loads(done.stdout)}
    assert [found[check]["status"] for check in SERVER_CHECKS] == ["pass"] * 6, done.stdout
    assert "dtype float32" in found["server"]["text"]
    assert "all hashes hold" in found["embedded model"]["text"]
    assert all(line["cure"] for line in found.values() if line["status"] != "pass")
    assert done.returncode == any(line["status"] == "fail" for line in found.values())


async def test_other_weights_are_found(server: str) -> None:
    async with Proxy(server) as proxy:
        proxy.inject("drifted weights")
        found = await findings(proxy.url)
    assert found["exactness"].status == "fail"
    assert found["exactness"].cure
    assert found["steering"].status == "fail"
    assert found["tokenizer"].status == "pass"


async def test_a_server_without_the_plugin_is_a_warning(server: str) -> None:
    async with Proxy(server, plain=True) as proxy:
        found = await findings(proxy.url)
    assert found["server"].status == "warn"
    assert "harness serve" in str(found["server"].cure)


async def test_a_server_that_ignores_logprob_token_ids_fails(server: str) -> None:
    async with Proxy(server, plain=True) as proxy:
        proxy.inject("missing log-probabilities", times=1000)
        found = await findings(proxy.url)
    assert proxy.injected["missing log-probabilities"] >= 1
    base = found["base scoring"]
    assert base.status == "fail"
    assert "answers can't be asked for by token id (The server left out the log-probability of" in base.text
    assert base.cure == "start one with: harness serve"
    assert (found["LoRA"].status, found["server"].status) == ("fail", "fail")
    assert "none can be scored by token id either" in found["LoRA"].text
    assert not {"exactness", "steering", "noise floor"} & {
        f.check for f in found.values() if f.status == "pass"
    }


async def test_no_server_and_no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "file"))
    found = await findings(f"http://127.0.0.1:{launch.free_port()}")
    assert found["cache"].status == "fail"
    assert "HARNESS_CACHE" in str(found["cache"].cure)
    assert found["embedded model"].status == "warn"
    assert found["server"].status == "fail"
    assert "No server can be reached" in found["server"].text


def test_a_changed_model_is_found(embedded_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "models" / DEFAULT_MODEL
    copy.mkdir(parents=True)
    for file in embedded_model.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "config.json").unlink()
    (copy / "config.json").write_text("{}")
    done = run_cli("doctor", HARNESS_CACHE=str(tmp_path))
    assert "fail  embedded model:" in done.stdout
    assert "config.json has changed" in done.stdout
    assert "warn  server: none runs" in done.stdout
    assert "cure: harness serve --detach" in done.stdout
    assert done.returncode == 1
