"""``harness compare``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import options

if TYPE_CHECKING:
    from harness.experiments.against import Against
    from harness.experiments.backdoor_awareness import Found
    from harness.experiments.compare import Comparison
    from harness.results import Run


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
    from harness.results import load_run
    from harness.runfolder import find_run

    flags = {
        "suite": options.split(suite), "model": model, "engine": engine, "base_url": base_url, "api_key": api_key,
        "limit": limit, "concurrency": concurrency, "batch_size": batch_size, "cache": cache,
        "output_dir": output_dir,
    }  # fmt: skip
    given: dict[str, Any] = {key: value for key, value in flags.items() if value is not None}
    if anyway and against is None:
        raise InputError("--anyway goes with --against RUN, the finished run to compare with.")
    # Before anything is scored: the newest run is then another one, and what can't be compared costs no time.
    other = None if against is None else load_run(find_run(against, output_dir))
    if run is not None:
        if subjects or adapters or set(given) - {"output_dir"}:
            raise InputError("--run ranks a finished run as it is; give no subjects or settings with it.")
        if dry_run:
            raise InputError("--run scores nothing, so that --dry-run has nothing to say; leave it out.")
        folder = find_run(run, output_dir)
    else:
        if not subjects:
            raise InputError("Nothing to compare. Example: harness compare 'safe_*' --suite awareness")
        names, places = expand(subjects, adapter_dirs(adapters or []))
        settings = make_config(None, {"suite": ["awareness"], "adapter": names, "adapters": places} | given)
        if dry_run:
            print_plan(settings, as_json)
            return
        folder = _score(settings)
    _show(load_run(folder), other, anyway, as_json, fresh=run is None)


def _score(settings: Any) -> Path:
    from harness.cli.console import reporting
    from harness.experiments.compare import way_on
    from harness.runner import run
    from harness.signals import run_interruptibly

    with reporting() as reporter:
        return run_interruptibly(run(settings, reporter.report, reporter.progress, way=way_on)).folder


def _show(loaded: Run, other: Run | None, anyway: bool, as_json: bool, fresh: bool) -> None:
    """Rank a run and print it; what was scored just now is kept and shown before another run is refused."""
    from dataclasses import asdict

    from harness.errors import InputError
    from harness.experiments.against import against
    from harness.experiments.backdoor_awareness import found_in
    from harness.experiments.compare import plain, rank, write

    found = write(loaded) if fresh else rank(loaded)
    beside, refused = None, None
    try:
        beside = against(loaded, other, anyway) if other else None
    except InputError as e:
        if not fresh:
            raise
        refused = e
    said = found_in(loaded)
    if as_json:
        told = {
            "comparison": plain(found),
            "against": beside and asdict(beside),
            "backdoor_awareness": asdict(said) if said.reports else None,
        }
        sys.stdout.write(json.dumps({**told, "folder": str(loaded.path)}, allow_nan=False) + "\n")
    else:
        _print(loaded, found, beside, said)
    if refused:
        raise refused


def _print(loaded: Run, found: Comparison, beside: Against | None, said: Found) -> None:
    from rich.console import Console

    from harness.report import backdoor_words, ranking, terminal
    from harness.runfolder import shell_word

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
    sys.stdout.write(f"Results: {loaded.path}\nFigures: harness view {shell_word(loaded.path)}\n")
