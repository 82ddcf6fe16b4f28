"""A run: open an engine, plan, score, write the run folder; go on with one that was stopped."""

from __future__ import annotations

import asyncio
import datetime
import json
import secrets
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness.config import RunConfig
from harness.engines import Report, open_engine
from harness.errors import IncompleteError, InputError, RunError, ServerError, unknown
from harness.execute import Finished, Progress, finish, noise_floor, score_plan
from harness.journal import Journal
from harness.manifest import make_manifest
from harness.paths import runs_dir
from harness.plan import Plan, encode_suite, load_suites
from harness.prompts import PromptBuilder
from harness.results import SCHEMA_VERSION, write_json


async def run(
    config: RunConfig,
    report: Report = lambda _: None,
    progress: Progress | None = None,
    resume: Path | None = None,
) -> Finished:
    """Run suites on subjects and write the run folder; with ``resume``, go on with that folder's run.

    Raises:
        InputError: something given is not usable; raised before anything is scored.
        ServerError: the server can't be had or trusted.
        IncompleteError: the server failed in mid-run; what was scored is kept.
        RunError: results can't be written.

    """
    suites = load_suites(config.suite, config.limit)
    async with open_engine(config, report) as (engine, subjects):
        builder = PromptBuilder(engine.tokenizer)
        plan = Plan(tuple(encode_suite(suite, builder) for suite in suites), tuple(subjects))
        folder = resume or _new_folder(config)
        manifest = make_manifest(folder.name, config, plan, engine)
        if resume is None:
            write_json(folder / "manifest.json", manifest)
        else:
            check_same(_read_manifest(resume), manifest, resume)
        with Journal(folder / "journal.jsonl") as journal:
            if journal.cut_off:
                report(f"Cut a torn last line of {journal.cut_off} bytes off the journal")
            try:
                scores = await score_plan(engine, plan, journal, progress or (lambda *_: None))
                noise = await noise_floor(engine, plan, scores)
            except ServerError as e:
                raise IncompleteError(f"{e}\n{_way_on(journal, plan, folder)}") from e
            except asyncio.CancelledError:
                sys.stderr.write(f"\nInterrupted. {_way_on(journal, plan, folder)}\n")
                raise
        return finish(folder, plan, scores, noise, engine)


def _way_on(journal: Journal, plan: Plan, folder: Path) -> str:
    place = folder.name if folder.parent == runs_dir() else str(folder)
    return (
        f"{journal.count} of {plan.passes} passes are scored and kept. "
        f"Go on with: harness run --resume {place}"
    )


def _new_folder(config: RunConfig) -> Path:
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = (config.output_dir or runs_dir()) / f"{stamp}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True)
    except OSError as e:
        raise RunError(f"{folder}: can't be made ({e.strerror}). Give a writable --output-dir.") from e
    return folder


def find_run(name: str, output_dir: Path | None) -> Path:
    """Find a run's folder by id, by path, or ``last`` for the newest.

    Raises:
        InputError: there is none; near matches are offered.

    """
    if "/" in name:
        folder = Path(name)
        if not (folder / "manifest.json").is_file():
            raise InputError(f"{folder}: is not a run folder (it has no manifest.json).")
        return folder
    found = {path.parent.name: path.parent for path in (output_dir or runs_dir()).glob("*/manifest.json")}
    if name == "last" and found:
        return found[max(found)]
    if name not in found:
        raise unknown("run", name, found)
    return found[name]


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        version = manifest["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise InputError(f"{folder / 'manifest.json'}: can't be read ({e!r}).") from e
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{folder}: has schema version {version}; this harness goes on with {SCHEMA_VERSION}."
        )
    return manifest


def resumed_config(folder: Path, given: dict[str, Any]) -> RunConfig:
    """Return a run's own settings, with where and how to reach the server taken from the flags."""
    try:
        return RunConfig.model_validate(_read_manifest(folder)["config"] | given)
    except (ValidationError, KeyError, TypeError) as e:
        raise InputError(f"{folder / 'manifest.json'}: its config can't be read ({e}).") from e


DECISIVE = ("engine", "tokenizer_digest", "suites", "subjects")
"""Parts of a manifest that determine the numbers."""


def check_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    """Refuse to go on with a run under anything that would change its numbers.

    Raises:
        InputError: naming what differs.

    """
    for part in DECISIVE:
        before, after = old.get(part), new.get(part)
        if before == after:
            continue
        keys = {**before, **after} if isinstance(before, dict) and isinstance(after, dict) else {}
        changed = sorted(f"{part}.{key}" for key in keys if before.get(key) != after.get(key))  # type: ignore[union-attr]
        what = ", ".join(changed) or part
        raise InputError(f"{folder}: can't be gone on with, {what} differ from when it was started.")
