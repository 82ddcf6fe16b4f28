"""LoRA adapters beside vectors: plain names for content-addressed ones, allowed folders, checks before loading.

vLLM's own route takes any path and any name, keys its prefix cache by that name, and applies an adapter in
part where a module isn't wrapped. Here a load goes through the checks of ``harness serve`` first.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

from harness.adapters import NAME, Adapter, load_adapter, snapshot
from harness.errors import InputError
from harness.spec import check_content_name, content_name
from servers.steering.registry import Registry, allowed

_SERVED: Final = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_-]*)-[0-9a-f]{12}")


class CheckedLoras:
    """Takes over ``load_lora_adapter`` and ``unload_lora_adapter`` of vLLM's model list.

    Args:
        models: vLLM's ``OpenAIServingModels``; adapters that it got at its start are taken in.
        registry: where plain names are kept.
        lora_config: vLLM's, None when LoRA is off.
        folders: adapters are loaded from below these only.

    """

    def __init__(self, models: Any, registry: Registry, lora_config: Any, folders: tuple[Path, ...]) -> None:
        self._models = models
        self._registry = registry
        self._config = lora_config
        self._folders = tuple(folder.resolve() for folder in folders)
        self._lock = asyncio.Lock()
        self._load, self._unload = models.load_lora_adapter, models.unload_lora_adapter
        for served in models.lora_requests:
            match = _SERVED.fullmatch(served)
            registry.name_adapter(match["name"] if match else served, served)
        models.load_lora_adapter, models.unload_lora_adapter = self.load, self.unload
        self.roots = {
            name: models.lora_requests[served].lora_path for name, served in registry.adapters.items()
        }

    async def load(self, request: Any, base_model_name: str | None = None) -> Any:
        """Check an adapter and load it under ``name-<digest>``; its plain name serves it from then on."""
        name = request.lora_name
        async with self._lock:
            try:
                adapter, folder = await asyncio.to_thread(self._check, name, request.lora_path)
                served = content_name(name, adapter.digest)
                before = self._registry.adapters.get(name)
                if before is not None and not request.load_inplace:
                    raise InputError(
                        f"The lora adapter '{name}' has already been loaded. If you want to load the adapter in "
                        "place, set 'load_inplace' to True."
                    )
            except InputError as e:
                return self._error(str(e))
            if served != before:
                renamed = {"lora_name": served, "lora_path": str(folder), "load_inplace": False}
                answer = await self._load(request.model_copy(update=renamed), base_model_name)
                if not isinstance(answer, str):
                    return answer
                self._registry.name_adapter(name, served)
                self.roots[name] = request.lora_path
                if before is not None:
                    await self._unload(_unload_request(before))
            return f"Success: LoRA adapter '{name}' added successfully."

    async def unload(self, request: Any) -> Any:
        """Forget an adapter by its plain or content-addressed name."""
        async with self._lock:
            names = [n for n, s in self._registry.adapters.items() if request.lora_name in (n, s)]
            if not names:
                return await self._unload(request)
            served = self._registry.forget_adapter(names[0])
            self.roots.pop(names[0], None)
            answer = await self._unload(request.model_copy(update={"lora_name": served}))
            return (
                f"Success: LoRA adapter '{names[0]}' removed successfully."
                if isinstance(answer, str)
                else answer
            )

    def _check(self, name: str, path: str) -> tuple[Adapter, Path]:
        if self._config is None:
            raise InputError("This server was started without LoRA.")
        if not NAME.match(name or "") or name == "base":
            raise InputError(
                f"'{name[:60]}' is no adapter name; it must match {NAME.pattern} and not be 'base'."
            )
        if name in self._registry.vectors:
            raise InputError(f"'{name}' is the name of a loaded steering vector.")
        folder = allowed(Path(path), self._folders)
        adapter = load_adapter(folder, self._registry.model)
        check_content_name(name, adapter.digest)
        if adapter.rank > self._config.max_lora_rank:
            raise InputError(
                f"The adapter has rank {adapter.rank}; this server was started with --max-lora-rank "
                f"{self._config.max_lora_rank}."
            )
        if unwrapped := [m for m in adapter.vllm_modules(self._registry.model) if not self._wrapped(m)]:
            raise InputError(
                f"The adapter touches {unwrapped[0]} (and {len(unwrapped) - 1} more), which this server does not wrap; "
                "it would be applied in part. Start the server with it, or without --lora-target-modules."
            )
        return adapter, snapshot(adapter, self._registry.model)

    def _wrapped(self, module: str) -> bool:
        targets = self._config.target_modules
        return targets is None or module in targets or module.rsplit(".", 1)[-1] in targets

    def _error(self, message: str) -> Any:
        from servers.steering import compat

        return compat.error_response(message)


def _unload_request(name: str) -> Any:
    from vllm.entrypoints.serve.lora.protocol import UnloadLoRAAdapterRequest

    return UnloadLoRAAdapterRequest(lora_name=name)
