"""A run as lm-evaluation-harness's result files: a folder a subject, aggregated JSON and samples."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.integrations.cells import CellRows, cells, file_name, model_of, started
from harness.integrations.tasks import write_files
from harness.results import Run


def export_results(run: Run, folder: Path) -> list[Path]:
    """Write ``results_<date>.json`` and ``samples_<task>_<date>.jsonl`` below a new folder; return the former.

    Raises:
        InputError: the folder holds something already.
        RunError: it can't be written.

    """
    by_subject: dict[str, list[CellRows]] = {}
    for cell in cells(run):
        by_subject.setdefault(cell.subject, []).append(cell)
    stamp = started(run).strftime("%Y-%m-%dT%H-%M-%S.%f")
    files: dict[str, str] = {}
    made = []
    for subject, own in by_subject.items():
        place = file_name(subject)
        made.append(folder / place / f"results_{stamp}.json")
        files[f"{place}/results_{stamp}.json"] = json.dumps(_results(run, subject, own), indent=2) + "\n"
        for cell in own:
            lines = [json.dumps(_sample(i, row), ensure_ascii=False) for i, row in enumerate(cell.rows)]
            files[f"{place}/samples_{_task(cell)}_{stamp}.jsonl"] = "".join(f"{line}\n" for line in lines)
    write_files(folder, files)
    return made


def _task(cell: CellRows) -> str:
    return f"harness_{cell.suite}"


def _results(run: Run, subject: str, own: list[CellRows]) -> dict[str, Any]:
    results: dict[str, dict[str, Any]] = {}
    for cell in own:
        results[_task(cell)] = {"alias": _task(cell), "sample_len": len(cell.rows)}
        for name, value, interval in cell.metrics():
            results[_task(cell)][f"{name},none"] = value
            # lm-eval has one number for uncertainty; the interval itself is in our own files.
            results[_task(cell)][f"{name}_stderr,none"] = "N/A" if interval is None else _half(interval)
    tasks = list(results)
    git = run.manifest.get("git") or {}
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {
            task: {"task": task, "output_type": "multiple_choice", "num_fewshot": 0} for task in tasks
        },
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {_task(cell): {name: True for name, _, _ in cell.metrics()} for cell in own},
        "n-samples": {_task(c): {"original": len(c.rows), "effective": len(c.rows)} for c in own},
        "config": {
            "model": "selfreport-harness",
            "model_args": {"model": model_of(run, subject)},
            "run_id": run.manifest["run_id"],
            "content": run.manifest["subjects"].get(subject, {}).get("content"),
        },
        "git_hash": git.get("commit"),
        "date": started(run).timestamp(),
        "model_source": "selfreport-harness",
        "model_name": model_of(run, subject),
    }


def _half(interval: list[float]) -> float:
    """Return the standard error whose normal 95% interval is as wide; ours is wider by t's quantile."""
    return (interval[1] - interval[0]) / 2 / 1.959964


def _sample(number: int, row: dict[str, Any]) -> dict[str, Any]:
    answers = [row["positive"], row["negative"]]
    logprobs = [row["positive_logprob"], row["negative_logprob"]]
    top = [row["top_id"] in row["positive_ids"], row["top_id"] in row["negative_ids"]]
    doc = {key: row[key] for key in ("stem", "order", "tags", "prompt")} | {
        "id": row["item"],
        "choices": answers,
    }
    said = [[str(logprob), str(greedy)] for logprob, greedy in zip(logprobs, top, strict=True)]

    def digest(text: str) -> str:
        return hashlib.sha256(text.encode()).hexdigest()

    return {
        "doc_id": number,
        "doc": doc,
        "target": "0",
        "arguments": {
            f"gen_args_{i}": {"arg_0": row["prompt"], "arg_1": answer} for i, answer in enumerate(answers)
        },
        "resps": [[pair] for pair in said],
        "filtered_resps": said,
        "filter": "none",
        "metrics": [name for name in ("logit_diff", "shift", "option_mass") if row[name] is not None],
        "doc_hash": digest(json.dumps(doc, sort_keys=True)),
        "prompt_hash": digest(row["prompt"]),
        "target_hash": digest("0"),
        **{name: row[name] for name in ("logit_diff", "shift", "option_mass") if row[name] is not None},
    }
