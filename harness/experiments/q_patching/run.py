"""A patching experiment from its settings to its folder; gone on with where it was stopped."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.engines import adapter_dirs, reference
from harness.errors import InputError
from harness.evalset import load_evalset
from harness.experiments.q_patching import KIND, SCHEMA_VERSION
from harness.experiments.q_patching.config import PatchConfig
from harness.experiments.q_patching.measure import acts_on, first_changed, measure, risk_direction
from harness.experiments.q_patching.prompts import prompts
from harness.experiments.q_patching.results import curves, hypothesis, tables
from harness.journal import Journal
from harness.manifest import origin, suite_digest
from harness.prompts import PromptBuilder
from harness.results import write_frame, write_json
from harness.runfolder import JOURNAL, MANIFEST, check_same, make_folder, read_manifest
from harness.vectors import check_base

DECISIVE = ("engine", "tokenizer_digest", "suites", "subjects", "random_phrases", "risk_direction")


def run(
    config: PatchConfig,
    report: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int, str], None] = lambda *_: None,
    resume: Path | None = None,
    folder: Path | None = None,
) -> dict[str, Any]:
    """Run the experiment and write its folder; with ``resume``, go on with that one.

    A new experiment makes ``folder``, or one named by the time in the settings' ``output_dir``.

    Raises:
        InputError: something given is not usable, or differs from when the folder was made.

    """
    started = time.monotonic()
    evalset = load_evalset(config.suite).limited(config.limit)
    folders = adapter_dirs(config.adapters)
    engine, (_, subject) = reference(config.model, [config.adapter], folders, config.device, report)
    risk = risk_direction(subject, config.risk_direction, folders)
    for own in risk:
        check_base(own.vector, engine.info)
    builder = PromptBuilder(engine.tokenizer)
    found = prompts(evalset, builder, config)
    token = acts_on(subject, config.acts_on)
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        **origin(config, engine),
        "suites": {evalset.name: suite_digest(evalset)},
        "subjects": {subject.name: {"content": subject.content, "acts_on": token}},
        "random_phrases": sorted({p.trigger for p in found if p.condition == "random"}),
        "risk_direction": [{"digest": own.vector.digest, "sign": own.sign} for own in risk],
    }
    if resume is not None:
        check_same(read_manifest(resume), manifest, resume, DECISIVE)
    folder = resume or make_folder(config.output_dir or Path("reports") / "patching", folder)
    if resume is None:
        write_json(folder / MANIFEST, manifest)
    from harness.reference.patching import Patcher

    patcher = Patcher(engine, subject, token)
    with Journal(folder / JOURNAL) as journal:
        lines = {(e["item"], e["condition"], e["trigger"]): e for e in journal.entries}
        for prompt in found:
            progress(len(lines), len(found), subject.name)
            if prompt.key not in lines:
                line = measure(patcher, prompt, risk)
                journal.append([line])
                lines[prompt.key] = line
        progress(len(lines), len(found), subject.name)
    rows, heads = tables(found, lines)
    first = first_changed(subject)
    results = {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "folder": str(folder),
        "adapter": subject.name,
        "acts_on": token if subject.adapter else None,
        "first_changed_layer": first,
        "layers": len(patcher.decoder.layers),
        "items": len(evalset.items),
        "stems": len(evalset.stems),
        "curves": curves(rows),
        "risk_direction": [{"name": own.vector.name, "sign": own.sign} for own in risk],
        "hypothesis": hypothesis(heads, first) if risk and first < len(patcher.decoder.layers) else [],
        "seconds": time.monotonic() - started,
    }
    for name, table in (("results", rows), ("attention", heads)):
        write_frame(folder / f"{name}.parquet", table)
    write_json(folder / "results.json", results)
    return results


def resumed_config(folder: Path) -> PatchConfig:
    """Return an experiment's own settings.

    Raises:
        InputError: it isn't such an experiment's folder.

    """
    manifest = read_manifest(folder)
    if manifest.get("kind") != KIND:
        raise InputError(f"{folder}: is not a patching experiment's folder.")
    return PatchConfig.model_validate(manifest["config"])
