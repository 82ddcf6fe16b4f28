"""A run in the schema of Every Eval Ever: a JSON file a subject, with its items beside it."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any, Final

from harness.integrations.cells import METRICS, CellRows, cells, file_name, model_of, started
from harness.integrations.tasks import write_files
from harness.results import Run

SCHEMA_VERSION: Final = "0.3.0"
BENCHMARK: Final = "selfreport-harness"
_BOUNDS: Final = {"logit_diff": ("-Infinity", "Infinity"), "shift": ("-Infinity", "Infinity")}


def export_records(run: Run, folder: Path, organization: str, relationship: str) -> list[Path]:
    """Write ``data/<benchmark>/<developer>/<model>/<uuid>.json`` and ``_samples.jsonl``; return the former.

    Args:
        run: a finished run.
        folder: new.
        organization: who provides the data.
        relationship: of the evaluator to the model: first_party, third_party, collaborative or other.

    Raises:
        InputError: the folder holds something already.
        RunError: it can't be written.

    """
    by_subject: dict[str, list[CellRows]] = {}
    for cell in cells(run):
        by_subject.setdefault(cell.subject, []).append(cell)
    files: dict[str, str] = {}
    made = []
    for subject, own in by_subject.items():
        developer, model = _model_id(run, subject)
        name = str(_uuid4(f"{run.manifest['run_id']}\0{subject}"))
        place = f"data/{BENCHMARK}/{developer}/{model}"
        record = _record(run, subject, own, organization, relationship)
        samples = "".join(
            f"{json.dumps(line, ensure_ascii=False)}\n"
            for cell in own
            for line in _samples(cell, record["evaluation_id"], f"{developer}/{model}")
        )
        record["detailed_evaluation_results"] = {
            "format": "jsonl",
            "file_path": f"{place}/{name}_samples.jsonl",
            "hash_algorithm": "sha256",
            "checksum": hashlib.sha256(samples.encode()).hexdigest(),
            "total_rows": samples.count("\n"),
        }
        files[f"{place}/{name}.json"] = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        files[f"{place}/{name}_samples.jsonl"] = samples
        made.append(folder / place / f"{name}.json")
    write_files(folder, files)
    return made


def _uuid4(text: str) -> uuid.UUID:
    """Return a UUID in the form of version 4 that the same text gives again."""
    return uuid.UUID(bytes=hashlib.sha256(text.encode()).digest()[:16], version=4)


def _model_id(run: Run, subject: str) -> tuple[str, str]:
    developer, _, model = model_of(run, subject).strip("/").rpartition("/")
    return file_name(developer.rpartition("/")[2] or "local"), file_name(model)


def _record(
    run: Run, subject: str, own: list[CellRows], organization: str, relationship: str
) -> dict[str, Any]:
    developer, model = _model_id(run, subject)
    stamp = str(int(started(run).timestamp()))
    engine = run.manifest["engine"]
    details = {
        "deployment_type": "self_deployed",
        "model_availability": "unknown",
        "subject": subject,
        "content": str(run.manifest["subjects"].get(subject, {}).get("content")),
        "model_digest": str(engine.get("model_digest")),
        "dtype": str(engine.get("dtype")),
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{BENCHMARK}/{developer}/{model}/{stamp}",
        "evaluation_timestamp": stamp,
        "retrieved_timestamp": stamp,
        "source_metadata": {
            "source_name": f"harness run {run.manifest['run_id']}",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": relationship,
        },
        "eval_library": {
            "name": "selfreport-harness",
            "version": run.manifest["versions"].get("selfreport-harness", "unknown"),
        },
        "model_info": {
            "name": f"{developer}/{model}",
            "id": f"{developer}/{model}",
            "developer": developer,
            "inference_engine": {
                "name": str(engine.get("engine", "unknown")),
                "version": str(engine.get("vllm") or run.manifest["versions"].get("transformers", "unknown")),
            },
            "additional_details": details,
        },
        "evaluation_results": [result for cell in own for result in _results(run, cell)],
    }


def _result_id(cell: CellRows, metric: str) -> str:
    return f"{cell.suite}.{metric}"


def _results(run: Run, cell: CellRows) -> list[dict[str, Any]]:
    digest = json.dumps(run.manifest["suites"].get(cell.suite, {}).get("digest"), sort_keys=True)
    results = []
    for name, value, interval in cell.metrics():
        low, high = _BOUNDS.get(name, (0.0, 1.0))
        uncertainty: dict[str, Any] = {"num_samples": cell.summary["n_stems"]}
        if interval is not None:
            uncertainty["confidence_interval"] = {
                "lower": interval[0],
                "upper": interval[1],
                "confidence_level": 0.95,
                "method": "t over the stems' means",
            }
        results.append(
            {
                "evaluation_result_id": _result_id(cell, name),
                "evaluation_name": cell.suite,
                "source_data": {
                    "dataset_name": cell.suite,
                    "source_type": "other",
                    "additional_details": {"sha256": digest, "items": str(cell.summary["n_items"])},
                },
                "metric_config": {
                    "evaluation_description": METRICS[name],
                    "metric_id": f"{BENCHMARK}.{name}",
                    "metric_name": name,
                    "metric_unit": "nats" if name in _BOUNDS else "proportion",
                    "lower_is_better": False,
                    "score_type": "continuous",
                    "min_score": low,
                    "max_score": high,
                },
                "score_details": {"score": value, "uncertainty": uncertainty},
                "generation_config": {"generation_args": {"temperature": 0.0, "max_tokens": 1}},
            }
        )
    return results


def _samples(cell: CellRows, evaluation_id: str, model_id: str) -> list[dict[str, Any]]:
    """Return a line an item, of its logit difference; ``is_correct`` says that the positive answer is likelier."""
    return [
        {
            "schema_version": SCHEMA_VERSION,
            "evaluation_id": evaluation_id,
            "model_id": model_id,
            "evaluation_name": cell.suite,
            "evaluation_result_id": _result_id(cell, "logit_diff"),
            "sample_id": row["item"],
            "sample_hash": hashlib.sha256(f"{row['prompt']}{row['positive']}".encode()).hexdigest(),
            "interaction_type": "single_turn",
            "input": {
                "raw": row["prompt"],
                "formatted": row["prompt"],
                "reference": [row["positive"]],
                "choices": [row["positive"], row["negative"]],
            },
            "output": {"raw": [row["top_token"]]},
            "answer_attribution": [
                {
                    "turn_idx": 0,
                    "source": "output.raw",
                    "extracted_value": row["top_token"],
                    "extraction_method": "log-probabilities of both answers",
                    "is_terminal": True,
                }
            ],
            "evaluation": {"score": row["logit_diff"], "is_correct": row["logit_diff"] > 0},
            "metadata": {
                "stem": row["stem"],
                "positive_logprob": repr(row["positive_logprob"]),
                "negative_logprob": repr(row["negative_logprob"]),
                **({} if row["shift"] is None else {"shift": repr(row["shift"])}),
            },
        }
        for row in cell.rows
    ]
