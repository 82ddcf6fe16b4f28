"""A grid's folder: its manifest, what was trained, what failed, early figures, results."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.adapters import RECORD
from harness.errors import InputError
from harness.models import file_sha256
from harness.results import write_json
from harness.training import record
from harness.training.advance import Done
from harness.training.groups import Group, Outcome
from harness.training.prepared import Prepared
from harness.training.product import Grid, name_of
from harness.training.settings import TrainingSettings

MANIFEST, PROGRESS, FAILURES, RESULTS = "manifest.json", "progress.jsonl", "failures.jsonl", "results.json"


def described(grid: Grid, prepared: Prepared) -> dict[str, Any]:
    """Return what must be the same for a folder to be gone on with."""
    common = grid.settings.model_dump(mode="json", exclude={"layers", "seed", "behavior"})
    return {
        "schema_version": 1,
        "kind": record.KINDS[type(grid.settings)],
        "settings": common,
        "layers": [list(layers) for layers in grid.layers],
        "seeds": list(grid.seeds),
        "behaviors": list(grid.behaviors),
        "data_sha256": file_sha256(prepared.file),
    }


def open_grid(out: Path, described: dict[str, Any]) -> dict[str, Any] | None:
    """Return the folder's manifest, None where the folder is new."""
    path = out / MANIFEST
    if not path.is_file():
        if out.exists() and any(out.iterdir()):
            raise InputError(f"{out}: exists and holds no grid ({MANIFEST}); give a new folder.")
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as e:
        raise InputError(f"{path}: is not JSON ({e}).") from e
    for key, value in described.items():
        if manifest.get(key) != value:
            raise InputError(f"{out}: holds a grid with other settings: {_difference(key, manifest, value)}.")
    return manifest


def _difference(key: str, manifest: dict[str, Any], value: Any) -> str:
    old = manifest.get(key)
    if isinstance(old, dict) and isinstance(value, dict):
        name = next(k for k in [*value, *old] if old.get(k) != value.get(k))
        return f"{name} is {old.get(name)!r} there and {value.get(name)!r} here; give a new folder"
    return f"{key} is {old!r:.120} there and {value!r:.120} here; give a new folder"


def write_manifest(out: Path, manifest: dict[str, Any]) -> None:
    """Write a new folder's manifest."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MANIFEST, manifest)


def group_of(grid: Grid, entry: dict[str, Any]) -> Group:
    """Return the group that a manifest's entry names."""
    return Group(
        grid.settings,
        tuple(entry["layers"]),
        tuple(entry["seeds"]),
        tuple(entry["behaviors"]),
        entry["passes"],
    )


def note_early(out: Path, settings: TrainingSettings, epoch: int, outcome: Outcome) -> None:
    """Append a training's figures after an epoch (from 0)."""
    if outcome.failed_step is None:
        line = {
            "name": name_of(settings),
            "epoch": epoch + 1,
            "loss": outcome.epoch_losses[-1],
            "development": outcome.development[-1],
        }
        append(out / PROGRESS, line)


def settled(out: Path, name: str) -> bool:
    """Whether an adapter is kept, or known to have failed."""
    return (out / name / RECORD).is_file() or name in _failures(out)


def torn(out: Path) -> int:
    """Return how many lines of the failures were cut off by a kill: their trainings are done again."""
    return _read_failures(out)[1]


def _failures(out: Path) -> dict[str, int]:
    return _read_failures(out)[0]


def _read_failures(out: Path) -> tuple[dict[str, int], int]:
    """Return the failed steps by name, and how many lines are torn."""
    path, found, cut = out / FAILURES, {}, 0
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            cut += 1
            continue
        found[entry["name"]] = entry["step"]
    return found, cut


def keep(
    out: Path,
    done: Done,
    prepared: Prepared,
) -> None:
    """Write an adapter, whole or not at all."""
    settings, outcome, trained, accuracy = done
    name = name_of(settings)
    if settled(out, name):
        return
    if outcome.failed_step is not None:
        append(out / FAILURES, {"name": name, "step": outcome.failed_step})
        return
    with whole(out / name) as place:
        record.save(place, trained, settings, accuracy, prepared.file, len(prepared.questions["train"]))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a place to write a folder to, and put it at ``path`` in the end: a kill leaves all of it or nothing."""
    making = path.parent / f".making-{path.name}"
    if making.exists():
        shutil.rmtree(making)
    place = making / path.name
    yield place
    place.rename(path)
    making.rmdir()


def append(path: Path, line: dict[str, Any]) -> None:
    """Append a line, on disk when this returns; one that a kill cut off is ended first."""
    with path.open("a+b") as f:
        if f.tell():
            f.seek(-1, os.SEEK_END)
            if f.read(1) != b"\n":
                f.write(b"\n")
        f.write(json.dumps(line).encode() + b"\n")
        f.flush()
        os.fsync(f.fileno())


def results_of(grid: Grid, out: Path, seconds: float) -> dict[str, Any]:
    """Return what came out, read from the adapters' records."""
    adapters, failures = [], _failures(out)
    for of in grid.trainings:
        name = name_of(of)
        if name in failures:
            continue
        known = json.loads((out / name / RECORD).read_text("utf-8"))
        adapters.append(
            {
                "name": name,
                "behavior": of.behavior,
                "layers": list(of.layers),
                "seed": of.seed,
                "accuracy": known["accuracy"],
                "final_loss": known["epoch_losses"][-1],
            }
        )
    failed = [{"name": name, "step": step} for name, step in failures.items()]
    return {"adapters": adapters, "failed": failed, "seconds": round(seconds, 1)}
