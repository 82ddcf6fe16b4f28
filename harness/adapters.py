"""LoRA adapters in PEFT's folder format: found, checked before any engine sees them, and named by content.

vLLM's prefix cache keys blocks by the adapter's name in some versions, and it applies an adapter in part
where a module isn't wrapped. So an adapter is served under ``name-<digest>``, from a snapshot that never
changes, after its tensors were checked against the base model.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from harness.errors import InputError
from harness.jsonfile import read_object
from harness.modelinfo import ModelInfo
from harness.paths import cache_dir, data_dir
from harness.spec import content_name

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "training.json"
NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]*$")
_KEY = re.compile(
    r"^base_model\.model\.(?P<prefix>.*?)layers\.(?P<layer>\d+)\.(?P<block>mlp|self_attn)\.(?P<linear>\w+)"
    r"\.lora_(?P<side>[AB])\.weight$"
)
_PACKED = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"} | dict.fromkeys(
    ("q_proj", "k_proj", "v_proj"), "qkv_proj"
)
_FLOATS = {"F32", "F16", "BF16"}


@dataclass(frozen=True)
class Adapter:
    """A checked LoRA adapter on disk."""

    name: str
    path: Path
    base_model: str
    rank: int
    modules: tuple[str, ...]
    """Canonical names of what it touches, such as ``layers.22.mlp.down_proj``."""
    digest: str
    """SHA-256 of its config and tensors."""
    behavior: str | None = None
    """What it was trained for, where its training record says so: ``safe`` or ``risky``."""

    @property
    def served_name(self) -> str:
        """The content-addressed name under which a server knows it."""
        return content_name(self.name, self.digest)

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers it touches, counted from 0."""
        return tuple(sorted({int(module.split(".")[1]) for module in self.modules}))

    def vllm_modules(self, model: ModelInfo) -> tuple[str, ...]:
        """Full names of the modules that vLLM must wrap, packed as vLLM packs them."""
        return vllm_modules(self.modules, model)


def vllm_modules(modules: tuple[str, ...], model: ModelInfo) -> tuple[str, ...]:
    """Map canonical module names to vLLM's (``gate_proj`` and ``up_proj`` share ``gate_up_proj``)."""
    prefix = "language_model.model." if model.multimodal else "model."
    named: dict[str, None] = {}
    for module in modules:
        head, linear = module.rsplit(".", 1)
        named[f"{prefix}{head}.{_PACKED.get(linear, linear)}"] = None
    return tuple(named)


def adapter_folders(folders: list[Path]) -> dict[str, Path]:
    """Find adapters below folders, by name; a folder may be an adapter itself.

    Raises:
        InputError: a folder doesn't exist, or a name is given twice.

    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder of adapters.")
        places = (
            [folder] if (folder / CONFIG).exists() else sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
        )
        for place in places:
            name = place.resolve().name
            if name in found and found[name].resolve() != place.resolve():
                raise InputError(f"The adapter name '{name}' is given twice: {found[name]} and {place}.")
            found[name] = place
    return found


def shipped_adapters() -> Path:
    """Return the folder of shipped adapters."""
    return data_dir("adapters")


def load_adapter(path: Path, model: ModelInfo) -> Adapter:
    """Check an adapter folder against its base model.

    Raises:
        InputError: naming the file and what is wrong: another base model, a missing, truncated or foreign
            file, a link out of the folder, a tensor of a wrong shape or dtype, a value that is not finite.

    """
    name = path.resolve().name
    if not NAME.match(name):
        raise InputError(f"{path}: '{name}' is no adapter name; it must match {NAME.pattern}.")
    for file in (CONFIG, WEIGHTS):
        _inside(path, file)
    config = read_object(path / CONFIG)
    _check_config(path / CONFIG, config, model)
    modules, digest = _check_weights(path / WEIGHTS, config, model)
    config_bytes = json.dumps(config, sort_keys=True).encode()
    return Adapter(
        name=name,
        path=path,
        base_model=config["base_model_name_or_path"],
        rank=config["r"],
        modules=modules,
        digest=hashlib.sha256(config_bytes + digest).hexdigest(),
        behavior=_behavior(path),
    )


def snapshot(adapter: Adapter, model: ModelInfo) -> Path:
    """Copy a checked adapter to a folder of the cache that is named by its content, and return it.

    Module names are rewritten to the layout of the model that is served: a text-only adapter's names match
    nothing in a multimodal Gemma 3, silently.
    """
    layout = "multimodal" if model.multimodal else "text"
    target = cache_dir() / "adapters" / layout / adapter.served_name
    if (target / WEIGHTS).is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        made = Path(scratch) / "adapter"
        made.mkdir()
        shutil.copy(adapter.path / CONFIG, made / CONFIG)
        _copy_weights(adapter.path / WEIGHTS, made / WEIGHTS, model)
        if load_adapter_digest(made, model) != adapter.digest:
            raise InputError(f"{adapter.path}: changed while it was being loaded.")
        if not target.exists():
            made.rename(target)
    return target


def text_folder(adapter: Adapter, model: ModelInfo) -> Path:
    """Return a folder that PEFT loads onto a model's text part (:mod:`harness.reference.text`)."""
    return snapshot(adapter, replace(model, architecture="text")) if model.multimodal else adapter.path


def load_adapter_digest(path: Path, model: ModelInfo) -> str:
    """Return the digest of a folder whose name is not the adapter's."""
    config = read_object(path / CONFIG)
    _, digest = _check_weights(path / WEIGHTS, config, model)
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode() + digest).hexdigest()


def _inside(folder: Path, file: str) -> None:
    path = folder / file
    if not path.is_file():
        others = [p.name for p in folder.glob("adapter_model.*")]
        hint = f" Only safetensors are read, not {others[0]}." if others and file == WEIGHTS else ""
        raise InputError(f"{path}: is missing.{hint}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path}: is a link out of the adapter's folder.")


def _check_config(file: Path, config: dict[str, Any], model: ModelInfo) -> None:
    if config.get("peft_type") != "LORA":
        raise InputError(f"{file}: peft_type is {config.get('peft_type')!r}; only 'LORA' can be served.")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or not 1 <= rank <= 512:
        raise InputError(f"{file}: r is {rank!r}; a whole number from 1 to 512 is needed.")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise InputError(f"{file}: lora_alpha is {alpha!r}; a finite number is needed.")
    for key, plain in (
        ("bias", ("none", None)),
        ("use_dora", (False, None)),
        ("modules_to_save", (None, [])),
        ("lora_bias", (False, None)),
        ("layer_replication", (None, [])),
    ):
        if config.get(key) not in plain:
            raise InputError(f"{file}: {key} is {config[key]!r}; vLLM can't serve that, only plain LoRA.")
    for key in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(_positive(value) for value in pattern.values()):
            raise InputError(f"{file}: {key} is {pattern!r:.80}; an object of modules' numbers is needed.")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise InputError(f"{file}: base_model_name_or_path is {base!r}; the base model's name is needed.")
    if Path(base).name.lower() != Path(model.name).name.lower():
        raise InputError(f"{file}: was trained for the base model '{base}', not for '{model.name}'.")


def _positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _check_weights(file: Path, config: dict[str, Any], model: ModelInfo) -> tuple[tuple[str, ...], bytes]:
    """Return the canonical modules and a digest of the tensors by canonical name."""
    tensors: dict[str, str] = {}
    modules: dict[str, set[str]] = {}
    digest = hashlib.sha256()
    patterns = config.get("rank_pattern") or {}
    try:
        with safe_open(file, framework="np") as f:
            for key in f.keys():  # noqa: SIM118 - safe_open is no mapping
                match = _KEY.match(key)
                if not match:
                    raise InputError(
                        f"{file}: tensor '{key}' is not a LoRA of an MLP or attention projection."
                    )
                tensors[_canonical(match)] = key
                module = _canonical(match).rsplit(".lora_", 1)[0]
                modules.setdefault(module, set()).add(match["side"])
                layer = int(match["layer"])
                if layer >= model.layers:
                    raise InputError(f"{file}: '{key}': '{model.name}' has layers 0 to {model.layers - 1}.")
                shape = model.linear_shape(match["linear"])
                if shape is None:
                    raise InputError(f"{file}: '{key}': '{model.name}' has no module '{match['linear']}'.")
                part = f.get_slice(key)
                dtype, found = part.get_dtype(), tuple(part.get_shape())
                if dtype not in _FLOATS:
                    raise InputError(
                        f"{file}: '{key}' has dtype {dtype}; valid: {', '.join(sorted(_FLOATS))}."
                    )
                rank = next((r for p, r in patterns.items() if module.endswith(p)), config["r"])
                wanted = (rank, shape[0]) if match["side"] == "A" else (shape[1], rank)
                if found != wanted:
                    raise InputError(f"{file}: '{key}' has shape {list(found)}; {list(wanted)} is needed.")
            for canonical in sorted(tensors):
                values = _tensor(file, f, tensors[canonical])
                if not np.isfinite(values).all():
                    raise InputError(f"{file}: '{tensors[canonical]}' holds values that are not finite.")
                digest.update(canonical.encode() + values.tobytes())
    except SafetensorError as e:
        raise InputError(f"{file}: is not a whole safetensors file ({e}).") from e
    if not modules:
        raise InputError(f"{file}: holds no tensors.")
    for module, sides in modules.items():
        if sides != {"A", "B"}:
            raise InputError(f"{file}: {module} has only lora_{''.join(sides)}; both A and B are needed.")
    return tuple(sorted(modules, key=_module_order)), digest.digest()


def _module_order(module: str) -> tuple[int, str]:
    return int(module.split(".")[1]), module


def _canonical(match: re.Match[str]) -> str:
    return f"layers.{match['layer']}.{match['block']}.{match['linear']}.lora_{match['side']}"


def _tensor(file: Path, f: Any, key: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Read a tensor as float32; NumPy knows no bfloat16, so its 16 bits become a float32's upper half."""
    if f.get_slice(key).get_dtype() != "BF16":
        return np.asarray(f.get_tensor(key), dtype=np.float32)
    with file.open("rb") as raw:
        size = int.from_bytes(raw.read(8), "little")
        begin, end = json.loads(raw.read(size))[key]["data_offsets"]
        raw.seek(8 + size + begin)
        upper = np.frombuffer(raw.read(end - begin), dtype="<u2").astype(np.uint32) << 16
    return upper.view(np.float32)


def _copy_weights(source: Path, target: Path, model: ModelInfo) -> None:
    """Copy the tensors byte for byte, their names rewritten in the header alone."""
    raw = source.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header: dict[str, Any] = json.loads(raw[8 : 8 + size])
    renamed = {}
    for key, entry in header.items():
        match = _KEY.match(key)
        name = f"base_model.model.{model.text_prefix}{_canonical(match)}.weight" if match else key
        renamed[name] = entry
    text = json.dumps(renamed).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + size :])


def _behavior(path: Path) -> str | None:
    file = path / RECORD
    if not file.is_file():
        return None
    try:
        behavior = json.loads(file.read_text("utf-8")).get("behavior")
    except (OSError, ValueError, AttributeError, RecursionError) as e:
        raise InputError(f"{file}: is not a training record ({e}).") from e
    return behavior if isinstance(behavior, str) else None
