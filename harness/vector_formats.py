"""Steering vectors from and to other tools' files: GGUF control vectors, ``.npy``, bare safetensors.

What a format can't carry (a direction per layer, a sign convention, a selector) becomes several vectors or a
note to the reader; nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from harness.errors import InputError, unknown
from harness.modelinfo import model_info
from harness.models import MODELS, is_prepared
from harness.packages import cure
from harness.vectors import FloatVector, SteeringVector, VectorConfig, check_base, read_tensors, write_vector


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
            tensors = read_tensors(source)
            if tensor is None and len(tensors) != 1:
                raise InputError(f"{source}: holds {len(tensors)} tensors, say which: {sorted(tensors)[:8]}.")
            key = tensor or next(iter(tensors))
            if key not in tensors:
                raise unknown("tensor", key, tensors)
            return _from_array(source, tensors[key], name, config)
    raise InputError(f"{source}: unknown format '{source.suffix}'. Valid: .gguf, .npy, .safetensors.")


def import_file(
    source: Path, name: str, config: VectorConfig, output_dir: Path, tensor: str | None = None
) -> Imported:
    """Import a file into new vector folders below ``output_dir``; checks them where the base model is here.

    Raises:
        InputError: what :func:`import_vectors` refuses, a vector that doesn't fit the model, a folder that exists.

    """
    found = import_vectors(source, name, config, tensor)
    model = config.base_model
    here = is_prepared(model) if model in MODELS else Path(model).is_dir()
    info = model_info(model) if here else None
    for vector in found.vectors:
        if info:
            check_base(vector, info)
        if (output_dir / vector.name).exists():
            raise InputError(f"{output_dir / vector.name}: exists already; give another --name.")
    for vector in found.vectors:
        write_vector(output_dir / vector.name, vector)
    unchecked = () if info else (f"'{model}' is not on this machine: size and layers are not checked.",)
    return replace(found, notes=(*found.notes, *unchecked))


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
        raise InputError(cure(e) or f"GGUF files can't be read ({e}).") from e
    return gguf


def _gguf_values(source: Path, tensor: Any) -> FloatVector:
    """Return a tensor as float32; a quantised one is refused, for the reader hands on its packed bytes."""
    kind = tensor.tensor_type.name
    if kind not in ("F32", "F16", "BF16"):
        raise InputError(
            f"{source}: tensor '{tensor.name}' has type {kind}; a control vector needs F32, F16 or BF16."
        )
    data = np.array(tensor.data)
    if kind == "BF16":
        # NumPy has no such type: it comes as bytes, the upper half of a float32's.
        data = (data.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return data.astype(np.float32).reshape(-1)


def _import_gguf(source: Path, name: str, config: VectorConfig) -> Imported:
    try:
        reader = _gguf().GGUFReader(source)
        directions = {
            int(t.name.removeprefix("direction.")): _gguf_values(source, t)
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
