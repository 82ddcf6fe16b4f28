"""Steering vector folders: ``steering_config.json`` and ``steering_vector.safetensors``, like PEFT's adapters.

The tensor file holds one float32 tensor ``vector`` of shape ``[hidden_size]``; the config says what it was
made for and where it acts unless a spec says otherwise. Nothing here ever unpickles.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
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
from harness.jsonfile import read_object
from harness.modelinfo import ModelInfo
from harness.paths import cache_dir
from harness.spec import (
    ARTIFACT_NAME,
    HOOK_POINTS,
    SCALE_MODES,
    HookPoint,
    ScaleMode,
    Term,
    content_name,
    valid_selector,
)

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
    path: Path | None = None
    """The folder that it was read from."""

    def __post_init__(self) -> None:
        if not ARTIFACT_NAME.fullmatch(self.name):
            raise InputError(f"'{self.name}' is no vector name; it must match {ARTIFACT_NAME.pattern}.")
        object.__setattr__(self, "values", _checked(self.values))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the float32 values, little-endian: the identity under which a server holds them."""
        return hashlib.sha256(self.values.astype("<f4").tobytes()).hexdigest()

    @property
    def served_name(self) -> str:
        """The content-addressed name under which a server knows it."""
        return content_name(self.name, self.digest)

    @property
    def behavior(self) -> str | None:
        """What it was trained for, where its config says so: ``safe`` or ``risky``."""
        behavior = self.config.training.get("behavior")
        return behavior if isinstance(behavior, str) else None

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
    tensors = read_tensors(folder / WEIGHTS)
    if set(tensors) != {"vector"}:
        raise InputError(f"{folder / WEIGHTS}: must hold one tensor 'vector', not {sorted(tensors)[:5]}.")
    values = tensors["vector"]
    if values.dtype != np.float32:
        raise InputError(f"{folder / WEIGHTS}: 'vector' has dtype {values.dtype}; float32 is needed.")
    try:
        return SteeringVector(name or folder.resolve().name, config, values, folder)
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


def snapshot_vector(vector: SteeringVector) -> Path:
    """Copy a vector to a folder of the cache that is named by its content and never changes; return it."""
    config = json.dumps(asdict(vector.config), sort_keys=True)
    home = cache_dir() / "adapters" / "vectors" / hashlib.sha256(config.encode()).hexdigest()[:12]
    target = home / vector.served_name
    if (target / WEIGHTS).is_file():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        made = write_vector(Path(scratch) / "vector", vector)
        if not target.exists():
            made.rename(target)
    return target


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


def describe(vector: SteeringVector) -> dict[str, Any]:
    """Return what is to be said about a vector, as a JSON object."""
    config = {key: value for key, value in asdict(vector.config).items() if value is not None}
    return {
        "name": vector.name,
        "path": str(vector.path) if vector.path else None,
        "digest": vector.digest,
        "hidden_size": int(vector.values.size),
        "norm": vector.norm,
        **config,
    }


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


def _read_config(path: Path) -> VectorConfig:
    config = read_object(path)
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


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Read a safetensors file of plain floats.

    Raises:
        InputError: naming the file and what is wrong with it.

    """
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
