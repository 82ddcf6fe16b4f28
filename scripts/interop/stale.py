"""An adapter retrained under its old name, asked through lm-eval's request cache: is an old score given out?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from safetensors.numpy import load_file, save_file

from harness.adapters import WEIGHTS
from harness.integrations.lm_eval import export_tasks
from harness.integrations.tasks import client_name, find_subjects, prepare_export
from harness.models import DEFAULT_MODEL
from scripts.interop.tools import Setting, lm_eval_samples

NAME = "my_safe_l22"


def show(setting: Setting, folder: Path) -> list[dict[str, Any]]:
    """Score an adapter, retrain it (its weights halved) in place, score it again, both ways of naming it."""
    exported = prepare_export([setting.suites[0]], 1, DEFAULT_MODEL, None)
    small = replace(setting, exported=exported)
    (_, before) = find_subjects([NAME], [folder], DEFAULT_MODEL)
    tasks = setting.scratch / "stale_tasks"
    export_tasks(tasks, exported, [before], setting.base_url)
    plain, caches = setting.scratch / "cache-plain", setting.scratch / "caches" / str(exported.base)

    def scores(cache: Path, subject: Any, model: str | None = None) -> list[float]:
        return [float(d["logit_diff"]) for _, d in lm_eval_samples(small, tasks, subject, cache, model)]

    old = scores(plain, before, NAME)
    if scores(caches / client_name(before), before) != old:
        raise RuntimeError(f"'{NAME}' and '{client_name(before)}' give different scores")
    weights = folder / NAME / WEIGHTS
    save_file({key: value / 2 for key, value in load_file(weights).items()}, weights)
    body = {"lora_name": NAME, "lora_path": str(folder / NAME), "load_inplace": True}
    httpx.post(f"{setting.base_url}/v1/load_lora_adapter", json=body, timeout=120).raise_for_status()
    (_, after) = find_subjects([NAME], [folder], DEFAULT_MODEL)
    with_plain = scores(plain, after, NAME)
    with_content = scores(caches / client_name(after), after)
    return [
        {
            "model": NAME,
            "cache": "one file for all",
            "fresh": "yes" if with_plain != old else "no: lm-eval gave the old weights' score",
            "as_it_should": "known" if with_plain == old else "yes",
        },
        {
            "model": f"{NAME}-<hash of the weights>",
            "cache": "named by both weights, as exported",
            "fresh": "yes" if with_content != old else "no",
            "as_it_should": "yes" if with_content != old else "",
        },
    ]
