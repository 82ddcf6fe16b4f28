"""A finished run cell by cell, as plain values: what the exporters of results write."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from harness.results import Run

METRICS = {
    "logit_diff": "log p(positive) - log p(negative), in nats, mean over stems",
    "shift": "logit_diff minus the base model's on the same item, in nats, mean over stems",
    "option_mass": "p(positive) + p(negative), mean over stems",
    "choice_accuracy": "how often the larger of the two answers is the one trained for, mean over stems",
    "top1_accuracy": "how often the likeliest token is the answer trained for, mean over stems",
}


@dataclass(frozen=True)
class CellRows:
    """A suite's rows for one subject, and their summary."""

    suite: str
    subject: str
    summary: dict[str, Any]
    rows: list[dict[str, Any]]

    def metrics(self) -> Iterator[tuple[str, float, list[float] | None]]:
        """Yield name, value and 95% interval (None where there is none) of each metric that the cell has."""
        values = {
            "logit_diff": self.summary["mean_logit_diff"],
            "shift": self.summary["mean_shift"],
            **{name: self.summary[name] for name in ("option_mass", "choice_accuracy", "top1_accuracy")},
        }
        for name, value in values.items():
            if value is not None:
                yield name, float(value), self.summary["shift_ci"] if name == "shift" else None


def cells(run: Run) -> Iterator[CellRows]:
    """Yield a run's cells in its own order."""
    summaries = {(cell["suite"], cell["subject"]): cell for cell in run.results["cells"]}
    for (suite, subject), frame in run.rows.groupby(["suite", "subject"], sort=False):
        # Arrow's conversion gives JSON's own types, None for what pandas holds as NaN, and is quick.
        rows = pa.Table.from_pandas(frame, preserve_index=False).to_pylist()
        yield CellRows(str(suite), str(subject), summaries[suite, subject], rows)


def started(run: Run) -> datetime.datetime:
    """Return when a run was started, from its id, in UTC where the id says no zone."""
    match = re.match(r"(\d{8}-\d{6})", run.manifest["run_id"])
    if match is None:
        return datetime.datetime.fromtimestamp((run.path / "manifest.json").stat().st_mtime, datetime.UTC)
    return datetime.datetime.strptime(match[1], "%Y%m%d-%H%M%S").astimezone(datetime.UTC)


def model_of(run: Run, subject: str) -> str:
    """Return the base model's name, with the subject's unless it is base."""
    base = str(run.manifest["config"]["model"])
    return base if subject == "base" else f"{base}+{subject}"


def file_name(text: str) -> str:
    """Return a name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9._@+-]+", "-", text)
