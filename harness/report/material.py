"""What a report is made of: run folders, sweeps and experiments' result files, told apart by what is in them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.results import Run, directed_suites, load_run

KINDS = {"story.json": "vector_story", "backdoors.json": "backdoor_table", "orthogonal.json": "orthogonal"}
"""Result files that are known by their name."""


@dataclass(frozen=True)
class Document:
    """A result file of an experiment, and the folder that its tables lie in."""

    path: Path
    kind: str
    content: dict[str, Any] = field(repr=False)

    def table(self, name: str) -> Any:
        """Read one of its Parquet tables as a pandas frame; None where it isn't there.

        Raises:
            InputError: it can't be read.

        """
        import pandas as pd

        place = self.path.parent / f"{name}.parquet"
        if not place.is_file():
            return None
        try:
            return pd.read_parquet(place)
        except (OSError, ValueError) as e:
            raise InputError(f"{place}: can't be read ({e}).") from e


@dataclass(frozen=True)
class Material:
    """Everything that a page is written from."""

    runs: tuple[Run, ...]
    documents: tuple[Document, ...] = ()
    directed: dict[str, bool] = field(default_factory=dict)
    """Which suites' poles have a direction."""

    def of_kind(self, kind: str) -> tuple[Document, ...]:
        """Return the result files of one kind."""
        return tuple(d for d in self.documents if d.kind == kind)

    @cached_property
    def suites(self) -> list[str]:
        """All suites of the runs, in the report's order; development questions have no place in a report."""
        from harness.report.adapters import ordered

        return ordered(sorted({s for r in self.runs for s in r.rows["suite"].unique()} - {"development"}))

    def label(self, run: Run, subject: str) -> str:
        """Name a subject on the page: its run stands before it where several runs have one of that name."""
        clash = sum(subject in r.manifest["subjects"] for r in self.runs) > 1
        return f"{run.path.name}: {subject}" if clash else subject


def gather(paths: Sequence[Path]) -> Material:
    """Load what the paths hold: run folders, folders of them, sweeps' folders, result JSON files.

    What lies below two of the paths is one thing all the same.

    Raises:
        InputError: a path holds nothing that a report can be made from.

    """
    places: dict[Path, Path] = {}
    for path in paths:
        found = _found(path)
        if not found:
            raise InputError(f"{path}: holds no finished run and no result file of an experiment.")
        for place in found:
            places.setdefault(place.resolve(), place)
    runs = tuple(load_run(place) for place in places.values() if place.is_dir())
    documents = tuple(_document(place) for place in places.values() if not place.is_dir())
    return Material(runs, documents, directed_suites(cell for run in runs for cell in run.results["cells"]))


def model_of(run: Run) -> str:
    """Return what tells a run's model from others: its digest, or its name where the engine knows none."""
    engine = run.manifest["engine"]
    return str(engine.get("model_digest") or engine.get("model"))


def _found(path: Path) -> list[Path]:
    """Return run folders, and result files with a kind."""
    if path.is_file():
        return [path]
    if (path / "results.json").is_file():
        is_run = "cells" in _json(path / "results.json")
        return [path] if is_run else [path / "results.json"]
    if not path.is_dir():
        raise InputError(f"{path}: is not there.")
    inside = [f for child in sorted(path.iterdir()) if child.is_dir() for f in _found(child)]
    return inside + [f for f in sorted(path.glob("*.json")) if _kind(f, _json(f)) is not None]


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: can't be read ({e}).") from e
    return content if isinstance(content, dict) else {}


def _kind(path: Path, content: dict[str, Any]) -> str | None:
    kind = KINDS.get(path.name, content.get("kind"))
    return kind if isinstance(kind, str) else None


def _document(path: Path) -> Document:
    content = _json(path)
    kind = _kind(path, content)
    if kind is None:
        raise InputError(f"{path}: says no 'kind', so no section knows it.")
    return Document(path, kind, content)
