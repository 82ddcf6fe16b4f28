"""A run's rows as CSV or as one Parquet file."""

from __future__ import annotations

import json
from pathlib import Path

from harness.errors import InputError, RunError
from harness.results import Run


def export_csv(run: Run, path: Path) -> int:
    """Write UTF-8 CSV, lists as JSON; return the number of rows.

    Raises:
        InputError: the file exists.
        RunError: it can't be written.

    """
    _new(path)
    rows = run.rows.copy()
    for column in rows.columns:
        if any(hasattr(value, "tolist") and value.ndim for value in rows[column].head(1)):
            rows[column] = [json.dumps(value.tolist()) for value in rows[column]]
    try:
        rows.to_csv(path, index=False, lineterminator="\n")
    except OSError as e:
        raise RunError(f"{path}: can't be written ({e.strerror}).") from e
    return len(rows)


def export_parquet(run: Run, path: Path) -> int:
    """Write the run's own Parquet file with its manifest in the schema's metadata; return the number of rows.

    Raises:
        InputError: the file exists.
        RunError: it can't be written.

    """
    import pyarrow.parquet as pq

    _new(path)
    table = pq.read_table(run.path / "results.parquet")
    manifest = json.dumps(run.manifest, ensure_ascii=False).encode()
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"harness_manifest": manifest})
    try:
        pq.write_table(table, path, compression="zstd")
    except OSError as e:
        raise RunError(f"{path}: can't be written ({e}).") from e
    return int(table.num_rows)


def _new(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path}: exists already.")
