"""What ``harness serve`` does: check adapters, start vLLM, prove each adapter, stay or detach."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from harness.adapters import CONFIG as LORA_CONFIG
from harness.adapters import Adapter, load_adapter, shipped_adapters
from harness.client import ScoringClient
from harness.engines import Report
from harness.errors import InputError, ServerError, unknown
from harness.modelinfo import ModelInfo, model_digest, model_info
from harness.models import DEFAULT_MODEL, MODELS, prepare, resolve_model
from harness.probe import prove
from harness.prompts import load_tokenizer
from harness.spec import Term
from harness.subject import Steered, Subject, artifact_folders
from harness.vectors import CONFIG as VECTOR_CONFIG
from harness.vectors import SteeringVector, check_base, read_vector
from servers import detached, launch


def served_artifacts(
    folders: list[Path] | None, only: list[str] | None, info: ModelInfo, digest: str | None
) -> tuple[tuple[Adapter, ...], tuple[SteeringVector, ...]]:
    """Return the checked adapters and vectors to serve; without folders, those shipped for this model.

    Raises:
        InputError: an unfit one in a given folder, or an unknown name in ``only``.

    """
    if folders is None:
        shipped = shipped_adapters()
        adapters, vectors = artifact_folders([shipped] if shipped.is_dir() else [])
        adapters = {name: path for name, path in adapters.items() if _made_for(path, info)}
        vectors = {name: path for name, path in vectors.items() if _made_for(path, info)}
    else:
        adapters, vectors = artifact_folders(folders)
    for name in only or ():
        if name not in adapters | vectors:
            raise unknown("adapter", name, adapters | vectors)
    names = list(dict.fromkeys(only or adapters | vectors))
    read = [read_vector(vectors[name]) for name in names if name in vectors]
    for vector in read:
        check_base(vector, info, digest)
    return tuple(load_adapter(adapters[name], info) for name in names if name in adapters), tuple(read)


def _made_for(path: Path, info: ModelInfo) -> bool:
    """Whether a shipped artifact names this base model; a damaged one is kept, to be refused loudly."""
    file, key = (LORA_CONFIG, "base_model_name_or_path")
    if (path / VECTOR_CONFIG).is_file():
        file, key = VECTOR_CONFIG, "base_model"
    try:
        base = json.loads((path / file).read_text("utf-8"))[key]
    except (OSError, ValueError, KeyError, TypeError):
        return True
    return bool(Path(str(base)).name.lower() == Path(info.name).name.lower())


def server_config(
    *,
    model: str | None,
    folders: list[Path] | None,
    only: list[str] | None,
    host: str,
    port: int,
    api_key: str | None,
    max_model_len: int,
    steering: bool,
    allow_untested: bool = False,
    report: Report,
) -> launch.ServerConfig:
    """Check everything that can be checked before vLLM starts.

    Raises:
        InputError: naming what can't be used.

    """
    if allow_untested and not steering:
        raise InputError("--allow-untested is about steering: leave it out, or --no-steering.")
    name = model or DEFAULT_MODEL
    if name in MODELS:
        prepare(name, report)
    info = model_info(name)
    adapters, vectors = served_artifacts(folders, only, info, model_digest(name))
    if not steering:
        vectors = ()
    elif not (allow_untested or launch.can_steer(info)):
        raise InputError(
            f"Steering is not tested with {info.architecture}; tested: {', '.join(sorted(launch.STEERABLE))}. "
            "Start it with --no-steering, or with --allow-untested, which checks itself at the start."
        )
    modules = dict.fromkeys(m for adapter in adapters for m in adapter.vllm_modules(info))
    return launch.ServerConfig(
        model=resolve_model(name),
        info=info,
        device=launch.detect_device(),
        host=host,
        port=port,
        api_key=api_key,
        adapters=adapters,
        wrap=tuple(modules),
        vectors=vectors,
        steering=steering,
        allow_untested=allow_untested,
        adapter_dirs=tuple(folders or ()),
        max_model_len=max_model_len,
    )


async def serve(
    config: launch.ServerConfig, *, detach: bool, report: Report, say: Callable[[str], None]
) -> None:
    """Start a server, prove its adapters, then wait until it ends or is told to (or detach).

    Raises:
        InputError: the port is in use, another detached server runs, or an adapter changes nothing.
        ServerError: vLLM did not start, or ended by itself.

    """
    if detach and (state := detached.detached()):
        raise InputError(f"A detached server runs at {state.url}. Stop it with: harness serve --stop")
    server = launch.Server(config, detached=detach)
    keep = False
    try:
        seconds = await asyncio.to_thread(server.wait, report)
        await prove_served(config, report)
        say(f"{config.url} serves {config.info.name} ({seconds:.0f} s; log {server.log})")
        for adapter in config.adapters:
            say(f"  {adapter.name} as {adapter.served_name}")
        for vector in config.vectors:
            say(f"  {vector.name} as {vector.served_name}")
        if detach:
            detached.remember(server)
            keep = True
            return
        say("Ctrl-C stops it.")
        while server.process.poll() is None:
            await asyncio.sleep(0.2)
        raise ServerError(f"vLLM ended with code {server.process.returncode}.{launch.why(server.log)}")
    finally:
        if not keep:
            server.stop()


async def prove_served(config: launch.ServerConfig, report: Report) -> None:
    """Score a probe prompt with each adapter and vector of a server that is up.

    Raises:
        InputError: one that changes nothing.

    """
    subjects = [Subject(adapter.name, adapter) for adapter in config.adapters]
    for vector in config.vectors:
        subjects.append(Subject(vector.name, None, (Steered(vector.resolve(Term(vector.name)), vector),)))
    if not subjects:
        return
    report("Proving the adapters on a probe prompt")
    async with ScoringClient(config.url, api_key=config.api_key) as client:
        await client.connect()
        client.tokenizer = load_tokenizer(config.model)
        await prove(client, subjects)
