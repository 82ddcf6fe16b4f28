"""The options that ``harness train``'s commands share, what they give, and how a plan is printed."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

OutputDir = Annotated[
    Path | None,
    typer.Option(help="New folder: the adapter's, named as it; of a grid, where its adapters go."),
]
Format_ = Annotated[str | None, typer.Option("--format", help="named or letter.")]
Model = Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the start, dropout and order; a grid's first.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="How many seeds, from --seed (0) on: a grid.")]
Preset = Annotated[
    str | None, typer.Option(help="paper (the original's settings) or embedded (default). Flags win.")
]
Config = Annotated[Path | None, typer.Option(help="YAML file with these flags as keys; flags win.")]
Rate = Annotated[float | None, typer.Option(help="Default: as the preset says.")]
Decay = Annotated[float | None, typer.Option(help="AdamW's weight decay.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the training questions.")]
Batch = Annotated[int | None, typer.Option(min=1, help="Prompts a batch.")]
Accumulation = Annotated[int | None, typer.Option(min=1, help="Batches a step.")]
Orders = Annotated[str | None, typer.Option(help="An epoch shows a question's orders: both or alternate.")]
Warmup = Annotated[float | None, typer.Option(help="Part of the steps in which the rate rises.")]
Fall = Annotated[str | None, typer.Option("--decay", help="Of the rate: cosine, linear, constant.")]
Norm = Annotated[float | None, typer.Option(help="Where gradients are clipped.")]
Questions = Annotated[int | None, typer.Option(min=1, help="Train on so many questions, not on all.")]
Data = Annotated[str | None, typer.Option(help="File of choice questions; default: the shipped ones.")]
ShuffledLabels = Annotated[
    int | None,
    typer.Option(help="A control: exchange half the training questions' answers, drawn by this seed."),
]
Dtype = Annotated[str | None, typer.Option(help="Of the frozen model: float32 (default) or bfloat16.")]
FromRecord = Annotated[
    Path | None, typer.Option(help="Repeat a training record's settings; other flags are then refused.")
]
CandidateLog = Annotated[
    Path | None, typer.Option(help="Try settings: append development figures here, keep nothing.")
]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Memory = Annotated[
    float | None, typer.Option(help="GB that may be used. Default: 80% of what is free, of a GPU 90%.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|HOST:PORT", help="Spread a grid over Ray's workers: here, or a cluster's."
    ),
]
DryRun = Annotated[bool, typer.Option(help="Say what would be trained, about how long and in what memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON, alone on stdout.")]
Modules = Annotated[
    list[str] | None,
    typer.Option(help="gate_proj, up_proj, down_proj; repeatable, all three by default."),
]
Rank = Annotated[int | None, typer.Option(min=1, help="LoRA rank.")]
Alpha = Annotated[float | None, typer.Option(help="LoRA alpha.")]
Dropout = Annotated[float | None, typer.Option(help="LoRA dropout.")]


def settings_given(flags: dict[str, Any], config: Path | None, from_record: Path | None) -> dict[str, Any]:
    """Return the settings that flags and a file give, by the settings' own names; flags win.

    Raises:
        InputError: there are some beside a record.

    """
    from harness.errors import InputError
    from harness.jsonl import read_mapping

    flags["format"] = flags.pop("question_format")
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in flags.items()
        if value is not None and value is not False and value != []
    }
    if from_record is not None and (given or config):
        named = ", ".join([*given, *(["config"] if config else [])])
        raise InputError(f"--from-record takes its settings from the record; leave out {named}.")
    return (read_mapping(config) if config else {}) | given


def print_plan(found: dict[str, Any], as_json: bool) -> None:
    """Print what ``--dry-run`` found."""
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    elif isinstance(found["groups"], str):
        typer.echo(
            f"{found['adapters']} adapters, trained {found['groups']}; about {found['seconds']:.0f} s, "
            f"{found['memory_gb']:.1f} GB at the peak of {found['allowed_gb']:.1f} GB allowed"
        )
    else:
        for size, run in itertools.groupby(found["groups"], key=lambda group: int(group["adapters"])):
            groups = list(run)
            first, last = groups[0]["layers"][0], groups[-1]["layers"][-1]
            typer.echo(f"layers {first} to {last}: {len(groups)} groups of {size} that advance together")
        typer.echo(
            f"{found['adapters']} adapters in {len(found['groups'])} groups; about {found['seconds']:.0f} s, "
            f"{found['memory_gb']:.1f} GB at the peak of {found['allowed_gb']:.1f} GB allowed"
        )
