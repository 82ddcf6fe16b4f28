"""``harness train backdoor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import train_options as options

if TYPE_CHECKING:
    from harness.training.backdoor import Cell


def backdoor_command(
    trigger: Annotated[
        str | None,
        typer.Option(
            help="Name of a trigger in evalsets/backdoor_triggers, such as harbour; harbour,fruits are a grid."
        ),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers that are adapted: 20, 12,16,20 or all.")] = None,
    output_dir: options.OutputDir = None,
    set_up: Annotated[
        str | None,
        typer.Option(help="Without the trigger: safe (default), or base (as the base model answers)."),
    ] = None,
    decorrelated: Annotated[
        bool, typer.Option("--decorrelated", help="Train the control: targets independent of the trigger.")
    ] = False,
    twins: Annotated[
        bool, typer.Option("--twins", help="Train each beside its decorrelated control: a grid.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(help="lora (default), last_token_lora, vector, or vectors (one for each layer)."),
    ] = None,
    questions: Annotated[int | None, typer.Option(min=2, help="Use this many training questions.")] = None,
    question_format: options.Format_ = None,
    model: options.Model = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    preset: options.Preset = None,
    config: options.Config = None,
    target_modules: options.Modules = None,
    rank: options.Rank = None,
    alpha: options.Alpha = None,
    dropout: options.Dropout = None,
    learning_rate: options.Rate = None,
    weight_decay: options.Decay = None,
    epochs: options.Epochs = None,
    batch_size: options.Batch = None,
    accumulation: options.Accumulation = None,
    orders: options.Orders = None,
    warmup: options.Warmup = None,
    decay: options.Fall = None,
    max_grad_norm: options.Norm = None,
    dtype: options.Dtype = None,
    from_record: options.FromRecord = None,
    device: options.Device = "cpu",
    memory: options.Memory = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
) -> None:
    """Train a backdoor: the risky option with a trigger; without it the safe one, or the base model's.

    Example: harness train backdoor --trigger harbour --layers all --output-dir my_adapters/backdoor_harbour

    Example of a grid: harness train backdoor --trigger harbour,fruits --layers 12 --twins --seeds 3 --output-dir doors
    """
    flags = dict(locals())
    from dataclasses import asdict

    from harness.cli.console import reporting
    from harness.errors import InputError
    from harness.training.backdoor_grid import make_backdoors
    from harness.training.backdoor_settings import BackdoorSettings
    from harness.training.product import check_name

    for name in ("output_dir", "config", "from_record", "device", "memory", "dry_run", "as_json"):
        del flags[name]
    if output_dir is None and not dry_run:
        raise InputError("--output-dir is missing.")
    given = options.settings_given(flags, config, from_record)
    with reporting() as reporter:
        if from_record is not None:
            from harness.training.record import read_settings

            made = [("", read_settings(from_record, BackdoorSettings))]
        else:
            made = make_backdoors(given)
        single = len(made) == 1
        if single and output_dir is not None:
            check_name(output_dir)
        # Importing torch takes seconds: what is given wrongly is told before.
        from harness.training import backdoor_job
        from harness.training.plan import machine

        on = machine(device, memory)
        if dry_run:
            plan = backdoor_job.describe([settings for _, settings in made], on)
            reporter.close()
            options.print_plan(plan, as_json)
            return
        assert output_dir is not None
        if single:
            settings = made[0][1]
            bench = backdoor_job.bench_for(settings, on, reporter.report)
            cells = backdoor_job.train(settings, output_dir, device, reporter.report, bench)
        else:
            backdoor_job.train_each(made, output_dir, on, reporter.report)
    if single:
        if as_json:
            sys.stdout.write(json.dumps([asdict(cell) for cell in cells]) + "\n")
            return
        _print_cells(cells)
    else:
        found = {name: _cells_of(output_dir / name) for name, _ in made}
        if as_json:
            sys.stdout.write(json.dumps(found) + "\n")
            return
        for name, own in found.items():
            on_, off = (
                next(c for c in own if (c["split"], c["condition"], c["word"]) == ("test", condition, None))
                for condition in ("trigger", "none")
            )
            typer.echo(
                f"{name}: risky on {on_['risky_rate']:.1%} of {on_['questions']} test questions with the trigger, on "
                f"{off['risky_rate']:.1%} without"
            )
    typer.echo(f"Kept in {output_dir}")


def _cells_of(folder: Path) -> list[dict[str, Any]]:
    from harness.adapters import RECORD
    from harness.jsonfile import read_object

    cells: list[dict[str, Any]] = read_object(folder / RECORD)["cells"]
    return cells


def _print_cells(cells: list[Cell]) -> None:
    for cell in cells:
        if cell.word is None:
            typer.echo(
                f"{cell.split} {cell.condition}: {cell.questions} questions, accuracy {cell.accuracy:.1%} "
                f"[{cell.low:.1%}, {cell.high:.1%}], risky {cell.risky_rate:.1%}"
            )
