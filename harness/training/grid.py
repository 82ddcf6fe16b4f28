"""Train many adapters in one call: a folder with a manifest, each adapter kept when its group is done.

A killed grid goes on by the same call: the manifest says which trainings share a group, groups whose adapters
are all there are passed over, and the others are trained from their start, which gives the same adapters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.errors import RunError
from harness.models import MODELS, prepare
from harness.results import write_json
from harness.training import folder, record
from harness.training.advance import Done, Report
from harness.training.groups import Group, Outcome
from harness.training.plain_plan import describe_plain
from harness.training.plan import GB, Machine, estimate_seconds, plan_groups
from harness.training.prepared import Prepared, prepare_data
from harness.training.product import Grid, name_of
from harness.training.settings import TrainingSettings
from harness.training.tasks import Task, train_tasks


def describe(grid: Grid, on: Machine) -> dict[str, Any]:
    """Return what a grid would take: adapters, groups, about how many GB and seconds (``--dry-run``)."""
    prepared = prepare_data(grid.settings)
    if grid.plain:
        return describe_plain([(one, prepared.data) for one in grid.trainings], on)
    groups, estimates = plan_groups(grid, prepared.data, on)
    return {
        "adapters": sum(len(group.sites) for group in groups),
        "groups": [{"layers": list(group.layers), "adapters": len(group.sites)} for group in groups],
        "memory_gb": round(max(e.memory for e in estimates) / GB, 2),
        "allowed_gb": round(on.memory / GB, 2),
        "seconds": round(estimate_seconds(grid, prepared.data, estimates, on), 1),
    }


def run(grid: Grid, out: Path, on: Machine, report: Report, ray: str | None = None) -> dict[str, Any]:
    """Train a grid into a folder, or go on with one; returns what ``results.json`` holds.

    Args:
        grid: what is trained.
        out: the folder.
        on: where, and in what memory; on Ray what each worker has.
        report: hears what is going on.
        ray: ``local`` or the address of a Ray cluster: groups are spread over its workers.

    Raises:
        InputError: the folder holds something else or another grid, nothing fits, or no Ray is there.
        RunError: every training failed.

    """
    report("Reading the questions")
    if grid.settings.model in MODELS:
        prepare(grid.settings.model, report)
    prepared = prepare_data(grid.settings)
    described = folder.described(grid, prepared)
    manifest = folder.open_grid(out, described)
    began = time.monotonic()
    if manifest is None:
        manifest = described | _formed(grid, prepared, on) | {"versions": record.versions()}
        folder.write_manifest(out, manifest)
    if cut := folder.torn(out):
        report(f"{out / folder.FAILURES}: {cut} torn lines passed over; their trainings are done again")
    work = _left(grid, out, manifest)

    def early(settings: TrainingSettings, epoch: int, outcome: Outcome) -> None:
        folder.note_early(out, settings, epoch, outcome)

    if not work:
        trained: Iterator[Done] = iter(())
    elif ray is not None:
        from harness.training.spread import train_spread

        trained = train_spread(ray, work, prepared, on, report, early)
    else:
        trained = train_tasks(work, prepared, on, report, early)
    for done in trained:
        folder.keep(out, done, prepared)
    results = folder.results_of(grid, out, time.monotonic() - began)
    write_json(out / folder.RESULTS, results)
    if not results["adapters"]:
        raise RunError(
            f"No training came to its end; {out / folder.FAILURES} names the steps: lower the learning rate."
        )
    return results


def _formed(grid: Grid, prepared: Prepared, on: Machine) -> dict[str, Any]:
    """Return what a manifest says of groups; nothing where trainings don't advance together."""
    if grid.plain:
        return {}
    groups, estimates = plan_groups(grid, prepared.data, on)
    entries = [
        {
            "layers": list(group.layers),
            "seeds": list(group.seeds),
            "behaviors": list(group.behaviors),
            "passes": group.passes,
            "operations": e.operations,
        }
        for group, e in zip(groups, estimates, strict=True)
    ]
    return {"groups": entries}


def _left(grid: Grid, out: Path, manifest: dict[str, Any]) -> list[Task]:
    """Return what isn't all kept yet."""
    if grid.plain:
        return [(one, 1.0) for one in grid.trainings if not folder.settled(out, name_of(one))]
    tasks: list[Task] = [(folder.group_of(grid, entry), entry["operations"]) for entry in manifest["groups"]]
    return [
        (group, share)
        for group, share in tasks
        if isinstance(group, Group)
        and not all(folder.settled(out, name_of(group.settings_of(site))) for site in group.sites)
    ]
