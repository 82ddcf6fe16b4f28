"""vLLM servers side by side on one GPU: plain, with the plugin, with the plugin and LoRA, and uncompiled."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Final

import httpx
import psutil

from benchmarks.gpu_steering.places import (
    CPU,
    LORAS,
    MODEL,
    NAME,
    OUT,
    SEQS,
    VECTORS,
    WORK,
    record,
    trained_layer,
)
from servers.steering import launch_args

PORTS: Final = {"plain": 8101, "plugin": 8102, "lora": 8103, "eager": 8104}
KV_BYTES: Final = os.environ.get("STEER_KV_BYTES", str(15 << 30))
PROFILES: Final = WORK / "profiles"
_SAID: Final = {
    "model_gib": r"Model loading took ([\d.]+)",
    "compile_seconds": r"torch\.compile took ([\d.]+)",
    "capture_seconds": r"Graph capturing finished in (\d+)",
    "steering_mib": r"buffers take ([\d.]+) MiB",
}


def command(kind: str) -> tuple[list[str], dict[str, str]]:
    """Return a server's command line and environment."""
    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
    argv += ["--served-model-name", NAME, "--port", str(PORTS[kind]), "--max-model-len", "1024"]
    argv += ["--max-num-seqs", str(SEQS), "--max-logprobs", "64"]
    argv += ["--kv-cache-memory-bytes", KV_BYTES, "--gpu-memory-utilization", "0.2"]
    if CPU:
        argv += ["--dtype", "float32", "--block-size", "32", "--enforce-eager"]
    else:
        argv += ["--dtype", "bfloat16", "--hf-overrides", json.dumps({"head_dtype": "float32"})]
        profiler = {
            "profiler": "torch",
            "torch_profiler_dir": str(PROFILES / kind),
            "torch_profiler_with_stack": False,
            "ignore_frontend": True,
            "delay_iterations": 40,
            "max_iterations": 8,
        }
        argv += ["--profiler-config", json.dumps(profiler)]
    env = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO", "VLLM_PLUGINS": ""}
    if kind != "plain":
        launch = launch_args([VECTORS], [LORAS])
        argv += launch.arguments
        env |= launch.environment()
    if kind == "eager" and not CPU:
        argv.append("--enforce-eager")
    if kind == "lora":
        wrapped = [f"model.layers.{trained_layer()}.mlp.{m}" for m in ("gate_up_proj", "down_proj")]
        argv += ["--enable-lora", "--max-loras", "8", "--max-cpu-loras", "16", "--max-lora-rank", "16"]
        argv += ["--lora-target-modules", *wrapped, "--lora-modules"]
        argv += [f"lora{i}={LORAS / f'lora{i}'}" for i in range(8)]
    return argv, env


def start(kinds: list[str]) -> None:
    """Start servers side by side."""
    for kind in kinds:
        argv, env = command(kind)
        OUT.mkdir(parents=True, exist_ok=True)
        (WORK / f"{kind}.started").write_text(str(time.time()))
        with (WORK / f"server-{kind}.log").open("w") as log:
            process = subprocess.Popen(
                argv, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        (WORK / f"{kind}.pid").write_text(str(process.pid))


def wait(kinds: list[str], seconds: float) -> None:
    """Wait until servers answer; keep how long each took and what it said of itself.

    Raises:
        SystemExit: one did not come up, with the end of its log.

    """
    until = time.time() + seconds
    missing = list(kinds)
    while missing:
        time.sleep(0.5)
        for kind in list(missing):
            if healthy(kind):
                missing.remove(kind)
                _note_start(kind)
            elif not _alive(kind) or time.time() > until:
                raise SystemExit(f"{kind}: did not start\n{_log(kind)[-6000:]}")


def stop(kinds: list[str]) -> None:
    """Stop servers that ``start`` started, each with the processes of its own session."""
    keep_logs(kinds)
    for kind in kinds:
        pid = _pid(kind)
        try:
            os.killpg(pid, signal.SIGTERM)
            for _ in range(60):
                time.sleep(0.25)
                os.killpg(pid, 0)
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            print(f"{kind}: stopped", flush=True)


def keep_logs(kinds: list[str]) -> None:
    """Put the ends of servers' logs into the output folder, and keep how many requests their engines held."""
    for kind in kinds:
        (OUT / f"server-{kind}.log").write_text(_log(kind)[-200_000:])
        record("queue", {kind: queue(_log(kind))})


def queue(log: str) -> list[list[int]]:
    """Return how many requests ran and waited, every time that vLLM said so while there were any."""
    found = re.findall(r"Running: (\d+) reqs, Waiting: (\d+) reqs", log)
    return [[int(running), int(waiting)] for running, waiting in found if running != "0"]


def _note_start(kind: str) -> None:
    took = time.time() - float((WORK / f"{kind}.started").read_text())
    text = _log(kind)
    said = {key: float(found[-1]) for key, rule in _SAID.items() if (found := re.findall(rule, text))}
    record("start", {kind: {"seconds": took, **said}})
    print(f"{kind}: up in {took:.0f} s, {said}", flush=True)
    if kind != "plain":
        answer = httpx.get(f"http://127.0.0.1:{PORTS[kind]}/v1/steering", timeout=30).raise_for_status()
        record("capability", {kind: answer.json()})


def healthy(kind: str) -> bool:
    """Whether a server answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{PORTS[kind]}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def cpu_seconds(kind: str) -> float:
    """Return the CPU time that a server's API process has used so far."""
    times = psutil.Process(_pid(kind)).cpu_times()
    return times.user + times.system


def _alive(kind: str) -> bool:
    """Whether the process runs; one that ended is a zombie until its parent waits for it."""
    try:
        done, _ = os.waitpid(_pid(kind), os.WNOHANG)
    except ChildProcessError:
        return True
    return done == 0


def _pid(kind: str) -> int:
    return int((WORK / f"{kind}.pid").read_text())


def _log(kind: str) -> str:
    return (WORK / f"server-{kind}.log").read_text(errors="replace")
