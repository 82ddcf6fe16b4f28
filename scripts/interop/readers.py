"""A run in other tools' formats, read by the tools' own readers in their own environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from harness.integrations.every_eval_ever import export_records
from harness.integrations.inspect_log import export_logs
from harness.integrations.lm_eval_results import export_results
from harness.results import Run
from scripts.interop import environments, tools


def read(run: Run, scratch: Path) -> list[dict[str, Any]]:
    """Export a run and have it read; return what each reader found, ``wrong`` empty where all is right."""
    by_inspect, by_lm_eval = scratch / "read_inspect", scratch / "read_lm_eval"
    export_logs(run, by_inspect)
    export_results(run, by_lm_eval)
    versions = environments.versions()
    inspect = f"Inspect {versions['inspect-ai']}: read_eval_log"
    lm_eval = f"lm-eval {versions['lm-eval']}: make_table"
    return [
        _samples(run, inspect, [str(environments.inspect()), _peer("read_inspect")], by_inspect, "harness/"),
        _samples(run, lm_eval, [str(environments.lm_eval()), _peer("read_lm_eval")], by_lm_eval, "harness_"),
        *_every_eval_ever(run, scratch / "read_eee"),
    ]


def _peer(name: str) -> str:
    return str(Path(__file__).parent / "peers" / f"{name}.py")


def _samples(run: Run, reader: str, command: list[str], folder: Path, prefix: str) -> dict[str, Any]:
    """Have a peer list the samples of an export, and hold each item's logit difference against the run's."""
    found = json.loads(tools.run([*command, str(folder)]))
    wanted = {
        (f"{prefix}{row.suite}", str(row.subject), str(row.item)): float(row.logit_diff)
        for row in run.rows.itertuples()
    }
    base = str(run.manifest["config"]["model"])
    said = {
        (x["task"], x["model"].removeprefix(base).removeprefix("+") or "base", x["id"]): x["logit_diff"]
        for x in found
    }
    wrong = sorted("/".join(key) for key in wanted.keys() | said.keys() if wanted.get(key) != said.get(key))
    return {"reader": reader, "read": f"{len(said)} samples", "wrong": wrong[:5]}


def _every_eval_ever(run: Run, folder: Path) -> list[dict[str, Any]]:
    name = f"every_eval_ever {environments.versions()['every-eval-ever']}: validate"
    python = environments.every_eval_ever()
    if python is None:
        return [{"reader": name, "read": "nothing", "wrong": ["it needs Python 3.12 or newer on PATH"]}]
    made = export_records(run, folder, "interop", "other")
    files = [str(path.relative_to(folder)) for path in sorted((folder / "data").rglob("*.json*"))]
    wrong = []
    try:
        tools.run([str(python), "-m", "every_eval_ever", "validate", *files], folder=folder)
    except RuntimeError as e:
        wrong = [str(e)]
    return [{"reader": name, "read": f"{len(made)} records, {len(files)} files", "wrong": wrong}]
