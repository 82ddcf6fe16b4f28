"""Adapters of one's own: any PEFT LoRA folder, vector folder or GGUF control vector, checked and taken in."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from harness import adapters, vectors
from harness.adapters import load_adapter
from harness.artifacts import Artifact, read_artifact
from harness.config import RunConfig
from harness.errors import InputError, RunError
from harness.modelinfo import ModelInfo, model_info
from harness.models import file_sha256
from harness.paths import cache_dir
from harness.subject import subject_folders
from harness.vectors import VectorConfig, check_base, read_vector, write_vector


def gguf_folders(source: Path, model: ModelInfo) -> list[Path]:
    """Return a GGUF control vector's directions as vector folders of the cache, one a layer, named by content.

    Raises:
        InputError: it can't be read, or doesn't fit the model.

    """
    from harness.vector_formats import import_vectors

    if not source.is_file():
        raise InputError(f"{source}: is missing.")
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", source.stem)
    name = name if name[:1].isalpha() else f"v_{name}"
    config = VectorConfig(model.name, 0, "resid_post", training={"imported_from": source.name})
    key = hashlib.sha256(f"{file_sha256(source)}:{name}:{model.name}".encode()).hexdigest()[:16]
    home = cache_dir() / "adapters" / "gguf" / key
    found = import_vectors(source, name, config).vectors
    for vector in found:
        check_base(vector, model)
    home.mkdir(parents=True, exist_ok=True)
    for vector in found:
        if not (home / vector.name).exists():
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                write_vector(Path(scratch) / "vector", vector).rename(home / vector.name)
    return [home / vector.name for vector in found]


def trained_on(artifact: Artifact) -> str:
    """Say in a line what an adapter is and what it was trained on, as far as its record says."""
    layers = artifact.layers
    where = (
        f"layers {layers[0]} to {layers[-1]}" if len(layers) > 1 else f"layer {layers[0]}" if layers else ""
    )
    what = {"lora": f"LoRA of rank {artifact.rank}", "vector": "steering vector"}[artifact.kind]
    parts = [what, where, f"for {artifact.base_model}"]
    record = artifact.record or {}
    if artifact.kind == "vector" and not record:
        record = dict(read_vector(artifact.path).config.training)
    if imported := record.get("imported_from"):
        parts.append(f"imported from {imported}")
    elif record.get("behavior"):
        settings = record.get("settings") or {}
        form = f" ({settings['format']} questions)" if settings.get("format") else ""
        form = f" ({settings['data']})" if settings.get("data") else form
        parts.append(f"trained as {record.get('kind', artifact.kind)} towards {record['behavior']}{form}")
    else:
        parts.append("no training record: what it was trained on is not known")
    return ", ".join(part for part in parts if part)


def own_adapters(config: RunConfig) -> list[str]:
    """Say of each adapter that a run was given by path what it was trained on."""
    lines = []
    for name in config.adapter:
        if "/" in name or name.lower().endswith(".gguf"):
            places = subject_folders(name, [], model_info(config.model))
            more = f" (and {len(places) - 1} further layers)" if len(places) > 1 else ""
            lines.append(f"{name}: {trained_on(read_artifact(places[0]))}{more}")
    return lines


def add(source: Path, name: str | None, folder: Path, model: ModelInfo) -> list[Artifact]:
    """Check an adapter and copy it below a folder, from where ``--adapters`` finds it by name.

    Only what a server reads is copied: config, weights, training record and card.

    Raises:
        InputError: it doesn't fit the model, or the name is taken.
        RunError: it can't be written.

    """
    if source.suffix.lower() == ".gguf":
        found = gguf_folders(source, model)
        base = name or found[0].name.rpartition("_l")[0]
        pairs = [(path, f"{base}_l{path.name.rpartition('_l')[2]}") for path in found]
    else:
        if not any((source / config).is_file() for config in (adapters.CONFIG, vectors.CONFIG)):
            raise InputError(
                f"{source}: is no adapter: a folder with {adapters.CONFIG} (PEFT) or {vectors.CONFIG}, or a .gguf "
                "control vector is needed."
            )
        pairs = [(source, name or source.resolve().name)]
    for _, wanted in pairs:
        if not adapters.NAME.match(wanted) or wanted == "base":
            raise InputError(
                f"'{wanted}' is no adapter name; give a --name that matches {adapters.NAME.pattern}."
            )
        if (folder / wanted).exists():
            raise InputError(f"{folder / wanted}: exists already; give another --name.")
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, wanted in pairs:
            with tempfile.TemporaryDirectory(prefix=".", dir=folder) as scratch:
                copy = Path(scratch) / wanted
                copy.mkdir()
                for file in (
                    adapters.CONFIG,
                    adapters.WEIGHTS,
                    vectors.CONFIG,
                    vectors.WEIGHTS,
                    adapters.RECORD,
                ):
                    if (path / file).is_file():
                        shutil.copy(path / file, copy / file)
                if (path / "README.md").is_file():
                    shutil.copy(path / "README.md", copy / "README.md")
                if (copy / vectors.CONFIG).is_file():
                    check_base(read_vector(copy), model)
                else:
                    load_adapter(copy, model)
                copy.rename(folder / wanted)
            made.append(read_artifact(folder / wanted))
    except OSError as e:
        raise RunError(f"{folder}: can't be written ({e.strerror}).") from e
    return made
