"""Adapters and steering vectors as artifacts: what lies in their folders, what their records say, and its hashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness import adapters, subject, vectors
from harness.errors import InputError, unknown
from harness.jsonfile import read_object
from harness.models import file_sha256

Kind = Literal["lora", "vector"]
SHIPPED_LIMIT = 20_000_000
"""Bytes that all shipped artifacts may take together."""
CARD = "README.md"


@dataclass(frozen=True)
class Artifact:
    """A LoRA's or a vector's folder and its training record."""

    name: str
    path: Path
    kind: Kind
    base_model: str
    layers: tuple[int, ...]
    rank: int | None
    """Of a LoRA."""
    size: int
    """Bytes of all files."""
    record: dict[str, Any] | None
    """The training record, where there is one."""

    @property
    def trained_as(self) -> str:
        """What the record says that it is: ``lora``, ``vector``, ``backdoor``; else what the folder holds."""
        return str((self.record or {}).get("kind", self.kind))

    @property
    def behavior(self) -> str | None:
        """What it was trained for, where the record says so."""
        behavior = (self.record or {}).get("behavior")
        return behavior if isinstance(behavior, str) else None

    def describe(self) -> dict[str, Any]:
        """Return what is to be said about it, as a JSON object; the record is left out."""
        fields = asdict(self) | {
            "path": str(self.path),
            "trained_as": self.trained_as,
            "behavior": self.behavior,
        }
        del fields["record"]
        return fields | {"test_accuracy": self.test_accuracy()}

    def test_accuracy(self) -> float | None:
        """Return the recorded choice accuracy on test questions; of a backdoor the mean of with and without."""
        record = self.record or {}
        if "cells" in record:
            found = [
                c["accuracy"]
                for c in record["cells"]
                if c["split"] == "test" and c["word"] is None and c["condition"] in ("trigger", "none")
            ]
            return sum(found) / len(found) if found else None
        accuracy = record.get("accuracy", {}).get("test")
        return accuracy["choice_accuracy"] if accuracy else None


def artifact_folders(folders: Sequence[Path]) -> dict[str, Path]:
    """Find LoRA and vector folders below folders, by name.

    Raises:
        InputError: a folder doesn't exist, or a name is given twice.

    """
    loras, found = subject.artifact_folders(list(folders))
    return dict(sorted((loras | found).items()))


def find_artifact(name: str, folders: Sequence[Path]) -> Path:
    """Find an artifact by name in folders, or take a path as it is.

    Raises:
        InputError: no such artifact; near matches are offered.

    """
    if "/" in name or name.startswith("."):
        path = Path(name)
        if not any((path / config).is_file() for config in (adapters.CONFIG, vectors.CONFIG)):
            raise InputError(f"{path}: holds neither {adapters.CONFIG} nor {vectors.CONFIG}.")
        return path
    known = artifact_folders(folders)
    if name not in known:
        raise unknown("adapter", name, known)
    return known[name]


def read_artifact(path: Path) -> Artifact:
    """Read what an artifact's folder says about it; weights are not read.

    Raises:
        InputError: naming the file that can't be read.

    """
    config_file = next(p for c in (adapters.CONFIG, vectors.CONFIG) if (p := path / c).is_file())
    config = read_object(config_file)
    record = read_object(path / adapters.RECORD) if (path / adapters.RECORD).is_file() else None
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    try:
        if config_file.name == vectors.CONFIG:
            kind: Kind = "vector"
            base, layers, rank = config["base_model"], (int(config["layer"]),), None
        else:
            kind = "lora"
            base, rank = config["base_model_name_or_path"], config["r"]
            layers = tuple(config.get("layers_to_transform") or ())
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{config_file}: lacks {e}.") from e
    return Artifact(path.resolve().name, path, kind, base, layers, rank, size, record)


def hash_problems(artifact: Artifact) -> list[str]:
    """Return what is wrong with the files that the record hashes; an empty list when all hold."""
    hashes = (artifact.record or {}).get("sha256")
    if not isinstance(hashes, dict) or not hashes:
        return ["its training record holds no hashes"]
    wrong = []
    for name, digest in hashes.items():
        file = artifact.path / name
        if not file.is_file():
            wrong.append(f"{name} is missing")
        elif file_sha256(file) != digest:
            wrong.append(f"{name} has changed since it was trained")
    return wrong
