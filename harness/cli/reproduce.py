"""``harness reproduce``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import options


def reproduce_command(
    model: options.Model = None,
    preset: Annotated[
        str | None, typer.Option(help="paper, embedded (default) or quick (a rehearsal in minutes).")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Train every adapter, also those that are shipped.")
    ] = False,
    layer: Annotated[
        int | None, typer.Option(min=0, help="Layer whose LoRA and vectors are studied (22).")
    ] = None,
    engine: options.EngineKind = None,
    device: options.Device = None,
    base_url: options.BaseUrl = None,
    api_key: options.ApiKey = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="First seed of trainings, of nulls and of resampling.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="The reproduction's folder (reports/reproduce/MODEL-PRESET).")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this step; repeatable, or separated by commas.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Leave this step out; repeatable.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, alone on stdout.")] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Print every step, its size, memory and time, and stop.")
    ] = False,
) -> None:
    """Run experiments 1 to 8 of the study in order, to a report. Stopped at any point, the same command goes on.

    Example: harness reproduce --preset quick

    On a GPU: harness reproduce --model google/gemma-3-12b-it --preset paper --device cuda --dry-run
    """
    from harness.cli.console import reporting
    from harness.cli.options import split
    from harness.experiments.reproduce import run
    from harness.experiments.reproduce.costs import rates
    from harness.experiments.reproduce.presets import ReproduceConfig, output_folder
    from harness.jsonl import validated
    from harness.signals import run_interruptibly

    flags = {
        "model": model, "preset": preset, "retrain": retrain or None, "layer": layer, "engine": engine,
        "device": device, "base_url": base_url, "api_key": api_key, "seed": seed,
    }  # fmt: skip
    config = validated(ReproduceConfig, {k: v for k, v in flags.items() if v is not None})
    folder = output_dir or output_folder(config)
    wanted, unwanted = split(only) or [], split(skip) or []
    if dry_run:
        plan, steps, _ = run.checked(config, folder, wanted, unwanted)
        rate = rates(config.device)
        _print(run.describe(plan, run.planned(plan, steps, rate), rate), as_json)
        return
    with reporting() as reporter:

        def say(text: str) -> None:
            reporter.close()
            sys.stderr.write(f"{text}\n")

        work = run.reproduce(config, folder, wanted, unwanted, reporter.report, reporter.progress, say)
        found = run_interruptibly(work)
    if as_json:
        sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")
        return
    from rich.console import Console

    from harness.report import reproduce_terminal, terminal

    console = Console(width=terminal.WIDTH, highlight=False)
    console.print(reproduce_terminal.outcome_table(folder))
    console.print()
    _print(found, False)
    if (folder / "report.html").is_file():
        sys.stdout.write(f"Report: {folder / 'report.html'}\n")


def _print(plan: dict[str, object], as_json: bool) -> None:
    from rich.console import Console

    from harness.report import reproduce_terminal, terminal

    if as_json:
        sys.stdout.write(json.dumps(plan, allow_nan=False) + "\n")
        return
    console = Console(width=terminal.WIDTH, highlight=False)
    console.print(reproduce_terminal.plan_table(plan))
    console.print()
    for line in reproduce_terminal.plan_legend(plan):
        console.print(line, style="dim", markup=False)
