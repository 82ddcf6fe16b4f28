"""``harness compare``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options


def compare_command(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(
            help="Subjects by name, glob ('safe_*'), folder, or text file with one a line.",
            show_default=False,
        ),
    ] = None,
    suite: options.Suites = None,
    adapters: options.Folders = None,
    run: Annotated[
        str | None, typer.Option(help="Rank a finished run instead, by id or folder; 'last' is the newest.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="Another finished run: compare item by item with it.")
    ] = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Compare runs that differ, and say what differs.")
    ] = False,
    model: options.Model = None,
    engine: options.EngineKind = None,
    base_url: options.BaseUrl = None,
    api_key: options.ApiKey = None,
    limit: options.Limit = None,
    concurrency: options.Concurrency = None,
    batch_size: options.BatchSize = None,
    cache: options.Cache = None,
    output_dir: options.RunsFolder = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the comparison as JSON, alone on stdout.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be scored, and stop.")] = False,
) -> None:
    """Rank many adapters and vectors on suites, with intervals that account for how many there are.

    Example: harness compare 'safe_*' 'risky_*' --suite awareness,validation

    Example: harness compare --run last --against 20261124-105705-a20f
    """
    from harness.cli.run import make_config, print_plan
    from harness.engines import adapter_dirs
    from harness.errors import InputError
    from harness.experiments.compare import expand
    from harness.runfolder import find_run

    flags = {
        "suite": options.split(suite), "model": model, "engine": engine, "base_url": base_url, "api_key": api_key,
        "limit": limit, "concurrency": concurrency, "batch_size": batch_size, "cache": cache,
        "output_dir": output_dir,
    }  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    if run is not None:
        if subjects or set(given) - {"output_dir"}:
            raise InputError("--run ranks a finished run as it is; give no subjects or settings with it.")
        folder = find_run(run, output_dir)
    else:
        if not subjects:
            raise InputError("Nothing to compare. Example: harness compare 'safe_*' --suite awareness")
        names, places = expand(subjects, adapter_dirs(adapters or []))
        settings = make_config(None, {"suite": ["awareness"], "adapter": names, "adapters": places} | given)
        if dry_run:
            print_plan(settings)
            return
        folder = _score(settings)
    _show(folder, find_run(against, output_dir) if against else None, anyway, as_json, fresh=run is None)


def _score(settings: Any) -> Path:
    from harness.cli.console import reporting
    from harness.runner import run
    from harness.signals import run_interruptibly

    with reporting() as reporter:
        return run_interruptibly(run(settings, reporter.report, reporter.progress, None)).folder


def _show(folder: Path, other: Path | None, anyway: bool, as_json: bool, fresh: bool) -> None:
    from dataclasses import asdict

    from rich.console import Console

    from harness.experiments.against import against
    from harness.experiments.backdoor_awareness import found_in
    from harness.experiments.compare import plain, rank, write
    from harness.report import backdoor_words, ranking, terminal
    from harness.results import load_run

    loaded = load_run(folder)
    beside = against(loaded, load_run(other), anyway) if other else None
    found = write(loaded) if fresh else rank(loaded)
    said = found_in(loaded)
    if as_json:
        told = {
            "comparison": plain(found),
            "against": beside and asdict(beside),
            "backdoor_awareness": asdict(said) if said.reports else None,
        }
        sys.stdout.write(json.dumps({**told, "folder": str(folder)}, allow_nan=False) + "\n")
        return
    console = Console(width=terminal.WIDTH, highlight=False)
    if beside is not None:
        for line in beside.differs:
            console.print(f"Differs: {line}", style="yellow", markup=False)
        console.print(ranking.against_table(beside))
        for name, lacking in ((beside.first, beside.only_first), (beside.other, beside.only_other)):
            if lacking:
                console.print(f"Only in {name}: {', '.join(lacking)}.", style="yellow", markup=False)
        console.print(
            f"In nats, {beside.first} minus {beside.other}; noise floors together {beside.noise:.1e} nats.",
            style="dim",
        )
        sys.stdout.write("\n")
    if found.rankings:
        console.print(ranking.ranking_table(found))
        console.print(ranking.ranking_legend(found), style="dim", markup=False)
    if said.reports:
        console.print()
        console.print(ranking.backdoor_table(said.reports))
        console.print(
            "Order bias taken out; liking for A: half the difference of both orders, in nats.", style="dim"
        )
    for line in backdoor_words.lines(said):
        console.print(line, markup=False)
    for name, reasons in loaded.results["invalid_items"].items():
        console.print(f"{name}: {len(reasons)} items left out: {reasons[0]}", style="yellow", markup=False)
    sys.stdout.write(f"Results: {folder}\nFigures: harness view {folder}\n")
