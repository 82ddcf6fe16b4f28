"""The server's LoRA route without a server: content-addressed names, and refusals before vLLM sees anything."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from harness.modelinfo import ModelInfo
from servers.steering.loras import CheckedLoras
from servers.steering.registry import Registry
from tests.adapters_made import lora_tensors, poison, write_lora

INFO = ModelInfo("tiny", "LlamaForCausalLM", 4, 64, 128, 64, 32)
MLP = ["gate_proj", "up_proj", "down_proj"]


@dataclass
class Models:
    """VLLM's model list in small: what it was told to load and unload."""

    lora_requests: dict[str, Any] = field(default_factory=dict)
    fails: bool = False

    async def load_lora_adapter(self, request: Any, _base: str | None = None) -> Any:
        if self.fails:
            return SimpleNamespace(error="vLLM's own")
        assert request.lora_name not in self.lora_requests
        assert not request.load_inplace
        self.lora_requests[request.lora_name] = SimpleNamespace(lora_path=request.lora_path)
        return "Success"

    async def unload_lora_adapter(self, request: Any) -> Any:
        return "Success" if self.lora_requests.pop(request.lora_name, None) else SimpleNamespace(error="404")


@dataclass
class Request:
    """The body of the load route."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False

    def model_copy(self, update: dict[str, Any]) -> Request:
        return Request(**{**vars(self), **update})


class Server:
    """The route with its registry; adapters lie in ``folder``."""

    def __init__(self, folder: Path, rank: int = 16) -> None:
        async def send(_method: str, _args: tuple[object, ...]) -> None:
            await asyncio.sleep(0)

        self.folder = folder
        self.models = Models()
        self.registry = Registry(INFO, None, [folder], send)
        wrapped = [f"model.layers.1.mlp.{m}" for m in ("gate_up_proj", "down_proj")]
        config = SimpleNamespace(max_lora_rank=rank, target_modules=wrapped)
        self.loras = CheckedLoras(self.models, self.registry, config, (folder,))

    def write(self, name: str, seed: int, layers: tuple[int, ...] = (1,), rank: int = 4) -> Path:
        tensors = lora_tensors(INFO, list(layers), MLP, rank=rank, seed=seed)
        return write_lora(self.folder / name, INFO, tensors, rank=rank)

    async def load(self, name: str, folder: Path | str, in_place: bool = False) -> Any:
        return await self.models.load_lora_adapter(Request(name, str(folder), in_place))

    async def refused(self, name: str, folder: Path | str, in_place: bool = False) -> str:
        before = dict(self.models.lora_requests)
        answer = await self.load(name, folder, in_place)
        assert answer.error.code == 400
        assert self.models.lora_requests == before
        return str(answer.error.message)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "loras").mkdir()
    return Server(tmp_path / "loras")


async def test_other_weights_get_another_name(server: Server) -> None:
    first, second = server.write("one", 1), server.write("two", 2)
    assert "Success" in await server.load("mine", first)
    (served,) = server.models.lora_requests
    assert served.startswith("mine-")
    assert server.registry.adapters == {"mine": served}
    stored = Path(server.models.lora_requests[served].lora_path)
    assert not stored.is_relative_to(server.folder)
    assert "already been loaded" in await server.refused("mine", second)
    assert server.registry.adapters == {"mine": served}
    assert "Success" in await server.load("mine", second, in_place=True)
    (other,) = server.models.lora_requests
    assert other != served
    assert server.registry.adapters == {"mine": other}
    key = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"
    loaded = load_file(Path(server.models.lora_requests[other].lora_path) / "adapter_model.safetensors")
    assert np.array_equal(loaded[key], load_file(second / "adapter_model.safetensors")[key])
    assert "the name of another content" in await server.refused(served, second)
    assert "Success" in await server.load("mine", first, in_place=True)
    assert server.registry.adapters == {"mine": served}


async def test_what_changes_on_disk_after_loading_is_not_served(server: Server) -> None:
    folder = server.write("one", 1)
    await server.load("mine", folder)
    (served,) = server.models.lora_requests
    stored = Path(server.models.lora_requests[served].lora_path) / "adapter_model.safetensors"
    before = stored.read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(b"")
    assert stored.read_bytes() == before


async def test_what_vllm_refuses_leaves_the_old_one(server: Server) -> None:
    first, second = server.write("one", 1), server.write("two", 2)
    await server.load("mine", first)
    known = dict(server.registry.adapters)
    server.models.fails = True
    answer = await server.load("mine", second, in_place=True)
    assert answer.error == "vLLM's own"
    assert server.registry.adapters == known
    assert list(server.models.lora_requests) == list(known.values())


async def test_refusals(server: Server, tmp_path: Path) -> None:
    good = server.write("good", 1)
    server.registry.vectors["vec"] = None  # type: ignore[assignment]
    assert "steering vector" in await server.refused("vec", good)
    assert "adapter name" in await server.refused("base", good)
    assert "adapter name" in await server.refused("a b", good)
    assert "outside" in await server.refused("x", "/etc")
    assert "outside" in await server.refused("x", server.folder / "..")
    ranked = await server.refused("x", server.write("ranked", 2, rank=32))
    assert "rank 32" in ranked
    assert "--max-lora-rank 16" in ranked
    assert "does not wrap" in await server.refused("x", server.write("wide", 3, layers=(1, 2)))
    for value in (np.nan, np.inf):
        folder = poison(server.write(f"broken_{value}", 4), value)
        assert "not finite" in await server.refused("x", folder)
    assert server.registry.adapters == {}
    server.loras._config = None
    assert "without LoRA" in await server.refused("x", good)
