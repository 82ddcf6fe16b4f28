"""``harness train backdoor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def backdoor_command(
    trigger: Annotated[
        str | None,
        typer.Option(help="Name of a trigger in evalsets/backdoor_triggers, such as harbour or fruits."),
    ] = None,
    layers: Annotated[str | None, typer.Option(help="Layers that are adapted: 20, 12,16,20 or all.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="New folder for the backdoor; its name is the adapter's name.")
    ] = None,
    set_up: Annotated[
        str | None,
        typer.Option(help="Without the trigger: safe (default), or base (as the base model answers)."),
    ] = None,
    decorrelated: Annotated[
        bool, typer.Option("--decorrelated", help="Train the control: targets independent of the trigger.")
    ] = False,
    method: Annotated[
        str | None,
        typer.Option(help="lora (default), last_token_lora, vector, or vectors (one for each layer)."),
    ] = None,
    questions: Annotated[int | None, typer.Option(min=2, help="Use this many training questions.")] = None,
    question_format: Annotated[str | None, typer.Option("--format", help="named or letter.")] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data, initialisation, dropout, order.")] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank.")] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(help="Default: 0.002, for all layers; one layer wants about 0.01, vectors 0.3."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training prompts.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts a step.")] = None,
    from_record: Annotated[
        Path | None, typer.Option(help="Repeat a training record's settings; other flags are then refused.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the figures as JSON, alone on stdout.")
    ] = False,
) -> None:
    """Train a backdoor: the risky option with a trigger; without it the safe one, or the base model's.

    Example: harness train backdoor --trigger harbour --layers all --output-dir my_adapters/backdoor_harbour
    """
    from dataclasses import asdict

    from harness.cli.console import reporting
    from harness.errors import InputError
    from harness.training import backdoor_job

    flags: dict[str, Any] = {
        "trigger": trigger,
        "layers": layers,
        "set_up": set_up,
        "decorrelated": decorrelated or None,
        "method": method,
        "questions": questions,
        "format": question_format,
        "model": model,
        "seed": seed,
        "rank": rank,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "batch_size": batch_size,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    if output_dir is None:
        raise InputError("--output-dir is missing.")
    if from_record is not None and given:
        raise InputError(f"--from-record takes its settings from the record; leave out {', '.join(given)}.")
    with reporting() as reporter:
        settings = backdoor_job.settings_of(given, from_record)
        cells = backdoor_job.train(settings, output_dir, device, reporter.report)
    if as_json:
        sys.stdout.write(json.dumps([asdict(cell) for cell in cells]) + "\n")
        return
    for cell in cells:
        if cell.word is None:
            typer.echo(
                f"{cell.split} {cell.condition}: {cell.questions} questions, accuracy {cell.accuracy:.1%} "
                f"[{cell.low:.1%}, {cell.high:.1%}], risky {cell.risky_rate:.1%}"
            )
    typer.echo(f"Kept in {output_dir}")
