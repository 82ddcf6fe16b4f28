"""Open an engine for a run: the reference, a running server, or a server of our own, stopped afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters import Adapter, shipped_adapters, snapshot
from harness.client import ScoringClient
from harness.config import RunConfig, check_engine
from harness.errors import InputError, ServerError
from harness.modelinfo import ModelInfo, model_digest, model_info, read_config
from harness.models import MODELS, prepare, resolve_model
from harness.probe import prove
from harness.prompts import load_tokenizer
from harness.scoring import Engine
from harness.spec import PROTOCOL
from harness.subject import BASE_NAME, Subject, resolve_subjects, subject_folders
from harness.vectors import SteeringVector, snapshot_vector

if TYPE_CHECKING:
    from harness.reference.engine import ReferenceEngine

Report = Callable[[str], None]


def adapter_dirs(folders: list[Path]) -> list[Path]:
    """Return where adapters are looked up: the given folders, then the shipped one."""
    shipped = shipped_adapters()
    return [*folders, shipped] if shipped.is_dir() else list(folders)


def planned_subjects(config: RunConfig, report: Report) -> list[str]:
    """Return the names of a run's subjects, base first, each looked up without an engine.

    Which model a running server serves isn't known yet, so with ``base_url`` names alone are checked.

    Raises:
        InputError: an adapter that can't be used.

    """
    folders = adapter_dirs(config.adapters)
    check_engine(config.engine, config.base_url, config.tokenizer)
    if config.model in MODELS:
        prepare(config.model, report)
    if not config.base_url:
        return [subject.name for subject in _subjects(config.adapter, folders, config.model)]
    info = model_info(config.model)
    for name in config.adapter:
        subject_folders(name, folders, info)
    return [BASE_NAME, *(name for name in config.adapter if name != BASE_NAME)]


@asynccontextmanager
async def open_engine(config: RunConfig, report: Report) -> AsyncIterator[tuple[Engine, list[Subject]]]:
    """Yield an engine and the run's subjects, every adapter checked, loaded and proved.

    Raises:
        InputError: an adapter that can't be used.
        ServerError: no server can be had.

    """
    folders = adapter_dirs(config.adapters)
    check_engine(config.engine, config.base_url, config.tokenizer)
    if config.engine == "reference":
        yield reference(config.model, config.adapter, folders, config.device, report)
        return
    if config.base_url:
        async with _client(config, config.base_url) as client:
            subjects = await _attach(client, config, folders, report)
            yield client, subjects
        return
    if config.model in MODELS:
        prepare(config.model, report)
    info, subjects = model_info(config.model), _subjects(config.adapter, folders, config.model)
    running = _fitting_detached(info)
    if running:
        async with _client(config, running) as client:
            if client.info.get("model_digest") == model_digest(config.model):
                report(f"Using the running server at {running}")
                yield client, await _attach(client, config, folders, report)
                return
    from servers import launch

    adapters = tuple(subject.adapter for subject in subjects if subject.adapter)
    modules = dict.fromkeys(name for adapter in adapters for name in adapter.vllm_modules(info))
    port = launch.free_port()
    server_config = launch.ServerConfig(
        model=resolve_model(config.model),
        info=info,
        device=launch.detect_device(),
        port=port,
        api_key=config.api_key,
        adapters=adapters,
        wrap=tuple(modules),
        vectors=tuple({s.vector.name: s.vector for subject in subjects for s in subject.steering}.values()),
        steering=launch.can_steer(info),
    )
    server = launch.Server(server_config)
    try:
        await asyncio.to_thread(server.wait, report)
        async with _client(config, server.url) as client:

            async def restart() -> None:
                report(f"The server failed and is started again, once.{launch.why(server.log)}")
                server.stop()
                server.start()
                await asyncio.to_thread(server.wait, report)
                await client.connect()
                await _attach(client, config, folders, report)

            client.restart = restart
            yield client, await _attach(client, config, folders, report)
    finally:
        server.stop()


def reference(
    model: str, adapters: list[str], folders: list[Path], device: str, report: Report
) -> tuple[ReferenceEngine, list[Subject]]:
    """Return the reference engine in this process, and base with the given subjects, every adapter checked.

    Raises:
        InputError: an adapter that can't be used.

    """
    if model in MODELS:
        prepare(model, report)
    subjects = _subjects(adapters, folders, model)
    # Importing torch takes seconds: adapters that can't be used are told before.
    from harness.reference.engine import ReferenceEngine

    report("Loading the model in float32")
    return ReferenceEngine(resolve_model(model), model, device=device), subjects


def _subjects(adapters: list[str], folders: list[Path], model: str) -> list[Subject]:
    return resolve_subjects(adapters, folders, model_info(model), model_digest(model))


def _fitting_detached(info: ModelInfo) -> str | None:
    from servers.detached import detached

    state = detached()
    return state.url if state and state.model == info.name else None


@asynccontextmanager
async def _client(config: RunConfig, url: str) -> AsyncIterator[ScoringClient]:
    client = ScoringClient(
        url,
        api_key=config.api_key,
        concurrency=config.concurrency,
        batch_size=config.batch_size,
        timeout=config.timeout,
    )
    async with client:
        await client.connect()
        yield client


def served_model_info(client: ScoringClient, model: str) -> tuple[str, ModelInfo]:
    """Return where the served model's tokenizer and config are read from, and what it is.

    The server's own ``root`` where it is a folder here, else ``model`` (``--model``).
    """
    root = client.model_root
    place = root if Path(root).is_dir() else resolve_model(model)
    if Path(place).is_dir():
        return place, read_config(Path(place), client.base_name)
    info = model_info(place)
    return place, ModelInfo(**{**info.__dict__, "name": client.base_name})


async def _attach(
    client: ScoringClient, config: RunConfig, folders: list[Path], report: Report
) -> list[Subject]:
    """Load the tokenizer and the missing adapters, and prove each adapter."""
    place, info = served_model_info(client, config.model)
    client.tokenizer = load_tokenizer(config.tokenizer or place)
    subjects = resolve_subjects(config.adapter, folders, info, client.info.get("model_digest"))
    changed = [subject for subject in subjects if not subject.is_base]
    for subject in changed:
        if subject.adapter:
            await ensure_loaded(client, subject.adapter, info, report)
        for steered in subject.steering:
            await ensure_vector_loaded(client, steered.vector, report)
    if changed:
        report("Proving the adapters on a probe prompt")
        await prove(client, changed)
    return subjects


async def ensure_vector_loaded(client: ScoringClient, vector: SteeringVector, report: Report) -> None:
    """Load a steering vector into a running server unless it is there.

    Raises:
        InputError: the server can't steer; a plain vLLM would answer for the base model, silently.
        ServerError: the server refuses it.

    """
    protocol = client.steering.get("protocol")
    if protocol != PROTOCOL:
        why = "has no steering plugin" if protocol is None else f"steers by protocol {protocol}"
        raise InputError(
            f"The server at {client.base_url} {why}, so the steering vector '{vector.name}' can't be used. "
            "Start one that does: harness serve"
        )
    if vector.served_name in client.loaded:
        return
    report(f"Loading {vector.name}")
    try:
        await client.load_vector(vector.served_name, str(snapshot_vector(vector)))
    except ServerError as e:
        if "already been loaded" not in str(e):
            raise


async def ensure_loaded(client: ScoringClient, adapter: Adapter, info: ModelInfo, report: Report) -> None:
    """Load an adapter into a running server unless it is there.

    Raises:
        InputError: it touches a module that the server doesn't wrap, or its rank is above the server's; vLLM
            itself would apply it in part, silently.
        ServerError: the server refuses it.

    """
    if "lora" in client.info:
        _check_fits(client.info.get("lora"), adapter, info)
    else:
        report("The server doesn't say which modules it wraps: adapters are only proved to change the logits")
    if adapter.served_name in client.loaded:
        return
    report(f"Loading {adapter.name}")
    try:
        await client.load_lora(adapter.served_name, str(snapshot(adapter, info)))
    except ServerError as e:
        if "already been loaded" not in str(e):
            raise


def _check_fits(lora: dict[str, Any] | None, adapter: Adapter, info: ModelInfo) -> None:
    way_out = f"Start a server that does: harness serve --adapters {adapter.path.parent}"
    if lora is None:
        raise InputError(f"The server was started without LoRA, so '{adapter.name}' can't be used. {way_out}")
    if adapter.rank > int(lora["max_rank"]):
        raise InputError(
            f"'{adapter.name}' has rank {adapter.rank}, the server takes up to {lora['max_rank']}. {way_out}"
        )
    wrapped: list[str] | None = lora["wrapped"]
    missing = [m for m in adapter.vllm_modules(info) if wrapped is not None and not _is_wrapped(m, wrapped)]
    if missing:
        raise InputError(
            f"'{adapter.name}' touches {len(missing)} modules that the server doesn't wrap ({missing[0]}, ...): "
            f"it would be applied in part. {way_out}"
        )


def _is_wrapped(module: str, wrapped: list[str]) -> bool:
    return module in wrapped or module.rsplit(".", 1)[-1] in wrapped
