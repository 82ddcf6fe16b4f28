"""What a page was written from, beside it: the scored rows as one Parquet file, and every source by its hash."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.manifest import git_state, versions
from harness.models import file_sha256
from harness.report.material import Material
from harness.results import write_json

FOLDER, ROWS, MANIFEST = "data", "results.parquet", "manifest.json"
_RUN_FILES = ("manifest.json", "results.json", "results.parquet")


def write_data(material: Material, out: Path, title: str) -> None:
    """Write ``data/results.parquet`` (the rows of all scored runs) and ``data/manifest.json``.

    Raises:
        OSError: it can't be written.

    """
    import pandas as pd

    place = out / FOLDER
    place.mkdir(parents=True, exist_ok=True)
    if material.runs:
        rows = pd.concat([run.rows for run in material.runs], ignore_index=True)
        rows.to_parquet(place / ROWS, index=False)
    runs = [
        _source(run.path, "run", (run.path / name for name in _RUN_FILES), run_id=run.manifest["run_id"])
        for run in material.runs
    ]
    documents = [
        _source(found.path, found.kind, (found.path, *sorted(found.path.parent.glob("*.parquet"))))
        for found in material.documents
    ]
    write_json(
        place / MANIFEST,
        {
            "schema_version": 1,
            "title": title,
            "versions": versions(),
            "git": git_state(),
            "sources": [*runs, *documents],
        },
    )


def _source(path: Path, kind: str, files: Iterable[Path], **more: Any) -> dict[str, Any]:
    hashes = {file.name: file_sha256(file) for file in files}
    return {"path": str(path), "kind": kind, **more, "sha256": hashes}
