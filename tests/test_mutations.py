"""2,000 mutated files: whatever is in them, they are taken or refused in a sentence; no traceback, no hang."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from harness.adapters import load_adapter, snapshot
from harness.cli.run import make_config
from harness.errors import HarnessError, InputError
from harness.evalset import load_suite
from harness.modelinfo import ModelInfo
from harness.vectors import SteeringVector, VectorConfig, read_vector, write_vector
from tests.adapters_made import lora_tensors, write_lora
from tests.test_evalset import ITEM, write_suite

SEED, COUNT, SECONDS = 6, 2_000, 10.0
INFO = ModelInfo("tiny", "LlamaForCausalLM", 4, 16, 32, 16, 8)
VALUES: list[Any] = [
    None, True, 0, -1, 1.5, 10**30, float("nan"), float("inf"), "", "x", "\x00", "../../etc/passwd", "ünï\u2028",
    "a" * 5_000, [], [None], [[]], {}, {"a": 1}, {"": None}, {"q_proj": "x"}, {"down_proj": 2}, [1, "a", None],
]  # fmt: skip
CONFIG = {
    "suite": ["awareness"], "adapter": ["safe_l22"], "adapters": ["a"], "model": "m", "limit": 3, "seed": 1,
    "concurrency": 4, "batch_size": 4, "timeout": 3.5, "engine": "server", "output_dir": "out", "cache": True,
}  # fmt: skip


def mutate_value(rng: random.Random, value: Any) -> Any:
    """Change one place of a JSON value: another value, a key away, a key too many, or a level deeper."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        value = dict(value)
        key = rng.choice(list(value))
        match rng.randrange(4):
            case 0:
                del value[key]
            case 1:
                value[key + rng.choice(["s", " ", "\x00", ""])] = value.pop(key)
            case _:
                value[key] = mutate_value(rng, value[key])
        return value
    if isinstance(value, list) and value and rng.random() < 0.5:
        value = list(value)
        index = rng.randrange(len(value))
        value[index] = mutate_value(rng, value[index])
        return value
    return rng.choice(VALUES)


def mutate_bytes(rng: random.Random, raw: bytes) -> bytes:
    """Flip, cut, repeat or insert bytes."""
    at = rng.randrange(len(raw) + 1)
    match rng.randrange(5):
        case 0:
            return raw[:at]
        case 1:
            return raw[:at] + rng.randbytes(rng.randint(1, 9)) + raw[at:]
        case 2:
            return raw[:at] + raw[at // 2 :]
        case 3:
            return raw[:at] + rng.choice([b"[" * 3000, b"{" * 3000, b"9" * 6000, b"\xff", b"\n"]) + raw[at:]
        case _:
            flipped = bytearray(raw)
            for _ in range(rng.randint(1, 4)):
                flipped[rng.randrange(len(raw))] = rng.randrange(256)
            return bytes(flipped)


def mutate_json(rng: random.Random, raw: bytes) -> bytes:
    return json.dumps(mutate_value(rng, json.loads(raw)), ensure_ascii=rng.random() < 0.5).encode(
        "utf-8", "surrogatepass"
    )


def mutate_yaml(rng: random.Random, raw: bytes) -> bytes:
    return yaml.safe_dump(mutate_value(rng, yaml.safe_load(raw))).encode()


def mutate_header(rng: random.Random, raw: bytes) -> bytes:
    """Change what a safetensors file says it holds, and not what it holds."""
    size = int.from_bytes(raw[:8], "little")
    header = json.dumps(mutate_value(rng, json.loads(raw[8 : 8 + size]))).encode()
    claimed = len(header) if rng.random() < 0.9 else rng.choice([0, 2**40, 2**63, len(header) + 1])
    return claimed.to_bytes(8, "little") + header + raw[8 + size :]


def load_run_config(path: Path) -> object:
    return make_config(path / "run.yaml", {})


def load_whole_adapter(path: Path) -> object:
    return snapshot(load_adapter(path, INFO), INFO)


Mutation = Callable[[random.Random, bytes], bytes]
CLASSES: dict[str, tuple[str, str, Mutation, Callable[[Path], object]]] = {
    "adapter config, values": ("lora", "adapter_config.json", mutate_json, load_whole_adapter),
    "adapter config, bytes": ("lora", "adapter_config.json", mutate_bytes, load_whole_adapter),
    "adapter weights, bytes": ("lora", "adapter_model.safetensors", mutate_bytes, load_whole_adapter),
    "adapter weights, header": ("lora", "adapter_model.safetensors", mutate_header, load_whole_adapter),
    "training record, values": ("lora", "training.json", mutate_json, load_whole_adapter),
    "training record, bytes": ("lora", "training.json", mutate_bytes, load_whole_adapter),
    "vector config, values": ("vector", "steering_config.json", mutate_json, read_vector),
    "vector config, bytes": ("vector", "steering_config.json", mutate_bytes, read_vector),
    "vector weights, bytes": ("vector", "steering_vector.safetensors", mutate_bytes, read_vector),
    "vector weights, header": ("vector", "steering_vector.safetensors", mutate_header, read_vector),
    "evalset line, values": ("suite", "items.jsonl", mutate_json, load_suite),
    "evalset line, bytes": ("suite", "items.jsonl", mutate_bytes, load_suite),
    "evalset card, values": ("suite", "suite.yaml", mutate_yaml, load_suite),
    "evalset card, bytes": ("suite", "suite.yaml", mutate_bytes, load_suite),
    "run config, values": ("config", "run.yaml", mutate_yaml, load_run_config),
    "run config, bytes": ("config", "run.yaml", mutate_bytes, load_run_config),
}


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """A folder with one sound example of each kind."""
    tensors = lora_tensors(INFO, [1, 3], ["down_proj", "q_proj"])
    more = {"rank_pattern": {"down_proj": 4}, "alpha_pattern": {"q_proj": 2}, "modules_to_save": None}
    lora = write_lora(tmp_path / "lora", INFO, tensors, use_dora=False, use_rslora=False, **more)
    (lora / "training.json").write_text('{"behavior": "safe", "seed": 1}')
    vector = SteeringVector("vector", VectorConfig("tiny", 2, "resid_post"), np.ones(16, dtype=np.float32))
    write_vector(tmp_path / "vector", vector)
    write_suite(tmp_path / "suite", [json.dumps(ITEM).encode()])
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "run.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def test_mutated_files_are_taken_or_refused(
    sound: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(sound / "cache"))
    rng = random.Random(SEED)
    names = list(CLASSES)
    refused, taken, slow = Counter[str](), Counter[str](), Counter[str]()
    failures: list[str] = []
    for number in range(COUNT):
        name = names[number % len(names)]
        folder, file, mutation, load = CLASSES[name]
        path = sound / folder / file
        whole = path.read_bytes()
        path.write_bytes(mutated := mutation(rng, whole))
        began = time.monotonic()
        try:
            load(sound / folder)
            taken[name] += 1
        except InputError as e:
            refused[name] += 1
            if not str(e).strip() or "Traceback" in str(e):
                failures.append(f"{name}: says nothing of use: {e}")
        except HarnessError as e:
            failures.append(f"{name}: {type(e).__name__} is no fault of the input: {e}")
        except Exception as e:  # noqa: BLE001 - each is a finding
            failures.append(f"{name}: {type(e).__name__}: {e}: {mutated[:300]!r}")
        slow[name] += time.monotonic() - began > SECONDS
        path.write_bytes(whole)
    with capsys.disabled():
        print("", *(f"{refused[n]:5d} refused {taken[n]:5d} taken  {n}" for n in names), sep="\n")
    assert not failures, f"{len(failures)} of {COUNT}:\n" + "\n".join(sorted(set(failures))[:30])[:6000]
    assert not +slow
    assert sum(refused.values()) + sum(taken.values()) == COUNT
    assert all(refused[name] for name in names)
