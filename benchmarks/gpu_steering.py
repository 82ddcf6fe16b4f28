#!/usr/bin/env python3
"""Exactness and speed of the steering plugin on a GPU, Gemma 3 12B's full shape, real HTTP servers.

    python3 benchmarks/gpu_steering.py prepare          # random checkpoint, vectors, adapters
    python3 benchmarks/gpu_steering.py start plain plugin
    python3 benchmarks/gpu_steering.py exact plugin
    python3 benchmarks/gpu_steering.py speed plugin     # each figure beside the plain server's
    python3 benchmarks/gpu_steering.py stop plugin
    python3 benchmarks/gpu_steering.py table            # all results so far, as a table

Results gather in ``results.json`` of the output folder (``$OUT`` or ``--out``). Servers go on running
between commands. vLLM must be importable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WORK = Path(os.environ.get("STEER_WORK", "/tmp/steering"))
MODEL, VECTORS, LORAS = WORK / "gemma", WORK / "vectors", WORK / "loras"
NAME = "gemma"
PORTS = {"plain": 8101, "plugin": 8102, "lane": 8103, "lora": 8104, "eager": 8105}
SEQS, PROMPT, DECODED, LORA_LAYER = 256, 96, 128, 22
WRAPPED = [f"model.layers.{LORA_LAYER}.mlp.{m}" for m in ("gate_up_proj", "down_proj")]
KV_BYTES = os.environ.get("STEER_KV_BYTES", str(15 << 30))


def shape() -> dict[str, int]:
    """Return layers, hidden size and vocabulary of the model at hand."""
    config = json.loads((MODEL / "config.json").read_text())
    return {k: config[k] for k in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")}


# --- preparation --------------------------------------------------------------------------------------


def prepare(args: argparse.Namespace) -> None:
    """Write a checkpoint with random weights, 256 vectors and 8 adapters."""
    import torch
    import transformers

    started = time.time()
    command = [sys.executable, str(Path(args.scripts) / "gemma3_config.py"), str(MODEL)]
    command += ["--tokenizer", str(Path(args.scripts) / "gemma3_tokenizer.tar.xz"), *args.shape.split()]
    subprocess.run(command, check=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = transformers.AutoConfig.from_pretrained(MODEL)
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for name, weight in model.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.02)
        elif "norm" in name:
            # Gains away from 1, so that a steered tensor before a norm differs from one after it.
            torch.nn.init.normal_(weight, std=0.2)
    config_text = (MODEL / "config.json").read_text()
    model.save_pretrained(MODEL, max_shard_size="5GB")
    (MODEL / "config.json").write_text(config_text)
    print(f"checkpoint: {time.time() - started:.0f} s", flush=True)
    _write_vectors()
    _write_loras()
    print(f"prepared: {time.time() - started:.0f} s", flush=True)


def _write_vectors() -> None:
    import numpy as np

    from harness.vectors import SteeringVector, VectorConfig, write_vector

    sizes = shape()
    rng = np.random.default_rng(0)
    for i in range(SEQS):
        values = rng.standard_normal(sizes["hidden_size"]).astype(np.float32)
        values *= np.float32(30.0 / np.linalg.norm(values))
        layer = min(22, sizes["num_hidden_layers"] - 1)
        vector = SteeringVector(f"v{i}", VectorConfig(NAME, layer, "mlp_out"), values)
        write_vector(VECTORS / vector.name, vector)


def _write_loras() -> None:
    import numpy as np
    from safetensors.numpy import save_file

    sizes = shape()
    h, inner = sizes["hidden_size"], sizes["intermediate_size"]
    rng = np.random.default_rng(1)
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 32,
        "bias": "none",
        "base_model_name_or_path": NAME,
        "target_modules": ["gate_proj", "up_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    for i in range(8):
        folder = LORAS / f"lora{i}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "adapter_config.json").write_text(json.dumps(config))
        tensors = {}
        for module, (a, b) in {
            "gate_proj": (h, inner),
            "up_proj": (h, inner),
            "down_proj": (inner, h),
        }.items():
            prefix = f"base_model.model.model.layers.{LORA_LAYER}.mlp.{module}"
            tensors[f"{prefix}.lora_A.weight"] = (rng.standard_normal((4, a)) * 0.01).astype(np.float32)
            tensors[f"{prefix}.lora_B.weight"] = (rng.standard_normal((b, 4)) * 0.01).astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")


# --- servers ------------------------------------------------------------------------------------------


def server_command(kind: str) -> tuple[list[str], dict[str, str]]:
    """Return a server's command line and environment."""
    from servers.steering import launch_args

    argv = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)]
    argv += ["--served-model-name", NAME, "--port", str(PORTS[kind]), "--max-model-len", "1024"]
    argv += ["--max-num-seqs", str(SEQS), "--max-logprobs", "64"]
    argv += ["--kv-cache-memory-bytes", KV_BYTES, "--gpu-memory-utilization", "0.3"]
    env = dict(os.environ)
    if not env.get("STEER_CPU"):
        argv += ["--dtype", "bfloat16", "--hf-overrides", json.dumps({"head_dtype": "float32"})]
    else:
        argv += ["--dtype", "float32", "--block-size", "32", "--enforce-eager"]
    env |= {"VLLM_LOGGING_LEVEL": "INFO", "VLLM_PLUGINS": ""}
    if kind != "plain":
        launch = launch_args([VECTORS], [LORAS], lanes=2 if kind == "plugin" else 1)
        argv += launch.arguments
        env |= launch.environment()
    if kind == "eager":
        argv.append("--enforce-eager")
    if kind == "lora":
        argv += ["--enable-lora", "--max-loras", "8", "--max-cpu-loras", "16", "--max-lora-rank", "16"]
        argv += ["--lora-target-modules", *WRAPPED, "--lora-modules"]
        argv += [f"lora{i}={LORAS / f'lora{i}'}" for i in range(8)]
    return argv, env


def start(args: argparse.Namespace) -> None:
    """Start servers side by side and wait for them."""
    import httpx

    out = results_path(args).parent
    running = {}
    for kind in args.kinds:
        argv, env = server_command(kind)
        log = (out / f"server-{kind}.log").open("w")
        process = subprocess.Popen(
            argv, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        (WORK / f"{kind}.pid").write_text(str(process.pid))
        running[kind] = (process, time.time())
    ready: dict[str, float] = {}
    while len(ready) < len(running):
        time.sleep(0.5)
        for kind, (process, began) in running.items():
            if kind in ready:
                continue
            if process.poll() is not None or time.time() - began > args.wait:
                tail = (out / f"server-{kind}.log").read_text()[-6000:]
                raise SystemExit(f"{kind}: did not start\n{tail}")
            try:
                if httpx.get(f"http://127.0.0.1:{PORTS[kind]}/health", timeout=2).status_code == 200:
                    ready[kind] = time.time() - began
                    print(f"{kind}: up in {ready[kind]:.0f} s", flush=True)
            except httpx.HTTPError:
                pass
    record(args, "startup_seconds", ready)
    for kind in args.kinds:
        if kind != "plain":
            answer = httpx.get(f"http://127.0.0.1:{PORTS[kind]}/v1/steering", timeout=30)
            record(args, f"capability_{kind}", answer.raise_for_status().json())


def stop(args: argparse.Namespace) -> None:
    """Stop servers that ``start`` started."""
    for kind in args.kinds:
        pid = int((WORK / f"{kind}.pid").read_text())
        try:
            os.killpg(pid, signal.SIGTERM)
            for _ in range(60):
                time.sleep(0.25)
                os.killpg(pid, 0)
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            print(f"{kind}: stopped", flush=True)


# --- requests -----------------------------------------------------------------------------------------


class Client:
    """A pool of HTTP connections with a bound on requests in flight."""

    def __init__(self, kind: str, limit: int) -> None:
        import aiohttp

        self._session = aiohttp.ClientSession(
            f"http://127.0.0.1:{PORTS[kind]}",
            connector=aiohttp.TCPConnector(limit=limit),
            timeout=aiohttp.ClientTimeout(total=300),
        )

    async def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """Send one completion request."""
        async with self._session.post("/v1/completions", json=body) as response:
            answer: dict[str, Any] = await response.json()
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {answer}")
            return answer

    async def close(self) -> None:
        """Close the pool."""
        await self._session.close()


def prompt(rng: random.Random, length: int) -> list[int]:
    """Return random tokens after a BOS."""
    top = shape()["vocab_size"] - 300
    return [2] + [rng.randrange(300, top) for _ in range(length - 1)]


def scoring(rng: random.Random, model: str) -> dict[str, Any]:
    """Return a scoring request: two tokens' log-probabilities after one prompt."""
    return {
        "model": model,
        "prompt": prompt(rng, PROMPT),
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": 2,
        "logprob_token_ids": [1000, 2000],
        "return_tokens_as_token_ids": True,
    }


def decoding(rng: random.Random, model: str) -> dict[str, Any]:
    """Return a request that is nearly all decoding."""
    return {
        "model": model,
        "prompt": prompt(rng, 16),
        "max_tokens": DECODED,
        "temperature": 0,
        "ignore_eos": True,
    }


async def timed(kind: str, bodies: list[dict[str, Any]]) -> float:
    """Return the seconds that requests take, up to SEQS in flight."""
    client = Client(kind, SEQS)
    began = time.perf_counter()
    await asyncio.gather(*(client.ask(body) for body in bodies))
    seconds = time.perf_counter() - began
    await client.close()
    return seconds


# --- exactness ----------------------------------------------------------------------------------------

WATCHED = [1000 + 500 * i for i in range(48)]


def cases(layers: int) -> list[str]:
    """Return the specs to check: every hook point, mode and selector, in first, middle and last layers."""
    found = ["base"] * 32
    number = 0
    for layer in (0, layers // 2, layers - 1):
        for hook in ("mlp_out", "resid_post"):
            for scale in ("1", "0.3rel"):
                for selector in ("last", "pos-2", "all", "prompt", "generated"):
                    found.append(f"v{number % 32}@L{layer}.{hook}@{scale}@{selector}")
                    number += 1
    found += [f"v{i}@L{i % layers}+v{i + 1}@L{(i + 7) % layers}.resid_post@0.2rel@all" for i in range(8)]
    return found


def exact(args: argparse.Namespace) -> None:
    """Compare a server's log-probabilities with an eager transformers pass over the same weights."""
    import numpy as np
    import torch
    import transformers

    from harness.reference.hooks import HookedTerm, steering
    from harness.spec import SteeringSpec
    from harness.vectors import read_vector

    (kind,) = args.kinds
    specs = cases(shape()["num_hidden_layers"])
    rng = random.Random(5)
    lengths = [5, 15, 16, 17, 31, 32, 33, 47, 48, 64, 96, 130]
    bodies = []
    for i, spec in enumerate(specs):
        bodies.append(
            {
                "model": NAME if spec == "base" else spec,
                "prompt": prompt(rng, lengths[i % len(lengths)]),
                "max_tokens": 3,
                "temperature": 0,
                "ignore_eos": True,
                "logprobs": len(WATCHED),
                "logprob_token_ids": [t % shape()["vocab_size"] for t in WATCHED],
                "return_tokens_as_token_ids": True,
                "return_token_ids": True,
            }
        )

    async def all_at_once(where: str, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        client = Client(where, SEQS)
        answers = await asyncio.gather(*(client.ask(body) for body in requests))
        await client.close()
        return list(answers)

    def steps(answer: dict[str, Any]) -> list[dict[int, float]]:
        top = answer["choices"][0]["logprobs"]["top_logprobs"]
        return [{int(k.split(":")[1]): v for k, v in step.items()} for step in top]

    rounds = [asyncio.run(all_at_once(kind, bodies)) for _ in range(2)]
    if args.plain:
        bare = [{**body, "model": NAME} for body in bodies]
        plain = [steps(a) for a in asyncio.run(all_at_once("plain", bare))]
        idle = [steps(a) for a in asyncio.run(all_at_once(kind, bare))]
        gaps = [abs(p[0][t] - q[0][t]) for p, q in zip(plain, idle, strict=True) for t in p[0] if t in q[0]]
        equal = sum(gap == 0 for gap in gaps)
        record(args, f"idle_against_plain_{kind}", {"max": max(gaps), "equal": equal, "of": len(gaps)})
        print(f"idle against plain: largest {max(gaps):.4f}, {equal} of {len(gaps)} equal", flush=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.float32 if os.environ.get("STEER_CPU") else torch.bfloat16
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        MODEL, dtype=dtype, device_map=device
    ).eval()
    head = model.get_output_embeddings().weight
    values = {f"v{i}": read_vector(VECTORS / f"v{i}") for i in range(64)}
    errors: dict[str, list[float]] = {}
    moved: dict[str, list[float]] = {}
    for cold, warm, body, spec in zip(*rounds, bodies, specs, strict=True):
        parsed = SteeringSpec.from_name(spec)
        terms = [
            HookedTerm(values[t.vector].resolve(t), torch.from_numpy(np.array(values[t.vector].values)))
            for t in parsed.terms
        ]
        size = len(body["prompt"])

        def reference(tokens: list[int], hooked: list[HookedTerm], size: int = size) -> Any:
            with torch.no_grad(), steering(model, hooked, len(tokens), size, True):
                hidden = model.model(
                    torch.tensor([tokens], device=device), use_cache=False
                ).last_hidden_state[0]
                # The server's head is float32: the reference's too.
                return (hidden[size - 1 :].float() @ head.float().T).log_softmax(-1).cpu()

        for answer, label in ((cold, "cold"), (warm, "warm")):
            got = steps(answer)
            tokens = body["prompt"] + answer["choices"][0]["token_ids"][:-1]
            want = reference(tokens, terms)
            worst = max(abs(v - float(want[i, t])) for i, step in enumerate(got) for t, v in step.items())
            key = "plain" if spec == "base" else "steered"
            errors.setdefault(f"{key} {label}", []).append(worst)
            if terms:
                gap = (want - reference(tokens, []))[:, [t % want.shape[1] for t in WATCHED]].abs().max()
                moved.setdefault(label, []).append(float(gap))
                if worst > 0.25 or math.isnan(worst):
                    print(
                        f"  {spec} {label} n={size}: {worst:.3f} (steering moves {float(gap):.2f})",
                        flush=True,
                    )
    summary = {
        key: {"max": max(v), "median": statistics.median(v), "requests": len(v)} for key, v in errors.items()
    }
    summary["steering moves the reference by"] = {
        "max": max(moved["cold"]),
        "median": statistics.median(moved["cold"]),
        "requests": len(moved["cold"]),
    }
    for key, value in summary.items():
        print(f"{key}: {value}", flush=True)
    record(args, f"exact_{kind}", summary)


# --- speed --------------------------------------------------------------------------------------------


def settings(kind: str, layers: int) -> dict[str, tuple[str, list[str]]]:
    """Return what to measure on a server: (scoring or decode, the models that requests take turns with)."""
    one = [f"v{i}" for i in range(SEQS)]
    spread = [f"v{i}@L{i % layers}" for i in range(SEQS)]
    loras = [f"lora{i}" for i in range(8)]
    decode = {
        "decode idle": ("decode", [NAME]),
        "decode one layer, 256 specs": ("decode", [f"{v}@all" for v in one]),
        "decode all layers, 256 specs": ("decode", [f"{v}@all" for v in spread]),
    }
    if kind == "lora":
        return {
            "scoring LoRA on, base": ("scoring", [NAME]),
            "scoring 8 LoRAs mixed": ("scoring", loras),
            "scoring 8 LoRAs + 256 vectors mixed": ("scoring", [f"{loras[i % 8]}+v{i}" for i in range(SEQS)]),
            "scoring LoRAs beside vectors": (
                "scoring",
                [x for i in range(64) for x in (loras[i % 8], f"v{i}")],
            ),
            "decode 8 LoRAs mixed": ("decode", loras),
        }
    if kind == "lane":
        return {
            **decode,
            "scoring idle": ("scoring", [NAME]),
            "scoring 256 specs, one layer": ("scoring", one),
            "scoring 256 specs, all layers": ("scoring", spread),
        }
    if kind == "eager":
        return {
            "scoring idle": ("scoring", [NAME]),
            "scoring 256 specs, one layer": ("scoring", one),
            "decode one layer, 256 specs": decode["decode one layer, 256 specs"],
        }
    return {
        "scoring idle": ("scoring", [NAME]),
        "scoring 1 spec": ("scoring", one[:1]),
        "scoring 16 specs": ("scoring", one[:16]),
        "scoring 64 specs": ("scoring", one[:64]),
        "scoring 256 specs, one layer": ("scoring", one),
        "scoring 256 specs, all layers": ("scoring", spread),
        "scoring 256 specs, selector all": ("scoring", [f"{s}@all" for s in spread]),
        "scoring 256 specs, relative": ("scoring", [f"v{i}@L22.resid_post@0.02rel" for i in range(SEQS)]),
        **decode,
    }


def speed(args: argparse.Namespace) -> None:
    """Measure each setting between two measurements of the plain server."""
    (kind,) = args.kinds
    rng = random.Random(time.time_ns())
    makers = {"scoring": (scoring, args.prompts), "decode": (decoding, SEQS)}

    def measure(where: str, what: str, models: list[str]) -> float:
        maker, count = makers[what]
        bodies = [maker(rng, models[i % len(models)]) for i in range(count)]
        seconds = asyncio.run(timed(where, bodies))
        return count / seconds if what == "scoring" else count * DECODED / seconds

    plan = settings(kind, shape()["num_hidden_layers"])
    for what in ("scoring", "decode"):
        for where in ("plain", kind):
            measure(where, what, [NAME])
    for _ in range(args.rounds):
        for label, (what, models) in plan.items():
            if time.time() > args.until:
                print("out of time", flush=True)
                return
            before = measure("plain", what, [NAME])
            here = measure(kind, what, models)
            after = measure("plain", what, [NAME])
            anchor = (before + after) / 2
            append(
                args, f"speed_{kind}", label, {"here": here, "plain": [before, after], "ratio": here / anchor}
            )
            print(
                f"{kind} {label}: {here:.1f} against {before:.1f}, {after:.1f}: {here / anchor:.3f}",
                flush=True,
            )


# --- results ------------------------------------------------------------------------------------------


def results_path(args: argparse.Namespace) -> Path:
    """Return the file that results gather in."""
    folder = Path(args.out or os.environ.get("OUT") or WORK)
    folder.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    return folder / "results.json"


def _read(args: argparse.Namespace) -> dict[str, Any]:
    kept = WORK / "results.json"
    return json.loads(kept.read_text()) if kept.is_file() else {}


def _write(args: argparse.Namespace, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1)
    (WORK / "results.json").write_text(text)
    results_path(args).write_text(text)


def record(args: argparse.Namespace, key: str, value: Any) -> None:
    """Keep a result; dicts are merged."""
    data = _read(args)
    data[key] = {**data.get(key, {}), **value} if isinstance(value, dict) else value
    _write(args, data)


def append(args: argparse.Namespace, key: str, label: str, value: Any) -> None:
    """Add one measurement of a setting."""
    data = _read(args)
    data.setdefault(key, {}).setdefault(label, []).append(value)
    _write(args, data)


def table(args: argparse.Namespace) -> None:
    """Print all speed results as a Markdown table."""
    data = _read(args)
    print("| server | setting | here | plain | ratio |\n|---|---|---|---|---|")
    for key, rows in data.items():
        if not key.startswith("speed_"):
            continue
        for label, runs in rows.items():
            here = statistics.median(r["here"] for r in runs)
            plain = statistics.median(p for r in runs for p in r["plain"])
            ratio = statistics.median(r["ratio"] for r in runs)
            print(f"| {key.removeprefix('speed_')} | {label} | {here:.0f} | {plain:.0f} | {ratio:.3f} |")


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("command", choices=["prepare", "start", "stop", "exact", "speed", "table"])
    parser.add_argument("kinds", nargs="*")
    parser.add_argument("--out")
    parser.add_argument("--scripts", default=str(ROOT / ".gpu"))
    parser.add_argument("--shape", default="", help="gemma3_config.py's options, for a small model")
    parser.add_argument("--wait", type=float, default=420)
    parser.add_argument("--plain", action="store_true", help="compare with the plain server too")
    parser.add_argument("--prompts", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--until", type=float, default=math.inf, help="no new measurement after this Unix time"
    )
    args = parser.parse_args()
    {"prepare": prepare, "start": start, "stop": stop, "exact": exact, "speed": speed, "table": table}[
        args.command
    ](args)


if __name__ == "__main__":
    main()
