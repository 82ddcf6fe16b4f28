"""A folder of tasks for lm-evaluation-harness's ``--include_path``; lm-eval itself is not needed to write it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import yaml

from harness.errors import InputError
from harness.integrations.tasks import Exported, client_name, shell, write_files
from harness.plan import PlannedSuite
from harness.prompts import Encoded
from harness.subject import Subject

GROUP = "harness"
_HERE = Path(__file__).parent


def export_tasks(
    folder: Path, exported: Exported, subjects: list[Subject], base_url: str
) -> tuple[list[str], dict[str, list[str]]]:
    """Write the tasks; return the commands that run them, and the items left out by suite.

    Raises:
        InputError: the folder isn't empty, or no item of a suite can be asked in lm-eval's way.
        RunError: it can't be written.

    """
    commands = [command(folder, exported, subject, base_url) for subject in subjects]
    files = {"utils.py": (_HERE / "lm_eval_utils.py").read_text("utf-8")}
    left_out: dict[str, list[str]] = {}
    for suite in exported.suites:
        documents, left_out[suite.name] = _documents(suite, exported)
        lines = [json.dumps(document, ensure_ascii=False) for document in documents]
        files[f"{suite.name}.jsonl"] = "".join(f"{line}\n" for line in lines)
        files[f"{GROUP}_{suite.name}.yaml"] = _yaml(_task(suite))
    group = {
        "group": GROUP,
        "task": [f"{GROUP}_{suite.name}" for suite in exported.suites],
        "metadata": {"version": 1.0},
    }
    files[f"{GROUP}.yaml"] = _yaml(group)
    template = jinja2.Environment(keep_trailing_newline=True).from_string(
        (_HERE / "templates" / "lm_eval.md.j2").read_text("utf-8")
    )
    files["README.md"] = template.render(
        suites=exported.suites,
        tokenizer=exported.tokenizer,
        base=exported.base,
        commands=commands,
        left_out=left_out,
    )
    write_files(folder, files)
    return commands, left_out


def command(folder: Path, exported: Exported, subject: Subject, base_url: str) -> str:
    """Return the command that runs the tasks on a subject.

    lm-eval's request cache goes by the prompt alone, so its file is named by the base model's weights and the
    subject's; where the base model's weights aren't known there is none.
    """
    name = client_name(subject, echo=True)
    arguments = {
        "model": name,
        "base_url": f"{base_url.rstrip('/').removesuffix('/v1')}/v1/completions",
        "tokenizer": exported.tokenizer,
        "tokenizer_backend": "huggingface",
        "num_concurrent": "4",
    }
    return shell(
        [
            *("lm_eval", "--model", "local-completions"),
            *("--model_args", ",".join(f"{key}={value}" for key, value in arguments.items())),
            *("--include_path", str(folder), "--tasks", GROUP),
            *(("--use_cache", f"lm_eval_cache/{exported.base}/{name}") if exported.base else ()),
            *("--log_samples", "--output_path", f"lm_eval/{exported.base or 'unknown-weights'}/{name}"),
        ]
    )


def _task(suite: PlannedSuite) -> dict[str, Any]:
    return {
        "task": f"{GROUP}_{suite.name}",
        "custom_dataset": _Function("utils.load"),
        "dataset_kwargs": {"suite": suite.name},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": 0,
        "target_delimiter": "",
        # A number here makes lm-eval ignore --num_fewshot, which would put other questions before each.
        "num_fewshot": 0,
        "process_results": _Function("utils.process_results"),
        "metric_list": [
            {"metric": "logit_diff", "aggregation": "mean", "higher_is_better": True},
            {
                "metric": "logit_diff_by_stem",
                "aggregation": _Function("utils.mean_over_stems"),
                "higher_is_better": True,
            },
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 1.0},
    }


def _documents(suite: PlannedSuite, exported: Exported) -> tuple[list[dict[str, Any]], list[str]]:
    documents, left_out = [], []
    for encoded in suite.items:
        document = _document(encoded, exported)
        if document is None:
            left_out.append(encoded.item.id)
        else:
            documents.append(document)
    if not documents:
        raise InputError(f"No item of '{suite.name}' is the same tokens as plain text.")
    return documents, left_out


def _document(encoded: Encoded, exported: Exported) -> dict[str, Any] | None:
    """Return an item's document; None if lm-eval, which tokenizes the text, would ask other tokens."""
    prompt, item = exported.text(encoded), encoded.item
    tokenizer = exported.builder.tokenizer
    choices: list[str] = []
    counts = []
    for forms, ids in ((item.positive, encoded.positive_ids), (item.negative, encoded.negative_ids)):
        own = dict(_single(prompt, forms, encoded.prompt_ids, tokenizer))
        if set(own) != set(ids):
            return None
        choices += [own[token] for token in ids]
        counts.append(len(ids))
    return {
        "id": item.id,
        "stem": item.stem,
        "prompt": prompt,
        "choices": choices,
        "positives": counts[0],
        "order": item.order or "",
        "tags": ",".join(item.tags),
    }


def _single(
    prompt: str, forms: list[str], prompt_ids: tuple[int, ...], tokenizer: Any
) -> Iterator[tuple[int, str]]:
    """Yield ``(token, form)`` for each form that is one token after the prompt, tokenized as lm-eval does."""
    for form in reversed(forms):
        ids = tokenizer(prompt + form, add_special_tokens=False)["input_ids"]
        if tuple(ids[:-1]) == prompt_ids:
            yield ids[-1], form


class _Function(str):
    """A ``!function`` of lm-eval's YAML."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """Writes ``!function`` tags."""


_Dumper.add_representer(_Function, lambda dumper, value: dumper.represent_scalar("!function", str(value)))


def _yaml(value: dict[str, Any]) -> str:
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
