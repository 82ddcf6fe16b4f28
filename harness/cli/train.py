"""``harness train``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import train_options as options

app = typer.Typer(no_args_is_help=True, help="Train adapters offline. Example: harness train lora --help")

Behavior = Annotated[str | None, typer.Option(help="safe, risky, or safe,risky for a grid of both.")]


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
    output_dir: options.OutputDir = None,
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
    questions: options.Questions = None,
    data: options.Data = None,
    shuffled_labels: options.ShuffledLabels = None,
    dtype: options.Dtype = None,
    from_record: options.FromRecord = None,
    candidate_log: options.CandidateLog = None,
    device: options.Device = "cpu",
    memory: options.Memory = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Fuse small operations: faster on a GPU.")
    ] = False,
    ray: options.Ray = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
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
    output_dir: options.OutputDir = None,
    hook_point: Annotated[str | None, typer.Option(help="mlp_out (default) or resid_post.")] = None,
    orthogonal_to: Annotated[
        list[str] | None, typer.Option(help="Keep it orthogonal to this vector (name or folder); repeatable.")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="Start at zeros (default) or a random unit vector.")
    ] = None,
    question_format: options.Format_ = None,
    model: options.Model = None,
    seed: options.Seed = None,
    seeds: options.Seeds = None,
    preset: options.Preset = None,
    config: options.Config = None,
    learning_rate: options.Rate = None,
    weight_decay: options.Decay = None,
    epochs: options.Epochs = None,
    batch_size: options.Batch = None,
    accumulation: options.Accumulation = None,
    orders: options.Orders = None,
    warmup: options.Warmup = None,
    decay: options.Fall = None,
    max_grad_norm: options.Norm = None,
    questions: options.Questions = None,
    data: options.Data = None,
    shuffled_labels: options.ShuffledLabels = None,
    dtype: options.Dtype = None,
    from_record: options.FromRecord = None,
    candidate_log: options.CandidateLog = None,
    device: options.Device = "cpu",
    memory: options.Memory = None,
    compile_: Annotated[
        bool, typer.Option("--compile", help="Fuse small operations: faster on a GPU.")
    ] = False,
    ray: options.Ray = None,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
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
    from harness.training.product import Grid, check_name, make_grid
    from harness.training.settings import LoraSettings, TrainingSettings, VectorSettings

    config, from_record, output_dir, candidate_log, device, ray, dry_run, as_json = (
        flags.pop(name)
        for name in (
            "config", "from_record", "output_dir", "candidate_log", "device", "ray", "dry_run", "as_json",
        )
    )  # fmt: skip
    memory, compiled = flags.pop("memory"), flags.pop("compile_")
    of: type[TrainingSettings] = LoraSettings if kind == "lora" else VectorSettings
    if not dry_run and (output_dir is None) == (candidate_log is None):
        raise InputError("Give either --output-dir (train and keep) or --candidate-log (try settings).")
    given = options.settings_given(flags, config, from_record)
    with reporting() as reporter:
        if from_record is not None:
            from harness.training.record import read_settings

            settings = read_settings(from_record, of)
            made = Grid(settings, (settings.layers,), (settings.seed,), (settings.behavior,))
        else:
            made = make_grid(of, given)
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
            options.print_plan(found, as_json)
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
