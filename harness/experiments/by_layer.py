"""Experiments 1 and 2 by the adapted layer: how well one layer's LoRA or vector chooses, and what it says of itself.

A folder holds ``by_layer.json`` (kind = "by_layer", source, model, trainings) and two tables:

``accuracy.parquet``, one row a training and split.
    kind (lora, vector), format, behavior, split: str; layer, seed: int
    choice_accuracy, top1_accuracy: float; mean_logit_diff: float, nats
``shifts.parquet``, one row a training, suite and stem.
    kind, format, behavior, suite, stem: str; layer, seed: int
    shift: float, log-odds of the positive answer minus the base model's, nats
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.adapters import RECORD
from harness.errors import InputError
from harness.paths import data_dir
from harness.results import Run, write_frame, write_json

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION = 1
FILE = "by_layer.json"


def shipped_table() -> Path:
    """Return the folder of the embedded model's table (``scripts/train_by_layer.py`` made it)."""
    return data_dir("reports") / "training"


def copy_shipped(out: Path, model: str) -> None:
    """Write the shipped table into a folder.

    Raises:
        InputError: it isn't there.

    """
    import pandas as pd

    source = shipped_table()
    try:
        accuracy, shifts = (pd.read_parquet(source / f"{n}.parquet") for n in ("accuracy", "shifts"))
    except OSError as e:
        raise InputError(f"{source}: the shipped table of layers can't be read ({e}). Give --retrain.") from e
    write(out, accuracy, shifts, model, f"the shipped table, {len(accuracy) // 3} trainings on a GPU")


def collect(adapters: Sequence[Path], run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both tables of single-layer adapters: accuracy from their records, shifts from a run on suites."""
    import pandas as pd

    accuracy, of_name = [], {}
    for path in adapters:
        record = json.loads((path / RECORD).read_text("utf-8"))
        settings = record["settings"]
        about = {"kind": record["kind"], "format": settings["format"], "behavior": settings["behavior"]}
        about |= {"layer": settings["layers"][0], "seed": settings["seed"]}
        of_name[path.name] = about
        for split, found in record["accuracy"].items():
            figures = {k: found[k] for k in ("choice_accuracy", "top1_accuracy", "mean_logit_diff")}
            accuracy.append(about | {"split": split} | figures)
    rows = run.rows[run.rows["subject"].isin(list(of_name))]
    shifts = rows.groupby(["subject", "suite", "stem"], as_index=False, sort=False)["shift"].mean()
    known = pd.DataFrame([of_name[name] for name in shifts["subject"]])
    return pd.DataFrame(accuracy), pd.concat([shifts.drop(columns="subject"), known], axis=1)


def write(out: Path, accuracy: pd.DataFrame, shifts: pd.DataFrame, model: str, source: str) -> None:
    """Write the tables, then ``by_layer.json``."""
    out.mkdir(parents=True, exist_ok=True)
    write_frame(out / "accuracy.parquet", accuracy)
    write_frame(out / "shifts.parquet", shifts)
    said: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kind": "by_layer",
        "model": model,
        "source": source,
        "trainings": len(accuracy.drop_duplicates(["kind", "format", "layer", "seed", "behavior"])),
    }
    write_json(out / FILE, said)
