"""Results: one row an item and subject, the cells made of them, and the run folder they live in.

A run folder holds ``manifest.json`` (everything needed to repeat the run), ``journal.jsonl`` (each scored
item, checksummed, appended and flushed before it counts), ``results.parquet`` (one row an item and subject)
and ``results.json`` (the cells).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import stats
from harness.errors import InputError, RunError
from harness.evalset import Card
from harness.jsonfile import read_object

if TYPE_CHECKING:
    import pandas as pd

    from harness.report.parts import Figure

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Row:
    """One item scored for one subject. Log-probabilities and differences in nats."""

    suite: str
    subject: str
    item: str
    stem: str
    order: str | None
    tags: list[str]
    positive: str
    negative: str
    positive_ids: list[int]
    negative_ids: list[int]
    positive_logprob: float
    negative_logprob: float
    logit_diff: float
    option_mass: float
    top_id: int
    top_token: str
    top_logprob: float
    in_options: bool
    """Whether the top token is one of the answers' forms."""
    expected_digit: float | None
    digit_mass: float | None
    prompt: str
    shift: float | None = None
    """logit_diff minus the base model's on the same item; None for the base model itself."""


@dataclass(frozen=True)
class Cell:
    """A suite and a subject, summarised over stems."""

    suite: str
    subject: str
    n_stems: int
    n_items: int
    mean_logit_diff: float
    mean_shift: float | None
    mean_abs_shift: float | None
    """Mean size of the stems' shifts, in nats; only for suites whose poles have no direction (card: unsigned)."""
    shift_ci: list[float] | None
    shift_p: float | None
    option_mass: float
    in_options_rate: float
    choice_accuracy: float | None
    top1_accuracy: float | None
    carried_by: str | None


@dataclass(frozen=True)
class Run:
    """A finished run, as pandas frames."""

    path: Path
    manifest: dict[str, Any]
    results: dict[str, Any]
    rows: pd.DataFrame = field(repr=False)
    """One row an item and subject, the columns of :class:`Row`."""

    @property
    def cells(self) -> pd.DataFrame:
        """One row a suite and subject, the columns of :class:`Cell`."""
        import pandas as pd

        return pd.DataFrame(self.results["cells"])

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The report's figures of this run's shifts, a suite each; needs the extra ``report``."""
        from harness.report.notebook import run_share

        return run_share(self).figures

    def _repr_html_(self) -> str:
        """Show the cells in a notebook, as the command line's table does, and the shifts' figures. In nats."""
        from harness.report.notebook import run_share, share_html

        shown = [
            "suite",
            "subject",
            "n_stems",
            "n_items",
            "mean_logit_diff",
            "mean_shift",
            "shift_ci",
            "option_mass",
        ]
        cells = self.cells[shown]
        cells = cells.assign(shift_ci=cells["shift_ci"].map(_ends))
        table = cells.to_html(index=False, na_rep="–", float_format="{:+.2f}".format)
        drawn = share_html(lambda: run_share(self))
        return f"<p>{self.path.name}, noise floor {self.results['noise_floor']:.1e} nats</p>{table}{drawn}"


def _ends(interval: object) -> str:
    return "[{:+.2f}, {:+.2f}]".format(*interval) if isinstance(interval, list) else "–"


def make_cell(card: Card, subject: str, sign: int | None, rows: list[Row], seed: int = 0) -> Cell:
    """Summarise a suite's rows for one subject: means over stems, 95% t interval of the paired shift.

    ``choice_accuracy``: the larger of the two answers is the one trained for. ``top1_accuracy``: the argmax
    over the vocabulary is (the post's measure). Both only where the subject was trained on such questions.
    ``seed`` is of the drawn sign flips.
    """
    stems = [row.stem for row in rows]

    def mean(values: Iterable[float]) -> float:
        return float(stats.stem_means(list(values), stems)[1].mean())

    cell: dict[str, Any] = dict.fromkeys((f.name for f in fields(Cell)), None)
    cell |= {
        "suite": card.name,
        "subject": subject,
        "n_stems": len(set(stems)),
        "n_items": len(rows),
        "mean_logit_diff": mean(row.logit_diff for row in rows),
        "option_mass": mean(row.option_mass for row in rows),
        "in_options_rate": mean(float(row.in_options) for row in rows),
    }
    shifts = [math.nan if row.shift is None else row.shift for row in rows]
    if any(map(math.isfinite, shifts)):
        interval = stats.mean_interval(shifts, stems)
        cell["mean_shift"] = interval.mean
        if interval.low is not None and interval.high is not None:
            cell["shift_ci"] = [interval.low, interval.high]
        if not card.signed:
            cell["mean_abs_shift"] = stats.mean_abs(shifts, stems)
        cell["shift_p"] = stats.sign_flip_p(shifts, stems, seed)
        cell["carried_by"] = interval.carried_by
    if sign is not None and card.trained:
        cell["choice_accuracy"] = mean(float(row.logit_diff * sign > 0) for row in rows)
        cell["top1_accuracy"] = mean(
            float(row.top_id in (row.positive_ids if sign > 0 else row.negative_ids)) for row in rows
        )
    return Cell(**cell)


def directed_suites(cells: Iterable[Mapping[str, Any]]) -> dict[str, bool]:
    """Return of each suite that a subject was scored on whether its poles have a direction, from runs' cells.

    One cell with a size says that they have none; a subject without values has no size on any suite.
    """
    directed: dict[str, bool] = {}
    for cell in cells:
        if cell["subject"] != "base":
            sized = cell["mean_abs_shift"] is not None
            directed[cell["suite"]] = directed.get(cell["suite"], True) and not sized
    return directed


def write_json(path: Path, value: Any) -> None:
    """Write JSON in one step: whole or not at all.

    Raises:
        RunError: the disk is full or not writable.

    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.write_text(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n", "utf-8")
        fresh.replace(path)
    except OSError as e:
        raise RunError(f"{path}: can't be written ({e.strerror}).") from e


def write_parquet(path: Path, rows: list[Row], run_id: str) -> None:
    """Write rows, in the plan's order."""
    import pyarrow as pa

    table = pa.Table.from_pylist([{"run_id": run_id, **asdict(row)} for row in rows], schema=_schema())
    _write_table(path, table.replace_schema_metadata({"harness_schema_version": str(SCHEMA_VERSION)}))


def write_frame(path: Path, frame: pd.DataFrame, about: dict[str, str] | None = None) -> None:
    """Write a frame without its index in one step, with metadata in the stead of pandas' own where given.

    Raises:
        RunError: the disk is full or not writable.

    """
    import pyarrow as pa

    table = pa.Table.from_pandas(frame, preserve_index=False)
    _write_table(path, table.replace_schema_metadata(about) if about else table)


def _write_table(path: Path, table: Any) -> None:
    import pyarrow.parquet as pq

    fresh = path.with_name(f".{path.name}.new")
    try:
        pq.write_table(table, fresh, compression="zstd")
        fresh.replace(path)
    except OSError as e:
        raise RunError(f"{path}: can't be written ({e}).") from e


def _schema() -> Any:
    import pyarrow as pa

    kinds = {
        "str": pa.string(),
        "str | None": pa.string(),
        "float": pa.float64(),
        "float | None": pa.float64(),
        "int": pa.int64(),
        "bool": pa.bool_(),
        "list[str]": pa.list_(pa.string()),
        "list[int]": pa.list_(pa.int64()),
    }
    return pa.schema([("run_id", pa.string()), *((f.name, kinds[str(f.type)]) for f in fields(Row))])


def load_run(path: str | Path) -> Run:
    """Load a finished run's folder.

    Raises:
        InputError: it isn't a finished run's folder, but another experiment's, or of another schema version, or one of
            its files can't be read.

    Examples:
        >>> import harness
        >>> made = harness.run("awareness", limit=1)
        >>> found = harness.load_run(made.path)
        >>> found.rows.equals(made.rows)
        True

    """
    import pandas as pd
    import pyarrow as pa

    folder = Path(path)
    manifest = _read_finished(folder, "manifest.json")
    if (kind := manifest.get("kind")) is not None:
        raise InputError(
            f"{folder}: holds a result of kind '{kind}', not a run; valid are folders of harness run and "
            f"harness compare. What this one says: harness report {folder}"
        )
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{folder}: has schema version {version}; this harness reads {SCHEMA_VERSION}.")
    results = _read_finished(folder, "results.json")
    table = folder / "results.parquet"
    _check_finished(table)
    try:
        return Run(folder, manifest, results, pd.read_parquet(table))
    except (OSError, pa.ArrowException) as e:
        raise InputError(
            f"{table}: is not a whole Parquet file ({e}); harness run --resume writes it anew."
        ) from e


def _read_finished(folder: Path, name: str) -> dict[str, Any]:
    _check_finished(folder / name)
    return read_object(folder / name)


def _check_finished(file: Path) -> None:
    if not file.is_file():
        raise InputError(f"{file.parent}: is not a finished run ({file.name} is missing).")
