"""``harness run``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import options

DEFAULT = "default"


def run_command(
    suite: options.Suites = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter by name or folder; repeatable, or separated by commas. Base is always scored."
        ),
    ] = None,
    adapters: options.Folders = None,
    model: options.Model = None,
    engine: options.EngineKind = None,
    device: options.Device = None,
    base_url: options.BaseUrl = None,
    api_key: options.ApiKey = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer folder or hub id, if not the model's.")
    ] = None,
    limit: options.Limit = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="For resampling only; scores don't depend on it.")
    ] = None,
    concurrency: options.Concurrency = None,
    batch_size: options.BatchSize = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds a request may take.")] = None,
    cache: options.Cache = None,
    output_dir: options.RunsFolder = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with these flags as keys; flags win.")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="Go on with a run, by id or folder; 'last' is the newest.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, alone on stdout.")
    ] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would be scored, and stop.")] = False,
) -> None:
    """Score suites on the base model and adapters, and print the paired shifts.

    Example: harness run --suite awareness --adapter safe_l22 --adapter risky_l22
    """
    from harness.cli.console import reporting
    from harness.errors import InputError
    from harness.runner import run
    from harness.signals import run_interruptibly

    flags = {
        "suite": options.split(suite),
        "adapter": options.split(adapter),
        "adapters": adapters,
        "model": model,
        "engine": engine,
        "device": device,
        "base_url": base_url,
        "api_key": api_key,
        "tokenizer": tokenizer,
        "limit": limit,
        "seed": seed,
        "concurrency": concurrency,
        "batch_size": batch_size,
        "timeout": timeout,
        "cache": cache,
        "output_dir": output_dir,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    folder: Path | None = None
    if resume is not None:
        from harness.runfolder import find_run, resumed_config

        if config is not None or set(given) - {"base_url", "api_key", "output_dir", "cache"}:
            raise InputError(
                "--resume takes its settings from the run itself; give only --base-url, --api-key or --no-cache."
            )
        folder = find_run(resume, output_dir)
        settings = resumed_config(folder, given)
    else:
        settings = make_config(config, given)
    if dry_run:
        print_plan(settings, as_json)
        return
    with reporting() as reporter:
        finished = run_interruptibly(run(settings, reporter.report, reporter.progress, folder))
    if as_json:
        sys.stdout.write(json.dumps(finished.results, allow_nan=False) + "\n")
        return
    from rich.console import Console

    from harness.owned import own_adapters
    from harness.report import terminal

    console = Console(width=terminal.WIDTH, highlight=False)
    console.print(terminal.cells_table(finished.cells))
    console.print()
    console.print(
        terminal.legend(finished.cells, finished.results["noise_floor"]), style="dim", highlight=False
    )
    if finished.scales:
        console.print()
        console.print(terminal.scales_table(finished.scales))
        console.print()
        console.print(terminal.SCALES_LEGEND, style="dim", highlight=False)
    for name, reasons in finished.results["invalid_items"].items():
        console.print(f"{name}: {len(reasons)} items left out: {reasons[0]}", style="yellow")
    for line in own_adapters(settings):
        typer.echo(line)
    sys.stdout.write(f"Results: {finished.folder}\n")


def make_config(file: Path | None, given: dict[str, Any]) -> Any:
    """Merge a config file and the flags."""
    from harness.config import RunConfig
    from harness.jsonl import read_mapping, validated

    if file is None:
        return validated(RunConfig, given)
    return validated(RunConfig, read_mapping(file) | given, f"{file}: ")


def print_plan(settings: Any, as_json: bool) -> None:
    """Say what would be scored.

    Raises:
        InputError: a suite or a subject that can't be used.

    """
    from harness.cli.console import reporting
    from harness.engines import planned_subjects
    from harness.plan import load_suites

    suites = load_suites(settings.suite, settings.limit)
    with reporting() as reporter:
        subjects = planned_subjects(settings, reporter.report)
    passes = len(subjects) * sum(len(suite.items) for suite in suites)
    if as_json:
        sizes = {suite.name: {"stems": len(suite.stems), "items": len(suite.items)} for suite in suites}
        plan = {"suites": sizes, "subjects": subjects, "passes": passes, "model": settings.model}
        sys.stdout.write(json.dumps(plan, allow_nan=False) + "\n")
        return
    for suite in suites:
        typer.echo(f"{suite.name}: {len(suite.stems)} stems, {len(suite.items)} items")
    typer.echo(f"subjects: {', '.join(subjects)}; {passes} forward passes on {settings.model}")
