"""``harness train``."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Train adapters offline. Example: harness train lora --help")

Behavior = Annotated[str | None, typer.Option(help="safe, risky, or safe,risky for a grid of both.")]
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
    float | None, typer.Option(help="GB that may be used. Default: half of what is free, of a GPU 90%.")
]
Ray = Annotated[
    str | None,
    typer.Option(
        metavar="local|auto|HOST:PORT", help="Spread a grid over Ray's workers: here, or a cluster's."
    ),
]
DryRun = Annotated[bool, typer.Option(help="Say what would be trained, about how long and in what memory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the outcome as JSON, alone on stdout.")]


@app.command("lora")
def lora_command(
    behavior: Behavior = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers whose MLP is adapted: 22, 0-5,22 or all.")
    ] = None,
    each_layer: Annotated[
        bool | None,
        typer.Option("--each-layer", help="One LoRA for each of --layers, not one for all: a grid."),
    ] = None,
    output_dir: OutputDir = None,
    question_format: Format_ = None,
    model: Model = None,
    seed: Seed = None,
    seeds: Seeds = None,
    preset: Preset = None,
    config: Config = None,
    target_modules: Annotated[
        list[str] | None,
        typer.Option(help="gate_proj, up_proj, down_proj; repeatable, all three by default."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha.")] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA dropout.")] = None,
    learning_rate: Rate = None,
    weight_decay: Decay = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    accumulation: Accumulation = None,
    orders: Orders = None,
    warmup: Warmup = None,
    decay: Fall = None,
    max_grad_norm: Norm = None,
    questions: Questions = None,
    data: Data = None,
    shuffled_labels: ShuffledLabels = None,
    dtype: Dtype = None,
    from_record: FromRecord = None,
    candidate_log: CandidateLog = None,
    device: Device = "cpu",
    memory: Memory = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Fuse small operations: faster on a GPU.")
    ] = False,
    ray: Ray = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train LoRAs on the MLPs of one layer, several or all, towards one pole of the choices.

    Example: harness train lora --behavior safe --layers 22 --output-dir my_adapters/safe_l22

    Example of a grid: harness train lora --behavior safe,risky --layers all --each-layer --seeds 3 --output-dir loras
    """
    _train("lora", dict(locals()))


@app.command("vector")
def vector_command(
    behavior: Behavior = None,
    layers: Annotated[
        str | None, typer.Option(help="The layer at which the vector is added: 22; several are a grid.")
    ] = None,
    output_dir: OutputDir = None,
    hook_point: Annotated[str | None, typer.Option(help="mlp_out (default) or resid_post.")] = None,
    orthogonal_to: Annotated[
        list[str] | None, typer.Option(help="Keep it orthogonal to this vector (name or folder); repeatable.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start at zeros (default) or a random unit vector.")
    ] = None,
    question_format: Format_ = None,
    model: Model = None,
    seed: Seed = None,
    seeds: Seeds = None,
    preset: Preset = None,
    config: Config = None,
    learning_rate: Rate = None,
    weight_decay: Decay = None,
    epochs: Epochs = None,
    batch_size: Batch = None,
    accumulation: Accumulation = None,
    orders: Orders = None,
    warmup: Warmup = None,
    decay: Fall = None,
    max_grad_norm: Norm = None,
    questions: Questions = None,
    data: Data = None,
    shuffled_labels: ShuffledLabels = None,
    dtype: Dtype = None,
    from_record: FromRecord = None,
    candidate_log: CandidateLog = None,
    device: Device = "cpu",
    memory: Memory = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Fuse small operations: faster on a GPU.")
    ] = False,
    ray: Ray = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train steering vectors directly: one direction at one layer, the prompt's last token, no LoRA.

    Example: harness train vector --behavior safe --layers 22 --output-dir my_adapters/safe_vec_l22

    Example of a grid: harness train vector --behavior safe,risky --layers all --seeds 3 --output-dir vectors
    """
    _train("vector", dict(locals()))


def _train(kind: str, flags: dict[str, Any]) -> None:
    """Build the settings, train, and print the figures; ``flags`` are a command's arguments by name."""
    from harness.cli.console import reporting
    from harness.errors import InputError
    from harness.jsonl import read_mapping
    from harness.training.product import Grid, check_name, make_grid
    from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings

    config, from_record, output_dir, candidate_log, device, ray, dry_run, as_json = (
        flags.pop(name)
        for name in (
            "config", "from_record", "output_dir", "candidate_log", "device", "ray", "dry_run", "as_json",
        )
    )  # fmt: skip
    memory, compiled = flags.pop("memory"), flags.pop("compile_")
    flags["format"] = flags.pop("question_format")
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in flags.items()
        if value is not None and value != []
    }
    of: type[TrainingSettings] = LoraSettings if kind == "lora" else VectorSettings
    if not dry_run and (output_dir is None) == (candidate_log is None):
        raise InputError("Give either --output-dir (train and keep) or --candidate-log (try settings).")
    if from_record is not None and (given or config):
        named = ", ".join([*given, *(["config"] if config else [])])
        raise InputError(f"--from-record takes its settings from the record; leave out {named}.")
    with reporting() as reporter:
        if from_record is not None:
            from harness.training.record import read_settings

            settings = read_settings(from_record, of)
            made = Grid(settings, (settings.layers,), (settings.seed,), (settings.behavior,))
        else:
            made = make_grid(of, (read_mapping(config) if config else {}) | given)
        single = len(made.layers) * len(made.seeds) * len(made.behaviors) == 1
        settings = made.settings_of(made.layers[0], made.seeds[0], made.behaviors[0])
        if not dry_run:
            if candidate_log is not None and not single:
                raise InputError("--candidate-log tries one training's settings, not a grid.")
            if candidate_log is None and ray is not None and single:
                raise InputError("--ray spreads a grid; this is one training: leave it out.")
            if output_dir is not None and single:
                check_name(output_dir)
        # Importing torch takes seconds: what is given wrongly is told before.
        from harness.training import grid, jobs
        from harness.training.plan import machine

        on = machine(device, memory, compiled)
        if dry_run:
            found = grid.describe(made, on)
            reporter.close()
            _print_plan(found, as_json)
            return
        if candidate_log is not None:
            line = jobs.try_settings(settings, candidate_log, device, reporter.report, on)
            reporter.close()
            sys.stdout.write(f"{line}\n")
            return
        assert output_dir is not None
        if single:
            accuracy = jobs.as_json(jobs.train(settings, output_dir, device, reporter.report, on))
        else:
            results = grid.run(made, output_dir, on, reporter.report, ray)
    if as_json:
        sys.stdout.write(json.dumps({"accuracy": accuracy} if single else results) + "\n")
    elif single:
        for split, a in accuracy.items():
            typer.echo(
                f"{split}: {a['questions']} questions, choice accuracy {a['choice_accuracy']:.1%}, "
                f"top-1 accuracy {a['top1_accuracy']:.1%}"
            )
        typer.echo(f"Kept in {output_dir}")
    else:
        _print_results(results, output_dir)


def _print_plan(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    elif isinstance(found["groups"], str):
        typer.echo(f"{found['adapters']} adapters, trained {found['groups']}")
    else:
        for size, run in itertools.groupby(found["groups"], key=lambda group: int(group["adapters"])):
            groups = list(run)
            first, last = groups[0]["layers"][0], groups[-1]["layers"][-1]
            typer.echo(f"layers {first} to {last}: {len(groups)} groups of {size} that advance together")
        typer.echo(
            f"{found['adapters']} adapters in {len(found['groups'])} groups; about {found['seconds']:.0f} s, "
            f"{found['memory_gb']:.1f} GB at the peak of {found['allowed_gb']:.1f} GB allowed"
        )


def _print_results(results: dict[str, Any], output_dir: Path | None) -> None:
    for split in ("development", "test", "heldout"):
        by_behavior: dict[str, list[float]] = {}
        for adapter in results["adapters"]:
            if split not in adapter["accuracy"]:
                continue  # Imported questions hold out no domains.
            found = adapter["accuracy"][split]["choice_accuracy"]
            by_behavior.setdefault(adapter["behavior"], []).append(found)
        for behavior, values in by_behavior.items():
            typer.echo(
                f"{split}, {behavior}: {len(values)} adapters, choice accuracy {min(values):.1%} to "
                f"{max(values):.1%}, mean {sum(values) / len(values):.1%}"
            )
    for failed in results["failed"]:
        typer.echo(
            f"{failed['name']}: stopped, its loss or a parameter is not finite at step {failed['step']}",
            err=True,
        )
    typer.echo(f"Kept in {output_dir}")
