"""A run as Inspect's ``.eval`` files, one a cell: a ZIP of a header and a JSON file a sample.

Inspect's own writer takes minutes for a large run and needs Inspect; its reader takes these as its own.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any, Final

from harness.errors import InputError, RunError
from harness.integrations.cells import METRICS, CellRows, cells, file_name, model_of, started
from harness.results import Run

SCORER: Final = "paired_shift"
_VERSION: Final = 2
_SCORES: Final = ("logit_diff", "shift", "option_mass")


def export_logs(run: Run, folder: Path) -> list[Path]:
    """Write a log a cell into a new folder and return them.

    Raises:
        InputError: the folder holds something already.
        RunError: it can't be written.

    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists already and isn't empty; give a new folder.")
    made = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for cell in cells(run):
            header = _header(run, cell)
            stamp = started(run).strftime("%Y-%m-%dT%H-%M-%S+00-00")
            name = (
                f"{stamp}_{file_name(cell.suite)}-{file_name(cell.subject)}_{header['eval']['task_id']}.eval"
            )
            _write(folder / name, header, cell)
            made.append(folder / name)
    except OSError as e:
        raise RunError(f"{folder}: can't be written ({e.strerror}).") from e
    return made


def _write(path: Path, header: dict[str, Any], cell: CellRows) -> None:
    model = header["eval"]["model"]
    summaries = []
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as log:
        start = {key: header[key] for key in ("version", "eval", "plan")}
        log.writestr("_journal/start.json", _dump(start))
        for row in cell.rows:
            sample = _sample(row, model)
            log.writestr(f"samples/{row['item']}_epoch_1.json", _dump(sample))
            kept = ("id", "epoch", "input", "choices", "target", "metadata", "scores")
            summaries.append({key: sample[key] for key in kept} | {"completed": True, "message_count": 2})
        log.writestr("summaries.json", _dump(summaries))
        log.writestr("header.json", _dump(header))
    path.write_bytes(packed.getvalue())


_dump: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def _header(run: Run, cell: CellRows) -> dict[str, Any]:
    created = started(run).isoformat()
    identity = hashlib.sha256(f"{run.manifest['run_id']}\0{cell.suite}\0{cell.subject}".encode()).hexdigest()
    subject = run.manifest["subjects"].get(cell.subject, {})
    spec = {
        "eval_id": identity[:22],
        "run_id": run.manifest["run_id"],
        "created": created,
        "task": f"harness/{cell.suite}",
        "task_id": identity[22:44],
        "task_version": 0,
        "dataset": {
            "name": cell.suite,
            "samples": len(cell.rows),
            "sample_ids": [row["item"] for row in cell.rows],
            "shuffled": False,
        },
        "model": model_of(run, cell.subject),
        "model_generate_config": {"max_tokens": 1, "temperature": 0.0, "logprobs": True},
        "config": {"epochs": 1},
        "packages": {"selfreport-harness": run.manifest["versions"].get("selfreport-harness", "unknown")},
        "metadata": {
            "subject": cell.subject,
            "content": subject.get("content"),
            "engine": run.manifest["engine"],
        },
    }
    metrics: dict[str, dict[str, Any]] = {}
    for name, value, interval in cell.metrics():
        metrics[name] = {"stem_mean": {"name": "stem_mean", "value": value, "params": {}}}
        for end, bound in zip(("ci_low", "ci_high"), interval or (), strict=False):
            metrics[name][end] = {"name": end, "value": bound, "params": {}}
    return {
        "version": _VERSION,
        "status": "success",
        "eval": spec,
        "plan": {"name": "harness run", "steps": [], "config": {}},
        "results": {
            "total_samples": len(cell.rows),
            "completed_samples": len(cell.rows),
            "scores": [
                {
                    "name": name,
                    "scorer": SCORER,
                    "params": {},
                    "metrics": own,
                    "metadata": {"is": METRICS[name]},
                }
                for name, own in metrics.items()
            ],
        },
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
        "invalidated": False,
    }


def _sample(row: dict[str, Any], model: str) -> dict[str, Any]:
    token = row["top_token"]
    message = {"id": row["item"], "content": token, "source": "generate", "role": "assistant", "model": model}
    value = {name: row[name] for name in _SCORES if row[name] is not None}
    top = {"token": token, "logprob": row["top_logprob"], "top_logprobs": []}
    return {
        "id": row["item"],
        "epoch": 1,
        "input": row["prompt"],
        "choices": [row["positive"], row["negative"]],
        "target": row["positive"],
        "messages": [{"id": f"{row['item']}:asked", "content": row["prompt"], "role": "user"}, message],
        "output": {
            "model": model,
            "choices": [{"message": message, "stop_reason": "max_tokens", "logprobs": {"content": [top]}}],
            "completion": token,
        },
        "scores": {SCORER: {"value": value, "answer": token, "history": []}},
        "metadata": {
            **{
                key: row[key]
                for key in ("stem", "order", "tags", "in_options", "positive_ids", "negative_ids")
            },
            **{
                key: row[key]
                for key in ("positive_logprob", "negative_logprob", "expected_digit", "digit_mass")
            },
        },
        "store": {},
        "events": [],
        "model_usage": {},
        "attachments": {},
    }
