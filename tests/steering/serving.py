"""Steering servers over HTTP on the embedded model: one with LoRA, eager, that tests share, and one compiled."""

from __future__ import annotations

import atexit
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx
import numpy as np
from safetensors.numpy import save_file

from harness.adapters import load_adapter, snapshot
from harness.modelinfo import read_config
from harness.models import DEFAULT_MODEL, prepare
from harness.vectors import SteeringVector, write_vector
from servers.steering import launch_args
from tests.steering import tiny

ROOT = Path(__file__).resolve().parents[2]
NAME = DEFAULT_MODEL
LAYERS, HIDDEN, INNER = 30, 576, 1536
ENTRY_POINTS = """[vllm.general_plugins]
harness_steering = servers.steering.plugin:register
[vllm.endpoint_plugins]
harness_steering_http = servers.steering.plugin:SteeringEndpoints
"""


def entry_points(folder: Path) -> Path | None:
    """Make the plugin's entry points found where the project isn't installed with them."""
    if "harness_steering" in {
        point.name for point in importlib.metadata.entry_points(group="vllm.general_plugins")
    }:
        return None
    info = folder / "harness_steering_dev-0.0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: harness-steering-dev\nVersion: 0.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def vector(name: str, seed: int, layer: int, norm: float = 20.0) -> SteeringVector:
    """Return a random vector of the embedded model."""
    made = tiny.vector(name, seed, layer=layer, hidden=HIDDEN, norm=norm)
    return SteeringVector(name, replace(made.config, base_model=NAME), made.values)


def lora(folder: Path, seed: int, layer: int = 10, rank: int = 4) -> Path:
    """Write a random LoRA on one layer's MLP, strong enough to matter."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 2 * rank,
        "bias": "none",
        "base_model_name_or_path": NAME,
    }
    config |= {"target_modules": ["gate_proj", "up_proj", "down_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for module, (a, b) in {
        "gate_proj": (HIDDEN, INNER),
        "up_proj": (HIDDEN, INNER),
        "down_proj": (INNER, HIDDEN),
    }.items():
        prefix = f"base_model.model.model.layers.{layer}.mlp.{module}"
        tensors[f"{prefix}.lora_A.weight"] = (rng.standard_normal((rank, a)) * a**-0.5).astype(np.float32)
        tensors[f"{prefix}.lora_B.weight"] = (rng.standard_normal((b, rank)) * 0.5).astype(np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


class SteeringServer:
    """A running server and what was put on its disk for it. ``compiled``: without LoRA, which on CPU rules it out."""

    def __init__(self, folder: Path, compiled: bool = False) -> None:
        self.folder, self.vectors_dir, self.loras_dir = folder, folder / "vectors", folder / "loras"
        self.model = prepare(DEFAULT_MODEL)
        self.vectors = [vector(f"vec{i}", i, layer) for i, layer in enumerate((0, 8, 15, 22, 29))]
        for made in self.vectors:
            write_vector(self.vectors_dir / made.name, made)
        info = read_config(self.model, NAME)
        adapter = load_adapter(lora(self.loras_dir / "lora_a", 1), info)
        lora(self.loras_dir / "lora_b", 2)
        lora(self.loras_dir / "lora_wide", 3, layer=11)
        wrapped = [f"model.layers.10.mlp.{m}" for m in ("gate_up_proj", "down_proj")]
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        launch = launch_args([self.vectors_dir], [self.loras_dir], model_name=NAME)
        argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.model)]
        argv += ["--served-model-name", NAME, "--port", str(port), "--dtype", "float32", "--block-size", "32"]
        argv += ["--max-model-len", "512", "--max-num-seqs", "48", "--max-logprobs", "64", *launch.arguments]
        if not compiled:
            argv += ["--enforce-eager", "--enable-lora", "--max-loras", "4", "--max-cpu-loras", "8"]
            argv += ["--lora-target-modules", *wrapped]
            argv += ["--lora-modules", f"{adapter.served_name}={snapshot(adapter, info)}"]
        env = {**os.environ, **tiny.ENV, **launch.environment()}
        if not compiled:
            env["TORCHDYNAMO_DISABLE"] = "1"
        env |= {
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"),
        }
        points = entry_points(folder / "points")
        env["PYTHONPATH"] = os.pathsep.join(str(p) for p in (ROOT, points, env.get("PYTHONPATH")) if p)
        self.log = folder / "server.log"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                argv, env=env, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        atexit.register(self.stop)
        self._wait(900 if compiled else 300)

    def _wait(self, timeout: float) -> None:
        until = time.time() + timeout
        while time.time() < until and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-5000:]}")

    def resident(self) -> int:
        """Return the bytes that the server's processes hold."""
        total = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[2]) == self.process.pid:
                total += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        return total

    def stop(self) -> None:
        """End the server's processes."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


@cache
def shared_server() -> SteeringServer:
    """Return the one server of this test run."""
    return SteeringServer(Path(tempfile.mkdtemp(prefix="steering-")))
