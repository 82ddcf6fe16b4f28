"""Steering vector folders: ``steering_config.json`` and ``steering_vector.safetensors``, like PEFT's adapters.

The tensor file holds one float32 tensor ``vector`` of shape ``[hidden_size]``; the config says what it was
made for and where it acts unless a spec says otherwise. Nothing here ever unpickles.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from harness.errors import InputError, unknown
from harness.modelinfo import ModelInfo
from harness.spec import ARTIFACT_NAME, HOOK_POINTS, SCALE_MODES, HookPoint, ScaleMode, Term, valid_selector

CONFIG: Final = "steering_config.json"
WEIGHTS: Final = "steering_vector.safetensors"
SCHEMA_VERSION: Final = 1
MAX_HIDDEN: Final = 1 << 20
_REQUIRED = ("schema_version", "base_model", "layer", "hook_point")

FloatVector = NDArray[np.float32]


@dataclass(frozen=True)
class VectorConfig:
    """What a vector was made for, and how it acts unless a spec says otherwise."""

    base_model: str
    """Name, hub id or path of the base model."""
    layer: int
    """Counted from 0."""
    hook_point: HookPoint
    selector: str = "last"
    scale: float = 1.0
    scale_mode: ScaleMode = "absolute"
    base_model_revision: str | None = None
    base_model_digest: str | None = None
    """:func:`harness.modelinfo.weights_digest` of the base model's folder."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: a free JSON object."""
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise InputError(
                f"schema_version is {self.schema_version!r}; this version reads {SCHEMA_VERSION}."
            )
        if not isinstance(self.base_model, str) or not self.base_model:
            raise InputError(f"base_model is {self.base_model!r}; the base model's name is needed.")
        for key in ("base_model_revision", "base_model_digest"):
            if not isinstance(getattr(self, key), str | None):
                raise InputError(f"{key} is {getattr(self, key)!r}; a string or null is needed.")
        if not isinstance(self.training, Mapping):
            raise InputError("training must be a JSON object.")
        if self.hook_point not in HOOK_POINTS:
            raise InputError(f"hook_point is {self.hook_point!r}; valid: {', '.join(HOOK_POINTS)}.")
        if self.scale_mode not in SCALE_MODES:
            raise InputError(f"scale_mode is {self.scale_mode!r}; valid: {', '.join(SCALE_MODES)}.")
        # A term checks layer, scale and selector; a config without them has nothing to fall back on.
        if self.layer is None or self.scale is None:
            raise InputError("layer and scale must be given.")
        term = Term("v", self.layer, self.hook_point, self.scale, self.scale_mode)
        object.__setattr__(self, "scale", term.scale)
        object.__setattr__(self, "selector", valid_selector(self.selector))


@dataclass(frozen=True, eq=False)
class SteeringVector:
    """A checked vector: ``values`` is float32 ``[hidden_size]``, finite and not zero."""

    name: str
    config: VectorConfig
    values: FloatVector

    def __post_init__(self) -> None:
        if not ARTIFACT_NAME.fullmatch(self.name):
            raise InputError(f"'{self.name}' is no vector name; it must match {ARTIFACT_NAME.pattern}.")
        object.__setattr__(self, "values", _checked(self.values))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the float32 values, little-endian: the identity under which a server holds them."""
        return hashlib.sha256(self.values.astype("<f4").tobytes()).hexdigest()

    @property
    def norm(self) -> float:
        """Euclidean norm, summed in float64."""
        return float(np.linalg.norm(self.values.astype(np.float64)))

    def resolve(self, term: Term) -> Term:
        """Fill what a term leaves out from this vector's config."""
        config = self.config
        layer, hook = (config.layer, config.hook_point) if term.layer is None else (term.layer, term.hook)
        scale, mode = (config.scale, config.scale_mode) if term.scale is None else (term.scale, term.mode)
        return replace(
            term,
            layer=layer,
            hook=hook or config.hook_point,
            scale=scale,
            mode=mode,
            selector=term.selector or config.selector,
        )


def read_vector(folder: Path, name: str | None = None) -> SteeringVector:
    """Read and check a vector folder; it is named by the folder unless told otherwise.

    Raises:
        InputError: naming the file and what is wrong with it.

    """
    for file in (CONFIG, WEIGHTS):
        path = folder / file
        if not path.is_file():
            raise InputError(f"{path}: is missing.")
        if not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: is a link out of the vector's folder.")
    config = _read_config(folder / CONFIG)
    tensors = _read_safetensors(folder / WEIGHTS)
    if set(tensors) != {"vector"}:
        raise InputError(f"{folder / WEIGHTS}: must hold one tensor 'vector', not {sorted(tensors)[:5]}.")
    values = tensors["vector"]
    if values.dtype != np.float32:
        raise InputError(f"{folder / WEIGHTS}: 'vector' has dtype {values.dtype}; float32 is needed.")
    try:
        return SteeringVector(name or folder.resolve().name, config, values)
    except InputError as e:
        raise InputError(f"{folder / WEIGHTS}: {e}") from e


def write_vector(folder: Path, vector: SteeringVector) -> Path:
    """Write a vector folder; the same vector gives the same bytes. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {k: v for k, v in asdict(vector.config).items() if v is not None}
    config["hidden_size"] = int(vector.values.size)
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")
    save_file({"vector": vector.values}, folder / WEIGHTS)
    return folder


def vector_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Find vectors below folders, by name; a folder may be a vector itself.

    Raises:
        InputError: a folder doesn't exist, or a name is given twice.

    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: is not a folder of steering vectors.")
        places = (
            [folder] if (folder / CONFIG).exists() else sorted(p.parent for p in folder.glob(f"*/{CONFIG}"))
        )
        for place in places:
            name = place.resolve().name
            if name in found and found[name].resolve() != place.resolve():
                raise InputError(f"The vector name '{name}' is given twice: {found[name]} and {place}.")
            found[name] = place
    return found


def find_vector(name: str, folders: Sequence[Path]) -> Path:
    """Find a vector by name in folders, or take a path as it is.

    Raises:
        InputError: no such vector; near matches are offered.

    """
    if "/" in name or name.startswith("."):
        return Path(name)
    known = vector_folders(folders)
    if name not in known:
        raise unknown("steering vector", name, known)
    return known[name]


def check_base(vector: SteeringVector, model: ModelInfo, digest: str | None = None) -> None:
    """Refuse a vector of another model: by size, layer, weights' digest where both are known, else by name.

    Raises:
        InputError: saying what differs.

    """
    config = vector.config
    if vector.values.size != model.hidden_size:
        raise InputError(
            f"'{vector.name}' has {vector.values.size} elements; '{model.name}' has a hidden size of "
            f"{model.hidden_size}."
        )
    if config.layer >= model.layers:
        raise InputError(
            f"'{vector.name}' is for layer {config.layer}; '{model.name}' has layers 0 to {model.layers - 1}."
        )
    if digest and config.base_model_digest:
        if digest != config.base_model_digest:
            raise InputError(
                f"'{vector.name}' was made for weights {config.base_model_digest[:12]} ('{config.base_model}'), "
                f"not for {digest[:12]} ('{model.name}')."
            )
    elif Path(config.base_model).name.lower() != Path(model.name).name.lower():
        raise InputError(
            f"'{vector.name}' was made for the base model '{config.base_model}', not for '{model.name}'."
        )


# --- other formats ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Imported:
    """What an import gave: one vector a direction, and what the reader must know about them."""

    vectors: tuple[SteeringVector, ...]
    notes: tuple[str, ...]

    @property
    def spec_name(self) -> str:
        """The model name under which all of them act together."""
        return "+".join(vector.name for vector in self.vectors)


def import_vectors(source: Path, name: str, config: VectorConfig, tensor: str | None = None) -> Imported:
    """Read a GGUF control vector, an ``.npy`` or a bare safetensors file.

    Args:
        source: the file; its suffix decides.
        name: of the vector; where a file holds a direction per layer, of the series (``name_l7``).
        config: what the file doesn't say; for a GGUF its layer, hook point and selector are replaced.
        tensor: which tensor of a safetensors file, where it holds several.

    Raises:
        InputError: what can't be read, or a shape that is no vector.

    """
    if not source.is_file():
        raise InputError(f"{source}: is missing.")
    match source.suffix.lower():
        case ".gguf":
            return _import_gguf(source, name, config)
        case ".npy":
            try:
                values = np.load(source, allow_pickle=False)
            except (ValueError, OSError, EOFError) as e:
                raise InputError(f"{source}: is not a readable .npy file of numbers ({e}).") from e
            return _from_array(source, np.asarray(values), name, config)
        case ".safetensors":
            tensors = _read_safetensors(source)
            if tensor is None and len(tensors) != 1:
                raise InputError(f"{source}: holds {len(tensors)} tensors, say which: {sorted(tensors)[:8]}.")
            key = tensor or next(iter(tensors))
            if key not in tensors:
                raise unknown("tensor", key, tensors)
            return _from_array(source, tensors[key], name, config)
    raise InputError(f"{source}: unknown format '{source.suffix}'. Valid: .gguf, .npy, .safetensors.")


def export_vectors(vectors: Sequence[SteeringVector], target: Path, model_hint: str = "") -> tuple[str, ...]:
    """Write vectors as a GGUF control vector, ``.npy`` or bare safetensors; return what couldn't be carried over.

    The config's scale is folded into a GGUF's directions (llama.cpp and repeng add them at every token of a
    layer's output); the other formats hold the values as they are, and nothing else.

    Raises:
        InputError: a format that can't hold these vectors.

    """
    suffix = target.suffix.lower()
    if suffix == ".gguf":
        return _export_gguf(vectors, target, model_hint)
    if suffix not in (".npy", ".safetensors"):
        raise InputError(f"{target}: unknown format '{suffix}'. Valid: .gguf, .npy, .safetensors.")
    if len(vectors) != 1:
        raise InputError(
            f"{target}: holds one vector, not {len(vectors)}; export them one by one, or as .gguf."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".npy":
        np.save(target, vectors[0].values, allow_pickle=False)
    else:
        save_file({"vector": vectors[0].values}, target)
    return ("The file holds the values only: layer, hook point, scale and selector stay behind.",)


def _from_array(source: Path, values: NDArray[Any], name: str, config: VectorConfig) -> Imported:
    if not np.issubdtype(values.dtype, np.floating):
        raise InputError(f"{source}: has dtype {values.dtype}; floating point is needed.")
    notes = [
        f"Layer {config.layer}, hook point {config.hook_point} and the rest of the config are as you gave them."
    ]
    if values.dtype != np.float32:
        notes.append(f"Converted from {values.dtype} to float32.")
    values = np.squeeze(values)
    if values.ndim == 1:
        return Imported((SteeringVector(name, config, values.astype(np.float32)),), tuple(notes))
    if values.ndim != 2:
        raise InputError(f"{source}: has shape {list(values.shape)}; [hidden] or [layers, hidden] is needed.")
    rows = [(layer, row) for layer, row in enumerate(values) if np.any(row)]
    notes = [
        f"{len(rows)} of {len(values)} rows are not zero: one vector a layer, row 0 is layer 0; "
        f"they act together as several terms.",
        *notes[1:],
    ]
    return _series(name, rows, config, notes)


def _series(
    name: str, rows: Sequence[tuple[int, NDArray[Any]]], config: VectorConfig, notes: list[str]
) -> Imported:
    vectors = tuple(
        SteeringVector(f"{name}_l{layer}", replace(config, layer=layer), np.asarray(row, dtype=np.float32))
        for layer, row in rows
    )
    return Imported(vectors, tuple(notes))


def _gguf() -> Any:
    try:
        import gguf
    except ImportError as e:
        raise InputError("GGUF files need the package 'gguf': install the extra 'train'.") from e
    return gguf


def _import_gguf(source: Path, name: str, config: VectorConfig) -> Imported:
    try:
        reader = _gguf().GGUFReader(source)
        directions = {
            int(t.name.removeprefix("direction.")): np.array(t.data, dtype=np.float32).reshape(-1)
            for t in reader.tensors
            if t.name.startswith("direction.")
        }
    except (ValueError, OSError, KeyError, IndexError) as e:
        raise InputError(f"{source}: is not a readable GGUF control vector ({e}).") from e
    if not directions:
        raise InputError(f"{source}: holds no 'direction.N' tensors, so it is no control vector.")
    config = replace(config, hook_point="resid_post", selector="all", scale=1.0, scale_mode="absolute")
    notes = [
        f"{len(directions)} directions, one a layer: each becomes a vector at resid_post of its layer "
        "(llama.cpp's direction.N acts on the output of layer N, counted from 0).",
        "llama.cpp adds them to the BOS token too: say @all.bos to do the same.",
        "The sign is the file's: in repeng a positive scale points to the first of each pair.",
    ]
    return _series(name, sorted(directions.items()), config, notes)


def _export_gguf(vectors: Sequence[SteeringVector], target: Path, model_hint: str) -> tuple[str, ...]:
    if not vectors:
        raise InputError("There is nothing to export.")
    notes = ["llama.cpp and repeng add a control vector at every token, BOS included."]
    layers: dict[int, FloatVector] = {}
    for vector in vectors:
        config = vector.config
        if config.hook_point != "resid_post":
            raise InputError(
                f"'{vector.name}' acts on {config.hook_point}; a GGUF control vector acts on a layer's output "
                "(resid_post) only."
            )
        if config.scale_mode != "absolute":
            raise InputError(
                f"'{vector.name}' has a relative scale; a GGUF control vector can only be absolute."
            )
        if config.layer == 0:
            raise InputError(f"'{vector.name}' acts on layer 0; llama.cpp has no direction for that layer.")
        if config.layer in layers:
            raise InputError(
                f"Two vectors for layer {config.layer}; a GGUF control vector holds one a layer."
            )
        if config.selector != "all":
            notes.append(f"'{vector.name}' acts on '{config.selector}' here; a GGUF can't say that.")
        layers[config.layer] = (vector.values * np.float32(config.scale)).astype(np.float32)
    target.parent.mkdir(parents=True, exist_ok=True)
    writer = _gguf().GGUFWriter(target, "controlvector")
    writer.add_string("controlvector.model_hint", model_hint)
    writer.add_uint32("controlvector.layer_count", len(layers))
    for layer, values in sorted(layers.items()):
        writer.add_tensor(f"direction.{layer}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tuple(notes)


# --- reading ------------------------------------------------------------------------------------------


def _read_config(path: Path) -> VectorConfig:
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise InputError(f"{path}: is not readable JSON ({e}).") from e
    if not isinstance(config, dict):
        raise InputError(f"{path}: a JSON object is needed.")
    config.pop("hidden_size", None)  # For readers; the tensor's own shape decides.
    if missing := [key for key in _REQUIRED if key not in config]:
        raise InputError(f"{path}: lacks {', '.join(missing)}.")
    known = VectorConfig.__dataclass_fields__
    if extra := sorted(str(key) for key in config if key not in known):
        raise InputError(f"{path}: unknown key '{extra[0]}'. Valid: {', '.join(known)}.")
    try:
        return VectorConfig(**config)
    except InputError as e:
        raise InputError(f"{path}: {e}") from e


def _read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with safe_open(path, framework="np") as f:
            return {key: np.asarray(f.get_tensor(key)) for key in f.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, TypeError) as e:
        raise InputError(f"{path}: is not a whole safetensors file of plain floats ({e}).") from e


def _checked(values: NDArray[Any]) -> FloatVector:
    if values.ndim != 1 or not 1 <= values.size <= MAX_HIDDEN:
        raise InputError(f"a vector has the shape [hidden_size], not {list(values.shape)}.")
    if not np.isfinite(values).all():
        raise InputError("the vector holds values that are not finite.")
    if not values.any():
        raise InputError("the vector is zero: it has no direction.")
    made = np.array(values, dtype=np.float32)
    if not math.isfinite(float(np.linalg.norm(made.astype(np.float64)))):
        raise InputError("the vector's norm is not finite.")
    made.setflags(write=False)
    return made
