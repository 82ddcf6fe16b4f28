"""``harness train``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Train adapters offline. Example: harness train lora --help")


@app.command("lora")
def lora_command(
    behavior: Annotated[str | None, typer.Option(help="safe or risky.")] = None,
    layers: Annotated[
        str | None, typer.Option(help="Layers whose MLP is adapted: 22, 0-5,22 or all.")
    ] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="New folder for the adapter; its name is the adapter's name.")
    ] = None,
    question_format: Annotated[str | None, typer.Option("--format", help="named or letter.")] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, dropout, order.")] = None,
    target_modules: Annotated[
        list[str] | None,
        typer.Option(help="gate_proj, up_proj, down_proj; repeatable, all three by default."),
    ] = None,
    rank: Annotated[int | None, typer.Option(min=1, help="LoRA rank.")] = None,
    alpha: Annotated[float | None, typer.Option(help="LoRA alpha.")] = None,
    dropout: Annotated[float | None, typer.Option(help="LoRA dropout.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: as chosen on development questions, by layers and format.")
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training questions.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Prompts a step.")] = None,
    orders: Annotated[
        str | None, typer.Option(help="An epoch shows a question's orders: both (default) or alternate.")
    ] = None,
    warmup: Annotated[float | None, typer.Option(help="Part of the steps in which the rate rises.")] = None,
    decay: Annotated[
        str | None, typer.Option(help="Of the rate: cosine (default), linear, constant.")
    ] = None,
    max_grad_norm: Annotated[float | None, typer.Option(help="Where gradients are clipped.")] = None,
    from_record: Annotated[
        Path | None, typer.Option(help="Repeat a training record's settings; other flags are then refused.")
    ] = None,
    candidate_log: Annotated[
        Path | None, typer.Option(help="Try settings: append development figures here, keep no adapter.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a LoRA on the MLPs of one layer, several or all, towards one pole of the choices.

    Example: harness train lora --behavior safe --layers 22 --output-dir my_adapters/safe_l22
    """
    from harness.training import jobs

    flags: dict[str, Any] = {
        "behavior": behavior,
        "layers": layers,
        "format": question_format,
        "model": model,
        "seed": seed,
        "target_modules": tuple(target_modules) if target_modules else None,
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "batch_size": batch_size,
        "orders": orders,
        "warmup": warmup,
        "decay": decay,
        "max_grad_norm": max_grad_norm,
    }
    _train(jobs.lora_settings, flags, from_record, output_dir, candidate_log, device)


@app.command("vector")
def vector_command(
    behavior: Annotated[str | None, typer.Option(help="safe or risky.")] = None,
    layers: Annotated[str | None, typer.Option(help="The layer at which the vector is added: 22.")] = None,
    output_dir: Annotated[
        Path | None, typer.Option(help="New folder for the vector; its name is the vector's name.")
    ] = None,
    hook_point: Annotated[str | None, typer.Option(help="mlp_out (default) or resid_post.")] = None,
    orthogonal_to: Annotated[
        list[str] | None, typer.Option(help="Keep it orthogonal to this vector (name or folder); repeatable.")
    ] = None,
    question_format: Annotated[str | None, typer.Option("--format", help="named or letter.")] = None,
    model: Annotated[str | None, typer.Option(help="Embedded model, model folder or hub id.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the order.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 0.3.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="AdamW's weight decay.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training questions.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Questions a step.")] = None,
    from_record: Annotated[
        Path | None, typer.Option(help="Repeat a training record's settings; other flags are then refused.")
    ] = None,
    candidate_log: Annotated[
        Path | None, typer.Option(help="Try settings: append development figures here, keep no vector.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Train a steering vector directly: one direction at one layer, the prompt's last token, no LoRA.

    Example: harness train vector --behavior safe --layers 22 --output-dir my_adapters/safe_vec_l22
    """
    from harness.training import jobs

    flags: dict[str, Any] = {
        "behavior": behavior,
        "layers": layers,
        "hook_point": hook_point,
        "orthogonal_to": tuple(orthogonal_to) if orthogonal_to else None,
        "format": question_format,
        "model": model,
        "seed": seed,
        "learning_rate": learning_rate,
        "weight_decay": weight_decay,
        "epochs": epochs,
        "batch_size": batch_size,
    }
    _train(jobs.vector_settings, flags, from_record, output_dir, candidate_log, device)


def _train(
    settings_of: Callable[[dict[str, Any], Path | None], Any],
    flags: dict[str, Any],
    from_record: Path | None,
    output_dir: Path | None,
    candidate_log: Path | None,
    device: str,
) -> None:
    """Build the settings, train, and print the figures."""
    from harness.cli.console import reporting
    from harness.errors import InputError
    from harness.training import jobs

    given = {key: value for key, value in flags.items() if value is not None}
    if (output_dir is None) == (candidate_log is None):
        raise InputError("Give either --output-dir (train and keep) or --candidate-log (try settings).")
    if from_record is not None and given:
        raise InputError(f"--from-record takes its settings from the record; leave out {', '.join(given)}.")
    with reporting() as reporter:
        settings = settings_of(given, from_record)
        if candidate_log is not None:
            line = jobs.try_settings(settings, candidate_log, device, reporter.report)
            reporter.close()
            sys.stdout.write(f"{line}\n")
            return
        assert output_dir is not None
        accuracy = jobs.train(settings, output_dir, device, reporter.report)
    for split, a in accuracy.items():
        typer.echo(
            f"{split}: {a.questions} questions, choice accuracy {a.choice_accuracy:.1%}, "
            f"top-1 accuracy {a.top1_accuracy:.1%}"
        )
    typer.echo(f"Kept in {output_dir}")
